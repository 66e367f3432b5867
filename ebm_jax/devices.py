"""Results that do not depend on the number of devices: sums and random numbers over ALL devices of
the train step.

Inside the train step the axis `AXIS` is bound and these functions work across devices; outside it
there is one device. Inside a `pmap` or `shard_map` without that axis they raise an error, since the
mean of one device's share would be taken for that of all.
"""

import jax
import jax.numpy as jnp
from jax import lax

from ebm_jax.types import Array, ArrayLike, Key, PyTree

AXIS = 'devices'


def count() -> int:
    """Number of devices that share the batch.

    Raises: RuntimeError inside a pmap or shard_map that does not bind AXIS.
    """
    try:
        return lax.axis_size(AXIS)
    except NameError:  # jax's way to say that no such axis is bound
        mapped = jax.sharding.get_abstract_mesh().manual_axes
        if mapped:
            raise RuntimeError(
                f'this computation is mapped over the axes {mapped} without the axis {AXIS!r}: '
                f'name the axis so in pmap or shard_map, or the copies would not see each other'
            ) from None
        return 1


def index() -> ArrayLike:
    """Index of this device, in [0, count())."""
    return lax.axis_index(AXIS) if count() > 1 else 0


def gather(x: PyTree) -> PyTree:
    """[n, ...] on each device -> [n count(), ...], the same on all. Without gradient."""
    x = lax.stop_gradient(x)
    if count() == 1:
        return x
    return jax.tree.map(lambda leaf: lax.all_gather(leaf, AXIS, tiled=True), x)


def mean(x: PyTree) -> PyTree:
    """Mean over devices."""
    return lax.pmean(x, AXIS) if count() > 1 else x


def total(x: PyTree) -> PyTree:
    """Sum over devices."""
    return lax.psum(x, AXIS) if count() > 1 else x


def maximum(x: PyTree) -> PyTree:
    """Maximum over devices."""
    return lax.pmax(x, AXIS) if count() > 1 else x


def positions(n: int) -> Array:
    """Indices of this device's n examples among those of all devices: int32 [n]."""
    return jnp.asarray(index()) * n + jnp.arange(n, dtype=jnp.int32)


def keys(key: Key, n: int) -> Key:
    """One key for each of this device's n examples, the same for any number of devices: [n]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, positions(n))
