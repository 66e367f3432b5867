"""How long a training step takes, of several runs side by side on one machine."""
import statistics
import time

import jax

from ebm_jax.train import init_state, make_train_step, shard_batch, shard_state


def timed_steps(runs, states=None, *, rounds=7, devices=None):
    """Seconds of `rounds` training steps of each run, taken in turns so that a busy machine slows all alike: [runs][rounds].

    Args: runs: Parts. states: of each, default fresh ones; copied, since a step gives its state away. devices: default all local ones.
    """
    devices = devices or jax.local_devices()
    pieces = [[run.fit[part] for part in ('method', 'optimizer', 'prepare')] for run in runs]
    batches = [run.fit['batch_at'](0) for run in runs]
    if states is None:
        states = [init_state(jax.random.key(0), *piece, batch, ema=run.fit['ema']) for run, piece, batch in zip(runs, pieces, batches)]
    states = [shard_state(jax.tree.map(jax.numpy.copy, state), devices) for state in states]
    batches = [shard_batch(batch, devices) for batch in batches]
    steps = [make_train_step(*piece, ema=run.fit['ema'], devices=devices, limits=run.fit.get('limits', {}))
             for run, piece in zip(runs, pieces)]
    seconds = [[] for _ in runs]
    for _ in range(rounds + 1):   # the first one compiles
        for i, step in enumerate(steps):
            start = time.perf_counter()
            states[i], metrics = step(states[i], batches[i])
            jax.block_until_ready(metrics)
            seconds[i].append(time.perf_counter() - start)
    return [times[1:] for times in seconds]


def seconds_per_step(runs):
    """The median of each run's steps."""
    return [statistics.median(times) for times in timed_steps(runs)]
