"""Improved contrastive divergence (ICD): contrastive divergence with the gradient term that is
usually left out.

    L = L_CD + kl_weight (E_q[E_sg(x(theta))] - entropy_weight H(q))
        + l2_weight (E[E(x+)^2] + E[E(x-)^2])
    L_CD = E_data[E(x+)] - E_q[E(sg(x-))]

q is the distribution of the end of a K-step Langevin chain. In L_CD the samples are constants and
the energy is live; in the KL term the energy is constant and the samples are live, through the last
m steps of the same chain. Plain contrastive divergence is `kl_weight=0, l2_weight=0,
from_data=True` with `replay.fresh`; persistent contrastive divergence the same with
`replay.persistent` and from_data=False.
Source: Du, Li, Tenenbaum & Mordatch 2021, arXiv 2012.01316, with the constants of its release; the
  marks below say which is which.
"""

import math
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
from ebm_jax.replay import ShardedBuffer, sharded
from ebm_jax.shapes import check_kernel, check_network
from ebm_jax.types import (
    UNCONDITIONAL,
    Array,
    Kernel,
    Method,
    Network,
    PyTree,
    ReplayBuffer,
    Transition,
    WeightRule,
)
from ebm_jax.validity import exclude, masked_mean


@struct.dataclass
class Chains:
    """Everything the chains keep between steps; each leaf has a leading axis of shards."""

    buffer: PyTree  # ReplayState of each shard


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


def icd(
    network: Network,
    kernel: Kernel,
    buffer: ReplayBuffer,
    *,
    num_negatives: int,
    num_steps: int = 40,
    transition: Transition | None = None,
    kl_weight: float = 1.0,
    kl_steps: int = 1,
    kl_chains: int | None = None,
    entropy: Callable[[Array, Array, Array], Array] = obj.nearest_neighbour_entropy,
    entropy_weight: float = 0.3,
    population: int = 104,
    population_after: int = 1000,
    l2_weight: float = 1.0,
    weights: WeightRule = obj.uniform,
    conditional: bool = False,
    from_data: bool = False,
    shards: int = 8,
) -> Method:
    """Improved contrastive divergence.

    Args:
      network: one example (and its label, where conditional) -> energies [S] of its scales, or a
        scalar. A chain descends their SUM, the loss takes their MEAN ([code]).
      kernel: an unadjusted Langevin kernel; the release's adds its noise before the drift and clips
        ([code]: `noise_first=True`).
      buffer: ReplayBuffer of ONE shard.
      num_negatives: M, chains advanced at each step over all devices; divisible by `shards`.
      num_steps: K ([code]: 40).
      transition: None, or (key, x) -> x: a transition of the chain before its K steps, always
        accepted (data augmentation).
      kl_weight: 0 leaves the KL term out.
      kl_steps: m in [1, K], steps of the chain that carry a gradient ([code]: 1).
      kl_chains: n, how many of the M chains the KL term takes; divisible by `shards`, default all.
      entropy: (x [n, ...], population [P, ...], present [P]) -> [n],
        `objectives.nearest_neighbour_entropy` or `kernel_entropy`.
      entropy_weight: of H(q) within the KL term ([code]: 0.3, a heuristic).
      population: P, divisible by `shards` ([code]: 100). Drawn uniformly without replacement from
        the past samples in the buffer as it was before this step's samples were written, each
        passed through `transition`.
      population_after: the entropy counts once the buffers hold more past samples than this
        ([code]: 1,000).
      l2_weight: of the squared energies ([code]: 1.0).
      weights: of the contrast; `uniform` in the paper.
      conditional: the network takes a label; chains follow labels drawn from those of the batch.
      from_data: chains begin at the batch (and its labels) instead of the buffer; the batch must
        then hold M examples.
      shards: number of independent buffers; a multiple of the number of devices.
    Returns: Method. Its loss terms: 'contrast' and, where their weights are not 0, 'kl' and
      'energy_square'.
    Raises: TypeError for a part of another kind;
      ValueError when a number is out of range, does not divide, or the buffer can never hold
      `population_after` samples.
    """
    kl_chains = num_negatives if kl_chains is None else kl_chains
    divided = {'num_negatives': num_negatives}
    if kl_weight:
        divided['kl_chains'] = kl_chains
    if kl_weight and entropy_weight:
        divided['population'] = population
    check_network('network', network)
    check_kernel('kernel', kernel)
    negatives.check_shards(shards, **divided)
    for name, weight in (
        ('kl_weight', kl_weight),
        ('entropy_weight', entropy_weight),
        ('l2_weight', l2_weight),
    ):
        if not 0 <= weight < math.inf:
            raise ValueError(f'{name} must be finite and at least 0, got {weight}')
    if kl_chains > num_negatives:
        raise ValueError(
            f'kl_chains cannot exceed num_negatives, got {kl_chains} of {num_negatives}'
        )
    if not 1 <= kl_steps <= num_steps:
        raise ValueError(f'kl_steps must lie in [1, num_steps], got {kl_steps} of {num_steps}')
    parts = _Icd(
        network=network,
        kernel=kernel,
        buffer=sharded(buffer),
        num_negatives=num_negatives,
        num_steps=num_steps,
        transition=transition,
        kl_weight=kl_weight,
        kl_steps=kl_steps,
        kl_chains=kl_chains,
        entropy=entropy,
        entropy_weight=entropy_weight,
        population=population,
        population_after=population_after,
        l2_weight=l2_weight,
        weights=weights,
        conditional=conditional,
        from_data=from_data,
        shards=shards,
    )
    return Method(
        init=parts.init,
        sample=parts.sample,
        loss=parts.loss,
        gradients_per_step=num_negatives * num_steps,
        chain_steps=num_steps,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Icd:
    """The three functions of the method; fields as in `icd`."""

    network: Network
    kernel: Kernel
    buffer: ShardedBuffer
    num_negatives: int
    num_steps: int
    transition: Transition | None
    kl_weight: float
    kl_steps: int
    kl_chains: int
    entropy: Callable[[Array, Array, Array], Array]
    entropy_weight: float
    population: int
    population_after: int
    l2_weight: float
    weights: WeightRule
    conditional: bool
    from_data: bool
    shards: int

    @property
    def per_shard(self) -> int:
        return self.num_negatives // self.shards

    @property
    def has_entropy(self) -> bool:
        return self.kl_weight != 0 and self.entropy_weight != 0

    def conditions(self, label):
        """What a conditional network takes besides x: [label], else nothing."""
        return [label] if self.conditional else []

    def energies(self, params, x, label):
        """E of each scale: one example -> [S]."""
        return jnp.atleast_1d(self.network.apply(params, x, *self.conditions(label)))

    def batch_energies(self, params, x, label):
        """[n, ...], [n] -> [n, S]."""
        return jax.vmap(self.energies, (None, 0, 0))(params, x, label)

    def energy_fn(self, params, label):
        """x -> scalar, the sum over scales."""
        return lambda x: jnp.sum(self.energies(params, x, label))

    @property
    def first_live(self) -> int:
        """The first of the last m steps, which carry a gradient."""
        return self.num_steps - self.kl_steps

    def run_steps(self, params, keys, states, labels, first, count):
        """Steps first, ..., first + count - 1 of chains [n]."""

        def one(key, state, label):
            energy_fn = self.energy_fn(params, label)
            return mcmc.advance(key, self.kernel, energy_fn, state, count, first=first)[0]

        return jax.vmap(one)(keys, states, labels)

    def run_chains(self, params, keys, states, labels):
        """All steps of chains [n]: (states before their last m steps, states at their end).

        One loop, not one before and one after: the network is compiled once for both.
        """

        def step(carry, t):
            states, before = carry
            before = jax.tree.map(partial(jnp.where, t == self.first_live), states, before)
            return (self.run_steps(params, keys, states, labels, t, 1), before), None

        (end, before), _ = jax.lax.scan(step, (states, states), jnp.arange(self.num_steps))
        return before, end

    def init(self, key, batch):
        network_key, buffer_key = jax.random.split(key)
        conditions = self.conditions(batch['y'][0])
        params = self.network.init(network_key, batch['x'][0], *conditions)
        state = self.buffer.init(buffer_key, self.shards)
        negatives.check_positions(state, batch)
        if self.has_entropy and self.population_after >= state.age.size:
            raise ValueError(
                f'population_after={self.population_after} is never exceeded by a buffer of '
                f'{state.age.size} entries: lower it, or enlarge the buffer'
            )
        return params, Chains(state)

    def move(self, keys, x):
        """The transition of chains [n], where there is one."""
        return x if self.transition is None else jax.vmap(self.transition)(keys, x)

    def wanted_labels(self, keys, batch):
        """[shards here, chains per shard]."""
        if not self.conditional:
            return jnp.full((len(keys), self.per_shard), UNCONDITIONAL)
        if self.from_data:
            return batch['y'].reshape(len(keys), self.per_shard)
        return negatives.batch_labels(keys, self.per_shard, batch['y'])

    def past_samples(self, sample_keys, move_keys, state):
        """(population [P, ...], present [P], ready), the same on all devices."""
        if not self.has_entropy:
            return (), (), ()
        each = self.population // self.shards
        x, present = self.buffer.sample_past(sample_keys, state, each)
        x = self.move(negatives.chain_keys(move_keys, each), x)
        ready = self.buffer.num_past(state) > self.population_after
        return (*devices.gather((x, present)), ready)

    def sample(self, key, params, chains, batch):
        here = len(chains.buffer.seen)
        keys = negatives.shard_keys(
            key, here, 'draw', 'labels', 'transition', 'chains', 'past', 'past_move', 'write'
        )
        if self.from_data and len(batch['x']) != here * self.per_shard:
            raise ValueError(
                'chains that begin at the data need as many negatives as the batch has examples, '
                f'got {self.num_negatives} for {len(batch["x"]) * devices.count()}'
            )
        run_keys = negatives.chain_keys(keys['chains'], self.per_shard)

        def run(draw):
            move_keys = negatives.chain_keys(keys['transition'], self.per_shard)
            initial = jax.vmap(lambda x, label: self.kernel.init(x, self.energy_fn(params, label)))(
                self.move(move_keys, draw.position), draw.label
            )
            if self.kl_weight and isinstance(initial, mcmc.HamiltonianState):
                raise ValueError(
                    'the KL term needs a gradient through the kernel, which a Metropolis test '
                    'does not have: use mcmc.langevin, or kl_weight=0'
                )
            before, end = self.run_chains(params, run_keys, initial, draw.label)
            return negatives.Run(initial.position, end.position, before)

        found, buffer, before = negatives.advance(
            keys['draw'],
            keys['write'],
            self.buffer,
            chains.buffer,
            self.wanted_labels(keys['labels'], batch),
            run,
            initial=batch['x'] if self.from_data else None,
        )
        samples = Samples(
            found,
            self.tail(run_keys, before, found, here),
            *self.past_samples(keys['past'], keys['past_move'], chains.buffer),
        )
        return stop_gradient(samples), Chains(buffer)

    def tail(self, run_keys, before, found, here):
        """The chains of the KL term: the first kl_chains / shards of each shard.

        The last steps of a diverged chain must not be run again: those of a valid chain are run in
        its place, with weight 0.
        """
        in_shard = jnp.arange(self.kl_chains // self.shards)
        chosen = (jnp.arange(here)[:, None] * self.per_shard + in_shard).reshape(-1)
        valid = found.valid[chosen]
        a_valid_chain = chosen[jnp.argmax(valid)]
        rerun = jnp.where(valid, chosen, a_valid_chain)
        state, key, label = jax.tree.map(lambda leaf: leaf[rerun], (before, run_keys, found.label))
        return Tail(state, key, label, valid)

    def kl_term(self, params, samples):
        """(value, metrics): E_sg at the end of chains whose last m steps are live, and their
        entropy."""
        tail = samples.tail
        x = self.run_steps(
            params, tail.key, tail.state, tail.label, self.first_live, self.kl_steps
        ).position
        energies = self.batch_energies(stop_gradient(params), x, tail.label)
        energy = masked_mean(energies, tail.valid)
        if not self.has_entropy:
            return energy, {'kl_energy': energy}
        spread = masked_mean(self.entropy(x, samples.population, samples.present), tail.valid)
        entropy = jnp.where(samples.ready, spread, 0.0)
        return energy - self.entropy_weight * entropy, {
            'kl_energy': energy,
            'kl_entropy': entropy,
            'kl_entropy_counts': samples.ready.astype(jnp.float32),
        }

    def loss(self, params, key, batch, samples):
        del key
        found = samples.negatives
        x = jnp.concatenate([batch['x'], found.x])
        labels = jnp.concatenate([batch['y'], found.label])
        all_pos, all_neg = jnp.split(self.batch_energies(params, x, labels), [len(batch['x'])])
        e_pos, e_neg = jnp.mean(all_pos, 1), jnp.mean(all_neg, 1)
        weights = self.weights(e_pos, exclude(e_neg, found.valid))
        terms = {'contrast': sum(obj.contrast(e_pos, e_neg, weights))}
        metrics = {**obj.scores(e_pos, e_neg, found.valid), **negatives.metrics(found)}
        if self.l2_weight:
            square = obj.energy_square(all_pos, all_neg, found.valid)
            terms['energy_square'] = self.l2_weight * square
        if self.kl_weight:
            value, kl_metrics = self.kl_term(params, samples)
            terms['kl'] = self.kl_weight * value
            metrics |= kl_metrics
        return terms, metrics
