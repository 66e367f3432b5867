"""What evaluate reports of a run with a generator: how well it reconstructs test images, and fills in their hidden halves."""
from functools import partial

import jax
import numpy as np
from sklearn.neighbors import NearestNeighbors

from ebm_jax import data, devices
from ebm_jax.apply import latent
from ebm_jax.evaluate import samples
from ebm_jax.record import image_grid, save_grid
from experiments.parts import averaged

EXAMPLES = 1000


def inputs_of(parts, n=EXAMPLES):
    """(test images [n, ...] in [-1, 1], their labels, what conditional networks take of them)."""
    some = data.some(parts.test, n)
    return samples.as_float(some.x), some.y, [some.y] if parts.by_class else []


def reconstruction(workdir, config, parts, state):
    """Mean squared error of test images, by the inference model alone and after the chain in z."""
    x, _, of = inputs_of(parts)
    params, steps = averaged(state), config.test_z.num_steps
    begins = 'q' if parts.model.inference else 'p(z)'
    again = {name: devices.for_each(partial(latent.reconstruct, parts.model, steps=n), params, jax.random.key(2), [x, *of],
                                    description='reconstructions') for name, n in (('q', 0), ('q_refined', steps))}
    mse = {name: float(np.mean(np.square(y - x))) for name, y in again.items()}
    rows = [row for begin in (0, 10) for row in (x, again['q'], again['q_refined']) for row in row[begin:begin + 10]]
    save_grid(workdir / 'samples' / 'reconstructed.png', image_grid(np.stack(rows), 10))
    return {'reconstruction_mse': mse}, [
        f'reconstruction, mean squared error on [-1, 1], {len(x)} test images: {mse["q"]:.4f} by {begins} alone, {mse["q_refined"]:.4f} '
        f'after {steps} steps in z; samples/reconstructed.png (image, {begins}, after the chain)']


def inpainting(workdir, config, parts, state):
    """The right half of test images hidden and filled in: squared error there, and whether the class comes back."""
    x, y, of = inputs_of(parts)
    known = np.broadcast_to(np.arange(x.shape[2])[:, None] < x.shape[2] // 2, x.shape)
    mean = samples.as_float(parts.train.x).mean(0)
    seen = np.where(known, x, mean)   # what is hidden is hidden
    fill = partial(latent.inpaint, parts.model, z_steps=config.test_z.inpaint_steps, x_kernel=parts.kernel_at(config.fresh.step_size),
                   x_steps=parts.steps())
    filled = {'model': devices.for_each(fill, averaged(state), jax.random.key(3), [seen, known, *of], description='in-painting'),
              'mean image': seen, 'nearest neighbour': nearest(parts.train, x, known)}
    judge = samples.independent_judge(parts.train)
    error = {name: float(np.mean(np.square(z - x)[~known])) for name, z in filled.items()}
    right = {name: samples.agreement(judge, z, y) for name, z in (filled | {'whole image': x}).items()}
    rows = [row for begin in (0, 10) for part in (np.where(known, x, 0), filled['model'], x) for row in part[begin:begin + 10]]
    save_grid(workdir / 'samples' / 'inpainted.png', image_grid(np.stack(rows), 10))
    lines = [f'in-painting: right half of {len(x)} test images hidden, {config.test_z.inpaint_steps} steps in z and then '
             f'{parts.steps()} in x; mean squared error of hidden pixels on [-1, 1]; class recovered, by the support vector machine; '
             'samples/inpainted.png (seen, filled in, image)']
    lines += [f'  {name:<18} error {error[name]:.4f}   class {100 * right[name]:5.1f} %' for name in error]
    lines.append(f'  {"whole image":<18}                class {100 * right["whole image"]:5.1f} %')
    return {'inpainting_mse': error['model'], 'inpainting': {'mse': error, 'class_recovered': right}}, lines


def nearest(train, x, known, limit=20_000):
    """x with its hidden pixels from the training image that is nearest in the known ones."""
    real = samples.as_float(data.some(train, limit).x)
    visible = known[0].reshape(-1)
    index = NearestNeighbors(n_neighbors=1).fit(real.reshape(len(real), -1)[:, visible])
    _, found = index.kneighbors(x.reshape(len(x), -1)[:, visible])
    return np.where(known, x, real[found[:, 0]])
