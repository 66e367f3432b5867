"""How healthy chains are: what moves them, whether they would be accepted, whether they mix."""
import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats
from jax.flatten_util import ravel_pytree

from ebm_jax import devices
from ebm_jax.mcmc import langevin_log_ratio

STATISTICS = ('energy', 'mean', 'contrast')   # of a position: E(x), mean and standard deviation of its entries


def observe(energy_fn, kernel, num_steps, *, step_size, noise):
    """A chain that keeps scalars of each step, never positions: (params, key, x, label) -> (energy of x, {name: [num_steps]}).

    The acceptance is that of a Metropolis test of the plain Langevin proposal, which an unadjusted chain does not make:
        min(1, exp(-(E(x') - E(x)) / T) q(x|x') / q(x'|x)),   q(x'|x) = N(x - a grad E(x), n^2 I),   T = n^2 / (2 a)
    Near 1 the chain follows exp(-E / T); at 0 it is a descent with noise, whatever its samples look like.

    Args: energy_fn: (params, x, label) -> scalar. num_steps: int >= 1. step_size: a > 0. noise: n > 0. Both may be traced.
    Traces: STATISTICS after each step; 'drift_to_noise', a |grad E| / (n sqrt(D)) before it; 'acceptance'; 'clipped' and 'saturated',
      shares of entries, see types.Info.
    Source: Roberts & Tweedie 1996 for the test.
    """
    temperature = noise ** 2 / (2 * step_size)

    def one(params, key, x, label):
        energy = lambda x: energy_fn(params, x, label)
        flat = lambda tree: ravel_pytree(tree)[0]

        def step(carry, t):
            state, e, g = carry
            x = flat(state.position)
            state, info = kernel.step(jax.random.fold_in(key, t), state, energy)
            e_there, grad = jax.value_and_grad(energy)(state.position)
            there, g_there = flat(state.position), flat(grad)
            log_ratio = langevin_log_ratio((x, e, g), (there, e_there, g_there), step_size, temperature)
            seen = {'energy': e_there, 'mean': jnp.mean(there), 'contrast': jnp.std(there),
                    'drift_to_noise': step_size * jnp.linalg.norm(g) / (noise * jnp.sqrt(x.size)),
                    'acceptance': jnp.exp(jnp.minimum(log_ratio, 0.0)), 'clipped': info.clipped, 'saturated': info.saturated}
            return (state, e_there, g_there), seen

        e, grad = jax.value_and_grad(energy)(x)
        return e, jax.lax.scan(step, (kernel.init(x, energy), e, flat(grad)), jnp.arange(num_steps))[1]

    return one


def walk(key, energy_fn, params, kernel, starts, labels, num_steps, *, step_size, noise):
    """Run long chains, one from each start, and `observe` them.

    Args: starts: [N, ...]. labels: int [N]. The rest as in `observe`. Returns: {name: [N, num_steps]}.
    """
    one = observe(energy_fn, kernel, num_steps, step_size=step_size, noise=noise)
    traces = lambda *chain: one(*chain)[1]
    return devices.for_each(traces, params, key, [np.asarray(starts), np.asarray(labels, np.int32)], description='long chains')


def mixing(traces):
    """Whether chains forget where they began: bulk effective sample size and split R-hat of each statistic, over the later half.

    Args: traces: {name: [N chains, steps]}, at least 4 chains and 8 steps. Returns: {name: {'ess', 'r_hat'}}.
    R-hat well above 1 (1.01 is the usual bar) means that the chains have not mixed. Source: Vehtari et al. 2021, by arviz.
    """
    later = {name: trace[:, trace.shape[1] // 2:].astype(np.float64) for name, trace in traces.items()}
    return {name: {'ess': float(array_stats.ess(trace, method='bulk')), 'r_hat': float(array_stats.rhat(trace, method='split'))}
            for name, trace in later.items()}
