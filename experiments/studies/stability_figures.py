"""Figures of the stability study."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from ebm_jax.evaluate import figures
from experiments.studies.systems import Grid, Setting, name_of

Row = dict[str, Any]  # what is kept of a run


def rows_of(found: dict[str, Any], some: Iterable[Setting], c: Grid) -> list[Row]:
    """What is kept of the runs of some settings, with every seed."""
    return [found['runs'][name_of(one, seed)] for one in some for seed in range(c.seeds)]


@figures.styled
def heat_maps(found: dict[str, Any], c: Grid) -> Figure:
    """Share of runs that diverged, learning rate across and K down, one map for each system."""

    def diverged(system, num_steps, rate):
        some = [Setting(system, num_steps, rate, size) for size in c.step_sizes]
        return np.mean([row['diverged_at'] is not None for row in rows_of(found, some, c)])

    figure = Figure(figsize=(3.2 * len(c.systems), 3))
    axes = figure.subplots(1, len(c.systems), squeeze=False)[0]
    for axis, system in zip(axes, c.systems):
        shares = np.array(
            [[diverged(system, k, rate) for rate in c.learning_rates] for k in c.num_steps]
        )
        axis.imshow(shares, vmin=0, vmax=1, cmap='Reds')
        axis.grid(False)
        for (row, column), value in np.ndenumerate(shares):
            color = 'white' if value > 0.6 else 'black'
            axis.text(column, row, f'{value:.0%}', ha='center', va='center', color=color)
        axis.set(
            title=f'{system}: runs that diverged',
            xlabel='learning rate',
            ylabel='K',
            xticks=range(len(c.learning_rates)),
            yticks=range(len(c.num_steps)),
        )
        axis.set_xticklabels([f'{rate:g}' for rate in c.learning_rates])
        axis.set_yticklabels(c.num_steps)
    return figure


def survival(rows: Sequence[Row], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Kaplan and Meier's estimate of the share of runs that have not diverged.

    Returns: (steps [n] from 0 to all, [share, lower and upper end of its 95 % interval by the
      log-log transform] [3, n] from each of them on). The interval is nan where no run or all runs
      have diverged: it is not defined there.
    """
    diverged = [row['diverged_at'] for row in rows if row['diverged_at'] is not None]
    ended = [steps] * (len(rows) - len(diverged))
    found = stats.ecdf(stats.CensoredData(uncensored=diverged, right=ended)).sf
    with warnings.catch_warnings(action='ignore', category=RuntimeWarning):  # 0 / 0 at 1
        between = found.confidence_interval(0.95, method='log-log')
    at = np.concatenate([[0], found.quantiles, [steps]])
    curves = [
        np.concatenate([[first], curve, curve[-1:]])
        for first, curve in (
            (1.0, found.probabilities),
            (np.nan, between.low.probabilities),
            (np.nan, between.high.probabilities),
        )
    ]
    return at, np.stack(curves)


@figures.styled
def survival_curves(found: dict[str, Any], c: Grid) -> Figure:
    """The share of all runs of each system that have not diverged, by training step."""
    figure = Figure(figsize=(6, 3.2))
    draw_survival(figure.subplots(), found, c)
    return figure


def draw_survival(axis: Axes, found: dict[str, Any], c: Grid) -> None:
    """The curves of a study, each with its 95 % band."""
    for i, system in enumerate(c.systems):
        rows = rows_of(found, c.of_system(system), c)
        at, (share_left, low, high) = survival(rows, c.steps)
        axis.step(at, share_left, where='post', color=f'C{i}', label=f'{system} ({len(rows)} runs)')
        axis.fill_between(at, low, high, step='post', color=f'C{i}', alpha=0.2, linewidth=0)
    axis.set(xlabel='training step', ylabel='share of all runs not diverged', ylim=(-0.03, 1.03))
    axis.legend()
