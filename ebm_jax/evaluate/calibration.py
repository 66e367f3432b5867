"""Accuracy and calibration of class probabilities."""

import numpy as np
from scipy import stats
from sklearn.calibration import calibration_curve

from ebm_jax.shapes import check_shape


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of examples whose largest logit is their label. logits [N, C], labels [N] -> float in
    [0, 1]."""
    _check(logits, labels)
    return float(np.mean(np.argmax(logits, 1) == labels))


def reliability(
    logits: np.ndarray, labels: np.ndarray, bins: int = 20
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence max_y p(y|x) against accuracy in equal bins of [0, 1].

    Args: logits [N, C], labels int [N]. bins: >= 1.
    Returns: (confidence, accuracy, share of examples) of each bin that is not empty.
    Raises: ValueError for other shapes.
    """
    _check(logits, labels)
    logits = np.asarray(logits, np.float64)
    p = np.exp(logits - logits.max(1, keepdims=True))
    confidence = (p / p.sum(1, keepdims=True)).max(1)
    correct = np.argmax(logits, 1) == labels
    edges = np.linspace(0, 1, bins + 1)
    hit, mean_confidence = calibration_curve(correct, confidence, n_bins=bins, strategy='uniform')
    # as calibration_curve bins them
    counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=bins)
    return mean_confidence, hit, counts[counts > 0] / len(labels)


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 20) -> float:
    """ECE = sum_b (n_b / N) |accuracy_b - confidence_b|, equal bins.

    Source: Guo et al. 2017; 20 bins as in Grathwohl et al. 2020.
    """
    confidence, hit, share = reliability(logits, labels, bins)
    return float(np.sum(share * np.abs(hit - confidence)))


def ece_interval(
    logits: np.ndarray, labels: np.ndarray, bins: int = 20, resamples: int = 200
) -> tuple[float, float]:
    """95 % interval of the ECE over examples, by scipy's basic bootstrap, which takes off the bias
    that resampling adds to an absolute value:

        [max(0, 2 ECE - q_.975), max(0, 2 ECE - q_.025)],   q: quantiles over resamples

    Args: logits [N, C], labels int [N], N > 1.
    Raises: ValueError for other shapes.
    """
    _check(logits, labels)

    def ece(rows):
        return expected_calibration_error(logits[rows], labels[rows], bins)

    found = stats.bootstrap(
        (np.arange(len(labels)),),
        ece,
        vectorized=False,
        method='basic',
        n_resamples=resamples,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return max(0.0, float(found.low)), max(0.0, float(found.high))


def _check(logits, labels):
    check_shape('logits', logits, (None, None), '[N, C]')
    check_shape('labels', labels, (len(logits),), '[N], one for each row of the logits [N, C]')
