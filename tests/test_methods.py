"""Every method through the same checks; what each has of its own is in test_jem.py, test_icd.py,
..."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from methods_under_test import BATCH, METHODS, prepared, sampler_of, total

from ebm_jax import devices, versions
from ebm_jax.train import Recipe, make_local_step, per_network, state_shapes


@pytest.mark.parametrize('name', METHODS)
def test_chains_keep_their_structure_and_move(name):
    method = METHODS[name]
    _, chains, _, after = prepared(method)
    chex.assert_trees_all_equal_shapes_and_dtypes(chains, after)
    if chains == ():  # no chain outlives its step
        pytest.skip('this method keeps no chains')
    # one axis of shards, everywhere
    assert len({leaf.shape[0] for leaf in jax.tree.leaves(chains)}) == 1
    assert not np.array_equal(chains.buffer.position, after.buffer.position)


@pytest.mark.parametrize('name', METHODS)
def test_every_parameter_learns(name):
    method = METHODS[name]
    params, _, samples, _ = prepared(method)
    grads = jax.jit(jax.grad(total(method)))(params, samples)
    chex.assert_tree_all_finite(grads)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        # an energy's constant is not learned
        only_shifts = (
            name in ('cd', 'pcd', 'guide', 'energy_matching')
            and jax.tree_util.keystr(path) == "['Dense_0']['bias']"
        )
        assert np.any(np.asarray(leaf) != 0) != only_shifts, jax.tree_util.keystr(path)


@pytest.mark.parametrize('name', METHODS)
def test_no_gradient_flows_through_the_chains(name):
    method = METHODS[name]
    params, chains, _, _ = prepared(method)

    def loss(params):
        samples, _ = method.sample(jax.random.key(1), params, chains, BATCH)
        return jnp.sum(samples.x)

    grads = jax.jit(jax.grad(loss))(params)
    chex.assert_trees_all_equal(grads, jax.tree.map(jnp.zeros_like, grads))


@pytest.mark.parametrize('name', METHODS)
def test_sampling_is_a_function_of_its_key(name):
    method = METHODS[name]
    params, chains, samples, _ = prepared(method)
    again, _ = sampler_of(method)(jax.random.key(1), params, chains, BATCH)
    other, _ = sampler_of(method)(jax.random.key(2), params, chains, BATCH)
    np.testing.assert_array_equal(samples.x, again.x)
    assert not np.array_equal(samples.x, other.x)


@pytest.mark.slow
@pytest.mark.parametrize('name', METHODS)
def test_nothing_recompiles_from_step_to_step(name):
    method = METHODS[name]
    params, chains, _, _ = prepared(method)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(key, params, chains):
        samples, chains = method.sample(key, params, chains, BATCH)
        return method.loss(params, key, BATCH, samples), chains

    for seed in range(3):
        _, chains = step(jax.random.key(seed), params, chains)


@pytest.mark.parametrize('name', METHODS)
def test_a_step_keeps_its_types_where_jax_computes_in_64_bits(name):
    """With float32 parameters and data, the chains, the optimiser and the parameters of the next
    step are float32, too (or the next step would be compiled again)."""
    method, optimizer = METHODS[name], optax.adam(0.1)
    taught = {network for part in method.rounds for network in part.teaches or ()}
    recipe = Recipe(
        method=method,
        optimizer=per_network(dict.fromkeys(taught, optimizer)) if taught else optimizer,
        batch_at=lambda step: BATCH,
        prepare=lambda key, x: x,
        ema=0.9,
    )
    state = state_shapes(recipe)
    with versions.enable_x64(True):
        step = make_local_step(recipe, watch_every=2)
        after = jax.eval_shape(jax.vmap(step, axis_name=devices.AXIS), *_with_axis(state))
    chex.assert_trees_all_equal_dtypes(_with_axis(state)[0], after[0])


def _with_axis(state):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), (state, BATCH)
    )
