"""Initial distributions of chains: `InitialSampler`s, functions (key, label) -> x of one chain, in
float32 also under jax_enable_x64."""

import base64
import io
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.types import UNCONDITIONAL, ArrayLike, InitialSampler


def uniform(shape: Sequence[int], low: float = -1.0, high: float = 1.0) -> InitialSampler:
    """x ~ U(low, high), whatever the label.

    Source: Grathwohl et al. 2020.
    """
    return lambda key, label: jax.random.uniform(key, tuple(shape), jnp.float32, low, high)


def normal(shape: Sequence[int], scale: float = 1.0) -> InitialSampler:
    """x ~ N(0, scale^2 I), whatever the label."""
    return lambda key, label: scale * jax.random.normal(key, tuple(shape), jnp.float32)


def bernoulli(
    shape: Sequence[int], p: float = 0.5, values: Sequence[float] = (-1.0, 1.0)
) -> InitialSampler:
    """Each entry is values[1] with probability p, else values[0], whatever the label."""

    def sample(key, label):
        return jnp.where(
            jax.random.bernoulli(key, p, tuple(shape)), *jnp.float32((values[1], values[0]))
        )

    return sample


class ClassGaussians(NamedTuple):
    """N(mean_c, F_c^T F_c + noise_c^2 I) of each class c, on a grid that may be coarser than an
    example's."""

    means: np.ndarray  # [C, ...]
    factors: np.ndarray  # [C, R, ...]: the rows of F_c
    noise: np.ndarray  # [C]

    def to_text(self) -> str:
        """As plain text, for `class_gaussian`."""
        file = io.BytesIO()
        np.savez(file, **self._asdict())
        return base64.b64encode(file.getvalue()).decode()

    @staticmethod
    def from_text(text: str) -> 'ClassGaussians':
        """The inverse of `to_text`. Raises: ValueError for other text."""
        try:
            with np.load(io.BytesIO(base64.b64decode(text, validate=True))) as found:
                return ClassGaussians(**found)
        except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f'this is not the text of ClassGaussians: {error}') from error


def fit_class_gaussians(
    x: ArrayLike, y: ArrayLike, num_classes: int, *, side: int = 8, rank: int = 8
) -> ClassGaussians:
    """Probabilistic principal component analysis of each class, by maximum likelihood.

    F_c^T = U (L - noise_c^2 I)^(1/2) with the first `rank` eigenvalues L and eigenvectors U of the
    covariance of class c, and noise_c^2 the mean of its other eigenvalues. Rounded to 4 digits, and
    the largest entry of each eigenvector is positive, so that other machines find the same.

    Args:
      x: images [N, H, W, channels], reduced to at most `side` rows and columns before. y: labels
        [N] in [0, C).
      rank: R, at least 1, and less than the values of a reduced image.
    Raises: ValueError for a class of fewer than two images, a rank out of range, or other shapes.
    Source: Tipping & Bishop 1999; as initial distribution: our reading of the informative
      initialisation of later work on JEM.
    """
    x, y = np.asarray(x, np.float32), np.asarray(y)
    if x.ndim != 4 or y.shape != x.shape[:1]:
        raise ValueError(f'x must be [N, H, W, channels] and y [N], got {x.shape} and {y.shape}')
    rows, columns = (min(side, n) for n in x.shape[1:3])
    reduced = np.asarray(
        jax.image.resize(x, (len(x), rows, columns, x.shape[3]), 'linear'), np.float64
    )
    flat = reduced.reshape(len(x), -1)
    if not 1 <= rank < flat.shape[1]:
        raise ValueError(f'rank must lie in [1, {flat.shape[1] - 1}], got {rank}')
    means, factors, noise = [], [], []
    for label in range(num_classes):
        images = flat[y == label]
        if len(images) < 2:
            raise ValueError(f'class {label} has {len(images)} images: it needs 2 for a covariance')
        values, vectors = np.linalg.eigh(np.cov(images.T, bias=True))
        variance = max(values[:-rank].mean(), 0.0)
        scales = np.sqrt(np.maximum(values[-rank:] - variance, 0.0))
        means.append(images.mean(0).reshape(reduced.shape[1:]))
        axes = (scales * vectors[:, -rank:]).T
        largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
        axes = np.where(largest < 0, -axes, axes)
        factors.append(axes.reshape(rank, *reduced.shape[1:]))
        noise.append(np.sqrt(variance))
    return ClassGaussians(
        *(np.round(found, 4).astype(np.float32) for found in (means, factors, noise))
    )


def class_gaussian(
    shape: Sequence[int], gaussians: ClassGaussians | str, low: float = -1.0, high: float = 1.0
) -> InitialSampler:
    """x ~ the Gaussian of the wanted class, interpolated linearly to `shape` and clipped to
    [low, high]; for UNCONDITIONAL the class is uniform.

    Args: gaussians: as `fit_class_gaussians` makes them, or their text.
    Raises: ValueError where they do not fit each other, or have other channels than `shape`.
    Source: our reading of the informative initialisation of later work on JEM; named so wherever
      metrics depend on it.
    """
    if isinstance(gaussians, str):
        gaussians = ClassGaussians.from_text(gaussians)
    grid, classes = gaussians.means.shape[1:], len(gaussians.means)
    factors_fit = (gaussians.factors.shape[:1], gaussians.factors.shape[2:]) == ((classes,), grid)
    if len(grid) != len(shape) or grid[-1] != shape[-1]:
        raise ValueError(f'Gaussians of images {grid} do not fit examples {tuple(shape)}')
    if not factors_fit or gaussians.noise.shape != (classes,):
        raise ValueError('means, factors and noise of ClassGaussians have shapes that do not agree')
    means, factors, noise = (jnp.asarray(part, jnp.float32) for part in gaussians)

    def sample(key, label):
        label_key, factor_key, noise_key = jax.random.split(key, 3)
        random_label = jax.random.randint(label_key, (), 0, len(means))
        label = jnp.where(label == UNCONDITIONAL, random_label, label)
        weights = jax.random.normal(factor_key, factors.shape[1:2], jnp.float32)
        x = means[label] + jnp.tensordot(weights, factors[label], 1)
        x += noise[label] * jax.random.normal(noise_key, x.shape, jnp.float32)
        return jnp.clip(jax.image.resize(x, tuple(shape), 'linear'), low, high)

    return sample
