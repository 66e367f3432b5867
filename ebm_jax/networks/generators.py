"""The three networks of dual-MCMC teaching: generator, inference model and spectrally normalised
energy.

Two deviations from the release, which couples the examples of a batch and keeps state: group norm
(groups of 16 channels where they divide) replaces its batch norm, and spectral normalisation is
recomputed at each call (`spectral`).
Source: [code] of Cui & Han 2023 (arXiv 2312.02469); residual blocks as in Miyato et al. 2018.
"""

import math
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from ebm_jax.labels import at_label
from ebm_jax.networks.base import Conv, TransformedConv, check_label, float32, spectral
from ebm_jax.types import Array


def _norm(x):
    size = math.gcd(16, x.shape[-1])
    return nn.GroupNorm(num_groups=None, group_size=size, dtype=x.dtype)(x)


def _with_class(x, label, num_classes):
    """x [N, D] beside the label's one-hot code, for networks that take a label."""
    check_label(num_classes, label)
    if not num_classes:
        return x
    return jnp.concatenate([x, jax.nn.one_hot(label, num_classes, dtype=x.dtype)], 1)


class Generator(nn.Module):
    """z [N, D] (and labels) -> images [N, H, W, C] in (-1, 1): dense, residual blocks that double
    the grid, 3x3 to C channels, tanh.

    A block: norm, ReLU, twice as large (bilinear), 3x3, norm, ReLU, 3x3, plus a 1x1 of the enlarged
    input. CIFAR-10 has widths of four times 512 (16.0 M parameters at D = 128), CelebA-64
    (1024, 512, 256, 128, 64) (12.2 M).

    Args:
      shape: (H, W, C) of the images.
      widths: channels on the smallest grid, then after each doubling, so that H and W must be
        multiples of 2 ** (len(widths) - 1).
      num_classes: 0, or the number of labels.
      dtype: compute type, as bfloat16; None: that of the input. Images are float32.
    Raises: ValueError for another size, or where a label is missing.
    """

    shape: Sequence[int]
    widths: Sequence[int] = (512, 512, 512, 512)
    num_classes: int = 0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None) -> Array:
        height, width, channels = self.shape
        factor = 2 ** (len(self.widths) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f'images of {height}x{width} cannot be grown by {len(self.widths) - 1} doublings: H'
                f' and W must be multiples of {factor}, so change widths'
            )
        grid = height // factor, width // factor
        conv = partial(Conv, dtype=self.dtype)
        x = nn.Dense(grid[0] * grid[1] * self.widths[0], dtype=self.dtype)(
            _with_class(z, label, self.num_classes)
        ).reshape(-1, *grid, self.widths[0])
        for features in self.widths[1:]:
            large = partial(_enlarged, size=(2 * x.shape[1], 2 * x.shape[2]))
            y = conv(features, (3, 3))(large(nn.relu(_norm(x))))
            y = conv(features, (3, 3))(nn.relu(_norm(y)))
            # a 1x1 and the enlarging commute; this order is four times cheaper
            x = y + large(conv(features, (1, 1))(x))
        x = conv(channels, (3, 3))(nn.relu(_norm(x)))
        return jnp.tanh(float32(x))


def _enlarged(x, size):
    return jax.image.resize(x, (len(x), *size, x.shape[-1]), 'bilinear')


class InferenceNet(nn.Module):
    """Images [N, H, W, C] (and labels) -> (mean, log variance) of q(z|x), each [N, latent_dim].

        q(z|x) = N(mean, diag exp(log variance))

    Convolutions with LeakyReLU (slope 0.2), 4x4 where they halve the grid and 3x3 elsewhere; two
    dense heads on the last grid. CIFAR-10: widths (128, 256, 512, 1024), strides (1, 2, 2, 2);
    CelebA-64: all strides 2; 15.2 M parameters each at D = 128.

    Args: latent_dim: D. widths, strides: of each layer. num_classes: 0, or the number of labels.
      dtype: compute type, as bfloat16; None: that of the input. Both results are float32.
    Raises: ValueError when widths and strides are not equally many, or a label is missing.
    """

    latent_dim: int = 128
    widths: Sequence[int] = (128, 256, 512, 1024)
    strides: Sequence[int] = (1, 2, 2, 2)
    num_classes: int = 0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None) -> tuple[Array, Array]:
        if len(self.widths) != len(self.strides):
            raise ValueError(
                f'widths and strides must be equally many, got {self.widths} and {self.strides}'
            )
        for features, stride in zip(self.widths, self.strides):
            size = 3 if stride == 1 else 4
            conv = Conv(features, (size, size), (stride, stride), dtype=self.dtype)
            x = nn.leaky_relu(conv(x), 0.2)
        x = float32(x).reshape(len(x), -1)
        x = _with_class(x, label, self.num_classes)
        return nn.Dense(self.latent_dim)(x), nn.Dense(self.latent_dim)(x)


class SpectralEnergy(nn.Module):
    """Spectrally normalised residual energy with ReLU: images [N, H, W, C] (and labels) -> energies
    [N].

    A block: ReLU (none in the first), 3x3, ReLU, 3x3, the 2x2 average where `down`, plus the input,
    through a 1x1 and the 2x2 average where the shape changes. Then ReLU, the mean over the grid,
    dense without a bias: no contrast teaches an energy's constant (our reading; [code] has one).
    Every kernel is divided by its largest singular value. CIFAR-10 has widths of four times
    512 with down (True, True, False, False) (16.8 M parameters), CelebA-64
    (64, 128, 256, 512, 1024), all down (19.5 M).

    Args:
      widths: channels after each block.
      down: which blocks halve the grid, which must then be even.
      num_classes: 0, or the number of labels.
      dtype: compute type, as bfloat16; None: that of the input. Energies are float32.
    Raises: ValueError when widths and down are not equally many, an odd grid is to be halved,
      or a label is missing.
    """

    widths: Sequence[int] = (512, 512, 512, 512)
    down: Sequence[bool] = (True, True, False, False)
    num_classes: int = 0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None) -> Array:
        if len(self.widths) != len(self.down):
            raise ValueError(
                f'widths and down must be equally many, got {self.widths} and {self.down}'
            )
        for block, (features, down) in enumerate(zip(self.widths, self.down)):
            conv = partial(TransformedConv, features, spectral, dtype=self.dtype)
            y = conv()(nn.relu(x) if block else x)
            y = conv()(nn.relu(y))
            if down:
                x, y = _averaged(x), _averaged(y)  # before the 1x1, with which it commutes
            if down or x.shape[-1] != features:
                x = conv(size=1)(x)
            x = x + y
        x = nn.relu(float32(x)).mean((1, 2))
        kernel = self.param(
            'head', nn.initializers.lecun_normal(), (x.shape[-1], self.num_classes or 1)
        )
        energies = x @ spectral(kernel)
        check_label(self.num_classes, label)
        if not self.num_classes:
            return energies[:, 0]
        return at_label(energies, jnp.asarray(label))


def _averaged(x):
    """Mean over 2x2 pixels: [N, H, W, C] -> [N, H / 2, W / 2, C]."""
    n, height, width, channels = x.shape
    if height % 2 or width % 2:
        raise ValueError(
            f'a grid of {height}x{width} cannot be halved: use fewer down blocks for images of this'
            ' size'
        )
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))
