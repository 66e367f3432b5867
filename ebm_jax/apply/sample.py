"""Draw samples from a trained energy."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import devices
from ebm_jax.mcmc import advance, run_chain


def sample(key, energy_fn, params, kernel, start, labels, num_steps, *, transition=None, every=20, plain=0, trajectory=0, batch_size=256,
           description='sampling'):
    """Run fresh chains, one per label, from their starts.

    Args:
      energy_fn: (params, x, label) -> scalar. kernel: Kernel. start: (params, key, label) -> x. num_steps: int >= 0.
      labels: int [N], UNLABELLED for p(x); or [N, ...], whatever energy_fn takes. batch_size: chains at once.
      transition: None, or (key, x) -> x before each block of `every` steps, except in the last `plain` steps or more, which have none
        (Du et al. 2021 [code]: augmentation every 20 steps, none in the last rounds).
      trajectory: 0, or into how many parts to cut the steps without transition; then the start and the end of each block and part are kept.
    Returns: numpy [N, ...], in the network's units; with a trajectory (that, [N, frames, ...]).
    Raises: ValueError for every < 1, plain < 0 or trajectory < 0.
    """
    if every < 1 or plain < 0 or trajectory < 0:
        raise ValueError(f'every must be at least 1, plain and trajectory at least 0, got {every}, {plain} and {trajectory}')
    blocks = max(num_steps - plain, 0) // every if transition else 0
    schedule = blocks, every, max(trajectory, 1), num_steps - blocks * every
    one = partial(_chain, energy_fn, kernel, start, transition, schedule, bool(trajectory))
    return devices.for_each(one, params, key, [np.asarray(labels, np.int32)], batch_size=batch_size, description=description)


def _chain(energy_fn, kernel, start, transition, schedule, keep, params, key, label):
    blocks, every, parts, last = schedule
    each = last // parts   # steps of a part; the last one has the rest, too
    start_key, chain_key = jax.random.split(key)
    energy = lambda x: energy_fn(params, x, label)

    def block(x, i):
        move_key, key = jax.random.split(jax.random.fold_in(chain_key, i))
        x, _ = run_chain(key, kernel, energy, transition(move_key, x), every)
        return x, x if keep else None

    x = start(params, start_key, label)
    frames = [x[None]]
    if blocks:
        x, after = jax.lax.scan(block, x, jnp.arange(blocks))
        frames.append(after)
        chain_key = jax.random.fold_in(chain_key, blocks)   # beyond those of the blocks

    def part(state, i):
        state, _ = advance(chain_key, kernel, energy, state, each, first=i * each)
        return state, state.position if keep else None

    state = kernel.init(x, energy)
    if parts > 1:
        state, after = jax.lax.scan(part, state, jnp.arange(parts - 1))
        frames.append(after)
    state, _ = advance(chain_key, kernel, energy, state, last - (parts - 1) * each, first=(parts - 1) * each)
    return (state.position, jnp.concatenate([*frames, state.position[None]])) if keep else state.position
