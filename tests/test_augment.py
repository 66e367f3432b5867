"""Preparation of one example: known values, and every outcome that may come up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import augment, versions

X = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
KEYS = jax.random.split(jax.random.key(0), 400)


def outcomes(step, x):
    return np.asarray(jax.vmap(step, (0, None))(KEYS, x))


def test_pixels_are_scaled_to_minus_one_and_one():
    scaled = augment.scale_pixels(KEYS[0], jnp.array([0, 255, 51], jnp.uint8))
    np.testing.assert_allclose(scaled, [-1, 1, -0.6], rtol=1e-6)
    assert scaled.dtype == jnp.float32


def test_crops_are_the_windows_of_the_reflected_image_each_as_likely():
    padded = np.pad(X, ((1, 1), (1, 1), (0, 0)), mode='reflect')
    windows = {padded[i : i + 6, j : j + 5].tobytes(): 0 for i in range(3) for j in range(3)}
    for crop in outcomes(augment.random_crop(1), X):
        windows[crop.tobytes()] += 1
    assert len(windows) == 9 and min(windows.values()) > 20  # 400 / 9 = 44 expected


def test_half_of_the_images_are_mirrored():
    flipped = [np.array_equal(x, X[:, ::-1]) for x in outcomes(augment.random_flip, X)]
    assert all(f or np.array_equal(x, X) for f, x in zip(flipped, outcomes(augment.random_flip, X)))
    assert 150 < sum(flipped) < 250


@pytest.mark.parametrize('axis', [0, 1])
def test_masks_hide_stretches_of_every_width_anywhere(axis):
    """Of 6 frames or bins: widths 0 to 3 equally often, the rest untouched, every place hidden now
    and then."""
    x = np.random.default_rng(0).uniform(1, 2, (6, 6, 1)).astype(np.float32)
    hidden = outcomes(augment.mask(axis, 3), x) == 0
    lines = hidden.all(axis=2 - axis)[..., 0]
    assert np.array_equal(
        hidden, np.broadcast_to(np.expand_dims(lines, (2 - axis, 3)), hidden.shape)
    )
    widths = lines.sum(1)
    assert np.all(np.abs(np.bincount(widths, minlength=4) - 100) < 40) and np.all(
        np.abs(np.diff(lines, axis=1, prepend=0)).sum(1) <= 2
    )
    assert lines.any(0).all() and np.array_equal(
        outcomes(augment.mask(axis, 3), x)[~hidden], np.broadcast_to(x, hidden.shape)[~hidden]
    )
    with pytest.raises(ValueError):
        augment.mask(axis, -1)


def test_noise_has_its_scale():
    noise = outcomes(augment.gaussian_noise(0.03), jnp.zeros((6, 5, 3)))
    np.testing.assert_allclose(noise.std(), 0.03, rtol=0.02)
    assert abs(noise.mean()) < 0.001
    with pytest.raises(ValueError):
        augment.gaussian_noise(-0.1)


def test_steps_of_a_chain_have_their_own_keys():
    """Two equal noises in a row add up in variance; under one key they would double."""
    noise = outcomes(
        augment.chain(augment.gaussian_noise(1.0), augment.gaussian_noise(1.0)),
        jnp.zeros((6, 5, 3)),
    )
    np.testing.assert_allclose(noise.std(), np.sqrt(2), rtol=0.02)


PICTURE = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (8, 8, 3)), jnp.float32)
TRANSITIONS = {
    'random_resized_crop': augment.random_resized_crop(),
    'colour_jitter': augment.colour_jitter(),
    'grayscale': augment.grayscale,
    'gaussian_blur': augment.gaussian_blur(),
    'random_affine': augment.random_affine(),
    'elastic': augment.elastic(),
    'random_flip': augment.random_flip,
    'sometimes': augment.sometimes(0.5, augment.random_flip),
}


@pytest.mark.parametrize('name', TRANSITIONS)
def test_transitions_keep_range_shape_and_determinism(name):
    """On an image that fills the range, and at its ends; one compiled function, the same under one
    key, others under others."""
    step = jax.jit(jax.vmap(TRANSITIONS[name], (0, None)))
    ends = jnp.sign(PICTURE)
    for x in (PICTURE, ends):
        found = np.asarray(step(KEYS[:50], x))
        assert found.shape == (50, 8, 8, 3) and found.dtype == np.float32
        assert found.min() >= -1 and found.max() <= 1 and np.isfinite(found).all()
        np.testing.assert_array_equal(found, step(KEYS[:50], x))
    outcomes_at_least = {'grayscale': 1, 'random_flip': 2, 'sometimes': 2}.get(name, 41)
    assert len({x.tobytes() for x in np.asarray(step(KEYS[:50], PICTURE))}) >= outcomes_at_least


def test_a_crop_of_everything_is_the_image():
    whole = augment.random_resized_crop((1.0, 1.0), (1.0, 1.0))
    np.testing.assert_allclose(jax.jit(whole)(KEYS[0], PICTURE), PICTURE, atol=1e-5)


def test_a_crop_shows_its_window_enlarged():
    """Of a ramp in both directions: corner and size of the window can be read off, and have the
    asked share and shape."""
    ramp = jnp.stack(
        jnp.meshgrid(jnp.linspace(-0.9, 0.9, 32), jnp.linspace(-0.9, 0.9, 32), indexing='ij'), -1
    )
    found = np.asarray(
        jax.jit(jax.vmap(augment.random_resized_crop((0.25, 0.5), (1.0, 2.0)), (0, None)))(
            KEYS, ramp
        )
    )
    # of the window, over that of the image
    height = (found[:, 24, 16, 0] - found[:, 8, 16, 0]) / (ramp[24, 0, 0] - ramp[8, 0, 0])
    width = (found[:, 16, 24, 1] - found[:, 16, 8, 1]) / (ramp[0, 24, 1] - ramp[0, 8, 1])
    area, shape = height * width, width / height
    assert (
        0.24 < area.min() < 0.28
        and 0.46 < area.max() < 0.51
        and 0.98 < shape.min() < 1.1
        and 1.8 < shape.max() < 2.02
    )
    middle = found[:, 15:17, 15:17, :].mean((1, 2))
    reach = (1 - np.stack([height, width], 1)) * 0.93
    # windows anywhere inside
    assert np.all(np.abs(middle) <= reach + 0.02) and np.all(np.abs(middle / reach).max(0) > 0.9)


def test_the_ratio_of_a_crop_is_that_of_its_window():
    """A square window of an image 16 x 64 of which rows and columns are numbered."""
    crop = augment.random_resized_crop(scale=(0.1, 0.1), ratio=(1.0, 1.0))
    rows = np.broadcast_to(np.linspace(-1, 1, 16)[:, None], (16, 64))
    columns = np.broadcast_to(np.linspace(-1, 1, 64), (16, 64))
    found = np.asarray(crop(jax.random.key(0), jnp.stack([rows, columns], -1).astype(jnp.float32)))
    height = np.ptp(found[..., 0]) / 2 * 15 / (15 / 16)
    width = np.ptp(found[..., 1]) / 2 * 63 / (63 / 64)
    assert height == pytest.approx(np.sqrt(0.1 * 16 * 64), rel=0.1)
    assert width == pytest.approx(height, rel=0.05)


@pytest.mark.parametrize('name', TRANSITIONS)
def test_transitions_keep_the_type_under_x64(name):
    with versions.enable_x64(True):
        x = jnp.zeros((8, 8, 3), jnp.float32)
        assert TRANSITIONS[name](jax.random.key(0), x).dtype == jnp.float32


def test_colour_jitter_by_hand():
    """One change at a time, at a strength that leaves nothing to chance but the factor."""

    def only(**strength):
        return augment.colour_jitter(
            **{**dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0), **strength}
        )

    x = 0.25 * PICTURE  # in [0.375, 0.625] of [0, 1], so that nothing is cut
    unit, luma = (np.asarray(x) + 1) / 2, np.array([0.2989, 0.5870, 0.1140])
    grey = (unit @ luma)[..., None]

    def deviations(step, pivot):
        found = (np.asarray(jax.jit(jax.vmap(step, (0, None)))(KEYS[:100], x)) + 1) / 2
        factors = ((found - pivot) / (unit - pivot)).reshape(100, -1)
        spread = np.percentile(factors, 90, axis=1) - np.percentile(factors, 10, axis=1)
        assert np.all(spread < 1e-2)  # one factor for all pixels
        return np.median(factors, 1)

    for step, pivot in (
        (only(brightness=0.3), 0.0),
        (only(contrast=0.3), grey.mean()),
        (only(saturation=0.3), grey),
    ):
        factors = deviations(step, pivot)
        assert 0.69 < factors.min() < 0.75 and 1.25 < factors.max() < 1.31
    turned = (np.asarray(jax.jit(jax.vmap(only(hue=0.5), (0, None)))(KEYS[:20], x)) + 1) / 2
    # hue leaves value and chroma
    np.testing.assert_allclose(turned.max(-1), np.broadcast_to(unit.max(-1), (20, 8, 8)), atol=1e-5)
    np.testing.assert_allclose(turned.min(-1), np.broadcast_to(unit.min(-1), (20, 8, 8)), atol=1e-5)
    assert np.abs(turned - unit).max() > 0.05
    np.testing.assert_allclose(jax.jit(only())(KEYS[0], x), x, atol=1e-5)


def test_grayscale_is_the_luma_in_all_channels():
    found = np.asarray(augment.grayscale(KEYS[0], PICTURE))
    # weights sum to .9999
    expected = np.asarray(PICTURE) @ np.array([0.2989, 0.5870, 0.1140]) + 0.9999 - 1
    np.testing.assert_allclose(found, np.repeat(expected[..., None], 3, -1), atol=2e-4)


def test_blur_keeps_constants_and_spreads_a_point_as_a_gaussian():
    blur = jax.jit(augment.gaussian_blur((1.0, 1.0), size=5))
    np.testing.assert_allclose(blur(KEYS[0], jnp.full((7, 7, 2), 0.3)), 0.3, atol=1e-5)
    found = (np.asarray(blur(KEYS[0], jnp.full((9, 9, 1), -1.0).at[4, 4].set(1.0)))[..., 0] + 1) / 2
    line = np.exp(-(np.arange(-2, 3) ** 2) / 2)
    np.testing.assert_allclose(found[2:7, 2:7], np.outer(line, line) / line.sum() ** 2, atol=1e-5)
    assert np.abs(found[:2]).max() < 1e-6


def test_affine_moves_an_image_as_asked():
    dot = jnp.full((9, 9, 1), -1.0).at[4, 7].set(1.0)
    none = dict(degrees=0.0, translate=0.0, scale=(1.0, 1.0), shear=0.0)

    def at(**change):
        return np.asarray(
            jax.jit(jax.vmap(augment.random_affine(**{**none, **change}), (0, None)))(
                KEYS[:60], dot
            )
        )[..., 0]

    np.testing.assert_allclose(at(), np.broadcast_to(dot[..., 0], (60, 9, 9)), atol=1e-6)
    grid = np.stack(np.mgrid[:9, :9], -1)

    def centres(found):
        return ((found + 1)[..., None] * grid).sum((1, 2)) / (found + 1).sum((1, 2))[:, None]

    turned = centres(at(degrees=90.0)) - 4
    np.testing.assert_allclose(np.hypot(*turned.T), 3, atol=0.15)  # about the centre
    assert np.ptp(np.arctan2(*turned.T)) > 2.5
    shifted = centres(at(translate=0.2)) - [4, 7]
    assert np.abs(shifted).max() < 1.82 and np.all(np.ptp(shifted, 0) > 1.5)
    larger = centres(at(scale=(1.3, 1.3)))
    np.testing.assert_allclose(larger, np.broadcast_to([4, 4 + 3 * 1.3], (60, 2)), atol=0.2)


def test_shear_moves_columns_by_their_height():
    """A vertical line through the centre becomes a leaning one: each row's ink moves in proportion
    to its distance from the centre."""
    line = jnp.full((17, 17, 1), -1.0).at[4:13, 8].set(1.0)
    step = augment.random_affine(degrees=0.0, translate=0.0, scale=(1.0, 1.0), shear=30.0)
    found = np.asarray(jax.jit(jax.vmap(step, (0, None)))(KEYS[:40], line))[:, 5:12, :, 0] + 1
    columns = (found * np.arange(17)).sum(2) / found.sum(2)
    slopes = (columns[:, -1] - columns[:, 0]) / 6
    np.testing.assert_allclose(columns - 8, slopes[:, None] * np.arange(-3, 4), atol=0.15)
    assert (
        0.45 < np.abs(slopes).max() < np.tan(np.deg2rad(30)) + 0.03
        and slopes.min() < -0.3 < 0.3 < slopes.max()
    )


def test_elastic_leaves_constants_and_moves_by_less_than_alpha():
    step = jax.jit(jax.vmap(augment.elastic(alpha=2.0, sigma=1.5), (0, None)))
    np.testing.assert_allclose(step(KEYS[:5], jnp.full((8, 8, 1), 0.4)), 0.4, atol=1e-5)
    ramp = jnp.broadcast_to(jnp.linspace(-1, 1, 32)[:, None, None], (32, 32, 1))
    moved = (np.asarray(step(KEYS[:50], ramp)) - np.asarray(ramp)) * 31 / 2  # in pixels
    assert moved.std() > 0.1 and np.abs(moved).max() < 2


@pytest.mark.parametrize('probability', [0.0, 0.2, 1.0])
def test_sometimes_is_as_often_as_asked(probability):
    step = augment.sometimes(probability, lambda key, x: x + 1)
    np.testing.assert_allclose(np.mean(outcomes(step, jnp.zeros(()))), probability, atol=0.05)


@pytest.mark.parametrize(
    'bad',
    [
        lambda: augment.random_resized_crop((0.0, 1.0)),
        lambda: augment.random_resized_crop((0.5, 0.2)),
        lambda: augment.colour_jitter(-0.1),
        lambda: augment.colour_jitter(hue=0.6),
        lambda: augment.gaussian_blur((0.0, 1.0)),
        lambda: augment.gaussian_blur(size=4),
        lambda: augment.random_affine(translate=2.0),
        lambda: augment.random_affine(scale=(0.0, 1.0)),
        lambda: augment.elastic(sigma=0.0),
        lambda: augment.sometimes(1.5, augment.random_flip),
    ],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError):
        bad()
