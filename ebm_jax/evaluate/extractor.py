"""Features of images for distances between sets of them: of a classifier trained on the data set in
question, or of Inception.

An Extractor is a name, a hash of its weights, and functions of images. Distances under different
extractors are not comparable.
"""

import hashlib
import pathlib
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tqdm.auto import tqdm

from ebm_jax import batching, data
from ebm_jax.data import Examples
from ebm_jax.errors import InputError
from ebm_jax.evaluate import torch_file
from ebm_jax.images import as_float
from ebm_jax.networks.base import Conv
from ebm_jax.types import Array

STEPS, BATCH, RATE = 1500, 128, 2e-3


class Extractor(NamedTuple):
    name: str  # for people
    hash: str  # of the weights, 12 hexadecimal digits
    features: Callable  # images, uint8 or float in [-1, 1], [N, H, W, C] -> numpy [N, D]
    # the same -> p(y|x) [N, classes]; None where it does not classify this data
    confidence: Callable | None
    # features [N, D] -> p(y|x) of its own classes [N, C], for the Inception Score; or None
    own_classes: Callable | None = None


class Classifier(nn.Module):
    """Three 3x3 convolutions with swish, then a layer of 64: [N, H, W, C] -> (logits, features).

    The features are the activations of that layer, each over its standard deviation on the training
    images.
    """

    num_classes: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        for width in (32, 64, 64):
            x = nn.swish(Conv(width, (3, 3), (2, 2) if x.shape[1] > 4 else (1, 1))(x))
        hidden = nn.swish(nn.Dense(64)(x.reshape(len(x), -1)))
        scale = self.param('scale', nn.initializers.ones, (64,))  # set once training is done
        return nn.Dense(self.num_classes)(hidden), hidden / jax.lax.stop_gradient(scale)


def _hash(weights):
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        array = weights[name]
        for rows in data.in_chunks(array if np.ndim(array) else np.reshape(array, 1)):
            digest.update(np.ascontiguousarray(rows).tobytes())
    return digest.hexdigest()[:12]


def classifier_extractor(examples: Examples, file: str | pathlib.Path) -> Extractor:
    """The extractor of a data set: read from `file` where that exists, else trained on `examples`
    and written to it.

    Training is a function of the examples alone (Adam 2e-3 with a cosine schedule, 1,500 batches of
    128, seed 0), but rounding differs between machines: copy the file where distances must agree to
    the last digit.

    Raises: InputError when the file cannot be written, is damaged, or belongs to other examples.
    """
    file, fingerprint = pathlib.Path(file), _hash({'x': examples.x, 'y': examples.y})
    module = Classifier(examples.num_classes)
    if file.exists():
        weights = _read(file)
        if str(weights.pop('examples', '')) != fingerprint:
            raise InputError(
                f'{file} is no extractor of {examples.name} (trained on other images or labels):'
                ' delete it or name another'
            )
    else:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            beside = file.with_name(file.name + '.part')
            with beside.open('wb') as out:
                weights = {
                    name: np.asarray(leaf)
                    for name, leaf in flatten_dict(_train(module, examples), sep='/').items()
                }
                np.savez(out, examples=fingerprint, **weights)
            beside.replace(file)
        except OSError as error:
            raise InputError(
                f'the extractor cannot be written to {file} ({error.strerror}): name another file'
                ' by --extractor'
            ) from error
    params = unflatten_dict(weights, sep='/')

    def apply(params, x):
        return module.apply({'params': params}, x)

    return Extractor(
        f'a classifier trained on {examples.name}',
        _hash(weights),
        lambda images: _over(apply, params, as_float(images))[1],
        lambda images: np.asarray(jax.nn.softmax(_over(apply, params, as_float(images))[0])),
    )


def _train(module, examples):
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
    params = jax.jit(module.init)(jax.random.key(0), as_float(examples.x[:1]))['params']
    size = min(BATCH, len(examples.x))

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state, x, y):
        def loss(params):
            logits, _ = module.apply({'params': params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    opt_state = optimizer.init(params)
    for i in tqdm(range(STEPS), desc='training the extractor', unit='step', delay=2, leave=False):
        batch = data.batch_at(examples, i, size)
        params, opt_state = step(params, opt_state, as_float(batch['x']), batch['y'])
    _, hidden = _over(
        lambda params, x: module.apply({'params': params}, x),
        params,
        as_float(data.subsample(examples, 10_000).x),
    )
    return {**params, 'scale': hidden.std(0) + 1e-6}


def _read(file):
    try:
        with np.load(file, allow_pickle=False) as pack:
            return {name: pack[name] for name in pack.files}
    except (zipfile.BadZipFile, zlib.error, ValueError, TypeError, EOFError, OSError) as error:
        raise InputError(
            f'{file} cannot be read as .npz ({error}): it may be missing or damaged'
        ) from error


def _weights(file: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Arrays by name, in one of the formats that such weights come in."""
    ending = pathlib.Path(file).suffix
    if ending in ('.pth', '.pt'):
        return torch_file.read(file)
    if ending != '.safetensors':
        return _read(file)
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f'{file} cannot be read ({error}): it may be missing or damaged'
        ) from error


def _over(apply, params, images, batch_size=256):
    """apply(params, images) in batches, as numpy."""
    compiled = jax.jit(lambda params, begin, x: apply(params, x))
    return batching.in_batches(
        compiled, params, [images], batch_size=batch_size, description='features'
    )


def inception_extractor(file: str | pathlib.Path) -> Extractor:
    """The 2,048 pool features of the FID Inception network, with weights from the user's disk (see
    `inception`): true FID; and the Inception Score where the file has the classifier.

    Images are rounded to 256 grey levels first, like images in files.

    Args: file: .npz, .safetensors, or the .pth that users of pytorch-fid have.
    Raises: InputError when the file is missing, damaged, or lacks an array.
    """
    from ebm_jax.evaluate import inception

    weights = _weights(file)
    inception.check(weights, file)
    return Extractor(
        f'FID Inception ({pathlib.Path(file).name})',
        _hash(weights),
        lambda images: _over(
            inception.features,
            weights,
            np.round((as_float(images) + 1) * 127.5) / np.float32(127.5) - 1,
            batch_size=32,
        ),
        None,
        partial(inception.class_probs, weights) if inception.CLASSIFIER in weights else None,
    )
