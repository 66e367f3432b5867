"""What a section of `evaluate` returns."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy import stats

from ebm_jax.images import Grid, save_grid

SAMPLES, GENERATOR, SPEECH = 'Samples', 'Generator', 'Speech'
CALIBRATION, UNFAMILIAR = 'Classification', 'Unfamiliar data'
ROBUSTNESS = 'Adversarial robustness'
HEADINGS = SAMPLES, GENERATOR, SPEECH, CALIBRATION, UNFAMILIAR, ROBUSTNESS  # of the report


class Shown(NamedTuple):
    """Something to look at or to listen to, for the report of a run."""

    group: str  # the heading under which it stands: one of HEADINGS, or its own
    file: str  # in the workdir: .png, .svg or .wav
    title: str
    caption: str  # what is to be seen; also the alternative text
    frames: Sequence[str] = ()  # of a strip of frames below each other: what each shows
    wide: bool = False  # over the whole width of the page


class Section(NamedTuple):
    """Metrics for evaluation.json (numbers among them reach summary.json), lines for people,
    intervals of the metrics, and what to show."""

    metrics: Mapping[str, Any]
    lines: Sequence[str]
    shown: Sequence[Shown] = ()
    intervals: Mapping[str, tuple[float, float]] = {}

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**self._asdict(), 'shown': [shown._asdict() for shown in self.shown]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> 'Section':
        """The section of `to_json`."""
        shown = [Shown(**one) for one in content['shown']]
        intervals = {name: (low, high) for name, (low, high) in content['intervals'].items()}
        return cls(content['metrics'], content['lines'], shown, intervals)


def save_shown(workdir: pathlib.Path, group: str, name: str, title: str, grid: Grid) -> Shown:
    """Write a grid to samples/NAME.png, and for the report, which has its caption as text, without
    it."""
    save_grid(workdir / 'samples' / f'{name}.png', grid)
    file = f'report/{name}.png'
    save_grid(workdir / file, grid._replace(caption=''))
    return Shown(group, file, title, grid.caption)


def share_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n examples."""
    found = stats.binomtest(round(share * n), n).proportion_ci(0.95, method='wilson')
    return float(found.low), float(found.high)
