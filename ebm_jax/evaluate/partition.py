"""The normalising constant Z = int exp(-E(x)) dx of an energy, by bridges from a known density.

    E_b = (1 - b) E_base + b E,   b from 0 (a Gaussian or uniform density) to 1

Annealed importance sampling and its reverse bound log Z from below and above (in expectation);
adaptive tempered sequential Monte Carlo is a third estimate. All samples are one example each.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from scipy import stats
from scipy.special import logsumexp

from ebm_jax import batching
from ebm_jax.errors import InputError
from ebm_jax.mcmc import hmc, mala
from ebm_jax.types import Array, ArrayLike, EnergyFn, Kernel, Key, Params


class Base(NamedTuple):
    """A normalised density to begin at."""

    sample: Callable[[Key], Array]
    energy: EnergyFn  # -log p(x), with its constant


def gaussian_base(mean: ArrayLike, scale: ArrayLike) -> Base:
    """N(mean, diag scale^2): [...] each; a scalar scale stands for all entries."""
    mean = jnp.asarray(mean, jnp.float32)
    scale = jnp.broadcast_to(jnp.asarray(scale, jnp.float32), mean.shape)
    constant = jnp.sum(jnp.log(scale)) + 0.5 * mean.size * jnp.log(2 * jnp.pi)

    def energy(x):
        return 0.5 * jnp.sum(jnp.square((x - mean) / scale)) + constant

    return Base(lambda key: mean + scale * jax.random.normal(key, mean.shape), energy)


def truncated_gaussian_base(
    mean: ArrayLike, scale: ArrayLike, low: float = -1.0, high: float = 1.0
) -> Base:
    """N(mean, diag scale^2) cut to the box and normalised there; as `uniform_base`, the target must
    hold the chains in the box. mean, scale: [...]."""
    mean = jnp.asarray(mean, jnp.float32)
    scale = jnp.broadcast_to(jnp.asarray(scale, jnp.float32), mean.shape)
    a, b = (low - mean) / scale, (high - mean) / scale
    # the mass within the box, from the side where it does not cancel
    flip = a > 0
    mass = jnp.where(flip, ndtr(-a) - ndtr(-b), ndtr(b) - ndtr(a))
    constant = jnp.sum(jnp.log(scale * mass)) + 0.5 * mean.size * jnp.log(2 * jnp.pi)

    def sample(key):
        return jnp.clip(mean + scale * jax.random.truncated_normal(key, a, b), low, high)

    def energy(x):
        return 0.5 * jnp.sum(jnp.square((x - mean) / scale)) + constant

    return Base(sample, energy)


def uniform_base(shape: Sequence[int], low: float = -1.0, high: float = 1.0) -> Base:
    """U(low, high) in each entry. Its energy is constant everywhere: the target must hold the
    chains in the box, see `confined`."""
    shape = tuple(shape)
    constant = np.prod(shape) * np.log(high - low)
    return Base(
        lambda key: jax.random.uniform(key, shape, minval=low, maxval=high),
        lambda x: jnp.asarray(constant, x.dtype) + 0.0 * jnp.sum(x),
    )


def bernoulli_base(p: ArrayLike, values: Sequence[float] = (-1.0, 1.0)) -> Base:
    """Each entry is values[1] with its probability p, else values[0]. p: [...] in (0, 1)."""
    p = jnp.asarray(p, jnp.float32)
    low, high = (jnp.float32(value) for value in values)

    def energy(x):
        share = (x - low) / (high - low)
        return -jnp.sum(share * jnp.log(p) + (1 - share) * jnp.log1p(-p))

    return Base(lambda key: jnp.where(jax.random.bernoulli(key, p), high, low), energy)


def confined(energy_fn: EnergyFn, low: float = -1.0, high: float = 1.0) -> EnergyFn:
    """The energy within the box, infinity outside it: a Metropolis test never leaves the box."""

    def energy(x):
        inside = jnp.all((x >= low) & (x <= high))
        return jnp.where(inside, energy_fn(jnp.clip(x, low, high)), jnp.inf)

    return energy


class Estimate(NamedTuple):
    """An estimate of log Z."""

    log_z: float
    interval: tuple[float, float]  # 95 %, over chains
    effective_sample_size: float  # (sum w)^2 / sum w^2 over chains
    log_weights: np.ndarray  # [n]
    x: np.ndarray  # [n, ...], where the chains ended
    acceptance: np.ndarray  # [bridges], mean over chains at each


def sigmoid_schedule(bridges: int, steepness: float = 4.0) -> np.ndarray:
    """b_0 = 0, ..., b_bridges = 1, denser at both ends.

    Raises: ValueError for bridges < 1.
    Source: Wu et al. 2017, section 5.
    """
    if bridges < 1:
        raise ValueError(f'bridges must be at least 1, got {bridges}')
    s = 1 / (1 + np.exp(-steepness * np.linspace(-1, 1, bridges + 1)))
    return (s - s[0]) / (s[-1] - s[0])


def leapfrogs(num: int = 5) -> Callable[[Array], Kernel]:
    """Step size -> hmc of that many leapfrog steps; 1 stands for mala."""
    return mala if num == 1 else lambda step_size: hmc(step_size, num)


def annealed_importance_sampling(
    key: Key,
    energy_fn: Callable[[Params, Array], Array],
    params: Params,
    base: Base,
    *,
    chains: int = 128,
    bridges: int = 1000,
    step_size: float = 0.1,
    kernel: Callable[[Array], Kernel] | None = None,
    target_acceptance: float = 0.65,
    batch_size: int = 256,
    starts: np.ndarray | None = None,
    description: str = 'annealed importance sampling',
) -> Estimate:
    """log Z by annealed importance sampling, or, from `starts`, by its reverse.

        log w = sum_t (b_{t+1} - b_t) [E_base(x_t) - E(x_t)],   x_t ~ kernel of E_{b_t}
        log Z = log mean exp(log w)

    The expectation of the estimate is at most log Z. The reverse goes from exact samples of the
    target to the base; its estimate, -log mean exp(-log w), is at least log Z in expectation.

    The step size of each bridge comes from a pilot run, in which it follows the mean acceptance;
    the estimate is of a second run with these step sizes fixed, and so without bias by them (of the
    reverse both runs begin at the same samples).

    Args:
      energy_fn: (params, x) -> scalar of one example.
      base: where the bridge begins. chains: n >= 2. bridges: steps of b, >= 1.
      step_size: of the first bridge in the pilot run, > 0.
      kernel: step size -> a kernel with a Metropolis test; default `leapfrogs()`.
      target_acceptance: in (0, 1), which the pilot run steers to.
      starts: None, or [n, ...], exact samples of the target, for the reverse.
    Returns: Estimate; for the reverse, its log_weights and x are those of the way back.
    Raises: ValueError when out of range.
    Source: Neal 2001; the reverse: Grosse et al. 2015. Step sizes by a pilot run: ours.
    """
    if chains < 2 or not 0 < target_acceptance < 1 or not step_size > 0:
        raise ValueError(
            'chains must be at least 2, target_acceptance in (0, 1) and step_size > 0, got '
            f'{chains}, {target_acceptance} and {step_size}'
        )
    make, backwards = kernel or leapfrogs(), starts is not None
    schedule = sigmoid_schedule(bridges)
    schedule = schedule[::-1] if backwards else schedule
    changes = jnp.asarray(np.stack([schedule[:-1], schedule[1:]], 1), jnp.float32)

    def bridge(params, b):
        return lambda x: (1 - b) * base.energy(x) + b * energy_fn(params, x)

    def move(params, key, x, b, step_size):
        energy, mover = bridge(params, b), make(step_size)
        state, info = mover.step(key, mover.init(x, energy), energy)
        return state.position, info.acceptance

    def gain(params, x, change):
        return (change[1] - change[0]) * (base.energy(x) - energy_fn(params, x))

    @jax.jit
    def pilot(key, params, x):
        """The step size of each bridge, as it follows the acceptance of all chains."""

        def step(carry, t):
            x, log_step = carry
            keys = jax.random.split(jax.random.fold_in(key, t), len(x))
            moved = jax.vmap(move, (None, 0, 0, None, None))
            x, accepted = moved(params, keys, x, changes[t, 1], jnp.exp(log_step))
            return (x, log_step + 0.2 * (jnp.mean(accepted) - target_acceptance)), log_step

        # settles at the first bridge before it moves on
        order = jnp.concatenate([jnp.zeros(50, jnp.int32), jnp.arange(bridges)])
        _, log_steps = jax.lax.scan(step, (x, jnp.log(jnp.float32(step_size))), order)
        return jnp.exp(log_steps[50:])

    def one(params_and_steps, key, x):
        params, step_sizes = params_and_steps

        def step(carry, t):
            x, log_weight = carry
            log_weight = log_weight + gain(params, x, changes[t])
            x, accepted = move(params, jax.random.fold_in(key, t), x, changes[t, 1], step_sizes[t])
            return (x, log_weight), accepted

        (x, log_weight), accepted = jax.lax.scan(step, (x, jnp.zeros(())), jnp.arange(bridges))
        return x, log_weight, accepted

    start_key, pilot_key, run_key, own_key = jax.random.split(key, 4)
    some: Array
    if starts is None:
        begin = jax.vmap(base.sample)(jax.random.split(start_key, chains))
        some = jax.vmap(base.sample)(jax.random.split(own_key, min(chains, batch_size)))
    else:
        begin = jnp.asarray(starts)
        some = begin[:batch_size]
    step_sizes = pilot(pilot_key, params, some)
    x, log_weights, accepted = batching.for_each(
        one,
        (params, step_sizes),
        run_key,
        [np.asarray(begin)],
        batch_size=batch_size,
        description=description,
    )
    return _estimate(log_weights, x, accepted.mean(0), -1.0 if backwards else 1.0)


def _estimate(log_weights, x, acceptance, sign=1.0):
    """Estimate of weights whose mean is Z; of the reverse, sign = -1, 1 / Z."""
    log_weights = np.asarray(log_weights, np.float64)

    def log_mean(w, axis=-1):
        return sign * (logsumexp(w, axis=axis) - np.log(w.shape[axis]))

    found = stats.bootstrap(
        (log_weights,),
        log_mean,
        method='percentile',
        n_resamples=500,
        rng=np.random.default_rng(0),
    ).confidence_interval
    size = np.exp(2 * logsumexp(log_weights) - logsumexp(2 * log_weights))
    return Estimate(
        float(log_mean(log_weights)),
        (float(found.low), float(found.high)),
        float(size),
        log_weights,
        np.asarray(x),
        np.asarray(acceptance),
    )


def tempered_smc(
    key: Key,
    energy_fn: Callable[[Params, Array], Array],
    params: Params,
    base: Base,
    *,
    chains: int = 512,
    moves: int = 20,
    step_size: float = 0.05,
    num_leapfrog: int = 5,
    target_ess: float = 0.9,
    repeats: int = 4,
    max_bridges: int = 2000,
) -> Estimate:
    """log Z by adaptive tempered sequential Monte Carlo of blackjax, moves by its HMC.

    Each bridge is as long as keeps `target_ess` of the chains effective; then they are resampled
    and moved. Its step size follows the mean acceptance of the moves to .65.

    Args:
      chains: n >= 2. moves: of each chain at each bridge. step_size: of the first bridge.
      target_ess: share in (0, 1). repeats: independent runs, whose spread gives the interval.
    Returns: Estimate; its log_weights are the estimates of the repeats, its acceptance has one
      entry for each bridge of the last.
    Raises: InputError where blackjax is not installed or b does not reach 1 in `max_bridges`.
    Source: Del Moral et al. 2006.
    """
    try:
        import blackjax
    except ImportError as error:
        raise InputError("tempered SMC needs blackjax: pip install 'ebm_jax[density]'") from error
    example, flat = jax.flatten_util.ravel_pytree(base.sample(jax.random.key(0)))

    def log_prior(v):
        return -base.energy(flat(v))

    def log_likelihood(v):
        return base.energy(flat(v)) - energy_fn(params, flat(v))

    hmc_step = blackjax.hmc.build_kernel()

    def moved(key, state, log_density, step_size):
        mass = jnp.ones(example.size)
        return hmc_step(key, state, log_density, step_size, mass, num_leapfrog)

    kernel = blackjax.smc.adaptive_tempered.build_kernel(
        log_prior,
        log_likelihood,
        moved,
        blackjax.hmc.init,
        blackjax.smc.resampling.systematic,
        target_ess,
    )

    @jax.jit
    def bridge(key, state, step_size):
        state, info = kernel(key, state, moves, {'step_size': step_size[None]})
        accepted = jnp.mean(info.update_info.acceptance_rate)
        step_size = step_size * jnp.exp(0.5 * (accepted - 0.65))
        return state, step_size, info.log_likelihood_increment, accepted

    estimates: list[float] = []
    acceptance: list[float] = []
    x = np.zeros(0)
    for i in range(repeats):
        start_key, run_key = jax.random.split(jax.random.fold_in(key, i))
        begin = jax.vmap(base.sample)(jax.random.split(start_key, chains))
        state = blackjax.smc.tempered.init(begin.reshape(chains, -1))
        step, log_z, acceptance = jnp.float32(step_size), 0.0, []
        while float(state.tempering_param) < 1:
            if len(acceptance) >= max_bridges:
                raise InputError(
                    f'tempered SMC has reached b = {float(state.tempering_param):.3g} in '
                    f'{max_bridges} bridges: raise max_bridges, or lower target_ess'
                )
            run_key, move_key = jax.random.split(run_key)
            state, step, increment, accepted = bridge(move_key, state, step)
            log_z += float(increment)
            acceptance.append(float(accepted))
        estimates.append(log_z)
        x = np.asarray(jax.vmap(flat)(state.particles))
    values = np.array(estimates)
    half = 1.96 * values.std(ddof=1) / np.sqrt(repeats) if repeats > 1 else np.inf
    mean = float(values.mean())
    return Estimate(
        mean, (mean - half, mean + half), float(chains), values, x, np.array(acceptance)
    )


def bits_per_dimension(log_px: ArrayLike, size: int, levels: int = 256) -> np.ndarray:
    """Bits of each entry of images with so many levels, from log p(x) of their dequantised values
    on [-1, 1]:

        x = 2 (k + u) / levels - 1,   u ~ U(0, 1)
        bits = log2(levels / 2) - log2 p(x) / D

    An upper bound of the bits of the discrete images (Theis et al. 2016).

    Args: log_px: nats, any shape. size: D.
    """
    return np.log2(levels / 2) - np.asarray(log_px) / (size * np.log(2))
