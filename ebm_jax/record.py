"""What a run leaves in its workdir for people to look at: metrics.jsonl, TensorBoard events, summary.json, picture grids."""
import json
import math
import os
import pathlib

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter


def write_whole(path, text):
    """Write a file whole or not at all: into one beside it, then renamed."""
    path = pathlib.Path(path)
    beside = path.with_name(path.name + '.part')
    beside.write_text(text)
    os.replace(beside, path)


def write_json(path, content):
    """Write JSON whole or not at all; a number that is not finite as a string, since JSON has none."""
    write_whole(path, json.dumps(_finite(content), indent=2) + '\n')


def _finite(content):
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


def update_summary(workdir, content):
    """Merge figures into WORKDIR/summary.json; nested dicts are merged too. Returns the whole summary."""
    path = pathlib.Path(workdir) / 'summary.json'
    summary = json.loads(path.read_text()) if path.exists() else {}

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
    """metrics.jsonl and TensorBoard events of one run; lines past the step that a run continues from are taken back."""

    def __init__(self, workdir, start_step=0):
        self.workdir = pathlib.Path(workdir)
        path = self.workdir / 'metrics.jsonl'
        kept = [line for line in path.read_text().splitlines() if _step_of(line) <= start_step] if path.exists() else []
        write_whole(path, ''.join(line + '\n' for line in kept))
        self._lines = path.open('a')
        self._events = SummaryWriter(str(self.workdir / 'tensorboard'), purge_step=start_step + 1)

    def scalars(self, step, values):
        """One line of metrics; a number that is not finite is written as a string, since JSON has none."""
        row = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
        self._lines.write(json.dumps({'step': step, **row}) + '\n')
        self._lines.flush()
        for name, value in values.items():
            if math.isfinite(value):
                self._events.add_scalar(name, value, step)

    def pictures(self, step, grids):
        """Grids {name: (images in [-1, 1], columns)}, as WORKDIR/samples/NAME_STEP.png and as TensorBoard images."""
        for name, (images, columns) in grids.items():
            grid = image_grid(images, columns)
            save_grid(self.workdir / 'samples' / f'{name}_{step:06d}.png', grid)
            self._events.add_image(name, grid, step, dataformats='HWC')

    def close(self):
        self._lines.close()
        self._events.close()


class Silent:
    """A Recorder that leaves nothing: of the processes of a run that do not lead it."""

    def scalars(self, step, values):
        pass

    def close(self):
        pass


def _step_of(line):
    """The step of a metrics line; a line cut short by a crash counts as past every step."""
    try:
        return json.loads(line)['step']
    except json.JSONDecodeError:
        return math.inf


def stacked(rows, columns=10):
    """(images, columns) for `image_grid`: of several equally long series, what belongs together below each other; filled up with grey."""
    columns = min(columns, len(rows[0]))
    rows = [np.concatenate([row, np.zeros((-len(row) % columns, *row.shape[1:]), row.dtype)]) for row in rows]
    return np.concatenate([row[begin:begin + columns] for begin in range(0, len(rows[0]), columns) for row in rows]), columns


def image_grid(images, columns=None, gap=1):
    """Images [N, H, W, C] in [-1, 1], clipped to it, row by row -> one uint8 picture [.., .., C]."""
    images = np.asarray(images)
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    grid = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 128, np.uint8)
    for i, image in enumerate(np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        grid[top:top + height, left:left + width] = image
    return grid


def save_grid(path, grid, side=640):
    """Save a picture as PNG, enlarged by a whole factor towards `side` pixels so that small images can be seen."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(grid[..., 0] if grid.shape[-1] == 1 else grid)
    factor = max(1, round(side / max(image.size)))
    image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST).save(path)
