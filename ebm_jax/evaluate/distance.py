"""Distances between two sets of images in the features of an extractor (see `extractor`).

They are FID and KID only in the features of the FID Inception network. In those of a classifier
trained on the data set they are called Frechet and kernel distance, and are comparable only under
the same extractor and numbers of images.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.linalg import eigh, svdvals
from scipy.special import rel_entr
from sklearn.metrics.pairwise import polynomial_kernel

from ebm_jax import data
from ebm_jax.data import Examples
from ebm_jax.errors import InputError
from ebm_jax.shapes import check_shape


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of the Gaussians that fit two sets of features.

        |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

    Biased upwards: two sets of one standard Gaussian distribution are about
    (D + D (D + 1) / 4) / N apart for M >> N (2.2 for D = 64 and N = 500), so compare at equal N,
    and with the reference points.

    Args: a: [N, D]. b: [M, D]. N, M >= 2.
    Returns: float >= 0.
    Source: Dowson & Landau 1982; Heusel et al. 2017.
    """
    _check_features(a, b)
    return _frechet_to(b)(a)


def _frechet_to(b):
    """a -> frechet(a, b), with what only depends on b computed once.

    tr (S_a S_b)^(1/2) is the sum of the singular values of (a - m_a) S_b^(1/2) / sqrt(N - 1).
    """
    mean, cov = b.mean(0), np.atleast_2d(np.cov(b, rowvar=False))
    values, vectors = eigh(cov)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T

    def to(a):
        centred = (a - a.mean(0)) / np.sqrt(len(a) - 1)
        cross = svdvals(centred @ root).sum()
        return max(
            float(np.sum((a.mean(0) - mean) ** 2) + np.sum(centred**2) + np.trace(cov) - 2 * cross),
            0.0,
        )

    return to


def kernel(a: np.ndarray, b: np.ndarray) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, unbiased: 0 in expectation
    for sets of one distribution.

    Args: a [N, D], b [M, D]; of more than 5,000 the first 5,000 are taken.
    Source: Binkowski et al. 2018; scikit-learn's kernel.
    """
    _check_features(a, b)
    return _kernel_to(b)(a)


def _kernel_to(b, limit=5000):
    """a -> kernel(a, b), with what only depends on b computed once."""
    b = b[:limit]

    def k(x, y):
        return polynomial_kernel(x, y, degree=3, coef0=1)

    def within(x):
        return (k(x, x).sum() - np.sum((np.sum(x * x, 1) / x.shape[1] + 1) ** 3)) / (
            len(x) * (len(x) - 1)
        )

    within_b = within(b)
    return lambda a: float(within(a[:limit]) + within_b - 2 * k(a[:limit], b).mean())


DISTANCES = {'frechet': frechet, 'kernel': kernel}


def distances_to(
    b: np.ndarray, *, halves: int = 50, seed: int = 0, kinds: Sequence[str] = tuple(DISTANCES)
) -> Callable[[np.ndarray], dict[str, Any]]:
    """A function a -> distances of features a [N, D] from features b [M, D], each with a 95 %
    interval for the choice of a.

    The interval is value +- 1.96 s, s the standard deviation over random halves of a. These are
    drawn without replacement, since repeated images would count as agreement; a half scatters about
    the whole as the whole does about the mean for sets of N. The interval does not include the bias
    that the value has at this N.

    Args: kinds: names of DISTANCES.
    Returns: a -> {'frechet': {'value', 'interval'}, 'kernel': ...}.
    Raises: InputError for fewer than four examples.
    """
    b = np.asarray(b, np.float64)
    of_kind = {'frechet': _frechet_to, 'kernel': _kernel_to}
    to = {name: of_kind[name](b) for name in kinds}

    def distances(a):
        if len(a) < 4:
            raise InputError(f'a distance with its interval needs four examples, got {len(a)}')
        a, rng, found = np.asarray(a, np.float64), np.random.default_rng(seed), {}
        picks = [rng.permutation(len(a))[: len(a) // 2] for _ in range(halves)]
        for name, distance in to.items():
            value, margin = distance(a), 1.96 * float(np.std([distance(a[pick]) for pick in picks]))
            low = value - margin
            # the squared distance of two Gaussians is not negative, its estimates are not either
            low = max(low, 0.0) if name == 'frechet' else low
            found[name] = {'value': value, 'interval': [low, value + margin]}
        return found

    return distances


def reference_points(
    train: Examples, test: Examples, n: int, seed: int = 0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The images to measure against, and sets whose distance to them shows what a value means.

    Returns: (a random half of the training images, at most 10,000; {name: at most n images}).
      train: of the other half. test: the test split. shifted: those of `train` rolled sideways by
        an eighth of their width. noise: uniform pixels.
    """
    order = np.random.default_rng(seed).permutation(len(train.x))
    half = len(order) // 2
    other = train.x[order[half : half + n]]
    return train.x[order[:half][:10_000]], {
        'train': other,
        'test': data.subsample(test, n, seed=seed).x,
        'shifted': np.roll(other, max(1, other.shape[2] // 8), 2),
        'noise': data.uniform_noise(train._replace(x=other)).x,
    }


def _check_features(a, b):
    check_shape('b', b, (None, None), '[M, D], features')
    check_shape('a', a, (None, b.shape[1]), '[N, D], features as those of b')
    if min(len(a), len(b)) < 2:
        raise InputError(f'a distance needs two examples of each set, got {len(a)} and {len(b)}')


def coverage(probabilities: np.ndarray, real: np.ndarray) -> float:
    """How evenly samples cover the classes, relative to the data; 1 is as evenly.

        exp H(shares of the classes that the samples are given) / exp H(shares of real)

    Args:
      probabilities: [N, C] for the samples, by an independent classifier. real: labels [M].
    """

    def entropy(p):
        return -np.sum(p[p > 0] * np.log(p[p > 0]))

    shares = np.bincount(np.argmax(probabilities, 1), minlength=probabilities.shape[1]) / len(
        probabilities
    )
    return float(np.exp(entropy(shares) - entropy(np.bincount(real) / len(real))))


def inception_score(probabilities: np.ndarray, splits: int = 1) -> tuple[float, float]:
    """exp of the mean KL divergence between p(y|x) of an image and p(y) of all images.

        IS = exp(mean_x sum_y p(y|x) log (p(y|x) / p(y))),   p(y) = mean_x p(y|x)

    In [1, C]; higher where images are recognised with certainty and cover many classes. Biased
    downwards for few images, so compare at equal N.

    Args:
      probabilities: [N, C] by the Inception network (`inception.class_probs`).
      splits: into how many parts of equal size the images are cut; of one part the standard
        deviation is 0.
    Returns: (mean, standard deviation) over the parts.
    Raises: ValueError for splits outside [1, N].
    Source: Salimans et al. 2016 (10 parts of 5,000 images).
    """
    if not 1 <= splits <= len(probabilities):
        raise ValueError(f'splits must be in [1, {len(probabilities)}], got {splits}')

    def of(p):
        return float(np.exp(rel_entr(p, p.mean(0)).sum(1).mean()))

    p = np.asarray(probabilities, np.float64)
    scores = [of(part) for part in np.array_split(p, splits)]
    return float(np.mean(scores)), float(np.std(scores))
