"""Draw samples from a trained energy."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ebm_jax import devices
from ebm_jax.mcmc import run_chains


def sample(key, energy_fn, params, kernel, start, labels, num_steps, *, batch_size=256, description='sampling'):
    """Run fresh chains, one per label, from their starts.

    Args:
      energy_fn: (params, x, label) -> scalar. kernel: Kernel. start: (key, label) -> x. num_steps: int >= 0.
      labels: int [N]; UNLABELLED for p(x). batch_size: chains at once.
    Returns: numpy [N, ...], in the network's units.
    """
    split, whole, n = devices.batch_placement()
    run = jax.jit(partial(_chains, energy_fn, kernel, start, num_steps))
    params, labels = jax.device_put(params, whole), np.asarray(labels, np.int32)
    batch_size = min(batch_size, len(labels))
    batch_size += -batch_size % n
    parts = []
    for begin in tqdm(range(0, len(labels), batch_size), desc=description, unit='batch', delay=2, leave=False):
        some = labels[begin:begin + batch_size]
        padded = np.concatenate([some, np.repeat(some[-1:], batch_size - len(some))])
        keys = jax.random.split(jax.random.fold_in(key, begin), batch_size)
        parts.append(np.asarray(run(params, jax.device_put(keys, split), jax.device_put(padded, split)))[:len(some)])
    return np.concatenate(parts)


def _chains(energy_fn, kernel, start, num_steps, params, keys, labels):
    start_keys, chain_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    x = jax.vmap(start)(start_keys, labels)
    return run_chains(chain_keys, kernel, partial(energy_fn, params), x, num_steps, labels)[0]
