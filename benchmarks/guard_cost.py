"""What the guard costs: training steps as shipped beside the same steps without quarantine and chain health.

    python -m benchmarks.guard_cost [--experiments=digits_st_jem,digits_icd,digits_dual_mcmc] [--rounds=40]

Both programs of an experiment are compiled once and run in turn (A B A B ...); printed are the median milliseconds of a step and the median
of the paired ratios. The second program sees every chain as sound and moved, so the compiler removes what depends on it.
"""
import argparse
import contextlib
import importlib
import statistics
import time
from unittest import mock

import jax
import jax.numpy as jnp

from ebm_jax import replay
from ebm_jax.methods import dual_mcmc, icd, jem
from ebm_jax.train import init_state, make_train_step, shard_batch, shard_state
from experiments import launch


@contextlib.contextmanager
def without_guard():
    """Functions that say that all is well, while a step is traced."""
    all_sound = lambda x: jnp.ones(len(jax.tree.leaves(x)[0]), bool)
    with contextlib.ExitStack() as stack:
        for module in (replay, dual_mcmc):
            stack.enter_context(mock.patch.object(module, 'sound', all_sound))
        for module in (jem, icd, dual_mcmc):
            stack.enter_context(mock.patch.object(module, 'unmoved', lambda start, x: jnp.zeros(())))
        yield


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--experiments', default='digits_st_jem,digits_icd,digits_dual_mcmc')
    parser.add_argument('--rounds', type=int, default=40)
    options = parser.parse_args()
    for name in options.experiments.split(','):
        module = importlib.import_module(f'experiments.{name}')
        parts, devices, steps, states = launch.build(module, module.get_config()), jax.local_devices(), [], []
        pieces, batch = [parts.fit[part] for part in ('method', 'optimizer', 'prepare')], parts.fit['batch_at'](0)
        for context in (contextlib.nullcontext(), without_guard()):
            with context:
                step = make_train_step(*pieces, ema=parts.fit['ema'], limits=parts.fit.get('limits', {}))
                state = shard_state(init_state(jax.random.key(0), *pieces, batch, ema=parts.fit['ema']), devices)
                states.append(step(state, shard_batch(batch, devices))[0])   # compiles
                steps.append(step)
        seconds = [[], []]
        for _ in range(options.rounds):
            for i, step in enumerate(steps):
                begin = time.perf_counter()
                states[i], metrics = step(states[i], shard_batch(batch, devices))
                jax.block_until_ready(metrics)
                seconds[i].append(time.perf_counter() - begin)
        ratio = statistics.median(a / b for a, b in zip(*seconds))
        print(f'{name}: {1e3 * statistics.median(seconds[0]):.1f} ms with the guard, {1e3 * statistics.median(seconds[1]):.1f} ms without, '
              f'ratio {ratio:.3f} ({options.rounds} pairs, {len(devices)} {devices[0].device_kind})', flush=True)


if __name__ == '__main__':
    main()
