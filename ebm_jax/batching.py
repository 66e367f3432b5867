"""Functions of one example over whole data sets, in batches over the local devices.

For work outside the train step: evaluation, sampling, applications.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from ebm_jax.shapes import check_leading
from ebm_jax.types import Key, Params, PyTree
from ebm_jax.versions import batch_sharding


def for_each(
    one: Callable[..., PyTree],
    params: Params,
    key: Key,
    inputs: Sequence[np.ndarray],
    *,
    batch_size: int = 256,
    description: str,
) -> Any:
    """Compile one(params, key, *inputs of one example) -> anything, and map it over a data set.

    Args:
      inputs: arrays [N, ...]. batch_size: as in `in_batches`. description: on the progress bar.
    Returns: numpy arrays [N, ...]. The keys depend on `batch_size`, not on the number of devices
      where that divides it.
    """
    run = partial(mapped(one), key=key)
    return in_batches(run, params, inputs, batch_size=batch_size, description=description)


def mapped(one: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """one(params, key, *inputs of one example) -> a compiled function that `in_batches` takes, once
    its `key` is given. It compiles once for all its calls with the same shapes."""

    @jax.jit
    def run(params, begin, *inputs, key):
        keys = jax.random.split(jax.random.fold_in(key, begin), len(inputs[0]))
        return jax.vmap(partial(one, params))(keys, *inputs)

    return run


def in_batches(
    fn: Callable[..., PyTree],
    params: Params,
    inputs: Sequence[np.ndarray],
    *,
    batch_size: int = 256,
    description: str,
) -> Any:
    """A compiled fn(params, begin, *inputs) over the leading axis of `inputs`.

    Args:
      fn: gets `batch_size` rows of each input (the last ones filled up by repeating) and `begin`,
        the index of the first of them.
      inputs: arrays [N, ...].
      batch_size: rounded up to a multiple of the number of devices, and no larger than needed.
    Returns: what fn returns, a pytree of arrays [batch_size, ...], as numpy arrays [N, ...].
    Raises: ValueError for no examples, or inputs of different lengths.
    """
    local = jax.local_devices()

    def place(tree, split):
        def sharding(leaf):
            return batch_sharding(local, np.ndim(leaf), split)

        return jax.device_put(tree, jax.tree.map(sharding, tree))

    params = place(params, split=False)
    total, parts = len(inputs[0]), []
    if total < 1:
        raise ValueError(f'{description}: there must be at least 1 example')
    check_leading('inputs', list(inputs), total, '[N, ...], with the same N')
    batch_size = min(batch_size, total)
    batch_size += -batch_size % len(local)
    begins = range(0, total, batch_size)
    # in the place of a bar of training, which stands still meanwhile
    for begin in tqdm(begins, desc=description, unit='batch', delay=2, leave=False, position=0):
        rows = np.minimum(np.arange(begin, begin + batch_size), total - 1)
        found = jax.device_get(fn(params, begin, *place([x[rows] for x in inputs], split=True)))
        parts.append(jax.tree.map(lambda leaf, n=min(batch_size, total - begin): leaf[:n], found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
