"""Put a trained run to use: python -m experiments.apply --workdir=DIR --task=TASK

  reconstruct  images by the generator: from the inference model alone, and after the chain in z
  interpolate  from image to image, or with --samples from sample to sample, through the latent
               space
  inpaint      fill in what is hidden (--hide): the chain in z on what is seen, then the chain of
               the energy on what is hidden
  refine       a chain of the energy from the images (--data=npz:MINE.npz, for instance corrupted
               ones)
  scores       every score of every image, to tell familiar from unfamiliar; as a table (.csv), too

refine, scores and inpaint work on runs of every method (inpaint without a generator starts from
noise); the others need a generator. Images are the run's test images, or --data. Conditional
networks get the labels of the data (an .npz without labels counts as class 0), or --label. Writes a
grid (PNG) and numbers (.npz, where [-1, 1] is black to white) to OUT.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from PIL import Image, UnidentifiedImageError

from ebm_jax import batching, data
from ebm_jax.apply import latent
from ebm_jax.data import Examples
from ebm_jax.errors import InputError
from ebm_jax.evaluate import predict
from ebm_jax.images import Grid, as_float, save_grid, stacked
from ebm_jax.record import atomic_write, with_ending
from ebm_jax.spec import ModelSpec
from ebm_jax.trained import TrainedModel
from ebm_jax.types import Key, Params
from experiments.common import launch, runs, sources
from experiments.common.experiment import Experiment
from experiments.evaluations.generator import (
    HIDDEN,
    hidden_error,
    known_without,
    mask_shape,
    mean_image,
    of_picture,
    reconstructed,
)

DEFAULT_NUM = 20


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
    flags.DEFINE_enum('task', None, list(TASKS), 'What to do.', flag_values=values)
    flags.DEFINE_string(
        'data',
        None,
        'Images, as in --config.data.source; default the test images of the run.',
        flag_values=values,
    )
    flags.DEFINE_integer(
        'label',
        None,
        'Class for a conditional energy or generator; default: the labels of the data.',
        0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        'num',
        None,
        f'How many images (interpolate: pairs), at random; default {DEFAULT_NUM}, scores: all.',
        1,
        flag_values=values,
    )
    flags.DEFINE_string(
        'hide',
        'right',
        f'inpaint: {", ".join(HIDDEN)}, or an image file, black where hidden.',
        flag_values=values,
    )
    flags.DEFINE_boolean('samples', False, 'interpolate: between samples.', flag_values=values)
    flags.DEFINE_integer(
        'frames', 10, 'interpolate: images from end to end.', 2, flag_values=values
    )
    flags.DEFINE_integer(
        'z_steps', None, 'Steps of the chain in z; default as configured.', 0, flag_values=values
    )
    flags.DEFINE_integer(
        'steps', None, 'Steps of the chain in x; default as configured.', 0, flag_values=values
    )
    flags.DEFINE_integer(
        'starts',
        None,
        'inpaint: chains in z of which the best is taken; default as configured.',
        1,
        flag_values=values,
    )
    flags.DEFINE_integer('seed', 0, 'Seed of chains and choices.', 0, flag_values=values)
    flags.DEFINE_string(
        'out', None, 'File name without ending; default WORKDIR/samples/TASK.', flag_values=values
    )
    flags.mark_flag_as_required('workdir', values)
    flags.mark_flag_as_required('task', values)


TABLE_ROWS = 25  # that are printed
FLAGS_OF = {  # the tasks that take a flag; all others are of every task
    'hide': ('inpaint',),
    'samples': ('interpolate',),
    'frames': ('interpolate',),
    'starts': ('inpaint',),
    'z_steps': ('reconstruct', 'interpolate', 'inpaint'),
    'steps': ('inpaint', 'refine'),
    'label': ('reconstruct', 'interpolate', 'inpaint', 'refine'),
}


class Inputs(NamedTuple):
    """What a task works on."""

    experiment: Experiment
    params: Params
    key: Key
    examples: Examples
    rows: np.ndarray  # int [N], which of the data they are
    labels: np.ndarray | None  # int [N], of energies; None for p(x)
    conditions: list[Any]  # what conditional networks of a LatentModel take

    @property
    def x(self) -> np.ndarray:
        """The examples in [-1, 1]."""
        return as_float(self.examples.x)

    @property
    def what(self) -> str:
        """What an example is called."""
        return self.experiment.model.spec.examples

    @property
    def trained(self) -> TrainedModel:
        """The model with its parameters."""
        return TrainedModel(model=self.experiment.model, params=self.params, step=0)


class Result(NamedTuple):
    """What a task found."""

    rows: Sequence[np.ndarray]  # for the grid: series of equally many images
    numbers: dict[str, Any]
    summary: str
    columns: int | None = None  # of the grid, where each row is one series
    table: Sequence[Sequence[str]] = ()  # printed and written as CSV, the header first


def run(values: Any) -> None:
    """Do the task, write, and print."""
    for name, tasks in FLAGS_OF.items():
        if values[name].present and values.task not in tasks:
            raise InputError(
                f'--{name} is of --task={", ".join(tasks)}: --task={values.task} does nothing with '
                'it'
            )
    opened = runs.restore(values.workdir)
    inputs = prepare(values, opened)
    result = TASKS[values.task](values, inputs)
    out = pathlib.Path(values.out or pathlib.Path(values.workdir) / 'samples' / values.task)
    written = [with_ending(out, '.npz')]
    if result.rows and result.columns is None:
        grid = stacked(result.rows)
    elif result.rows:
        grid = Grid(np.concatenate(result.rows), result.columns)
    if result.rows:
        pictures = inputs.experiment.model.pictures(grid.images)
        caption = f'From top to bottom: {result.summary}.'
        save_grid(with_ending(out, '.png'), grid._replace(images=pictures, caption=caption))
        written.insert(0, with_ending(out, '.png'))
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(with_ending(out, '.npz'), **result.numbers)
    if result.table:
        written.append(with_ending(out, '.csv'))
        atomic_write(written[-1], '\n'.join(','.join(row) for row in result.table) + '\n')
    print(f'{result.summary}: {" and ".join(map(str, written))}')
    for row in result.table[: 1 + TABLE_ROWS]:
        print(''.join(f'{cell:>12}' for cell in row))
    if len(result.table) > 1 + TABLE_ROWS:
        print(f'and {len(result.table) - 1 - TABLE_ROWS} more in {written[-1]}')


def prepare(values: Any, opened: runs.Run) -> Inputs:
    """The images and labels of a task. Raises: InputError."""
    experiment, model = opened.experiment, opened.experiment.model
    shape, classes = experiment.train.x.shape[1:], experiment.train.num_classes
    examples = experiment.test
    if values.data:
        examples = sources.load(values.data, 'test')
    num = values.num or (len(examples.x) if values.task == 'scores' else DEFAULT_NUM)
    num *= 2 if values.task == 'interpolate' else 1
    rows = data.random_rows(len(examples.x), num, values.seed)
    examples = examples.rows(rows)
    if examples.x.shape[1:] != shape:
        raise InputError(
            f'--data={values.data} has {model.spec.examples} of {list(examples.x.shape[1:])}, but '
            f'the run was trained on {list(shape)}: bring them to that size first'
        )
    if values.label is not None and not model.class_conditional:
        raise InputError(f'--label={values.label} cannot be used: this run is not conditional')
    if values.label is not None and values.label >= classes:
        raise InputError(f'--label={values.label} must lie in 0 to {classes - 1}')
    if not model.unconditional and values.label is None and examples.num_classes > classes:
        raise InputError(
            f'--data={values.data} has labels up to {examples.num_classes - 1}, but this run has '
            f'one network for each of {classes} classes'
        )
    labels = examples.y
    if values.label is not None:
        labels = np.full(len(examples.x), values.label, np.int32)
    free = not model.class_conditional or model.unconditional and values.label is None
    return Inputs(
        experiment=experiment,
        params=opened.state.eval_params,
        key=jax.random.key(values.seed),
        examples=examples,
        rows=rows,
        labels=None if free else labels,
        conditions=model.conditions(labels),
    )


def check_generator(values: Any, inputs: Inputs) -> None:
    """Raises: InputError for a run without a generator."""
    if inputs.experiment.model.latent is None:
        raise InputError(
            f'--task={values.task} needs a generator, which this run does not have: give the '
            'workdir of a run that trained one'
        )


def check_energy(values: Any, inputs: Inputs) -> None:
    """Raises: InputError for a run without an energy."""
    if not inputs.experiment.model.has_energy:
        raise InputError(
            f'--task={values.task} needs an energy, which this run does not have: give the '
            'workdir of a run that trained one'
        )


def z_steps_of(values: Any, inputs: Inputs) -> int:
    """Steps of the chain in z, as asked for or as configured."""
    if values.z_steps is not None:
        return values.z_steps
    return inputs.experiment.model.spec.latent.num_steps


def reconstruct(values: Any, inputs: Inputs) -> Result:
    """Images by the generator."""
    check_generator(values, inputs)
    steps, x = z_steps_of(values, inputs), inputs.x
    by_q, by_chain = (
        reconstructed(inputs.experiment, inputs.params, inputs.key, x, inputs.conditions, n)
        for n in (0, steps)
    )
    errors = [float(np.mean(np.square(y - x))) for y in (by_q, by_chain)]
    return Result(
        [x, by_q, by_chain],
        {'x': x, 'q': by_q, 'refined': by_chain},
        f'{len(x)} {inputs.what}, their reconstructions without (error {errors[0]:.4f}) and with '
        f'{steps} steps in z (error {errors[1]:.4f})',
    )


def interpolate(values: Any, inputs: Inputs) -> Result:
    """Paths through the latent space."""
    check_generator(values, inputs)
    model, steps, num = inputs.experiment.model, z_steps_of(values, inputs), values.frames

    def between_samples(params, key, labels):
        ends = jax.random.normal(key, (2, model.latent.latent_dim))
        conditions = labels if inputs.conditions else []
        return latent.path(model.latent, params, *ends, *conditions, num=num)

    def between_images(params, key, ends, *labels):
        conditions = labels[0] if inputs.conditions else []
        return latent.interpolate(
            model.latent, params, key, *ends, *conditions, num=num, steps=steps
        )

    if values.samples:
        labels = np.resize(
            inputs.conditions[0] if inputs.conditions else 0, values.num or DEFAULT_NUM
        )
        one, pairs = between_samples, [np.stack([labels, labels], 1)]  # both ends of one class
    else:
        half, x = len(inputs.rows) // 2, inputs.x
        if not half:
            raise InputError(f'--task=interpolate needs at least two {inputs.what}')
        one = between_images
        pairs = [
            np.stack([part[:half], part[half : 2 * half]], 1) for part in (x, *inputs.conditions)
        ]
    frames = batching.for_each(one, inputs.params, inputs.key, pairs, description='interpolations')
    summary = f'{len(frames)} paths of {num} {inputs.what}, a row each'
    return Result(list(frames), {'frames': frames}, summary, num)


def inpaint(values: Any, inputs: Inputs) -> Result:
    """Fill in what is hidden."""
    experiment, x = inputs.experiment, inputs.x
    known = np.broadcast_to(known_part(values.hide, experiment.model.spec), x.shape)
    full = inputs.trained.inpaint(
        inputs.key,
        x,
        known,
        inputs.labels,
        num_steps=values.steps,
        z_steps=values.z_steps,
        starts=values.starts,
        fill=mean_image(experiment.train) if experiment.model.latent else 0.0,
    )
    return Result(
        [np.where(known, x, 0), full, x],
        {'x': x, 'known': known[0], 'filled': full},
        f'{len(x)} {inputs.what} seen, filled in and whole, mean squared error of what was hidden '
        f'{hidden_error(full, x, known):.4f}',
    )


def refine_images(values: Any, inputs: Inputs) -> Result:
    """A chain of the energy from the images."""
    check_energy(values, inputs)
    model = inputs.experiment.model
    steps = model.num_steps(values.steps)
    x = inputs.x
    refined = inputs.trained.refine(inputs.key, x, inputs.labels, steps)
    step_size = model.spec.sampling.step_size
    return Result(
        [x, refined],
        {'x': x, 'refined': refined},
        f'{len(refined)} {inputs.what} before and after {steps} steps of size {step_size:g}',
    )


def scores(values: Any, inputs: Inputs) -> Result:
    """Every score of every image."""
    experiment = inputs.experiment
    if not experiment.scores:
        raise InputError(
            '--task=scores needs an energy or an inference model, which this run does not have'
        )
    found = predict.predict_dataset(
        experiment.predict, inputs.params, inputs.examples, seed=values.seed
    )
    names = list(experiment.scores)
    labels = [str(label) for label in inputs.examples.y]
    rows = zip(*([f'{value:.5g}' for value in found[name]] for name in names))
    table = [['image', 'label', *names]]
    table += [[str(i), label, *row] for i, label, row in zip(inputs.rows, labels, rows)]
    means = ', '.join(f'{name} {np.mean(found[name]):.4g}' for name in experiment.scores)
    return Result(
        [],
        {'image': inputs.rows, **{name: found[name] for name in experiment.scores}},
        f'scores of {len(inputs.rows)} {inputs.what} of {inputs.examples.name} (means: {means})',
        table=table,
    )


TASKS = {
    'reconstruct': reconstruct,
    'interpolate': interpolate,
    'inpaint': inpaint,
    'refine': refine_images,
    'scores': scores,
}


def known_part(hide: str, spec: ModelSpec) -> np.ndarray:
    """bool [H, W, 1]: what is not hidden."""
    known = known_without(hide, spec) if hide in HIDDEN else mask_of_file(hide, spec)
    if known.all() or not known.any():
        raise InputError(
            f'--hide={hide} hides {"nothing" if known.all() else "everything"} of examples of '
            f'{list(spec.shape)}; in a mask hidden pixels are black, the rest is white'
        )
    return known


def mask_of_file(hide: str, spec: ModelSpec) -> np.ndarray:
    """bool [H, W, 1] of an example: what a mask, as large as its picture, does not blacken."""
    height, width = mask_shape(spec)
    try:
        with Image.open(hide) as image:
            known = np.asarray(image.convert('L'))[..., None] > 127
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(
            f'--hide={hide} is neither one of {", ".join(HIDDEN)} nor a readable image file'
        ) from error
    if known.shape[:2] != (height, width):
        raise InputError(
            f'the mask {hide} is {known.shape[0]}x{known.shape[1]}, but images are {height}x{width}'
        )
    return of_picture(known, spec)


if __name__ == '__main__':
    launch.main(run, define, __doc__)
