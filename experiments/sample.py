"""Draw fresh samples from any run: python -m experiments.sample --workdir=DIR [--label=3] [--num=100] [--steps=500]

Writes a grid (PNG) and the images as numbers (.npz, float32 in the network's units, with their labels).
"""
import pathlib

import jax
import numpy as np
from absl import flags

from ebm_jax.errors import InputError
from ebm_jax.record import image_grid, save_grid
from ebm_jax.types import UNLABELLED
from experiments import launch
from experiments.parts import averaged


def define(values):
    flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
    flags.DEFINE_integer('label', None, 'Class to draw from p(x|y); all of p(x) where left out.', flag_values=values)
    flags.DEFINE_integer('num', 100, 'How many samples.', 1, flag_values=values)
    flags.DEFINE_integer('steps', None, 'Steps of each chain; default as configured. 0: where chains begin.', 0, flag_values=values)
    flags.DEFINE_integer('trajectory', 0, 'Into how many parts to cut the chain; each row of the grid then shows one chain.', 0,
                         flag_values=values)
    flags.DEFINE_integer('seed', 0, 'Seed of the chains.', flag_values=values)
    flags.DEFINE_string('out', None, 'File name without ending; default WORKDIR/samples/drawn.', flag_values=values)
    flags.mark_flag_as_required('workdir', values)


def run(values):
    _, parts, state = launch.restore(values.workdir)
    classes, label = parts.train.num_classes, values.label
    if label is not None and not (parts.by_class and 0 <= label < classes):
        raise InputError(f'--label={label} must lie in 0 to {classes - 1}, the classes of {parts.train.name}' if parts.by_class else
                         f'--label={label} cannot be drawn: this run has one energy for all classes, leave --label out')
    anything = np.full(values.num, UNLABELLED) if parts.unlabelled else np.arange(values.num) % classes
    labels = anything if label is None else np.full(values.num, label, np.int32)
    drawn = parts.draw(jax.random.key(values.seed), averaged(state), labels, values.steps, trajectory=values.trajectory)
    images, frames = drawn if values.trajectory else (drawn, None)
    out = pathlib.Path(values.out or pathlib.Path(values.workdir) / 'samples' / 'drawn')
    save_grid(out.with_suffix('.png'), image_grid(parts.picture(images if frames is None else np.concatenate(frames)),
                                                   None if frames is None else frames.shape[1]))
    np.savez(out.with_suffix('.npz'), x=images, y=labels, **({} if frames is None else {'trajectory': frames}))
    print(f'{values.num} samples: {out.with_suffix(".png")} and {out.with_suffix(".npz")}')


if __name__ == '__main__':
    launch.main(run, define, __doc__)
