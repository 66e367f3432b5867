"""Distances between two sets of images in the features of an extractor (see `extractor`).

Only with the FID Inception network are they what the field calls FID and KID; in the features of a classifier trained on the data set
they are named Frechet and kernel distance, and compare only under the same extractor and numbers of images.
"""
import numpy as np
from scipy.linalg import eigh
from sklearn.metrics.pairwise import polynomial_kernel
from tqdm import tqdm

from ebm_jax import data


def frechet(a, b):
    """Frechet distance of the Gaussians that fit two sets of features: |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    Args: a [N, D], b [M, D], N, M >= 2. Returns: float >= 0. Biased upwards by about D / N, so compare at equal N.
    Source: Dowson & Landau 1982; Heusel et al. 2017.
    """
    return frechet_of_moments(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def frechet_of_moments(mean_a, cov_a, mean_b, cov_b):
    """As `frechet`, from means [D] and covariances [D, D]."""
    values, vectors = eigh(np.atleast_2d(cov_a))
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    # tr (S_a S_b)^(1/2) = tr (S_a^(1/2) S_b S_a^(1/2))^(1/2), and that matrix is symmetric
    cross = np.sqrt(np.maximum(eigh(root @ np.atleast_2d(cov_b) @ root, eigvals_only=True), 0)).sum()
    return max(float(np.sum((mean_a - mean_b) ** 2) + np.trace(np.atleast_2d(cov_a)) + np.trace(np.atleast_2d(cov_b)) - 2 * cross), 0.0)


def kernel(a, b, *, block=1000, seed=0):
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, unbiased: 0 in the mean for sets of one law.

    Args: a [N, D], b [M, D]; larger sets are cut at random into blocks of at most `block`, whose values are averaged.
    Source: Binkowski et al. 2018; scikit-learn's kernel.
    """
    size = min(len(a), len(b), block)
    rng = np.random.default_rng(seed)
    a, b = a[rng.permutation(len(a))], b[rng.permutation(len(b))]
    values = [_mmd(a[i:i + size], b[i:i + size]) for i in range(0, min(len(a), len(b)) - size + 1, size)]
    return float(np.mean(values))


def _mmd(a, b):
    n, dots = len(a), lambda x, y: polynomial_kernel(x, y, degree=3, coef0=1)
    aa, bb = dots(a, a), dots(b, b)
    return (aa.sum() - np.trace(aa) + bb.sum() - np.trace(bb)) / (n * (n - 1)) - 2 * dots(a, b).mean()


DISTANCES = {'frechet': frechet, 'kernel': kernel}


def distances(a, b, *, resamples=100, seed=0):
    """Both distances of features a [N, D] from features b [M, D], each with a 95 % interval for the choice of a.

    The interval is value +- 1.96 s, s the standard deviation over random halves of a: drawn without replacement, since repeated
    images would count as agreement; a half scatters about the whole as the whole does about its law.
    Returns: {'frechet': {'value', 'interval'}, 'kernel': ...}.
    """
    rng = np.random.default_rng(seed)
    moments_b = b.mean(0), np.cov(b, rowvar=False)
    halves = {name: [] for name in DISTANCES}
    for _ in tqdm(range(resamples), desc='intervals of distances', delay=2, leave=False):
        half = a[rng.permutation(len(a))[:len(a) // 2]]
        halves['frechet'].append(frechet_of_moments(half.mean(0), np.cov(half, rowvar=False), *moments_b))
        halves['kernel'].append(kernel(half, b, block=500))
    found = {}
    for name, values in halves.items():
        value, margin = DISTANCES[name](a, b), 1.96 * float(np.std(values))
        found[name] = {'value': value, 'interval': [value - margin, value + margin]}
    return found


def reference_and_known_cases(train, test, n, seed=0):
    """The images to measure against, and sets whose distance to them says what a figure means.

    Returns: (a random half of the training images, at most 10,000; {name: at most n images}). train: of the other half. test: the test
      split. shifted: those of `train` rolled sideways by an eighth of their width. noise: uniform pixels.
    """
    order = np.random.default_rng(seed).permutation(len(train.x))
    half = len(order) // 2
    other = train.x[order[half:half + n]]
    return train.x[order[:half][:10_000]], {
        'train': other, 'test': data.some(test, n, seed=seed).x, 'shifted': np.roll(other, max(1, other.shape[2] // 8), 2),
        'noise': data.uniform_noise(train._replace(x=other)).x}


def coverage(probabilities, real):
    """How evenly samples cover the classes: exp H(shares of the classes that they are given) / exp H(shares of real), 1 as the data.

    Args: probabilities: [N, C] of an independent classifier for the samples. real: labels [M].
    """
    entropy = lambda p: -np.sum(p[p > 0] * np.log(p[p > 0]))
    shares = np.bincount(np.argmax(probabilities, 1), minlength=probabilities.shape[1]) / len(probabilities)
    return float(np.exp(entropy(shares) - entropy(np.bincount(real) / len(real))))

