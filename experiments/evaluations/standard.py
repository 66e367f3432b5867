"""What evaluate measures of every run on its data: accuracy, calibration, out-of-distribution
detection."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ebm_jax import data
from ebm_jax.data import Examples
from ebm_jax.evaluate import calibration, figures, ood, post_hoc, predict
from ebm_jax.images import as_float
from ebm_jax.record import atomic_write
from ebm_jax.train import TrainState
from experiments.common import sources
from experiments.common.experiment import Experiment
from experiments.common.section import (
    CALIBRATION,
    UNFAMILIAR,
    Section,
    Shown,
    share_interval,
)


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
    figure = figures.reliability(*bins, ece)
    figures.save(figure, workdir / 'reliability.png')
    shown = Shown(
        CALIBRATION,
        write_svg(workdir, figure, 'reliability'),
        'Reliability',
        'Accuracy of test examples against confidence, in 20 bins. Below the dashed line the model '
        'is too sure of itself, above it too little.',
    )
    which = 'parameters of the last step'
    if state.ema_params:
        which = 'moving average of the parameters'
    noise = f'input noise N(0, {experiment.input_noise:g}^2) as in training'
    if experiment.recipe is None:  # a run from Python
        which, noise = 'parameters as ebm_jax.load gives them', 'no input noise'
    metrics = {'test_accuracy': accuracy, 'ece': ece}
    lines = [
        f'test accuracy  {100 * accuracy:6.2f} %   {len(logits):,} test examples of '
        f'{experiment.test.name}, {noise}, {which}',
        f'ECE            {100 * ece:6.2f} %   20 equal bins of max p(y|x), the same examples; '
        'reliability.png',
    ]
    intervals = {
        'test_accuracy': share_interval(accuracy, len(logits)),
        'ece': calibration.ece_interval(logits, labels),
    }
    return Section(metrics, lines, [shown], intervals)


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
    if not experiment.scores or not outside:
        return Section({'ood': {}}, [])
    main = next(iter(experiment.scores))
    fitted = fit_post_hoc(experiment, state, main)
    scores = {**experiment.scores, **fitted.meanings}
    own = {**inside, **fitted.scores(inside)}
    lines = [
        'Out-of-distribution detection: the test set (positive class) against each set, higher '
        'score = more familiar.',
        f'AUROC with its 95 % bootstrap interval ({resamples} resamples of both sets), AUPR with '
        'either set as the positive class, FPR at 95 % TPR.',
        *(f'  {score}: {meaning}' for score, meaning in scores.items()),
        f'Images of another shape are brought to {list(experiment.test.x.shape[1:])}: largest '
        'central square, cubic filter, luma or repeated grey.',
        f'{"set":<16}{"examples":>9}  {"score":<12}{"AUROC":>7}  '
        f'{"interval":<16}{"AUPR":>6}{"out":>7}{"FPR95":>7}',
    ]
    found: dict[str, dict[str, Any]] = {}
    values: dict[str, dict[str, np.ndarray]] = {}
    for name, examples in outside.items():
        if is_test_set(examples, experiment):
            lines.append(
                f'{name}: its images are those of the test set, within the input noise: this set '
                'says nothing'
            )
        examples = data.subsample(examples, limit)
        seen = predict.predict_dataset(experiment.predict, state.eval_params, examples, seed=1)
        values[name], found[name] = {**seen, **fitted.scores(seen)}, {}
        for score in scores:
            pair = own[score], values[name][score]
            metrics = ood.detection(*pair)
            if score in experiment.scores:
                interval = ood.bootstrap_interval(*pair, resamples=resamples)
            else:
                _, low_high = ood.mean_auroc(pair[0], [pair[1]], resamples=resamples)
                interval = {'auroc': list(low_high)}
            found[name][score] = {**metrics, 'interval': interval, 'examples': len(examples.x)}
            low, high = interval['auroc']
            lines.append(
                f'{name:<16}{len(examples.x):>9,}  {score:<12}{metrics["auroc"]:>7.3f}  '
                f'[{low:.3f}, {high:.3f}]  {metrics["aupr"]:>6.3f}{metrics["aupr_out"]:>7.3f}'
                f'{metrics["fpr95"]:>7.3f}'
            )
    groups, text = grouped(own, values, tuple(scores), resamples)
    main_scores = {name: score[main] for name, score in values.items()}
    auroc = {name: score[main]['auroc'] for name, score in found.items()}
    figure = figures.score_histograms(
        figures.histograms(inside[main], main_scores), auroc, experiment.scores[main]
    )
    figures.save(figure, workdir / 'scores.png')
    shown = Shown(
        UNFAMILIAR,
        write_svg(workdir, figure, 'scores'),
        f'Scores: {experiment.scores[main]}',
        'The test set (filled) beside each out-of-distribution set (line). Test examples should '
        f'lie to the right. {" ".join(text)}',
        wide=True,
    )
    return Section({'ood': found, 'ood_groups': groups}, [*lines, *text], [shown])


def is_test_set(examples: Examples, experiment: Experiment) -> bool:
    """Whether the images, in their order, are those of the test set within the noise of the input,
    or two grey levels, and at most .1; as where symmetric data is rotated."""
    test = experiment.test.x
    if examples.x.shape != test.shape:
        return False
    difference = as_float(examples.x) - as_float(test)
    noise = min(max(experiment.input_noise, 4 / 255), 0.1)
    return bool(np.sqrt(np.mean(difference**2)) <= noise)


def fit_post_hoc(experiment: Experiment, state: TrainState, main: str) -> post_hoc.PostHoc:
    """The scores that are fitted after training, on at most 5,000 training examples."""
    some = data.subsample(experiment.train, 5000)
    found = predict.predict_dataset(experiment.predict, state.eval_params, some, seed=2)
    return post_hoc.fit(main, found, some.y)


def grouped(
    inside: Mapping[str, np.ndarray],
    outside: Mapping[str, Mapping[str, np.ndarray]],
    scores: tuple[str, ...],
    resamples: int,
) -> tuple[dict[str, Any], list[str]]:
    """({'near' or 'far': {score: mean AUROC over its sets, and interval}}, a sentence on each that
    says which score is best). Sets are in a group by their names, near/NAME and far/NAME."""
    found: dict[str, Any] = {}
    lines = []
    for kind in sources.GROUPS:
        sets = [values for name, values in outside.items() if name.startswith(f'{kind}/')]
        if not sets:
            continue
        found[kind] = {}
        for score in scores:
            mean, interval = ood.mean_auroc(
                inside[score], [values[score] for values in sets], resamples=resamples
            )
            found[kind][score] = {'auroc': mean, 'interval': list(interval)}
        best = max(scores, key=lambda score: found[kind][score]['auroc'])
        said = ', '.join(f'{score} {found[kind][score]["auroc"]:.3f}' for score in scores)
        lines.append(f'Mean AUROC over the {kind} sets: {said}. The best score is {best}.')
    return found, lines


def write_svg(workdir: pathlib.Path, figure: Figure, name: str) -> str:
    """Write a figure for the report; its file, relative to the workdir."""
    file = f'report/{name}.svg'
    (workdir / file).parent.mkdir(exist_ok=True)
    atomic_write(workdir / file, figures.svg(figure, name))
    return file
