"""Diagnosis of chains: what moves them, whether they would be accepted, whether they mix."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ebm_jax import batching
from ebm_jax.mcmc import langevin_log_ratio
from ebm_jax.types import Array, ArrayLike, Kernel, Key, ParamEnergyFn, Params

# of a position: E(x), mean and standard deviation of its entries
STATISTICS = ('energy', 'mean', 'contrast')


def observe(
    energy_fn: ParamEnergyFn,
    kernel: Kernel,
    num_steps: int,
    *,
    step_size: ArrayLike,
    noise: ArrayLike | None,
) -> Callable[..., tuple[Array, dict[str, Array]]]:
    """A chain that keeps scalars of each step, never positions: (params, key, x, label) -> (energy
    of x, {name: [num_steps]}).

    The acceptance is that of a Metropolis test of the plain Langevin proposal, which an unadjusted
    chain does not make:

        min(1, exp(-(E(x') - E(x)) / T) q(x|x') / q(x'|x))
        q(x'|x) = N(x - a grad E(x), n^2 I),   T = n^2 / (2 a)

    Near 1 the chain follows exp(-E / T); at 0 it is a descent with noise, whatever its samples look
    like.

    Args:
      energy_fn: (params, x, label) -> scalar. num_steps: int >= 1.
      step_size: a > 0. noise: n > 0, or None for kernels with their own test, whose acceptance is
        then reported. Both may be traced.
    Traces: STATISTICS after each step; 'drift_to_noise', a |grad E| / (n sqrt(D)) before it (with
      noise only); 'acceptance', which `walk` leaves out where there is no test; 'clipped' and
      'saturated', shares of entries, see types.Info.
    Source: Roberts & Tweedie 1996 for the test.
    """
    temperature = None if noise is None else noise**2 / (2 * step_size)

    def one(params, key, x, label):
        def energy(x):
            return energy_fn(params, x, label)

        def flat(tree):
            return ravel_pytree(tree)[0]

        def step(carry, t):
            state, e, g = carry
            x = flat(state.position)
            state, info = kernel.step(jax.random.fold_in(key, t), state, energy)
            e_there, grad = jax.value_and_grad(energy)(state.position)
            there, g_there = flat(state.position), flat(grad)
            seen = {
                'energy': e_there,
                'mean': jnp.mean(there),
                'contrast': jnp.std(there),
                'acceptance': info.acceptance,
                'clipped': info.clipped,
                'saturated': info.saturated,
            }
            if noise is not None and temperature is not None:
                log_ratio = langevin_log_ratio(
                    (x, e, g), (there, e_there, g_there), step_size, temperature
                )
                seen['acceptance'] = jnp.exp(jnp.minimum(log_ratio, 0.0))
                drift = step_size * jnp.linalg.norm(g)
                seen['drift_to_noise'] = drift / (noise * jnp.sqrt(x.size))
            return (state, e_there, g_there), seen

        e, grad = jax.value_and_grad(energy)(x)
        begin = kernel.init(x, energy), e, flat(grad)
        _, traces = jax.lax.scan(step, begin, jnp.arange(num_steps))
        return e, traces

    return one


def walk(
    key: Key,
    energy_fn: ParamEnergyFn,
    params: Params,
    kernel: Kernel,
    initial_positions: np.ndarray,
    labels: np.ndarray,
    num_steps: int,
    *,
    step_size: float,
    noise: float | None,
) -> dict[str, np.ndarray]:
    """Run long chains, one from each initial position, and `observe` them.

    Args: initial_positions: initial positions [N, ...]. labels: int [N]. The rest as in `observe`.
    Returns: {name: [N, num_steps]}.
    """
    one = observe(energy_fn, kernel, num_steps, step_size=step_size, noise=noise)

    def traces(*chain):
        return one(*chain)[1]

    found = batching.for_each(
        traces,
        params,
        key,
        [np.asarray(initial_positions), np.asarray(labels, np.int32)],
        description='long chains',
    )
    if noise is None and np.all(found['acceptance'] == 1):  # a kernel without a test, see Info
        del found['acceptance']
    return found


def mixing(traces: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Whether chains forget where they began: bulk effective sample size and split R-hat of each
    statistic, over the second half.

    R-hat well above 1 (1.01 is the usual threshold) means that the chains have not mixed.

    Args: traces: {name: [N chains, steps]}, at least 4 chains and 8 steps.
    Returns: {name: {'ess', 'r_hat'}}.
    Source: Vehtari et al. 2021, by arviz.
    """
    from arviz_stats.base import array_stats  # not needed where nothing is evaluated

    later = {
        name: trace[:, trace.shape[1] // 2 :].astype(np.float64) for name, trace in traces.items()
    }
    return {
        name: {
            'ess': float(array_stats.ess(trace, method='bulk')),
            'r_hat': float(array_stats.rhat(trace, method='split')),
        }
        for name, trace in later.items()
    }
