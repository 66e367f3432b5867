"""Out-of-distribution detection from one score per example: higher means more familiar."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from tqdm.auto import tqdm

from ebm_jax.shapes import check_shape


def detection(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """How well a score tells in-distribution examples (the positive class) from others.

    Args: inside [N], outside [M]: scores.
    Returns: {'auroc', 'aupr', 'aupr_out', 'fpr95'}: area under ROC; average precision with the
      inside, and with the outside, as the positive class; share of outside examples that pass at
      the threshold that lets 95 % of the inside pass.
    Raises: ValueError for other shapes.
    """
    check_shape('inside', inside, (None,), '[N], one score for each example')
    check_shape('outside', outside, (None,), '[M], one score for each example')
    truth = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    scores = np.r_[inside, outside].astype(np.float64)
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    return {
        'auroc': float(roc_auc_score(truth, scores)),
        'aupr': float(average_precision_score(truth, scores)),
        'aupr_out': float(average_precision_score(1 - truth, -scores)),
        'fpr95': float(fpr[np.searchsorted(tpr, 0.95)]),
    }


def bootstrap_interval(
    inside: np.ndarray,
    outside: np.ndarray,
    *,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Percentile interval of each metric of `detection`, both sets resampled (scipy's bootstrap).

    Args: inside [N], outside [M]: scores. level: in (0, 1).
    Returns: {name: [low, high]}.
    """
    names: list[str] = []
    with tqdm(total=resamples, desc='bootstrap', delay=2, leave=False) as progress:

        def metrics(inside, outside):
            found = detection(inside, outside)
            names[:] = found
            progress.update()
            return np.array(list(found.values()))

        result = bootstrap(
            (inside, outside),
            metrics,
            n_resamples=resamples,
            vectorized=False,
            method='percentile',
            confidence_level=level,
            rng=seed,
        )
    low, high = result.confidence_interval
    return {name: [float(low[i]), float(high[i])] for i, name in enumerate(names)}


def mean_auroc(
    inside: np.ndarray, outside: Sequence[np.ndarray], *, resamples: int = 200, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Mean of the AUROC over several sets, with its 95 % percentile interval; all sets resampled.

    Args: inside [N]. outside: [M_i] each, at least one.
    """

    def mean(inside, *outside):
        return np.mean(
            [
                roc_auc_score(np.repeat([1, 0], [len(inside), len(one)]), np.r_[inside, one])
                for one in outside
            ]
        )

    found = bootstrap(
        (inside, *outside),
        mean,
        n_resamples=resamples,
        vectorized=False,
        method='percentile',
        rng=seed,
    ).confidence_interval
    return float(mean(inside, *outside)), (float(found.low), float(found.high))
