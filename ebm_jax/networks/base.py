"""What networks are made of: one example behind `Network`, convolutions, changes of a layer's kernel, pooling."""
from collections.abc import Callable
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
                   lambda params, *inputs: jax.tree.map(lambda leaf: leaf[0], module.apply({'params': params}, *batch(inputs))))


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


def check_label(num_classes, label):
    """Raises: ValueError where a conditional network is called without one."""
    if num_classes and label is None:
        raise ValueError('this network is conditional: call it with a label')


class ReweightedConv(nn.Module):
    """A convolution of the layer's kernel after `reweight`. [N, H, W, C] -> [N, H / stride, W / stride, features]."""
    features: int
    reweight: Callable = as_it_is
    stride: int = 1
    size: int = 3

    @nn.compact
    def __call__(self, x):
        kernel = self.param('kernel', nn.initializers.lecun_normal(), (self.size, self.size, x.shape[-1], self.features))
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
