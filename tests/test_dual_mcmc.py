"""Dual-MCMC teaching against linear-Gaussian models, where posteriors, objectives and gradients are
known."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ebm_jax import devices, mcmc, teaching
from ebm_jax import objectives as obj
from ebm_jax.apply import latent
from ebm_jax.apply.refine import refine
from ebm_jax.methods import dual_mcmc as dm
from ebm_jax.train import Recipe, init_state, make_local_step, per_network
from ebm_jax.types import Network

D, X = 2, 3  # of z and of x
PARAMS = {
    'energy': {'mean': jnp.array([0.5, -0.2, 0.1]), 'precision': jnp.array(1.5)},
    'generator': {
        'w': jnp.array([[1.0, 0.3], [-0.4, 0.8], [0.2, 0.6]]),
        'b': jnp.array([0.2, 0.0, -0.3]),
    },
    'inference': {
        'a': jnp.array([[0.5, -0.3, 0.1], [0.2, 0.6, 0.4]]),
        'c': jnp.array([0.1, -0.2]),
        'v': jnp.array([-0.5, 0.3]),
    },
}


def fixed(name):
    return lambda key, *x: PARAMS[name]


ENERGY = Network(fixed('energy'), lambda p, x: 0.5 * p['precision'] * jnp.sum((x - p['mean']) ** 2))
GENERATOR = Network(fixed('generator'), lambda p, z: p['w'] @ z + p['b'])
INFERENCE = Network(fixed('inference'), lambda p, x: (p['a'] @ x + p['c'], p['v']))
NETWORKS = {'energy': ENERGY, 'generator': GENERATOR, 'inference': INFERENCE}
SIGMA = 0.5
N = 40_000
DATA = jnp.array([[0.3, 1.0, -0.5], [1.2, -0.7, 0.4]])
BATCH = {'x': jnp.tile(DATA, (N // 2, 1)), 'y': jnp.zeros(N, jnp.int32)}
EXACT = mcmc.mala(0.05)
LANGEVIN = mcmc.langevin(0.1, temperature=1.0)


def linear(settings, **options):
    used = teaching.needs(settings).networks
    return dm.dual_mcmc(
        *(NETWORKS[name] if used[name] else None for name in NETWORKS),
        settings._replace(sigma=SIGMA),
        **{'x_kernel': LANGEVIN, 'z_kernel': EXACT, 'latent_dim': D, 'num_negatives': N, **options},
    )


def params_of(settings):
    return {name: PARAMS[name] for name, used in teaching.needs(settings).networks.items() if used}


@partial(jax.jit, static_argnums=0)
def gradient(method, params, samples, key=jax.random.key(5), batch=BATCH):
    return jax.grad(lambda params: sum(method.loss(params, key, batch, samples)[0].values()))(
        params
    )


def samples_of(method, params, batch=BATCH):
    return jax.jit(method.sample)(jax.random.key(3), params, (), batch)[0]


def assert_gradients(found, expected, tolerance):
    chex.assert_trees_all_close(found, expected, rtol=1e-7, atol=tolerance)


def posterior(x):
    """Mean and covariance of p(z|x) of the linear generator."""
    w, b = PARAMS['generator']['w'], PARAMS['generator']['b']
    cov = jnp.linalg.inv(jnp.eye(D) + w.T @ w / SIGMA**2)
    return cov @ w.T @ (x - b) / SIGMA**2, cov


@pytest.mark.parametrize(
    'settings', [teaching.ALTERNATING_BACK_PROPAGATION, teaching.PAPER._replace(x_steps=0)]
)
def test_the_chain_in_z_samples_the_exact_posterior_of_a_linear_generator(settings):
    settings = settings._replace(z_steps=150)
    method = linear(settings)
    z = samples_of(method, params_of(settings)).z_end.reshape(-1, 2, D)
    for i, x in enumerate(DATA):
        mean, cov = posterior(x)
        np.testing.assert_allclose(z[:, i].mean(0), mean, atol=0.02)
        np.testing.assert_allclose(np.cov(z[:, i].T), cov, atol=0.01)


def test_without_steps_the_latents_are_samples_of_the_inference_model():
    method = linear(teaching.PAPER._replace(x_steps=0, z_steps=0))
    z = samples_of(method, PARAMS).z_end.reshape(-1, 2, D)
    for i, x in enumerate(DATA):
        mean, log_variance = INFERENCE.apply(PARAMS['inference'], x)
        np.testing.assert_allclose(z[:, i].mean(0), mean, atol=0.03)
        np.testing.assert_allclose(np.cov(z[:, i].T), jnp.diag(jnp.exp(log_variance)), atol=0.04)


def square_generator():
    """g(z) ~ N(mean, I / precision) of the energy: the generator knows the density perfectly."""
    p = PARAMS['energy']
    return Network(
        lambda key, z: {'b': p['mean']},
        lambda params, z: params['b'] + z / jnp.sqrt(p['precision']),
    )


@pytest.mark.parametrize(
    'kernel, steps, variance',
    [
        (mcmc.mala(0.3), 20, lambda k: 1 / 1.5),
        # ULA with step a on precision k: v <- (1 - a k)^2 v + 2 a, from 1 / k
        (
            mcmc.langevin(0.2, temperature=1.0),
            5,
            lambda k: (
                (1 - 0.2 * k) ** 10 / k + 0.4 * (1 - (1 - 0.2 * k) ** 10) / (1 - (1 - 0.2 * k) ** 2)
            ),
        ),
    ],
    ids=['mala', 'ula'],
)
def test_the_chain_in_x_leaves_a_perfect_generators_density_where_it_is(kernel, steps, variance):
    generator = square_generator()
    method = dm.dual_mcmc(
        ENERGY,
        generator,
        None,
        teaching.COOPNETS._replace(x_steps=steps),
        x_kernel=kernel,
        z_kernel=EXACT,
        latent_dim=X,
        num_negatives=N,
    )
    samples = samples_of(
        method, {'energy': PARAMS['energy'], 'generator': {'b': PARAMS['energy']['mean']}}
    )
    assert (
        np.abs(
            samples.x
            - jax.vmap(lambda z: generator.apply({'b': PARAMS['energy']['mean']}, z))(samples.z)
        ).max()
        > 0.1
    )
    np.testing.assert_allclose(samples.x.mean(0), PARAMS['energy']['mean'], atol=0.02)
    np.testing.assert_allclose(np.cov(samples.x.T), variance(1.5) * np.eye(X), atol=0.02)


@pytest.mark.parametrize(
    'name, taught',
    [
        ('contrast', {'energy'}),
        ('generator_data', {'generator'}),
        ('generator_chain', {'generator'}),
        ('inference_data', {'inference'}),
        ('inference_chain', {'inference'}),
        ('elbo_data', {'generator', 'inference'}),
        ('elbo_chain', {'generator', 'inference'}),
        ('adversarial', {'generator'}),
    ],
)
def test_each_loss_term_moves_its_own_network_only(name, taught):
    method, batch = (
        linear(teaching.Settings(3, 3, **dict.fromkeys(teaching.LOSS_TERMS, 1.0)), num_negatives=2),
        {
            'x': DATA,
            'y': jnp.zeros(2, jnp.int32),
        },
    )
    samples, _ = method.sample(jax.random.key(1), PARAMS, (), batch)
    grads = jax.grad(
        lambda params: method.loss(params, jax.random.key(2), batch, samples)[0][name]
    )(PARAMS)
    moved = {
        network
        for network, grad in grads.items()
        if any(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(grad))
    }
    assert moved == taught


def test_the_papers_gradients_in_closed_form():
    """Of the samples at hand: misfits and -log q are quadratic."""
    settings = teaching.PAPER._replace(x_steps=3, z_steps=3)
    method = linear(settings)
    s = samples_of(method, PARAMS)
    found = gradient(method, PARAMS, s)
    e, g, q = (PARAMS[name] for name in NETWORKS)
    x, x_end = BATCH['x'], s.x
    mean_difference = -e['precision'] * (x.mean(0) - x_end.mean(0))
    half_squares = 0.5 * (
        ((x - e['mean']) ** 2).sum(1).mean() - ((x_end - e['mean']) ** 2).sum(1).mean()
    )
    assert_gradients(found['energy'], {'mean': mean_difference, 'precision': half_squares}, 2e-4)

    def of_generator(x, z):
        residual = (z @ g['w'].T + g['b'] - x) / SIGMA**2
        return {'w': residual.T @ z / len(z), 'b': residual.mean(0)}

    assert_gradients(
        found['generator'],
        jax.tree.map(jnp.add, of_generator(x, s.z_end), of_generator(x_end, s.z)),
        2e-3,
    )

    def of_inference(z, x):
        residual = (x @ q['a'].T + q['c'] - z) / jnp.exp(q['v'])
        return {
            'a': residual.T @ x / len(x),
            'c': residual.mean(0),
            'v': 0.5 - 0.5 * (residual**2 * jnp.exp(q['v'])).mean(0),
        }

    assert_gradients(
        found['inference'],
        jax.tree.map(jnp.add, of_inference(s.z_end, x), of_inference(s.z, x_end)),
        2e-3,
    )


def neg_elbo(params, mean_x, cov_x):
    """E over x ~ (mean_x, cov_x) of the negative evidence bound of the linear model, in closed form
    up to constants."""
    g, q = params['generator'], params['inference']
    second = jnp.outer(mean_x, mean_x) + cov_x
    m_square = (
        jnp.trace(q['a'] @ second @ q['a'].T) + 2 * q['c'] @ q['a'] @ mean_x + q['c'] @ q['c']
    )
    kl = 0.5 * (jnp.sum(jnp.exp(q['v']) - q['v']) + m_square)
    shift = g['w'] @ q['c'] + g['b']
    residual = jnp.eye(X) - g['w'] @ q['a']  # x - g(mean(x)) = residual x - shift
    mean_residual = residual @ mean_x - shift
    square = mean_residual @ mean_residual + jnp.trace(residual @ cov_x @ residual.T)
    square += jnp.trace(g['w'] @ jnp.diag(jnp.exp(q['v'])) @ g['w'].T)
    return kl + square / (2 * SIGMA**2)


def moments(x):
    return x.mean(0), jnp.cov(x.T, bias=True)


def test_the_vae_preset_has_the_gradient_of_the_evidence_bound():
    params = params_of(teaching.VAE)
    found = gradient(linear(teaching.VAE), params, samples_of(linear(teaching.VAE), params))
    assert_gradients(found, jax.grad(neg_elbo)(params, *moments(BATCH['x'])), 0.06)


def test_variational_cooperative_learning_is_a_vae_on_revised_samples():
    settings = teaching.VARIATIONAL_COOPERATIVE._replace(x_steps=3)
    method = linear(settings)
    s = samples_of(method, PARAMS)
    found = gradient(method, PARAMS, s)
    of_vae = jax.grad(neg_elbo)(
        {name: PARAMS[name] for name in ('generator', 'inference')}, *moments(s.x)
    )
    assert_gradients({name: found[name] for name in of_vae}, of_vae, 0.06)
    np.testing.assert_allclose(
        found['energy']['mean'], -1.5 * (BATCH['x'].mean(0) - s.x.mean(0)), atol=1e-3
    )


def test_the_divergence_triangle_has_the_gradient_of_its_three_divergences():
    """KL(Q||P) + KL(P||Pi) for generator and inference model, E_data E - E_g E for the energy, all
    in closed form."""

    def triangle(params):
        e, g, q = (params[name] for name in NETWORKS)
        live, constant = params, jax.lax.stop_gradient(params)
        mean_g, cov_g = g['b'], g['w'] @ g['w'].T

        # E_z -log q(z | g(z)), up to a constant: z - mean = (I - a w) z - (a b + c)
        def nll(q, g):
            residual, shift = jnp.eye(D) - q['a'] @ g['w'], q['a'] @ g['b'] + q['c']
            square = jnp.diag(residual @ residual.T) + shift**2
            return 0.5 * jnp.sum(square / jnp.exp(q['v']) + q['v'])

        def mean_energy(e, mean, cov):
            return 0.5 * e['precision'] * (jnp.sum((mean - e['mean']) ** 2) + jnp.trace(cov))

        frozen = jax.lax.stop_gradient
        return (
            neg_elbo(live, *moments(BATCH['x']))
            + mean_energy(constant['energy'], mean_g, cov_g)
            + nll(frozen(q), g)
            + nll(q, frozen(g))
            + mean_energy(e, *moments(BATCH['x']))
            - mean_energy(e, frozen(mean_g), frozen(cov_g))
        )

    method = linear(teaching.DIVERGENCE_TRIANGLE)
    s = samples_of(method, PARAMS)
    np.testing.assert_array_equal(s.x, s.z @ PARAMS['generator']['w'].T + PARAMS['generator']['b'])
    assert_gradients(gradient(method, PARAMS, s), jax.grad(triangle)(PARAMS), 0.08)


@pytest.mark.slow
def test_alternating_back_propagation_climbs_the_likelihood():
    """With exact posterior samples its gradient is that of -log N(x; b, w w^T + sigma^2 I)
    (Fisher's identity)."""
    settings = teaching.ALTERNATING_BACK_PROPAGATION._replace(z_steps=150)
    method, params = linear(settings), params_of(settings)

    def nll(params):
        g = params['generator']
        cov = g['w'] @ g['w'].T + SIGMA**2 * jnp.eye(X)
        return -jnp.mean(
            jax.vmap(lambda x: jax.scipy.stats.multivariate_normal.logpdf(x, g['b'], cov))(DATA)
        )

    assert_gradients(
        gradient(method, params, samples_of(method, params)), jax.grad(nll)(params), 0.05
    )


def test_coopnets_teach_energy_and_generator_by_the_chain_alone():
    method = linear(teaching.COOPNETS._replace(x_steps=3))
    params = params_of(teaching.COOPNETS)
    s = samples_of(method, params)
    found = gradient(method, params, s)
    residual = (s.z @ params['generator']['w'].T + params['generator']['b'] - s.x) / SIGMA**2
    assert_gradients(found['generator'], {'w': residual.T @ s.z / N, 'b': residual.mean(0)}, 1e-3)
    np.testing.assert_allclose(
        found['energy']['mean'], -1.5 * (BATCH['x'].mean(0) - s.x.mean(0)), atol=1e-3
    )


def test_short_run_chains_start_at_noise():
    settings = teaching.SHORT_RUN._replace(x_steps=4)
    method = linear(
        settings, x_initial_sampler=lambda key, label: 7.0 + 0.1 * jax.random.normal(key, (X,))
    )
    params = params_of(settings)
    assert set(params) == {'energy'}
    x = samples_of(method, params).x
    shrink = (1 - 0.1 * 1.5) ** 4  # of the mean's distance to the energy's, step by step
    np.testing.assert_allclose(
        x.mean(0), PARAMS['energy']['mean'] + shrink * (7 - PARAMS['energy']['mean']), atol=0.02
    )


@pytest.mark.parametrize('sequential', [False, True])
def test_the_energy_learns_from_the_generator_of_before_or_after_its_update(sequential):
    settings = teaching.PAPER._replace(x_steps=0, z_steps=0, sequential=sequential)
    small = {'x': DATA, 'y': jnp.zeros(2, jnp.int32)}
    method = linear(settings, num_negatives=2)
    optimizer = per_network({name: optax.sgd(0.1) for name in NETWORKS})
    recipe = Recipe(
        method=method,
        optimizer=optimizer,
        prepare=lambda key, x: x,
        batch_at=lambda step: small,
    )
    state = init_state(jax.random.key(0), recipe)
    after, metrics = jax.jit(make_local_step(recipe))(state, small)
    _, sample_key, _ = jax.random.split(jax.random.fold_in(state.key, 0), 3)
    z = method.sample(sample_key, state.params, (), small)[0].z
    g = (after if sequential else state).params['generator']
    negatives = z @ g['w'].T + g['b']
    np.testing.assert_allclose(
        after.params['energy']['mean'],
        PARAMS['energy']['mean'] + 0.1 * 1.5 * (DATA.mean(0) - negatives.mean(0)),
        atol=1e-5,
    )
    assert np.abs(after.params['generator']['w'] - state.params['generator']['w']).max() > 1e-3
    assert np.abs(after.params['inference']['a'] - state.params['inference']['a']).max() > 1e-3
    assert set(metrics) >= {f'loss/{name}' for name in teaching.LOSS_TERMS[:5]}
    np.testing.assert_allclose(
        metrics['loss'],
        sum(value for name, value in metrics.items() if name.startswith('loss/')),
        rtol=1e-5,
    )


def test_settings_use_the_networks_they_name():
    used = {
        name: {
            network
            for network, yes in teaching.needs(getattr(teaching, name)).networks.items()
            if yes
        }
        for name in (
            'PAPER',
            'COOPNETS',
            'VARIATIONAL_COOPERATIVE',
            'DIVERGENCE_TRIANGLE',
            'ALTERNATING_BACK_PROPAGATION',
            'SHORT_RUN',
            'VAE',
        )
    }
    three = {'energy', 'generator', 'inference'}
    assert used == {
        'PAPER': three,
        'COOPNETS': three - {'inference'},
        'VARIATIONAL_COOPERATIVE': three,
        'DIVERGENCE_TRIANGLE': three,
        'ALTERNATING_BACK_PROPAGATION': {'generator'},
        'SHORT_RUN': {'energy'},
        'VAE': three - {'energy'},
    }


@pytest.mark.parametrize(
    'settings, networks, options, message',
    [
        (teaching.PAPER, (ENERGY, GENERATOR, None), {}, "use a network 'inference'"),
        (teaching.COOPNETS, (ENERGY, GENERATOR, INFERENCE), {}, "use no network 'inference'"),
        (teaching.PAPER._replace(sigma=0.0), (ENERGY, GENERATOR, INFERENCE), {}, 'sigma must'),
        (
            teaching.PAPER._replace(x_steps=-1),
            (ENERGY, GENERATOR, INFERENCE),
            {},
            'x_steps must be at least 0',
        ),
        (
            teaching.PAPER._replace(contrast=-1.0),
            (ENERGY, GENERATOR, INFERENCE),
            {},
            'contrast must be finite',
        ),
        (teaching.NO_TERMS, (None, None, None), {}, 'nothing to learn'),
        (
            teaching.COOPNETS._replace(generator_chain=0.0, sequential=True),
            (ENERGY, GENERATOR, None),
            {},
            "the network 'generator', but all",
        ),
        (
            teaching.PAPER._replace(from_generator=False),
            (ENERGY, GENERATOR, INFERENCE),
            {},
            'their z is nothing to',
        ),
        (
            teaching.PAPER,
            (ENERGY, GENERATOR, INFERENCE),
            {'latent_dim': 0},
            'latent_dim must be at least 1',
        ),
        (
            teaching.PAPER,
            (ENERGY, GENERATOR, INFERENCE),
            {'x_initial_sampler': lambda key, label: 0},
            'x_initial_sampler is where',
        ),
        (teaching.SHORT_RUN, (ENERGY, None, None), {}, 'x_initial_sampler is where'),
    ],
)
def test_what_does_not_fit_is_refused(settings, networks, options, message):
    with pytest.raises(ValueError, match=message):
        dm.dual_mcmc(
            *networks,
            settings,
            **{
                'x_kernel': LANGEVIN,
                'z_kernel': EXACT,
                'latent_dim': D,
                'num_negatives': 4,
                **options,
            },
        )


def test_conditional_networks_get_the_labels_of_their_own_examples():
    """Networks that shift by their label; every chain's end and every term as of the shifted
    unconditional ones."""

    def shift(network):
        return Network(
            network.init, lambda p, x, y: jax.tree.map(lambda out: out + y, network.apply(p, x))
        )

    centred = Network(ENERGY.init, lambda p, x, y: ENERGY.apply(p, x - y))
    settings = teaching.Settings(1, 1, **dict.fromkeys(teaching.LOSS_TERMS, 1.0))
    drift = mcmc.langevin(0.1, noise_scale=0.0)
    method = dm.dual_mcmc(
        centred,
        shift(GENERATOR),
        shift(INFERENCE),
        settings,
        x_kernel=drift,
        z_kernel=drift,
        latent_dim=D,
        num_negatives=4,
        conditional=True,
    )
    batch = {'x': DATA, 'y': jnp.array([1, 2])}
    s, _ = method.sample(jax.random.key(0), PARAMS, (), batch)
    np.testing.assert_array_equal(s.label, [1, 2, 1, 2])
    e, g, q = (PARAMS[name] for name in NETWORKS)
    y_end, y = s.label[:, None], batch['y'][:, None]

    def of_g(z, y):
        return z @ g['w'].T + g['b'] + y

    def of_q(x, y):
        return (x @ q['a'].T + q['c'] + y, q['v'] + y)

    start = of_g(s.z, y_end)
    np.testing.assert_allclose(s.x, start - 0.1 * 1.5 * (start - y_end - e['mean']), rtol=1e-5)
    terms, _ = method.loss(PARAMS, jax.random.key(1), batch, s)

    def square(a):
        return jnp.mean(jnp.sum(a**2, -1))

    def nll(z, mean, log_v):
        return jnp.mean(jax.vmap(obj.gaussian_nll)(z, mean, jnp.broadcast_to(log_v, mean.shape)))

    expected = {
        'contrast': 0.75 * (square(DATA - y - e['mean']) - square(s.x - y_end - e['mean'])),
        'generator_data': square(DATA - of_g(s.z_end, y)) / (2 * 0.3**2),
        'generator_chain': square(s.x - start) / (2 * 0.3**2),
        'inference_data': nll(s.z_end, *of_q(DATA, y)),
        'inference_chain': nll(s.z, *of_q(s.x, y_end)),
        'adversarial': (0.75 * square(start - y_end - e['mean']) + nll(s.z, *of_q(start, y_end))),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)

    def bounds(key, x, y):  # with the noise that the method draws
        noise = jax.vmap(lambda k: jax.random.normal(k, (D,)))(devices.keys(key, len(x)))
        mean, log_v = of_q(x, y)
        log_v = jnp.broadcast_to(log_v, mean.shape)
        z = mean + jnp.exp(0.5 * log_v) * noise
        return jnp.mean(jax.vmap(obj.gaussian_kl)(mean, log_v)) + square(x - of_g(z, y)) / (
            2 * 0.3**2
        )

    data_key, chain_key = jax.random.split(jax.random.key(1))
    np.testing.assert_allclose(terms['elbo_data'], bounds(data_key, DATA, y), rtol=1e-4)
    np.testing.assert_allclose(terms['elbo_chain'], bounds(chain_key, s.x, y_end), rtol=1e-4)
    # the second label counts in z
    drifted = method.sample(jax.random.key(0), PARAMS, (), {'x': DATA, 'y': jnp.array([1, 3])})[
        0
    ].z_end
    np.testing.assert_array_equal(drifted[0], s.z_end[0])
    assert np.abs(drifted[1] - s.z_end[1]).max() > 0.1


# --- applications ---

MODEL = latent.LatentModel(
    GENERATOR,
    None,
    lambda params, x: ENERGY.apply(params['energy'], x),
    mcmc.langevin(0.05, temperature=0.0),
    SIGMA,
    D,
)
WITH_Q = MODEL._replace(inference=INFERENCE)
KNOWN = jnp.array([True, False, True])


def test_inference_without_noise_ends_at_the_posterior_mean():
    z = latent.infer(WITH_Q, PARAMS, jax.random.key(0), DATA[0], steps=400)
    np.testing.assert_allclose(z, posterior(DATA[0])[0], atol=1e-4)
    np.testing.assert_allclose(
        latent.infer(WITH_Q, PARAMS, jax.random.key(0), DATA[0], steps=0),
        INFERENCE.apply(PARAMS['inference'], DATA[0])[0],
    )
    np.testing.assert_allclose(
        latent.reconstruct(WITH_Q, PARAMS, jax.random.key(0), DATA[0], steps=400),
        GENERATOR.apply(PARAMS['generator'], posterior(DATA[0])[0]),
        atol=1e-4,
    )


def test_a_mask_hides_pixels_from_the_chain_in_z():
    """The posterior of the visible rows of the generator alone; and what is hidden may hold
    anything."""
    rows = np.flatnonzero(KNOWN)
    w, b = PARAMS['generator']['w'][rows], PARAMS['generator']['b'][rows]
    expected = jnp.linalg.solve(
        jnp.eye(D) + w.T @ w / SIGMA**2, w.T @ (DATA[0][rows] - b) / SIGMA**2
    )
    for hidden in (0.0, 1e4):
        x = jnp.where(KNOWN, DATA[0], hidden)
        np.testing.assert_allclose(
            latent.infer(MODEL, PARAMS, jax.random.key(0), x, steps=400, known=KNOWN),
            expected,
            atol=1e-4,
        )


def test_of_several_chains_in_z_the_lowest_is_taken():
    """x = z^2 + z / 2 has two solutions; q proposes the one that is less likely under p(z)."""

    def generate(params, z):
        return z**2 + z / 2

    x, sigma = jnp.array([2.0]), 0.3
    model = latent.LatentModel(
        generator=Network(lambda key, z: {}, generate),
        inference=Network(lambda key, x: {}, lambda params, x: (jnp.array([-1.0]), jnp.zeros(1))),
        energy_fn=None,
        z_kernel=mcmc.langevin(0.01, noise_scale=0.0),
        sigma=sigma,
        latent_dim=1,
    )
    grid = np.linspace(-3, 3, 60_001)
    energy = grid**2 / 2 + (2 - generate(None, grid)) ** 2 / (2 * sigma**2)
    left = grid[np.argmin(np.where(grid < 0, energy, np.inf))]
    params = {'generator': {}, 'inference': {}}
    for starts, expected in ((1, left), (8, grid[np.argmin(energy)])):
        z = latent.infer(model, params, jax.random.key(0), x, steps=200, starts=starts)
        np.testing.assert_allclose(z, [expected], atol=1e-3)
    assert left < 0 < expected
    # a chain that diverges is not taken
    wild = model._replace(
        generator=Network(lambda key, z: {}, lambda params, z: jnp.where(z < 0, jnp.nan, z))
    )
    assert latent.infer(wild, params, jax.random.key(0), x, steps=20, starts=8) > 0


@pytest.mark.parametrize('model', [MODEL, WITH_Q], ids=['from the prior', 'from q'])
@pytest.mark.parametrize('x_steps', [0, 200])
def test_inpainting_leaves_what_is_known_and_moves_what_is_hidden(x_steps, model):
    kernel = mcmc.langevin(0.1, noise_scale=0.0)

    def fill(x, z_steps):
        return latent.inpaint(
            model,
            PARAMS,
            jax.random.key(0),
            x,
            KNOWN,
            z_steps=z_steps,
            x_kernel=kernel,
            x_steps=x_steps,
        )

    x = jnp.where(KNOWN, DATA[0], jnp.nan)
    found = fill(x, 400)
    np.testing.assert_array_equal(found[KNOWN], DATA[0][KNOWN])
    # hidden pixels are not used, even before the chain has forgotten its initial position
    for z_steps in (0, 3):
        np.testing.assert_array_equal(fill(x, z_steps), fill(DATA[0], z_steps))
    x = DATA[0]
    z = latent.infer(MODEL, PARAMS, jax.random.key(0), x, steps=400, known=KNOWN)
    # the energy's minimum, or g(z)
    expected = PARAMS['energy']['mean'] if x_steps else GENERATOR.apply(PARAMS['generator'], z)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-4)
    with pytest.raises(ValueError, match='has no energy'):
        latent.inpaint(
            MODEL._replace(energy_fn=None),
            PARAMS,
            jax.random.key(0),
            x,
            KNOWN,
            z_steps=0,
            x_kernel=kernel,
            x_steps=1,
        )


def test_refining_samples_the_conditional_of_what_is_hidden():
    """A correlated Gaussian: p(u | k) has mean -P_uk k / P_uu and variance 1 / P_uu."""
    precision = jnp.array([[2.0, 0.9], [0.9, 1.0]])

    def energy(x):
        return 0.5 * x @ precision @ x

    x = jnp.array([1.5, 0.0])

    def one(key):
        return refine(key, energy, mcmc.mala(0.5), x, 60, known=jnp.array([True, False]))

    found = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(0), 20_000)))
    np.testing.assert_array_equal(found[:, 0], 1.5)
    np.testing.assert_allclose(
        [found[:, 1].mean(), found[:, 1].var()], [-0.9 * 1.5, 1.0], atol=0.03
    )


def test_between_goes_along_the_sphere():
    a, b = jnp.array([3.0, 0.0]), jnp.array([0.0, 1.0])
    path = latent.between(a, b, 3)
    np.testing.assert_allclose(
        path, [[3, 0], [2 * np.sqrt(0.5), 2 * np.sqrt(0.5)], [0, 1]], atol=1e-6
    )
    np.testing.assert_allclose(latent.between(a, 2 * a, 3)[:, 0], [3, 4.5, 6], atol=1e-5)
    chex.assert_tree_all_finite([latent.between(a, -a, 5), latent.between(0 * a, a, 5)])


def test_interpolation_ends_at_the_reconstructions():
    frames = latent.interpolate(WITH_Q, PARAMS, jax.random.key(0), DATA[0], DATA[1], num=4, steps=0)
    ends = [latent.reconstruct(WITH_Q, PARAMS, jax.random.key(0), x, steps=0) for x in DATA]
    np.testing.assert_allclose(frames[np.array([0, -1])], jnp.stack(ends), atol=1e-5)


def test_interpolation_between_classes_takes_the_label_of_each_end():
    def shift(network):
        return Network(
            network.init, lambda p, x, y: jax.tree.map(lambda out: out + y, network.apply(p, x))
        )

    model = WITH_Q._replace(generator=shift(GENERATOR), inference=shift(INFERENCE))
    frames = latent.interpolate(
        model, PARAMS, jax.random.key(0), DATA[0], DATA[1], 1, 5, num=4, steps=0
    )
    ends = [
        latent.reconstruct(model, PARAMS, jax.random.key(0), x, y, steps=0)
        for x, y in zip(DATA, (1, 5))
    ]
    np.testing.assert_allclose(frames[np.array([0, -1])], jnp.stack(ends), atol=1e-5)


def test_the_joint_score_is_the_log_density_of_x_and_z():
    z = INFERENCE.apply(PARAMS['inference'], DATA[0])[0]

    def log_normal(value, mean, scale):
        return jax.scipy.stats.norm.logpdf(value, mean, scale).sum()

    expected = log_normal(z, 0, 1) + log_normal(
        DATA[0], GENERATOR.apply(PARAMS['generator'], z), SIGMA
    )
    constant = -0.5 * (D + X) * np.log(2 * np.pi) - X * np.log(SIGMA)
    np.testing.assert_allclose(
        latent.joint_score(WITH_Q, PARAMS, DATA[0]), expected - constant, rtol=1e-5
    )


def test_gaussian_terms_against_scipy():
    mean, log_variance, value = (
        jnp.array([0.3, -1.0]),
        jnp.array([0.4, -0.7]),
        jnp.array([1.0, 0.2]),
    )
    expected = -jax.scipy.stats.norm.logpdf(value, mean, jnp.exp(0.5 * log_variance)).sum()
    np.testing.assert_allclose(obj.gaussian_nll(value, mean, log_variance), expected, rtol=1e-6)
    noise = jax.random.normal(jax.random.key(0), (200_000, 2))
    z = jax.vmap(obj.reparametrised, (0, None, None))(noise, mean, log_variance)
    log_ratio = jax.scipy.stats.norm.logpdf(
        z, mean, jnp.exp(0.5 * log_variance)
    ) - jax.scipy.stats.norm.logpdf(z)
    np.testing.assert_allclose(
        obj.gaussian_kl(mean, log_variance), log_ratio.sum(1).mean(), atol=0.01
    )
