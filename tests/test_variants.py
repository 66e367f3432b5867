"""Kernels, objectives and methods are pure functions: with and without jit, on a device, from the
host and under pmap they give the same numbers, which an independent computation gives too.

Under pmap the axis is that of the train step and every device has the same batch, so that what
couples the devices (weights, counts, mutual information) has to come out as on one.
"""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats
import sklearn.metrics
from absl.testing import parameterized
from methods_under_test import BATCH, METHODS, prepared

from ebm_jax import devices, mcmc
from ebm_jax import objectives as obj

RNG = np.random.default_rng(3)
PRECISION = np.array([1.0, 4.0])  # E(x) = x^T diag(PRECISION) x / 2
X = np.array([0.3, -0.7], np.float32)
STEP, TEMPERATURE = 0.4, 0.5  # long steps, so that some proposals are refused
SEEDS = np.arange(64, dtype=np.int32)
N, M, C, D = 6, 4, 3, 2
POS, NEG = RNG.normal(size=(N, C)), RNG.normal(size=(M, C))
LABELS = np.array([0, 2, 1, 1, 0, 2])
E_POS, E_NEG = RNG.normal(size=N), RNG.normal(size=M)


def energy(x):
    return 0.5 * jnp.sum(PRECISION * x**2)


def normal(key, size=2):
    return np.asarray(jax.random.normal(key, (size,)))


def one_langevin_step(key):
    return X - STEP * PRECISION * X + np.sqrt(2 * STEP * TEMPERATURE) * normal(key)


def log_density(x):
    return -0.5 * np.sum(PRECISION * x**2) / TEMPERATURE


def one_mala_step(key):
    """The proposal and its acceptance from scipy's normal densities."""
    noise_key, accept_key = jax.random.split(key)
    spread = np.sqrt(2 * STEP * TEMPERATURE)

    def proposal_from(x):
        return scipy.stats.multivariate_normal(x - STEP * PRECISION * x, spread**2)

    there = X - STEP * PRECISION * X + spread * normal(noise_key)
    ratio = log_density(there) + proposal_from(there).logpdf(X)
    ratio -= log_density(X) + proposal_from(X).logpdf(there)
    return there if jax.random.uniform(accept_key) < np.exp(min(ratio, 0)) else X


def one_hmc_step(key):
    """Three leapfrog steps of the harmonic oscillator."""
    momentum_key, accept_key = jax.random.split(key)
    start = np.sqrt(TEMPERATURE) * normal(momentum_key)
    x, v = X, start
    for _ in range(3):
        v = v - 0.5 * STEP * PRECISION * x
        x = x + STEP * v
        v = v - 0.5 * STEP * PRECISION * x
    ratio = log_density(x) - log_density(X) + 0.5 * (start @ start - v @ v) / TEMPERATURE
    return x if jax.random.uniform(accept_key) < np.exp(min(ratio, 0)) else X


KERNELS = {
    'langevin': (mcmc.langevin(STEP, temperature=TEMPERATURE), one_langevin_step),
    'mala': (mcmc.mala(STEP, temperature=TEMPERATURE), one_mala_step),
    'hmc': (mcmc.hmc(STEP, 3, temperature=TEMPERATURE), one_hmc_step),
}


def softmax_over_batch():
    w = scipy.special.softmax(-np.r_[E_POS, E_NEG])
    return E_POS.mean() - w[:N] @ E_POS - w[N:] @ E_NEG


def contrast(rule, e_pos, e_neg):
    return sum(obj.contrast(e_pos, e_neg, rule(e_pos, e_neg)))


def class_contrast(rule, pos, labels, neg):
    return sum(obj.class_contrast(pos, labels, neg, rule(-pos, -neg)))


def uniform_class_contrast():
    shares = np.bincount(LABELS, minlength=C) / N
    return -POS[np.arange(N), LABELS].mean() + shares @ NEG.mean(0)


def mutual_information():
    """Of the table q(x, y) over everything, at the pairs of the batch."""
    table = scipy.special.softmax(np.r_[POS, NEG])
    x, y = table.sum(1), table.sum(0)
    return np.mean([np.log(table[i, c] / (x[i] * y[c])) for i, c in enumerate(LABELS)])


def entropy_information():
    p = scipy.special.softmax(POS, axis=1)
    return scipy.stats.entropy(p.mean(0)) - scipy.stats.entropy(p, axis=1).mean()


MEAN, LOG_VARIANCE = RNG.normal(size=D), RNG.normal(size=D)
OBJECTIVES = {
    'cross_entropy': (
        obj.cross_entropy,
        (POS, LABELS),
        lambda: sklearn.metrics.log_loss(LABELS, scipy.special.softmax(POS, axis=1)),
    ),
    'uniform': (
        partial(contrast, obj.uniform),
        (E_POS, E_NEG),
        lambda: E_POS.mean() - E_NEG.mean(),
    ),
    'balanced': (partial(contrast, obj.balanced), (E_POS, E_NEG), softmax_over_batch),
    'class_contrast': (
        partial(class_contrast, obj.uniform),
        (POS, LABELS, NEG),
        uniform_class_contrast,
    ),
    'batch_information': (obj.batch_information, (POS, LABELS, NEG), mutual_information),
    'entropy_information': (obj.entropy_information, (POS,), entropy_information),
    'gaussian_nll': (
        obj.gaussian_nll,
        (X, MEAN, LOG_VARIANCE),
        lambda: -scipy.stats.norm(MEAN, np.exp(LOG_VARIANCE / 2)).logpdf(X).sum(),
    ),
}


class VariantsTest(chex.TestCase):
    @chex.all_variants
    @parameterized.named_parameters((name, name) for name in KERNELS)
    def test_a_step_of_a_kernel(self, name):
        kernel, expected = KERNELS[name]

        def step(seeds, x):
            keys = jax.vmap(jax.random.key)(seeds)
            return mcmc.run_chains(keys, kernel, energy, jnp.tile(x, (len(seeds), 1)), 1)[0]

        moved = self.variant(step, axis_name=devices.AXIS)(SEEDS, X)
        keys = [jax.random.fold_in(jax.random.key(seed), 0) for seed in SEEDS]  # of the first step
        np.testing.assert_allclose(moved, [expected(key) for key in keys], rtol=1e-4, atol=1e-6)
        if name != 'langevin':
            assert 0 < np.sum(np.all(moved == X, 1)) < len(SEEDS)

    @chex.all_variants
    @parameterized.named_parameters((name, name) for name in OBJECTIVES)
    def test_an_objective(self, name):
        objective, arguments, expected = OBJECTIVES[name]
        arguments = [np.asarray(a, np.int32 if a is LABELS else np.float32) for a in arguments]
        value = self.variant(objective, axis_name=devices.AXIS)(*arguments)
        np.testing.assert_allclose(value, expected(), rtol=1e-4)

    @chex.all_variants
    @parameterized.named_parameters((name, name) for name in ('st_jem', 'icd', 'dual_mcmc'))
    def test_the_loss_of_a_method(self, name):
        """Each term, against the compiled one on a single device."""
        method = METHODS[name]
        params, _, samples, _ = prepared(method)
        keyed = jax.random.key_data(jax.random.key(2))

        def terms(key, params, batch, samples):
            return method.loss(params, jax.random.wrap_key_data(key), batch, samples)[0]

        expected = jax.jit(terms)(keyed, params, BATCH, samples)
        found = self.variant(terms, axis_name=devices.AXIS)(keyed, params, BATCH, samples)
        chex.assert_tree_all_finite(found)
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)
