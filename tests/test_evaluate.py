"""Evaluation against hand-computed numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from ebm_jax import augment, data, images, initial, mcmc, objectives
from ebm_jax.apply.sampling import sample
from ebm_jax.errors import InputError
from ebm_jax.evaluate import (
    attributes,
    calibration,
    distance,
    extractor,
    inception,
    mixing,
    ood,
    predict,
    samples,
)
from ebm_jax.networks import ConvNet, per_example
from ebm_jax.types import UNCONDITIONAL


def logits_of(p):
    return np.log(np.stack([p, 1 - np.asarray(p)], 1))


def test_calibration_error_by_hand():
    """Four at confidence .93, three right; two at .62, none right: (4/6) |.75 - .93| + (2/6) |0 -
    .62|."""
    logits = logits_of([0.93, 0.93, 0.93, 0.93, 0.62, 0.62])
    labels = np.array([0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(
        calibration.expected_calibration_error(logits, labels),
        4 / 6 * 0.18 + 2 / 6 * 0.62,
        rtol=1e-6,
    )
    np.testing.assert_allclose(calibration.accuracy(logits, labels), 0.5)
    confidence, hit, share = calibration.reliability(logits, labels)
    np.testing.assert_allclose(
        [confidence, hit, share], [[0.62, 0.93], [0, 0.75], [2 / 6, 4 / 6]], rtol=1e-6
    )


def test_a_calibrated_classifier_has_no_calibration_error():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 200_000)
    labels = (rng.uniform(size=p.size) > p).astype(int)
    assert calibration.expected_calibration_error(logits_of(p), labels) < 0.01


def test_detection_by_hand():
    """Inside 1..20, outside 0.5, 1.5, 18.5, 30: of the 80 pairs, the inside one is higher in 20 +
    19 + 2 + 0 = 41."""
    inside, outside = np.arange(1.0, 21), np.array([0.5, 1.5, 18.5, 30.0])
    found = ood.detection(inside, outside)
    np.testing.assert_allclose(found['auroc'], 41 / 80)
    # threshold 2 lets 19 of 20 pass, and 18.5 and 30
    np.testing.assert_allclose(found['fpr95'], 2 / 4)
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
    found = predict.predict_dataset(
        predict.predictor(predict.classifier_view(NETWORK.apply), augment.scale_pixels),
        PARAMS,
        test,
        batch_size=8,
    )
    for i in range(21):
        x = test.x[i] / 127.5 - 1
        logits = np.asarray(NETWORK.apply(PARAMS, x))
        np.testing.assert_allclose(found['logits'][i], logits, atol=1e-5)
        np.testing.assert_allclose(found['log_px'][i], np.log(np.exp(logits).sum()), rtol=1e-5)
        np.testing.assert_allclose(
            found['max_py'][i], np.exp(logits).max() / np.exp(logits).sum(), rtol=1e-5
        )
        grad = jax.grad(lambda x: objectives.marginal_energy(NETWORK.apply(PARAMS, x)))(
            jnp.asarray(x, jnp.float32)
        )
        np.testing.assert_allclose(found['grad_norm'][i], -np.linalg.norm(grad), rtol=1e-4)


def test_the_reference_classifier_takes_fewer_images_than_components():
    """Dark and bright images of 17x17, told apart."""
    y = np.arange(12) % 2
    noise = np.random.default_rng(0).integers(0, 60, (12, 17, 17, 1))
    x = (noise + 150 * y[:, None, None, None]).astype(np.uint8)
    classifier = samples.fit_reference_classifier(data.Examples('shades', x, y))
    assert samples.recognition_accuracy(classifier, x[::-1], y[::-1]) == 1.0


def test_reference_classifier_and_diversity_at_their_extremes():
    train, test = data.digits('train'), data.digits('test')
    classifier = samples.fit_reference_classifier(train)
    assert samples.recognition_accuracy(classifier, test.x, test.y) > 0.98
    # the same in the network's units
    assert samples.recognition_accuracy(classifier, test.x / 127.5 - 1, test.y) > 0.98
    assert samples.recognition_accuracy(classifier, test.x, (test.y + 1) % 10) < 0.02
    same, _ = samples.diversity(np.repeat(test.x[:10], 5, 0), np.repeat(np.arange(10), 5), train)
    real, class_conditional = samples.diversity(test.x, test.y, train)
    np.testing.assert_allclose(same, 0, atol=1e-9)
    np.testing.assert_allclose(real, 1, atol=0.05)
    assert sorted(class_conditional) == list(range(10))


@pytest.mark.parametrize('num, batch_size', [(7, 3), (5, 256)])
def test_every_sample_is_its_own_chain_under_its_label(num, batch_size):
    def energy(params, x, label):
        return params * 0.5 * jnp.sum((x - jnp.where(label == UNCONDITIONAL, 9.0, label)) ** 2)

    labels = np.array([0, 1, 2, UNCONDITIONAL, 3, 2, 1])[:num]

    def start(params, key, label):
        return initial.uniform((2,))(key, label)

    kernel = mcmc.langevin(0.5, noise_scale=1e-3)
    x = sample(jax.random.key(0), energy, 1.0, kernel, start, labels, 60, batch_size=batch_size)
    np.testing.assert_allclose(
        x, np.where(labels == UNCONDITIONAL, 9, labels)[:, None] * np.ones(2), atol=0.01
    )
    assert len(np.unique(x[:, 0])) == num


@pytest.mark.parametrize(
    'transition, frames', [(None, [8, 4, 2, 1]), (lambda key, x: x + 8, [8, 8, 4, 2, 1])]
)
def test_a_trajectory_shows_where_the_chain_stood(transition, frames):
    """Every two steps halve x: six in three parts, from 8; or a jump by 8 and two steps, then the
    six."""

    def energy(params, x, label):
        return 0.5 * jnp.sum(x**2)

    kernel, start = (
        mcmc.langevin(1 - 0.5**0.5, noise_scale=0.0),
        lambda params, key, label: jnp.array([8.0]),
    )
    num_steps = 6 if transition is None else 8
    x, path = sample(
        jax.random.key(0),
        energy,
        (),
        kernel,
        start,
        [0],
        num_steps,
        transition=transition,
        every=2,
        plain=6,
        trajectory=3,
    )
    np.testing.assert_allclose(path[0, :, 0], frames, rtol=1e-5)
    np.testing.assert_array_equal(x, path[:, -1])
    plain = sample(
        jax.random.key(0),
        energy,
        (),
        kernel,
        start,
        [0],
        num_steps,
        transition=transition,
        every=2,
        plain=6,
    )
    np.testing.assert_allclose(x, plain, rtol=1e-6)


# --- distances between sets of images ---


def test_frechet_distance_of_known_gaussians():
    """A pair whose covariances do not commute, against scipy's matrix root; shifts; and exactly
    diagonal ones: sum (s_a - s_b)^2."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(n, 4)) @ rng.normal(size=(4, 4)) for n in (50, 70))
    s_a, s_b = np.cov(a.T), np.cov(b.T)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(
        s_a + s_b - 2 * scipy.linalg.sqrtm(s_a @ s_b).real
    )
    np.testing.assert_allclose(distance.frechet(a, b), expected, rtol=1e-6)
    assert distance.frechet(a, a) < 1e-9 and distance.frechet(a, a + 2) == pytest.approx(
        16, rel=1e-6
    )
    # covariance 1, exactly
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt(3 / 4)
    np.testing.assert_allclose(
        distance.frechet(corners * [1, 3], corners * [2, 1]), 1 + 4, rtol=1e-6
    )


def test_kernel_distance_is_the_unbiased_discrepancy():
    """Written out for a small pair; zero in expectation for sets of one distribution; blocks are
    averaged."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 3)), rng.normal(size=(6, 3)) + 1

    def k(x, y):
        return (x @ y / 3 + 1) ** 3

    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    by_hand = np.mean([k(a[i], a[j]) + k(b[i], b[j]) for i, j in pairs]) - 2 * np.mean(
        [k(x, y) for x in a for y in b]
    )
    np.testing.assert_allclose(distance.kernel(a, b), by_hand, rtol=1e-6)
    same = [distance.kernel(*rng.normal(size=(2, 100, 3))) for _ in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(60)
    few = b[:4]  # sets of unequal size

    def within(x):
        return np.mean([k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j])

    np.testing.assert_allclose(
        distance.kernel(a, few),
        within(a) + within(few) - 2 * np.mean([k(x, y) for x in a for y in few]),
        rtol=1e-6,
    )


@pytest.mark.slow
def test_intervals_cover_the_distance_of_the_distributions():
    """Two Gaussians 1 apart in one of three directions: Frechet distance 1, in 8 of 10 intervals at
    least; wider for fewer images."""
    covered, widths = 0, []
    measure = distance.distances_to(np.random.default_rng(99).normal(size=(2_000, 3)), halves=30)
    for seed in range(10):
        x = np.random.default_rng(seed).normal(size=(1000, 3)) + [1, 0, 0]
        low, high = measure(x)['frechet']['interval']
        covered, widths = covered + (low < 1 < high), [*widths, high - low]
    assert covered >= 8 and np.ptp(measure(x[:100])['frechet']['interval']) > 2 * np.mean(widths)


def test_the_frechet_distance_has_the_bias_that_is_stated():
    """64 features, 500 images against 20,000 of the same distribution: about (D + D (D + 1) / 4) /
    N."""
    rng = np.random.default_rng(0)
    found = distance.frechet(rng.normal(size=(500, 64)), rng.normal(size=(20_000, 64)))
    np.testing.assert_allclose(found, (64 + 64 * 65 / 4) / 500, rtol=0.15)


@pytest.mark.slow
def test_reference_points_are_ordered_and_apart(tmp_path, monkeypatch):
    """In the features of a classifier of the digits: train and test next to each other, a shift
    far, noise farther; the file is reused."""
    monkeypatch.setattr(extractor, 'STEPS', 150)
    train, test = data.digits('train'), data.digits('test')
    by = extractor.classifier_extractor(train, tmp_path / 'e.npz')
    reference, cases = distance.reference_points(train, test, 300)
    assert {name: len(x) for name, x in cases.items()} == {
        'train': 300,
        'test': 300,
        'shifted': 300,
        'noise': 300,
    }
    assert not {x.tobytes() for x in reference} & {x.tobytes() for x in cases['train']}
    features = by.features(reference)
    assert features.shape == (718, 64)
    found = {
        name: distance.DISTANCES[d](by.features(x), features)
        for name, x in cases.items()
        for d in ('frechet',)
    }
    assert (
        max(found['train'], found['test']) < 0.2 * found['shifted']
        and found['shifted'] < 0.5 * found['noise']
    )
    assert np.mean(by.confidence(test.x).argmax(1) == test.y) > 0.9
    # the same in the network's units
    np.testing.assert_allclose(
        by.features(test.x[:9] / 127.5 - 1), by.features(test.x[:9]), atol=1e-4
    )
    again = extractor.classifier_extractor(train, tmp_path / 'e.npz')  # read, not trained again
    assert again.hash == by.hash and len(by.hash) == 12
    np.testing.assert_array_equal(again.features(reference[:20]), by.features(reference[:20]))
    with pytest.raises(InputError, match='delete it'):
        extractor.classifier_extractor(train._replace(y=train.y % 3), tmp_path / 'e.npz')
    (tmp_path / 'e.npz').write_bytes(b'damaged')
    with pytest.raises(InputError, match='damaged'):
        extractor.classifier_extractor(train, tmp_path / 'e.npz')


def test_class_coverage_at_its_ends():
    real = np.repeat(np.arange(4), 10)

    def certain(labels):
        return np.eye(4)[labels]

    np.testing.assert_allclose(distance.coverage(certain(real), real), 1)
    np.testing.assert_allclose(distance.coverage(certain(np.zeros(20, int)), real), 1 / 4)
    np.testing.assert_allclose(distance.coverage(certain(real % 2), real), 1 / 2)


def inception_shapes():
    """{name of a convolution: its weights' shape}, as the published network has them: 21,785,568
    parameters without the classifier."""
    table = {
        'Conv2d_1a_3x3': (32, 3, 3, 3),
        'Conv2d_2a_3x3': (32, 32, 3, 3),
        'Conv2d_2b_3x3': (64, 32, 3, 3),
        'Conv2d_3b_1x1': (80, 64, 1, 1),
        'Conv2d_4a_3x3': (192, 80, 3, 3),
    }
    for block, wide, pool in (('5b', 192, 32), ('5c', 256, 64), ('5d', 288, 64)):
        table |= {
            f'Mixed_{block}.{layer}': shape
            for layer, shape in {
                'branch1x1': (64, wide, 1, 1),
                'branch5x5_1': (48, wide, 1, 1),
                'branch5x5_2': (64, 48, 5, 5),
                'branch3x3dbl_1': (64, wide, 1, 1),
                'branch3x3dbl_2': (96, 64, 3, 3),
                'branch3x3dbl_3': (96, 96, 3, 3),
                'branch_pool': (pool, wide, 1, 1),
            }.items()
        }
    table |= {
        f'Mixed_6a.{layer}': shape
        for layer, shape in {
            'branch3x3': (384, 288, 3, 3),
            'branch3x3dbl_1': (64, 288, 1, 1),
            'branch3x3dbl_2': (96, 64, 3, 3),
            'branch3x3dbl_3': (96, 96, 3, 3),
        }.items()
    }
    for block, c in (('6b', 128), ('6c', 160), ('6d', 160), ('6e', 192)):
        table |= {
            f'Mixed_{block}.{layer}': shape
            for layer, shape in {
                'branch1x1': (192, 768, 1, 1),
                'branch7x7_1': (c, 768, 1, 1),
                'branch7x7_2': (c, c, 1, 7),
                'branch7x7_3': (192, c, 7, 1),
                'branch7x7dbl_1': (c, 768, 1, 1),
                'branch7x7dbl_2': (c, c, 7, 1),
                'branch7x7dbl_3': (c, c, 1, 7),
                'branch7x7dbl_4': (c, c, 7, 1),
                'branch7x7dbl_5': (192, c, 1, 7),
                'branch_pool': (192, 768, 1, 1),
            }.items()
        }
    table |= {
        f'Mixed_7a.{layer}': shape
        for layer, shape in {
            'branch3x3_1': (192, 768, 1, 1),
            'branch3x3_2': (320, 192, 3, 3),
            'branch7x7x3_1': (192, 768, 1, 1),
            'branch7x7x3_2': (192, 192, 1, 7),
            'branch7x7x3_3': (192, 192, 7, 1),
            'branch7x7x3_4': (192, 192, 3, 3),
        }.items()
    }
    for block, wide in (('7b', 1280), ('7c', 2048)):
        table |= {
            f'Mixed_{block}.{layer}': shape
            for layer, shape in {
                'branch1x1': (320, wide, 1, 1),
                'branch3x3_1': (384, wide, 1, 1),
                'branch3x3_2a': (384, 384, 1, 3),
                'branch3x3_2b': (384, 384, 3, 1),
                'branch3x3dbl_1': (448, wide, 1, 1),
                'branch3x3dbl_2': (384, 448, 3, 3),
                'branch3x3dbl_3a': (384, 384, 1, 3),
                'branch3x3dbl_3b': (384, 384, 3, 1),
                'branch_pool': (192, wide, 1, 1),
            }.items()
        }
    return table


def inception_weights(make=np.zeros):
    table = inception_shapes()
    return {
        f'{name}.{part}': make(shape if part == 'conv.weight' else shape[:1], np.float32)
        for name, shape in table.items()
        for part in inception.PARTS
    }


def test_inception_reads_every_array_of_the_published_network(tmp_path):
    table, weights = inception_shapes(), inception_weights()
    assert sum(np.prod(shape) + 2 * shape[0] for shape in table.values()) == 21_785_568
    read = set()

    class Watched(dict):
        def __getitem__(self, name):
            read.add(name)
            return super().__getitem__(name)

    out = jax.eval_shape(lambda: inception.features(Watched(weights), jnp.zeros((2, 28, 28, 1))))
    assert out.shape == (2, inception.FEATURES) and read == set(weights)
    with pytest.raises(InputError, match='Mixed_6e.branch7x7_2.conv.weight'):
        inception.check(
            {
                name: value
                for name, value in weights.items()
                if name != 'Mixed_6e.branch7x7_2.conv.weight'
            },
            'file',
        )
    with pytest.raises(InputError, match='another shape'):
        inception.check({**weights, 'Conv2d_2a_3x3.conv.weight': np.zeros((32, 31, 3, 3))}, 'file')
    with pytest.raises(InputError, match='another shape'):
        inception.check({**weights, 'fc.weight': np.zeros((1008, 2047))}, 'file')
    inception.check({**weights, 'fc.weight': np.zeros((1008, 2048))}, 'file')
    with pytest.raises(InputError, match='missing'):
        extractor.inception_extractor(tmp_path / 'no.npz')


def test_the_inception_score_of_known_distributions():
    """C classes that are each recognised with certainty: C; p(y|x) = p(y): 1; two classes by
    (3/4, 1/4) and (1/4, 3/4): exp(log 2 - H(1/4))."""
    assert distance.inception_score(np.eye(7)) == (pytest.approx(7), 0)
    assert distance.inception_score(np.full((5, 3), 1 / 3))[0] == pytest.approx(1)
    p = np.array([[0.75, 0.25], [0.25, 0.75]])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert distance.inception_score(p)[0] == pytest.approx(2 * np.exp(-entropy))
    # the first part is one class alone, the second two
    parts = np.eye(2)[[0, 0, 0, 1]]
    assert distance.inception_score(parts, splits=2) == (pytest.approx(1.5), pytest.approx(0.5))
    with pytest.raises(ValueError, match='splits'):
        distance.inception_score(p, splits=3)


def test_the_classes_of_inception_are_a_softmax_of_its_last_layer_without_bias():
    rng = np.random.default_rng(0)
    weights = {'fc.weight': rng.normal(size=(5, 2048)), 'fc.bias': 100 * np.arange(5.0)}
    x = rng.normal(scale=0.05, size=(3, 2048))
    np.testing.assert_allclose(
        inception.class_probs(weights, x),
        scipy.special.softmax(x @ weights['fc.weight'].T, 1),
        atol=1e-5,
    )


def test_inception_pools_leave_padding_out():
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 1)).astype(np.float32)
    found = inception._mean_pool(x)
    np.testing.assert_allclose(found[0, 0, 0, 0], x[0, :2, :2, 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(found[0, 1, 1, 0], x[0, :3, :3, 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(inception._max_pool(x)[0, 0, 0, 0], x[0, :3, :3, 0].max())


# --- images ---


def test_pixels_stay_pixels():
    pixels = np.array([[0, 1, 128, 255]], np.uint8)
    np.testing.assert_array_equal(images.as_uint8(pixels), pixels)
    np.testing.assert_array_equal(images.as_uint8(images.as_float(pixels)), pixels)
    for convert in (images.as_float, images.as_uint8):
        with pytest.raises(ValueError, match='uint8 in .* got int64'):
            convert(pixels.astype(np.int64))
    x = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
    shown = np.asarray(images.Grid(x, 1).picture(side=8, gap=0))
    np.testing.assert_array_equal(shown.reshape(8, 8, -1)[..., 0], x[0, ..., 0])


# --- attributes ---


def test_attributes_of_drawn_strokes():
    """A line of slope t leans by t; its weight is the darkness of its ink; the levels are
    thirds."""
    images = np.zeros((3, 9, 9, 1), np.uint8)
    for row in range(2, 7):
        images[0, row, 4] = 128  # upright, half dark
        images[1, row, 4 + (4 - row)] = 255  # leaning right by one column a row
        images[2, row, 4 - (4 - row)] = 255  # leaning left
    np.testing.assert_allclose(attributes.slant(images), [0, 1, -1], atol=1e-6)
    np.testing.assert_allclose(attributes.stroke_weight(images), [128 / 255, 1, 1], atol=1e-6)
    np.testing.assert_allclose(attributes.slant(images / 127.5 - 1), [0, 1, -1], atol=1e-6)
    bars = np.zeros((4, 12, 12, 1), np.uint8)
    for i, width in enumerate((1, 3, 5)):
        bars[i, :, 3 : 3 + width] = 200
    # 2, 4 and 6: from the middle to the pixels outside; faint ink is none
    bars[0, :, 8:] = bars[3] = 100
    np.testing.assert_allclose(attributes.thickness(bars), [2, 4, 6, 0], atol=1e-6)
    values = np.arange(9.0)
    np.testing.assert_array_equal(
        attributes.level(values, attributes.thirds(values)), np.repeat([0, 1, 2], 3)
    )
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 128], [255, 128, 0]])
    drawn = np.round((images[[1, 2, 1, 0]] / 255) * colours[:, None, None]).astype(np.uint8)
    np.testing.assert_allclose(attributes.hue(drawn), [1 / 6, 1 / 2, 5 / 6, 1 / 4], atol=2e-3)
    np.testing.assert_allclose(attributes.slant(drawn), [1, -1, 1, 0], atol=1e-6)
    weights = [1, 1, 128 / 255, 128 / 255]
    np.testing.assert_allclose(attributes.stroke_weight(drawn), weights, atol=1e-6)
    train = data.digits('train')
    relabelled = attributes.relabelled(train, 'slant', attributes.thirds(attributes.slant(train.x)))
    assert np.bincount(relabelled.y).tolist() == [479, 479, 479] and relabelled.x is train.x


def test_energy_scores_are_what_they_are_called():
    test = data.subsample(data.digits('test'), 10)

    def energy(params, x):
        return params * jnp.sum(x**2)

    found = predict.predict_dataset(
        predict.predictor(predict.energy_view(energy), augment.scale_pixels),
        0.5,
        test,
        batch_size=4,
    )
    x = test.x.reshape(10, -1) / 127.5 - 1
    np.testing.assert_allclose(found['energy'], -0.5 * (x**2).sum(1), rtol=1e-4)
    np.testing.assert_allclose(found['grad_norm'], -np.linalg.norm(x, axis=1), rtol=1e-4)


def test_fresh_chains_pass_the_transition_between_blocks_and_not_at_the_end():
    """Steps of pure descent on a slope subtract 1 each, the transition adds 100: 45 steps in blocks
    of 10, none in the last 12 or more."""

    def run(**plan):
        return sample(
            jax.random.key(0),
            lambda params, x, label: jnp.sum(x),
            0.0,
            mcmc.langevin(1.0, noise_scale=0.0),
            lambda params, key, label: jnp.zeros(1),
            np.zeros(3),
            45,
            transition=lambda key, x: x + 100,
            **plan,
        )

    np.testing.assert_allclose(run(every=10, plain=12), 300 - 45)
    np.testing.assert_allclose(run(every=10, plain=0), 400 - 45)
    np.testing.assert_allclose(run(every=50), -45)
    with pytest.raises(ValueError):
        run(every=0)


def test_what_a_metropolis_test_would_accept_of_a_langevin_chain():
    """For E = |x|^2 / 2 at temperature 1 the log ratio is -(a / 4) (|x'|^2 - |x|^2) = -(a / 2) (E'
    - E); the drift is a |x|."""
    a, dimension = 0.4, 6
    kernel = mcmc.langevin(a, temperature=1.0)
    starts = np.random.default_rng(0).normal(size=(5, dimension)).astype(np.float32)
    found = mixing.walk(
        jax.random.key(0),
        lambda params, x, label: 0.5 * params * jnp.sum(x**2),
        jnp.ones(()),
        kernel,
        starts,
        np.zeros(5),
        40,
        step_size=a,
        noise=(2 * a) ** 0.5,
    )
    before = np.concatenate([0.5 * np.sum(starts**2, 1, keepdims=True), found['energy'][:, :-1]], 1)
    np.testing.assert_allclose(
        found['acceptance'], np.minimum(1, np.exp(-a / 2 * (found['energy'] - before))), rtol=1e-3
    )
    np.testing.assert_allclose(
        found['drift_to_noise'], a * np.sqrt(2 * before) / np.sqrt(2 * a * dimension), rtol=1e-4
    )
    assert np.all(found['clipped'] == 0) and found['acceptance'].min() < 0.95
    given = jax.random.key(0), lambda params, x, label: 0.5 * params * jnp.sum(x**2), jnp.ones(())
    for kernel, tested in ((mcmc.langevin(a, temperature=0.0), False), (mcmc.mala(a), True)):
        found = mixing.walk(*given, kernel, starts, np.zeros(5), 4, step_size=a, noise=None)
        assert ('acceptance' in found) == tested  # a chain without a test accepts nothing
    np.testing.assert_allclose(
        found['energy'], dimension / 2 * (found['contrast'] ** 2 + found['mean'] ** 2), rtol=1e-4
    )


def test_mixing_of_autocorrelated_and_of_stuck_chains():
    """Effective samples of x_t = r x_{t-1} + noise are N (1 - r) / (1 + r); chains around different
    places do not mix."""
    rng, r = np.random.default_rng(0), 0.8
    walk = np.zeros((8, 4000))
    for t in range(1, walk.shape[1]):
        walk[:, t] = r * walk[:, t - 1] + rng.normal(size=8)
    found = mixing.mixing({'walk': walk, 'stuck': walk + 20 * np.arange(8)[:, None]})
    np.testing.assert_allclose(found['walk']['ess'], 8 * 2000 * (1 - r) / (1 + r), rtol=0.2)
    assert (
        found['walk']['r_hat'] < 1.01 and found['stuck']['r_hat'] > 3 and found['stuck']['ess'] < 20
    )


@pytest.mark.slow
def test_the_way_from_images_and_weights_on_disk_to_the_usual_formula_of_fid(tmp_path):
    """Random weights, from a file as a user has it; the square root of the product of covariances
    by scipy, as pytorch-fid takes it, on two of the features (of few images the covariance of all
    is singular)."""
    rng = np.random.default_rng(0)

    def random(shape, dtype):
        return rng.normal(scale=np.sqrt(2 / np.prod(shape[1:])), size=shape).astype(dtype)

    weights = inception_weights(random)
    for name in weights:  # batch norms that do nothing
        if 'conv' not in name:
            weights[name] = np.full_like(weights[name], 'weight' in name or 'var' in name)
    weights['fc.weight'] = random((1008, 2048), np.float32)
    np.savez(tmp_path / 'weights.npz', **weights)
    opened = extractor.inception_extractor(tmp_path / 'weights.npz')
    features = opened.features
    sets = [rng.integers(0, 256 - dark, (5, 24, 24, 3), np.uint8) for dark in (0, 128)]
    a, b = (np.asarray(features(x), np.float64)[:, :2] for x in sets)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    usual = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * root)
    assert usual > 0 and distance.frechet(a, b) == pytest.approx(usual, rel=1e-3)
    assert opened.own_classes(features(sets[0])).shape == (5, 1008)
