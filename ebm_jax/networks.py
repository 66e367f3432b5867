"""The networks, as linen modules behind `Network(init, apply)` of one example.

No batch statistics and no other mutable state: they would couple chains. Outputs (logits, energies) are float32 whatever the
compute type `dtype`; parameters and chain states are float32 too.
"""
from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from ebm_jax.conv import DIMENSIONS, conv
from ebm_jax.types import Network

Conv = partial(nn.Conv, conv_general_dilated=conv)


def per_example(module):
    """A linen module of a batch -> Network of ONE example (linen's group norm, for one, is silently wrong without a batch axis)."""
    batch = lambda inputs: (jnp.asarray(one)[None] for one in inputs)
    return Network(lambda key, *inputs: module.init(key, *batch(inputs))['params'],
                   lambda params, *inputs: module.apply({'params': params}, *batch(inputs))[0])


class ConvNet(nn.Module):
    """3x3 convolutions with swish, a dense head on what is left of the grid: [N, H, W, C] -> logits [N, num_classes].

    widths: channels of each layer; strides: of each layer, 1 or 2. dtype: compute type, bfloat16 or float32.
    Raises: ValueError when they are not equally many.
    """
    num_classes: int
    widths: Sequence[int] = (32, 64, 128)
    strides: Sequence[int] = (1, 2, 2)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        if len(self.widths) != len(self.strides):
            raise ValueError(f'widths and strides must be equally many, got {self.widths} and {self.strides}')
        for width, stride in zip(self.widths, self.strides):
            x = nn.swish(Conv(width, (3, 3), (stride, stride), dtype=self.dtype)(x))
        return nn.Dense(self.num_classes, dtype=jnp.float32)(x.reshape(len(x), -1))


class WideBlock(nn.Module):
    """Pre-activation residual block: act, 3x3, act, 3x3 (strided), plus x or a strided 1x1 of it."""
    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        act = partial(nn.leaky_relu, negative_slope=0.2)
        strides = (self.stride, self.stride)
        y = Conv(self.width, (3, 3), dtype=self.dtype)(act(x))
        y = Conv(self.width, (3, 3), strides, dtype=self.dtype)(act(y))
        if self.stride != 1 or x.shape[-1] != self.width:
            x = Conv(self.width, (1, 1), strides, dtype=self.dtype)(x)
        return x + y


class WideResNet(nn.Module):
    """Wide residual network without normalisation: [N, H, W, C] -> logits [N, num_classes], H and W multiples of 4.

    LeakyReLU of slope 0.2, biases, mean over the final grid. Depth 28 and width 10 are JEM's (36.5 M parameters).

    Args: depth: 6 n + 4 with n blocks in each of three stages; width: factor on 16, 32 and 64 channels.
    Raises: ValueError for another depth.
    Source: Zagoruyko & Komodakis 2016; without normalisation Grathwohl et al. 2020.
    """
    num_classes: int
    depth: int = 28
    width: int = 10
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f'the depth of a wide residual network is 6 n + 4 with n >= 1, got {self.depth}')
        x = Conv(16, (3, 3), dtype=self.dtype)(x)
        for stage in range(3):
            for block in range(blocks):
                x = WideBlock(16 * 2 ** stage * self.width, 2 if stage > 0 and block == 0 else 1, self.dtype)(x)
        x = nn.leaky_relu(x, 0.2).astype(jnp.float32).mean((1, 2))
        return nn.Dense(self.num_classes, dtype=jnp.float32)(x)


def standardised(kernel):
    """Weight standardisation: (W - mean) / (std + 1e-5) over each output channel. [kh, kw, C, O] -> the same. Qiao et al. 2019."""
    axes = tuple(range(kernel.ndim - 1))
    return (kernel - kernel.mean(axes)) / (kernel.std(axes) + 1e-5)


def spectral(kernel, iterations=40):
    """W / sigma(W), sigma the largest singular value of W as a matrix [kh kw C, O]: Lipschitz control of a layer.

    Without state: power iteration from a fixed vector at every call, vectors without gradient; on random kernels sigma comes out within
    1 %. The release and Miyato et al. 2018 keep a vector between steps instead; ours makes the energy a function of its parameters alone.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    fixed = jax.lax.stop_gradient(matrix)

    def iterate(_, v):
        v = fixed.T @ (fixed @ v)
        return v / (jnp.linalg.norm(v) + 1e-12)

    v = jax.lax.fori_loop(0, iterations, iterate, jnp.cos(jnp.arange(1.0, matrix.shape[1] + 1)) + 0.1)
    u = fixed @ v
    sigma = (u / (jnp.linalg.norm(u) + 1e-12)) @ matrix @ v
    return kernel / sigma


def as_it_is(kernel):
    """No change of a layer's kernel."""
    return kernel


class ReweightedConv(nn.Module):
    """A 3x3 convolution of the layer's kernel after `reweight`. [N, H, W, C] -> [N, H / stride, W / stride, features]."""
    features: int
    reweight: Callable = as_it_is
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        kernel = self.param('kernel', nn.initializers.lecun_normal(), (3, 3, x.shape[-1], self.features))
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        return conv(x, self.reweight(kernel), (self.stride, self.stride), dimension_numbers=DIMENSIONS) + bias


def halved(x):
    """Average pool of 3x3 with stride 2, one pixel of zeros around: [N, H, W, C] -> [N, ceil(H / 2), ceil(W / 2), C]."""
    for axis in (1, 2):   # as sums of strided slices: their gradient stays fast inside a scan on the CPU
        n = x.shape[axis]
        padded = jnp.pad(x, [(1, 1 + n % 2) if a == axis else (0, 0) for a in range(4)])
        rows = [jax.lax.slice_in_dim(padded, begin, begin + n + n % 2 - 1, 2, axis) for begin in range(3)]
        x = sum(rows) / 3
    return x


class SelfAttention(nn.Module):
    """x + gamma attention(x) over the grid, gamma starting at 0; queries and keys of C / 8. Zhang et al. 2019."""

    @nn.compact
    def __call__(self, x):
        size = x.shape
        if size[-1] < 8:
            raise ValueError(f'self-attention needs at least 8 channels, got {size[-1]}')
        pixels = x.reshape(size[0], -1, size[-1])
        query, key, value = (nn.Dense(features)(pixels) for features in (size[-1] // 8, size[-1] // 8, size[-1]))
        share = nn.softmax(jnp.einsum('nqc,nkc->nqk', query, key))
        gamma = self.param('gamma', nn.initializers.zeros, ())
        return x + gamma * jnp.einsum('nqk,nkc->nqc', share, value).reshape(size)


class EnergyBlock(nn.Module):
    """x + [conv, norm, class gain and bias, swish] twice; then, where `down` is set, conv to `down` channels, `halved`, swish."""
    reweight: Callable
    reweight_rest: Callable
    norm: bool
    num_classes: int
    down: int | None = None

    @nn.compact
    def __call__(self, x, label):
        channels, y = x.shape[-1], x
        for layer in range(2):
            y = ReweightedConv(channels, self.reweight)(y)
            if self.norm:
                if x.shape[1] * x.shape[2] == 1:
                    raise ValueError('a 1x1 grid cannot be normalised per channel: use fewer stages for images of this size')
                y = nn.InstanceNorm()(y) if channels <= 128 else nn.GroupNorm(num_groups=32)(y)
            if self.num_classes:
                gain, bias = (nn.Embed(self.num_classes, channels, embedding_init=nn.initializers.zeros, name=name)(label)[:, None, None]
                              for name in (f'gain_{layer}', f'bias_{layer}'))
                y = (1 + gain) * y + bias
            y = nn.swish(y)
        x = x + y
        return x if self.down is None else nn.swish(halved(ReweightedConv(self.down, self.reweight_rest)(x)))


class ResidualEnergy(nn.Module):
    """Residual energy network with swish: [N, H, W, C] -> [N].

    A 3x3 convolution to F channels; for each entry of `stages`, if `plain` a block that keeps the grid, then a block that halves it and
    goes to stages[i] F channels; mean over the grid; dense.

    Args:
      width: F. stages, plain: as above. CIFAR-10 has (1, 2, 4, 8) with plain blocks, MNIST (2, 4, 8) without.
      reweight: of the kernels in front of a norm: `standardised`, `spectral`, or `as_it_is`. reweight_rest: of the first convolution's
        and the down-sampling ones' kernels.
      norm: instance norm up to 128 channels, else group norm of 32 groups. attention_after: None, or the number of stages before
        self-attention, which needs 8 channels. num_classes: 0, or C >= 1 for a class gain and bias behind each norm, starting at 1 and 0.
      stem_stride: of the first convolution, 1 in the paper; 2 makes everything four times cheaper (our addition).
    Raises: ValueError when a normalised grid has shrunk to one pixel, or a label is missing.
    Source: [code] of Du et al. 2021.
    """
    width: int = 64
    stages: Sequence[int] = (1, 2, 4, 8)
    plain: bool = True
    reweight: Callable = standardised
    reweight_rest: Callable = as_it_is
    norm: bool = True
    attention_after: int | None = None
    num_classes: int = 0
    stem_stride: int = 1

    @nn.compact
    def __call__(self, x, label=None):
        if self.num_classes and label is None:
            raise ValueError('this energy is conditional: call it with a label')
        if self.attention_after is not None and not 1 <= self.attention_after <= len(self.stages):
            raise ValueError(f'attention_after must lie in 1 to {len(self.stages)}, the number of stages, got {self.attention_after}')
        block = partial(EnergyBlock, self.reweight, self.reweight_rest, self.norm, self.num_classes)
        x = nn.swish(ReweightedConv(self.width, self.reweight_rest, self.stem_stride)(x))
        for done, factor in enumerate(self.stages):
            if self.plain:
                x = block()(x, label)
            x = block(down=factor * self.width)(x, label)
            if self.attention_after == done + 1:
                x = SelfAttention()(x)
        return nn.Dense(1)(x.mean((1, 2)))[:, 0]


class MultiScaleEnergy(nn.Module):
    """Separate residual energies at full, half, quarter, ... resolution: [N, H, W, C] -> energies [N, scales].

    Scale s sees the image `halved` s times, has no last s stages, and attention only where s = 0.

    Args: scales: >= 1, at most the number of stages. The rest as `ResidualEnergy`.
    Raises: ValueError for another number of scales. Source: [code] of Du et al. 2021; 6.56 M parameters at width 64.
    """
    width: int = 64
    stages: Sequence[int] = (1, 2, 4, 8)
    scales: int = 3
    plain: bool = True
    reweight: Callable = standardised
    reweight_rest: Callable = as_it_is
    norm: bool = True
    attention_after: int | None = 2
    num_classes: int = 0
    stem_stride: int = 1

    @nn.compact
    def __call__(self, x, label=None):
        if not 1 <= self.scales <= len(self.stages):
            raise ValueError(f'scales must lie in 1 to {len(self.stages)}, the number of stages, got {self.scales}')
        energies = []
        for scale in range(self.scales):
            energies.append(ResidualEnergy(
                self.width, self.stages[:len(self.stages) - scale], self.plain, self.reweight, self.reweight_rest, self.norm,
                None if scale else self.attention_after, self.num_classes, self.stem_stride)(x, label))
            x = halved(x)
        return jnp.stack(energies, 1)
