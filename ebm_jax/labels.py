"""Entries of arrays by label."""

import jax.numpy as jnp

from ebm_jax.types import Array, ArrayLike


def at_label(values: Array, labels: ArrayLike) -> Array:
    """values[..., y], the entry of each label: [..., C], int [...] -> [...].

    As a selection and a sum, not as an index: under `vmap` an index becomes a gather, which a TPU
    runs as a loop over the examples, in every step of a chain.
    """
    chosen = jnp.arange(values.shape[-1]) == jnp.asarray(labels)[..., None]
    return jnp.sum(jnp.where(chosen, values, 0), -1)
