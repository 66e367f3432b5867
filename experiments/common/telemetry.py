"""Telemetry of the chains of a run while it trains: 'chains/...' in metrics.jsonl, every
`evaluate_every` steps."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.evaluate import mixing
from ebm_jax.train import TrainState
from experiments.common.building import waiting_chains
from experiments.common.experiment import Experiment

NUM = 32  # chains that are observed


def with_telemetry(experiment: Experiment, seed: int) -> Experiment:
    """The experiment with telemetry of its chains added to what `fit` evaluates; unchanged where
    there is no energy."""
    if experiment.chains is None or not experiment.recipe.method.gradients_per_step:
        return experiment
    telemetry, evaluate = telemetry_of(experiment, seed), experiment.recipe.evaluate

    def evaluate_both(state):
        own = evaluate(state) if evaluate is not None else {}
        return own | telemetry(state)

    recipe = dataclasses.replace(experiment.recipe, evaluate=evaluate_both)
    return dataclasses.replace(experiment, recipe=recipe)


def buffer_ages(state: TrainState) -> np.ndarray | None:
    """Ages of all chains in the buffer, in rounds of sampling; None without a buffer."""
    waiting = waiting_chains(state)
    return None if waiting is None else waiting.age[waiting.age >= 0]


def age_percentiles(ages: np.ndarray) -> dict[str, float]:
    """{'p10', 'p50', 'p90', 'p100'}."""
    return {f'p{q}': float(np.percentile(ages, q)) for q in (10, 50, 90, 100)}


def telemetry_of(experiment: Experiment, seed: int) -> Callable[[TrainState], dict[str, float]]:
    """Runs NUM of the training chains for the K steps of one round, from their current positions.

    'chains/energy_at_N': mean energy after none, a third, two thirds and all of the K steps.
    'chains/drift_to_noise', 'chains/acceptance' (of a Metropolis test, which unadjusted chains do
    not perform), 'chains/clipped', 'chains/saturated': means over chains and steps, see
    `evaluate.mixing.observe`; the first two only where chains have noise. 'chains/age_pQ':
    percentiles of the ages in the buffer.
    """
    chains, model = experiment.chains, experiment.model

    @partial(jax.jit, static_argnums=0)
    def run(num_steps, params, keys, x, labels, numbers):
        one = mixing.observe(
            model.energy_fn,
            chains.make_kernel(**numbers),
            num_steps,
            step_size=numbers['step_size'],
            noise=numbers.get('noise_scale'),
        )
        initial, traces = jax.vmap(one, (None, 0, 0, 0))(params, keys, x, labels)
        means = {name: jnp.mean(trace, 0) for name, trace in traces.items()}
        return jnp.mean(initial), means

    def positions(state, params, key):
        """(positions, labels): entries spread over the buffer; without a buffer, initial
        positions."""
        waiting = waiting_chains(state)
        if waiting is None:
            labels, keys = jnp.asarray(model.labels(NUM)), jax.random.split(key, NUM)
            return jax.vmap(partial(model.initial_sampler, params))(keys, labels), labels
        filled = np.flatnonzero(waiting.age >= 0)
        chosen = filled[np.linspace(0, len(filled) - 1, NUM).astype(int)]
        return jax.tree.map(lambda leaf: leaf[chosen], waiting.position), waiting.label[chosen]

    def telemetry(state):
        state = jax.device_get(state.replace(opt_state=(), key=()))
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        initial_key, key = jax.random.split(key)
        params, numbers, steps = state.eval_params, chains.numbers(state), chains.steps_of(state)
        initial, means = run(
            steps,
            params,
            jax.random.split(key, NUM),
            *positions(state, params, initial_key),
            numbers,
        )
        energies = [float(initial), *map(float, means['energy'])]
        found = {
            f'energy_at_{t}': energies[t] for t in sorted({0, steps // 3, 2 * steps // 3, steps})
        }
        names = ['clipped', 'saturated']
        if numbers.get('noise_scale', 1) > 0:
            names += [name for name in ('drift_to_noise', 'acceptance') if name in means]
        found |= {name: float(jnp.mean(means[name])) for name in names}
        ages = buffer_ages(state)
        if ages is not None and len(ages):
            found |= {f'age_{name}': value for name, value in age_percentiles(ages).items()}
        return {f'chains/{name}': value for name, value in found.items()}

    return telemetry
