"""The negative phase of a training step, shared by all methods with persistent chains.

    draw chains from the replay buffer -> run them -> set invalid ones aside -> write them back

The result is `Negatives`: samples with label, age and validity. Each method supplies the function
that runs the chains. All random numbers are drawn per shard, so that they do not depend on the
number of devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from ebm_jax import devices, validity
from ebm_jax.replay import ShardedBuffer
from ebm_jax.shapes import check_begin
from ebm_jax.types import UNCONDITIONAL, Array, Batch, Draw, Key, Metrics, PyTree


@struct.dataclass
class Negatives:
    """Where the chains of one step ended."""

    x: PyTree  # [M, ...]
    label: Array  # int32 [M]; UNCONDITIONAL for p(x)
    age: Array  # int32 [M]: rounds since the chain (re)started
    valid: Array  # bool [M]: False for chains that diverged; they are not in the loss
    stuck: Array  # share of chains that did not move


class Run(NamedTuple):
    """Chains that were run; positions [n, ...]."""

    initial: PyTree
    final: PyTree
    extra: Any = None  # whatever else the method keeps of them


def check_shards(shards: int, **numbers: int) -> None:
    """Refuse numbers, by their names, that cannot be divided over the shards.

    Raises: ValueError.
    """
    for name, number in numbers.items():
        if shards < 1 or number < 1 or number % shards:
            raise ValueError(
                f'{name} must be a positive multiple of shards, got {number} and {shards} shards'
            )


def check_positions(buffer: PyTree, batch: Batch) -> None:
    """Refuse an initial distribution whose chains are not shaped as the examples.

    Args: buffer: ReplayState of each shard. batch: prepared.
    Raises: ValueError.
    """
    examples = jax.tree.map(lambda leaf: leaf.shape[1:], batch['x'])
    chains = jax.tree.map(lambda leaf: leaf.shape[2:], buffer.position)
    check_begin('chains begin in', chains, examples)


def shard_keys(key: Key, shards: int, *names: str) -> dict[str, Key]:
    """{name: keys [shards]} of this device's shards, the same for any number of devices.

    Args: names: what the keys are for.
    """
    keys = jax.vmap(lambda key: jax.random.split(key, len(names)))(devices.keys(key, shards))
    return {name: keys[:, i] for i, name in enumerate(names)}


def chain_keys(keys: Key, per_shard: int) -> Key:
    """A key for each chain: [shards] -> [shards * per_shard]."""
    return jax.vmap(lambda key: jax.random.split(key, per_shard))(keys).reshape(-1)


def batch_labels(keys: Key, per_shard: int, labels: Array) -> Array:
    """Labels drawn from those of the whole batch, with replacement; UNCONDITIONAL, no label, is
    drawn only where no example has one. keys [shards], labels [N] -> [shards, per_shard]."""
    labels = devices.gather(labels).astype(jnp.int32)
    known = labels != UNCONDITIONAL
    first = labels[jnp.argsort(~known, stable=True)]  # those with a label come first

    def pick(key):
        return jax.random.randint(key, (per_shard,), 0, jnp.sum(known))

    return first[jax.vmap(pick)(keys)]


def advance(
    draw_keys: Key,
    write_keys: Key,
    buffer: ShardedBuffer,
    state: PyTree,
    labels: Array,
    run: Callable[[Draw], Run],
    *,
    initial: PyTree | None = None,
) -> tuple[Negatives, PyTree, Any]:
    """Draw chains, run them, and write them back.

    Args:
      draw_keys, write_keys: [shards]. buffer, state: the buffer of each shard, and what it holds.
      labels: int32 [shards, n], which chains are wanted. run: Draw of shards * n chains -> Run.
      initial: None, or positions [shards * n, ...] at which the chains begin, as new chains,
        instead of at those of the buffer.
    Returns: (Negatives, without gradient; the buffer's new state; Run.extra).
    """
    draw = buffer.draw(draw_keys, state, labels)
    if initial is not None:
        draw = draw._replace(position=initial, age=jnp.zeros_like(draw.age))
    ran = run(draw)
    stuck = validity.stuck_fraction(ran.initial, ran.final)
    x, written, valid = validity.quarantine(draw, jax.lax.stop_gradient(ran.final))
    state = buffer.write(write_keys, state, written, x)
    return Negatives(x, draw.label, draw.age + 1, valid, stuck), state, ran.extra


def metrics(negatives: Negatives) -> Metrics:
    """What is logged of the chains: 'quarantined', 'stuck_chains', 'chain_age_mean' and '_max'."""
    return {
        **validity.chain_metrics(negatives.valid, negatives.stuck),
        'chain_age_mean': jnp.mean(negatives.age.astype(jnp.float32)),
        'chain_age_max': devices.maximum(jnp.max(negatives.age)).astype(jnp.float32),
    }
