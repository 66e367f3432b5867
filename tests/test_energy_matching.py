"""Energy matching against closed forms of a quadratic energy, and its kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_under_test import make_energy_matching

from ebm_jax import initial, kernels, mcmc
from ebm_jax.methods.energy_matching import energy_matching
from ebm_jax.types import Network

DIM, TEMPERATURE = 3, 0.2
QUADRATIC = Network(
    lambda key, x: {'a': jnp.asarray(0.7), 'b': jnp.array([0.1, -0.2, 0.3])},
    lambda params, x: params['a'] * jnp.sum(x**2) / 2 + params['b'] @ x,
)


def kernel(begin):
    return kernels.heated_langevin(0.1, temperature=TEMPERATURE, begin=begin)


def make(**options):
    options = {'temperature': TEMPERATURE, 'num_steps': 4, **options}
    return energy_matching(QUADRATIC, initial.normal((DIM,)), kernel, **options)


def test_the_flow_term_of_a_quadratic_energy():
    """E |a x_t + b + x_1 - x_0|^2 with x_t = (1 - t) x_0 + t x_1, over t ~ U and x_0 ~ N(0, I)."""
    x_1, n = jnp.array([0.5, -1.0, 2.0]), 40_000
    batch = {'x': jnp.tile(x_1, (n, 1)), 'y': jnp.zeros(n, int)}
    method = make(cd_weight=0.0)
    params, _ = method.init(jax.random.key(0), batch)
    samples, _ = jax.jit(method.sample)(jax.random.key(1), params, (), batch)
    terms, _ = jax.jit(method.loss)(params, jax.random.key(2), batch, samples)
    a, b = params['a'], params['b']
    noise = DIM * (a**2 / 3 - a + 1)  # (a (1 - t) - 1)^2, averaged
    shift = (a**2 / 3 + a + 1) * x_1**2 + (a + 2) * x_1 * b + b**2  # ((a t + 1) x_1 + b)^2
    assert set(terms) == {'flow'}
    np.testing.assert_allclose(terms['flow'], (noise + jnp.sum(shift)) / DIM, rtol=0.01)


def test_the_contrast_its_bound_and_the_warm_up():
    batch = {'x': jax.random.normal(jax.random.key(0), (8, DIM)), 'y': jnp.zeros(8, int)}
    params, _ = make().init(jax.random.key(0), batch)

    def terms(method, scale=1.0):
        samples, _ = method.sample(jax.random.key(1), params, (), batch)
        samples = samples.replace(x=scale * samples.x)
        return method.loss(params, jax.random.key(2), batch, samples)[0], samples

    found, samples = terms(make(cd_weight=0.5))
    energy = jax.vmap(lambda x: QUADRATIC.apply(params, x))
    gap = jnp.mean(energy(batch['x'])) - jnp.mean(energy(samples.x))
    np.testing.assert_allclose(found['contrast'], 0.5 * gap / TEMPERATURE, rtol=1e-5)
    bounded, _ = terms(make(clip=0.5), scale=30.0)  # samples far above the data
    assert bounded['contrast'] == 0.0
    warm = make(warmup=3)
    assert warm.at(2) is not warm.at(3) and warm.at(0) is warm.at(2)
    assert set(terms(warm.at(2))[0]) == {'flow'} and 'contrast' in terms(warm.at(3))[0]


def test_chains_begin_in_turn_at_noise_and_at_the_data():
    method = make(num_steps=1)
    batch = {'x': jnp.full((6, DIM), 100.0), 'y': jnp.zeros(6, int)}
    params, _ = method.init(jax.random.key(0), batch)
    samples, _ = method.sample(jax.random.key(1), params, (), batch)
    far = np.abs(np.asarray(samples.x)).max(1) > 50
    np.testing.assert_array_equal(far, [False, True] * 3)


def test_the_kernel_flows_and_then_samples():
    def energy(x):
        return jnp.sum(x**2) / 2

    a, x = 0.05, jnp.full(DIM, 2.0)
    flow = kernels.heated_langevin(a, temperature=1.0, onset=0.5)
    # without noise up to t = onset
    end, _ = mcmc.run_chain(jax.random.key(0), flow, energy, x, 10)
    np.testing.assert_allclose(end, (1 - a) ** 10 * x, rtol=1e-5)
    np.testing.assert_allclose(
        kernels.heating(jnp.array([0.2, 0.5, 0.75, 1.0, 3.0]), 2.0, 0.5), [0, 0, 1, 2, 2]
    )
    # from t = 1 on a stationary variance of T / (1 - a / 2)
    late = kernels.heated_langevin(a, temperature=0.3, begin=1.0)
    keys = jax.random.split(jax.random.key(1), 4000)
    ends, _ = jax.jit(lambda keys: mcmc.run_chains(keys, late, energy, jnp.zeros((4000, 2)), 150))(
        keys
    )
    np.testing.assert_allclose(np.var(ends), 0.3 / (1 - a / 2), rtol=0.05)


def test_two_modes_are_learned_and_sampled():
    """A mixture of two points on a line: samples end at one of them, about evenly."""

    def start(key, x):
        w = jax.random.normal(key, (2, 16))
        return {'w': w[0], 'b': w[1], 'v': jnp.zeros(16)}

    def apply(params, x):
        hidden = jnp.tanh(params['w'] * x[0] + params['b'])
        return params['v'] @ hidden + 0.5 * x[0] ** 2

    network = Network(start, apply)
    method = energy_matching(
        network, initial.normal((1,)), kernel, temperature=0.02, num_steps=10, cd_weight=0.0
    )
    signs = jnp.where(jnp.arange(256) % 2 == 0, 1.0, -1.0)[:, None]
    batch = {'x': 1.5 * signs, 'y': jnp.zeros(256, int)}
    params, _ = method.init(jax.random.key(0), batch)

    def step(params, key):
        samples, _ = method.sample(key, params, (), batch)
        grads = jax.grad(lambda p: method.loss(p, key, batch, samples)[0]['flow'])(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), None

    keys = jax.random.split(jax.random.key(1), 1500)
    params, _ = jax.jit(lambda params: jax.lax.scan(step, params, keys))(params)
    flow = kernels.heated_langevin(0.05, temperature=0.0)
    begin = jax.random.normal(jax.random.key(2), (400, 1))
    ends, _ = mcmc.run_chains(
        jax.random.split(jax.random.key(3), 400),
        flow,
        lambda x: apply(params, x),
        begin,
        40,
    )
    ends = np.asarray(ends)[:, 0]
    assert np.mean(np.abs(np.abs(ends) - 1.5) < 0.6) > 0.9
    assert 0.4 < np.mean(ends > 0) < 0.6


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match='temperature'):
        make_energy_matching(temperature=0.0)
    with pytest.raises(ValueError, match='clip'):
        make_energy_matching(clip=-1.0)
