"""Put a trained run to use: python -m experiments.apply --workdir=DIR --task=TASK

  reconstruct  images by the generator: from the inference model alone, and after the chain in z
  interpolate  from image to image, or with --samples from sample to sample, through the latent space
  inpaint      fill in what is hidden (--hide): the chain in z on what is seen, then the chain of the energy on what is hidden
  refine       a chain of the energy from the images (--data=npz:MINE.npz, for instance disturbed ones)
  scores       every score of every image, to tell familiar from unfamiliar

refine, scores and inpaint work on runs of every method (inpaint without a generator starts from noise), the others on those with a
generator. Images are the run's test images, or --data. Conditional networks get the labels of the data (an .npz without labels counts as
class 0), or --label. Writes a grid (PNG) and numbers (.npz, where [-1, 1] is black to white) to OUT.
"""
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image, UnidentifiedImageError

from ebm_jax import data, devices
from ebm_jax.apply import latent
from ebm_jax.apply.refine import refine
from ebm_jax.errors import InputError
from ebm_jax.evaluate import predict, samples
from ebm_jax.record import image_grid, save_grid, stacked
from ebm_jax.types import UNLABELLED
from experiments import launch
from experiments.figures_dual_mcmc import PARTS, filled, hidden_error, reconstructed, without
from experiments.parts import averaged, load


def define(values):
    flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
    flags.DEFINE_enum('task', None, list(TASKS), 'What to do.', flag_values=values)
    flags.DEFINE_string('data', None, 'Images, as in --config.data.source; default the test images of the run.', flag_values=values)
    flags.DEFINE_integer('label', None, 'Class that a conditional energy or generator is to take; default those of the data.', 0,
                         flag_values=values)
    flags.DEFINE_integer('num', 20, 'How many images (interpolate: pairs).', 1, flag_values=values)
    flags.DEFINE_string('hide', 'right', f'inpaint: {", ".join(PARTS)}, or an image file, black where hidden.', flag_values=values)
    flags.DEFINE_boolean('samples', False, 'interpolate: between samples.', flag_values=values)
    flags.DEFINE_integer('frames', 10, 'interpolate: images from end to end.', 2, flag_values=values)
    flags.DEFINE_integer('z_steps', None, 'Steps of the chain in z; default as configured.', 0, flag_values=values)
    flags.DEFINE_integer('steps', None, 'Steps of the chain in x; default as configured.', 0, flag_values=values)
    flags.DEFINE_integer('seed', 0, 'Seed of chains and choices.', 0, flag_values=values)
    flags.DEFINE_string('out', None, 'File name without ending; default WORKDIR/samples/TASK.', flag_values=values)
    flags.mark_flag_as_required('workdir', values)
    flags.mark_flag_as_required('task', values)


def run(values):
    config, parts, state = launch.restore(values.workdir)
    examples = data.some(load(values.data, 'test') if values.data else parts.test, values.num * (2 if values.task == 'interpolate' else 1),
                         seed=values.seed)
    if examples.x.shape[1:] != parts.train.x.shape[1:]:
        raise InputError(f'--data={values.data} has images of {list(examples.x.shape[1:])}, but the run was trained on '
                         f'{list(parts.train.x.shape[1:])}: bring them to that size first')
    classes = parts.train.num_classes
    if values.label is not None and not (parts.by_class and values.label < classes):
        raise InputError(f'--label={values.label} must lie in 0 to {classes - 1}' if parts.by_class else
                         f'--label={values.label} cannot be used: this run knows no classes')
    if parts.by_class and not parts.unlabelled and examples.num_classes > classes:
        raise InputError(f'--data={values.data} has labels up to {examples.num_classes - 1}, but this run has one network for each of '
                         f'{classes} classes')
    out = pathlib.Path(values.out or pathlib.Path(values.workdir) / 'samples' / values.task)
    rows, numbers, said = TASKS[values.task](values, config, parts, averaged(state), examples)
    if rows:   # of equally many images each; the pictures of one image stand below each other
        images, columns = stacked(rows) if values.task != 'interpolate' else (np.concatenate(rows), values.frames)
        save_grid(out.with_suffix('.png'), image_grid(parts.picture(images), columns))
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(out.with_suffix('.npz'), **numbers)
    print(f'{said}: {" and ".join(str(out.with_suffix(ending)) for ending in ((".png", ".npz") if rows else (".npz",)))}')


def given(values, parts, examples):
    """(images in [-1, 1], labels for the energy, what conditional networks of a LatentModel take)."""
    labels = examples.y if values.label is None else np.full(len(examples.x), values.label, np.int32)
    asked = labels if parts.by_class and not (parts.unlabelled and values.label is None) else np.full_like(labels, UNLABELLED)
    return samples.as_float(examples.x), asked, [labels] if parts.by_class else []


def with_generator(parts, task):
    if parts.model is None:
        raise InputError(f'--task={task} needs a generator, which this run has not: give the workdir of a run that trained one')


def with_energy(parts, task):
    if parts.energy_fn is None:
        raise InputError(f'--task={task} needs an energy, which this run has not: give the workdir of a run that trained one')


def reconstruct(values, config, parts, params, examples):
    with_generator(parts, values.task)
    x, _, of = given(values, parts, examples)
    steps = config.test_z.num_steps if values.z_steps is None else values.z_steps
    again = [reconstructed(parts, params, jax.random.key(values.seed), x, of, n) for n in (0, steps)]
    error = [float(np.mean(np.square(y - x))) for y in again]
    return [x, *again], dict(x=x, q=again[0], refined=again[1]), (
        f'{len(x)} images, their reconstructions without (error {error[0]:.4f}) and with {steps} steps in z (error {error[1]:.4f})')


def interpolate(values, config, parts, params, examples):
    with_generator(parts, values.task)
    steps = config.test_z.num_steps if values.z_steps is None else values.z_steps
    x, _, of = given(values, parts, examples)
    if values.samples:
        pairs = [np.stack([np.resize(of[0] if of else 0, values.num)] * 2, 1)]   # both ends of one class

        def one(params, key, labels):
            ends = jax.random.normal(key, (2, parts.model.latent))
            return latent.path(parts.model, params, *ends, *(labels if of else []), num=values.frames)
    else:
        if len(x) < 2:
            raise InputError('--task=interpolate needs at least two images')
        half = len(x) // 2
        pairs = [np.stack([part[:half], part[half:2 * half]], 1) for part in (x, *of)]

        def one(params, key, ends, *labels):
            return latent.interpolate(parts.model, params, key, *ends, *(labels[0] if of else []), num=values.frames, steps=steps)
    frames = devices.for_each(one, params, jax.random.key(values.seed), pairs, description='interpolations')
    return list(frames), dict(frames=frames), f'{len(frames)} paths of {values.frames} images, a row each'


def inpaint(values, config, parts, params, examples):
    x, labels, of = given(values, parts, examples)
    known = np.broadcast_to(known_part(values.hide, x.shape[1:]), x.shape)
    key, steps = jax.random.key(values.seed), parts.steps(values.steps)
    if parts.model:
        full = filled(parts, params, key, x, known, of, x_steps=steps,
                      z_steps=config.test_z.inpaint_steps if values.z_steps is None else values.z_steps)
    else:
        kernel = parts.kernel_at(parts.fresh.step_size)

        def one(params, key, x, known, label):
            start_key, chain_key = jax.random.split(key)
            begin = jnp.where(known, x, parts.start(params, start_key, label))
            return refine(chain_key, lambda u: parts.energy_fn(params, u, label), kernel, begin, steps, known)
        full = devices.for_each(one, params, key, [x, known, labels], description='in-painting')
    return [np.where(known, x, 0), full, x], dict(x=x, known=known[0], filled=full), (
        f'{len(x)} images seen, filled in and whole, mean squared error of what was hidden {hidden_error(full, x, known):.4f}')


def refine_images(values, config, parts, params, examples):
    with_energy(parts, values.task)
    x, labels, _ = given(values, parts, examples)
    steps, kernel = parts.steps(values.steps), parts.kernel_at(parts.fresh.step_size)
    one = lambda params, key, x, label: refine(key, lambda u: parts.energy_fn(params, u, label), kernel, x, steps)
    refined = devices.for_each(one, params, jax.random.key(values.seed), [x, labels], description='refining')
    return [x, refined], dict(x=x, refined=refined), f'{len(x)} images before and after {steps} steps of size {parts.fresh.step_size:g}'


def scores(values, config, parts, params, examples):
    if not parts.scores:
        raise InputError('--task=scores needs an energy or an inference model, which this run has not')
    found = predict.over(parts.predict, params, examples, seed=values.seed)
    means = ', '.join(f'{name} {np.mean(found[name]):.4g}' for name in parts.scores)
    return [], {name: found[name] for name in parts.scores}, f'scores of {len(examples.x)} images of {examples.name} (means: {means})'


TASKS = {'reconstruct': reconstruct, 'interpolate': interpolate, 'inpaint': inpaint, 'refine': refine_images, 'scores': scores}


def known_part(hide, shape):
    """bool [H, W, 1]: what is not hidden."""
    height, width = shape[:2]
    if hide in PARTS:
        return without(hide, shape)
    try:
        with Image.open(hide) as image:
            known = np.asarray(image.convert('L'))[..., None] > 127
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f'--hide={hide} is none of {", ".join(PARTS)} and no image file that can be read') from error
    if known.shape[:2] != (height, width):
        raise InputError(f'the mask {hide} is {known.shape[0]}x{known.shape[1]}, but images are {height}x{width}')
    if known.all() or not known.any():
        raise InputError(f'the mask {hide} hides {"nothing" if known.all() else "everything"}: draw what is hidden black, the rest white')
    return known


if __name__ == '__main__':
    launch.main(run, define, __doc__)
