"""What evaluate measures of every run on its data: accuracy, calibration, out-of-distribution
detection."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ebm_jax import data
from ebm_jax.data import Examples
from ebm_jax.evaluate import calibration, ood, predict, report
from ebm_jax.train import TrainState
from experiments.common.experiment import Experiment

Section = tuple[dict[str, Any], list[str]]  # (metrics, lines for people)


def classification(
    workdir: pathlib.Path,
    experiment: Experiment,
    state: TrainState,
    inside: Mapping[str, np.ndarray],
) -> Section:
    """Accuracy and calibration on the test set."""
    logits, labels = inside['logits'], experiment.test.y
    accuracy = calibration.accuracy(logits, labels)
    ece = calibration.expected_calibration_error(logits, labels)
    bins = calibration.reliability(logits, labels)
    report.reliability_plot(workdir / 'reliability.png', *bins, ece)
    which = 'parameters of the last step'
    if state.ema_params:
        which = 'moving average of the parameters'
    return {'test_accuracy': accuracy, 'ece': ece}, [
        f'test accuracy  {100 * accuracy:6.2f} %   {len(logits):,} test examples of '
        f'{experiment.test.name}, input noise N(0, {experiment.input_noise:g}^2) as in training, '
        f'{which}',
        f'ECE            {100 * ece:6.2f} %   20 equal bins of max p(y|x), the same examples; '
        'reliability.png',
    ]


def detection(
    workdir: pathlib.Path,
    experiment: Experiment,
    state: TrainState,
    inside: Mapping[str, np.ndarray],
    outside: Mapping[str, Examples],
    *,
    limit: int,
    resamples: int,
) -> Section:
    """How well each score tells the test set from the out-of-distribution sets.

    Args:
      workdir: folder for scores.png.
      experiment: the experiment of the run.
      state: its trained state.
      inside: scores of the test set.
      outside: out-of-distribution sets by name.
      limit: maximum number of examples of each set.
      resamples: bootstrap resamples.
    """
    if not experiment.scores:
        return {'ood': {}}, []
    lines = [
        'Out-of-distribution detection: the test set (positive class) against each set, higher '
        'score = more familiar.',
        f'AUROC with its 95 % bootstrap interval ({resamples} resamples of both sets), AUPR, FPR '
        'at 95 % TPR.',
        *(f'  {score}: {meaning}' for score, meaning in experiment.scores.items()),
        f'{"set":<16}{"examples":>9}  {"score":<10}{"AUROC":>7}  '
        f'{"interval":<16}{"AUPR":>6}{"FPR95":>7}',
    ]
    main = next(iter(experiment.scores))
    found: dict[str, dict[str, Any]] = {}
    main_scores = {}
    for name, examples in outside.items():
        examples = data.subsample(examples, limit)
        scores = predict.predict_dataset(experiment.predict, state.eval_params, examples, seed=1)
        main_scores[name], found[name] = scores[main], {}
        for score in experiment.scores:
            pair = inside[score], scores[score]
            metrics = ood.detection(*pair)
            interval = ood.bootstrap_interval(*pair, resamples=resamples)
            found[name][score] = {**metrics, 'interval': interval, 'examples': len(examples.x)}
            low, high = interval['auroc']
            lines.append(
                f'{name:<16}{len(examples.x):>9,}  {score:<10}{metrics["auroc"]:>7.3f}  '
                f'[{low:.3f}, {high:.3f}]  {metrics["aupr"]:>6.3f}{metrics["fpr95"]:>7.3f}'
            )
    if outside:
        title = experiment.scores[main]
        report.score_histograms(workdir / 'scores.png', inside[main], main_scores, title)
    return {'ood': found}, lines
