"""What makes one device equal N: sums over, and random numbers by, ALL devices of the train step.

Inside the train step the axis `AXIS` is bound and these functions work across devices; outside of it there is one device.
"""
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

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


def maximum(x):
    """Largest over devices."""
    return lax.pmax(x, AXIS) if count() > 1 else x


def positions(n):
    """Where this device's n examples stand among all of them: int32 [n]."""
    return index() * n + jnp.arange(n, dtype=jnp.int32)


def keys(key, n):
    """One key for each of this device's n examples, the same whatever the number of devices: [n]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, positions(n))


def batch_placement():
    """For work outside the train step: (sharding that splits a batch over the local devices, sharding that repeats, their number)."""
    local = jax.local_devices()
    mesh = Mesh(local, ('batch',), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec('batch')), NamedSharding(mesh, PartitionSpec()), len(local)
