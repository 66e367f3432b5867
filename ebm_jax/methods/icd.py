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

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from ebm_jax import devices, negatives
from ebm_jax import objectives as obj
from ebm_jax.kl import KlTerm
from ebm_jax.replay import ShardedBuffer, sharded
from ebm_jax.shapes import check_buffer, check_kernel, check_network, check_weights
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
from ebm_jax.validity import exclude


@struct.dataclass
class Chains:
    """Everything the chains keep between steps; each leaf has a leading axis of shards."""

    buffer: PyTree  # ReplayState of each shard


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
      ValueError when a number is out of range or not divisible by `shards`, or the buffer can never
      hold `population_after` samples.
    """
    check_network('network', network)
    check_kernel('kernel', kernel)
    check_buffer(buffer)
    check_weights(l2_weight=l2_weight)
    parts = _Icd(
        network=network,
        buffer=sharded(buffer),
        kl=KlTerm(
            energies=partial(_energies, network, conditional),
            kernel=kernel,
            num_steps=num_steps,
            kl_steps=kl_steps,
            weight=kl_weight,
            kl_chains=kl_chains,
            num_negatives=num_negatives,
            entropy=entropy,
            entropy_weight=entropy_weight,
            population=population,
            population_after=population_after,
            transition=transition,
            shards=shards,
        ),
        l2_weight=l2_weight,
        weights=weights,
        conditional=conditional,
        from_data=from_data,
    )
    return Method(
        init=parts.init,
        sample=parts.sample,
        loss=parts.loss,
        gradients_per_step=num_negatives * num_steps,
        chain_steps=num_steps,
    )


def _energies(network, conditional, params, x, label) -> Array:
    """E of each scale: one example -> [S]."""
    return jnp.atleast_1d(network.apply(params, x, *([label] if conditional else [])))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Icd:
    """The three functions of the method; fields as in `icd`."""

    network: Network
    buffer: ShardedBuffer
    kl: KlTerm
    l2_weight: float
    weights: WeightRule
    conditional: bool
    from_data: bool

    def init(self, key, batch):
        network_key, buffer_key = jax.random.split(key)
        conditions = [batch['y'][0]] if self.conditional else []
        params = self.network.init(network_key, batch['x'][0], *conditions)
        state = self.buffer.init(buffer_key, self.kl.shards)
        negatives.check_positions(state, batch)
        self.kl.check_buffer(state)
        return params, Chains(state)

    def wanted_labels(self, keys, batch):
        """[shards here, chains per shard]."""
        if not self.conditional:
            return jnp.full((len(keys), self.kl.per_shard), UNCONDITIONAL)
        if self.from_data:
            return batch['y'].reshape(len(keys), self.kl.per_shard)
        return negatives.batch_labels(keys, self.kl.per_shard, batch['y'])

    def sample(self, key, params, chains, batch):
        here, per_shard = len(chains.buffer.seen), self.kl.per_shard
        keys = negatives.shard_keys(
            key, here, 'draw', 'labels', 'transition', 'chains', 'past', 'past_move', 'write'
        )
        if self.from_data and len(batch['x']) != here * per_shard:
            raise ValueError(
                'chains that begin at the data need as many negatives as the batch has examples, '
                f'got {self.kl.num_negatives} for {len(batch["x"]) * devices.count()}'
            )
        run_keys = negatives.chain_keys(keys['chains'], per_shard)

        def run(draw):
            x = self.kl.move(negatives.chain_keys(keys['transition'], per_shard), draw.position)
            return self.kl.run_chains(params, run_keys, x, draw.label)

        found, buffer, before = negatives.advance(
            keys['draw'],
            keys['write'],
            self.buffer,
            chains.buffer,
            self.wanted_labels(keys['labels'], batch),
            run,
            initial=batch['x'] if self.from_data else None,
        )
        past_keys = keys['past'], keys['past_move']
        samples = self.kl.samples(run_keys, past_keys, before, found, self.buffer, chains.buffer)
        return samples, Chains(buffer)

    def loss(self, params, key, batch, samples):
        del key
        found = samples.negatives
        x = jnp.concatenate([batch['x'], found.x])
        given = batch['y'] if self.conditional else jnp.full(len(batch['x']), UNCONDITIONAL)
        labels = jnp.concatenate([given, found.label])
        energies = jax.vmap(self.kl.energies, (None, 0, 0))(params, x, labels)
        all_pos, all_neg = jnp.split(energies, [len(batch['x'])])
        e_pos, e_neg = jnp.mean(all_pos, 1), jnp.mean(all_neg, 1)
        weights = self.weights(e_pos, exclude(e_neg, found.valid))
        terms = {'contrast': sum(obj.contrast(e_pos, e_neg, weights))}
        metrics = {**obj.scores(e_pos, e_neg, found.valid), **negatives.metrics(found)}
        if self.l2_weight:
            square = obj.energy_square(all_pos, all_neg, found.valid)
            terms['energy_square'] = self.l2_weight * square
        if self.kl.weight:
            value, kl_metrics = self.kl.value(params, samples)
            terms['kl'] = self.kl.weight * value
            metrics |= kl_metrics
        return terms, metrics
