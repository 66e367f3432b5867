"""Markov kernels on energies, and chains of them: Langevin, MALA, HMC.

A kernel sees one chain and an `energy_fn` of one position (any pytree); `run_chain` scans it and
`run_chains` maps over many.
"""

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from ebm_jax.shapes import check_leading
from ebm_jax.types import Array, ArrayLike, EnergyFn, Info, Kernel, Key, PyTree

Point = tuple[Array, Array, Array]  # (position [D], energy, gradient [D])
Record = Callable[[Any, Info], PyTree]  # (state, info) -> what is kept of a step


class LangevinState(NamedTuple):
    """State of Langevin chains."""

    position: PyTree
    momentum: PyTree  # moving average of gradients; () when not used
    shrink: Array  # decay ** steps so far


class HamiltonianState(NamedTuple):
    """State of the kernels with a Metropolis test: energy and gradient are kept, so each step
    evaluates only its proposal."""

    position: PyTree
    energy: Array
    grad: PyTree


def length(x: Array) -> Array:
    """|x|, the Euclidean norm over all entries, also where their squares underflow; at least the
    smallest float, to divide by."""
    tiny = jnp.finfo(x.dtype).tiny
    largest = jnp.maximum(jnp.max(jnp.abs(x)), tiny)
    plain, scaled = (jnp.sqrt(jnp.sum(jnp.square(y))) for y in (x, x / largest))
    return jnp.maximum(jnp.where(plain > 1e3 * tiny**0.5, plain, largest * scaled), tiny)


def check_number(
    name: str, value: Any, low: float, high: float = math.inf, open_low: bool = False
) -> None:
    """Refuse a number outside its range; a traced value (a tuned setting) is not checked.
    Raises: ValueError."""
    if isinstance(value, jax.core.Tracer) or value is None:
        return
    if (
        not (low < value if open_low else low <= value)
        or not value <= high
        or not math.isfinite(value)
    ):
        raise ValueError(
            f'{name} must lie in {"(" if open_low else "["}{low}, {high}], got {value}'
        )


def check_bounds(bounds: Sequence[float] | None) -> None:
    """Refuse bounds that are not (low, high) with low < high. Raises: ValueError."""
    if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
        raise ValueError(f'bounds must be (low, high) with low < high, got {bounds}')


def langevin(
    step_size: ArrayLike,
    *,
    temperature: ArrayLike | None = None,
    noise_scale: ArrayLike | None = None,
    grad_clip: float | None = None,
    bounds: Sequence[float] | None = None,
    momentum: ArrayLike = 0.0,
    decay: ArrayLike = 1.0,
    noise_first: bool = False,
) -> Kernel:
    """Unadjusted Langevin dynamics, with noise set by a temperature or by its own scale.

        g <- momentum g + (1 - momentum) clip(grad E(x))
        x <- clip(x - a g + n xi),   xi ~ N(0, I),   n = sqrt(2 a temperature)  or  n = noise_scale

    Two conventions for the noise, of which exactly one must be given:
      temperature: n follows the step; the chain then targets exp(-E / temperature), up to O(a).
      noise_scale: n is independent of the step, as in JEM (a = 1, n = 0.01); the effective
        temperature is n^2 / (2 a).
    A paper that writes x += (e / 2) grad log p + ... has a = e / 2.

    Args:
      step_size: a > 0. temperature, noise_scale: >= 0. momentum: in [0, 1). decay: in (0, 1],
        factor on a per step of the chain.
      grad_clip: None, or c > 0: each gradient entry is cut to [-c, c] before anything else.
      bounds: None, or (low, high): each entry of x is cut to it after the step.
      noise_first: add the noise before the drift, which is then taken at the noisy position (ICD).
      Numbers may be traced arrays (tuned settings).
    Raises: ValueError when a number is out of range, or not exactly one noise convention is given.
    Source: Welling & Teh 2011; noise_scale: Grathwohl et al. 2020, section 3.
    """
    if (temperature is None) == (noise_scale is None):
        raise ValueError('give exactly one of temperature and noise_scale')
    check_number('step_size', step_size, 0, open_low=True)
    check_number('temperature', temperature, 0)
    check_number('noise_scale', noise_scale, 0)
    check_number('grad_clip', grad_clip, 0, open_low=True)
    check_number('momentum', momentum, 0, math.nextafter(1, 0))
    check_number('decay', decay, 0, 1, open_low=True)
    check_bounds(bounds)
    averages = not (isinstance(momentum, (int, float)) and momentum == 0)

    def init(x, energy_fn):
        del energy_fn
        before = jax.tree.map(jnp.zeros_like, x) if averages else ()
        return LangevinState(x, before, jnp.ones((), jnp.float32))

    def step(key, state, energy_fn):
        x, unravel = ravel_pytree(state.position)
        dtype = x.dtype
        a = step_size * state.shrink
        noise = (
            jnp.sqrt(2 * a * temperature) if noise_scale is None else noise_scale
        ) * jax.random.normal(key, x.shape, x.dtype)
        if noise_first:
            x = x + noise
        energy, grad = jax.value_and_grad(lambda v: energy_fn(unravel(v)))(x)
        drift = grad if grad_clip is None else jnp.clip(grad, -grad_clip, grad_clip)
        clipped = jnp.mean(drift != grad) if grad_clip is not None else jnp.zeros(())
        if averages:
            drift = momentum * ravel_pytree(state.momentum)[0] + (1 - momentum) * drift
        x = x - a * drift
        if not noise_first:
            x = x + noise
        free = x = x.astype(dtype)
        drift = drift.astype(dtype)
        if bounds is not None:
            x = jnp.clip(x, *bounds)
        info = Info(energy, jnp.linalg.norm(grad), jnp.ones(()), clipped, jnp.mean(x != free))
        return (
            LangevinState(unravel(x), unravel(drift) if averages else (), state.shrink * decay),
            info,
        )

    return Kernel(init, step)


def evaluate(x: PyTree, energy_fn: EnergyFn) -> HamiltonianState:
    """The state at x, of kernels with a Metropolis test."""
    return HamiltonianState(x, *jax.value_and_grad(energy_fn)(x))


def metropolis(
    key: Key, state: HamiltonianState, proposal: HamiltonianState, log_ratio: Array
) -> tuple[HamiltonianState, Info]:
    """Accept with probability min(1, exp(log_ratio)); an energy that is not a number is never
    accepted."""
    acceptance = jnp.where(jnp.isnan(log_ratio), 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))
    accept = jax.random.uniform(key) < acceptance
    chosen = jax.tree.map(lambda new, old: jnp.where(accept, new, old), proposal, state)
    info = Info(
        state.energy,
        jnp.linalg.norm(ravel_pytree(state.grad)[0]),
        acceptance,
        jnp.zeros(()),
        jnp.zeros(()),
    )
    return chosen, info


def langevin_log_ratio(
    here: Point, there: Point, step_size: ArrayLike, temperature: ArrayLike
) -> Array:
    """Log of the ratio that a Metropolis test of a Langevin proposal compares with 1.

        exp(-E(x')/T) q(x|x') / (exp(-E(x)/T) q(x'|x))

    Args: here, there: (position [D], energy, gradient [D]) of x and x'.
    Source: Roberts & Tweedie 1996.
    """
    (x, energy, grad), (x_there, energy_there, grad_there) = here, there
    forth = jnp.sum((x_there - x + step_size * grad) ** 2)
    back = jnp.sum((x - x_there + step_size * grad_there) ** 2)
    return (energy - energy_there + (forth - back) / (4 * step_size)) / temperature


def mala(step_size: ArrayLike, *, temperature: float = 1.0) -> Kernel:
    """Metropolis-adjusted Langevin: unbiased for exp(-E / temperature).

        x' = x - a grad E(x) + sqrt(2 a T) xi
        accepted with min(1, exp(-E(x')/T) q(x|x') / (exp(-E(x)/T) q(x'|x)))

    Args: step_size: a > 0; temperature: T > 0.
    Raises: ValueError when out of range.
    Source: Roberts & Tweedie 1996.
    """
    check_number('step_size', step_size, 0, open_low=True)
    check_number('temperature', temperature, 0, open_low=True)

    def step(key, state, energy_fn):
        noise_key, accept_key = jax.random.split(key)
        x, unravel = ravel_pytree(state.position)
        grad = ravel_pytree(state.grad)[0]
        there = (
            x
            - step_size * grad
            + jnp.sqrt(2 * step_size * temperature) * jax.random.normal(noise_key, x.shape, x.dtype)
        )
        proposal = evaluate(unravel(there), energy_fn)
        here, then = (
            (x, state.energy, grad),
            (
                there,
                proposal.energy,
                ravel_pytree(proposal.grad)[0],
            ),
        )
        return metropolis(
            accept_key, state, proposal, langevin_log_ratio(here, then, step_size, temperature)
        )

    return Kernel(evaluate, step)


def hmc(step_size: ArrayLike, num_leapfrog: int, *, temperature: float = 1.0) -> Kernel:
    """Hamiltonian Monte Carlo with unit mass: unbiased for exp(-E / temperature).

        v ~ N(0, T I)
        num_leapfrog leapfrog steps of size e on H = E(x) + |v|^2 / 2
        accepted with min(1, exp(-dH / T))

    Args: step_size: e > 0; num_leapfrog: int >= 1; temperature: T > 0.
    Raises: ValueError when out of range; TypeError for a num_leapfrog that is no int.
    Source: Neal 2011.
    """
    check_number('step_size', step_size, 0, open_low=True)
    check_number('num_leapfrog', num_leapfrog, 1)
    num_leapfrog = operator.index(num_leapfrog)  # refuses 2.5
    check_number('temperature', temperature, 0, open_low=True)

    def step(key, state, energy_fn):
        momentum_key, accept_key = jax.random.split(key)
        x, unravel = ravel_pytree(state.position)
        v = jnp.sqrt(temperature) * jax.random.normal(momentum_key, x.shape, x.dtype)

        def leapfrog(carry, _):
            x, v, grad, _ = carry
            v = v - 0.5 * step_size * grad
            x = x + step_size * v
            energy, grad = jax.value_and_grad(lambda u: energy_fn(unravel(u)))(x)
            return (x, v - 0.5 * step_size * grad, grad, energy), None

        start = (x, v, ravel_pytree(state.grad)[0], state.energy)
        (there, v_end, grad, energy), _ = lax.scan(leapfrog, start, length=num_leapfrog)
        log_ratio = (state.energy - energy + 0.5 * (v @ v - v_end @ v_end)) / temperature
        return metropolis(
            accept_key, state, HamiltonianState(unravel(there), energy, unravel(grad)), log_ratio
        )

    return Kernel(evaluate, step)


def run_chain(
    key: Key,
    kernel: Kernel,
    energy_fn: EnergyFn,
    x: PyTree,
    num_steps: int,
    record: Record | None = None,
    *,
    stop: ArrayLike | None = None,
) -> tuple[PyTree, PyTree]:
    """Run one chain: x_0 = x, x_{t+1} ~ kernel(x_t).

    Args:
      x: the initial position, any pytree.
      num_steps: int >= 0.
      record: None, or (state, info) -> pytree, kept for every step: `lambda state, info: info` for
        the reports, `lambda state, info: state.position` for the trajectory. What is not recorded
        is not computed.
      stop: None, or an integer, which may be traced: the chain stands still from that step on. So
        chains of different lengths share one program with a loop of fixed length.
    Returns: (last position, records with leading axis num_steps; None without `record`).
    Raises: ValueError for a negative or traced num_steps.
    """
    state, records = advance(
        key, kernel, energy_fn, kernel.init(x, energy_fn), num_steps, record=record, stop=stop
    )
    return state.position, records


def advance(
    key: Key,
    kernel: Kernel,
    energy_fn: EnergyFn,
    state: Any,
    num_steps: int,
    *,
    first: ArrayLike = 0,
    record: Record | None = None,
    stop: ArrayLike | None = None,
) -> tuple[Any, PyTree]:
    """Steps first, ..., first + num_steps - 1 of a chain that is at `state`: a chain may be run in
    pieces, with one key.

    Args:
      state: of the kernel (its `init`, or the end of an earlier piece). The rest as in `run_chain`.
    Returns: (last state, records).
    Raises: ValueError as in `run_chain`.
    """
    if not isinstance(num_steps, (int, np.integer)) or num_steps < 0:
        raise ValueError(f'num_steps must be an int >= 0 (`stop` may be traced), got {num_steps}')

    def step(state, t):
        new, info = kernel.step(jax.random.fold_in(key, t), state, energy_fn)
        if stop is not None:
            new = jax.tree.map(partial(jnp.where, t < stop), new, state)
        return new, None if record is None else record(new, info)

    if num_steps == 1:  # a loop of one turn costs seconds of tracing where it is differentiated
        state, records = step(state, jnp.asarray(first))
        return state, jax.tree.map(lambda leaf: leaf[None], records)
    return lax.scan(step, state, first + jnp.arange(num_steps))


def run_chains(
    keys: Key,
    kernel: Kernel,
    energy_fn: Callable[..., Array],
    x: PyTree,
    num_steps: int,
    *conditions: PyTree,
    record: Record | None = None,
    stop: ArrayLike | None = None,
) -> tuple[PyTree, PyTree]:
    """Run many chains at once: `run_chain` over the leading axis of keys, x and each of
    `conditions`.

    Args:
      keys: [n] keys, one per chain. x: [n, ...].
      conditions: [n, ...] each, passed on as energy_fn(x, *conditions).
      stop: of all chains, as in `run_chain`.
    Returns: as `run_chain`, with a leading axis of chains.
    Raises: ValueError where the leading axes differ, or as `run_chain`.
    """
    for name, tree in (('x', x), ('conditions', conditions)):
        check_leading(name, tree, len(keys), '[n, ...], one for each of the n keys')

    def one(key, x, *conditions):
        return run_chain(
            key, kernel, lambda u: energy_fn(u, *conditions), x, num_steps, record, stop=stop
        )

    return jax.vmap(one)(keys, x, *conditions)
