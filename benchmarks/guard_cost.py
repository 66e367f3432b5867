"""What the guard costs: training steps as shipped against the same steps without quarantine and
chain health.

    python -m benchmarks.guard_cost [--experiments=digits_st_jem,digits_icd] [--rounds=40]

Both programs of an experiment are compiled once and alternate (A B A B ...). It prints the median
milliseconds of a step and the median of the paired ratios. To the second program every chain is
valid and moves, so the compiler removes what depends on it.
"""

import argparse
import contextlib
import importlib
import statistics
import time
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp

from ebm_jax import validity
from ebm_jax.sharding import shard_batch, shard_state
from ebm_jax.train import init_state, make_train_step
from experiments.common import runs


@contextlib.contextmanager
def without_guard() -> Iterator[None]:
    """While a step is traced, replace the checks by functions that find every chain healthy."""

    def all_valid(x):
        return jnp.ones(len(jax.tree.leaves(x)[0]), bool)

    def none_stuck(initial, x):
        return jnp.zeros(())

    with (
        mock.patch.object(validity, 'is_valid', all_valid),
        mock.patch.object(validity, 'stuck_fraction', none_stuck),
    ):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--experiments', default='digits_st_jem,digits_icd,digits_dual_mcmc')
    parser.add_argument('--rounds', type=int, default=40)
    options = parser.parse_args()
    for name in options.experiments.split(','):
        module = importlib.import_module(f'experiments.{name}')
        recipe, devices = runs.build(module, module.get_config()).recipe, jax.local_devices()
        batch, steps, states = shard_batch(recipe.batch_at(0), devices), [], []
        for context in (contextlib.nullcontext(), without_guard()):
            with context:
                step = make_train_step(recipe)
                state = shard_state(init_state(jax.random.key(0), recipe), devices)
                states.append(step(state, batch)[0])  # compiles
                steps.append(step)
        seconds: list[list[float]] = [[], []]
        for _ in range(options.rounds):
            for i, step in enumerate(steps):
                begin = time.perf_counter()
                states[i], metrics = step(states[i], batch)
                jax.block_until_ready(metrics)
                seconds[i].append(time.perf_counter() - begin)
        ratio = statistics.median(a / b for a, b in zip(*seconds))
        times = [1e3 * statistics.median(row) for row in seconds]
        print(
            f'{name}: {times[0]:.1f} ms with the guard, {times[1]:.1f} ms without, ratio '
            f'{ratio:.3f} ({options.rounds} pairs, {len(devices)} {devices[0].device_kind})',
            flush=True,
        )


if __name__ == '__main__':
    main()
