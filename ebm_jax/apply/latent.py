"""Applications of a generator besides sampling: reconstruct, interpolate, in-paint, score. All
functions take ONE example."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax import objectives as obj
from ebm_jax.apply.refine import refine
from ebm_jax.mcmc import run_chain
from ebm_jax.types import Array, ArrayLike, Kernel, Key, Network, Params


class LatentModel(NamedTuple):
    """A generator, the other networks of its run, and the chain in z at test time.

    params = {'generator': ..., 'inference': ...}.
    """

    generator: Network  # (z, *label) -> x
    inference: Network | None  # (x, *label) -> (mean, log variance)
    energy_fn: Callable[..., Array] | None  # (params, x, *label) -> scalar
    z_kernel: Kernel
    sigma: float  # of p(x|z) = N(g(z), sigma^2 I)
    latent_dim: int  # D
    # z-chains begin at the mean of the inference model where there is one, else at p(z)
    from_inference: bool = True
    from_generator: bool = True  # samples begin at g(z), else at the initial distribution


def decode(model: LatentModel, params: Params, z: Array, *label: ArrayLike) -> Array:
    """g(z)."""
    return model.generator.apply(params['generator'], z, *label)


def infer(
    model: LatentModel,
    params: Params,
    key: Key,
    x: Array,
    *label: ArrayLike,
    steps: int,
    known: ArrayLike = True,
    starts: int = 1,
) -> Array:
    """z given x: the mean of q(z|x) (or a draw of p(z)), then `steps` of the chain on p(z|x).

        U(z) = |z|^2 / 2 + |known (x - g(z))|^2 / (2 sigma^2)

    Args:
      known: bool, broadcast to x. The likelihood leaves unknown entries out, but q sees them: put
        some filling there.
      starts: number of chains; those after the first begin at draws of p(z), and the one that ends
        at the lowest U is taken (our reading: U has several minima where much of x is unknown).
    Returns: z [D].
    """
    initial_key, chain_key = jax.random.split(key)
    if model.inference is None or not model.from_inference:
        z = jax.random.normal(initial_key, (model.latent_dim,), jnp.float32)
    else:
        z, _ = model.inference.apply(params['inference'], x, *label)
    mask = jnp.where(known, 1.0, 0.0)

    def target(z):
        return obj.latent_energy(z, x, decode(model, params, z, *label), model.sigma, mask)

    def run(key, z):
        return run_chain(key, model.z_kernel, target, z, steps)[0]

    if starts == 1:
        return run(chain_key, z)
    others = jax.random.normal(jax.random.fold_in(initial_key, 1), (starts - 1, *z.shape), z.dtype)
    ends = jax.vmap(run)(jax.random.split(chain_key, starts), jnp.concatenate([z[None], others]))
    return ends[jnp.nanargmin(jax.vmap(target)(ends))]


def reconstruct(
    model: LatentModel, params: Params, key: Key, x: Array, *label: ArrayLike, steps: int
) -> Array:
    """g(z) with z from `infer`; steps = 0 uses the inference model alone."""
    return decode(model, params, infer(model, params, key, x, *label, steps=steps), *label)


def between(z_a: Array, z_b: Array, num: int) -> Array:
    """`num` points from z_a to z_b at equal angles, with lengths evenly spaced from |z_a| to |z_b|:
    [D], [D] -> [num, D].

    Spherical, since nearly all the mass of N(0, I) lies near a sphere; straight where the two are
    (anti-)parallel.
    """
    length_a, length_b = jnp.linalg.norm(z_a), jnp.linalg.norm(z_b)
    cosine = jnp.clip(z_a @ z_b / jnp.maximum(length_a * length_b, 1e-12), -1, 1)
    angle, t = jnp.arccos(cosine), jnp.linspace(0, 1, num)[:, None]
    straight = jnp.sin(angle) < 1e-4
    sine = jnp.where(straight, 1.0, jnp.sin(angle))
    unit = (
        jnp.sin((1 - t) * angle) * z_a / jnp.maximum(length_a, 1e-12)
        + jnp.sin(t * angle) * z_b / jnp.maximum(length_b, 1e-12)
    ) / sine
    return jnp.where(straight, (1 - t) * z_a + t * z_b, unit * ((1 - t) * length_a + t * length_b))


def path(
    model: LatentModel, params: Params, z_a: Array, z_b: Array, *labels: ArrayLike, num: int
) -> Array:
    """g of `num` points from z_a to z_b (`between`).

    Args: labels: none, or one for each end, used for its half of the path.
    Returns: [num, ...].
    """
    nearer = [jnp.where(jnp.linspace(0, 1, num) < 0.5, *labels)] if labels else []
    return jax.vmap(lambda z, *label: decode(model, params, z, *label))(
        between(z_a, z_b, num), *nearer
    )


def interpolate(
    model: LatentModel,
    params: Params,
    key: Key,
    x_a: Array,
    x_b: Array,
    *labels: ArrayLike,
    num: int,
    steps: int,
) -> Array:
    """Images from x_a to x_b: the `path` between their latents (`infer`).

    Args: labels: none, or those of x_a and x_b.
    Returns: [num, ...].
    """
    end_labels = [labels[:1], labels[1:]]
    ends = [
        infer(model, params, key, x, *label, steps=steps)
        for key, x, label in zip(jax.random.split(key), (x_a, x_b), end_labels)
    ]
    return path(model, params, *ends, *labels, num=num)


def inpaint(
    model: LatentModel,
    params: Params,
    key: Key,
    x: Array,
    known: Array,
    *label: ArrayLike,
    z_steps: int,
    x_kernel: Kernel,
    x_steps: int,
    fill: ArrayLike = 0.0,
    starts: int = 1,
) -> Array:
    """Fill in the unknown entries: g(z) with z inferred from the known ones (`infer`), then a chain
    of the energy on the unknown ones (`refine`).

    Args:
      known: bool, of x's shape. x_steps: 0 leaves the energy out.
      fill: what q sees in place of unknown entries, broadcast to x.
      starts: number of chains in z, of which the best is taken (`infer`).
    Returns: an array like x. Its known entries are the same to the last bit; it does not depend on
      what x holds elsewhere.
    Raises: ValueError for x_steps > 0 without an energy.
    Source: [paper] names the mask in the z-likelihood; the chain in x is our reading.
    """
    if x_steps and model.energy_fn is None:
        raise ValueError('this model has no energy: use x_steps=0')
    z_key, x_key = jax.random.split(key)
    x = jnp.where(known, x, fill)
    z = infer(model, params, z_key, x, *label, steps=z_steps, known=known, starts=starts)
    filled = jnp.where(known, x, decode(model, params, z, *label))
    energy_fn = model.energy_fn
    if not x_steps or energy_fn is None:
        return filled
    return refine(x_key, lambda u: energy_fn(params, u, *label), x_kernel, filled, x_steps, known)


def joint_score(model: LatentModel, params: Params, x: Array, *label: ArrayLike) -> Array:
    """log p(x, z) up to a constant, at z = the mean of q(z|x): minus `latent_energy`. Higher means
    more familiar.

    Raises: ValueError without an inference model.
    """
    if model.inference is None:
        raise ValueError('this model has no inference model')
    z, _ = model.inference.apply(params['inference'], x, *label)
    return -obj.latent_energy(z, x, decode(model, params, z, *label), model.sigma)
