"""Improved contrastive divergence: the KL gradient against finite differences, special cases, the
release's traps."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_under_test import (
    BATCH,
    BY_LABEL,
    CLASSES,
    METHODS,
    SCALES,
    SHAPE,
    START,
    make_icd,
    prepared,
)

from ebm_jax import mcmc, replay, versions
from ebm_jax import objectives as obj
from ebm_jax.types import UNCONDITIONAL, Network


def term(method, name, samples, batch=BATCH):
    return jax.jit(lambda params: method.loss(params, jax.random.key(2), batch, samples)[0][name])


def flow(energies, params, x, key, steps, a=0.1, noise=0.01):
    """The last `steps` of a 3-step chain of NOISE_FIRST, written out: noise, drift down the SUM of
    scales, clip."""
    for t in range(3 - steps, 3):
        x = x + noise * jax.random.normal(jax.random.fold_in(key, t), (x.size,)).reshape(x.shape)
        x = jnp.clip(x - a * jax.grad(lambda u: jnp.sum(energies(params, u)))(x), -1, 1)
    return x


FROM_ZERO = replay.fresh(lambda key, label: jnp.zeros(SHAPE))
QUARTIC = Network(
    lambda key, x: jnp.array([0.7, 0.4]),
    lambda p, x: 0.5 * p[0] * jnp.sum(x**2) + p[1] * jnp.sum(x**4),
)
TANH = Network(
    lambda key, x: {'w': jax.random.normal(key, (64, 7)) / 8, 'v': jax.random.normal(key, (7, 2))},
    lambda p, x: jnp.tanh(x.reshape(-1) @ p['w']) @ p['v'],
)


@pytest.mark.parametrize('name, network', [('closed form', QUARTIC), ('small network', TANH)])
@pytest.mark.parametrize('steps', [1, 3])
def test_kl_gradient_is_that_of_the_frozen_energy_at_a_live_sample(name, network, steps):
    """Against central differences of theta' -> E_theta(x(theta')), in float64, the chain written
    out independently."""
    with versions.enable_x64(True):
        start = partial(jax.random.uniform, shape=SHAPE, dtype=jnp.float64, minval=-1, maxval=1)
        buffer = replay.first_in_first_out(lambda key, label: start(key), 8, restart=0.1)
        method = make_icd(network, buffer=buffer, kl_steps=steps, entropy_weight=0.0)
        params, chains = jax.jit(method.init)(jax.random.key(0), BATCH)
        params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), params)
        samples, _ = jax.jit(method.sample)(jax.random.key(1), params, chains, BATCH)
        ends = jax.vmap(lambda x, key, p: flow(network.apply, p, x, key, steps), (0, 0, None))

        def frozen(live):
            x = ends(samples.tail.state.position, samples.tail.key, live)
            return jnp.mean(jax.vmap(lambda u: jnp.mean(network.apply(params, u)))(x))

        exact = jax.jit(jax.grad(term(method, 'kl', samples)))(params)
        # two of the four chains of each shard
        of_tail = samples.x.reshape(4, 4, -1)[:, :2].reshape(8, *SHAPE)
        np.testing.assert_allclose(
            ends(samples.tail.state.position, samples.tail.key, params), of_tail, atol=1e-6
        )
        frozen, rng = jax.jit(frozen), np.random.default_rng(0)
        for _ in range(4):
            direction = jax.tree.map(lambda p: rng.normal(size=p.shape), params)
            ahead, behind = (
                frozen(jax.tree.map(lambda p, d, h=h: p + h * d, params, direction))
                for h in (1e-5, -1e-5)
            )
            inner = sum(
                jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(exact), jax.tree.leaves(direction))
            )
            np.testing.assert_allclose(inner, (ahead - behind) / 2e-5, rtol=1e-5)


def test_kl_gradient_of_one_step_is_minus_eta_times_the_product_of_gradients():
    """-eta grad E(x_K) . d_theta grad E(x_{K-1}) on E = theta |x|^2 / 2: -eta theta x_K . x_{K-1},
    with noise and bounds out of the way."""
    network = Network(lambda key, x: jnp.array(0.8), lambda p, x: 0.5 * p * jnp.sum(x**2))
    method = make_icd(network, mcmc.langevin(0.1, noise_scale=0.0), entropy_weight=0.0)
    params, _, samples, _ = fresh_run(method)
    before = samples.tail.state.position
    after = before - 0.1 * params * before
    expected = -0.1 * params * jnp.sum(after * before, (1, 2, 3)).mean()
    np.testing.assert_allclose(jax.grad(term(method, 'kl', samples))(params), expected, rtol=1e-5)


def fresh_run(method, rounds=1, batch=BATCH):
    """(params, chains before, samples, chains after) of the last of some rounds of sampling."""

    @jax.jit
    def run():
        params, after = method.init(jax.random.key(0), batch)
        for k in range(rounds):
            chains = after
            samples, after = method.sample(jax.random.key(k), params, chains, batch)
        return params, chains, samples, after

    return run()


def test_loss_is_what_the_release_computes():
    """Every term written out in numpy: means over batch and scales, squares, frozen energy,
    nearest neighbour."""
    method = make_icd(l2_weight=0.7, kl_weight=0.9, entropy_weight=0.3, population_after=5)
    params, _, samples, _ = fresh_run(method, rounds=3)
    assert bool(samples.ready) and samples.present.all()
    energies = jax.jit(jax.vmap(SCALES.apply, (None, 0)))
    terms, metrics = jax.jit(method.loss)(params, jax.random.key(0), BATCH, samples)
    e_pos, e_neg = np.asarray(energies(params, BATCH['x'])), np.asarray(energies(params, samples.x))
    np.testing.assert_allclose(terms['contrast'], e_pos.mean() - e_neg.mean(), atol=1e-6)
    np.testing.assert_allclose(
        terms['energy_square'], 0.7 * ((e_pos**2).mean() + (e_neg**2).mean()), rtol=1e-4
    )
    x = jax.jit(jax.vmap(lambda x, key: flow(SCALES.apply, params, x, key, 1)))(
        samples.tail.state.position, samples.tail.key
    )
    gaps = np.asarray(x).reshape(8, 1, -1) - np.asarray(samples.population).reshape(1, 8, -1)
    spread = np.log(np.sqrt((gaps**2).sum(2)).min(1)).mean()
    np.testing.assert_allclose(
        terms['kl'], 0.9 * (np.asarray(energies(params, x)).mean() - 0.3 * spread), rtol=1e-4
    )
    np.testing.assert_allclose(metrics['kl_entropy'], spread, rtol=1e-4)


def test_plain_contrastive_divergence_moves_a_gaussian_by_the_difference_of_its_moments():
    """E = |x - theta|^2 / 2, chains of K steps from the data: dL/dtheta = mean x- - mean x+, and x-
    is known in closed form."""
    network = Network(lambda key, x: jnp.full(SHAPE, 0.3), lambda p, x: 0.5 * jnp.sum((x - p) ** 2))
    method = make_icd(
        network,
        mcmc.langevin(0.2, noise_scale=0.0),
        kl_weight=0.0,
        l2_weight=0.0,
        from_data=True,
        buffer=replay.fresh(START),
    )
    params, _, samples, _ = fresh_run(method, rounds=2)
    np.testing.assert_allclose(samples.x, 0.3 + 0.8**3 * (BATCH['x'] - 0.3), atol=1e-5)
    assert np.all(samples.negatives.age == 1)
    gradient = jax.grad(term(method, 'contrast', samples))(params)
    np.testing.assert_allclose(gradient, (samples.x - BATCH['x']).mean(0), atol=1e-6)
    assert set(method.loss(params, jax.random.key(0), BATCH, samples)[0]) == {'contrast'}


def test_persistent_contrastive_divergence_continues_its_chains():
    still = mcmc.langevin(0.1, noise_scale=0.0)
    flat = Network(lambda key, x: jnp.zeros(()), lambda p, x: p * jnp.sum(x))
    method = make_icd(flat, still, kl_weight=0.0, buffer=replay.persistent(START, 4, restart=0.0))
    first, fifth = fresh_run(method)[2], fresh_run(method, rounds=5)[2]

    def as_set(x):
        return np.sort(np.asarray(x).reshape(16, -1), 0)

    # nothing moves them, so they are the same chains
    np.testing.assert_allclose(as_set(first.x), as_set(fifth.x), atol=1e-6)
    assert np.all(fifth.negatives.age == 5)


def test_a_weight_rule_balances_the_contrast():
    method = make_icd(weights=obj.balanced)
    params, _, samples, _ = fresh_run(method)
    mean = jax.jit(jax.vmap(lambda u: jnp.mean(SCALES.apply(params, u))))
    e_pos, e_neg = mean(BATCH['x']), mean(samples.x)
    share = jax.nn.softmax(-jnp.concatenate([e_pos, e_neg]))
    expected = e_pos.mean() - share @ jnp.concatenate([e_pos, e_neg])
    np.testing.assert_allclose(term(method, 'contrast', samples)(params), expected, atol=1e-6)


# --- the population of the entropy term ---


def test_population_is_past_samples_moved_by_the_transition():
    """Drawn from the buffer as it was before this round's samples; with mirrored columns, so that
    the move shows."""

    def mirror(key, x):
        return x[:, ::-1]

    params, before, samples, _ = fresh_run(
        make_icd(transition=mirror, buffer=replay.first_in_first_out(START, 8, restart=0.0)),
        rounds=3,
    )
    there = {np.asarray(x[:, ::-1]).tobytes() for x in before.buffer.position.reshape(-1, *SHAPE)}
    drawn = [np.asarray(x).tobytes() for x in samples.population]
    assert set(drawn) <= there and len(set(drawn)) == 8
    assert not {np.asarray(x).tobytes() for x in samples.x} & set(drawn)


def test_entropy_counts_only_once_the_buffer_holds_enough():
    method = make_icd(population_after=20, buffer=replay.first_in_first_out(START, 8, restart=0.0))
    seen = []
    for rounds in (1, 2, 3):  # past samples: 0, 16, 32
        params, _, samples, _ = fresh_run(method, rounds)
        seen.append(
            (
                bool(samples.ready),
                float(
                    jax.jit(method.loss)(params, jax.random.key(0), BATCH, samples)[1]['kl_entropy']
                ),
            )
        )
    assert [ready for ready, _ in seen] == [False, False, True]
    assert seen[0][1] == seen[1][1] == 0 and seen[2][1] != 0


@pytest.mark.parametrize('name', ['icd', 'icd_two_steps_by_label'])  # both entropies
def test_gradients_are_finite_before_there_is_any_past(name):
    method = METHODS[name]
    params, _, samples, _ = prepared(method)
    assert not samples.ready and not samples.present.any()
    grads = jax.jit(jax.grad(term(method, 'kl', samples)))(params)
    chex.assert_tree_all_finite(grads)


# --- traps of the release ---


def test_replayed_samples_come_back_as_they_were_written():
    """The release's uint8 images wrapped around when no augmentation ran, so replayed images were
    inverted."""
    still = Network(lambda key, x: jnp.zeros(()), lambda p, x: p * jnp.sum(x))
    method = make_icd(
        still,
        mcmc.langevin(0.1, noise_scale=0.0, bounds=(-1, 1)),
        kl_weight=0.0,
        buffer=replay.persistent(START, 4, restart=0.0),
    )
    _, before, samples, after = fresh_run(method, rounds=2)
    np.testing.assert_array_equal(before.buffer.position, after.buffer.position)
    assert {x.tobytes() for x in np.asarray(samples.x)} == {
        x.tobytes() for x in np.asarray(before.buffer.position).reshape(-1, *SHAPE)
    }


def test_the_kl_term_is_there_at_every_step():
    """The release left its gradient out at every 1,000th step: the method does not know the step,
    and no step of a run is without it."""
    import optax

    from ebm_jax.train import Recipe, init_state, make_local_step

    method = make_icd(TANH, entropy_weight=0.0)
    recipe = Recipe(
        method=method,
        optimizer=optax.sgd(0.0),
        prepare=lambda key, x: x,
        batch_at=lambda step: BATCH,
    )
    step = jax.jit(make_local_step(recipe, watch_every=1))
    state = init_state(jax.random.key(0), recipe)
    for at in (998, 999, 1000, 1001):
        _, metrics = step(state.replace(step=jnp.int32(at)), BATCH)
        assert metrics['grad_norm/kl'] > 1e-6


def test_labels_follow_their_chains_into_the_kl_term():
    """The release did not cut the labels to the chains of the KL term."""
    method = METHODS['icd_two_steps_by_label']
    params, _, samples, _ = prepared(method)
    kept = (np.arange(4)[:, None] * 4 + np.arange(2)).reshape(-1)
    np.testing.assert_array_equal(samples.tail.label, samples.negatives.label[kept])

    def one(x, key, y):
        return flow(lambda p, u: BY_LABEL.apply(p, u, y), params, x, key, 2)

    ends = jax.jit(jax.vmap(one))(
        samples.tail.state.position, samples.tail.key, samples.negatives.label[kept]
    )
    np.testing.assert_allclose(ends, samples.x[kept], atol=1e-5)
    energy = jax.jit(jax.vmap(BY_LABEL.apply, (None, 0, 0)))(
        params, ends, samples.negatives.label[kept]
    ).mean()
    metrics = jax.jit(method.loss)(params, jax.random.key(0), BATCH, samples)[1]
    np.testing.assert_allclose(metrics['kl_energy'], energy, rtol=1e-4)


def test_conditional_chains_take_the_labels_of_the_batch_and_descend_them():
    centres = jnp.linspace(-0.8, 0.8, CLASSES)
    wells = Network(
        lambda key, x, label: jnp.zeros(()),
        lambda p, x, label: 2 * jnp.sum((x - centres[label]) ** 2),
    )
    batch = {**BATCH, 'y': jnp.where(jnp.arange(16) < 12, 1, 3)}
    method = make_icd(
        wells, mcmc.langevin(0.1, noise_scale=0.0), num_steps=40, conditional=True, kl_weight=0.0
    )
    _, _, samples, _ = fresh_run(method, batch=batch)
    assert set(np.asarray(samples.negatives.label)) <= {1, 3}
    np.testing.assert_allclose(
        np.asarray(samples.x).mean((1, 2, 3)), centres[samples.negatives.label], atol=1e-3
    )
    assert np.all(np.asarray(fresh_run(METHODS['icd'])[2].negatives.label) == UNCONDITIONAL)


def test_chains_descend_the_sum_of_scales_and_the_loss_takes_their_mean():
    network = Network(lambda key, x: jnp.array([1.0, 2.0, 4.0]), lambda p, x: p * jnp.sum(x))
    method = make_icd(
        network, mcmc.langevin(0.01, noise_scale=0.0), kl_weight=0.0, buffer=FROM_ZERO
    )
    params, _, samples, _ = fresh_run(method)
    np.testing.assert_allclose(samples.x, -3 * 0.01 * 7 * np.ones((16, *SHAPE)), rtol=1e-5)
    expected = (7 / 3) * (BATCH['x'].sum((1, 2, 3)).mean() - samples.x[0].sum())
    np.testing.assert_allclose(term(method, 'contrast', samples)(params), expected, rtol=1e-5)


def test_the_transition_comes_before_the_steps_and_moves_every_chain():
    network = Network(lambda key, x: jnp.zeros(()), lambda p, x: p * jnp.sum(x))
    method = make_icd(
        network,
        mcmc.langevin(0.1, noise_scale=0.0),
        kl_weight=0.0,
        buffer=FROM_ZERO,
        transition=lambda key, x: x + jax.random.uniform(key),
    )
    _, _, samples, _ = fresh_run(method)
    assert len(np.unique(samples.x[:, 0, 0, 0])) == 16 and np.all(samples.x > 0)


@pytest.mark.parametrize(
    'options, says',
    [
        ({'num_negatives': 10}, 'num_negatives'),
        ({'kl_chains': 6}, 'kl_chains'),
        ({'population': 5}, 'population'),
        ({'kl_chains': 20}, 'exceed'),
        ({'kl_steps': 4}, 'kl_steps'),
        ({'kl_steps': 0}, 'kl_steps'),
        ({'kl_weight': -1.0}, 'kl_weight'),
        ({'entropy_weight': float('nan')}, 'entropy_weight'),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        make_icd(**options)


@pytest.mark.parametrize(
    'options, says',
    [
        ({'population_after': 32}, 'never exceeded'),
        ({'buffer': replay.fresh(START), 'population_after': 0}, 'fresh buffer'),
        ({'from_data': True, 'num_negatives': 8}, 'as many negatives'),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(options, says):
    method = make_icd(**options)
    with pytest.raises(ValueError, match=says):
        params, chains = jax.eval_shape(method.init, jax.random.key(0), BATCH)
        jax.eval_shape(method.sample, jax.random.key(0), params, chains, BATCH)


def test_the_kernels_noise_comes_before_its_drift():
    """One step on E = theta sum x^2 / 2: x - a theta x with x already noisy, so the noise is shrunk
    too."""
    start = jnp.full(SHAPE, 0.5)
    network = Network(lambda key, x: jnp.array(2.0), lambda p, x: 0.5 * p * jnp.sum(x**2))
    method = make_icd(
        network,
        mcmc.langevin(0.25, noise_scale=0.1, noise_first=True),
        num_steps=1,
        kl_weight=0.0,
        buffer=replay.fresh(lambda key, label: start),
    )
    _, _, samples, _ = fresh_run(method)
    np.testing.assert_allclose(np.std(samples.x), 0.5 * 0.1, rtol=0.1)
    np.testing.assert_allclose(np.mean(samples.x), 0.25, atol=0.01)


def test_a_scalar_energy_is_one_scale():
    scalar = make_icd(Network(SCALES.init, lambda p, x: jnp.sum(SCALES.apply(p, x))))
    one = make_icd(Network(SCALES.init, lambda p, x: jnp.sum(SCALES.apply(p, x))[None]))
    (params, _, a, _), (_, _, b, _) = fresh_run(scalar), fresh_run(one)
    np.testing.assert_array_equal(a.x, b.x)
    losses = [
        jax.jit(method.loss)(params, jax.random.key(0), BATCH, samples)
        for method, samples in ((scalar, a), (one, b))
    ]
    chex.assert_trees_all_equal(*losses)


def test_a_metropolis_kernel_serves_without_the_kl_term_only():
    mala = make_icd(kernel=mcmc.mala(0.01), kl_weight=0.0)
    assert np.isfinite(fresh_run(mala)[2].x).all()
    method = make_icd(kernel=mcmc.mala(0.01))
    with pytest.raises(ValueError, match='Metropolis'):
        jax.eval_shape(
            method.sample,
            jax.random.key(0),
            *jax.eval_shape(method.init, jax.random.key(0), BATCH),
            BATCH,
        )


def test_chains_from_the_data_keep_the_labels_of_the_data():
    method = make_icd(
        BY_LABEL,
        kl_weight=0.0,
        conditional=True,
        from_data=True,
        buffer=replay.class_conditional(START, 16, CLASSES, unconditional=0.0),
    )
    _, _, samples, after = fresh_run(method)
    np.testing.assert_array_equal(samples.negatives.label, BATCH['y'])
    written = np.asarray(after.buffer.label)[np.asarray(after.buffer.age) > 0]
    np.testing.assert_array_equal(np.sort(written), np.sort(BATCH['y']))
    # the blocks are as they were
    assert np.all(np.asarray(after.buffer.label) == np.repeat(np.arange(4), 4))
