"""The gradient term that contrastive divergence leaves out, for any method whose negatives are
the ends of Langevin chains.

    kl = E_q[E_sg(x(theta))] - entropy_weight H(q)

q is the distribution of the end of a K-step chain. The energy is constant and the samples are live,
through the last m steps of the chain.
Source: Du, Li, Tenenbaum & Mordatch 2021, arXiv 2012.01316; with the constants of its release where
  marked [code].
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jax.lax import stop_gradient

from ebm_jax import devices, mcmc, negatives
from ebm_jax import objectives as obj
from ebm_jax.negatives import Negatives
from ebm_jax.replay import ShardedBuffer
from ebm_jax.shapes import check_weights
from ebm_jax.types import Array, Kernel, Key, Metrics, PyTree, Transition
from ebm_jax.validity import masked_mean


@struct.dataclass
class Tail:
    """The last m steps of some chains, to be run again with live parameters."""

    state: PyTree  # [n, ...] the kernel's state before them
    key: Array  # [n] the chain's key
    label: Array  # [n]
    valid: Array  # bool [n]: False for chains that diverged


@struct.dataclass
class Samples:
    """Negatives of one step, and what else the KL term needs."""

    negatives: Negatives
    tail: Tail
    population: PyTree  # [P, ...]: past samples, the same on all devices
    present: Array  # bool [P]: which of them are there
    ready: Array  # bool: the buffer holds enough past samples for the entropy

    @property
    def x(self) -> PyTree:
        """[M, ...]: where the chains ended."""
        return self.negatives.x


@dataclass(frozen=True, kw_only=True, eq=False)
class KlTerm:
    """The term, and the chains that it differentiates.

    Attributes:
      energies: (params, x, label) of one example -> energies [S] of its scales. A chain descends
        their SUM, the term takes their MEAN ([code]).
      kernel: an unadjusted Langevin kernel.
      num_negatives: M chains over all devices. num_steps: K. shards: of the chains.
      weight: of the term; 0 leaves it out.
      kl_steps: m in [1, K] ([code]: 1).
      kl_chains: how many of the chains the term takes, divisible by `shards`; default all.
      entropy, entropy_weight, population, population_after: as in `methods.icd.icd`.
      transition: what past samples of the population pass through.
    Raises: ValueError when a number is out of range or not divisible by `shards`.
    """

    energies: Callable[[PyTree, PyTree, Array], Array]
    kernel: Kernel
    num_negatives: int
    num_steps: int
    weight: float
    shards: int
    kl_steps: int = 1
    kl_chains: int | None = None
    entropy: Callable[[Array, Array, Array], Array] = obj.nearest_neighbour_entropy
    entropy_weight: float = 0.3
    population: int = 104
    population_after: int = 1000
    transition: Transition | None = None

    def __post_init__(self) -> None:
        divided = {'num_negatives': self.num_negatives}
        if self.weight:
            divided['kl_chains'] = self.chains
        if self.has_entropy:
            divided['population'] = self.population
        negatives.check_shards(self.shards, **divided)
        check_weights(kl_weight=self.weight, entropy_weight=self.entropy_weight)
        if self.chains > self.num_negatives:
            raise ValueError(
                f'kl_chains cannot exceed num_negatives, got {self.chains} of {self.num_negatives}'
            )
        if not 1 <= self.kl_steps <= self.num_steps:
            raise ValueError(
                f'kl_steps must lie in [1, num_steps], got {self.kl_steps} of {self.num_steps}'
            )

    @property
    def chains(self) -> int:
        """How many of the M chains the term takes."""
        return self.num_negatives if self.kl_chains is None else self.kl_chains

    @property
    def per_shard(self) -> int:
        """Chains of one shard."""
        return self.num_negatives // self.shards

    @property
    def has_entropy(self) -> bool:
        """Whether the term counts the entropy of its samples."""
        return self.weight != 0 and self.entropy_weight != 0

    @property
    def first_live(self) -> int:
        """The first of the last m steps, which carry a gradient."""
        return self.num_steps - self.kl_steps

    def energy_fn(self, params: PyTree, label: Array) -> Callable[[PyTree], Array]:
        """x -> scalar, the sum over scales."""
        return lambda x: jnp.sum(self.energies(params, x, label))

    def check_buffer(self, state: PyTree) -> None:
        """Refuse a buffer that can never hold `population_after` samples. Raises: ValueError."""
        if self.has_entropy and self.population_after >= state.age.size:
            raise ValueError(
                f'population_after={self.population_after} past samples, after which the entropy '
                f'of the KL term counts, are never exceeded by a buffer of {state.age.size} '
                'entries: enlarge the buffer'
            )

    def move(self, keys: Key, x: PyTree) -> PyTree:
        """The transition of chains [n], where there is one."""
        return x if self.transition is None else jax.vmap(self.transition)(keys, x)

    def run_chains(self, params: PyTree, keys: Key, x: PyTree, labels: Array) -> negatives.Run:
        """All steps of chains that begin at x [n, ...]; Run.extra: the kernel's states before
        their last m steps.

        One loop, not one before and one after: the network is compiled once for both.
        Raises: ValueError for a kernel with a Metropolis test, where the term has a weight.
        """
        initial = jax.vmap(lambda x, label: self.kernel.init(x, self.energy_fn(params, label)))(
            x, labels
        )
        if self.weight and isinstance(initial, mcmc.HamiltonianState):
            raise ValueError(
                'the KL term needs a gradient through the kernel, which a Metropolis test '
                'does not have: use mcmc.langevin, or kl_weight=0'
            )

        def step(carry, t):
            states, before = carry
            before = jax.tree.map(partial(jnp.where, t == self.first_live), states, before)
            return (self._advance(params, keys, states, labels, t, 1), before), None

        (end, before), _ = jax.lax.scan(step, (initial, initial), jnp.arange(self.num_steps))
        return negatives.Run(initial.position, end.position, before)

    def samples(
        self,
        run_keys: Key,
        past_keys: tuple[Key, Key],
        before: PyTree,
        found: Negatives,
        buffer: ShardedBuffer,
        state: PyTree,
    ) -> Samples:
        """What the term needs of chains that were run.

        Args:
          run_keys: of the chains. past_keys: [shards] each, to draw the population and to move it.
          before: states before the last m steps. found: the negatives.
          buffer, state: the buffer as it was BEFORE these samples were written.
        """
        tail = self._tail(run_keys, before, found, len(past_keys[0]))
        return stop_gradient(Samples(found, tail, *self._past_samples(past_keys, buffer, state)))

    def value(self, params: PyTree, samples: Samples) -> tuple[Array, Metrics]:
        """(E_sg at the end of chains whose last m steps are live, less their entropy; metrics)."""
        tail = samples.tail
        # where all chains here have diverged none may carry a gradient: 0 * nan would be nan
        some = jnp.any(tail.valid)
        live = jax.tree.map(lambda leaf: jnp.where(some, leaf, stop_gradient(leaf)), params)
        x = self._advance(
            live, tail.key, tail.state, tail.label, self.first_live, self.kl_steps
        ).position
        energies = jax.vmap(self.energies, (None, 0, 0))(stop_gradient(params), x, tail.label)
        energy = masked_mean(energies, tail.valid)
        if not self.has_entropy:
            return energy, {'kl_energy': energy}
        # finite also where no chain here is valid: the entropy may take a mean over all devices
        x = jax.tree.map(lambda end, past: jnp.where(some, end, past[:1]), x, samples.population)
        spread = masked_mean(self.entropy(x, samples.population, samples.present), tail.valid)
        entropy = jnp.where(samples.ready, spread, 0.0)
        return energy - self.entropy_weight * entropy, {
            'kl_energy': energy,
            'kl_entropy': entropy,
            'kl_entropy_counts': samples.ready.astype(jnp.float32),
        }

    def _advance(self, params, keys, states, labels, first, count):
        """Steps first, ..., first + count - 1 of chains [n]."""

        def one(key, state, label):
            energy_fn = self.energy_fn(params, label)
            return mcmc.advance(key, self.kernel, energy_fn, state, count, first=first)[0]

        return jax.vmap(one)(keys, states, labels)

    def _tail(self, run_keys, before, found, here):
        """The chains of the term: the first kl_chains / shards of each of `here` shards.

        The last steps of a diverged chain must not be run again: those of a valid chain are run in
        its place, with weight 0.
        """
        in_shard = jnp.arange(self.chains // self.shards)
        chosen = (jnp.arange(here)[:, None] * self.per_shard + in_shard).reshape(-1)
        valid = found.valid[chosen]
        a_valid_chain = chosen[jnp.argmax(valid)]
        rerun = jnp.where(valid, chosen, a_valid_chain)
        state, key, label = jax.tree.map(lambda leaf: leaf[rerun], (before, run_keys, found.label))
        return Tail(state, key, label, valid)

    def _past_samples(self, keys, buffer, state):
        """(population [P, ...], present [P], ready), the same on all devices."""
        if not self.has_entropy:
            return (), (), ()
        sample_keys, move_keys = keys
        each = self.population // self.shards
        x, present = buffer.sample_past(sample_keys, state, each)
        x = self.move(negatives.chain_keys(move_keys, each), x)
        ready = buffer.num_past(state) > self.population_after
        return (*devices.gather((x, present)), ready)
