"""Draw samples from a trained energy."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ebm_jax.mcmc import run_chains


def sample(key, energy_fn, params, kernel, start, labels, num_steps, *, batch_size=256, description='sampling'):
    """Run fresh chains, one per label, from their starts.

    Args:
      energy_fn: (params, x, label) -> scalar. kernel: Kernel. start: (key, label) -> x. num_steps: int >= 0.
      labels: int [N]; UNLABELLED for p(x). batch_size: chains at once.
    Returns: numpy [N, ...], in the network's units.
    """
    compiled = partial(_sample, energy_fn, kernel, start, num_steps)
    run = jax.jit(compiled)
    labels = np.asarray(labels, np.int32)
    batch_size = min(batch_size, len(labels))
    parts = []
    for begin in tqdm(range(0, len(labels), batch_size), desc=description, unit='batch', delay=2, leave=False):
        some = labels[begin:begin + batch_size]
        padded = np.concatenate([some, np.repeat(some[-1:], batch_size - len(some))])
        parts.append(np.asarray(run(params, jax.random.fold_in(key, begin), padded))[:len(some)])
    return np.concatenate(parts)


def _sample(energy_fn, kernel, start, num_steps, params, key, labels):
    start_key, chain_key = jax.random.split(key)
    x = jax.vmap(start)(jax.random.split(start_key, len(labels)), labels)
    x, _ = run_chains(jax.random.split(chain_key, len(labels)), kernel, partial(energy_fn, params), x, num_steps,
                      jnp.asarray(labels))
    return x
