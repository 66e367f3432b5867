"""Adversarial attacks against closed forms."""

import importlib.util
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import mcmc
from ebm_jax.data import Examples
from ebm_jax.evaluate import attacks
from ebm_jax.evaluate.attacks import LINF, NORMS
from experiments.evaluations import robustness

DIM, CLASSES = 12, 4
WEIGHTS = np.random.default_rng(0).normal(size=(CLASSES, DIM)).astype(np.float32)
X = np.random.default_rng(1).uniform(-0.5, 0.5, (40, DIM)).astype(np.float32)
LABELS = np.argmax(X @ WEIGHTS.T, 1)
DUAL = {'l2': 2, 'linf': 1}  # |<w, d>| <= |w|_dual |d|


def linear(params, key, x):
    return params @ x


def smallest_perturbation(name, weights, x, label):
    """Of a linear classifier: the nearest of the planes between its class and the others."""
    differences = weights[label] - np.delete(weights, label, 0)
    return np.min(differences @ x / np.linalg.norm(differences, DUAL[name], axis=1))


def attack_of(kind, norm, **options):
    options = {'bounds': (-10.0, 10.0), 'steps': 100, **options}
    if kind == 'dlr':
        return attacks.apgd(norm, loss=attacks.logit_ratio, **options)
    return {'pgd': attacks.pgd, 'apgd': attacks.apgd}[kind](norm, **options)


@pytest.mark.parametrize('name', NORMS)
@pytest.mark.parametrize('kind', ['pgd', 'apgd', 'dlr'])
def test_a_linear_classifier_falls_at_its_smallest_perturbation(name, kind):
    # cross-entropy climbs towards all other classes at once, so it is exact for two; the ratio of
    # logits climbs towards the nearest, from the best of several starts
    norm, weights = NORMS[name], WEIGHTS if kind == 'dlr' else WEIGHTS[:2]
    attack = attack_of(kind, norm, restarts=10 if kind == 'dlr' else 1)
    labels = np.argmax(X @ weights.T, 1)
    distances = [smallest_perturbation(name, weights, x, y) for x, y in zip(X, labels)]

    @jax.jit
    def run(radii):
        def one(key, x, y, radius):
            return attack.run(key, partial(linear, weights), x, y, radius)

        return jax.vmap(one)(jax.random.split(jax.random.key(0), len(X)), X, labels, radii)

    below, above = run(0.99 * np.float32(distances)), run(1.05 * np.float32(distances))
    assert not np.any(below.fooled)
    assert np.mean(above.fooled) >= (0.95 if kind == 'dlr' else 1.0)
    sizes = jax.vmap(norm.size)(above.x - X)
    assert np.all(sizes <= 1.05 * np.array(distances) * (1 + 1e-5))
    found = np.argmax(above.x @ weights.T, 1)
    np.testing.assert_array_equal(found != labels, above.fooled)


def test_points_stay_in_the_box_and_survivors_shrink_with_the_radius():
    chosen = [attack_of('apgd', LINF, bounds=(-0.5, 0.5), steps=20)]
    radii = [0.3, 0.0, 0.05, 0.1]
    found = attacks.survivors(
        jax.random.key(0), chosen, linear, WEIGHTS, X, LABELS, radii, batch_size=16
    )
    assert list(found) == sorted(radii) and found[0.0].all()
    for smaller, larger in zip(sorted(radii), sorted(radii)[1:]):
        assert np.all(found[smaller] | ~found[larger])
    distances = np.array([smallest_perturbation('linf', WEIGHTS, x, y) for x, y in zip(X, LABELS)])
    assert np.all(found[0.1][distances > 0.1])  # the box only helps

    def end(key, x, y):
        return chosen[0].run(key, partial(linear, WEIGHTS), x, y, 0.3).x

    ends = jax.jit(jax.vmap(end))(jax.random.split(jax.random.key(1), len(X)), X, LABELS)
    assert np.max(np.abs(ends)) <= 0.5
    with pytest.raises(ValueError, match='radii must be at least 0'):
        attacks.survivors(jax.random.key(0), chosen, linear, WEIGHTS, X, LABELS, [-1.0])


@pytest.mark.parametrize('scale', [1.0, 1e-20, 1e-30, 0.0])
def test_directions_have_length_one_however_small_the_gradient(scale):
    gradient = scale * jax.random.normal(jax.random.key(0), (3, 4))
    length = jnp.linalg.norm(attacks.L2.steepest(gradient))
    np.testing.assert_allclose(length, float(scale > 0), rtol=1e-5)


def test_logit_ratio_by_hand_and_its_invariance():
    z, y = jnp.array([3.0, 1.0, 0.0, -2.0]), jnp.array(1)
    assert attacks.logit_ratio(z, y) == pytest.approx((3 - 1) / (3 - 0))
    assert attacks.logit_ratio(5 * z + 7, y) == pytest.approx(2 / 3)
    assert attacks.logit_ratio(z, jnp.array(0)) == pytest.approx(-2 / 3)
    with pytest.raises(ValueError, match='3 classes'):
        attacks.logit_ratio(z[:2], y)


def test_checkpoints_of_the_paper():
    # p = 0, .22, .41, .57, .70, .80, .87, .93, .99
    assert attacks.checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]


def rippled(x):
    """Logits with many local maxima of the loss."""
    return jnp.array([jnp.sum(jnp.sin(9 * x)), 2.0 * jnp.sum(x), 0.0])


def test_apgd_climbs_higher_than_its_start_and_than_plain_ascent():
    y, radius = jnp.array(0), 1.0
    predict = attacks.deterministic(rippled)
    keys = jax.random.split(jax.random.key(3), 16)

    def losses(attack):
        return jax.jit(
            jax.vmap(lambda key: attack.run(key, predict, jnp.zeros(3), y, radius).loss)
        )(keys)

    plain = losses(attacks.pgd(LINF, steps=60, relative_step=2.0))  # jumps from corner to corner
    auto = losses(attacks.apgd(LINF, steps=60))
    assert np.mean(auto) > np.mean(plain) + 0.1


def test_expectation_over_transformation_sees_through_noise():
    def noisy(key, x):
        return jnp.array([x[0], 0.0, -5.0]) + 3.0 * jax.random.normal(key, (3,)) * jnp.tanh(x[1])

    x, y = jnp.array([0.5, 2.0]), jnp.array(0)
    attack = attacks.pgd(NORMS['linf'], steps=20, samples=64, bounds=(-10, 10))
    found = jax.jit(lambda key: attack.run(key, noisy, x, y, 1.0))(jax.random.key(0))
    assert found.fooled and found.x[0] < 0.0


def test_refinement_and_its_two_gradients():
    """A chain on E = |x|^2 / 2 without noise shrinks its start by (1 - a)^K, and so does the
    gradient through it; straight through, the gradient is that of the identity."""
    a, steps = 0.1, 5
    kernel = mcmc.langevin(a, noise_scale=0.0)

    def energy(x):
        return jnp.sum(x**2) / 2

    def logits(x):
        return WEIGHTS @ x

    factor, x = (1 - a) ** steps, jnp.asarray(X[0])
    for straight, expected in ((False, factor), (True, 1.0)):
        predict = attacks.refining(logits, energy, kernel, steps, straight_through=straight)
        np.testing.assert_allclose(
            predict(jax.random.key(0), x), factor * WEIGHTS @ x, rtol=1e-4, atol=1e-5
        )
        jacobian = jax.jacobian(partial(predict, jax.random.key(0)))(x)
        np.testing.assert_allclose(jacobian, expected * WEIGHTS, rtol=1e-4)


@pytest.mark.skipif(importlib.util.find_spec('foolbox') is None, reason='Foolbox is not installed')
@pytest.mark.parametrize('name', NORMS)
def test_pgd_agrees_with_foolbox(name):
    import eagerpy
    import foolbox

    hidden = np.random.default_rng(2).normal(size=(16, DIM)).astype(np.float32)
    head = np.random.default_rng(3).normal(size=(CLASSES, 16)).astype(np.float32)

    def logits(x):
        return jnp.tanh(x.reshape(-1) @ hidden.T) @ head.T

    images = ((X + 1) / 2).reshape(-1, 1, 3, 4)
    labels = np.argmax(jax.vmap(logits)(images), 1)
    radius, steps = 0.15, 20
    model = foolbox.JAXModel(jax.vmap(logits), bounds=(0, 1))
    attack = {'l2': foolbox.attacks.L2PGD, 'linf': foolbox.attacks.LinfPGD}[name]
    oracle = attack(rel_stepsize=1 / steps, steps=steps, random_start=False)
    _, theirs, fooled = oracle(
        model, eagerpy.astensor(jnp.asarray(images)), jnp.asarray(labels), epsilons=radius
    )
    ours = attacks.pgd(
        NORMS[name], steps=steps, relative_step=1 / steps, random_start=False, bounds=(0, 1)
    )

    def one(x, y):
        return ours.run(jax.random.key(0), attacks.deterministic(logits), x, y, radius)

    found = jax.jit(jax.vmap(one))(images, labels)
    # ours keeps the best point on the way, Foolbox the last
    assert np.all(found.fooled | ~np.asarray(fooled.raw))
    agree = np.abs(np.asarray(theirs.raw) - found.x).max((1, 2, 3)) < 1e-4
    assert np.mean(agree) >= 0.95
    assert abs(np.mean(found.fooled) - np.mean(np.asarray(fooled.raw))) <= 0.05


def test_what_fools_another_predictor_is_transferred():
    """A predictor that hides its gradient is fooled by an attack on one that does not."""

    def hidden(params, key, x):
        return linear(params, key, jax.lax.stop_gradient(x))

    attack = attacks.pgd(attacks.L2, steps=20, random_start=False)
    radii = [3.0]
    alone = attacks.survivors(jax.random.key(0), [attack], hidden, WEIGHTS, X, LABELS, radii)
    direct = attacks.survivors(jax.random.key(0), [attack], linear, WEIGHTS, X, LABELS, radii)
    aimed = attacks.survivors(
        jax.random.key(0), [attack], hidden, WEIGHTS, X, LABELS, radii, against=[linear]
    )
    assert alone[3.0].sum() > direct[3.0].sum()
    np.testing.assert_array_equal(aimed[3.0], direct[3.0])


def test_a_refined_classifier_is_attacked_as_the_text_says(monkeypatch):
    """A linear classifier behind two steps of .1 down x^2 / 2, without noise: its gradient is that
    of the classifier alone, the same at another place, and .9^2 of that."""
    model = SimpleNamespace(
        classifier=SimpleNamespace(logits=lambda params, x: params @ x.reshape(-1)),
        energy_fn=lambda params, x: 0.5 * jnp.sum(x**2),
        kernel=lambda: mcmc.langevin(0.1, noise_scale=0.0),
    )
    images = np.random.default_rng(2).integers(0, 256, (8, 2, 2, 3), np.uint8)
    experiment = SimpleNamespace(model=model, test=Examples('made', images, np.arange(8) % CLASSES))
    state = SimpleNamespace(eval_params=jnp.asarray(WEIGHTS))
    seen = {}

    def survivors(key, chosen, predict, params, x, labels, radii, *, against, draws):
        seen.update(names=[attack.name for attack in chosen], against=against, predict=predict)
        return {radius: np.ones(len(x), bool) for radius in radii}

    monkeypatch.setattr(attacks, 'survivors', survivors)
    robustness.robust_accuracy(experiment, state, 'l2', [0.5], examples=8, refine=2)
    x = jnp.linspace(-1, 1, DIM)

    def first(predict, x):
        return predict(jnp.asarray(WEIGHTS), jax.random.key(0), x)[0]

    values = [first(predict, x) for predict in (*seen['against'], seen['predict'])]
    slopes = [jax.grad(partial(first, predict))(x) for predict in seen['against']]
    assert seen['names'] == ['apgd-ce', 'apgd-dlr', 'apgd-ce', 'apgd-ce']
    plain = WEIGHTS[0] @ np.asarray(x)
    np.testing.assert_allclose(values, plain * np.array([1, 1, 0.81, 0.81, 0.81]), rtol=1e-5)
    for slope, factor in zip(slopes, (1, 1, 1, 0.81)):
        np.testing.assert_allclose(slope, factor * WEIGHTS[0], rtol=1e-5)
