"""Checks of shapes, kinds and weights where users enter the library: a sentence, not a silent
broadcast.

Those of arrays look at shapes only, by chex, so they cost nothing in a compiled function.
"""

import math
from collections.abc import Mapping, Sequence
from types import EllipsisType
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.types import (
    UNCONDITIONAL,
    Array,
    ArrayLike,
    InitialSampler,
    Kernel,
    Network,
    PyTree,
    ReplayBuffer,
)


def check_shape(
    name: str, array: ArrayLike, shape: Sequence[int | None | EllipsisType], layout: str
) -> None:
    """Refuse an array of another shape.

    Args:
      shape: sizes; None stands for any size, `...` for any number of axes.
      layout: the shape in words, such as '[N, C]'.
    Raises: ValueError that names the array and gives both shapes.
    """
    try:
        chex.assert_shape(array, shape)
    except AssertionError:
        raise ValueError(f'{name} must have the shape {layout}, got {jnp.shape(array)}') from None


def check_same_shape(names: str, *arrays: ArrayLike) -> None:
    """Refuse arrays of different shapes. Raises: ValueError that gives the shapes."""
    try:
        chex.assert_equal_shape([jnp.asarray(array) for array in arrays])
    except AssertionError:
        found = ', '.join(str(jnp.shape(array)) for array in arrays)
        raise ValueError(f'{names} must have the same shape, got {found}') from None


def check_leading(name: str, tree: PyTree, n: int, layout: str) -> None:
    """Refuse a pytree with a leaf whose leading axis is not n. Raises: ValueError that names it."""
    for leaf in jax.tree.leaves(tree):
        check_shape(name, leaf, (n, ...), layout)


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """{'a/b': leaf} of nested dicts, lists and tuples."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def first_difference(
    found: Mapping[str, Any], needed: Mapping[str, Any]
) -> tuple[str, str, str] | None:
    """(name, shape found, shape needed) of the first array by name that has another shape or is in
    one of them alone, where it has the shape ''; None where there is none."""
    shapes = [{name: str(np.shape(leaf)) for name, leaf in of.items()} for of in (found, needed)]
    there, here = shapes
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            return name, there.get(name, ''), here.get(name, '')
    return None


def check_kind(name: str, value: Any, kind: type, instead: str) -> None:
    """Refuse a part of another kind.

    Args: instead: how to make one, such as 'per_example(module)'.
    Raises: TypeError that names the part.
    """
    if not isinstance(value, kind):
        found = type(value).__name__
        raise TypeError(f'{name} must be a {kind.__name__}, as {instead} makes it; got a {found}')


def check_function(name: str, value: Any, instead: str) -> None:
    """Refuse what cannot be called. Args: instead: an example. Raises: TypeError that names it."""
    if not callable(value):
        raise TypeError(
            f'{name} must be a function, such as {instead}; got a {type(value).__name__}'
        )


def check_initial(name: str, sampler: InitialSampler, examples: Array) -> None:
    """Refuse an initial sampler of positions that are not shaped as the examples [N, ...].

    Raises: ValueError that names it.
    """
    begun = jax.eval_shape(sampler, jax.random.key(0), jnp.int32(UNCONDITIONAL))
    check_begin(f'{name} gives', begun.shape, examples.shape[1:])


def check_begin(what: str, shapes: PyTree, examples: PyTree) -> None:
    """Refuse chains that do not begin in the shapes of an example.

    Args: what: gives the first of them, such as 'chains begin in'.
    Raises: ValueError.
    """
    if shapes != examples:
        raise ValueError(
            f'{what} the shape {shapes}, and examples have {examples}: give an initial sampler of '
            'that shape'
        )


def check_network(name: str, network: Any) -> None:
    """Refuse what is no Network. Raises: TypeError."""
    check_kind(name, network, Network, 'per_example(linen module) or Network(init, apply)')


def check_classes(network: Network, params: PyTree, x: ArrayLike, *labels: ArrayLike) -> None:
    """Refuse a classifier whose outputs are not logits [C], and labels that are neither in [0, C)
    nor UNCONDITIONAL; traced labels are not checked. Raises: ValueError."""
    logits = jax.eval_shape(network.apply, params, x)
    check_shape('logits', logits, (None,), '[C], of one example')
    for known in (np.asarray(y) for y in labels if not isinstance(y, jax.core.Tracer)):
        strange = known[(known < UNCONDITIONAL) | (known >= len(logits))]
        if len(strange):
            raise ValueError(
                f'labels must be in 0 to {len(logits) - 1}, as many as the network has outputs, or '
                f'{UNCONDITIONAL} for none, got {strange[0]}'
            )


def check_buffer(buffer: Any) -> None:
    """Refuse what is no ReplayBuffer. Raises: TypeError."""
    check_kind('buffer', buffer, ReplayBuffer, 'replay.persistent(initial_sampler, capacity)')


def check_kernel(name: str, kernel: Any) -> None:
    """Refuse what is no Kernel. Raises: TypeError."""
    check_kind(name, kernel, Kernel, 'mcmc.langevin(...)')


def check_weights(**weights: float) -> None:
    """Refuse a weight of a loss term that is below 0 or not finite. Raises: ValueError that names
    it."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f'{name} must be finite and at least 0, got {weight}')
