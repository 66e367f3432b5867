"""What a function costs: floating-point operations counted from its program, the measured rate of
matrix products, bytes of a pytree."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr

from ebm_jax import conv
from ebm_jax.types import Method, Params, PyTree

# share of the measured matrix rate that a train step is assumed to reach, in the forecast only
EFFICIENCY = 0.4
# of one operation of the traced program on two CPU cores, in the forecast only
# (benchmarks/compile_time.py)
COMPILE_SECONDS = 0.005


def count_flops(fn: Callable[..., Any], *args: Any) -> int:
    """Multiplications and additions in matrix products and convolutions of fn(*args), with loops
    counted at their length.

    XLA's own `cost_analysis` counts the body of a scan once. A `while` of unknown length counts
    once, a `cond` as its costliest branch; what no result depends on is not counted, as it is not
    compiled either.

    Args: args: arrays or shapes (`jax.ShapeDtypeStruct`).
    Returns: int.
    """
    return flops_of(jax.make_jaxpr(fn)(*args))


def flops_of(program: Any) -> int:
    """As `count_flops`, for a program that is already traced (`jax.make_jaxpr`)."""
    return _total(program, _flops)


def traffic_of(program: Any) -> int:
    """Bytes that the matrix products and convolutions of a traced program read and write, each
    operand and result once, counted as in `flops_of`: what a device moves where everything else is
    fused into them."""
    return _total(program, _traffic)


def _total(program, of_equation):
    return _sum(_live(program), of_equation)


def _live(program):
    """The program without what no result depends on."""
    return dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars))[0]


def _sum(jaxpr, of_equation):
    return sum(_sum_within(equation, of_equation) for equation in jaxpr.eqns)


def _sum_within(equation, of_equation):
    name, params = equation.primitive.name, equation.params
    if name in ('dot_general', 'conv_general_dilated', conv.PRIMITIVE):
        return of_equation(equation)
    if name == 'cond':
        return max(_sum(branch.jaxpr, of_equation) for branch in params['branches'])
    inner = sum(_sum(program, of_equation) for program in _inner(equation))
    return inner * (params['length'] if name == 'scan' else 1)


def _flops(equation):
    params, operands = equation.params, [v.aval.shape for v in equation.invars]
    out = math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == 'dot_general':
        contracted = params['dimension_numbers'][0][0]
        return 2 * out * math.prod(operands[0][axis] for axis in contracted)
    if equation.primitive.name == conv.PRIMITIVE:
        return 2 * out * math.prod(operands[1][:-1])
    # a dilated input is mostly zeros, with which no good kernel multiplies
    out_features = operands[1][params['dimension_numbers'].rhs_spec[0]]
    return 2 * out * math.prod(operands[1]) // (out_features * math.prod(params['lhs_dilation']))


def _traffic(equation):
    return num_bytes([v.aval for v in (*equation.invars, *equation.outvars)])


def largest_array(program: Any) -> int:
    """Bytes of the largest array that a traced program makes, without those of arguments; also of
    those that XLA fuses away."""
    jaxpr = getattr(program, 'jaxpr', program)
    sizes = [num_bytes([v.aval]) for equation in jaxpr.eqns for v in equation.outvars]
    inner = [largest_array(part) for equation in jaxpr.eqns for part in _inner(equation)]
    return max([*sizes, *inner], default=0)


def matmul_rate(
    device: jax.Device | None = None, size: int | None = None, dtype: Any = jnp.float32
) -> float:
    """Measured rate of a square matrix product on one device, in floating-point operations per
    second (median of 5)."""
    device = device or jax.devices()[0]
    size = size or (1024 if device.platform == 'cpu' else 8192)
    a = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds)


def num_parameters(params: Params) -> int:
    """Number of entries of all arrays in a pytree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def num_bytes(tree: PyTree) -> int:
    """Bytes of a pytree of arrays; typed keys included."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def num_operations(program: Any) -> int:
    """Operations of a traced program that are compiled, each loop's body once."""
    return _num_operations(_live(program))


def _num_operations(jaxpr):
    return sum(
        1 + sum(_num_operations(inner) for inner in _inner(equation)) for equation in jaxpr.eqns
    )


def _inner(equation):
    """The programs within an operation."""
    values = jax.tree.leaves(
        list(equation.params.values()),
        is_leaf=lambda v: hasattr(v, 'eqns') or hasattr(v, 'jaxpr'),
    )
    programs = [getattr(value, 'jaxpr', value) for value in values]
    return [program for program in programs if hasattr(program, 'eqns')]


def forecast(
    method: Method, program: Any, state: Any, devices: Sequence[jax.Device], steps: int
) -> str:
    """The expected cost of the run, in a few lines, before the first long step.

    Args: program: a whole step, traced, as each device runs it.
    """
    here, flops = jax.local_devices()[0], flops_of(program) * len(devices)
    # one CPU product uses all cores
    rate = matmul_rate(here) * (jax.process_count() if here.platform == 'cpu' else len(devices))
    seconds = steps * flops / (rate * EFFICIENCY)
    compiling = 'compilation comes first'
    if here.platform == 'cpu':
        compiling += f', about {_duration(num_operations(program) * COMPILE_SECONDS)}'
    along = f'{method.gradients_per_step:,} energy gradients along the chains and '
    return (
        f'{describe(devices)}: {num_parameters(state.params):,} parameters; per step'
        f' {along if method.gradients_per_step else ""}{flops / 1e9:.3g}'
        f' GFLOP in all; state {num_bytes(state) / 2**20:.1f} MiB\n{compiling}; then about'
        f' {_duration(seconds)} for {steps:,} steps, at {EFFICIENCY:.0%} of the'
        f' {rate / 1e9:,.0f} GFLOP/s that a matrix product reaches here now (the progress bar below'
        ' is more accurate)'
    )


def describe(devices: Sequence[jax.Device]) -> str:
    """'4 cpu devices'"""
    return f'{len(devices)} {devices[0].device_kind} device{"s" if len(devices) > 1 else ""}'


def _duration(seconds):
    if seconds < 90:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 5400 else f'{seconds / 3600:.1f} h'
