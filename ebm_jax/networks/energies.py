"""Residual energies, at one scale or several (improved contrastive divergence)."""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from ebm_jax.networks.base import (
    TransformedConv,
    avg_pool_2x,
    check_label,
    float32,
    identity,
    standardised,
)
from ebm_jax.types import Array


class SelfAttention(nn.Module):
    """x + gamma attention(x) over the grid, gamma starting at 0; queries and keys of C / 8. Zhang
    et al. 2019."""

    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size = x.shape
        if size[-1] < 8:
            raise ValueError(f'self-attention needs at least 8 channels, got {size[-1]}')
        pixels = x.reshape(size[0], -1, size[-1])
        query, key, value = (
            nn.Dense(features, dtype=self.dtype)(pixels)
            for features in (size[-1] // 8, size[-1] // 8, size[-1])
        )
        share = nn.softmax(jnp.einsum('nqc,nkc->nqk', query, key))
        gamma = self.param('gamma', nn.initializers.zeros, ()).astype(value.dtype)
        return x + gamma * jnp.einsum('nqk,nkc->nqc', share, value).reshape(size)


class EnergyBlock(nn.Module):
    """x + [conv, norm, class gain and bias, swish] twice; then, where `down` is set, conv to `down`
    channels, `avg_pool_2x`, swish."""

    kernel_transform: Callable
    downsample_transform: Callable
    norm: bool
    num_classes: int
    down: int | None = None
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array, label: Array | None) -> Array:
        channels, y = x.shape[-1], x
        for layer in range(2):
            y = TransformedConv(channels, self.kernel_transform, dtype=self.dtype)(y)
            if self.norm:
                if x.shape[1] * x.shape[2] == 1:
                    raise ValueError(
                        'a 1x1 grid cannot be normalised per channel: use fewer stages for images'
                        ' of this size'
                    )
                few, dtype = channels <= 128, self.dtype
                y = (nn.InstanceNorm(dtype=dtype) if few else nn.GroupNorm(32, dtype=dtype))(y)
            if self.num_classes:
                gain, bias = (
                    nn.Embed(
                        self.num_classes,
                        channels,
                        dtype=self.dtype,
                        embedding_init=nn.initializers.zeros,
                        name=name,
                    )(label)[:, None, None]
                    for name in (f'gain_{layer}', f'bias_{layer}')
                )
                y = (1 + gain) * y + bias
            y = nn.swish(y)
        x = x + y
        if self.down is None:
            return x
        down = TransformedConv(self.down, self.downsample_transform, dtype=self.dtype)
        return nn.swish(avg_pool_2x(down(x)))


class ResidualEnergy(nn.Module):
    """Residual energy network with swish: [N, H, W, C] -> [N].

    A 3x3 convolution to F channels; for each entry of `stages`, if `plain` a block that keeps the
    grid, then a block that halves it and goes to stages[i] F channels; mean over the grid; dense.

    Args:
      width: F.
      stages, plain: as above. CIFAR-10 has (1, 2, 4, 8) with plain blocks, MNIST (2, 4, 8) without.
      kernel_transform: of the kernels in front of a norm: `standardised`, `spectral`, or
        `identity`.
      downsample_transform: of the kernels of the first and of the down-sampling convolutions.
      norm: instance norm up to 128 channels, else group norm of 32 groups.
      attention_after: None, or the number of stages before self-attention, which needs 8 channels.
      num_classes: 0, or C >= 1 for a class gain and bias behind each norm, initially 1 and 0.
      stem_stride: of the first convolution, 1 in the paper; 2 makes everything four times cheaper
        (our addition).
      head_bias: whether the dense layer adds a constant. Only squared energies teach it; where the
        loss has none, its gradient is rounding noise, of which Adam makes full steps (our reading).
      dtype: compute type, as bfloat16; None: that of the input. Energies are float32.
    Raises: ValueError when a normalised grid has shrunk to one pixel, or a label is missing.
    Source: [code] of Du et al. 2021.
    """

    width: int = 64
    stages: Sequence[int] = (1, 2, 4, 8)
    plain: bool = True
    kernel_transform: Callable = standardised
    downsample_transform: Callable = identity
    norm: bool = True
    attention_after: int | None = None
    num_classes: int = 0
    stem_stride: int = 1
    dtype: jnp.dtype | None = None
    head_bias: bool = True

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None) -> Array:
        check_label(self.num_classes, label)
        if self.attention_after is not None and not 1 <= self.attention_after <= len(self.stages):
            raise ValueError(
                f'attention_after must lie in 1 to {len(self.stages)}, the number of stages, got'
                f' {self.attention_after}'
            )
        block = partial(
            EnergyBlock,
            self.kernel_transform,
            self.downsample_transform,
            self.norm,
            self.num_classes,
            dtype=self.dtype,
        )
        stem = TransformedConv(
            self.width, self.downsample_transform, self.stem_stride, dtype=self.dtype
        )
        x = nn.swish(stem(x))
        for done, factor in enumerate(self.stages):
            if self.plain:
                x = block()(x, label)
            x = block(down=factor * self.width)(x, label)
            if self.attention_after == done + 1:
                x = SelfAttention(self.dtype)(x)
        return nn.Dense(1, use_bias=self.head_bias)(float32(x).mean((1, 2)))[:, 0]


class MultiScaleEnergy(nn.Module):
    """Separate residual energies at full, half, quarter, ... resolution: [N, H, W, C] -> energies
    [N, scales].

    Scale s sees the image average-pooled s times, has no last s stages, and has attention only for
    s = 0.

    Args: scales: >= 1, at most the number of stages. The rest as in `ResidualEnergy`.
    Raises: ValueError for another number of scales.
    Source: [code] of Du et al. 2021; 6.56 M parameters at width 64.
    """

    width: int = 64
    stages: Sequence[int] = (1, 2, 4, 8)
    scales: int = 3
    plain: bool = True
    kernel_transform: Callable = standardised
    downsample_transform: Callable = identity
    norm: bool = True
    attention_after: int | None = 2
    num_classes: int = 0
    stem_stride: int = 1
    dtype: jnp.dtype | None = None
    head_bias: bool = True

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None) -> Array:
        if not 1 <= self.scales <= len(self.stages):
            raise ValueError(
                f'scales must lie in 1 to {len(self.stages)}, the number of stages, got'
                f' {self.scales}'
            )
        energies = []
        for scale in range(self.scales):
            energies.append(
                ResidualEnergy(
                    self.width,
                    self.stages[: len(self.stages) - scale],
                    self.plain,
                    self.kernel_transform,
                    self.downsample_transform,
                    self.norm,
                    None if scale else self.attention_after,
                    self.num_classes,
                    self.stem_stride,
                    self.dtype,
                    self.head_bias,
                )(x, label)
            )
            x = avg_pool_2x(x)
        return jnp.stack(energies, 1)
