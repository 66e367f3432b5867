"""Attributes of digits, bright strokes on black, that are computed from the image, to measure
whether samples have the attributes they were asked for."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from ebm_jax.data import Examples
from ebm_jax.images import as_unit


def ink(images: ArrayLike) -> np.ndarray:
    """How bright each pixel is, the largest of its channels: [N, H, W, C] -> [N, H, W] in
    [0, 1]."""
    brightest = np.asarray(images).max(-1)
    return as_unit(brightest).reshape(brightest.shape)


def stroke_weight(images: ArrayLike) -> np.ndarray:
    """How dark the ink is, sum x^2 / sum x with ink x in [0, 1]: [N, H, W, C] -> [N] in [0, 1],
    high for bold strokes."""
    x = ink(images)
    return np.sum(x**2, (1, 2)) / np.maximum(np.sum(x, (1, 2)), 1e-9)


def thickness(images: ArrayLike) -> np.ndarray:
    """Width of the strokes in pixels, twice the mean distance from the middle of a stroke to the
    nearest pixel outside, where ink is above .5: [N, H, W, C] -> [N], 0 without ink. The middle of
    a stroke is where that distance is the largest among its neighbours. Faint ink does not count,
    so samples on grounds that are not quite black can be measured.

    Source: ours; after the thickness of Castro et al. 2019 (Morpho-MNIST), which follows skeletons.
    """

    def of(inked):
        distance = ndimage.distance_transform_edt(np.pad(inked, 1))
        middle = (distance > 0) & (distance == ndimage.maximum_filter(distance, 3))
        return 2 * distance[middle].mean() if middle.any() else 0.0

    return np.array([of(inked) for inked in ink(images) > 0.5])


def slant(images: ArrayLike) -> np.ndarray:
    """How far strokes lean to the right, -cov(column, row) / var(row) of the ink: [N, H, W, C] ->
    [N], 0 upright."""
    x = ink(images)
    x = x / np.maximum(x.sum((1, 2), keepdims=True), 1e-9)
    rows, columns = np.mgrid[: x.shape[1], : x.shape[2]]

    def mean(values):
        return np.sum(x * values, (1, 2))

    covariance = mean(rows * columns) - mean(rows) * mean(columns)
    return -covariance / np.maximum(mean(rows**2) - mean(rows) ** 2, 1e-9)


def hue(images: ArrayLike) -> np.ndarray:
    """Hue of the mean colour, from magenta on, so that the thirds are red, green and blue: RGB
    [N, H, W, 3] -> [N] in [0, 1), in turns; an image without colour counts as red."""
    from matplotlib.colors import rgb_to_hsv

    colour = np.stack(
        [as_unit(channel).mean(1) for channel in np.moveaxis(np.asarray(images), -1, 0)], 1
    )
    return (rgb_to_hsv(np.clip(colour, 0, 1))[:, 0] + 1 / 6) % 1


ATTRIBUTES = {
    'stroke': stroke_weight,
    'thickness': thickness,
    'slant': slant,
    'colour': hue,
}
LEVELS = {
    'stroke': ('thin', 'medium', 'bold'),
    'thickness': ('thin', 'medium', 'thick'),
    'slant': ('left', 'upright', 'right'),
    'colour': ('red', 'green', 'blue'),
}


def thirds(values: np.ndarray) -> np.ndarray:
    """The two quantiles that divide values into three equal parts."""
    return np.quantile(values, [1 / 3, 2 / 3])


def level(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """0, 1, 2: low, middle, high third by the edges of `thirds`."""
    return np.searchsorted(edges, values).astype(np.int32)


def relabelled(examples: Examples, attribute: str, edges: np.ndarray) -> Examples:
    """The same images, labelled by their level of an attribute, a name of ATTRIBUTES."""
    return Examples(
        f'{examples.name} by {attribute}',
        examples.x,
        level(ATTRIBUTES[attribute](examples.x), edges),
    )
