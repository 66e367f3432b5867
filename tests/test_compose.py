"""AND, OR and NOT of Gaussians, whose compositions are Gaussians and mixtures known by hand;
moments by MALA."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import composition, mcmc
from ebm_jax.apply.sampling import sample
from ebm_jax.errors import InputError
from experiments.studies import composing


def gaussian(mean, variance):
    return lambda x: 0.5 * jnp.sum((x - jnp.asarray(mean)) ** 2 / variance)


def draw(energy_fn, step_size, start, num=4000, steps=400):
    """Positions at the end of MALA chains: unbiased for exp(-E)."""
    keys = jax.random.split(jax.random.key(0), num)
    return np.asarray(
        jax.jit(lambda: mcmc.run_chains(keys, mcmc.mala(step_size), energy_fn, start, steps)[0])()
    )


A, B = gaussian([-1.0, 0.0], 1.0), gaussian([2.0, 1.0], 0.25)


def test_and_is_the_product_of_gaussians():
    """Precisions 1 and 4 add up to 5; the mean is weighted by them."""
    x = draw(composition.all_of(A, B), 0.2, jnp.zeros((4000, 2)))
    np.testing.assert_allclose(x.mean(0), [(-1 + 8) / 5, 4 / 5], atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), np.eye(2) / 5, atol=0.015)


def test_weights_of_and_multiply_precisions():
    """Weights 2 and 0.5: precisions 2 and 2."""
    x = draw(composition.all_of(A, B, weights=(2.0, 0.5)), 0.2, jnp.zeros((4000, 2)))
    np.testing.assert_allclose(x.mean(0), [0.5, 0.5], atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), np.eye(2) / 4, atol=0.02)


def test_or_is_the_mixture():
    """Equal variances, so equal constants: shares are the weights, moments those of the mixture."""
    left, right = gaussian([-1.0], 0.5), gaussian([1.0], 0.5)
    x = draw(composition.any_of(left, right, weights=(1.0, 3.0)), 0.4, jnp.zeros((4000, 1)))[:, 0]
    np.testing.assert_allclose(x.mean(), 0.5, atol=0.06)  # .25 (-1) + .75 (1)
    np.testing.assert_allclose(x.var(), 0.5 + 1 - 0.25, atol=0.06)
    values = jnp.linspace(-3, 3, 7)[:, None]
    by_hand = -np.log(np.exp(-((values[:, 0] + 1) ** 2)) + 3 * np.exp(-((values[:, 0] - 1) ** 2)))
    np.testing.assert_allclose(
        jax.vmap(composition.any_of(left, right, weights=(1.0, 3.0)))(values), by_hand, atol=1e-4
    )


def test_a_sharp_or_is_the_smaller_energy():
    x = jax.random.normal(jax.random.key(1), (20, 2))
    np.testing.assert_allclose(
        jax.vmap(composition.any_of(A, B, sharpness=100.0))(x),
        jnp.minimum(jax.vmap(A)(x), jax.vmap(B)(x)),
        atol=0.01,
    )


def test_not_takes_a_gaussian_away():
    """E = |x|^2 / (2 .5) - a |x - 1|^2 / (2 1), a = .5: precision 2 - .5, mean -.5 / 1.5."""
    x = draw(
        composition.without(gaussian([0.0], 0.5), gaussian([1.0], 1.0), weight=0.5),
        0.3,
        jnp.zeros((4000, 1)),
    )[:, 0]
    np.testing.assert_allclose(x.mean(), -0.5 / 1.5, atol=0.05)
    np.testing.assert_allclose(x.var(), 1 / 1.5, atol=0.05)


def test_a_condition_is_the_posterior_of_its_labels():
    """Labels at -1, 0 and 2 with equal variances: p(y|x) by Bayes' rule; a prior with a condition
    has the density p(x) p(y|x), here that of one component, and NOT that of the others."""
    means, shares = (-1.0, 0.0, 2.0), np.full(3, 1 / 3)
    labels = [gaussian([mean], 0.5) for mean in means]
    x = np.linspace(-3, 3, 13)[:, None]
    likelihoods = shares * np.exp(-((x - np.array(means)) ** 2))
    prior = likelihoods.sum(1)
    one = composition.posterior(labels[1:2], [labels[0], labels[2]])
    np.testing.assert_allclose(jax.vmap(one)(x), -np.log(likelihoods[:, 1] / prior), atol=1e-4)
    not_one = composition.posterior([labels[0], labels[2]], labels[1:2])
    np.testing.assert_allclose(
        np.exp(-jax.vmap(one)(x)) + np.exp(-jax.vmap(not_one)(x)), 1, atol=1e-5
    )
    whole = composition.any_of(*labels)
    found = jax.vmap(composition.all_of(whole, one))(x) - jax.vmap(labels[1])(x)
    np.testing.assert_allclose(found, 0, atol=1e-4)  # p(x) p(y|x) = p(x|y) p(y)
    drawn = draw(composition.all_of(whole, not_one), 0.4, jnp.zeros((4000, 1)))[:, 0]
    np.testing.assert_allclose(drawn.mean(), 0.5, atol=0.1)  # of -1 and 2 alike
    np.testing.assert_allclose(drawn.var(), 0.5 + 1.5**2, atol=0.1)


def test_a_condition_adds_no_factor():
    one = composition.posterior([A], [B])
    assert one.factors == 0 and composition.all_of(A, one, one).factors == 1
    kernel = composition.divided(one, partial(mcmc.langevin, noise_scale=0.0), 0.3)
    state, _ = kernel.step(jax.random.key(0), kernel.init(jnp.zeros(2), one), one)
    np.testing.assert_allclose(state.position, -0.3 * jax.grad(one)(jnp.zeros(2)), rtol=1e-5)


def test_compositions_nest_and_count_their_factors():
    """(A OR B) AND C, by hand at a point; AND and NOT add factors up, OR takes the largest."""
    c = gaussian([0.0, 0.0], 2.0)
    nested = composition.all_of(composition.any_of(A, B), c)
    x = jnp.array([0.3, -0.4])
    np.testing.assert_allclose(
        nested(x), -jnp.log(jnp.exp(-A(x)) + jnp.exp(-B(x))) + c(x), rtol=1e-5
    )
    assert nested.factors == 2 and composition.all_of(nested, A, B).factors == 4
    assert (
        composition.any_of(nested, A).factors == 2
        and composition.without(nested, A).factors == 3
        and composition.factors(A) == 1
    )


def test_the_step_is_divided_by_the_number_of_factors():
    product = composition.all_of(A, A, A)
    kernel = composition.divided(product, partial(mcmc.langevin, noise_scale=0.0), 0.3)
    x = jnp.zeros(2)
    state, _ = kernel.step(jax.random.key(0), kernel.init(x, product), product)
    np.testing.assert_allclose(state.position, -0.1 * jax.grad(product)(x), rtol=1e-6)
    # as far as one factor alone would go
    np.testing.assert_allclose(state.position, -0.3 * jax.grad(A)(x), rtol=1e-6)


@pytest.mark.parametrize(
    'bad',
    [
        lambda: composition.all_of(),
        lambda: composition.all_of(A, B, weights=(1.0,)),
        lambda: composition.any_of(A, weights=(0.0,)),
        lambda: composition.any_of(A, B, sharpness=0.0),
        lambda: composition.without(A, B, weight=-1.0),
        lambda: composition.posterior([], [A]),
        lambda: composition.posterior([A], []),
    ],
)
def test_what_makes_no_composition_is_refused(bad):
    with pytest.raises(ValueError):
        bad()


def test_runs_are_composed_each_with_its_own_parameters_and_label():
    """E_i = p_i (x - label_i)^2, p = (1, 3), labels (0, 2): precisions 2 and 6, mean 1.5; too few
    labels are refused."""

    def one(params, x, label):
        return params * jnp.sum((x - label) ** 2)

    both = composition.over_models(composition.all_of, one, one)
    assert both.factors == 2
    labels = jnp.array([[0, 2]] * 4000)
    np.testing.assert_allclose(
        both((1.0, 3.0), jnp.array([0.5]), jnp.array([0, 2])), 0.25 + 3 * 1.5**2
    )
    x = np.asarray(
        sample(
            jax.random.key(0),
            both.energy_fn,
            (1.0, 3.0),
            mcmc.mala(0.1),
            lambda *arguments: jnp.zeros(1),
            labels,
            300,
            batch_size=4000,
        )
    )[:, 0]
    np.testing.assert_allclose([x.mean(), x.var()], [1.5, 1 / 8], atol=0.02)
    with pytest.raises(ValueError, match='2 labels are needed, got 2 and 1'):
        both((1.0, 3.0), jnp.array([0.5]), jnp.array([0]))


def test_the_labels_of_one_network_are_one_evaluation():
    """A condition on one of three labels of a linear network, and the first of another: value and
    gradient are those of terms apart, and each network is evaluated once."""
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=(2, 3)), jnp.float32) for _ in range(2)]
    x, labels = jnp.array([0.3, -1.2]), jnp.array([1, 2, 0, 1])

    def energy(params, x, label):
        return -(jnp.tanh(x) @ params)[label]

    def combine(first, *rest):
        return composition.all_of(first, composition.posterior(rest[:1], rest[1:]))

    def found(composed, params):
        """((value, gradient), number of matrix products)."""
        of = jax.value_and_grad(composed.energy_fn, 1)
        products = str(jax.make_jaxpr(of)(params, x, labels)).count('dot_general')
        return jax.jit(of)(params, x, labels), products

    shared = composition.over_models(combine, energy, energy, terms=(0, 1, 1, 1))
    apart = composition.over_models(combine, *(energy,) * 4)
    one, products = found(shared, params)
    other, more_products = found(apart, [params[0], *[params[1]] * 3])
    chex.assert_trees_all_close(one, other, rtol=1e-6)
    assert (products, more_products) == (4, 8)
    with pytest.raises(ValueError, match='2 energies have terms'):
        composition.over_models(combine, energy, energy, terms=(0, 0))


def test_chains_that_diverge_are_refused_in_one_sentence():
    """Steps of 100 down x^2 / 2 multiply x by -99 each."""

    def drawn(step_size):
        return sample(
            jax.random.key(0),
            lambda params, x, label: jnp.where(label, 1.0, 1e-4) * jnp.sum(x**2) / 2,
            (),
            mcmc.langevin(step_size, noise_scale=0.0),
            lambda *arguments: jnp.ones(2),
            np.array([0, 1, 1]),
            200,
        )

    assert drawn(0.1).shape == (3, 2)
    with pytest.raises(InputError, match='2 of 3 chains end at values'):
        drawn(100.0)


def test_the_studies_put_conditions_on_all_attributes_but_the_first():
    """p(x|class) p(stroke|x) p(slant|x) by hand; levels are traced in the study, so the wanted one
    comes first."""
    wanted = {'class': np.array([7, 3]), 'stroke': np.array([0, 2]), 'slant': np.array([2, 1])}
    way = composing.ways_of_and(('class', 'stroke', 'slant'), wanted)['conditions']
    assert list(way.runs) == ['class', *['stroke'] * 3, *['slant'] * 3]
    np.testing.assert_array_equal(way.labels, [[7, 0, 1, 2, 2, 0, 1], [3, 2, 0, 1, 1, 2, 0]])
    energies = {
        run: [gaussian([shift + label], variance) for label in range(10)]
        for run, shift, variance in (('class', 0, 1.0), ('stroke', -1, 0.5), ('slant', -0.5, 2.0))
    }
    x = jnp.array([0.7])
    for i, labels in enumerate(way.labels):
        terms = [energies[run][label] for run, label in zip(way.runs, labels)]
        by_hand = energies['class'][wanted['class'][i]](x)
        for run in ('stroke', 'slant'):
            weights = np.exp([-energies[run][level](x) for level in range(3)])
            by_hand -= np.log(weights[wanted[run][i]] / weights.sum())
        np.testing.assert_allclose(way.combine(*terms)(x), by_hand, rtol=1e-5)
        assert way.combine(*terms).factors == 1
