"""Replay buffers: where chains wait between training steps, on the device and inside the compiled
step.

A buffer holds `capacity` chains. `draw` takes n of them WITHOUT replacement (a scatter with
repeated indices would keep an unspecified one) and restarts each with probability `restart`, from
its initial sampler (see `initial`); `write` gives the advanced chains back. Every leaf of the state
has a leading axis of entries. `draw` takes the labels that are wanted; `UNCONDITIONAL` asks for a
chain on p(x).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from ebm_jax import devices
from ebm_jax.types import (
    UNCONDITIONAL,
    Array,
    Draw,
    InitialSampler,
    Key,
    PyTree,
    ReplayBuffer,
)
from ebm_jax.validity import EMPTY, select


@struct.dataclass
class ReplayState:
    """What a buffer holds; a leading axis of entries everywhere but in `seen`."""

    position: PyTree  # [capacity, ...]
    label: Array  # int32 [capacity]
    # int32 [capacity]; rounds since the (re)start, or validity.EMPTY, or validity.QUARANTINED
    age: Array
    seen: Array  # int32; chains written so far


def _empty(capacity, initial_sampler):
    one = jax.eval_shape(initial_sampler, jax.random.key(0), jnp.zeros((), jnp.int32))
    return ReplayState(
        jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), one),
        jnp.full(capacity, UNCONDITIONAL, jnp.int32),
        jnp.full(capacity, EMPTY, jnp.int32),
        jnp.zeros((), jnp.int32),
    )


def _filled(key, initial_sampler, labels):
    positions = jax.vmap(initial_sampler)(jax.random.split(key, len(labels)), labels)
    return ReplayState(
        positions, labels, jnp.zeros(len(labels), jnp.int32), jnp.zeros((), jnp.int32)
    )


def _take(key, state, initial_sampler, restart, index, labels):
    """The chains at `index` under their new labels, restarted with probability `restart` or where
    the entry is empty."""
    restart_key, initial_key = jax.random.split(key)
    # an index past the end means no entry
    age = state.age.at[index].get(mode='fill', fill_value=EMPTY)
    restarted = jax.random.bernoulli(restart_key, restart, index.shape) | (age < 0)
    fresh = jax.vmap(initial_sampler)(jax.random.split(initial_key, len(index)), labels)
    old = jax.tree.map(lambda leaf: leaf[index], state.position)
    return Draw(select(restarted, fresh, old), labels, jnp.where(restarted, 0, age), index)


def _put(state, slots, draw, positions):
    return ReplayState(
        jax.tree.map(lambda leaf, x: leaf.at[slots].set(x), state.position, positions),
        state.label.at[slots].set(draw.label),
        state.age.at[slots].set(draw.age + 1),
        state.seen + len(draw.index),
    )


def _write_back(key, state, draw, positions):
    """Each chain to the entry that it was drawn from."""
    return _put(state, draw.index, draw, positions)


def _sample_past(key, state, n):
    """n different entries that hold samples of earlier rounds, uniformly; (positions, False where
    there are fewer)."""
    _check_draw(n, len(state.age))
    index = jnp.argsort(jax.random.uniform(key, state.age.shape) + (state.age <= 0))[:n]
    return jax.tree.map(lambda leaf: leaf[index], state.position), state.age[index] > 0


def _draw_uniform(initial_sampler, restart, capacity, key, state, n, labels):
    """n different entries, uniformly; filled entries before empty ones."""
    _check_draw(n, capacity)
    order_key, key = jax.random.split(key)
    priority = jax.random.uniform(order_key, state.age.shape) + (state.age == EMPTY)
    return _take(key, state, initial_sampler, restart, jnp.argsort(priority)[:n], labels)


def _check_draw(n, available):
    if n > available:
        raise ValueError(
            f'cannot draw {n} different chains from {available} entries: enlarge the buffer or draw'
            ' fewer'
        )


def _check_buffer(capacity, restart):
    if capacity < 1:
        raise ValueError(f'capacity must be at least 1, got {capacity}')
    if not 0 <= restart <= 1:
        raise ValueError(f'restart is a probability in [0, 1], got {restart}')


def persistent(
    initial_sampler: InitialSampler, capacity: int, *, restart: float = 0.05
) -> ReplayBuffer:
    """Chains that are advanced in place: a uniform draw, written back where it came from.

    A chain continues under whatever label the draw asks for (as do those of `first_in_first_out`
    and `reservoir`).

    Args:
      initial_sampler: (key, label) -> x. capacity: >= 1 entries, filled by the initial sampler.
      restart: probability in [0, 1] of a restart.
    Raises: ValueError when out of range, or when more chains are drawn than there are entries.
    Source: Grathwohl et al. 2020 (10,000 entries, restart 0.05). They draw with replacement; we
      draw without.
    """
    _check_buffer(capacity, restart)

    def init(key):
        return _filled(key, initial_sampler, jnp.full(capacity, UNCONDITIONAL, jnp.int32))

    return ReplayBuffer(
        init, partial(_draw_uniform, initial_sampler, restart, capacity), _write_back, _sample_past
    )


def class_conditional(
    initial_sampler: InitialSampler,
    capacity: int,
    num_classes: int,
    *,
    unconditional: float = 0.1,
    restart: float = 0.05,
) -> ReplayBuffer:
    """A persistent buffer in blocks, one per class and one for p(x): a chain is only ever continued
    under its own label.

    The first `ceil(unconditional capacity)` entries belong to p(x), the rest is divided evenly over
    the classes (where their number is not divisible, the last few entries stay empty). With
    unconditional = 0 every draw of a chain on p(x) is a restart.

    Args: as `persistent`; num_classes: C >= 1; unconditional: share of the p(x) block, in [0, 1).
    Raises: ValueError when out of range, or when one block could be asked for more chains than it
      holds. Labels outside [0, C) other than UNCONDITIONAL are the caller's error and not checked
      inside compiled code.
    Source: [code] of ST-JEM (10 % p(x), 90 % p(x|y) by class) and of class-conditional JEM.
    """
    _check_buffer(capacity, restart)
    if not 0 <= unconditional < 1:
        raise ValueError(
            f'unconditional is the share of the p(x) block, in [0, 1), got {unconditional}'
        )
    if num_classes < 1:
        raise ValueError(f'num_classes must be at least 1, got {num_classes}')
    first = math.ceil(unconditional * capacity)
    block = (capacity - first) // num_classes
    if block < 1:
        raise ValueError(
            f'{capacity} entries are too few for {num_classes} classes and {first} unconditional'
            ' chains: enlarge the buffer'
        )
    # Entry -> block: 0 holds p(x), 1 + c holds class c, num_classes + 1 is the unused tail.
    blocks = jnp.clip((jnp.arange(capacity) - first) // block + 1, 0, num_classes + 1)
    labels_of_entries = jnp.where(
        (blocks > 0) & (blocks <= num_classes), blocks - 1, UNCONDITIONAL
    ).astype(jnp.int32)

    def init(key):
        state = _filled(key, initial_sampler, labels_of_entries)
        return state.replace(age=jnp.where(blocks > num_classes, EMPTY, state.age))

    def draw(key, state, n, labels):
        _check_draw(n, min(block, first) if first else block)
        order_key, key = jax.random.split(key)
        # a permutation within each block
        shuffled = jnp.argsort(blocks + jax.random.uniform(order_key, (capacity,)))
        wanted = labels + 1
        # earlier chains of the same block
        rank = jnp.sum(jnp.tril(wanted[:, None] == wanted[None, :], -1), 1)
        begin = jnp.where(wanted == 0, 0, first + (wanted - 1) * block)
        index = (
            shuffled[begin + rank]
            if first
            else jnp.where(wanted == 0, capacity, shuffled[begin + rank])
        )
        return _take(key, state, initial_sampler, restart, index, labels)

    return ReplayBuffer(init, draw, _write_back, _sample_past)


def first_in_first_out(
    initial_sampler: InitialSampler, capacity: int, *, restart: float = 0.05
) -> ReplayBuffer:
    """The newest `capacity` samples: a uniform draw, written over the oldest entries.

    Args and errors as in `persistent`; the buffer begins empty, and a draw of an empty entry comes
    from the initial sampler.
    Source: Du & Mordatch 2019; the buffer behind the results of Du et al. 2021.
    """
    _check_buffer(capacity, restart)

    def write(key, state, draw, positions):
        return _put(state, (state.seen + jnp.arange(len(draw.index))) % capacity, draw, positions)

    return ReplayBuffer(
        lambda key: _empty(capacity, initial_sampler),
        partial(_draw_uniform, initial_sampler, restart, capacity),
        write,
        _sample_past,
    )


def reservoir(
    initial_sampler: InitialSampler, capacity: int, *, restart: float = 0.05
) -> ReplayBuffer:
    """A uniform sample of ALL samples ever made (algorithm R): the t-th is kept with probability
    capacity / t.

    Args and errors as in `first_in_first_out`.
    Source: Vitter 1985; the default of the release of Du et al. 2021.
    """
    _check_buffer(capacity, restart)

    def write(key, state, draw, positions):
        def insert(i, state):
            t = state.seen
            slot = jnp.where(
                t < capacity, t, jax.random.randint(jax.random.fold_in(key, i), (), 0, t + 1)
            )
            # a slot past the end is dropped by the scatter
            slots = jnp.where(slot < capacity, slot, capacity)[None]
            one = jax.tree.map(
                lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, i, 1), (draw, positions)
            )
            return _put(state, slots, *one)

        return jax.lax.fori_loop(0, len(draw.index), insert, state)

    return ReplayBuffer(
        lambda key: _empty(capacity, initial_sampler),
        partial(_draw_uniform, initial_sampler, restart, capacity),
        write,
        _sample_past,
    )


def fresh(initial_sampler: InitialSampler) -> ReplayBuffer:
    """No memory: every chain is a new one (short-run, non-persistent sampling).

    Source: Nijkamp et al. 2019.
    """

    def init(key):
        return _empty(1, initial_sampler)

    def draw(key, state, n, labels):
        positions = jax.vmap(initial_sampler)(jax.random.split(key, n), labels)
        index = jnp.arange(n, dtype=jnp.int32)
        return Draw(positions, labels, jnp.zeros(n, jnp.int32), index)

    def write(key, state, draw, positions):
        return state

    def sample_past(key, state, n):
        raise ValueError(
            'a fresh buffer keeps no past samples: choose a buffer with a memory, or leave out '
            'what asks for them'
        )

    return ReplayBuffer(init, draw, write, sample_past)


class ShardedBuffer(NamedTuple):
    """One buffer in each of several shards, which split over devices: keys [s] and states [s, ...]
    in, flat chains [s n, ...] out."""

    init: Callable[[Key, int], PyTree]  # (key, shards) -> state
    draw: Callable[[Key, PyTree, Array], Draw]  # (keys [s], state, labels [s, n]) -> s n chains
    write: Callable[[Key, PyTree, Draw, PyTree], PyTree]  # (keys [s], state, draw, x) -> state
    # (keys [s], state, n) -> (positions [s n, ...], present [s n])
    sample_past: Callable[[Key, PyTree, int], tuple[PyTree, Array]]
    num_past: Callable[[PyTree], Array]  # state -> past samples in all shards of all devices


def sharded(buffer: ReplayBuffer) -> ShardedBuffer:
    """The buffer in every shard.

    Drawing n / s from each of s equal shards is uniform over the whole.

    Source: ours.
    """

    def flat(tree):
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)

    def split(tree, shards):
        return jax.tree.map(lambda leaf: leaf.reshape(shards, -1, *leaf.shape[1:]), tree)

    def init(key, shards):
        return jax.vmap(buffer.init)(jax.random.split(key, shards))

    def draw(keys, state, labels):
        return flat(jax.vmap(buffer.draw, (0, 0, None, 0))(keys, state, labels.shape[1], labels))

    def write(keys, state, draw, positions):
        return jax.vmap(buffer.write)(keys, state, *split((draw, positions), len(keys)))

    def sample_past(keys, state, n):
        return flat(jax.vmap(buffer.sample_past, (0, 0, None))(keys, state, n))

    def num_past(state):
        return devices.total(jnp.sum(state.age > 0))

    return ShardedBuffer(init, draw, write, sample_past, num_past)
