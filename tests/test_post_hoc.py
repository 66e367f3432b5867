"""Scores fitted after training, against their definitions; sets brought to the model's shape."""

import jax
import numpy as np
import pytest
from methods_under_test import BATCH, CLASSES, GENERATOR, NETWORK

from ebm_jax import data
from ebm_jax.data import Examples
from ebm_jax.data.letters import LETTERS
from ebm_jax.errors import InputError
from ebm_jax.evaluate import ood, post_hoc, predict
from ebm_jax.types import UNCONDITIONAL
from experiments.common import sources

RNG = np.random.default_rng(0)


def test_features_are_the_input_of_the_last_dense_layer():
    params = NETWORK.init(jax.random.key(0), BATCH['x'][0])
    features = jax.jit(post_hoc.features_of(NETWORK))(params, BATCH['x'][0])
    head = params['Dense_0']
    np.testing.assert_allclose(
        features @ head['kernel'] + head['bias'], NETWORK.apply(params, BATCH['x'][0]), rtol=1e-5
    )
    assert post_hoc.features_of(GENERATOR) is None  # plain functions
    view = post_hoc.with_features(predict.classifier_view(NETWORK.apply), NETWORK)
    found = jax.vmap(view, (None, 0))(params, BATCH['x'])
    np.testing.assert_allclose(found['features'][0], features, rtol=1e-5)
    assert found['logits'].shape == (16, CLASSES)


def test_a_network_without_a_dense_layer_has_no_features():
    import flax.linen as nn

    from ebm_jax.networks import per_example

    class Grid(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Conv(CLASSES, (8, 8), padding='VALID')(x).reshape(len(x), -1)

    network = per_example(Grid())
    params = network.init(jax.random.key(0), BATCH['x'][0])
    view = post_hoc.with_features(predict.classifier_view(network.apply), network)
    assert 'features' not in jax.jit(view)(params, BATCH['x'][0])


def test_many_features_are_reduced_to_their_principal_components():
    """Two classes apart along one direction among many: the distance is that along it."""
    rng, wide = np.random.default_rng(0), 3 * post_hoc.LARGEST
    y = np.arange(600) % 2
    features = 0.1 * rng.normal(size=(600, wide))
    features[:, 0] += 10 * y
    fitted = post_hoc.fit('log_px', {'log_px': np.zeros(600), 'features': features}, y)
    assert fitted.means.shape == (2, post_hoc.LARGEST)
    new = np.zeros((3, wide))
    new[:, 0] = [0.0, 10.0, 5.0]
    scores = fitted.scores({'log_px': np.zeros(3), 'logits': np.zeros((3, 2)), 'features': new})
    assert scores['mahalanobis'][2] < 10 * min(scores['mahalanobis'][:2])


def made(n, seed):
    """Two classes of Gaussian features with one covariance."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    root = np.array([[2.0, 0.0], [0.5, 0.3]])
    features = np.where(y[:, None] == 0, [0.0, 0.0], [6.0, 1.0]) + rng.normal(size=(n, 2)) @ root.T
    logits = rng.normal(size=(n, 3))
    return {'features': features, 'log_px': rng.normal(3.0, 1.0, n), 'logits': logits}, y, root


def test_mahalanobis_typicality_temperature_and_neighbours():
    train, y, root = made(20_000, 1)
    fitted = post_hoc.fit('log_px', train, y)
    assert set(fitted.meanings) == set(post_hoc.MEANINGS)
    points = {
        'features': np.array([[0.0, 0.0], [6.0, 1.0], [3.0, 4.0]]),
        'log_px': np.array([3.0, 1.0, 6.0]),
        'logits': np.array([[10.0, -10.0, 0.0]] * 3),
    }
    scores = fitted.scores(points)
    precision = np.linalg.inv(root @ root.T)
    centres = np.array([[0.0, 0.0], [6.0, 1.0]])
    expected = [min((x - c) @ precision @ (x - c) for c in centres) for x in points['features']]
    np.testing.assert_allclose(-scores['mahalanobis'], expected, rtol=0.03, atol=0.02)
    np.testing.assert_allclose(-scores['typicality'], [0.0, 2.0, 3.0], atol=0.03)
    t = post_hoc.TEMPERATURE
    np.testing.assert_allclose(
        scores['energy_t'], t * np.log(np.exp(10 / t) + np.exp(-10 / t) + 1), rtol=1e-6
    )
    # by brute force, on the circle
    unit = train['features'] / np.linalg.norm(train['features'], axis=1, keepdims=True)
    for i in (1, 2):
        x = points['features'][i] / np.linalg.norm(points['features'][i])
        distance = np.sort(np.linalg.norm(unit - x, axis=1))[post_hoc.NEIGHBOURS - 1]
        assert -scores['knn'][i] == pytest.approx(distance, rel=1e-6)


def test_an_energy_without_features_has_what_it_can():
    fitted = post_hoc.fit('energy', {'energy': np.array([1.0, 3.0])}, np.zeros(2, int))
    assert set(fitted.meanings) == {'typicality'}
    np.testing.assert_allclose(fitted.scores({'energy': np.array([2.0])})['typicality'], [0.0])


def test_the_mean_over_sets_and_both_precisions():
    inside, outside = np.array([1.0, 3.0]), [np.array([0.0, 2.0]), np.array([4.0, 5.0])]
    mean, (low, high) = ood.mean_auroc(inside, outside, resamples=50)
    assert mean == pytest.approx((0.75 + 0.0) / 2) and low <= mean <= high
    # ranks 3 (inside), 2 (outside), 1, 0: precision of the outside from below
    found = ood.detection(inside, outside[0])
    assert found['aupr'] == pytest.approx((1 + 2 / 3) / 2)
    assert found['aupr_out'] == pytest.approx((1 + 2 / 3) / 2)


def test_sets_are_brought_to_the_shape_of_the_model():
    grey = Examples('grey', RNG.integers(0, 256, (3, 20, 30, 1), dtype=np.uint8), np.zeros(3, int))
    small = data.matched(grey, (10, 10, 3))
    assert small.x.shape == (3, 10, 10, 3) and small.x.dtype == np.uint8
    np.testing.assert_array_equal(small.x[..., 0], small.x[..., 2])
    # the central square, averaged
    assert small.x.mean() == pytest.approx(grey.x[:, :, 5:25].mean(), abs=4)
    colour = Examples('colour', np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1, int))
    colour.x[0, 0, 0] = (255, 0, 0)
    assert data.matched(colour, (4, 4, 1)).x[0, 0, 0, 0] == 76  # .299 * 255
    assert data.matched(grey, (20, 30, 1)) is grey
    with pytest.raises(InputError, match='no rule'):
        data.matched(grey, (10, 20, 1))
    two = Examples('two', np.zeros((1, 4, 4, 2), np.uint8), np.zeros(1, int))
    with pytest.raises(InputError, match='only 1 and 3'):
        data.matched(two, (4, 4, 3))


def test_printed_letters_are_letters():
    """A nearest-mean classifier tells them apart far better than chance, and no digit is there."""
    assert not set(LETTERS) & set('0123456789OoIlZzSsBgq')
    train, test = data.letters(1500, 28, 1), data.letters(300, 28, 2)
    means = np.stack([train.x[train.y == c].mean(0) for c in range(len(LETTERS))])
    distances = ((test.x[:, None].astype(float) - means[None]) ** 2).sum((2, 3, 4))
    assert np.mean(distances.argmin(1) == test.y) > 0.5
    np.testing.assert_array_equal(data.letters(5, 8, 3).x, data.letters(5, 8, 3).x)
    with pytest.raises(ValueError, match='4 pixels'):
        data.letters(1, 2)


def test_few_labels_of_each_class_are_known_and_the_others_hidden():
    examples = Examples('made', np.zeros((50, 2, 2, 1), np.uint8), np.arange(50) % 5)
    known = data.few_of_each(examples, 3, seed=1)
    assert np.bincount(examples.y[known]).tolist() == [3] * 5
    hidden = data.labels_hidden(examples, known)
    np.testing.assert_array_equal(np.flatnonzero(hidden.y != UNCONDITIONAL), known)
    np.testing.assert_array_equal(hidden.y[known], examples.y[known])
    with pytest.raises(InputError, match='fewer than the 11'):
        data.few_of_each(examples, 11)


def test_a_suite_is_read_from_a_file(tmp_path):
    path = tmp_path / 'suite.toml'
    path.write_text('[near]\nletters = "letters"\n[far]\ntextures = "npz:t.npz"\n')
    assert sources.ood_suite(str(path)) == {
        'near/letters': 'letters',
        'far/textures': 'npz:t.npz',
    }
    for content in ('[other]\na = "b"\n', '', '[near]\na = 3\n', 'near = 1\n'):
        path.write_text(content)
        with pytest.raises(InputError, match='tables'):
            sources.ood_suite(str(path))
