"""What differs between the versions of JAX that the library runs on: 0.7.2 to 0.12.

Up to 0.7 `pmap` is a transformation of its own, since 0.8 it is `jit` of a `shard_map`. The older
one places arrays by `PmapSharding`; given arrays placed over a mesh, it compiles a second time for
what it returns itself. There, too, the gradient of a mapped convolution refuses arrays placed over
a named mesh.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.experimental
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

PMAP_IS_SHARD_MAP: bool = getattr(jax.config, 'jax_pmap_shmap_merge', True)

# the context manager; jax.enable_x64 since 0.8
_OLDER: Any = jax.experimental
enable_x64: Any = jax.enable_x64 if hasattr(jax, 'enable_x64') else _OLDER.enable_x64


def pmap_sharding(
    devices: Sequence[jax.Device], axis: str, shape: Sequence[int], split: bool
) -> Sharding:
    """How `pmap` places an array over the devices of this process.

    Args: shape: of the array. split: along its leading axis, one part a device, or all of it on
      each.
    """
    if PMAP_IS_SHARD_MAP:
        return _over_mesh(devices, axis, split)
    older: Any = jax.sharding
    return older.PmapSharding.default(tuple(shape), 0 if split else None, devices)


def batch_sharding(devices: Sequence[jax.Device], ndim: int, split: bool) -> Sharding:
    """How a compiled function gets an array of `ndim` axes over devices.

    Args: split: along its leading axis, or all of it on each.
    """
    named = _over_mesh(devices, 'batch', split)
    if tuple(map(int, jax.__version__.split('.')[:2])) >= (0, 8):
        return named
    from jax._src.sharding_impls import GSPMDSharding  # the one that names no mesh

    return GSPMDSharding(tuple(devices), named._to_xla_hlo_sharding(ndim))


def _over_mesh(devices: Sequence[jax.Device], axis: str, split: bool) -> NamedSharding:
    mesh = Mesh(devices, (axis,), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec(axis) if split else PartitionSpec())


def mapped_axes() -> tuple[str, ...]:
    """Names of the axes that a pmap or shard_map around this computation binds. Up to 0.7 those of
    a pmap are left out: nothing tells them from the axes of a vmap."""
    return tuple(map(str, jax.sharding.get_abstract_mesh().manual_axes))
