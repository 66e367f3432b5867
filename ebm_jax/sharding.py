"""Placing a training state and its batches on devices, of one process or several.

Parameters, optimiser and key are the same on every device; the chains and the batch carry a leading
device axis.
"""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ebm_jax.devices import AXIS
from ebm_jax.train import TrainState
from ebm_jax.types import Batch
from ebm_jax.versions import pmap_sharding


def shard_state(state: TrainState, devices: Sequence[jax.Device]) -> TrainState:
    """Place a whole state for the train step: chains split over devices, the rest on each.

    Args:
      devices: of all processes; each process places what its own devices hold, from the same whole
        state.
    Raises: ValueError when the shards cannot be split evenly.
    """
    n, shards = len(devices), num_shards(state)
    if shards is not None and shards % n:
        raise ValueError(
            f'{shards} shards of chains cannot be split over {n} devices: choose '
            f'{multiples_near(shards, n)}'
        )

    def everywhere(leaf):
        return pmap_sharding(_here(devices), AXIS, leaf.shape, split=False)

    rest = state.replace(chains=())
    rest = jax.device_put(rest, jax.tree.map(everywhere, rest))
    chains = jax.tree.map(lambda leaf: _split(leaf, devices), state.chains)
    return rest.replace(chains=chains)


def num_shards(state: TrainState) -> int | None:
    """The number of shards of a state's chains, None where it has no chains."""
    leaves = jax.tree.leaves(state.chains)
    return leaves[0].shape[0] if leaves else None


def unshard_state(state: TrainState, devices: Sequence[jax.Device]) -> TrainState:
    """The inverse of `shard_state`: chains with one leading axis of shards again, as arrays over
    the devices of all processes."""
    mesh = Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))

    def joined(leaf):
        parts = [
            part.data[0]
            for part in sorted(leaf.addressable_shards, key=lambda part: part.index[0].start)
        ]
        shape = (len(devices) * len(parts[0]), *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(
            shape, NamedSharding(mesh, PartitionSpec(AXIS)), parts
        )

    def same(leaf):
        parts = [part.data for part in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(
            leaf.shape, NamedSharding(mesh, PartitionSpec()), parts
        )

    return jax.tree.map(same, state.replace(chains=())).replace(
        chains=jax.tree.map(joined, state.chains)
    )


def shard_batch(batch: Batch, devices: Sequence[jax.Device]) -> Batch:
    """[N, ...] of all processes -> [devices of this process, N / devices, ...], on the devices.

    Raises: ValueError when N is not divisible by the number of devices.
    """
    n = len(devices)

    def place(leaf):
        if len(leaf) % n:
            raise ValueError(
                f'a batch of {len(leaf)} cannot be split over {n} devices: choose '
                f'{multiples_near(len(leaf), n)}'
            )
        return _split(leaf, devices)

    return jax.tree.map(place, batch)


def multiples_near(number: int, n: int) -> str:
    """'96 or 104': the multiples of n next to a number that is none."""
    below = number - number % n
    return f'{below} or {below + n}' if below else f'{n}'


def _split(leaf, devices):
    """[N, ...] -> [devices of this process, N / devices, ...], on the devices."""
    n = len(devices)
    rows = _of_here(leaf.reshape(n, len(leaf) // n, *leaf.shape[1:]), devices)
    return jax.device_put(rows, pmap_sharding(_here(devices), AXIS, rows.shape, split=True))


def _here(devices):
    """The devices of this process."""
    return [device for device in devices if device.process_index == jax.process_index()]


def _of_here(leaf, devices):
    """The rows [devices, ...] of this process's devices, which are next to each other."""
    first = devices.index(_here(devices)[0])
    return leaf[first : first + len(_here(devices))]
