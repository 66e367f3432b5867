"""Energies and losses against closed forms and hand-computed numbers."""

import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import log_softmax, logsumexp

from ebm_jax import objectives as obj
from ebm_jax.types import UNCONDITIONAL

RNG = np.random.default_rng(0)
N, M, C = 8, 6, 5
POS, NEG = jnp.asarray(RNG.normal(size=(N, C)) * 2), jnp.asarray(RNG.normal(size=(M, C)) * 2)
LABELS = jnp.asarray(RNG.integers(0, C, N))
energies = jax.vmap(obj.marginal_energy)
E_POS, E_NEG = energies(POS), energies(NEG)


def test_marginal_energy_sums_the_joint_ones():
    for logits in POS:
        joint = [float(obj.joint_energy(logits, y)) for y in range(C)]
        np.testing.assert_allclose(
            np.exp(-obj.marginal_energy(logits)), np.exp(-np.array(joint)).sum(), rtol=1e-5
        )
        np.testing.assert_allclose(obj.energy_of(logits, 2), joint[2])
        np.testing.assert_allclose(
            obj.energy_of(logits, UNCONDITIONAL), obj.marginal_energy(logits)
        )


def test_a_shift_of_the_energy_changes_no_contrast():
    for rule in (
        obj.uniform,
        obj.balanced,
        partial(obj.balanced, beta=0.3, include_positives=False),
    ):
        e_pos, e_neg = energies(POS), energies(NEG)
        before = sum(obj.contrast(e_pos, e_neg, rule(e_pos, e_neg)))
        after = sum(obj.contrast(e_pos + 7.0, e_neg + 7.0, rule(e_pos + 7.0, e_neg + 7.0)))
        np.testing.assert_allclose(after, before, atol=1e-5)


def coefficients(rule):
    """d contrast / dE of every positive and negative."""

    def loss(e):
        return sum(obj.contrast(e[:N], e[N:], rule(e[:N], e[N:])))

    return jax.grad(loss)(jnp.concatenate([energies(POS), energies(NEG)]))


@pytest.mark.parametrize(
    'rule',
    [
        obj.uniform,
        obj.balanced,
        partial(obj.balanced, beta=0.5),
        partial(obj.balanced, include_positives=False),
    ],
)
def test_coefficients_sum_to_zero(rule):
    np.testing.assert_allclose(coefficients(rule).sum(), 0, atol=1e-6)


def loss_x(pos, neg):
    s = logsumexp(jnp.concatenate([pos, neg]), 1)
    return -jnp.mean(logsumexp(pos, 1) - logsumexp(s))


def loss_xy(pos, neg):
    counts = jnp.bincount(LABELS, length=C)
    return (
        counts @ logsumexp(jnp.concatenate([pos, neg]), 0)
        - jnp.take_along_axis(pos, LABELS[:, None], 1).sum()
    ) / N


def test_balanced_contrast_has_the_gradient_of_its_log_sum_exp_form():
    def contrast(pos, neg):
        return sum(
            obj.contrast(energies(pos), energies(neg), obj.balanced(energies(pos), energies(neg)))
        )

    ours, closed = (jax.grad(loss, (0, 1))(POS, NEG) for loss in (contrast, loss_x))
    chex.assert_trees_all_close(ours, closed, rtol=1e-7, atol=1e-6)


def test_class_contrast_has_the_gradient_of_its_log_sum_exp_form():
    def contrast(pos, neg):
        return sum(obj.class_contrast(pos, LABELS, neg, obj.balanced(-pos, -neg)))

    ours, closed = (jax.grad(loss, (0, 1))(POS, NEG) for loss in (contrast, loss_xy))
    chex.assert_trees_all_close(ours, closed, rtol=1e-7, atol=1e-6)


def test_joint_loss_is_conditional_plus_marginal_loss():
    """L_J = L_yx + L_x, with L_J = -(1/N) sum_i log q(x_i, y_i)."""
    joint = -jnp.mean(
        jnp.take_along_axis(POS, LABELS[:, None], 1)[:, 0] - logsumexp(jnp.concatenate([POS, NEG]))
    )
    np.testing.assert_allclose(joint, obj.cross_entropy(POS, LABELS) + loss_x(POS, NEG), rtol=1e-5)


def test_information_is_the_difference_of_the_losses():
    np.testing.assert_allclose(
        obj.batch_information(POS, LABELS, NEG), loss_x(POS, NEG) - loss_xy(POS, NEG), rtol=1e-5
    )


def test_beta_zero_is_plain_jem_up_to_the_share_of_negatives():
    plain = coefficients(obj.uniform)
    np.testing.assert_allclose(
        coefficients(partial(obj.balanced, beta=0.0, include_positives=False)), plain, atol=1e-6
    )
    np.testing.assert_allclose(
        coefficients(partial(obj.balanced, beta=0.0)), plain * M / (N + M), atol=1e-6
    )


@pytest.mark.parametrize(
    'gap, total', [(0, 6 / 14), (2, 0.092), (5, 5.03e-3), (10, 3.4e-5), (20, 1.55e-9)]
)
def test_total_negative_weight_falls_with_the_gap(gap, total):
    """N = 8, M = 6: M e^-D / (N + M e^-D); the card rounds these to 0.45, 0.1, 4e-3, 5e-5, 2e-9."""
    weights = obj.balanced(jnp.zeros(8), jnp.full(6, float(gap)))
    np.testing.assert_allclose(weights.negatives.sum(), total, rtol=0.01)
    np.testing.assert_allclose(
        weights.negatives.sum(), 6 * np.exp(-gap) / (8 + 6 * np.exp(-gap)), rtol=1e-4
    )


def test_negatives_below_the_positives_get_all_the_weight():
    assert obj.balanced(jnp.zeros(8), jnp.full(6, -30.0)).negatives.sum() > 0.999999


def test_the_gradient_of_a_gaussian_energy_is_a_difference_of_means():
    """E(x) = |x - mu|^2 / 2 under contrastive divergence: dL/dmu = mean(x-) - mean(x+)."""
    x_pos, x_neg = jnp.asarray(RNG.normal(size=(20, 3))), jnp.asarray(RNG.normal(size=(10, 3)))

    def loss(mu):
        e_pos, e_neg = (0.5 * jnp.sum((x - mu) ** 2, 1) for x in (x_pos, x_neg))
        return sum(obj.contrast(e_pos, e_neg, obj.uniform(e_pos, e_neg)))

    np.testing.assert_allclose(
        jax.grad(loss)(jnp.ones(3)), x_neg.mean(0) - x_pos.mean(0), atol=1e-5
    )


def test_effective_sample_size():
    np.testing.assert_allclose(
        obj.effective_sample_size(obj.uniform(jnp.zeros(8), jnp.zeros(6))), 6, rtol=1e-5
    )
    np.testing.assert_allclose(
        obj.effective_sample_size(obj.balanced(jnp.zeros(8), jnp.zeros(6))), 14, rtol=1e-5
    )
    np.testing.assert_allclose(
        obj.effective_sample_size(obj.balanced(jnp.zeros(8), jnp.array([-50.0]))), 1, rtol=1e-5
    )


def test_effective_sample_size_of_weights_that_do_not_sum_to_one():
    """Of the logistic rule: 8 positives and 6 negatives of equal weight each."""
    e_pos, e_neg = jnp.full(8, 2.0), jnp.full(6, -1.0)
    p, q = jax.nn.sigmoid(-2.0) / 8, jax.nn.sigmoid(1.0) / 6
    np.testing.assert_allclose(
        obj.effective_sample_size(obj.logistic(e_pos, e_neg)),
        (8 * p + 6 * q) ** 2 / (8 * p**2 + 6 * q**2),
        rtol=1e-5,
    )


def test_cross_entropy_of_a_label_that_is_none_is_no_number():
    logits = jnp.array([[1.0, 2.0], [0.5, 0.0]])
    assert np.isnan(obj.cross_entropy(logits, jnp.array([2, 0])))
    assert np.isnan(obj.cross_entropy(logits, jnp.array([-2, 0])))
    one = obj.cross_entropy(logits, jnp.array([-1, 0]))
    np.testing.assert_allclose(one, np.log(1 + np.exp(-0.5)), rtol=1e-6)


def test_entropy_information_at_its_ends_and_its_gradient():
    certain = 50.0 * jnp.eye(4)
    np.testing.assert_allclose(obj.entropy_information(certain), np.log(4), rtol=1e-5)
    np.testing.assert_allclose(obj.entropy_information(jnp.zeros((4, 4))), 0, atol=1e-6)
    # the last class underflows in the whole batch
    never = jnp.array([[200.0, 0, 0], [200.0, 200.0, 0]])
    np.testing.assert_allclose(
        obj.entropy_information(never),
        2 * np.log(2) - 0.75 * np.log(3) - 0.5 * np.log(2),
        rtol=1e-5,
    )
    chex.assert_tree_all_finite(jax.grad(obj.entropy_information)(never))

    def closed(logits):
        p = jax.nn.softmax(logits)
        q = p.mean(0)
        return -q @ jnp.log(q) + jnp.mean(jnp.sum(p * log_softmax(logits), 1))

    np.testing.assert_allclose(
        jax.grad(obj.entropy_information)(POS), jax.grad(closed)(POS), atol=1e-6
    )


def test_effective_sample_size_of_each_class():
    weights = obj.balanced(jnp.zeros((8, 2)), jnp.array([[0.0, -50.0]]))
    np.testing.assert_allclose(obj.effective_sample_size(weights), [9, 1], rtol=1e-5)


def test_weights_carry_no_gradient():
    def loss(e):
        return jnp.sum(obj.balanced(e[:N], e[N:]).negatives ** 2)

    np.testing.assert_array_equal(
        jax.grad(loss)(jnp.concatenate([energies(POS), energies(NEG)])), 0
    )


@pytest.mark.parametrize(
    'call, says',
    [
        (
            lambda: obj.cross_entropy(POS, LABELS[:3]),
            r'labels must have .* \[N\].*got \(3,\)',
        ),
        (lambda: obj.cross_entropy(POS[0], LABELS[:1]), r'logits must have the shape \[N, C\]'),
        (lambda: obj.marginal_energy(POS), r'logits must have the shape \[C\], of one example'),
        # would broadcast to [N, N]
        (
            lambda: obj.contrast(E_POS[:, None], E_NEG, obj.uniform(E_POS, E_NEG)),
            r'e_pos must have the shape \[N\]',
        ),
        (
            lambda: obj.contrast(E_POS, E_NEG, obj.uniform(E_POS, E_NEG[:2])),
            'weights.negatives and e_neg must have the same shape',
        ),
        (
            lambda: obj.class_contrast(POS, LABELS, NEG[:, :2], None),
            'logits_neg must have',
        ),
        (
            lambda: obj.nearest_neighbour_entropy(POS, NEG, jnp.ones(M + 1, bool)),
            'present must have the shape',
        ),
        (lambda: obj.gaussian_kl(POS[0], POS[1, :2]), 'mean and log_variance must have the same'),
    ],
)
def test_other_shapes_get_a_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# --- entropies of improved contrastive divergence ---


def gaussian_sets(dimension, n, p, scale):
    rng = np.random.default_rng(0)
    return (jnp.asarray(scale * rng.normal(size=(k, dimension)), jnp.float32) for k in (n, p))


@pytest.mark.parametrize('dimension, scale', [(1, 1.0), (2, 0.3), (4, 2.0)])
def test_nearest_neighbour_entropy_of_a_gaussian(dimension, scale):
    """With its stated constant, D mean log r + log P + log V_D + gamma, it is the entropy D/2 log(2
    pi e s^2)."""
    population = 4000
    x, past = gaussian_sets(dimension, 4000, population, scale)
    mean_log = obj.nearest_neighbour_entropy(x, past, jnp.ones(population, bool)).mean()
    log_volume = dimension / 2 * np.log(np.pi) - math.lgamma(dimension / 2 + 1)
    estimate = dimension * mean_log + np.log(population) + log_volume + np.euler_gamma
    np.testing.assert_allclose(
        estimate, dimension / 2 * np.log(2 * np.pi * np.e * scale**2), atol=0.08 * dimension
    )


@pytest.mark.parametrize('scale', [0.5, 2.0])
def test_kernel_entropy_of_a_gaussian(scale):
    """With (D/2) log(2 pi h^2) it is the cross-entropy of N(0, s^2) against N(0, s^2 + h^2); h^2 =
    mean squared distance / 2 D = s^2."""
    x, past = gaussian_sets(2, 3000, 3000, scale)
    found = obj.kernel_entropy(x, past, jnp.ones(3000, bool)).mean() + np.log(2 * np.pi * scale**2)
    wide = 2 * scale**2
    np.testing.assert_allclose(found, np.log(2 * np.pi * wide) + scale**2 / wide, atol=0.05)


@pytest.mark.parametrize('entropy', [obj.nearest_neighbour_entropy, obj.kernel_entropy])
def test_entropy_pushes_away_from_the_population_and_sees_only_what_is_there(entropy):
    x, past = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 0.0], [1.1, 0.0]])
    present = jnp.array([True, False])  # the second one would push to the left
    push = jax.grad(lambda x: entropy(x, past, present)[0])(x)
    assert push[0, 0] > 0 and abs(push[0, 1]) < 1e-6
    np.testing.assert_allclose(
        push, jax.grad(lambda x: entropy(x, past[:1], present[:1])[0])(x), rtol=1e-5
    )
    assert np.all(jax.grad(lambda past: entropy(x, past, present)[0])(past) == 0)


def test_nearest_neighbour_entropy_by_hand():
    """Distances 5 (to the 3-4-5 triangle's corner, not 13) and 2; gradient x / r^2 / n; zero
    distance stays finite."""
    x = jnp.array([[3.0, 4.0], [-5.0, -14.0]])
    past = jnp.array([[0.0, 0.0], [-5.0, -12.0]])
    all_there = jnp.ones(2, bool)
    np.testing.assert_allclose(
        obj.nearest_neighbour_entropy(x, past, all_there), np.log([5, 2]), rtol=1e-6
    )

    def mean(*arguments):
        return obj.nearest_neighbour_entropy(*arguments).mean()

    grad = jax.grad(mean)(x, past, all_there)
    np.testing.assert_allclose(grad, [[3 / 50, 4 / 50], [0, -1 / 4]], atol=1e-6)
    same = jax.value_and_grad(mean)(past, past, all_there)
    chex.assert_tree_all_finite(same)


def test_energy_square_is_the_mean_over_both():
    keep = jnp.array([True, True, False])
    np.testing.assert_allclose(
        obj.energy_square(jnp.array([[1.0, 3.0]]), jnp.array([[2.0], [0.0], [9.0]]), keep), 5 + 2
    )
