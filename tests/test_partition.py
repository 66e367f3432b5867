"""Normalising constants against closed forms, quadrature and enumeration."""

import itertools
import pathlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy.special import logsumexp

from ebm_jax import data, mcmc
from ebm_jax.errors import InputError
from ebm_jax.evaluate import partition
from ebm_jax.spec import Part, Sampling
from experiments.evaluations import density

BASE = partition.gaussian_base(jnp.zeros(2), 2.0)


def gaussian(params, x):
    """N(mean, diag(scale^2)) without its constant."""
    mean, scale = params
    return 0.5 * jnp.sum(jnp.square((x - mean) / scale))


def mixture(params, x):
    return -jax.nn.logsumexp(-jax.vmap(lambda centre: gaussian((centre, 0.5), x))(params))


def banana(params, x):
    return 0.5 * x[0] ** 2 + 2.0 * (x[1] - params * x[0] ** 2) ** 2


def quadrature(energy):
    return np.log(
        integrate.dblquad(lambda y, x: np.exp(-energy(x, y)), -8, 8, -30, 30, epsabs=1e-6)[0]
    )


W = 0.5 * np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
A, B = (np.random.default_rng(i).normal(size=n).astype(np.float32) for i, n in ((1, 6), (2, 4)))


def rbm(params, x):
    """Gaussian visible units, binary hidden units."""
    w, a, b = params
    return 0.5 * jnp.sum(jnp.square(x - a)) - jnp.sum(jax.nn.softplus(b + x @ w))


def rbm_log_z():
    """Each state of the hidden units is a Gaussian in x."""
    terms = []
    for h in itertools.product([0, 1], repeat=4):
        shift = W @ h
        terms.append(B @ h + A @ shift + 0.5 * shift @ shift)
    return logsumexp(terms) + 0.5 * 6 * np.log(2 * np.pi)


CENTRES = np.array([[-2.0, 0.0], [2.0, 1.0], [0.0, -2.0]], np.float32)
CASES = {
    'gaussian': (
        gaussian,
        (jnp.array([0.5, -1.0]), jnp.array([0.3, 0.6])),
        BASE,
        np.log(2 * np.pi * 0.3 * 0.6),
    ),
    'mixture': (mixture, CENTRES, BASE, np.log(3 * 2 * np.pi * 0.25)),
    'banana': (banana, 0.5, BASE, quadrature(lambda x, y: banana(0.5, (x, y)))),
    'rbm': (rbm, (W, A, B), partition.gaussian_base(jnp.asarray(A), 1.5), rbm_log_z()),
}


@pytest.mark.parametrize('name', CASES)
def test_annealing_finds_log_z(name):
    energy, params, base, exact = CASES[name]
    found = partition.annealed_importance_sampling(
        jax.random.key(0), energy, params, base, chains=200, bridges=150
    )
    assert found.log_z == pytest.approx(exact, abs=0.1)
    low, high = found.interval
    assert low - 0.05 < exact < high + 0.05 and high - low < 0.3
    assert found.effective_sample_size > 60
    assert 0.5 < np.mean(found.acceptance) < 0.85


@pytest.mark.parametrize('name', ['gaussian', 'banana'])
def test_tempered_smc_finds_log_z(name):
    energy, params, base, exact = CASES[name]
    found = partition.tempered_smc(
        jax.random.key(0), energy, params, base, chains=400, moves=8, repeats=3
    )
    assert found.log_z == pytest.approx(exact, abs=0.1)


def test_two_estimates_close_from_both_sides_with_more_bridges():
    """With exact samples the reverse is an upper bound, and both tighten (bidirectional Monte
    Carlo, Grosse et al. 2015)."""
    energy, params, base, exact = CASES['gaussian']
    noise = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    starts = np.asarray(params[0]) + np.asarray(params[1]) * noise
    gaps = {}
    for bridges in (4, 100):
        lower, upper = (
            partition.annealed_importance_sampling(
                key, energy, params, base, chains=200, bridges=bridges, starts=begin
            )
            for key, begin in zip(jax.random.split(jax.random.key(1)), (None, starts))
        )
        assert lower.interval[0] - 0.1 < exact < upper.interval[1] + 0.1
        gaps[bridges] = upper.log_z - lower.log_z
    assert -0.1 < gaps[100] < 0.1 and gaps[4] > gaps[100]


def test_uniform_base_in_a_box():
    """Independent exponentials cut to the box: Z = (1 - exp(-2 r)) / r exp(r), to the power D."""
    rates = np.array([0.5, 3.0, 8.0], np.float32)

    def energy(params, x):
        return partition.confined(lambda u: jnp.sum(params * u))(x)

    exact = np.sum(np.log((np.exp(rates) - np.exp(-rates)) / rates))
    found = partition.annealed_importance_sampling(
        jax.random.key(0),
        energy,
        rates,
        partition.uniform_base((3,)),
        chains=200,
        bridges=150,
        kernel=mcmc.mala,
    )
    assert found.log_z == pytest.approx(exact, abs=0.1)
    assert np.abs(found.x).max() <= 1


def test_a_gaussian_cut_to_the_box_is_normalised():
    from scipy.stats import truncnorm

    mean, scale = np.array([0.2, -0.9, 3.0]), np.array([0.5, 0.1, 1.0])
    base = partition.truncated_gaussian_base(mean, scale)
    oracle = truncnorm((-1 - mean) / scale, (1 - mean) / scale, mean, scale)
    x = np.array([0.5, -0.95, 0.7])
    assert -base.energy(jnp.asarray(x)) == pytest.approx(np.sum(oracle.logpdf(x)), rel=1e-4)
    drawn = jax.vmap(base.sample)(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(np.mean(drawn, 0), oracle.mean(), atol=0.01)


def test_bits_per_dimension_of_uniform_images():
    # p(x) = 2^-D on [-1, 1]^D: log2(levels) bits an entry
    log_px = -64 * np.log(2)
    assert partition.bits_per_dimension(log_px, 64) == pytest.approx(8.0)
    assert partition.bits_per_dimension(log_px, 64, levels=16) == pytest.approx(4.0)


def test_refusals(monkeypatch):
    energy, params, base, _ = CASES['gaussian']
    with pytest.raises(ValueError, match='chains must be at least 2'):
        partition.annealed_importance_sampling(jax.random.key(0), energy, params, base, chains=1)
    with pytest.raises(ValueError, match='bridges'):
        partition.sigmoid_schedule(0)
    with pytest.raises(InputError, match='max_bridges'):
        partition.tempered_smc(
            jax.random.key(0), energy, params, base, chains=50, moves=1, max_bridges=1
        )


def test_the_density_of_images_with_noise_is_that_of_their_gaussian():
    """Images of independent Gaussian pixels, and an energy that is exactly that of these with the
    noise of training: log Z, log p(x) and the mixture agree with scipy."""
    rng = np.random.default_rng(0)
    shape, spread, noise = (2, 2, 1), 0.2, 0.3
    total = np.hypot(spread, noise)

    def images(n):
        pixels = np.clip(127.5 * (1 + spread * rng.standard_normal((n, *shape))), 0, 255)
        return data.Examples('made', np.round(pixels).astype(np.uint8), np.zeros(n, np.int32))

    experiment = SimpleNamespace(
        model=SimpleNamespace(
            spec=SimpleNamespace(shape=shape, sampling=Sampling(kernel=Part('mala'))),
            marginal_energy_fn=lambda params, x: jnp.sum(jnp.square(x)) / (2 * total**2) + 3.0,
        ),
        train=images(4000),
        test=images(1000),
        input_noise=noise,
    )
    state = SimpleNamespace(eval_params={})
    found = density.log_likelihood(
        pathlib.Path(), experiment, state, chains=64, bridges=100, noised=True
    ).metrics
    log_z = 4 * 0.5 * np.log(2 * np.pi * total**2) - 3.0
    np.testing.assert_allclose(found['noised_log_z'], log_z, atol=0.05)
    entropy = 4 * 0.5 * np.log(2 * np.pi * np.e * total**2)
    np.testing.assert_allclose(found['noised_log_likelihood'], -entropy, atol=0.15)
    mixture = found['noised_log_likelihood_of_others']['Gaussian mixture']
    np.testing.assert_allclose(mixture, -entropy, atol=0.15)


@pytest.mark.parametrize(
    'sampling, expected',
    [
        (Sampling(kernel=Part('mala')), 1.0),
        (Sampling(kernel=Part('hmc', {'temperature': 0.5})), 0.5),
        (Sampling(kernel=Part('langevin', {'noise_scale': 0.2}), step_size=0.02), 1.0),
        (Sampling(kernel=Part('langevin', {'noise_scale': 0.0}), step_size=0.02), 0.0),
        (Sampling(kernel=Part('steepest_descent')), 0.0),
    ],
)
def test_the_temperature_of_a_runs_chains(sampling, expected):
    """n = sqrt(2 a T)."""
    np.testing.assert_allclose(density.temperature(sampling), expected, rtol=1e-12)
