"""Replay buffers: where chains wait between training steps, on the device and inside the compiled step.

A buffer holds `capacity` chains. `draw` takes n of them WITHOUT replacement (a scatter with repeated indices would keep an
unspecified one), each started anew with probability `restart`; `write` gives the advanced chains back. Every leaf of the state
has a leading axis of entries. `draw` takes the labels that are wanted; `UNLABELLED` asks for a chain on p(x).

A start is a function (key, label) -> x of one chain: `uniform_start`, `normal_start`, `gaussian_start`.
"""
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from ebm_jax import devices
from ebm_jax.mcmc import select, sound
from ebm_jax.types import UNLABELLED, Array, Draw, PyTree, ReplayBuffer

EMPTY = -1    # the age of an entry that was never filled
ASTRAY = -2   # of one whose chain went astray: the next draw of it is a new start


@struct.dataclass
class ReplayState:
    position: PyTree   # [capacity, ...]
    label: Array       # int32 [capacity]
    age: Array         # int32 [capacity]; rounds since the (re)start, EMPTY where nothing was written yet, or ASTRAY
    seen: Array        # int32; chains written so far


def uniform_start(shape, low=-1.0, high=1.0):
    """x ~ U(low, high), whatever the label. Source: Grathwohl et al. 2020."""
    return lambda key, label: jax.random.uniform(key, shape, minval=low, maxval=high)


def normal_start(shape, scale=1.0):
    """x ~ N(0, scale^2 I), whatever the label."""
    return lambda key, label: scale * jax.random.normal(key, shape)


def gaussian_start(means, factors):
    """x ~ N(mean_c, F_c F_c^T) of the wanted class c; of a class drawn uniformly where no label is wanted.

    Args: means: [C, ...]. factors: [C, D, R] with D the size of one example (see `class_gaussians`).
    Source: our reading of the informative starts of later JEM work; named so wherever figures depend on it.
    """
    means, factors = jnp.asarray(means), jnp.asarray(factors)

    def start(key, label):
        label_key, key = jax.random.split(key)
        label = jnp.where(label == UNLABELLED, jax.random.randint(label_key, (), 0, len(means)), label)
        noise = factors[label] @ jax.random.normal(key, factors.shape[-1:])
        return means[label] + noise.reshape(means.shape[1:])

    return start


def _empty(capacity, start):
    one = jax.eval_shape(start, jax.random.key(0), jnp.zeros((), jnp.int32))
    return ReplayState(jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), one),
                       jnp.full(capacity, UNLABELLED, jnp.int32), jnp.full(capacity, EMPTY, jnp.int32), jnp.zeros((), jnp.int32))


def _filled(key, start, labels):
    positions = jax.vmap(start)(jax.random.split(key, len(labels)), labels)
    return ReplayState(positions, labels, jnp.zeros(len(labels), jnp.int32), jnp.zeros((), jnp.int32))


def _take(key, state, start, restart, index, labels):
    """The chains at `index` under their new labels, started anew with probability `restart` or where the entry is empty."""
    restart_key, start_key = jax.random.split(key)
    age = state.age.at[index].get(mode='fill', fill_value=EMPTY)   # an index past the end stands for no entry
    anew = jax.random.bernoulli(restart_key, restart, index.shape) | (age < 0)
    fresh = jax.vmap(start)(jax.random.split(start_key, len(index)), labels)
    old = jax.tree.map(lambda leaf: leaf[index], state.position)
    return Draw(select(anew, fresh, old), labels, jnp.where(anew, 0, age), index)


def _put(state, slots, draw, positions):
    return ReplayState(jax.tree.map(lambda leaf, x: leaf.at[slots].set(x), state.position, positions),
                       state.label.at[slots].set(draw.label), state.age.at[slots].set(draw.age + 1),
                       state.seen + len(draw.index))


def _write_back(key, state, draw, positions):
    """Each chain to the entry that it was drawn from."""
    return _put(state, draw.index, draw, positions)


def _peek(key, state, n):
    """n different entries that hold samples of earlier rounds, uniformly; (positions, False where there are fewer)."""
    _check_draw(n, len(state.age))
    index = jnp.argsort(jax.random.uniform(key, state.age.shape) + (state.age <= 0))[:n]
    return jax.tree.map(lambda leaf: leaf[index], state.position), state.age[index] > 0


def _draw_uniform(start, restart, capacity, key, state, n, labels):
    """n different entries, uniformly; filled entries before empty ones."""
    _check_draw(n, capacity)
    order_key, key = jax.random.split(key)
    priority = jax.random.uniform(order_key, state.age.shape) + (state.age == EMPTY)
    return _take(key, state, start, restart, jnp.argsort(priority)[:n], labels)


def _check_draw(n, available):
    if n > available:
        raise ValueError(f'cannot draw {n} different chains from {available} entries: enlarge the buffer or draw fewer')


def _check_buffer(capacity, restart):
    if capacity < 1:
        raise ValueError(f'capacity must be at least 1, got {capacity}')
    if not 0 <= restart <= 1:
        raise ValueError(f'restart is a probability in [0, 1], got {restart}')


def persistent(start, capacity, *, restart=0.05):
    """Chains that are advanced in place: a uniform draw, written back where it came from.

    A chain is continued under whatever label is wanted of it at the draw (so are those of `first_in_first_out` and `reservoir`).

    Args: start: (key, label) -> x. capacity: >= 1 entries, filled by starts. restart: probability in [0, 1] of a new start.
    Raises: ValueError when out of range, or when more chains are drawn than there are entries.
    Source: Grathwohl et al. 2020 (10,000 entries, restart 0.05). They draw with replacement; we draw without.
    """
    _check_buffer(capacity, restart)

    def init(key):
        return _filled(key, start, jnp.full(capacity, UNLABELLED, jnp.int32))

    return ReplayBuffer(init, partial(_draw_uniform, start, restart, capacity), _write_back, _peek)


def class_conditional(start, capacity, num_classes, *, unlabelled=0.1, restart=0.05):
    """A persistent buffer in blocks, one per class and one for p(x): a chain is only ever continued under its own label.

    The first `ceil(unlabelled capacity)` entries belong to p(x), the rest is divided evenly over the classes (the last
    few entries, where it does not divide, stay empty). With unlabelled = 0 a chain on p(x) is a new start every time.

    Args: as `persistent`; num_classes: C >= 1; unlabelled: share of the p(x) block, in [0, 1).
    Raises: ValueError when out of range, or when one block could be asked for more chains than it holds. Labels outside
      [0, C) other than UNLABELLED are the caller's error and not checked inside compiled code.
    Source: [code] of ST-JEM (10 % p(x), 90 % p(x|y) by class) and of class-conditional JEM.
    """
    _check_buffer(capacity, restart)
    if not 0 <= unlabelled < 1:
        raise ValueError(f'unlabelled is the share of the p(x) block, in [0, 1), got {unlabelled}')
    first = math.ceil(unlabelled * capacity)
    block = (capacity - first) // num_classes
    if block < 1:
        raise ValueError(f'{capacity} entries are too few for {num_classes} classes and {first} unlabelled chains: enlarge the buffer')
    # Entry -> block: 0 holds p(x), 1 + c holds class c, num_classes + 1 is the unused tail.
    blocks = jnp.clip((jnp.arange(capacity) - first) // block + 1, 0, num_classes + 1)
    labels_of_entries = jnp.where((blocks > 0) & (blocks <= num_classes), blocks - 1, UNLABELLED).astype(jnp.int32)

    def init(key):
        state = _filled(key, start, labels_of_entries)
        return state.replace(age=jnp.where(blocks > num_classes, EMPTY, state.age))

    def draw(key, state, n, labels):
        _check_draw(n, min(block, first) if first else block)
        order_key, key = jax.random.split(key)
        shuffled = jnp.argsort(blocks + jax.random.uniform(order_key, (capacity,)))   # a permutation within each block
        wanted = labels + 1
        rank = jnp.sum(jnp.tril(wanted[:, None] == wanted[None, :], -1), 1)           # earlier chains of the same block
        begin = jnp.where(wanted == 0, 0, first + (wanted - 1) * block)
        index = shuffled[begin + rank] if first else jnp.where(wanted == 0, capacity, shuffled[begin + rank])
        return _take(key, state, start, restart, index, labels)

    return ReplayBuffer(init, draw, _write_back, _peek)


def first_in_first_out(start, capacity, *, restart=0.05):
    """The newest `capacity` samples: a uniform draw, written over the oldest entries.

    Args and errors as `persistent`; the buffer begins empty, and a draw on an empty entry is a start.
    Source: Du & Mordatch 2019; the buffer behind the figures of Du et al. 2021.
    """
    _check_buffer(capacity, restart)

    def write(key, state, draw, positions):
        return _put(state, (state.seen + jnp.arange(len(draw.index))) % capacity, draw, positions)

    return ReplayBuffer(lambda key: _empty(capacity, start), partial(_draw_uniform, start, restart, capacity), write, _peek)


def reservoir(start, capacity, *, restart=0.05):
    """A uniform sample of ALL samples ever made (algorithm R): the t-th is kept with probability capacity / t.

    Args and errors as `first_in_first_out`.
    Source: Vitter 1985; the default of the release of Du et al. 2021.
    """
    _check_buffer(capacity, restart)

    def write(key, state, draw, positions):
        def insert(i, state):
            t = state.seen
            slot = jnp.where(t < capacity, t, jax.random.randint(jax.random.fold_in(key, i), (), 0, t + 1))
            slots = jnp.where(slot < capacity, slot, capacity)[None]   # a slot past the end is dropped by the scatter
            one = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, i, 1), (draw, positions))
            return _put(state, slots, *one)
        return jax.lax.fori_loop(0, len(draw.index), insert, state)

    return ReplayBuffer(lambda key: _empty(capacity, start), partial(_draw_uniform, start, restart, capacity), write, _peek)


def fresh(start):
    """No memory: every chain starts anew (short-run, non-persistent sampling). Source: Nijkamp et al. 2019."""
    def draw(key, state, n, labels):
        positions = jax.vmap(start)(jax.random.split(key, n), labels)
        return Draw(positions, labels, jnp.zeros(n, jnp.int32), jnp.arange(n, dtype=jnp.int32))

    def peek(key, state, n):
        raise ValueError('a fresh buffer keeps no past samples: choose a buffer with a memory, or leave out what asks for them')

    return ReplayBuffer(lambda key: _empty(1, start), draw, lambda key, state, draw, positions: state, peek)


def quarantine(draw, x):
    """Take chains that went astray out of the loss and out of the buffer.

    A chain that is not `mcmc.sound` stands at its start again, so that energies there are finite, with weight 0 in the loss; the next
    draw of its entry is a new start.

    Args: draw: where the chains began. x: [n, ...], where they ended. Returns: (x, Draw to be written, sound [n]).
    Source: ours.
    """
    fine = sound(x)
    return select(fine, x, draw.position), draw._replace(age=jnp.where(fine, draw.age, ASTRAY - 1)), fine


class Pools(NamedTuple):
    """One buffer in each of several shards, which split over devices: keys [s] and states [s, ...] in, flat chains [s n, ...] out."""
    init: Callable    # (key, shards) -> state
    draw: Callable    # (keys [s], state, labels [s, n]) -> Draw of s n chains
    write: Callable   # (keys [s], state, Draw, positions [s n, ...]) -> state
    peek: Callable    # (keys [s], state, n) -> (positions [s n, ...], present [s n])
    count: Callable   # state -> past samples in all shards of all devices


def pools(buffer):
    """The buffer in every shard. Source: ours; drawing n / s from each of s equal shards is uniform over the whole."""
    flat = lambda tree: jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)
    split = lambda tree, shards: jax.tree.map(lambda leaf: leaf.reshape(shards, -1, *leaf.shape[1:]), tree)

    def draw(keys, state, labels):
        return flat(jax.vmap(buffer.draw, (0, 0, None, 0))(keys, state, labels.shape[1], labels))

    def write(keys, state, draw, positions):
        return jax.vmap(buffer.write)(keys, state, *split((draw, positions), len(keys)))

    return Pools(lambda key, shards: jax.vmap(buffer.init)(jax.random.split(key, shards)), draw, write,
                 lambda keys, state, n: flat(jax.vmap(buffer.peek, (0, 0, None))(keys, state, n)),
                 lambda state: devices.total(jnp.sum(state.age > 0)))
