"""Attributes of grey digits that are computed from the image, to measure whether samples have the
attributes they were asked for."""

import numpy as np
from numpy.typing import ArrayLike

from ebm_jax.data import Examples
from ebm_jax.images import as_unit


def stroke_weight(images: ArrayLike) -> np.ndarray:
    """How dark the ink is, sum x^2 / sum x with ink x in [0, 1]: [N, H, W, C] -> [N] in [0, 1],
    high for bold strokes."""
    ink = as_unit(images)
    return np.sum(ink**2, 1) / np.maximum(np.sum(ink, 1), 1e-9)


def slant(images: ArrayLike) -> np.ndarray:
    """How far strokes lean to the right, -cov(column, row) / var(row) of the ink: [N, H, W, C] ->
    [N], 0 upright."""
    images = np.asarray(images)
    ink = as_unit(images).reshape(*images.shape[:3], -1).mean(3)
    ink = ink / np.maximum(ink.sum((1, 2), keepdims=True), 1e-9)
    rows, columns = np.mgrid[: ink.shape[1], : ink.shape[2]]

    def mean(values):
        return np.sum(ink * values, (1, 2))

    covariance = mean(rows * columns) - mean(rows) * mean(columns)
    return -covariance / np.maximum(mean(rows**2) - mean(rows) ** 2, 1e-9)


ATTRIBUTES = {'stroke': stroke_weight, 'slant': slant}
LEVELS = {'stroke': ('thin', 'medium', 'bold'), 'slant': ('left', 'upright', 'right')}


def thirds(values: np.ndarray) -> np.ndarray:
    """The two quantiles that divide values into three equal parts."""
    return np.quantile(values, [1 / 3, 2 / 3])


def level(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """0, 1, 2: low, middle, high third by the edges of `thirds`."""
    return np.searchsorted(edges, values).astype(np.int32)


def relabelled(examples: Examples, attribute: str, edges: np.ndarray) -> Examples:
    """The same images, labelled by their level of an attribute ('stroke' or 'slant')."""
    return Examples(
        f'{examples.name} by {attribute}',
        examples.x,
        level(ATTRIBUTES[attribute](examples.x), edges),
    )
