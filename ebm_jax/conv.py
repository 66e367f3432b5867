"""A convolution whose gradient stays fast inside `lax.scan` on every platform.

XLA:CPU brings the transposed convolutions of a gradient into its fast form only at the top level of
a program. Inside the body of a scan (a Langevin chain) they run in a naive loop, 3 to 100 times
slower (jax issue 12868). On the CPU both gradients are therefore written as ordinary forward
convolutions, or as a matrix product over patches where that is faster (strided layers, and first
layers with few input channels). The values are the same. Other platforms keep XLA's own rule. The
choice follows the platform that a program is compiled for, which need not be the default one
(`lax.platform_dependent`). The flax modules use it as `nn.Conv(conv_general_dilated=conv)`.

The convolution is a primitive of its own, not a `jax.custom_vjp`: under `vmap` over examples that
share a kernel it must become ONE convolution of the whole batch before it is differentiated. The
gradient of a custom_vjp would be batched instead: a grouped convolution that makes the kernel's
gradient for each example, only to add them up.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ebm_jax.types import Array

DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
# up to here patches x matrix beats the convolution on the CPU (benchmarks/langevin.py)
FEW_CHANNELS = 4
PRIMITIVE = 'ebm_conv'


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
      The rest as in `lax.conv_general_dilated`; a convolution that is dilated, grouped, laid out
      differently or of a stated precision is passed on to it.
    Returns: [N, H', W', O].
    """
    ordinary = (
        feature_group_count == 1
        and precision is preferred_element_type is None
        and all(math.prod(d or (1,)) == 1 for d in (lhs_dilation, rhs_dilation))
        and _is_nhwc(dimension_numbers, x.shape, kernel.shape)
    )
    if not ordinary:
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
    strides = tuple(strides)
    if strides != (1, 1) or x.shape[-1] <= FEW_CHANNELS:
        return lax.platform_dependent(
            x,
            kernel,
            cpu=partial(_patches_times_kernel, strides=strides, padding=padding),
            default=partial(_xlas, strides=strides, padding=padding),
        )
    return _conv_p.bind(x, kernel, padding=padding)


def _is_nhwc(dimension_numbers, x_shape, kernel_shape):
    return len(x_shape) == 4 and (
        lax.conv_dimension_numbers(x_shape, kernel_shape, dimension_numbers)
        == lax.conv_dimension_numbers(x_shape, kernel_shape, DIMENSIONS)
    )


def _xlas(x, kernel, *, padding, strides=(1, 1)):
    """The convolution with XLA's own gradient."""
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=DIMENSIONS)


def _patches_times_kernel(x, kernel, *, strides, padding):
    """The convolution as a matrix product."""
    patches = _patches(x, kernel.shape[:2], strides, padding)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


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


# The convolution of stride 1, [N, H, W, C] by [kh, kw, C, O]; parameter: padding.
_conv_p = Primitive(PRIMITIVE)
_conv_p.def_impl(jax.jit(_xlas, static_argnames='padding'))
mlir.register_lowering(_conv_p, mlir.lower_fun(_xlas, multiple_results=False))


@_conv_p.def_abstract_eval
def _shape(x, kernel, *, padding):
    out = jax.eval_shape(partial(_xlas, padding=padding), x, kernel)
    return ShapedArray(out.shape, out.dtype)


def _batched(operands, axes, *, padding):
    """Many batches of images by one kernel are one batch."""
    (x, kernel), (x_axis, kernel_axis) = operands, axes
    if kernel_axis is not None:
        return jax.vmap(partial(_xlas, padding=padding), axes)(x, kernel), 0
    x = jnp.moveaxis(x, x_axis, 0)
    y = _conv_p.bind(x.reshape(-1, *x.shape[2:]), kernel, padding=padding)
    return y.reshape(*x.shape[:2], *y.shape[1:]), 0


def _dx(dy, x, kernel, *, padding):
    """The gradient in x: on the CPU a forward convolution with the mirrored kernel."""

    def forward(kernel, dy):
        mirrored = kernel[::-1, ::-1].swapaxes(2, 3)
        flipped = tuple(
            (k - 1 - low, k - 1 - high) for k, (low, high) in zip(kernel.shape, padding)
        )
        return _conv_p.bind(dy, mirrored, padding=flipped)

    def xlas(kernel, dy):
        shape = jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype)
        return jax.linear_transpose(lambda x: _xlas(x, kernel, padding=padding), shape)(dy)[0]

    return lax.platform_dependent(kernel, dy, cpu=forward, default=xlas)


def _dkernel(dy, x, kernel, *, padding):
    """The gradient in the kernel: on the CPU a forward convolution of x by dy, with batch and
    channels exchanged."""

    def forward(x, dy):
        swapped = _conv_p.bind(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), padding=padding)
        return swapped.transpose(1, 2, 0, 3)

    def xlas(x, dy):
        shape = jax.ShapeDtypeStruct(kernel.aval.shape, kernel.aval.dtype)
        return jax.linear_transpose(lambda kernel: _xlas(x, kernel, padding=padding), shape)(dy)[0]

    return lax.platform_dependent(x, dy, cpu=forward, default=xlas)


batching.primitive_batchers[_conv_p] = _batched
ad.defbilinear(_conv_p, _dx, _dkernel)
