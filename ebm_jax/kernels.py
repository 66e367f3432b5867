"""Further Markov kernels: for discrete x, for a temperature that is switched on, and without noise.

The usual ones are in `mcmc`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ebm_jax.mcmc import check_bounds, check_number, evaluate, length, metropolis
from ebm_jax.types import Array, ArrayLike, Info, Kernel, PyTree


def gibbs_with_gradients(
    *,
    temperature: float = 1.0,
    values: Sequence[float] = (-1.0, 1.0),
    one_hot: PyTree = False,
) -> Kernel:
    """Gibbs with gradients: one entry of a discrete x changes, chosen by the gradient of E.

        q(x'|x) ~ exp(-(x' - x) . grad E(x) / (2 T))   over all x' that differ in one entry
        accepted with min(1, exp(-E(x')/T) q(x|x') / (exp(-E(x)/T) q(x'|x)))

    Unbiased for P(x) ~ exp(-E(x) / T). E must have a gradient where x is continuous, too.

    Args:
      temperature: T > 0.
      values: (low, high), what a binary entry may be.
      one_hot: False for binary entries, True for one-hot vectors along the last axis; or a pytree
        of these that is a prefix of the position's.
    Raises: ValueError when out of range.
    Source: Grathwohl et al. 2021 (arXiv 2102.04509), algorithm 1.
    """
    check_number('temperature', temperature, 0, open_low=True)
    low, high = values
    if not low < high:
        raise ValueError(f'values must be (low, high) with low < high, got {tuple(values)}')

    def binary_change(x, grad):
        """First-order change of E where each entry takes its other value. [...] -> [...]."""
        return (low + high - 2 * x) * grad

    def one_hot_change(x, grad):
        """Where each vector becomes each other category; infinite where it is that one."""
        change = grad - jnp.sum(x * grad, -1, keepdims=True)
        return jnp.where(x > 0.5, jnp.inf, change)

    def changes(state):
        """Log-probabilities of all changes, in one vector. [number of changes]."""

        def of(flag, x, grad):
            return jax.tree.map(one_hot_change if flag else binary_change, x, grad)

        found = jax.tree.map(of, one_hot, state.position, state.grad)
        flat = jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(found)])
        return jax.nn.log_softmax(-flat / (2 * temperature))

    def changed(x, index):
        """(x after the change of that index, the index of the change back)."""
        leaves, structure = jax.tree.flatten(x)
        flags = jax.tree.leaves(
            jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), one_hot, x)
        )
        offset, back, result = 0, jnp.zeros((), jnp.int32), []
        for flag, leaf in zip(flags, leaves):
            mine = (index >= offset) & (index < offset + leaf.size)
            picked = (jnp.arange(leaf.size) + offset == index).reshape(leaf.shape)
            if flag:
                touched = jnp.any(picked, -1, keepdims=True)
                new = jnp.where(touched, picked.astype(leaf.dtype), leaf)
                was = jnp.argmax((touched & (leaf > 0.5)).reshape(-1)).astype(jnp.int32)
                back = jnp.where(mine, offset + was, back)
            else:
                new = jnp.where(picked, low + high - leaf, leaf)
                back = jnp.where(mine, index, back)
            result.append(new)
            offset += leaf.size
        return jax.tree.unflatten(structure, result), back

    def step(key, state, energy_fn):
        choice_key, accept_key = jax.random.split(key)
        log_q = changes(state)
        index = jax.random.categorical(choice_key, log_q).astype(jnp.int32)
        there, back = changed(state.position, index)
        proposal = evaluate(there, energy_fn)
        # selections and sums, since an index is a gather under vmap
        picks = jnp.arange(len(log_q))
        forth_log_q = jnp.sum(jnp.where(picks == index, log_q, 0.0))
        back_log_q = jnp.sum(jnp.where(picks == back, changes(proposal), 0.0))
        log_ratio = (state.energy - proposal.energy) / temperature + back_log_q - forth_log_q
        return metropolis(accept_key, state, proposal, log_ratio)

    return Kernel(evaluate, step)


class TimedState(NamedTuple):
    """State of a chain whose temperature depends on how long it has run."""

    position: PyTree
    time: Array


def heating(time: ArrayLike, temperature: ArrayLike, onset: float) -> Array:
    """0 up to time `onset`, then linear up to `temperature` at time 1, and constant from there."""
    share = jnp.clip((jnp.asarray(time) - onset) / max(1 - onset, 1e-6), 0.0, 1.0)
    share = jnp.where(jnp.asarray(time) >= 1, 1.0, share)  # also at onset 1
    return jnp.asarray(temperature) * share


def heated_langevin(
    step_size: ArrayLike,
    *,
    temperature: ArrayLike,
    onset: float = 0.8,
    begin: float = 0.0,
    bounds: Sequence[float] | None = None,
) -> Kernel:
    """Gradient flow of E that becomes Langevin dynamics: for chains from noise to the data.

        x <- x - a grad E(x) + sqrt(2 a T(t)) xi,   t <- t + a
        T(t) = `heating`: 0 for t <= onset, then linear, `temperature` from t = 1 on

    Args:
      step_size: a > 0, the time of a step. temperature: >= 0. onset: in [0, 1].
      begin: the time at which a chain starts; 1 for chains that begin at data.
      bounds: None, or (low, high): each entry of x is cut to it after the step.
    Raises: ValueError when out of range.
    Source: Balcerak et al. 2025 (energy matching), the schedule of its temperature.
    """
    check_number('step_size', step_size, 0, open_low=True)
    check_number('temperature', temperature, 0)
    check_number('onset', onset, 0, 1)
    check_number('begin', begin, 0)
    check_bounds(bounds)

    def init(x, energy_fn):
        del energy_fn
        return TimedState(x, jnp.asarray(begin, jnp.float32))

    def step(key, state, energy_fn):
        x, unravel = ravel_pytree(state.position)
        energy, grad = jax.value_and_grad(lambda v: energy_fn(unravel(v)))(x)
        noise = jnp.sqrt(2 * step_size * heating(state.time, temperature, onset))
        free = x - step_size * grad + noise * jax.random.normal(key, x.shape, x.dtype)
        free = free.astype(x.dtype)
        x = free if bounds is None else jnp.clip(free, *bounds)
        one, none = jnp.ones(()), jnp.zeros(())
        info = Info(energy, jnp.linalg.norm(grad), one, none, jnp.mean(x != free))
        return TimedState(unravel(x), state.time + step_size), info

    return Kernel(init, step)


class PositionState(NamedTuple):
    """State of a chain without a memory."""

    position: PyTree


def steepest_descent(step_size: ArrayLike, *, bounds: Sequence[float] | None = None) -> Kernel:
    """Steps of fixed length down the energy, without noise: the ascent of log p(x) by PGD.

        x <- clip(x - a grad E(x) / |grad E(x)|)

    Args: step_size: a > 0, the Euclidean length of a step. bounds: None, or (low, high).
    Raises: ValueError when out of range.
    Source: Madry et al. 2018 (L2 PGD); as the sampler of an energy: Yin et al. 2022.
    """
    check_number('step_size', step_size, 0, open_low=True)
    check_bounds(bounds)

    def step(key, state, energy_fn):
        del key
        x, unravel = ravel_pytree(state.position)
        energy, grad = jax.value_and_grad(lambda v: energy_fn(unravel(v)))(x)
        free = x - step_size * grad / length(grad)
        x = free if bounds is None else jnp.clip(free, *bounds)
        norm = jnp.linalg.norm(grad)
        info = Info(energy, norm, jnp.ones(()), jnp.zeros(()), jnp.mean(x != free))
        return PositionState(unravel(x)), info

    return Kernel(lambda x, energy_fn: PositionState(x), step)
