"""What evaluate reports of a run with a generator: how well it reconstructs test images, and fills
in their hidden halves."""

import pathlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from sklearn.neighbors import NearestNeighbors

from ebm_jax import batching, data
from ebm_jax.apply import latent
from ebm_jax.data import Examples
from ebm_jax.evaluate import samples
from ebm_jax.images import as_float, stacked
from ebm_jax.spec import FEATURES, ModelSpec
from ebm_jax.train import TrainState
from ebm_jax.trained import TrainedModel
from ebm_jax.types import Key, Params
from experiments.common.experiment import Experiment
from experiments.common.section import GENERATOR, Section, save_shown

EXAMPLES = 1000
# What can be hidden, as shares of height and width.
HIDDEN = {
    'left': (slice(None), slice(None, 0.5)),
    'right': (slice(None), slice(0.5, None)),
    'top': (slice(None, 0.5), slice(None)),
    'bottom': (slice(0.5, None), slice(None)),
    'centre': (slice(0.25, 0.75), slice(0.25, 0.75)),
}


def held_out_inputs(
    experiment: Experiment, n: int = EXAMPLES
) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """(test images [n, ...] in [-1, 1], their labels, what conditional networks take of them)."""
    some = data.subsample(experiment.test, n)
    return as_float(some.x), some.y, experiment.model.conditions(some.y)


def reconstructed(
    experiment: Experiment,
    params: Params,
    key: Key,
    x: np.ndarray,
    conditions: Sequence[np.ndarray],
    steps: int,
) -> np.ndarray:
    """g(z) of images, z after `steps` steps."""
    one = partial(latent.reconstruct, experiment.model.latent, steps=steps)
    return batching.for_each(one, params, key, [x, *conditions], description='reconstructions')


def known_without(part: str, spec: ModelSpec) -> np.ndarray:
    """bool [H, W, 1]: False in one of HIDDEN, as pictures of the examples show it."""
    shape = mask_shape(spec)
    known = np.ones((*shape, 1), bool)

    def edge(share, n):
        return None if share is None else round(share * n)

    cuts = [slice(edge(cut.start, n), edge(cut.stop, n)) for cut, n in zip(HIDDEN[part], shape)]
    known[tuple(cuts)] = False
    return of_picture(known, spec)


def _transposed(spec):
    """Whether pictures show examples [T, F] with time to the right, see `spectrogram_images`;
    single frames are drawn as curves over the frequency, their second axis."""
    return spec.units == FEATURES and spec.shape[0] > 1


def mask_shape(spec: ModelSpec) -> tuple[int, int]:
    """(height, width) of a mask as pictures show the examples, one pixel for each number."""
    height, width = spec.shape[:2]
    return (width, height) if _transposed(spec) else (height, width)


def of_picture(mask: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """A mask of a picture -> that of the example which it shows."""
    return mask[::-1].swapaxes(0, 1) if _transposed(spec) else mask


def hidden_error(full: np.ndarray, x: np.ndarray, known: np.ndarray) -> float:
    """Mean squared error of what was hidden, on [-1, 1]."""
    return float(np.mean(np.square(np.clip(full, -1, 1) - x)[~known]))


def mean_image(train: Examples) -> np.ndarray:
    """The mean of the training images, which may be more than fit into memory."""
    total = sum(as_float(rows).sum(0, np.float64) for rows in data.in_chunks(train.x))
    return np.asarray(total / len(train.x), np.float32)


def _given_class(experiment):
    return ', given their class' if experiment.model.class_conditional else ''


def reconstruction(workdir: pathlib.Path, experiment: Experiment, state: TrainState) -> Section:
    """Mean squared error of test images, where chains in z begin and end."""
    x, _, conditions = held_out_inputs(experiment)
    params, model = state.eval_params, experiment.model
    what = model.spec.examples
    steps = model.spec.latent.num_steps
    has_q = model.latent.inference is not None and model.latent.from_inference
    begin = 'q' if has_q else 'prior'
    again = {
        name: reconstructed(experiment, params, jax.random.key(2), x, conditions, n)
        for name, n in ((begin, 0), (f'{begin}_refined', steps))
    }
    mse = {name: float(np.mean(np.square(y - x))) for name, y in again.items()}
    rows = [model.pictures(part[:20]) for part in (x, *again.values())]
    caption = f'Test {what}; below each, by {begin} alone and after {steps} steps in z.'
    shown = save_shown(
        workdir, GENERATOR, 'reconstructed', 'Reconstruction', stacked(rows, caption=caption)
    )
    lines = [
        f'reconstruction, mean squared error on [-1, 1], {len(x)} test {what}'
        f'{_given_class(experiment)}: {mse[begin]:.4f} by {begin} alone, '
        f'{mse[f"{begin}_refined"]:.4f} after {steps} steps in z; samples/reconstructed.png '
        f'({what}, {begin}, after the chain)'
    ]
    return Section({'reconstruction_mse': mse}, lines, [shown])


def inpainting(workdir: pathlib.Path, experiment: Experiment, state: TrainState) -> Section:
    """The right half of test images hidden and filled in: squared error there, and whether the
    class comes back."""
    x, y, _ = held_out_inputs(experiment)
    model = experiment.model
    known = np.broadcast_to(known_without('right', model.spec), x.shape)
    what = model.spec.examples
    z_steps, x_steps = model.spec.latent.inpaint_steps, model.num_steps()
    mean = mean_image(experiment.train)
    trained = TrainedModel(model=model, params=state.eval_params, step=int(state.step))
    starts = model.spec.latent.inpaint_starts
    chains = f', the best of {starts} chains,' if starts > 1 else ''
    fills = {
        'model': trained.inpaint(
            jax.random.key(3), x, known, y if model.spec.conditional else None, fill=mean
        ),
        'mean image': np.where(known, x, mean),
        'nearest neighbour': nearest(experiment.train, x, known),
    }
    classifier = samples.fit_reference_classifier(experiment.train)
    error = {name: hidden_error(full, x, known) for name, full in fills.items()}
    right = {
        name: samples.recognition_accuracy(classifier, full, y)
        for name, full in (fills | {'whole image': x}).items()
    }
    if model.class_conditional:
        del right['model']  # it was given the class
    rows = [model.pictures(row[:20]) for row in (np.where(known, x, 0), fills['model'], x)]
    caption = (
        f'Test {what} whose right half is hidden; below each, filled in by the model, and whole.'
    )
    shown = save_shown(
        workdir, GENERATOR, 'inpainted', 'In-painting', stacked(rows, caption=caption)
    )
    lines = [
        f'in-painting: right half of {len(x)} test {what} hidden{_given_class(experiment)}, '
        f'{z_steps} steps in z{chains} and then {x_steps} in x; mean squared error of what '
        'is hidden, on [-1, 1]; class recovered, by the support vector machine; '
        'samples/inpainted.png (seen, filled in, whole)'
    ]
    for name in (*error, 'whole image'):
        error_cell = f' error {error[name]:.4f}' if name in error else ' ' * 13
        class_cell = f'   class {100 * right[name]:5.1f} %' if name in right else ''
        said = name.replace('image', what[:-1])
        lines.append(f'  {said:<18}{error_cell}{class_cell}')
    metrics = {
        'inpainting_mse': error['model'],
        'inpainting': {'mse': error, 'class_recovered': right},
    }
    return Section(metrics, lines, [shown])


def nearest(train: Examples, x: np.ndarray, known: np.ndarray, limit: int = 20_000) -> np.ndarray:
    """x with its hidden pixels from the training image that is nearest in the known ones."""
    real = as_float(data.subsample(train, limit).x)
    visible = known[0].reshape(-1)
    index = NearestNeighbors(n_neighbors=1).fit(real.reshape(len(real), -1)[:, visible])
    _, found = index.kneighbors(x.reshape(len(x), -1)[:, visible])
    return np.where(known, x, real[found[:, 0]])
