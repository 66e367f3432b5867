"""Out-of-distribution detection from one score per example: higher means more familiar."""

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from tqdm import tqdm


def detection(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """How well a score tells in-distribution examples (the positive class) from others.

    Args: inside [N], outside [M]: scores.
    Returns: {'auroc', 'aupr', 'fpr95'}: area under ROC; average precision; share of outside
      examples that pass at the threshold that lets 95 % of the inside pass.
    """
    truth = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    scores = np.r_[inside, outside].astype(np.float64)
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    return {
        'auroc': float(roc_auc_score(truth, scores)),
        'aupr': float(average_precision_score(truth, scores)),
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
    """Percentile interval of each figure of `detection`, both sets resampled: {name: [low,
    high]}."""
    rng = np.random.default_rng(seed)
    draws = [
        detection(rng.choice(inside, len(inside)), rng.choice(outside, len(outside)))
        for _ in tqdm(range(resamples), desc='bootstrap', delay=2, leave=False)
    ]
    tails = [50 * (1 - level), 50 * (1 + level)]
    return {
        name: [float(v) for v in np.percentile([draw[name] for draw in draws], tails)]
        for name in draws[0]
    }
