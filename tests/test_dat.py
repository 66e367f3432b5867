"""Dual adversarial training against binary cross-entropy, and its pieces."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_under_test import BATCH, NETWORK, make_dat, prepared

from ebm_jax import kernels
from ebm_jax import objectives as obj
from ebm_jax.types import UNCONDITIONAL
from ebm_jax.validity import EXCLUDED


def energies(params, x):
    return jax.vmap(lambda x: obj.marginal_energy(NETWORK.apply(params, x)))(x)


def test_the_contrast_has_the_gradient_of_binary_cross_entropy():
    method = make_dat(p_x_weight=0.7)
    params, _, samples, _ = prepared(method)

    def written(params):
        terms, _ = method.loss(params, jax.random.key(0), BATCH, samples)
        return sum(terms.values())

    def closed(params):
        logits = jax.vmap(NETWORK.apply, (None, 0))(params, samples.attacked)
        log_p = jax.nn.log_softmax(logits)[jnp.arange(16), BATCH['y']]
        real = jax.nn.log_sigmoid(-energies(params, BATCH['x']))
        made = jax.nn.log_sigmoid(energies(params, samples.x))
        return -jnp.mean(log_p) - 0.7 * (jnp.mean(real) + jnp.mean(made))

    chex.assert_trees_all_close(
        jax.jit(jax.grad(written))(params), jax.jit(jax.grad(closed))(params), atol=1e-5
    )


def test_logistic_weights_by_hand_and_without_diverged_chains():
    weights = obj.logistic(jnp.array([0.0, 100.0]), jnp.array([0.0, EXCLUDED, -100.0, 100.0]))
    np.testing.assert_allclose(weights.positives, [0.25, 0.0], atol=1e-6)
    np.testing.assert_allclose(weights.negatives, [0.5 / 3, 0.0, 1 / 3, 0.0], atol=1e-6)


def test_steps_of_one_length_down_a_quadratic():
    target = jnp.array([3.0, -4.0])
    kernel = kernels.steepest_descent(0.5)

    def energy(x):
        return jnp.sum((x - target) ** 2)

    state, info = kernel.step(jax.random.key(0), kernel.init(jnp.zeros(2), energy), energy)
    np.testing.assert_allclose(state.position, 0.5 * target / 5, rtol=1e-6)
    np.testing.assert_allclose([info.energy, info.grad_norm], [25.0, 10.0], rtol=1e-6)
    bounded = kernels.steepest_descent(0.5, bounds=(-0.1, 0.1))
    state, info = bounded.step(jax.random.key(0), bounded.init(jnp.zeros(2), energy), energy)
    np.testing.assert_allclose(state.position, [0.1, -0.1])
    assert info.saturated == 1.0


def test_attacked_examples_are_those_of_the_adversary_and_teach_the_classifier_only():
    def adversary(key, logits, x, label):
        return x + jnp.sign(label - 1.5)

    method = make_dat(adversary=adversary)
    params, _, samples, _ = prepared(method)
    shift = np.sign(np.asarray(BATCH['y']) - 1.5).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(samples.attacked, BATCH['x'] + shift, atol=1e-6)
    terms, _ = method.loss(params, jax.random.key(0), BATCH, samples)
    moved = samples.replace(attacked=-samples.attacked)
    others, _ = method.loss(params, jax.random.key(0), BATCH, moved)
    assert terms['classifier'] != others['classifier']
    assert terms['positives'] == others['positives']


def test_accuracy_is_that_of_the_examples_with_a_label():
    """Those without one are neither right nor wrong."""
    method = make_dat()
    params, _, samples, _ = prepared(method)
    logits = jax.vmap(NETWORK.apply, (None, 0))(params, BATCH['x'])
    right = jnp.argmax(logits, 1).astype(jnp.int32).at[::2].set(UNCONDITIONAL)
    _, found = method.loss(params, jax.random.key(0), {**BATCH, 'y': right}, samples)
    assert found['accuracy'] == 1.0


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match='multiple of shards'):
        make_dat(num_negatives=6)
    with pytest.raises(ValueError, match='num_steps'):
        make_dat(num_steps=0)
