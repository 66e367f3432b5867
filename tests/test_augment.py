"""Preparation of one example: known values, and every outcome that may come up."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import augment

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
    windows = {padded[i:i + 6, j:j + 5].tobytes(): 0 for i in range(3) for j in range(3)}
    for crop in outcomes(augment.random_crop(1), X):
        windows[crop.tobytes()] += 1
    assert len(windows) == 9 and min(windows.values()) > 20   # 400 / 9 = 44 expected


def test_half_of_the_images_are_mirrored():
    flipped = [np.array_equal(x, X[:, ::-1]) for x in outcomes(augment.random_flip, X)]
    assert all(f or np.array_equal(x, X) for f, x in zip(flipped, outcomes(augment.random_flip, X)))
    assert 150 < sum(flipped) < 250


def test_noise_has_its_scale():
    noise = outcomes(augment.gaussian_noise(0.03), jnp.zeros((6, 5, 3)))
    np.testing.assert_allclose(noise.std(), 0.03, rtol=0.02)
    assert abs(noise.mean()) < 0.001
    with pytest.raises(ValueError):
        augment.gaussian_noise(-0.1)


def test_steps_of_a_chain_have_their_own_keys():
    """Two equal noises in a row add up in variance; under one key they would double."""
    noise = outcomes(augment.chain(augment.gaussian_noise(1.0), augment.gaussian_noise(1.0)), jnp.zeros((6, 5, 3)))
    np.testing.assert_allclose(noise.std(), np.sqrt(2), rtol=0.02)
