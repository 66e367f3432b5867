"""How good conditional samples are: an independent classifier's verdict, and how much they differ among themselves."""
import numpy as np
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC


def as_float(images):
    """uint8 images, or floats in [-1, 1] (clipped to it) -> float32 in [-1, 1], of the same shape. Raises: ValueError for NaN."""
    images = np.asarray(images)
    if np.isnan(images).any():
        raise ValueError(f'{np.isnan(images).reshape(len(images), -1).any(1).sum()} of {len(images)} images hold NaN')
    return images.astype(np.float32) / np.float32(127.5) - 1 if images.dtype == np.uint8 else np.clip(images, -1, 1).astype(np.float32)


def as_pixels(images):
    """As `as_float`, as float64 [N, D]."""
    return as_float(images).reshape(len(images), -1).astype(np.float64)


def as_unit(images):
    """As `as_pixels`, in [0, 1]."""
    return (as_pixels(images) + 1) / 2


def independent_judge(examples, *, limit=20000, components=50, seed=0):
    """A support vector machine fitted on real training images, which never saw the model: scikit-learn's SVC (RBF, C = 10).

    Images of more than 256 numbers are first brought to `components` principal components; at most `limit` random examples
    are used, to keep the fit within minutes.
    """
    pick = np.random.default_rng(seed).permutation(len(examples.x))[:limit]
    x, y = as_pixels(examples.x[pick]), examples.y[pick]
    svm = SVC(C=10)
    judge = make_pipeline(PCA(components, whiten=True, random_state=seed), svm) if x.shape[1] > 256 else make_pipeline(svm)
    return judge.fit(x, y)


def agreement(judge, images, labels):
    """Share of images that the judge gives the label they were asked for."""
    return float(np.mean(judge.predict(as_pixels(images)) == labels))


def diversity(images, labels, real):
    """Mean pairwise Euclidean distance within a class, over that of real images of the class; the mean over classes.

    Args: images [N, ...] and labels [N]: samples, at least two of each class that occurs. real: data.Examples.
    Returns: (mean, {class: ratio}). 1 is as varied as the data, 0 one picture per class.
    """
    ratios = {}
    for c in np.unique(labels):
        reference = as_pixels(real.x[real.y == c][:500])
        ratios[int(c)] = float(pdist(as_pixels(images)[labels == c]).mean() / pdist(reference).mean())
    return float(np.mean(list(ratios.values()))), ratios
