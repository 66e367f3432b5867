"""Draw fresh samples from any model: python -m experiments.sample --workdir=DIR [--label=3]

--workdir is a run or an exported model; its training data are not needed. Several labels
(--label=3,4) are drawn in equal numbers, a column each. Writes a grid (PNG) and the samples as
numbers: an .npz with x (float32 in the network's units), images (uint8, of images) and y (labels).
"""

import pathlib
from typing import Any

import jax
import numpy as np
from absl import flags

from ebm_jax.errors import InputError
from ebm_jax.images import Grid, as_uint8, save_grid
from ebm_jax.record import with_ending
from ebm_jax.spec import FEATURES
from ebm_jax.trained import TrainedModel
from experiments.common import launch, runs
from experiments.common.building import class_name
from experiments.common.cores import use_all_cores


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string(
        'workdir', None, 'Folder of a run or an exported model.', flag_values=values
    )
    flags.DEFINE_list(
        'label',
        [],
        'Class y, or several, to draw from p(x|y); default: from p(x).',
        flag_values=values,
    )
    flags.DEFINE_integer('num', 100, 'How many samples.', 1, flag_values=values)
    flags.DEFINE_boolean(
        'singly',
        False,
        'Write each image to a PNG of its own, too: OUT/000.png ...',
        flag_values=values,
    )
    flags.DEFINE_integer(
        'steps',
        None,
        'Steps of each chain; default as configured. 0: the initial positions.',
        0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        'trajectory',
        0,
        'Into how many parts to cut the chain; each row of the grid then shows one chain.',
        0,
        flag_values=values,
    )
    flags.DEFINE_integer('seed', 0, 'Seed of the chains.', flag_values=values)
    flags.DEFINE_string(
        'out',
        None,
        'File name without ending; default WORKDIR/samples/drawn, and _LABEL where one is given.',
        flag_values=values,
    )
    flags.mark_flag_as_required('workdir', values)


def run(values: Any) -> None:
    """Draw and write."""
    use_all_cores()
    opened = runs.open_model(values.workdir)
    model, asked = opened.model, labels_asked(values.label)
    for label in asked:
        opened.check_label(label)
    labels = (
        np.resize(np.asarray(asked, np.int32), values.num) if asked else model.labels(values.num)
    )
    drawn = model.sample(
        jax.random.key(values.seed),
        opened.params,
        labels,
        values.steps,
        trajectory=values.trajectory,
    )
    images, frames = drawn if values.trajectory else (drawn, None)
    name = '_'.join(['drawn', *map(str, asked)])
    out = pathlib.Path(values.out or pathlib.Path(values.workdir) / 'samples' / name)
    picture, numbers = with_ending(out, '.png'), with_ending(out, '.npz')
    save_grid(picture, grid_of(opened, asked, images, frames, values.steps))
    arrays = {'x': images, 'y': labels}
    if model.spec.units != FEATURES:
        arrays['images'] = as_uint8(images)
    if frames is not None:
        arrays['trajectory'] = frames
    np.savez(numbers, **arrays)
    said = f'{values.num} samples: {picture} and {numbers}'
    if values.singly:
        out = picture.with_suffix('')
        for i, one in enumerate(model.pictures(images)):
            save_grid(out / f'{i:03d}.png', Grid(one[None], 1), side=1, gap=0)
        said += f', one by one in {out}/'
    print(said)


def labels_asked(given: list[str]) -> list[int]:
    """The labels of --label. Raises: InputError for what is no number."""
    if not all(label.strip().isdecimal() for label in given):
        raise InputError(
            f'--label={",".join(given)} must be class numbers, for example --label=3,4'
        )
    return [int(label) for label in given]


def grid_of(
    opened: TrainedModel,
    asked: list[int],
    images: np.ndarray,
    frames: np.ndarray | None,
    steps: int | None,
) -> Grid:
    """The picture of samples, or of their chains, a row each."""
    model, names = opened.model, opened.model.spec.class_names
    headings = [class_name(names, label) for label in asked]
    what = 'p(x)' if model.unconditional else 'p(x|y), all classes in turn'
    if asked:
        what = f'p(x|y), y = {", ".join(headings)}'
    number = f'{model.num_steps(steps):,} steps'
    if frames is not None:
        caption = f'Chains of {what}, a row each, from initial position to sample: {number}.'
        return Grid(model.pictures(np.concatenate(frames)), frames.shape[1], caption)
    pictures = model.pictures(images)
    caption = f'Samples of {what} after {number}, training step {opened.step:,}.'
    if len(asked) > 1 and len(images) >= len(asked):
        return Grid(pictures, len(asked), caption, headings)
    return Grid(pictures, None, caption)


if __name__ == '__main__':
    launch.main(run, define, __doc__)
