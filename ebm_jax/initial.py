"""Initial distributions of chains: `InitialSampler`s, functions (key, label) -> x of one chain, in
float32 also under jax_enable_x64."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ebm_jax.types import UNCONDITIONAL, ArrayLike, InitialSampler


def uniform(shape: Sequence[int], low: float = -1.0, high: float = 1.0) -> InitialSampler:
    """x ~ U(low, high), whatever the label.

    Source: Grathwohl et al. 2020.
    """
    return lambda key, label: jax.random.uniform(key, tuple(shape), jnp.float32, low, high)


def normal(shape: Sequence[int], scale: float = 1.0) -> InitialSampler:
    """x ~ N(0, scale^2 I), whatever the label."""
    return lambda key, label: scale * jax.random.normal(key, tuple(shape), jnp.float32)


def bernoulli(
    shape: Sequence[int], p: float = 0.5, values: Sequence[float] = (-1.0, 1.0)
) -> InitialSampler:
    """Each entry is values[1] with probability p, else values[0], whatever the label."""

    def sample(key, label):
        return jnp.where(
            jax.random.bernoulli(key, p, tuple(shape)), *jnp.float32((values[1], values[0]))
        )

    return sample


def class_gaussian(means: ArrayLike, factors: ArrayLike) -> InitialSampler:
    """x ~ N(mean_c, F_c F_c^T) for the wanted class c; for UNCONDITIONAL c is uniform.

    Args: means: [C, ...]. factors: [C, D, R] with D the size of one example.
    Source: our reading of the informative initialisation of later JEM work; named so wherever
      metrics depend on it.
    """
    means, factors = jnp.asarray(means, jnp.float32), jnp.asarray(factors, jnp.float32)

    def sample(key, label):
        label_key, key = jax.random.split(key)
        random_label = jax.random.randint(label_key, (), 0, len(means))
        label = jnp.where(label == UNCONDITIONAL, random_label, label)
        noise = factors[label] @ jax.random.normal(key, factors.shape[-1:], factors.dtype)
        return means[label] + noise.reshape(means.shape[1:])

    return sample
