"""What evaluate reports of a run with a generator: how well it reconstructs test images, and fills in their hidden halves."""
from functools import partial

import jax
import numpy as np
from sklearn.neighbors import NearestNeighbors

from ebm_jax import data, devices
from ebm_jax.apply import latent
from ebm_jax.evaluate import samples
from ebm_jax.record import image_grid, save_grid, stacked
from experiments.parts import averaged

EXAMPLES = 1000
# What can be hidden, as shares of height and width.
PARTS = {'left': (slice(None), slice(None, 0.5)), 'right': (slice(None), slice(0.5, None)), 'top': (slice(None, 0.5), slice(None)),
         'bottom': (slice(0.5, None), slice(None)), 'centre': (slice(0.25, 0.75), slice(0.25, 0.75))}


def inputs_of(parts, n=EXAMPLES):
    """(test images [n, ...] in [-1, 1], their labels, what conditional networks take of them)."""
    some = data.some(parts.test, n)
    return samples.as_float(some.x), some.y, [some.y] if parts.by_class else []


def reconstructed(parts, params, key, x, of, steps):
    """g(z) of images, z after `steps` steps."""
    return devices.for_each(partial(latent.reconstruct, parts.model, steps=steps), params, key, [x, *of], description='reconstructions')


def filled(parts, params, key, x, known, of, *, z_steps, x_steps):
    """Images with what is not known filled in; where nothing is known yet, the inference model sees the mean training image."""
    one = partial(latent.inpaint, parts.model, z_steps=z_steps, x_kernel=parts.kernel_at(parts.fresh.step_size), x_steps=x_steps,
                  fill=mean_image(parts))
    return devices.for_each(one, params, key, [x, known, *of], description='in-painting')


def without(part, shape):
    """bool [H, W, 1]: images but for one of PARTS."""
    known = np.ones((*shape[:2], 1), bool)
    edge = lambda share, n: None if share is None else round(share * n)
    known[tuple(slice(edge(cut.start, n), edge(cut.stop, n)) for cut, n in zip(PARTS[part], shape))] = False
    return known


def hidden_error(full, x, known):
    """Mean squared error of what was hidden, on [-1, 1]."""
    return float(np.mean(np.square(np.clip(full, -1, 1) - x)[~known]))


def mean_image(parts):
    return samples.as_float(parts.train.x).mean(0)


def given_class(parts):
    return ', given their class' if parts.by_class else ''


def reconstruction(workdir, config, parts, state):
    """Mean squared error of test images, where chains in z begin and end."""
    x, _, of = inputs_of(parts)
    params, steps = averaged(state), config.test_z.num_steps
    begin = 'q' if parts.model.inference and parts.model.from_inference else 'prior'
    again = {name: reconstructed(parts, params, jax.random.key(2), x, of, n) for name, n in ((begin, 0), (f'{begin}_refined', steps))}
    mse = {name: float(np.mean(np.square(y - x))) for name, y in again.items()}
    save_grid(workdir / 'samples' / 'reconstructed.png', image_grid(*stacked([part[:20] for part in (x, *again.values())])))
    return {'reconstruction_mse': mse}, [
        f'reconstruction, mean squared error on [-1, 1], {len(x)} test images{given_class(parts)}: {mse[begin]:.4f} by {begin} alone, '
        f'{mse[f"{begin}_refined"]:.4f} after {steps} steps in z; samples/reconstructed.png (image, {begin}, after the chain)']


def inpainting(workdir, config, parts, state):
    """The right half of test images hidden and filled in: squared error there, and whether the class comes back."""
    x, y, of = inputs_of(parts)
    known = np.broadcast_to(without('right', x.shape[1:]), x.shape)
    z_steps, x_steps = config.test_z.inpaint_steps, parts.steps()
    fills = {'model': filled(parts, averaged(state), jax.random.key(3), x, known, of, z_steps=z_steps, x_steps=x_steps),
             'mean image': np.where(known, x, mean_image(parts)), 'nearest neighbour': nearest(parts.train, x, known)}
    judge = samples.independent_judge(parts.train)
    error = {name: hidden_error(z, x, known) for name, z in fills.items()}
    right = {name: samples.agreement(judge, z, y) for name, z in (fills | {'whole image': x}).items()}
    if parts.by_class:
        del right['model']   # it was told
    rows = np.where(known, x, 0), fills['model'], x
    save_grid(workdir / 'samples' / 'inpainted.png', image_grid(*stacked([row[:20] for row in rows])))
    lines = [f'in-painting: right half of {len(x)} test images hidden{given_class(parts)}, {z_steps} steps in z and then {x_steps} in x; '
             'mean squared error of hidden pixels on [-1, 1]; class recovered, by the support vector machine; samples/inpainted.png (seen, '
             'filled in, image)']
    for name in (*error, 'whole image'):
        lines.append(f'  {name:<18}' + (f' error {error[name]:.4f}' if name in error else ' ' * 13)
                     + (f'   class {100 * right[name]:5.1f} %' if name in right else ''))
    return {'inpainting_mse': error['model'], 'inpainting': {'mse': error, 'class_recovered': right}}, lines


def nearest(train, x, known, limit=20_000):
    """x with its hidden pixels from the training image that is nearest in the known ones."""
    real = samples.as_float(data.some(train, limit).x)
    visible = known[0].reshape(-1)
    index = NearestNeighbors(n_neighbors=1).fit(real.reshape(len(real), -1)[:, visible])
    _, found = index.kneighbors(x.reshape(len(x), -1)[:, visible])
    return np.where(known, x, real[found[:, 0]])
