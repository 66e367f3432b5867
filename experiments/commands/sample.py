"""Draw fresh samples from any model: python -m experiments.sample --workdir=DIR [--label=3]

--workdir is a run or an exported model; its training data are not needed. Writes a grid (PNG) and
the samples as numbers (.npz, float32 in the network's units, with their labels).
"""

import pathlib
from typing import Any

import jax
import numpy as np
from absl import flags

from ebm_jax.images import image_grid, save_grid
from experiments.common import launch, runs
from experiments.common.cores import use_all_cores


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string(
        'workdir', None, 'Folder of a run or an exported model.', flag_values=values
    )
    flags.DEFINE_integer(
        'label', None, 'Class y, to draw from p(x|y); default: from p(x).', flag_values=values
    )
    flags.DEFINE_integer('num', 100, 'How many samples.', 1, flag_values=values)
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
        'out', None, 'File name without ending; default WORKDIR/samples/drawn.', flag_values=values
    )
    flags.mark_flag_as_required('workdir', values)


def run(values: Any) -> None:
    """Draw and write."""
    use_all_cores()
    opened = runs.open_model(values.workdir)
    opened.check_label(values.label)
    model, label = opened.model, values.label
    labels = model.labels(values.num) if label is None else np.full(values.num, label, np.int32)
    drawn = model.sample(
        jax.random.key(values.seed),
        opened.params,
        labels,
        values.steps,
        trajectory=values.trajectory,
    )
    images, frames = drawn if values.trajectory else (drawn, None)
    out = pathlib.Path(values.out or pathlib.Path(values.workdir) / 'samples' / 'drawn')
    shown = images if frames is None else np.concatenate(frames)
    columns = None if frames is None else frames.shape[1]
    save_grid(out.with_suffix('.png'), image_grid(model.pictures(shown), columns))
    extra = {} if frames is None else {'trajectory': frames}
    np.savez(out.with_suffix('.npz'), x=images, y=labels, **extra)
    print(f'{values.num} samples: {out.with_suffix(".png")} and {out.with_suffix(".npz")}')


if __name__ == '__main__':
    launch.main(run, define, __doc__)
