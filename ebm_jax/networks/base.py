"""Building blocks of networks: modules as `Network` of one example, convolutions, transforms of a
layer's kernel, pooling."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import InvalidRngError

from ebm_jax.conv import DIMENSIONS, conv
from ebm_jax.types import Array, ArrayLike, Network

Conv = partial(nn.Conv, conv_general_dilated=conv)


def per_example(module: nn.Module) -> Network:
    """A linen module of a batch -> Network of ONE example (linen's group norm, for one, is silently
    wrong without a batch axis).

    Raises: TypeError for anything but a linen module; ValueError, when called, for one with other
      state than parameters (batch statistics, which would couple chains) or with dropout.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f'per_example takes a linen module, got {type(module).__name__}: nnx modules go '
            'through nnx_per_example, plain functions straight into Network(init, apply)'
        )

    def batch(inputs):
        return (jnp.asarray(one)[None] for one in inputs)

    def init(key, *inputs):
        variables = module.init(key, *batch(inputs))
        if set(variables) - {'params'}:
            others = ', '.join(sorted(set(variables) - {'params'}))
            raise ValueError(
                f'{type(module).__name__} keeps other state than parameters ({others}), which '
                'would couple chains: use a network without it'
            )
        return variables['params']

    def apply(params, *inputs):
        try:
            outputs = module.apply({'params': params}, *batch(inputs))
        except InvalidRngError as error:
            raise ValueError(
                f'{type(module).__name__} draws random numbers (dropout), but an energy must be '
                'the same at each call: use a network without it'
            ) from error
        return jax.tree.map(lambda leaf: leaf[0], outputs)

    return Network(init, apply, module)


def nnx_per_example(make: Callable[[nnx.Rngs], nnx.Module]) -> Network:
    """An nnx module of a batch -> Network of ONE example.

    Args: make: random numbers -> module, such as `lambda rngs: MyNet(64, rngs=rngs)`.
    Raises: ValueError, when called, for a module with other state than parameters.
    """

    def split(key):
        graph, params, rest = nnx.split(make(nnx.Rngs(key)), nnx.Param, ...)  # type: ignore[misc]
        if jax.tree.leaves(rest):
            raise ValueError(
                f'{make} makes a module with other state than parameters (statistics, random '
                'numbers), which would couple chains: use a network without it'
            )
        return graph, params, rest

    def init(key, *inputs):
        return nnx.to_pure_dict(split(key)[1])

    def apply(params, *inputs):
        graph, state, rest = nnx.eval_shape(lambda: split(jax.random.key(0)))
        nnx.replace_by_pure_dict(state, params)
        outputs = nnx.merge(graph, state, rest)(*(jnp.asarray(one)[None] for one in inputs))
        return jax.tree.map(lambda leaf: leaf[0], outputs)

    return Network(init, apply)


def standardised(kernel: Array) -> Array:
    """Weight standardisation: (W - mean) / (std + 1e-5) over each output channel.

    [kh, kw, C, O] -> the same.
    Source: Qiao et al. 2019.
    """
    axes = tuple(range(kernel.ndim - 1))
    return (kernel - kernel.mean(axes)) / (kernel.std(axes) + 1e-5)


def spectral(kernel: Array, iterations: int = 40) -> Array:
    """W / sigma(W), sigma the largest singular value of W as a matrix [kh kw C, O]: Lipschitz
    control of a layer.

    Without state: power iteration from a fixed vector at every call, vectors without gradient; on
    random kernels sigma comes out within 1 %. The release and Miyato et al. 2018 keep a vector
    between steps instead; ours makes the energy a function of its parameters alone.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    fixed, tiny = jax.lax.stop_gradient(matrix), jnp.finfo(matrix.dtype).tiny

    def iterate(_, v):
        v = fixed.T @ (fixed @ v)
        return v / jnp.maximum(jnp.linalg.norm(v), tiny)

    v = jax.lax.fori_loop(
        0, iterations, iterate, jnp.cos(jnp.arange(1.0, matrix.shape[1] + 1)) + 0.1
    )
    u = fixed @ v
    sigma = (u / jnp.maximum(jnp.linalg.norm(u), tiny)) @ matrix @ v
    return kernel / sigma


def identity(kernel: Array) -> Array:
    """Leave a layer's kernel as it is."""
    return kernel


def check_label(num_classes: int, label: ArrayLike | None) -> None:
    """Refuse to call a conditional network without a label.

    Raises: ValueError.
    """
    if num_classes and label is None:
        raise ValueError('this network is conditional: call it with a label')


class TransformedConv(nn.Module):
    """A convolution with the layer's kernel after `kernel_transform`.

    [N, H, W, C] -> [N, H / stride, W / stride, features].
    """

    features: int
    kernel_transform: Callable = identity
    stride: int = 1
    size: int = 3
    dtype: jnp.dtype | None = None  # compute type; the kernel is transformed in its own

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param(
            'kernel',
            nn.initializers.lecun_normal(),
            (self.size, self.size, x.shape[-1], self.features),
        )
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        strides = (self.stride, self.stride)
        x, kernel, bias = nn.dtypes.promote_dtype(
            x, self.kernel_transform(kernel), bias, dtype=self.dtype
        )
        return conv(x, kernel, strides, dimension_numbers=DIMENSIONS) + bias


def float32(x: Array) -> Array:
    """x in float32, or in float64 where it is that: what a network returns, whatever it computes
    in."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def avg_pool_2x(x: Array) -> Array:
    """Average pool of 3x3 with stride 2, one pixel of zeros around.

    [N, H, W, C] -> [N, ceil(H / 2), ceil(W / 2), C].
    """
    # as sums of strided slices: their gradient stays fast inside a scan on the CPU
    for axis in (1, 2):
        n = x.shape[axis]
        padded = jnp.pad(x, [(1, 1 + n % 2) if a == axis else (0, 0) for a in range(4)])
        rows = [
            jax.lax.slice_in_dim(padded, begin, begin + n + n % 2 - 1, 2, axis)
            for begin in range(3)
        ]
        x = (rows[0] + rows[1] + rows[2]) / 3
    return x
