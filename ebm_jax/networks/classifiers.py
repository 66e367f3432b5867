"""Classifiers, whose logits are energies."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from ebm_jax.networks.base import Conv
from ebm_jax.types import Array


class ConvNet(nn.Module):
    """3x3 convolutions with swish, a dense head on the remaining grid: [N, H, W, C] -> logits
    [N, num_classes].

    Args:
      widths: channels of each layer. strides: of each layer, 1 or 2; () for 1, 2, 2 and then 1.
      dtype: compute type, bfloat16 or float32.
    Raises: ValueError when widths and strides are not equally many.
    """

    num_classes: int
    widths: Sequence[int] = (32, 64, 128)
    strides: Sequence[int] = ()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        strides = self.strides or (1, 2, 2, *[1] * len(self.widths))[: len(self.widths)]
        if len(self.widths) != len(strides):
            raise ValueError(
                f'widths and strides must be equally many, got {self.widths} and {strides}'
            )
        for width, stride in zip(self.widths, strides):
            x = nn.swish(Conv(width, (3, 3), (stride, stride), dtype=self.dtype)(x))
        return nn.Dense(self.num_classes, dtype=jnp.float32)(x.reshape(len(x), -1))


class Conv1DNet(nn.Module):
    """Convolutions along one axis with swish, a dense head: [N, T, F, 1] -> logits
    [N, num_classes]; the other axis becomes channels.

    Args:
      along: 'time' (spectra as channels) or 'frequency' (frames as channels).
      widths, strides: of each layer. size: of the kernels. dtype: compute type.
    Raises: ValueError for another axis, or when widths and strides are not equally many.
    """

    num_classes: int
    along: str = 'time'
    widths: Sequence[int] = (64, 128, 128)
    strides: Sequence[int] = (1, 2, 2)
    size: int = 5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.along not in ('time', 'frequency') or len(self.widths) != len(self.strides):
            raise ValueError(
                'convolutions run along time or frequency, and widths and strides must be equally'
                f' many, got {self.along!r}, {self.widths} and {self.strides}'
            )
        x = x if self.along == 'time' else x.swapaxes(1, 2)
        x = x.swapaxes(2, 3)
        for width, stride in zip(self.widths, self.strides):
            x = nn.swish(Conv(width, (self.size, 1), (stride, 1), dtype=self.dtype)(x))
        return nn.Dense(self.num_classes, dtype=jnp.float32)(x.reshape(len(x), -1))


class WideBlock(nn.Module):
    """Pre-activation residual block: act, 3x3, act, 3x3 (strided), plus x or a strided 1x1 of
    it."""

    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        act = partial(nn.leaky_relu, negative_slope=0.2)
        strides = (self.stride, self.stride)
        y = Conv(self.width, (3, 3), dtype=self.dtype)(act(x))
        y = Conv(self.width, (3, 3), strides, dtype=self.dtype)(act(y))
        if self.stride != 1 or x.shape[-1] != self.width:
            x = Conv(self.width, (1, 1), strides, dtype=self.dtype)(x)
        return x + y


class WideResNet(nn.Module):
    """Wide residual network without normalisation: [N, H, W, C] -> logits [N, num_classes], H and W
    multiples of 4.

    LeakyReLU of slope 0.2, biases, mean over the final grid. Depth 28 and width 10 are JEM's
    (36.5 M parameters).

    Args:
      depth: 6 n + 4 with n blocks in each of three stages.
      width: factor on 16, 32 and 64 channels.
    Raises: ValueError for another depth.
    Source: Zagoruyko & Komodakis 2016; without normalisation Grathwohl et al. 2020.
    """

    num_classes: int
    depth: int = 28
    width: int = 10
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(
                f'the depth of a wide residual network is 6 n + 4 with n >= 1, got {self.depth}'
            )
        x = Conv(16, (3, 3), dtype=self.dtype)(x)
        for stage in range(3):
            for block in range(blocks):
                x = WideBlock(
                    16 * 2**stage * self.width, 2 if stage > 0 and block == 0 else 1, self.dtype
                )(x)
        x = nn.leaky_relu(x, 0.2).astype(jnp.float32).mean((1, 2))
        return nn.Dense(self.num_classes, dtype=jnp.float32)(x)
