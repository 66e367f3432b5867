"""Move given examples downhill on an energy, all of them or only their hidden parts."""
import jax.numpy as jnp

from ebm_jax.mcmc import run_chain


def refine(key, energy_fn, kernel, x, num_steps, known=None):
    """Run a chain of one example from x: x_0 = x, x_{t+1} ~ kernel(x_t), where `known` is True x stays what it is.

    The chain moves the hidden entries u on E(known x + (1 - known) u), the conditional energy of what is hidden given what is known.

    Args: energy_fn: x -> scalar. x: an array. known: None, or bool, broadcast to x.
    Returns: an array like x, its known entries the same to the last bit.
    """
    whole = (lambda u: u) if known is None else lambda u: jnp.where(known, x, u)
    u, _ = run_chain(key, kernel, lambda u: energy_fn(whole(u)), x, num_steps)
    return whole(u)
