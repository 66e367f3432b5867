"""Move given examples downhill on an energy, all of them or only their hidden parts."""

import jax.numpy as jnp

from ebm_jax.mcmc import run_chain
from ebm_jax.types import Array, ArrayLike, EnergyFn, Kernel, Key


def refine(
    key: Key,
    energy_fn: EnergyFn,
    kernel: Kernel,
    x: Array,
    num_steps: int,
    known: ArrayLike | None = None,
) -> Array:
    """Run a chain of one example, x_0 = x, x_{t+1} ~ kernel(x_t); entries where `known` is True
    stay as they are.

    The chain moves the hidden entries u on E(known x + (1 - known) u), the conditional energy of
    the hidden entries given the known ones.

    Args: energy_fn: x -> scalar. x: an array. known: None, or bool, broadcast to x.
    Returns: an array like x, its known entries the same to the last bit.
    """
    whole = (lambda u: u) if known is None else lambda u: jnp.where(known, x, u)
    u, _ = run_chain(key, kernel, lambda u: energy_fn(whole(u)), x, num_steps)
    return whole(u)
