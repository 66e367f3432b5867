"""JEM's own: finite differences, proportions, chain ages, the tuned sampler."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_under_test import (
    BATCH,
    CLASSES,
    KERNEL,
    METHODS,
    NETWORK,
    SHAPE,
    START,
    make_jem,
    prepared,
    sampler_of,
    total,
)

from ebm_jax import adapt, devices, mcmc, negatives, replay, versions
from ebm_jax import objectives as obj
from ebm_jax.methods.jem import jem
from ebm_jax.negatives import Negatives
from ebm_jax.types import UNCONDITIONAL, Network


def shifted(network, by):
    return Network(network.init, lambda params, x: network.apply(params, x) + by)


@pytest.mark.parametrize('options', [{}, {'weights': obj.balanced, 'alpha': 0.5}])
def test_an_energy_shift_changes_neither_samples_nor_gradient(options):
    plain, moved = make_jem(**options), make_jem(shifted(NETWORK, 3.0), **options)
    params, _, samples, _ = prepared(plain)
    _, _, same, _ = prepared(moved)
    np.testing.assert_allclose(samples.x, same.x, atol=1e-5)
    a, b = (jax.jit(jax.grad(total(m)))(params, samples) for m in (plain, moved))
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, atol=1e-5), a, b)


def test_jem_gradient_against_finite_differences():
    """In float64, on a two-layer network written out here."""
    with versions.enable_x64(True):
        rng = np.random.default_rng(0)
        params = {'w': rng.normal(size=(64, 7)) / 8, 'v': rng.normal(size=(7, CLASSES))}
        network = Network(
            lambda key, x: params, lambda p, x: jnp.tanh(x.reshape(-1) @ p['w']) @ p['v']
        )
        method = make_jem(network)
        samples = Negatives(
            jnp.asarray(rng.normal(size=(16, *SHAPE))),
            jnp.zeros(16, jnp.int32),
            jnp.ones(16, jnp.int32),
            jnp.ones(16, bool),
            jnp.zeros(()),
        )
        batch = {
            'x': jnp.asarray(rng.normal(size=(16, *SHAPE))),
            'y': jnp.asarray(rng.integers(0, CLASSES, 16)),
        }

        def loss(params):
            return total(method, batch)(params, samples)

        loss = jax.jit(loss)
        grads = jax.grad(loss)(jax.tree.map(jnp.asarray, params))
        for _ in range(5):
            direction = jax.tree.map(lambda p: rng.normal(size=p.shape), params)
            ahead, behind = (
                loss(jax.tree.map(lambda p, d, h=h: jnp.asarray(p + h * d), params, direction))
                for h in (1e-5, -1e-5)
            )
            numeric = (ahead - behind) / 2e-5
            exact = sum(
                jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction))
            )
            np.testing.assert_allclose(exact, numeric, rtol=1e-6)


def test_jem_loss_is_cross_entropy_plus_the_energy_difference():
    method = METHODS['jem']
    params, _, samples, _ = prepared(method)
    f = jax.vmap(NETWORK.apply, (None, 0))

    def log_z(x):
        return jax.nn.logsumexp(f(params, x), 1)

    cross_entropy = -np.mean(
        [f(params, BATCH['x'])[i, y] - log_z(BATCH['x'])[i] for i, y in enumerate(BATCH['y'])]
    )
    expected = cross_entropy - log_z(BATCH['x']).mean() + log_z(samples.x).mean()
    np.testing.assert_allclose(total(method)(params, samples), expected, rtol=1e-5)


def test_alpha_weighs_the_information_exactly():
    """grad L(alpha) = grad L(0) - alpha grad I, with I as L_x - L_xy."""
    losses = [total(make_jem(weights=obj.balanced, alpha=alpha)) for alpha in (0.0, 0.4, 1.0)]
    params, _, samples, _ = prepared(METHODS['st_jem'])
    g0, g4, g1 = (jax.jit(jax.grad(loss))(params, samples) for loss in losses)
    mixed = jax.tree.map(lambda a, c: 0.6 * a + 0.4 * c, g0, g1)
    chex.assert_trees_all_close(g4, mixed, rtol=1e-7, atol=1e-5)

    def information(params):
        pos, neg = (jax.vmap(NETWORK.apply, (None, 0))(params, x) for x in (BATCH['x'], samples.x))
        everyone = jnp.concatenate([pos, neg])
        l_x = jnp.mean(jax.nn.logsumexp(everyone) - jax.nn.logsumexp(pos, 1))
        l_xy = jnp.mean(
            jax.nn.logsumexp(everyone, 0)[BATCH['y']]
            - jnp.take_along_axis(pos, BATCH['y'][:, None], 1)[:, 0]
        )
        return l_x - l_xy

    difference = jax.tree.map(jnp.subtract, g0, g1)
    of_information = jax.jit(jax.grad(information))(params)
    chex.assert_trees_all_close(difference, of_information, rtol=1e-7, atol=1e-5)


@pytest.mark.parametrize('num, share', [(16, 0.0), (16, 0.3), (16, 0.5), (4, 0.9), (16, 1.0)])
def test_the_stated_share_of_chains_is_conditional(num, share):
    """M conditional rounded down or up at each step, exact in expectation."""
    buffer = replay.class_conditional(START, 40, CLASSES, unconditional=0.5)
    method = jem(
        NETWORK,
        adapt.fixed(KERNEL),
        buffer,
        num_negatives=num,
        num_steps=1,
        conditional=share,
        shards=4,
    )
    params, chains = jax.jit(method.init)(jax.random.key(0), BATCH)
    labels = jax.jit(jax.vmap(lambda key: method.sample(key, params, chains, BATCH)[0].label))(
        jax.random.split(jax.random.key(1), 300)
    )
    counts = np.sum(np.asarray(labels) != UNCONDITIONAL, 1)
    assert set(counts) <= {int(num * share + 1e-6), int(np.ceil(num * share - 1e-6))}
    # sd of the mean at most 0.03
    np.testing.assert_allclose(counts.mean(), num * share, atol=0.11)


def test_every_shard_gets_its_turn_at_the_unconditional_chains():
    method = METHODS['st_jem']
    params, chains = jax.jit(method.init)(jax.random.key(0), BATCH)
    labels = np.stack(
        [sampler_of(method)(jax.random.key(k), params, chains, BATCH)[0].label for k in range(60)]
    )
    np.testing.assert_allclose((labels == UNCONDITIONAL).mean(0), 0.5, atol=0.25)


def test_labels_follow_the_batch():
    batch = {**BATCH, 'y': jnp.where(jnp.arange(16) < 12, 1, 3)}
    method = METHODS['st_jem']
    params, chains = jax.jit(method.init)(jax.random.key(0), batch)
    sample = jax.jit(lambda key: method.sample(key, params, chains, batch)[0].label)
    labels = np.concatenate([sample(jax.random.key(k)) for k in range(200)])
    counts = np.bincount(labels[labels != UNCONDITIONAL], minlength=CLASSES)
    assert counts[0] == counts[2] == 0
    np.testing.assert_allclose(counts[1] / counts.sum(), 0.75, atol=0.04)


def test_conditional_chains_descend_their_own_class():
    """Logits with a well for each class: a chain labelled y ends in well y, an unconditional one in
    any."""
    centres = jnp.linspace(-3, 3, CLASSES)
    wells = Network(
        lambda key, x: {'unused': jnp.zeros(())},
        lambda params, x: -2 * (x.mean() - centres) ** 2 * x.size,
    )
    method = make_jem(wells, adapt.fixed(mcmc.langevin(0.2, noise_scale=0.0)), num_steps=60)
    params, chains = jax.jit(method.init)(jax.random.key(0), BATCH)
    samples, _ = sampler_of(method)(jax.random.key(1), params, chains, BATCH)
    means, labels = np.asarray(samples.x).mean((1, 2, 3)), np.asarray(samples.label)
    np.testing.assert_allclose(
        means[labels != UNCONDITIONAL],
        np.asarray(centres)[labels[labels != UNCONDITIONAL]],
        atol=0.1,
    )


def test_chain_ages_count_rounds():
    buffer = replay.persistent(START, 4, restart=0.0)
    method = jem(NETWORK, adapt.fixed(KERNEL), buffer, num_negatives=16, num_steps=1, shards=4)
    params, chains = jax.jit(method.init)(jax.random.key(0), BATCH)
    for k in range(5):  # each shard's 4 chains are all drawn in every round
        samples, chains = sampler_of(method)(jax.random.key(k), params, chains, BATCH)
    assert np.all(np.asarray(samples.age) == 5) and np.all(np.asarray(chains.buffer.age) == 5)
    assert method.loss(params, jax.random.key(0), BATCH, samples)[1]['chain_age_mean'] == 5


def test_chains_grow_longer_on_schedule():
    steps = []

    def counting(x):  # a linear energy under pure descent: each step moves every entry by 1
        return jnp.sum(x)

    net = Network(
        lambda key, x: jnp.zeros(()), lambda params, x: -jnp.stack([counting(x)] * CLASSES)
    )
    buffer = replay.fresh(lambda key, label: jnp.zeros(SHAPE))
    method = jem(
        net,
        adapt.fixed(mcmc.langevin(1.0, noise_scale=0.0)),
        buffer,
        num_negatives=4,
        num_steps=2,
        shards=4,
        extra_step_every=3,
    )
    params, chains = jax.jit(method.init)(jax.random.key(0), BATCH)
    for k in range(7):
        now = method.at(k)
        samples, chains = sampler_of(now)(jax.random.key(k), params, chains, BATCH)
        steps.append(round(-float(samples.x[0, 0, 0, 0])))
    assert steps == [2, 2, 2, 3, 3, 3, 4]
    # one program up to EXTRA_STEPS more steps, then the next; the same object for the same one
    lengths = [method.at(k).chain_steps for k in range(0, 24, 3)]
    assert lengths == [2, 7, 7, 7, 7, 7, 12, 12]
    assert method.at(3) is method.at(17) is not method.at(18)


def test_the_weight_of_p_x_changes_at_its_step():
    method = make_jem(p_x_weight=0.1, late_p_x_weight=(3, 0.02), extra_step_every=100)
    params, _, samples, _ = prepared(make_jem())
    plain, _ = make_jem().loss(params, jax.random.key(2), BATCH, samples)
    for step, weight in ((0, 0.1), (2, 0.1), (3, 0.02), (9, 0.02)):
        # whichever step the method at hand is of
        now = method.at(3).at(step)
        terms, _ = now.loss(params, jax.random.key(2), BATCH, samples)
        np.testing.assert_allclose(terms['positives'], weight * plain['positives'], rtol=1e-6)
        np.testing.assert_allclose(terms['negatives'], weight * plain['negatives'], rtol=1e-6)
        np.testing.assert_allclose(terms['classifier'], plain['classifier'], rtol=1e-6)
    assert method.at(1) is method.at(2) is not method.at(3)


def test_the_adaptive_sampler_finds_the_better_step():
    """Scored by -|log a - log 0.3| of the step it tries, the step size goes from 0.1 to 0.3; each
    knob is perturbed in its turn."""
    sampler = adapt.adaptive(0.1, momentum=0.0, calls=3)

    @jax.jit
    # a linear energy of slope 1, no momentum at first: the drift of one step, less its noise
    def step_size(state):
        kernel = sampler.kernel(state)
        positions = jax.vmap(
            lambda key: kernel.step(key, kernel.init(jnp.zeros(()), None), lambda x: x)[0].position
        )
        return -positions(jax.random.split(jax.random.key(0), 400)).mean()

    state, tried = sampler.init(), []
    for _ in range(3 * 4 * 14):
        knob, a = int(state.knob), float(step_size(state))
        tried.append((knob, a))
        state = sampler.update(state, -abs(np.log(a) - np.log(0.3)) if knob == 0 else 0.0)
    np.testing.assert_allclose(state.settings[0], 0.3, rtol=0.08)
    np.testing.assert_allclose([a for _, a in tried[:3]], [0.09, 0.1, 0.1 / 0.9], rtol=0.02)
    assert [knob for knob, _ in tried[:15:3]] == [0, 1, 2, 3, 0]


def test_the_adaptive_sampler_has_the_published_kernel():
    """x += a/2 g + sqrt(a)/100 N(0, I) with a = 0.2 and momentum 0.1, on an energy of slope 1:
    drift 0.9 a/2, noise sqrt(a)/100."""
    sampler = adapt.adaptive(calls=4)
    # the second call of a trial leaves the settings unchanged
    state = sampler.update(sampler.init(), 0.0)
    kernel = sampler.kernel(state)

    def one(key):
        return kernel.step(key, kernel.init(jnp.zeros(()), None), lambda x: x)[0].position

    x = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 20_000)), np.float64)
    np.testing.assert_allclose(x.mean(), -0.9 * 0.1, rtol=2e-3)
    np.testing.assert_allclose(x.std(), np.sqrt(0.2) / 100, rtol=0.02)


@pytest.mark.parametrize(
    'options',
    [
        {'num_negatives': 10},
        {'conditional': 1.5},
        {'alpha': 1.5},
        {'num_steps': 0},
        {'num_negatives': 0},
        {'late_p_x_weight': (0, 0.1)},
        {'late_p_x_weight': (5, -0.1)},
        {'p_x_weight': -1.0},
        {'entropy_weight': float('nan')},
    ],
)
def test_numbers_that_do_not_fit_are_refused(options):
    with pytest.raises(ValueError):
        make_jem(**options)


def test_separate_images_of_p_x_that_are_the_classifiers_change_nothing():
    """With the same examples in both places the loss and its gradient are the plain method's."""
    options = dict(weights=obj.balanced, alpha=0.6, entropy_weight=0.1)
    plain, separate = make_jem(**options), make_jem(**options, separate=True)
    both = {**BATCH, 'positives': BATCH['x'], 'positives_y': BATCH['y']}
    params, chains, samples, _ = prepared(plain)
    again, _ = sampler_of(separate)(jax.random.key(1), params, chains, both)
    chex.assert_trees_all_equal(samples, again)

    def found(method, batch):
        def loss(params):
            terms, metrics = method.loss(params, jax.random.key(2), batch, samples)
            return sum(terms.values()), (terms, metrics)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    chex.assert_trees_all_close(found(plain, BATCH), found(separate, both), rtol=1e-5, atol=1e-6)


def test_each_of_two_batches_teaches_its_own_terms():
    """Other images of p(x), of another number, change the contrasts and leave the classifier's term
    and accuracy alone; other images of the classifier the other way round."""
    method = make_jem(weights=obj.balanced, alpha=0.6, separate=True)
    more = {'positives': BATCH['x'][:3] * 0.5, 'positives_y': BATCH['y'][:3]}
    params, _, samples, _ = prepared(make_jem(weights=obj.balanced, alpha=0.6))

    def terms(batch):
        terms, metrics = jax.jit(method.loss)(params, jax.random.key(2), batch, samples)
        return {**terms, 'accuracy': metrics['accuracy']}

    base = terms({**BATCH, **more})
    other_positives = terms({**BATCH, **more, 'positives': -more['positives']})
    other_classified = terms({**BATCH, **more, 'x': -BATCH['x']})
    for name in ('classifier', 'accuracy'):
        np.testing.assert_allclose(base[name], other_positives[name], rtol=1e-6)
    for name in ('positives', 'negatives'):
        np.testing.assert_allclose(base[name], other_classified[name], rtol=1e-5)
        assert abs(base[name] - other_positives[name]) > 1e-4
    assert abs(base['classifier'] - other_classified['classifier']) > 1e-4
    # the contrast is that of the plain method on the images of p(x)
    plain = make_jem(weights=obj.balanced, alpha=0.6)
    own = {'x': more['positives'], 'y': more['positives_y']}
    expected, _ = jax.jit(plain.loss)(params, jax.random.key(2), own, samples)
    np.testing.assert_allclose(base['positives'], expected['positives'], rtol=1e-5)
    np.testing.assert_allclose(base['negatives'], expected['negatives'], rtol=1e-5)


def test_examples_without_a_label_teach_p_of_x_alone():
    """Cross-entropy, accuracy and the mutual information are those of the labelled examples; the
    contrast of log p(x) is over all. By hand, from the energies of the same batch."""
    method = make_jem(weights=obj.balanced, alpha=0.6)
    known = np.arange(16) % 4 == 0
    y = jnp.where(known, BATCH['y'], UNCONDITIONAL)
    params, _, samples, _ = prepared(method)
    terms, metrics = jax.jit(method.loss)(params, jax.random.key(2), {**BATCH, 'y': y}, samples)
    logits = np.asarray(jax.vmap(NETWORK.apply, (None, 0))(params, BATCH['x']), np.float64)
    labels, f = BATCH['y'][known], logits[known]
    log_p = f - np.logaddexp.reduce(f, 1, keepdims=True)
    rows = np.arange(known.sum())
    np.testing.assert_allclose(terms['classifier'], -log_p[rows, labels].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics['accuracy'], (f.argmax(1) == labels).mean(), rtol=1e-6)
    # L = L_x - r alpha I, I = L_x - L_xy over the labelled, by the log-sum-exp form (ST-JEM)

    def pushed(params):
        both = method.loss(params, jax.random.key(2), {**BATCH, 'y': y}, samples)[0]
        return both['positives'] + both['negatives']

    def closed(params):
        logits = jax.vmap(NETWORK.apply, (None, 0))(params, BATCH['x'])
        negative = jax.vmap(NETWORK.apply, (None, 0))(params, samples.x)
        everyone = jnp.concatenate([logits, negative])
        s, log_c = jax.nn.logsumexp(everyone, 1), jax.nn.logsumexp(everyone, 0)
        log_s = jax.nn.logsumexp(s)
        f = logits[known]
        l_x = -jnp.mean(s[:16]) + log_s
        i = jnp.mean(f[rows, labels] - log_c[labels] - jax.nn.logsumexp(f, 1) + log_s)
        return l_x - 0.25 * 0.6 * i

    chex.assert_trees_all_close(
        jax.jit(jax.grad(pushed))(params), jax.jit(jax.grad(closed))(params), rtol=2e-4, atol=1e-5
    )


def test_labels_of_chains_are_those_that_are_known():
    y = jnp.array([UNCONDITIONAL] * 10 + [2] * 6)
    keys = jax.random.split(jax.random.key(0), 4)
    drawn = np.asarray(negatives.batch_labels(keys, 8, y))
    assert set(drawn.reshape(-1)) == {2}
    none = negatives.batch_labels(keys, 8, jnp.full(16, UNCONDITIONAL))
    assert set(np.asarray(none).reshape(-1)) == {UNCONDITIONAL}
    # all known: with replacement, from the whole batch
    assert set(np.asarray(negatives.batch_labels(keys, 200, jnp.arange(16))).reshape(-1)) == set(
        range(16)
    )


# --- the KL term of improved contrastive divergence ---


def quadratic(thetas):
    """Logits -theta_c |x|^2 / 2 of each class."""
    return Network(
        lambda key, x: jnp.asarray(thetas), lambda p, x: -0.5 * p * jnp.sum(jnp.square(x))
    )


@pytest.mark.parametrize('conditional', [0.0, 1.0])
def test_kl_gradient_is_minus_eta_times_the_product_of_gradients(conditional):
    """-eta grad E(x_K) . d_theta grad E(x_{K-1}), by class: grad E = theta x on p(x|y); on p(x) the
    classes' energies differ by nothing at equal thetas, and each has its share p(y|x) of it."""
    method = make_jem(
        quadratic([0.8] * CLASSES),
        adapt.fixed(mcmc.langevin(0.1, noise_scale=0.0)),
        conditional=conditional,
        kl_weight=2.0,
        kl_entropy_weight=0.0,
    )
    params, _, samples, _ = prepared(method)
    before = samples.tail.state.position
    product = np.sum(np.asarray(before * (before - 0.1 * 0.8 * before)), (1, 2, 3))
    if conditional:
        shares = np.asarray(samples.tail.label)[:, None] == np.arange(CLASSES)
        assert len(set(np.asarray(samples.tail.label))) > 1
    else:
        shares = np.full((len(product), CLASSES), 1 / CLASSES)
    # p(y|x) of the energy's own gradient changes with theta, too, where the classes share p(x):
    # its sum over classes is 0, and at equal energies it adds nothing
    expected = -2.0 * 0.1 * 0.8 * (product[:, None] * shares).mean(0)
    gradient = jax.grad(lambda p: method.loss(p, jax.random.key(0), BATCH, samples)[0]['kl'])
    np.testing.assert_allclose(gradient(params), expected, rtol=1e-4)


def test_a_device_whose_chains_have_all_diverged_adds_nothing_to_the_kl_gradient():
    """Its last step gives nan, and 0 * nan is nan. Of two devices, the gradient is that of the
    other one alone."""
    method = make_jem(
        quadratic([0.8] * CLASSES),
        adapt.fixed(mcmc.langevin(0.1, noise_scale=0.0)),
        kl_weight=2.0,
        kl_entropy_weight=0.0,
    )
    params, _, samples, _ = prepared(method)
    tail = samples.tail
    state = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), tail.state)
    lost = tail.replace(state=state, valid=jnp.zeros_like(tail.valid))
    tails = jax.tree.map(lambda *leaves: jnp.stack(leaves), lost, tail)

    def kl(params, tail):
        given = samples.replace(tail=tail)
        return method.loss(params, jax.random.key(0), BATCH, given)[0]['kl']

    by_device = jax.vmap(jax.grad(kl), (None, 0), axis_name=devices.AXIS)(params, tails)
    np.testing.assert_allclose(by_device.mean(0), jax.grad(kl)(params, tail), rtol=1e-5)


def test_the_kl_term_is_an_addend():
    """The other loss terms are those without it, and its energy is that where the chains ended."""
    plain, added = make_jem(), make_jem(kl_weight=1.0, kl_entropy_weight=0.0)
    params, _, samples, _ = prepared(plain)
    terms, _ = plain.loss(params, jax.random.key(0), BATCH, samples)
    samples = prepared(added)[2]
    more, metrics = added.loss(params, jax.random.key(0), BATCH, samples)
    assert set(more) == {*terms, 'kl'}
    ends = jax.vmap(lambda x, y: obj.energy_of(NETWORK.apply(params, x), y))(
        samples.x, samples.negatives.label
    )
    np.testing.assert_allclose(metrics['kl_energy'], ends.mean(), rtol=1e-4)
    alone, _ = plain.loss(params, jax.random.key(0), BATCH, samples.negatives)
    chex.assert_trees_all_close({name: more[name] for name in terms}, alone, rtol=1e-5)


@pytest.mark.parametrize(
    'options, said',
    [
        ({'sampler': adapt.adaptive()}, 'adapt.fixed'),
        ({'extra_step_every': 5}, 'extra_step_every=0'),
        ({'kl_weight': -1.0}, 'kl_weight must be finite'),
        ({'kl_entropy_weight': -1.0}, 'kl_entropy_weight must be finite'),
    ],
)
def test_a_kl_term_that_cannot_be_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        make_jem(**{'kl_weight': 1.0, **options})


def test_the_entropy_of_the_kl_term_counts_when_the_buffer_holds_enough():
    """From more than 1,000 past samples on: nearest neighbours among them, written out."""
    buffer = replay.class_conditional(START, 640, CLASSES, unconditional=0.5, restart=0.0)
    method = jem(
        quadratic([0.8] * CLASSES),
        adapt.fixed(KERNEL),
        buffer,
        num_negatives=256,
        num_steps=1,
        shards=4,
        kl_weight=1.0,
    )

    @jax.jit
    def one_round(key, params, chains):
        samples, chains = method.sample(key, params, chains, BATCH)
        return samples, chains, method.loss(params, key, BATCH, samples)[1]

    params, chains = jax.jit(method.init)(jax.random.key(0), BATCH)
    seen = []
    for k in range(20):
        samples, chains, metrics = one_round(jax.random.key(k), params, chains)
        seen.append(metrics)
    counts = [float(metrics['kl_entropy_counts']) for metrics in seen]
    # p(x) alone has 1,280 entries, of which each round fills up to 256 that were empty
    assert counts[0] == 0 and counts[-1] == 1 and counts == sorted(counts)
    gaps = np.asarray(samples.x).reshape(256, 1, -1) - np.asarray(samples.population).reshape(
        1, 104, -1
    )
    nearest = np.sqrt(np.square(gaps).sum(2)).min(1)
    np.testing.assert_allclose(seen[-1]['kl_entropy'], np.log(nearest).mean(), rtol=1e-3)
    assert all(float(metrics['kl_entropy']) == 0 for metrics in seen[:4])


@pytest.mark.parametrize('shards', [1, 16])
def test_the_population_of_the_kl_term_divides_over_any_shards(shards):
    method = make_jem(kl_weight=1.0, shards=shards, kl_entropy_weight=0.0)
    assert method.gradients_per_step == 16 * 3


def test_a_buffer_too_small_for_the_entropy_of_the_kl_term_is_refused():
    with pytest.raises(ValueError, match='population_after=1000'):
        prepared(make_jem(kl_weight=1.0))
