"""Evaluation against hand-computed numbers."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import augment, data, mcmc, objectives, replay
from ebm_jax.apply.sample import sample
from ebm_jax.evaluate import calibration, ood, predict, samples
from ebm_jax.networks import ConvNet, per_example
from ebm_jax.types import UNLABELLED


def logits_of(p):
    return np.log(np.stack([p, 1 - np.asarray(p)], 1))


def test_calibration_error_by_hand():
    """Four at confidence .93, three right; two at .62, none right: (4/6) |.75 - .93| + (2/6) |0 - .62|."""
    logits = logits_of([0.93, 0.93, 0.93, 0.93, 0.62, 0.62])
    labels = np.array([0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(calibration.expected_calibration_error(logits, labels), 4 / 6 * 0.18 + 2 / 6 * 0.62, rtol=1e-6)
    np.testing.assert_allclose(calibration.accuracy(logits, labels), 0.5)
    confidence, hit, share = calibration.reliability(logits, labels)
    np.testing.assert_allclose([confidence, hit, share], [[0.62, 0.93], [0, 0.75], [2 / 6, 4 / 6]], rtol=1e-6)


def test_a_calibrated_classifier_has_no_calibration_error():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 200_000)
    labels = (rng.uniform(size=p.size) > p).astype(int)
    assert calibration.expected_calibration_error(logits_of(p), labels) < 0.01


def test_detection_by_hand():
    """Inside 1..20, outside 0.5, 1.5, 18.5, 30: of the 80 pairs, the inside one is higher in 20 + 19 + 2 + 0 = 41."""
    inside, outside = np.arange(1.0, 21), np.array([0.5, 1.5, 18.5, 30.0])
    found = ood.detection(inside, outside)
    np.testing.assert_allclose(found['auroc'], 41 / 80)
    np.testing.assert_allclose(found['fpr95'], 2 / 4)   # threshold 2 lets 19 of 20 pass, and 18.5 and 30
    hits = np.arange(1, 21)
    above = np.array([np.sum(outside > value) for value in inside[::-1]])
    np.testing.assert_allclose(found['aupr'], np.mean(hits / (hits + above)))


def test_bootstrap_interval_covers_the_known_value():
    """Two normals one standard deviation apart: AUROC = Phi(1 / sqrt 2) = .760."""
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 500), rng.normal(0, 1, 500)
    low, high = ood.bootstrap_interval(inside, outside)['auroc']
    assert low < 0.760 < high and 0.03 < high - low < 0.09


NETWORK = per_example(ConvNet(10, (8,), (2,)))
PARAMS = NETWORK.init(jax.random.key(0), jnp.zeros((8, 8, 1)))


def test_scores_are_what_they_are_called():
    test = data.digits('test')._replace(x=data.digits('test').x[:21], y=data.digits('test').y[:21])
    found = predict.over(predict.predictor(predict.classifier_view(NETWORK), augment.scale_pixels), PARAMS, test, batch_size=8)
    for i in range(21):
        x = test.x[i] / 127.5 - 1
        logits = np.asarray(NETWORK.apply(PARAMS, x))
        np.testing.assert_allclose(found['logits'][i], logits, atol=1e-5)
        np.testing.assert_allclose(found['log_px'][i], np.log(np.exp(logits).sum()), rtol=1e-5)
        np.testing.assert_allclose(found['max_py'][i], np.exp(logits).max() / np.exp(logits).sum(), rtol=1e-5)
        grad = jax.grad(lambda x: objectives.marginal_energy(NETWORK.apply(PARAMS, x)))(jnp.asarray(x, jnp.float32))
        np.testing.assert_allclose(found['grad_norm'][i], -np.linalg.norm(grad), rtol=1e-4)


def test_judge_and_diversity_at_their_ends():
    train, test = data.digits('train'), data.digits('test')
    judge = samples.independent_judge(train)
    assert samples.agreement(judge, test.x, test.y) > 0.98
    assert samples.agreement(judge, test.x / 127.5 - 1, test.y) > 0.98   # the same in the network's units
    assert samples.agreement(judge, test.x, (test.y + 1) % 10) < 0.02
    same, _ = samples.diversity(np.repeat(test.x[:10], 5, 0), np.repeat(np.arange(10), 5), train)
    real, by_class = samples.diversity(test.x, test.y, train)
    np.testing.assert_allclose(same, 0, atol=1e-9)
    np.testing.assert_allclose(real, 1, atol=0.05)
    assert sorted(by_class) == list(range(10))


@pytest.mark.parametrize('num, batch_size', [(7, 3), (5, 256)])
def test_every_sample_is_its_own_chain_under_its_label(num, batch_size):
    def energy(params, x, label):
        return params * 0.5 * jnp.sum((x - jnp.where(label == UNLABELLED, 9.0, label)) ** 2)
    labels = np.array([0, 1, 2, UNLABELLED, 3, 2, 1])[:num]
    kernel = mcmc.langevin(0.5, noise_scale=1e-3)
    x = sample(jax.random.key(0), energy, 1.0, kernel, replay.uniform_start((2,)), labels, 60, batch_size=batch_size)
    np.testing.assert_allclose(x, np.where(labels == UNLABELLED, 9, labels)[:, None] * np.ones(2), atol=0.01)
    assert len(np.unique(x[:, 0])) == num
