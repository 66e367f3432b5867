"""Augmentations of one example on the device, before the network sees it or as transitions of a
chain: pure functions (key, x) -> x.

Images are [H, W, C] in [-1, 1]; everything below `random_flip` stays in that range. The pixel
arithmetic is that of dm_pix.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.types import Array, Key, Transition


def _pix():
    import dm_pix  # not needed where nothing is augmented

    return dm_pix


def scale_pixels(key: Key, x: Array) -> Array:
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    del key
    return x.astype(jnp.float32) / 127.5 - 1


def gaussian_noise(sigma: float) -> Transition:
    """x + N(0, sigma^2 I), sigma >= 0.

    Source: JEM adds sigma = 0.03 in training AND test ([code]).
    """
    if not sigma >= 0:
        raise ValueError(f'sigma must be at least 0, got {sigma}')
    return lambda key, x: x + sigma * jax.random.normal(key, x.shape, x.dtype)


def random_crop(pad: int) -> Transition:
    """Reflect-pad an image [H, W, C] by `pad` pixels and cut a random window of the original size.

    Raises: ValueError where the image is not larger than `pad`.
    Source: JEM [code], pad 4.
    """

    def crop(key, x):
        if pad >= min(x.shape[:2]):
            raise ValueError(
                f'a crop of {pad} pixels needs larger images than {x.shape[0]}x{x.shape[1]}'
            )
        window = jnp.pad(x, ((pad, pad), (pad, pad), (0, 0)), mode='reflect')
        corner = jax.random.randint(key, (2,), 0, 2 * pad + 1)
        # a selection among fixed windows: a slice at a random place becomes a gather under vmap,
        # which a TPU runs as a loop over the images
        for axis in (0, 1):
            windows = [
                jax.lax.slice_in_dim(window, begin, begin + x.shape[axis], axis=axis)
                for begin in range(2 * pad + 1)
            ]
            window = jnp.select([corner[axis] == i for i in range(2 * pad + 1)], windows)
        return window

    return crop


def random_flip(key: Key, x: Array) -> Array:
    """Mirror an image [H, W, C] left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), x[:, ::-1], x)


def sometimes(probability: float, step: Transition) -> Transition:
    """`step` with that probability, else the image as it is.

    Raises: ValueError outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f'a probability lies in [0, 1], got {probability}')

    def maybe(key, x):
        coin, key = jax.random.split(key)
        return jnp.where(jax.random.bernoulli(coin, probability), step(key, x), x)

    return maybe


def random_resized_crop(
    scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Transition:
    """Cut a window of a random share of the area and a random shape, and resize it to the original
    size (linear, without antialiasing).

    Args:
      scale: range of the share, in (0, 1], uniform.
      ratio: range of width / height, log-uniform; sides are limited to the image's.
    Raises: ValueError when out of range.
    Source: Szegedy et al. 2015; ranges of CIFAR-10 in Du et al. 2021 [code].
    """
    if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
        raise ValueError(
            f'scale must lie in (0, 1] and ratio above 0, each as (low, high), got {scale} and'
            f' {ratio}'
        )

    def crop(key, x):
        keys = jax.random.split(key, 4)
        sides = jnp.array(x.shape[:2], jnp.float32)
        area = jax.random.uniform(keys[0], minval=scale[0], maxval=scale[1])
        shape = jnp.exp(
            jax.random.uniform(keys[1], minval=jnp.log(ratio[0]), maxval=jnp.log(ratio[1]))
        )
        height, width = x.shape[:2]
        stretched = jnp.array([width / height / shape, height / width * shape])
        window = jnp.minimum(sides * jnp.sqrt(area * stretched), sides)
        corner = jax.random.uniform(keys[2], (2,)) * (sides - window)
        enlarge = sides / window
        resized = jax.image.scale_and_translate(
            x, x.shape, (0, 1), enlarge, -corner * enlarge, 'linear', antialias=False
        )
        return jnp.clip(resized, -1, 1)

    return crop


def _in_unit_range(step):
    """Apply a step on images in [0, 1] to images in [-1, 1]; values that leave the range are
    clipped."""
    return lambda key, x: 2 * jnp.clip(step(key, (x + 1) / 2), 0, 1) - 1


def _factor(key, strength, x):
    return jax.random.uniform(key, (), x.dtype, max(0.0, 1 - strength), 1 + strength)


def _grey(x):
    return _pix().rgb_to_grayscale(x, keep_dims=True)


def colour_jitter(
    brightness: float = 0.8, contrast: float = 0.8, saturation: float = 0.8, hue: float = 0.4
) -> Transition:
    """Brightness, contrast, saturation and hue of an RGB image, changed in a random order.

        brightness: x <- f x
        contrast:   x <- m + f (x - m), m the mean grey
        saturation: x <- grey + f (x - grey)
        hue:        turned by d
        f ~ U(max(0, 1 - strength), 1 + strength),   d ~ U(-hue, hue) of a full turn

    Args: strengths >= 0; hue in [0, 0.5].
    Raises: ValueError when out of range.
    Source: the usual definition (torchvision's); strengths of CIFAR-10 in Du et al. 2021 [code].
    """
    if min(brightness, contrast, saturation) < 0 or not 0 <= hue <= 0.5:
        raise ValueError(
            'strengths must be at least 0 and hue in [0, 0.5], got'
            f' {(brightness, contrast, saturation, hue)}'
        )

    steps = (
        lambda key, x: _factor(key, brightness, x) * x,
        lambda key, x: _blend(_factor(key, contrast, x), x, jnp.mean(_grey(x))),
        lambda key, x: _blend(_factor(key, saturation, x), x, _grey(x)),
        lambda key, x: _pix().adjust_hue(x, jax.random.uniform(key, (), x.dtype, -hue, hue)),
    )

    def jitter(key, x):
        order_key, key = jax.random.split(key)
        for which in jax.random.permutation(order_key, len(steps)):
            key, step_key = jax.random.split(key)
            x = jnp.clip(jax.lax.switch(which, steps, step_key, x), 0, 1)
        return x

    return _in_unit_range(jitter)


def _blend(factor, x, other):
    return other + factor * (x - other)


def grayscale(key: Key, x: Array) -> Array:
    """The luma (Rec. 601) of an RGB image, in all three channels."""
    return _in_unit_range(lambda key, x: _grey(x))(key, x)


def gaussian_blur(sigma: tuple[float, float] = (0.1, 2.0), size: int = 5) -> Transition:
    """Convolution with a Gaussian of sigma ~ U(low, high) pixels on a size x size window; the
    border is reflected.

    Raises: ValueError for sigma <= 0 or an even size.
    Source: Chen et al. 2020 (SimCLR), as Du et al. 2021 use it on faces and rooms.
    """
    if not 0 < sigma[0] <= sigma[1] or size % 2 != 1:
        raise ValueError(f'sigma must be (low, high) above 0 and size odd, got {sigma} and {size}')
    half = size // 2

    def blur(key, x):
        padded = jnp.pad(x, ((half, half), (half, half), (0, 0)), mode='reflect')
        return _pix().gaussian_blur(
            padded, jax.random.uniform(key, (), x.dtype, *sigma), size, padding='VALID'
        )

    return _in_unit_range(blur)


def random_affine(
    degrees: float = 10.0,
    translate: float = 0.1,
    scale: tuple[float, float] = (0.9, 1.1),
    shear: float = 10.0,
    fill: float = -1.0,
) -> Transition:
    """Turn, shear, scale and shift an image about its centre, linearly interpolated; pixels from
    outside the image are `fill`.

        output pixel o shows the input at  c + R(angle) S(shear) (o - c - t) / s

    Args:
      degrees, shear: >= 0, largest angles in degrees; each angle is uniform between minus and plus
        the largest.
      translate: share of each side, in [0, 1]. scale: range > 0.
    Raises: ValueError when out of range.
    Source: our reading, for grey digits; Du et al. 2021 use none there.
    """
    if degrees < 0 or shear < 0 or not 0 <= translate <= 1 or not 0 < scale[0] <= scale[1]:
        raise ValueError(
            'degrees and shear must be at least 0, translate in [0, 1], scale above 0, got '
            f'{(degrees, shear, translate, scale)}'
        )

    def affine(key, x):
        angle_key, shear_key, scale_key, shift_key = jax.random.split(key, 4)
        angle, slant = (
            jnp.deg2rad(jax.random.uniform(k, minval=-d, maxval=d))
            for k, d in ((angle_key, degrees), (shear_key, shear))
        )
        sides = jnp.array(x.shape[:2], jnp.float32)
        shift = jax.random.uniform(shift_key, (2,), minval=-translate, maxval=translate) * sides
        turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
        pull = (
            turn
            @ jnp.array([[1.0, 0.0], [jnp.tan(slant), 1.0]])
            / jax.random.uniform(scale_key, minval=scale[0], maxval=scale[1])
        )
        centre = (sides - 1) / 2
        offset = centre - pull @ (centre + shift)
        matrix = jnp.eye(4).at[:2, :2].set(pull).at[:2, 3].set(offset)
        return jnp.clip(_pix().affine_transform(x, matrix, mode='constant', cval=fill), -1, 1)

    return affine


def elastic(alpha: float = 8.0, sigma: float = 2.0) -> Transition:
    """Move each pixel along a smooth random field: uniform in [-alpha, alpha] before a Gaussian of
    `sigma` pixels smooths it.

    Args: alpha >= 0, sigma > 0.
    Raises: ValueError when out of range.
    Source: Simard et al. 2003; as a transition for grey digits our reading.
    """
    if alpha < 0 or not sigma > 0:
        raise ValueError(f'alpha must be at least 0 and sigma above 0, got {alpha} and {sigma}')

    def move(key, x):
        # dm_pix draws the field in JAX's default type, and its filter has that of sigma
        drawn, width = x.astype(jnp.zeros(()).dtype), np.float64(sigma)
        return jnp.clip(_pix().elastic_deformation(key, drawn, alpha, width), -1, 1).astype(x.dtype)

    return move


def chain(*steps: Transition) -> Transition:
    """Apply steps one after another, each with its own key."""

    def run(key, x):
        for i, step in enumerate(steps):
            x = step(jax.random.fold_in(key, i), x)
        return x

    return run


def mask(axis: int, widest: int) -> Transition:
    """Set a stretch of a spectrogram [T, F, 1] to 0, the mean: along axis 0 (time) or 1
    (frequency), 0 to `widest` frames or bins wide, uniform, anywhere it fits.

    Raises: ValueError for widest < 0.
    Source: Park et al. 2019 (SpecAugment), without time warping.
    """
    if widest < 0:
        raise ValueError(f'widest must be at least 0, got {widest}')

    def hide(key, x):
        width_key, place_key = jax.random.split(key)
        width = jax.random.randint(width_key, (), 0, min(widest, x.shape[axis]) + 1)
        begin = jax.random.randint(place_key, (), 0, x.shape[axis] - width + 1)
        at = jnp.arange(x.shape[axis])
        hidden = (at >= begin) & (at < begin + width)
        return jnp.where(jnp.expand_dims(hidden, [i for i in range(x.ndim) if i != axis]), 0.0, x)

    return hide
