"""The Inception-v3 network of the Frechet Inception distance, as a function of weights that the
user supplies.

The file is pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`, the PyTorch port of the
2015-12-05 TensorFlow graph, as it is (read by `torch_file`, without PyTorch), or the same arrays
under the same names as .safetensors or .npz.

For each convolution NAME: `NAME.conv.weight` [O, C, kh, kw] and `NAME.bn.weight`, `.bias`,
`.running_mean`, `.running_var` [O]; and, for the Inception Score, `fc.weight` [1008, 2048] where it
is there. Other arrays (`fc.bias`, `num_batches_tracked`) are not read. Images in [-1, 1] are
resized to 299x299 (bilinear, half-pixel centres, no antialiasing), grey ones repeated in three
channels.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ebm_jax.errors import InputError
from ebm_jax.types import Array

FEATURES = 2048
EPSILON = 1e-3  # of the batch norms
CLASSIFIER = 'fc.weight'
STEM = ['Conv2d_1a_3x3', 'Conv2d_2a_3x3', 'Conv2d_2b_3x3', 'Conv2d_3b_1x1', 'Conv2d_4a_3x3']
PARTS = 'conv.weight', 'bn.weight', 'bn.bias', 'bn.running_mean', 'bn.running_var'


def check(weights: Mapping[str, Any], file: str | pathlib.Path) -> None:
    """Raise InputError unless every array that `features` reads is there in its shape, and the
    classifier in its own where there is one."""

    def all_of():
        found = features(weights, jnp.zeros((1, 32, 32, 3)))
        return class_probs(weights, found) if CLASSIFIER in weights else found

    try:
        jax.eval_shape(all_of)
    except KeyError as error:
        raise InputError(
            f'{file} lacks the array {error.args[0]!r} of the FID Inception network:'
            ' ebm_jax/evaluate/inception.py says what it must hold'
        ) from error
    except (TypeError, ValueError) as error:
        raise InputError(
            f'{file} holds an array of another shape than the FID Inception network has '
            f'({str(error).splitlines()[0]})'
        ) from error


def features(weights: Mapping[str, Any], x: Array) -> Array:
    """Images [N, H, W, C] in [-1, 1] -> the pool features [N, 2048].

    As in the graph that defines FID, average pools leave padding out of their mean, and the last
    block pools by maximum.

    Source: Szegedy et al. 2016; Heusel et al. 2017 for the distance.
    """

    def conv(x, name, stride=1, padding='VALID'):
        kernel, gain, bias, mean, var = (weights[f'{name}.{part}'] for part in PARTS)
        x = lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            dimension_numbers=('NHWC', 'OIHW', 'NHWC'),
            precision=lax.Precision.HIGHEST,
        )
        return jax.nn.relu((x - mean) * (gain * lax.rsqrt(var + EPSILON)) + bias)

    def tower(x, block, *layers):
        """Layers (name, stride, padding), one after another."""
        for name, *how in layers:
            x = conv(x, f'{block}.{name}', *how)
        return x

    def same(name):
        return (name, 1, 'SAME')

    def join(*branches):
        return jnp.concatenate(branches, -1)

    x = jnp.repeat(x, 3, -1) if x.shape[-1] == 1 else x
    x = jax.image.resize(x, (len(x), 299, 299, 3), 'linear', antialias=False)
    x = conv(x, STEM[0], 2)
    x = _max_pool(conv(conv(x, STEM[1]), STEM[2], 1, 'SAME'))
    x = _max_pool(conv(conv(x, STEM[3]), STEM[4]))
    for block in ('Mixed_5b', 'Mixed_5c', 'Mixed_5d'):
        x = join(
            tower(x, block, same('branch1x1')),
            tower(x, block, same('branch5x5_1'), same('branch5x5_2')),
            tower(x, block, same('branch3x3dbl_1'), same('branch3x3dbl_2'), same('branch3x3dbl_3')),
            tower(_mean_pool(x), block, same('branch_pool')),
        )
    double = same('branch3x3dbl_1'), same('branch3x3dbl_2'), ('branch3x3dbl_3', 2)
    x = join(tower(x, 'Mixed_6a', ('branch3x3', 2)), tower(x, 'Mixed_6a', *double), _max_pool(x))
    for block in ('Mixed_6b', 'Mixed_6c', 'Mixed_6d', 'Mixed_6e'):
        x = join(
            tower(x, block, same('branch1x1')),
            tower(x, block, *(same(f'branch7x7_{i}') for i in (1, 2, 3))),
            tower(x, block, *(same(f'branch7x7dbl_{i}') for i in (1, 2, 3, 4, 5))),
            tower(_mean_pool(x), block, same('branch_pool')),
        )
    x = join(
        tower(x, 'Mixed_7a', same('branch3x3_1'), ('branch3x3_2', 2)),
        tower(x, 'Mixed_7a', *(same(f'branch7x7x3_{i}') for i in (1, 2, 3)), ('branch7x7x3_4', 2)),
        _max_pool(x),
    )
    for block, pool in (('Mixed_7b', _mean_pool), ('Mixed_7c', lambda x: _max_pool(x, 1, 'SAME'))):
        narrow, double = (
            tower(x, block, same('branch3x3_1')),
            tower(x, block, same('branch3x3dbl_1'), same('branch3x3dbl_2')),
        )
        x = join(
            tower(x, block, same('branch1x1')),
            *(tower(narrow, block, same(f'branch3x3_2{side}')) for side in 'ab'),
            *(tower(double, block, same(f'branch3x3dbl_3{side}')) for side in 'ab'),
            tower(pool(x), block, same('branch_pool')),
        )
    return x.mean((1, 2))


def class_probs(weights: Mapping[str, Any], features: Array) -> Array:
    """Pool features [N, 2048] -> p(y|x) of the network's own classes [N, 1008], by which the
    Inception Score is defined: without the bias of the last layer.

    Source: Salimans et al. 2016 [code].
    """
    return jax.nn.softmax(jnp.asarray(features) @ jnp.asarray(weights[CLASSIFIER]).T)


def _max_pool(x, stride=2, padding='VALID'):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding)


def _mean_pool(x):
    """3x3, stride 1, over the pixels that are there."""

    def total(x):
        return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), 'SAME')

    return total(x) / total(jnp.ones_like(x[:1, ..., :1]))
