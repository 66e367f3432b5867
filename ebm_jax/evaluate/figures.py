"""Figures in one style: the reliability diagram, histograms of the scores, curves of a run.

Each is drawn by a function that returns a matplotlib Figure; `save` writes it as PNG, `svg` gives
it as text for a page, where its lines and letters take the colour of the page's text.
"""

import functools
import io
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

# Okabe & Ito 2008: told apart with every kind of colour vision, on white and on black
COLOURS = ('#0072B2', '#E69F00', '#009E73', '#D55E00', '#CC79A7', '#56B4E9', '#999999')
INK = '#2b2b2b'
STYLE: Any = {
    'axes.prop_cycle': cycler(color=COLOURS),
    'font.family': 'sans-serif',
    'font.size': 9,
    'axes.titlesize': 9.5,
    'axes.titlelocation': 'left',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.alpha': 0.25,
    'grid.linewidth': 0.6,
    'legend.frameon': False,
    'text.color': INK,
    'axes.labelcolor': INK,
    'axes.edgecolor': INK,
    'xtick.color': INK,
    'ytick.color': INK,
    'figure.constrained_layout.use': True,
    'svg.fonttype': 'none',
}
P = ParamSpec('P')
R = TypeVar('R')


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """The function that draws, in the style of all figures."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def save(figure: Figure, path: str | pathlib.Path, dpi: int = 110) -> None:
    """Write a figure as PNG; its folder is made."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)


def svg(figure: Figure, name: str) -> str:
    """A figure as an <svg> element without background, whose dark parts have the colour of the
    text around it. name: unlike those of the other figures of a page."""
    text = io.StringIO()
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': name}):
        figure.savefig(text, format='svg', transparent=True, metadata={'Date': None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index('<svg') :]
    drawn = re.sub(r'<metadata>.*?</metadata>', '', drawn, flags=re.DOTALL)
    # identifiers are those of the page
    drawn = re.sub(r'(id="|url\(#|href="#)', rf'\g<1>{name}-', drawn)
    return drawn.replace(INK, 'currentColor')


@styled
def reliability(
    confidence: np.ndarray, accuracy: np.ndarray, share: np.ndarray, ece: float
) -> Figure:
    """Accuracy against confidence per bin, with the share of examples in each: [bins] each."""
    figure = Figure(figsize=(4.6, 4.8))
    top, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    top.plot([0, 1], [0, 1], '--', color='grey', label='calibrated: on this line')
    top.plot(confidence, accuracy, 'o-', ms=4, label=f'model, ECE {100 * ece:.2f} %')
    top.set(ylabel='accuracy', xlim=(0, 1), ylim=(0, 1.02), title='Are its confidences right?')
    top.legend()
    below.bar(confidence, share, width=0.04)
    below.set(xlabel='confidence max p(y|x)', ylabel='share of\nexamples')
    return figure


def histograms(
    inside: np.ndarray, outside: Mapping[str, np.ndarray], bins: int = 50
) -> dict[str, list[float]]:
    """Densities of one score in the same bins: {'edges': [bins + 1], 'test': [bins], name: ...}.

    Args: inside: of the test set [N]. outside: {name: [M]}. Values beyond the 0.5 and 99.5
      percentiles of all are counted in the outermost bins.
    """
    low, high = np.percentile(np.concatenate([inside, *outside.values()]), [0.5, 99.5])
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    found = {'edges': edges.tolist()}
    for name, values in {'test': inside, **outside}.items():
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges, density=True)
        found[name] = counts.tolist()
    return found


@styled
def score_histograms(
    densities: Mapping[str, Sequence[float]], auroc: Mapping[str, float], score: str
) -> Figure:
    """One panel for each out-of-distribution set, next to the test set.

    Args: densities: of `histograms`. auroc: {name: AUROC}. score: what the axis shows.
    """
    names = [name for name in densities if name not in ('edges', 'test')]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(2.9 * columns, 1.9 * rows + 0.4))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).reshape(-1)
    edges = np.asarray(densities['edges'])
    for axis, name in zip(axes, names):
        axis.stairs(densities['test'], edges, fill=True, alpha=0.35, color=COLOURS[0], label='test')
        axis.stairs(densities[name], edges, color=COLOURS[3], lw=1.4, label=name)
        axis.set_title(f'{name}: AUROC {auroc[name]:.3f}')
        axis.tick_params(labelbottom=True)
        axis.legend(fontsize=7.5)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    figure.supxlabel(f'{score}; apart is good', fontsize=9, color=INK)
    figure.supylabel('density', fontsize=9, color=INK)
    return figure


@styled
def robustness(
    accuracy: Mapping[str, Mapping[float, float]],
    intervals: Mapping[str, Mapping[float, tuple[float, float]]],
) -> Figure:
    """Accuracy under attack against its radius, one panel for each norm.

    Args: accuracy: {norm: {radius: share}}; intervals: the same of (low, high).
    """
    figure = Figure(figsize=(4.2 * len(accuracy), 2.8))
    for axis, (norm, shares) in zip(
        figure.subplots(1, len(accuracy), squeeze=False)[0], accuracy.items()
    ):
        radii = list(shares)
        low, high = zip(*intervals[norm].values())
        axis.fill_between(radii, low, high, alpha=0.25, label='95 % interval')
        axis.plot(radii, list(shares.values()), 'o-', ms=4)
        axis.set(
            title=f'Attacks in {norm}: high for long is good',
            xlabel='radius, pixels in [0, 1]',
            ylabel='accuracy',
            ylim=(0, 1.02),
        )
        axis.legend()
    return figure


Panel = tuple[str, str, Sequence[str]]  # (title, label of the y axis, names of metrics)


@styled
def curves(
    rows: Sequence[Mapping[str, Any]], panels: Sequence[Panel], recoveries: Sequence[int] = ()
) -> Figure | None:
    """Metrics over training steps; None where there are none of them.

    Args:
      rows: of metrics.jsonl. panels: those that are empty are left out.
      recoveries: steps from which a diverged run continued, marked by a line.
    """
    points = {
        name: [(row['step'], row[name]) for row in rows if _number(row.get(name))]
        for _, _, names in panels
        for name in names
    }
    panels = [
        (title, label, [name for name in names if points[name]])
        for title, label, names in panels
        if any(points[name] for name in names)
    ]
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.5 * lines))
    axes = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    for axis, (title, label, names) in zip(axes, panels):
        for name in names:
            few = len(points[name]) < 10
            axis.plot(*zip(*points[name]), label=name, lw=1.3, marker='.' if few else None)
        for i, step in enumerate(recoveries):
            axis.axvline(
                step, color=COLOURS[3], ls=':', lw=1.2, label='recovery' if i == 0 else None
            )
        axis.set(title=title, xlabel='training step', ylabel=label)
        axis.legend(fontsize=7.5)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure


def _number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)
