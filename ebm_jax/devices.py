"""What makes one device equal N: sums over, and random numbers by, ALL devices of the train step.

Inside the train step the axis `AXIS` is bound and these functions work across devices; outside of it there is one device.
"""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

AXIS = 'devices'


def count():
    """Number of devices that share the batch; a Python int."""
    try:
        return lax.axis_size(AXIS)
    except NameError:   # jax's way to say that no such axis is bound
        return 1


def index():
    """Which of the devices this is, in [0, count())."""
    return lax.axis_index(AXIS) if count() > 1 else 0


def gather(x):
    """[n, ...] on each device -> [n count(), ...], the same on all. Without gradient."""
    x = lax.stop_gradient(x)
    return jax.tree.map(lambda leaf: lax.all_gather(leaf, AXIS, tiled=True), x) if count() > 1 else x


def mean(x):
    """Mean over devices."""
    return lax.pmean(x, AXIS) if count() > 1 else x


def total(x):
    """Sum over devices."""
    return lax.psum(x, AXIS) if count() > 1 else x


def maximum(x):
    """Largest over devices."""
    return lax.pmax(x, AXIS) if count() > 1 else x


def positions(n):
    """Where this device's n examples stand among all of them: int32 [n]."""
    return index() * n + jnp.arange(n, dtype=jnp.int32)


def keys(key, n):
    """One key for each of this device's n examples, the same whatever the number of devices: [n]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, positions(n))


def for_each(one, params, key, inputs, *, batch_size=256, description):
    """A function of one example, (params, key, *inputs of it) -> anything, compiled and mapped over data by `in_batches`.

    Returns: as numpy arrays [N, ...]. The keys depend on `batch_size`, not on the number of devices that divide it.
    """
    @jax.jit
    def run(params, begin, *inputs):
        keys = jax.random.split(jax.random.fold_in(key, begin), len(inputs[0]))
        return jax.vmap(partial(one, params))(keys, *inputs)

    return in_batches(run, params, inputs, batch_size=batch_size, description=description)


def in_batches(fn, params, inputs, *, batch_size=256, description):
    """A compiled fn(params, begin, *inputs) over the leading axis of `inputs`, split over the local devices: work outside the train step.

    Args: inputs: arrays [N, ...]; fn gets `batch_size` rows of each (the last ones filled up by repeating) and `begin`, where they stand.
      batch_size: rounded up to a multiple of the number of devices, and no larger than needed.
    Returns: what fn returns, a pytree of arrays [batch_size, ...], as numpy arrays [N, ...].
    """
    local = jax.local_devices()
    mesh = Mesh(local, ('batch',), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, PartitionSpec('batch')), NamedSharding(mesh, PartitionSpec())
    params, total, parts = jax.device_put(params, whole), len(inputs[0]), []
    batch_size = min(batch_size, total)
    batch_size += -batch_size % len(local)
    for begin in tqdm(range(0, total, batch_size), desc=description, unit='batch', delay=2, leave=False):
        rows = np.minimum(np.arange(begin, begin + batch_size), total - 1)
        found = jax.device_get(fn(params, begin, *(jax.device_put(x[rows], split) for x in inputs)))
        parts.append(jax.tree.map(lambda leaf, n=min(batch_size, total - begin): leaf[:n], found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
