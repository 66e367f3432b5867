"""What a run writes to its workdir for users to look at: metrics.jsonl, TensorBoard events,
summary.json, pictures."""

import json
import math
import os
import pathlib
import shutil
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from ebm_jax.errors import InputError
from ebm_jax.images import Grid, image_grid, save_grid

SUMMARY = 'summary.json'
DAMAGED = 'damaged'  # folder of a workdir for what could not be read


def set_aside(path: pathlib.Path, why: str, *, keep: bool = False) -> None:
    """Move what is at a path, file or folder, to the folder `damaged` beside it, and say so.

    Args: why: the end of the sentence "PATH ...". keep: copy it instead.
    """
    folder = path.parent / DAMAGED
    folder.mkdir(exist_ok=True)
    target = folder / f'{path.name}_{len(list(folder.iterdir()))}'
    shutil.copy2(path, target) if keep else path.rename(target)
    print(f'{path} {why}: what was there is now {target}', file=sys.stderr)


def atomic_write(path: str | pathlib.Path, text: str) -> None:
    """Write a file completely or not at all: to a file beside it, which is then renamed. A folder
    of that name is set aside."""
    path = pathlib.Path(path)
    if path.is_dir():
        set_aside(path, 'is a folder and not a file')
    beside = path.with_name(path.name + '.part')
    try:
        beside.write_text(text)
    except OSError:  # on a full disk, a part of it takes room and is of no use
        beside.unlink(missing_ok=True)
        raise
    os.replace(beside, path)


def with_ending(path: str | pathlib.Path, ending: str) -> pathlib.Path:
    """PATH + '.png' or the like, whatever dots PATH holds; unchanged where it ends so already."""
    path = pathlib.Path(path)
    return path if path.suffix == ending else path.with_name(path.name + ending)


def write_json(path: str | pathlib.Path, content: Any) -> None:
    """Write JSON completely or not at all; a number that is not finite is written as a string,
    since JSON has none; arrays become lists.

    Raises: InputError for what JSON cannot hold.
    """
    atomic_write(path, as_json(content) + '\n')


def as_json(content: Any) -> str:
    """What `write_json` writes. Raises: InputError."""
    try:
        return json.dumps(_finite(content), indent=2)
    except TypeError as error:
        raise InputError(
            f'settings and metrics must be numbers, text, lists and dicts of these: {error}'
        ) from error


def _finite(content):
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, os.PathLike):
        return str(content)
    if isinstance(content, np.floating):
        return _finite(float(content))
    if isinstance(content, np.generic | np.ndarray | jax.Array):
        return _finite(content.tolist())
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: pathlib.Path, absent: Any) -> tuple[Any, str]:
    """(content, '') of a file that can be made again; (absent, '') where there is none, and
    (absent, what is wrong) where it cannot be read or is not of the type of `absent`."""
    if not path.exists():
        return absent, ''
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        return absent, f'cannot be read ({error})'
    if not isinstance(content, type(absent)):
        return absent, f'holds a {type(content).__name__}, not a {type(absent).__name__}'
    return content, ''


def read_or_leave_out(path: pathlib.Path, absent: Any) -> Any:
    """The content of a file that can be made again; `absent` where there is none, and with a
    warning where it is damaged."""
    content, problem = read_json(path, absent)
    if problem:
        warnings.warn(f'{path} {problem} and is left out', stacklevel=2)
    return content


def read_summary(workdir: str | pathlib.Path) -> dict[str, Any]:
    """WORKDIR/summary.json, see `read_or_leave_out`."""
    return read_or_leave_out(pathlib.Path(workdir) / SUMMARY, {})


def update_summary(
    workdir: str | pathlib.Path, content: Mapping[str, Any], without: Iterable[str] = ()
) -> dict[str, Any]:
    """Merge values into WORKDIR/summary.json; nested dicts are merged too. A damaged one is set
    aside and begun anew.

    Args: without: names whose earlier values are removed first.
    Returns: the whole summary.
    """
    path = pathlib.Path(workdir) / SUMMARY
    summary, problem = read_json(path, {})
    if problem:
        set_aside(path, f'{problem} and is begun anew')

    for name in without:
        summary.pop(name, None)

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
        for name in ('samples', 'tensorboard'):
            if (self.workdir / name).is_file():
                set_aside(self.workdir / name, 'is a file and not a folder')
        path = self.workdir / 'metrics.jsonl'
        rows, problem = read_rows(path)
        if problem and path.is_file():
            set_aside(path, f'{problem}; the lines that can be read stay', keep=True)
        kept = [json.dumps(row) for row in rows if row['step'] <= start_step]
        atomic_write(path, ''.join(line + '\n' for line in kept))
        self._lines = path.open('a')
        self._events = _events(self.workdir / 'tensorboard', start_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics; a number that is not finite is written as a string, since JSON has
        none."""
        values = {name: float(value) for name, value in values.items()}
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


def read_rows(path: str | pathlib.Path) -> tuple[list[dict[str, Any]], str]:
    """(the rows of metrics.jsonl, what is wrong with it): [] where there is none. Lines that hold
    no row are left out; a last line that was cut short by a crash is no damage."""
    path = pathlib.Path(path)
    if not path.exists():
        return [], ''
    try:
        text = path.read_text(errors='replace')
    except OSError as error:
        return [], f'cannot be read ({error})'
    lines, rows, bad = text.splitlines(), [], []
    for i, line in enumerate(lines):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict) and isinstance(row.get('step'), int):
            rows.append(row)
        elif i < len(lines) - 1 or row is not None:
            bad.append(i + 1)
    return rows, f'has no row in line {bad[0]}' if bad else ''
