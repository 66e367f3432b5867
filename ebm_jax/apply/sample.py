"""Draw samples from a trained energy."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import devices
from ebm_jax.mcmc import run_chains


def sample(key, energy_fn, params, kernel, start, labels, num_steps, *, transition=None, every=20, plain=0, batch_size=256,
           description='sampling'):
    """Run fresh chains, one per label, from their starts.

    Args:
      energy_fn: (params, x, label) -> scalar. kernel: Kernel. start: (key, label) -> x. num_steps: int >= 0.
      labels: int [N], UNLABELLED for p(x); or [N, ...], whatever energy_fn takes. batch_size: chains at once.
      transition: None, or (key, x) -> x before each block of `every` steps, except in the last `plain` steps or more, which have none
        (Du et al. 2021 [code]: augmentation every 20 steps, none in the last rounds).
    Returns: numpy [N, ...], in the network's units.
    Raises: ValueError for every < 1 or plain < 0.
    """
    if every < 1 or plain < 0:
        raise ValueError(f'every must be at least 1 and plain at least 0, got {every} and {plain}')
    blocks = max(num_steps - plain, 0) // every if transition else 0
    schedule = blocks, every, num_steps - blocks * every
    run = jax.jit(partial(_chains, energy_fn, kernel, start, transition, schedule, key))
    return devices.in_batches(run, params, [np.asarray(labels, np.int32)], batch_size=batch_size, description=description)


def _chains(energy_fn, kernel, start, transition, schedule, key, params, begin, labels):
    blocks, every, last = schedule
    keys = jax.random.split(jax.random.fold_in(key, begin), len(labels))
    start_keys, chain_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    run = lambda keys, x, steps: run_chains(keys, kernel, partial(energy_fn, params), x, steps, labels)[0]

    def block(x, i):
        move_keys, keys = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, i)))(chain_keys), 1, 0)
        return run(keys, jax.vmap(transition)(move_keys, x), every), None

    x = jax.vmap(start)(start_keys, labels)
    if blocks:
        x, _ = jax.lax.scan(block, x, jnp.arange(blocks))
        chain_keys = jax.vmap(lambda key: jax.random.fold_in(key, blocks))(chain_keys)   # beyond those of the blocks
    return run(chain_keys, x, last)
