"""What the chains of a run are doing, as rows of metrics.jsonl while it trains ('chains/...'), every `evaluate_every` steps."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import mcmc
from ebm_jax.evaluate import chains
from ebm_jax.types import UNLABELLED
from experiments.parts import averaged, noise_scale_of

NUM = 32   # chains that are watched


def watching_chains(parts, config):
    """The parts of a run with telemetry of its chains added to what `fit` evaluates; as they are where there is no energy to follow."""
    if parts.energy_fn is None or not parts.fit['method'].gradients_per_step:
        return parts
    telemetry, evaluate = telemetry_of(parts, config), parts.fit.get('evaluate') or (lambda state: {})
    return parts._replace(fit={**parts.fit, 'evaluate': lambda state: evaluate(state) | telemetry(state)})


def labels_of(parts, n):
    """Of n chains that begin anew: none where the energy allows that, else the classes in turn."""
    return np.full(n, UNLABELLED) if parts.unlabelled else np.arange(n) % parts.train.num_classes


def ages_of(state):
    """Of all chains that a buffer holds, in rounds of sampling; None without a buffer."""
    buffer = getattr(state.chains, 'buffer', None)
    ages = None if buffer is None else np.asarray(buffer.age).reshape(-1)
    return None if ages is None else ages[ages >= 0]


def age_figures(ages):
    return {f'p{q}': float(np.percentile(ages, q)) for q in (10, 50, 90, 100)}


def chain_settings(config):
    """Of the chains in x that training runs."""
    return config.get('sampler') or config.x_chain


def telemetry_of(parts, config):
    """TrainState -> {name: float}: NUM of the training's chains are run for the K steps of one round, from where they stand.

    'chains/energy_at_N': mean energy after none, a third, two thirds and all of the K steps. 'chains/drift_to_noise', 'chains/acceptance'
    (of a Metropolis test that the chains do not make), 'chains/clipped', 'chains/saturated': means over chains and steps, see
    `evaluate.chains.observe`; the first two only where chains have noise. 'chains/age_pQ': percentiles of ages in the buffer.
    """
    c = chain_settings(config)

    @partial(jax.jit, static_argnums=0)
    def walk(steps, params, keys, x, labels, settings):
        kernel = mcmc.langevin(**settings, **parts.kernel_options)
        one = chains.observe(parts.energy_fn, kernel, steps, step_size=settings['step_size'], noise=settings['noise_scale'])
        start, seen = jax.vmap(one, (None, 0, 0, 0))(params, keys, x, labels)
        return jnp.mean(start), {name: jnp.mean(trace, 0) for name, trace in seen.items()}

    def begin(state, params, key):
        """(positions, labels): entries of the buffer, spread over it; without one where chains of the run begin."""
        buffer = getattr(state.chains, 'buffer', None)
        if buffer is None:
            labels = jnp.asarray(labels_of(parts, NUM))
            return jax.vmap(lambda key, label: parts.start(params, key, label))(jax.random.split(key, NUM), labels), labels
        flat = lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:])
        filled = np.flatnonzero(flat(buffer.age) >= 0)
        pick = filled[np.linspace(0, len(filled) - 1, NUM).astype(int)]
        return jax.tree.map(lambda leaf: flat(leaf)[pick], buffer.position), flat(buffer.label)[pick]

    def telemetry(state):
        state = jax.device_get(state.replace(opt_state=(), key=()))
        start_key, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), state.step))
        params, settings, steps = averaged(state), langevin_settings(c, state), steps_of(c, state)
        start, seen = walk(steps, params, jax.random.split(key, NUM), *begin(state, params, start_key), settings)
        trace = [float(start), *map(float, seen['energy'])]
        figures = {f'energy_at_{t}': trace[t] for t in sorted({0, steps // 3, 2 * steps // 3, steps})}
        figures |= {name: float(jnp.mean(seen[name])) for name in ('drift_to_noise', 'acceptance', 'clipped', 'saturated')
                    if settings['noise_scale'] > 0 or name in ('clipped', 'saturated')}
        ages = ages_of(state)
        figures |= {f'age_{name}': value for name, value in age_figures(ages).items()} if ages is not None and len(ages) else {}
        return {f'chains/{name}': value for name, value in figures.items()}

    return telemetry


def langevin_settings(c, state):
    """Arguments of `mcmc.langevin` for the training's chains: as configured, or as the sampler has tuned them."""
    if c.get('adaptive', False):
        a, divisor, decay, momentum = map(float, np.asarray(state.chains.sampler.settings)[0])
        return {'step_size': a, 'noise_scale': (2 * a) ** 0.5 / divisor, 'decay': decay, 'momentum': momentum}
    return {'step_size': c.step_size, 'noise_scale': noise_scale_of(c)} | ({'momentum': c.momentum} if c.get('momentum', 0) else {})


def steps_of(c, state):
    """K of the next round of sampling."""
    every = c.get('extra_step_every', 0)
    return c.num_steps + (int(np.asarray(state.chains.calls)[0]) // every if every else 0)
