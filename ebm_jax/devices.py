"""Results that do not depend on the number of devices: sums and random numbers over ALL devices of
the train step.

Inside the train step the axis `AXIS` is bound and these functions work across devices; outside it
there is one device. Inside a `pmap` or `shard_map` without that axis they raise an error, since the
mean of one device's share would be taken for that of all. Where the mapped copies are separate
runs, trace them within `independent()`.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from ebm_jax import versions
from ebm_jax.types import Array, ArrayLike, Key, PyTree

AXIS = 'devices'
_INDEPENDENT = contextvars.ContextVar('independent', default=False)


@contextlib.contextmanager
def independent() -> Iterator[None]:
    """While tracing inside, each mapped copy counts as a separate run with one device."""
    token = _INDEPENDENT.set(True)
    try:
        yield
    finally:
        _INDEPENDENT.reset(token)


def count() -> int:
    """Number of devices that share the batch.

    Raises: RuntimeError inside a pmap or shard_map that does not bind AXIS (see `independent`).
    """
    try:
        return lax.axis_size(AXIS)
    except NameError:  # jax's way to say that no such axis is bound
        mapped = versions.mapped_axes()
        if mapped and not _INDEPENDENT.get():
            raise RuntimeError(
                f'this computation is mapped over the axes {mapped} without the axis {AXIS!r}: '
                f'give axis_name={AXIS!r} to pmap or shard_map, or trace it within '
                '`devices.independent()` if every copy is a separate run'
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
