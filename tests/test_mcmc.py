"""Kernels against closed forms: stationary variances of ULA, exact moments of MALA and HMC,
blackjax as an oracle."""

import blackjax
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import adapt, kernels
from ebm_jax.mcmc import hmc, langevin, mala, run_chain, run_chains


def standard_normal(x):
    return 0.5 * jnp.sum(x**2)


def chains(kernel, energy_fn, x, steps, seed=0, record=None):
    keys = jax.random.split(jax.random.key(seed), len(x))
    return jax.jit(lambda x: run_chains(keys, kernel, energy_fn, x, steps, record=record))(x)


def long_run(kernel, energy_fn, dim, n=4000, steps=400):
    return np.asarray(chains(kernel, energy_fn, jnp.zeros((n, dim)), steps)[0])


@pytest.mark.parametrize('step_size', [0.1, 0.5, 1.0])
def test_unadjusted_langevin_has_its_known_stationary_variance(step_size):
    x = long_run(langevin(step_size, temperature=1.0), standard_normal, 5)
    # 20,000 draws: sd of the variance 1 %
    np.testing.assert_allclose(x.var(), 1 / (1 - step_size / 2), rtol=0.03)
    assert abs(x.mean()) < 0.04


def test_temperature_scales_the_variance():
    x = long_run(langevin(0.2, temperature=0.25), standard_normal, 5)
    np.testing.assert_allclose(x.var(), 0.25 / (1 - 0.1), rtol=0.03)


def test_independent_noise_scale():
    a, n = 0.5, 0.3
    x = long_run(langevin(a, noise_scale=n), standard_normal, 5)
    np.testing.assert_allclose(x.var(), n**2 / (1 - (1 - a) ** 2), rtol=0.03)


def test_noise_before_the_drift_is_damped_by_it():
    a, n = 0.5, 0.3  # x' = (1 - a)(x + n xi)
    x = long_run(langevin(a, noise_scale=n, noise_first=True), standard_normal, 5)
    np.testing.assert_allclose(x.var(), (1 - a) ** 2 * n**2 / (1 - (1 - a) ** 2), rtol=0.03)


def one_step(kernel, x, energy_fn):
    state = kernel.init(x, energy_fn)
    return kernel.step(jax.random.key(0), state, energy_fn)


def test_gradient_clip_leaves_small_entries_and_cuts_large_ones():
    gradient = jnp.array([0.5, -0.5, 3.0, -7.0])
    state, info = one_step(
        langevin(0.1, noise_scale=0.0, grad_clip=1.0), jnp.zeros(4), lambda x: gradient @ x
    )
    np.testing.assert_allclose(state.position, -0.1 * np.array([0.5, -0.5, 1.0, -1.0]), rtol=1e-6)
    assert info.clipped == 0.5
    np.testing.assert_allclose(info.grad_norm, np.linalg.norm(gradient), rtol=1e-6)


def test_bounds_cut_the_position_and_are_reported():
    state, info = one_step(
        langevin(1.0, noise_scale=0.0, bounds=(-1, 1)),
        jnp.array([0.0, 0.5, 0.9]),
        lambda x: jnp.array([5.0, -0.2, -0.2]) @ x,
    )
    np.testing.assert_allclose(state.position, [-1.0, 0.7, 1.0], rtol=1e-6)
    np.testing.assert_allclose(info.saturated, 2 / 3, rtol=1e-6)


def test_momentum_is_a_moving_average_and_decay_shrinks_the_step():
    kernel = langevin(0.5, noise_scale=0.0, momentum=0.1, decay=0.5)
    x, _ = run_chain(jax.random.key(0), kernel, standard_normal, jnp.array([1.0]), 2)
    g1 = 0.9 * 1.0
    x1 = 1.0 - 0.5 * g1
    g2 = 0.1 * g1 + 0.9 * x1
    np.testing.assert_allclose(x, [x1 - 0.25 * g2], rtol=1e-6)


COVARIANCE = np.array([[1.0, 0.6, 0.0], [0.6, 2.0, -0.3], [0.0, -0.3, 0.5]])
MEAN = np.array([1.0, -2.0, 0.5])


def gaussian(x):
    d = x - jnp.asarray(MEAN, x.dtype)
    return 0.5 * d @ jnp.asarray(np.linalg.inv(COVARIANCE), x.dtype) @ d


@pytest.mark.parametrize('kernel', [mala(0.3), hmc(0.3, 5)], ids=['mala', 'hmc'])
def test_adjusted_kernels_are_unbiased(kernel):
    x = long_run(kernel, gaussian, 3, n=20_000, steps=150)
    np.testing.assert_allclose(x.mean(0), MEAN, atol=0.04)
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE, atol=0.06)


@pytest.mark.slow
@pytest.mark.parametrize(
    'kernel', [mala(0.1, temperature=0.5), hmc(0.3, 4, temperature=0.5)], ids=['mala', 'hmc']
)
def test_adjusted_kernels_follow_the_temperature(kernel):
    np.testing.assert_allclose(
        np.cov(long_run(kernel, gaussian, 3, n=20_000, steps=300).T), 0.5 * COVARIANCE, atol=0.04
    )


@pytest.mark.parametrize('name', ['mala', 'hmc'])
def test_acceptance_agrees_with_blackjax(name):
    ours = {'mala': mala(0.5), 'hmc': hmc(0.7, 3)}[name]

    def logdensity(x):
        return -gaussian(x)

    theirs = (
        blackjax.mala(logdensity, 0.5)
        if name == 'mala'
        else blackjax.hmc(logdensity, 0.7, np.ones(3), 3)
    )
    start = jnp.asarray(
        np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, 5000), jnp.float32
    )
    x, acceptance = chains(ours, gaussian, start, 20, record=lambda state, info: info.acceptance)

    def one(key, x):
        def step(state, key):
            state, info = theirs.step(key, state)
            return state, info.acceptance_rate

        state, rates = jax.lax.scan(step, theirs.init(x), jax.random.split(key, 20))
        return state.position, rates

    y, rates = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 5000), start)
    np.testing.assert_allclose(acceptance.mean(), rates.mean(), atol=0.01)
    np.testing.assert_allclose(np.cov(x.T), np.cov(y.T), atol=0.15)
    assert 0.2 < acceptance.mean() < 0.98  # a test that always accepts would say nothing


def test_a_proposal_without_a_number_for_energy_is_refused():
    def wall(x):
        return jnp.where(x[0] > 0, jnp.nan, 0.5 * x @ x)

    x, _ = chains(mala(1.0), wall, -jnp.ones((200, 1)), 50)
    assert np.all(np.asarray(x) <= 0)


def test_records_are_the_trajectory_and_the_reports():
    kernel = langevin(0.1, temperature=1.0)
    key, x = jax.random.key(3), jnp.ones(2)
    last, (path, info) = run_chain(
        key, kernel, standard_normal, x, 7, record=lambda state, info: (state.position, info)
    )
    np.testing.assert_array_equal(path[-1], last)
    np.testing.assert_allclose(info.energy[0], 1.0)
    np.testing.assert_allclose(
        info.energy[1:], 0.5 * (np.asarray(path[:-1]) ** 2).sum(1), rtol=1e-5
    )


def test_what_is_not_recorded_is_not_computed():
    def flops(record):
        def chain(x):
            return run_chain(
                jax.random.key(0),
                langevin(0.1, noise_scale=0.1, grad_clip=1.0),
                standard_normal,
                x,
                10,
                record,
            )

        return jax.jit(chain).lower(jnp.ones(1000)).compile().cost_analysis()['flops']

    assert flops(None) < 0.9 * flops(lambda state, info: info)


def test_positions_may_be_pytrees():
    def energy(x):
        return 0.5 * jnp.sum(x['a'] ** 2) + 2 * jnp.sum(x['b'] ** 2)

    x = {'a': jnp.zeros((3000, 2)), 'b': jnp.zeros((3000, 3, 1))}
    keys = jax.random.split(jax.random.key(0), 3000)
    x, _ = jax.jit(lambda x: run_chains(keys, hmc(0.3, 4), energy, x, 60))(x)
    np.testing.assert_allclose(x['a'].var(), 1.0, rtol=0.06)
    np.testing.assert_allclose(x['b'].var(), 0.25, rtol=0.06)


def test_a_chain_stands_still_from_its_stop_on():
    """So that one program runs chains of all lengths, to the same bits."""

    def run(num_steps, stop=None):
        kernel = langevin(0.1, temperature=1.0, momentum=0.5, decay=0.9)
        return run_chain(
            jax.random.key(0), kernel, standard_normal, jnp.ones(3), num_steps, stop=stop
        )[0]

    stopped = jax.jit(lambda stop: run(9, stop))
    for n in (0, 1, 6, 9):
        chex.assert_trees_all_equal(stopped(n), jax.jit(lambda n=n: run(n))())
    with pytest.raises(ValueError, match='num_steps must be an int'):
        jax.jit(run)(6)


def test_chains_are_traced_once_whatever_their_number_of_steps():
    energy = chex.assert_max_traces(standard_normal, n=1)
    chain = jax.jit(
        lambda x: run_chain(jax.random.key(0), langevin(0.1, temperature=1.0), energy, x, 50)[0]
    )
    chain(chain(jnp.ones(3)))


def test_other_numbers_of_keys_get_a_sentence():
    keys, kernel = jax.random.split(jax.random.key(0), 3), langevin(0.1, temperature=1.0)
    with pytest.raises(ValueError, match=r'x must have the shape \[n, ...\].*got \(4, 2\)'):
        run_chains(keys, kernel, standard_normal, jnp.zeros((4, 2)), 1)


def test_conditions_reach_their_own_chain():
    def energy(x, centre):
        return 0.5 * jnp.sum((x - centre) ** 2)

    centres = jnp.arange(4.0)
    x, _ = run_chains(
        jax.random.split(jax.random.key(0), 4),
        langevin(1.0, noise_scale=0.0),
        energy,
        jnp.zeros((4, 1)),
        1,
        centres,
    )
    np.testing.assert_allclose(x[:, 0], centres)


def test_leapfrog_steps_are_whole():
    with pytest.raises(TypeError):
        hmc(0.1, 2.5)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    'kernel',
    [
        langevin(0.5, noise_scale=0.0),
        langevin(0.5, temperature=0.0, momentum=0.5, decay=0.9, bounds=(-1, 1)),
        kernels.heated_langevin(0.5, temperature=0.0),
        kernels.steepest_descent(0.25),
    ],
)
def test_chains_keep_the_type_of_their_position(kernel, dtype):
    """As in float32, within the type's precision."""

    def end(dtype):
        x = jnp.array([0.75, -0.5], dtype)
        return run_chain(jax.random.key(0), kernel, lambda x: jnp.sum(x**2) / 2, x, 3)[0]

    assert end(dtype).dtype == dtype
    np.testing.assert_allclose(
        end(dtype).astype(np.float32), end(jnp.float32), atol=2 * float(jnp.finfo(dtype).eps)
    )


@pytest.mark.parametrize(
    'make',
    [
        lambda: langevin(0.0, temperature=1.0),
        lambda: langevin(0.1),
        lambda: langevin(0.1, temperature=1.0, noise_scale=1.0),
        lambda: langevin(0.1, temperature=-1.0),
        lambda: langevin(0.1, temperature=1.0, bounds=(1, 0)),
        lambda: mala(-1.0),
        lambda: langevin(float('nan'), temperature=1.0),
        lambda: langevin(0.1, temperature=1.0, momentum=1.5),
        lambda: hmc(0.1, 0),
        lambda: run_chain(jax.random.key(0), mala(0.1), standard_normal, jnp.ones(1), -1),
        lambda: run_chain(jax.random.key(0), mala(0.1), standard_normal, jnp.ones(1), 2.5),
        lambda: kernels.steepest_descent(0.1, bounds=(1, -1)),
        lambda: kernels.heated_langevin(0.1, temperature=0.1, bounds=(1, -1)),
        lambda: adapt.adaptive(0.1, noise_divisor=0),
        lambda: adapt.adaptive(0.1, noise_divisor=-5),
    ],
)
def test_numbers_out_of_range_are_refused(make):
    with pytest.raises(ValueError):
        make()
