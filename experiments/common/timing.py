"""How long a training step takes, of several runs side by side on one machine."""

import statistics
import time
from collections.abc import Sequence

import jax

from ebm_jax.sharding import shard_batch, shard_state
from ebm_jax.train import Recipe, TrainState, init_state, make_train_step


def timed_steps(
    recipes: Sequence[Recipe],
    states: Sequence[TrainState] | None = None,
    *,
    rounds: int = 7,
    devices: Sequence[jax.Device] | None = None,
) -> list[list[float]]:
    """Seconds of `rounds` training steps of each run: [runs][rounds]. Runs alternate, so that other
    load on the machine slows all of them alike.

    Args:
      recipes: of the runs.
      states: of the runs, default new ones; copied, since a step donates its state.
      rounds: timed steps of each run.
      devices: default all local ones.
    """
    devices = list(devices or jax.local_devices())
    if states is None:
        states = [init_state(jax.random.key(0), recipe) for recipe in recipes]
    current = [shard_state(jax.tree.map(jax.numpy.copy, state), devices) for state in states]
    batches = [shard_batch(recipe.batch_at(0), devices) for recipe in recipes]
    steps = [make_train_step(recipe, devices=devices) for recipe in recipes]
    seconds: list[list[float]] = [[] for _ in recipes]
    for _ in range(rounds + 1):  # the first one compiles
        for i, step in enumerate(steps):
            begin = time.perf_counter()
            current[i], metrics = step(current[i], batches[i])
            jax.block_until_ready(metrics)
            seconds[i].append(time.perf_counter() - begin)
    return [times[1:] for times in seconds]


def seconds_per_step(recipes: Sequence[Recipe]) -> list[float]:
    """The median of each run's steps."""
    return [statistics.median(times) for times in timed_steps(recipes)]
