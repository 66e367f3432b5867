"""Figures: the reliability plot, histograms of the scores, curves of a run."""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure


def reliability_plot(
    path: str | pathlib.Path,
    confidence: np.ndarray,
    accuracy: np.ndarray,
    share: np.ndarray,
    ece: float,
) -> None:
    """Accuracy against confidence per bin, with the share of examples in each."""
    figure = Figure(figsize=(5, 6), layout='tight')
    top, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    top.plot([0, 1], [0, 1], '--', color='grey', label='perfectly calibrated')
    top.plot(confidence, accuracy, 'o-', label=f'model, ECE {100 * ece:.2f} %')
    top.set(ylabel='accuracy', xlim=(0, 1), ylim=(0, 1.02))
    top.legend()
    below.bar(confidence, share, width=0.04)
    below.set(xlabel='confidence max p(y|x)', ylabel='share of examples')
    figure.savefig(path, dpi=110)


def score_histograms(
    path: str | pathlib.Path, inside: np.ndarray, outside: Mapping[str, np.ndarray], score: str
) -> None:
    """Histograms of one score on the test set and on each out-of-distribution set. inside [N];
    outside {name: [M]}."""
    figure = Figure(figsize=(7, 4), layout='tight')
    axis = figure.subplots()
    low, high = np.percentile(np.concatenate([inside, *outside.values()]), [0.5, 99.5])
    bins = np.linspace(low, high, 60).tolist()
    for name, values in {'test': inside, **outside}.items():
        axis.hist(
            np.clip(values, low, high),
            bins,
            density=True,
            histtype='step' if name != 'test' else 'stepfilled',
            alpha=0.6 if name == 'test' else 1,
            label=name,
        )
    axis.set(xlabel=score, ylabel='density')
    axis.legend()
    figure.savefig(path, dpi=110)


def curves(
    path: str | pathlib.Path, metrics_file: str | pathlib.Path, panels: Sequence[Sequence[str]]
) -> None:
    """Curves of metrics.jsonl over steps. panels: a list of lists of metric names, one panel each;
    absent ones are left out, and nothing is written where all are absent."""
    rows = [json.loads(line) for line in pathlib.Path(metrics_file).read_text().splitlines()]
    points = {
        name: [(row['step'], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
        for names in panels
        for name in names
    }
    panels = [
        [name for name in names if points[name]]
        for names in panels
        if any(points[name] for name in names)
    ]
    if not panels:
        return
    figure = Figure(figsize=(4.5 * len(panels), 3.5), layout='tight')
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, names in zip(axes[0], panels):
        for name in names:
            axis.plot(
                *zip(*points[name]), label=name, marker='.' if len(points[name]) < 10 else None
            )
        axis.set_xlabel('step')
        axis.legend()
    figure.savefig(path, dpi=110)
