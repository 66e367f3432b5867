"""Valid chains: what counts as diverged, how such a chain leaves the loss, and how it restarts.

A chain is valid while all its numbers are finite and at most LIMIT in size. One that is not
  - is put back at its initial position in the batch, so that energies there are finite
    (`quarantine`),
  - has weight 0 in every loss term: weight rules see its energy as EXCLUDED, means leave it out
    (`masked_mean`),
  - restarts at its next draw: its entry of the replay buffer has the age QUARANTINED.
Source: ours.
"""

import jax
import jax.numpy as jnp

from ebm_jax import devices
from ebm_jax.types import Array, Draw, Metrics, PyTree

LIMIT = 1e3  # images lie in [-1, 1], latents and features within some standard deviations
EXCLUDED = jnp.inf  # the energy, as weight rules see it, of a negative that does not count
EMPTY = -1  # the age of a buffer's entry that was never filled
QUARANTINED = -2  # the age of an entry whose chain diverged: the next draw restarts it


def is_valid(x: PyTree, limit: float = LIMIT) -> Array:
    """Which chains are finite and at most `limit` in size everywhere. [n, ...] -> bool [n]."""
    valid = [
        jnp.all((jnp.abs(leaf) <= limit).reshape(len(leaf), -1), 1) for leaf in jax.tree.leaves(x)
    ]
    return jnp.all(jnp.stack(valid), 0)


def select(mask: Array, a: PyTree, b: PyTree) -> PyTree:
    """Chains of a where the mask is True, else of b. mask: bool [n], a and b: [n, ...]."""
    return jax.tree.map(
        lambda x, y: jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 1)), x, y), a, b
    )


def quarantine(draw: Draw, x: PyTree) -> tuple[PyTree, Draw, Array]:
    """Take chains that diverged out of the loss and out of the buffer.

    Args:
      draw: where the chains began. x: [n, ...], where they ended.
    Returns: (x with invalid chains back at their initial positions, the Draw to be written,
      valid [n]).
    """
    valid = is_valid(x)
    # `write` adds 1 to the age
    written = draw._replace(age=jnp.where(valid, draw.age, QUARANTINED - 1))
    return select(valid, x, draw.position), written, valid


def exclude(energies: Array, valid: Array) -> Array:
    """Energies [n, ...] as weight rules take them: EXCLUDED where the chain is not valid [n]."""
    return jnp.where(valid.reshape(valid.shape + (1,) * (energies.ndim - 1)), energies, EXCLUDED)


def masked_mean(values: Array, keep: Array) -> Array:
    """This device's share of the mean over the examples of all devices that are kept.

    values [n, ...], keep bool [n] -> scalar. With nothing kept it is NaN: a loss over nothing is
    not 0.
    """
    values = values.reshape(len(values), -1).mean(1)
    kept = devices.mean(jnp.sum(keep).astype(values.dtype))
    return jnp.sum(jnp.where(keep, values, 0.0)) / kept


def stuck_fraction(initial: PyTree, x: PyTree) -> Array:
    """Share of chains that are exactly where they began. Both [n, ...] -> scalar."""
    stuck = [
        jnp.all((a == b).reshape(len(a), -1), 1)
        for a, b in zip(jax.tree.leaves(initial), jax.tree.leaves(x))
    ]
    return jnp.mean(jnp.all(jnp.stack(stuck), 0))


def chain_metrics(valid: Array, stuck: Array) -> Metrics:
    """'quarantined', the diverged chains of all devices, and 'stuck_chains', a share."""
    quarantined = devices.total(jnp.sum(~valid)).astype(jnp.float32)
    return {'quarantined': quarantined, 'stuck_chains': stuck}
