"""What evaluate additionally reports of an ICD run: the size and the cost of the KL term."""

import math
import pathlib
import statistics
from collections.abc import Sequence

import jax

from ebm_jax.record import read_rows
from ebm_jax.sharding import num_shards
from ebm_jax.train import Recipe, TrainState
from experiments.common.experiment import Experiment
from experiments.common.section import Section
from experiments.common.timing import timed_steps


def gradient_ratio(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float] | None:
    """Medians of |gradient of the KL term| / |gradient of the contrast| and of both norms.

    Args: pairs: the norms (KL term, contrast) of logged steps; the first fifth, start-up, and pairs
      that are not positive and finite are left out.
    Returns: None where nothing is left.
    """
    known = [pair for pair in pairs if all(math.isfinite(n) and n > 0 for n in pair)]
    later = known[len(known) // 5 :]
    if not later:
        return None
    ratios = [kl / contrast for kl, contrast in later]
    return tuple(statistics.median(values) for values in (ratios, *zip(*later)))


def kl_gradient_ratio(workdir: pathlib.Path, experiment: Experiment, state: TrainState) -> Section:
    """Median over the run of |gradient of the KL term| / |gradient of the contrast|, from
    metrics.jsonl."""
    del experiment, state
    rows, _ = read_rows(workdir / 'metrics.jsonl')
    pairs = [(row.get('grad_norm/kl'), row.get('grad_norm/contrast')) for row in rows]
    # a norm that is not finite is a string
    pairs = [pair for pair in pairs if all(isinstance(norm, float) for norm in pair)]
    found = gradient_ratio(pairs)
    if found is None:
        line = (
            'KL gradient over contrast gradient: none was logged (--config.log_every is beyond the '
            'run)'
        )
        return Section({'kl_gradient_ratio': None}, [line])
    ratio, *sizes = found
    lines = [
        f'KL gradient over contrast gradient  {ratio:.3f}   medians {sizes[0]:.2e} and '
        f'{sizes[1]:.2e} of {len(pairs)} logged steps, the first fifth left out'
    ]
    return Section({'kl_gradient_ratio': ratio}, lines)


def kl_cost(
    workdir: pathlib.Path,
    experiment: Experiment,
    state: TrainState,
    *,
    without_kl: Recipe,
    rounds: int = 7,
) -> Section:
    """By how many per cent the KL term lengthens a training step: alternating steps of this run
    with and without it."""
    del workdir
    batch_size = len(experiment.recipe.batch_at(0)['x'])
    local, common = jax.local_devices(), math.gcd(batch_size, num_shards(state))
    devices = local[: max(n for n in range(1, len(local) + 1) if common % n == 0)]
    recipes = [experiment.recipe, without_kl]
    seconds = timed_steps(recipes, [state, state], rounds=rounds, devices=devices)
    ratio = statistics.median(a / b for a, b in zip(*seconds))
    times = [statistics.median(row) for row in seconds]
    lines = [
        f'cost of the KL term  {100 * (ratio - 1):.1f} % of a step   median of {rounds} pairs of '
        f'steps with and without it, {times[0]:.3f} s and {times[1]:.3f} s, {len(devices)} '
        f'{devices[0].device_kind} device(s)'
    ]
    return Section({'kl_cost_percent': 100 * (ratio - 1)}, lines)
