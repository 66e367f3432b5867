"""A convolution whose gradient stays fast inside `lax.scan` on every backend.

XLA:CPU brings the transposed convolutions of a gradient into its fast form only at the top level of
a program. Inside the body of a scan (a Langevin chain) they run in a naive loop, 3 to 100 times
slower (jax issue 12868). Here both gradients are written as ordinary forward convolutions, or as a
matrix product over patches where that is faster (strided layers, and first layers with few input
channels). The values are the same. Other backends keep XLA's own rule. The flax modules use it as
`nn.Conv(conv_general_dilated=conv)`.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ebm_jax.types import Array

DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
# up to here patches x matrix beats the convolution on the CPU (benchmarks/langevin.py)
FEW_CHANNELS = 4


def conv(
    x: Array,
    kernel: Array,
    strides: Sequence[int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = 'SAME',
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """Two-dimensional convolution, a drop-in for `lax.conv_general_dilated` in a flax module.

        y[n, i, j, o] = sum_{a, b, c} x[n, s i + a - lo, s j + b - lo, c] kernel[a, b, c, o]

    Args:
      x: images [N, H, W, C]. kernel: weights [kh, kw, C, O].
      strides: one per spatial axis. padding: 'SAME', 'VALID' or ((lo, hi), (lo, hi)).
      The rest as in `lax.conv_general_dilated`; a dilated, grouped or differently laid out
      convolution is passed on to it.
    Returns: [N, H', W', O]. On the CPU its gradient is reverse mode only (no bare `jax.jvp`);
      second order works.
    """
    ordinary = (
        feature_group_count == 1
        and all(math.prod(d or (1,)) == 1 for d in (lhs_dilation, rhs_dilation))
        and _is_nhwc(dimension_numbers, x.shape, kernel.shape)
    )
    if jax.default_backend() != 'cpu' or not ordinary:
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            precision=precision,
            preferred_element_type=preferred_element_type,
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    padding = tuple((int(low), int(high)) for low, high in padding)
    if tuple(strides) != (1, 1) or x.shape[-1] <= FEW_CHANNELS:
        return _patches(x, kernel.shape[:2], strides, padding) @ kernel.reshape(
            -1, kernel.shape[-1]
        )
    return _conv(x, kernel, padding)


def _is_nhwc(dimension_numbers, x_shape, kernel_shape):
    return len(x_shape) == 4 and (
        lax.conv_dimension_numbers(x_shape, kernel_shape, dimension_numbers)
        == lax.conv_dimension_numbers(x_shape, kernel_shape, DIMENSIONS)
    )


def _patches(x, window, strides, padding):
    """[N, H, W, C] -> [N, H', W', kh kw C], the pixels under each position of the window."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    ends = [n - k + 1 for n, k in zip(x.shape[1:3], window)]
    return jnp.concatenate(
        [
            x[:, a : a + ends[0] : strides[0], b : b + ends[1] : strides[1]]
            for a in range(window[0])
            for b in range(window[1])
        ],
        -1,
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x, kernel, padding):
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=DIMENSIONS)


def _conv_fwd(x, kernel, padding):
    return _conv(x, kernel, padding), (x, kernel)


def _conv_bwd(padding, residuals, dy):
    x, kernel = residuals
    mirrored = kernel[::-1, ::-1].swapaxes(2, 3)
    dx = _conv(
        dy,
        mirrored,
        tuple((k - 1 - low, k - 1 - high) for k, (low, high) in zip(kernel.shape, padding)),
    )
    dkernel = _conv(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), padding).transpose(
        1, 2, 0, 3
    )
    return dx, dkernel


_conv.defvjp(_conv_fwd, _conv_bwd)
