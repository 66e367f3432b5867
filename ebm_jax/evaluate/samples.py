"""Quality of conditional samples: their accuracy under a reference classifier, and their
diversity."""

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import SVC

from ebm_jax.data import Examples
from ebm_jax.errors import InputError
from ebm_jax.images import as_pixels


def fit_reference_classifier(
    examples: Examples, *, limit: int = 20000, components: int = 50, seed: int = 0
) -> Pipeline:
    """A support vector machine fitted to real training images, independent of the model:
    scikit-learn's SVC (RBF, C = 10).

    Images of more than 256 numbers are first brought to `components` principal components, or to as
    many as the examples span; at most `limit` random examples are used, to keep the fit within
    minutes.

    Raises: InputError for examples of one class.
    """
    pick = np.random.default_rng(seed).permutation(len(examples.x))[:limit]
    x, y = as_pixels(examples.x[pick]), examples.y[pick]
    if len(np.unique(y)) < 2:
        raise InputError(f'{examples.name} has one class alone: a classifier needs two')
    svm = SVC(C=10)
    if x.shape[1] <= 256:
        return make_pipeline(svm).fit(x, y)
    projection = PCA(min(components, len(x) - 1), whiten=True, random_state=seed)
    return make_pipeline(projection, svm).fit(x, y)


def recognition_accuracy(classifier: Pipeline, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images that the reference classifier gives the label they were asked for."""
    return float(np.mean(classifier.predict(as_pixels(images)) == labels))


def diversity(
    images: np.ndarray, labels: np.ndarray, real: Examples
) -> tuple[float, dict[int, float]]:
    """Mean pairwise Euclidean distance within a class, over that of real images of the class; the
    mean over classes.

    Args:
      images, labels: [N, ...] and [N], samples, at least two of each class that occurs.
      real: data.Examples.
    Returns: (mean, {class: ratio}). 1 is as varied as the data, 0 one picture per class.
    """
    ratios = {}
    for c in np.unique(labels):
        reference = as_pixels(real.x[real.y == c][:500])
        ratios[int(c)] = float(
            pdist(as_pixels(images)[labels == c]).mean() / pdist(reference).mean()
        )
    return float(np.mean(list(ratios.values()))), ratios
