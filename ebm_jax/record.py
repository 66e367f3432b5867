"""What a run writes to its workdir for users to look at: metrics.jsonl, TensorBoard events,
summary.json, pictures."""

import json
import math
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

from ebm_jax.errors import InputError
from ebm_jax.images import Grid, image_grid, save_grid

SUMMARY = 'summary.json'


def atomic_write(path: str | pathlib.Path, text: str) -> None:
    """Write a file completely or not at all: to a file beside it, which is then renamed."""
    path = pathlib.Path(path)
    beside = path.with_name(path.name + '.part')
    beside.write_text(text)
    os.replace(beside, path)


def with_ending(path: str | pathlib.Path, ending: str) -> pathlib.Path:
    """PATH + '.png' or the like, whatever dots PATH holds; unchanged where it ends so already."""
    path = pathlib.Path(path)
    return path if path.suffix == ending else path.with_name(path.name + ending)


def write_json(path: str | pathlib.Path, content: Any) -> None:
    """Write JSON completely or not at all; a number that is not finite is written as a string,
    since JSON has none."""
    atomic_write(path, json.dumps(_finite(content), indent=2) + '\n')


def _finite(content):
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


def read_summary(workdir: str | pathlib.Path) -> dict[str, Any]:
    """WORKDIR/summary.json, {} where there is none.

    Raises: InputError where it cannot be read.
    """
    path = pathlib.Path(workdir) / SUMMARY
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError, OSError) as error:
        raise InputError(
            f'{path} cannot be read ({error}): it is damaged; delete it, and evaluate again'
        ) from error


def update_summary(workdir: str | pathlib.Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Merge values into WORKDIR/summary.json; nested dicts are merged too.

    Returns: the whole summary.
    """
    path, summary = pathlib.Path(workdir) / SUMMARY, read_summary(workdir)

    def merge(into, new):
        for key, value in new.items():
            if isinstance(value, dict) and isinstance(into.get(key), dict):
                merge(into[key], value)
            else:
                into[key] = value

    merge(summary, content)
    write_json(path, summary)
    return summary


class Recorder:
    """metrics.jsonl and TensorBoard events of one run; lines after the step from which a run
    continues are removed."""

    def __init__(self, workdir: str | pathlib.Path, start_step: int = 0) -> None:
        self.workdir = pathlib.Path(workdir)
        path = self.workdir / 'metrics.jsonl'
        kept = (
            [line for line in path.read_text().splitlines() if _step_of(line) <= start_step]
            if path.exists()
            else []
        )
        atomic_write(path, ''.join(line + '\n' for line in kept))
        self._lines = path.open('a')
        self._events = _events(self.workdir / 'tensorboard', start_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics; a number that is not finite is written as a string, since JSON has
        none."""
        row = {
            name: value if math.isfinite(value) else str(value) for name, value in values.items()
        }
        self._lines.write(json.dumps({'step': step, **row}) + '\n')
        self._lines.flush()
        for name, value in values.items():
            if self._events is not None and math.isfinite(value):
                self._events.add_scalar(name, value, step)

    def pictures(self, step: int, grids: Mapping[str, Grid]) -> None:
        """Grids by name, as WORKDIR/samples/NAME_STEP.png and as TensorBoard images."""
        for name, grid in grids.items():
            captioned = grid._replace(caption=f'Step {step:,}. {grid.caption}')
            save_grid(self.workdir / 'samples' / f'{name}_{step:06d}.png', captioned)
            if self._events is not None:
                picture = image_grid(grid.images, grid.columns)
                self._events.add_image(name, picture, step, dataformats='HWC')

    def close(self) -> None:
        self._lines.close()
        if self._events is not None:
            self._events.close()


class NullRecorder:
    """A Recorder that writes nothing, for the processes that are not the primary one."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


def _events(folder, start_step):
    """A writer of TensorBoard events; None where tensorboardX is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:
        warnings.warn(
            'no events for TensorBoard are written: pip install tensorboardX', stacklevel=2
        )
        return None
    return SummaryWriter(str(folder), purge_step=start_step + 1)


def _step_of(line):
    """The step of a metrics line; a line cut short by a crash counts as past every step."""
    try:
        return json.loads(line)['step']
    except json.JSONDecodeError:
        return math.inf
