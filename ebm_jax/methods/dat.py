"""Dual adversarial training (DAT): a robust classifier that is also a generative model.

    L = L_yx + p_x_weight L_x
    L_yx = cross-entropy on attacked examples
    L_x = -mean log sigmoid(-E(x+)) - mean log(1 - sigmoid(-E(x-)))

The negatives x- are brought to low energies by projected gradient ascent of -E, E(x) = -logsumexp_c
f(x)[c]. The gradient of L_x is that of a contrast with `objectives.logistic` weights, by which it
is computed here. Both halves are adversarial training, of p(y|x) and of p(x).
Source: dual adversarial training, with p(x) after Yin et al. 2022 (arXiv 2012.06568). Where the
negatives start (a replay buffer, or noise at each step, in place of another data set) is our
reading.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from ebm_jax import devices, negatives
from ebm_jax import objectives as obj
from ebm_jax.mcmc import run_chains
from ebm_jax.negatives import Negatives
from ebm_jax.replay import ShardedBuffer, sharded
from ebm_jax.shapes import check_buffer, check_classes, check_kernel, check_network
from ebm_jax.types import (
    UNCONDITIONAL,
    Array,
    Kernel,
    Key,
    Method,
    Network,
    PyTree,
    ReplayBuffer,
    WeightRule,
)
from ebm_jax.validity import exclude

# (key, x -> logits, x, label) -> attacked x, of one example
Adversary = Callable[[Key, Callable[[Array], Array], Array, Array], Array]


@struct.dataclass
class Chains:
    """Everything the chains keep between steps; each leaf has a leading axis of shards."""

    buffer: PyTree  # ReplayState of each shard


@struct.dataclass
class Samples:
    """Negatives of one step, and the attacked examples of the batch."""

    negatives: Negatives
    attacked: Array  # [N, ...]

    @property
    def x(self) -> PyTree:
        """[M, ...]: where the chains ended."""
        return self.negatives.x


def dat(
    network: Network,
    kernel: Kernel,
    buffer: ReplayBuffer,
    *,
    adversary: Adversary,
    num_negatives: int,
    num_steps: int = 20,
    p_x_weight: float = 1.0,
    weights: WeightRule = obj.logistic,
    shards: int = 8,
) -> Method:
    """Dual adversarial training.

    Args:
      network: one example -> logits [C].
      kernel: of the negatives, such as `kernels.steepest_descent`.
      buffer: ReplayBuffer of ONE shard.
      adversary: attacks an example of the batch; with attack = `evaluate.attacks.pgd(attacks.L2)`,
        lambda key, logits, x, label: attack.run(key, attacks.deterministic(logits), x, label,
        radius).x; lambda key, logits, x, label: x leaves it as it is.
      num_negatives: M, over all devices; divisible by `shards`. num_steps: K.
      p_x_weight: factor on L_x. weights: of its contrast.
      shards: number of independent buffers; a multiple of the number of devices.
    Returns: Method. Its loss terms: 'classifier', 'positives', 'negatives'. The metric 'accuracy'
      is that of examples as they are, 'robust_accuracy' of attacked ones.
    Raises: TypeError for a part of another kind;
      ValueError when a number is out of range or not divisible by `shards`.
    """
    check_network('network', network)
    check_kernel('kernel', kernel)
    check_buffer(buffer)
    if not callable(adversary):
        found = type(adversary).__name__
        raise TypeError(f'adversary must be a function (key, logits, x, label) -> x, got {found}')
    negatives.check_shards(shards, num_negatives=num_negatives)
    if num_steps < 1 or not p_x_weight >= 0:
        raise ValueError(
            f'num_steps must be >= 1 and p_x_weight >= 0, got {num_steps} and {p_x_weight}'
        )
    parts = _Dat(
        network=network,
        kernel=kernel,
        buffer=sharded(buffer),
        adversary=adversary,
        num_negatives=num_negatives,
        num_steps=num_steps,
        p_x_weight=p_x_weight,
        weights=weights,
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
class _Dat:
    """The three functions of the method; fields as in `dat`."""

    network: Network
    kernel: Kernel
    buffer: ShardedBuffer
    adversary: Adversary
    num_negatives: int
    num_steps: int
    p_x_weight: float
    weights: WeightRule
    shards: int

    def init(self, key, batch):
        network_key, buffer_key = jax.random.split(key)
        params = self.network.init(network_key, batch['x'][0])
        check_classes(self.network, params, batch['x'][0], batch['y'])
        buffer = self.buffer.init(buffer_key, self.shards)
        negatives.check_positions(buffer, batch)
        return params, Chains(buffer)

    def attacked(self, key, params, batch):
        """The examples of the batch, attacked; keys do not depend on the number of devices."""
        keys = devices.keys(jax.random.fold_in(key, self.shards), len(batch['x']))

        def one(key, x, label):
            return self.adversary(key, lambda u: self.network.apply(params, u), x, label)

        return jax.vmap(one)(keys, batch['x'], batch['y'])

    def sample(self, key, params, chains, batch):
        here, each = len(chains.buffer.seen), self.num_negatives // self.shards
        keys = negatives.shard_keys(key, here, 'draw', 'chains', 'write')

        def run(draw):
            x, _ = run_chains(
                negatives.chain_keys(keys['chains'], each),
                self.kernel,
                lambda x: obj.marginal_energy(self.network.apply(params, x)),
                draw.position,
                self.num_steps,
            )
            return negatives.Run(draw.position, x)

        found, buffer, _ = negatives.advance(
            keys['draw'],
            keys['write'],
            self.buffer,
            chains.buffer,
            jnp.full((here, each), UNCONDITIONAL),
            run,
        )
        samples = Samples(found, self.attacked(key, params, batch))
        return jax.lax.stop_gradient(samples), Chains(buffer)

    def accuracy(self, logits, labels):
        """Over the examples that have a label."""
        correct = jnp.argmax(logits, 1) == labels
        return obj.labelled_mean(correct.astype(jnp.float32), labels)

    def loss(self, params, key, batch, samples):
        del key
        n, found = len(batch['x']), samples.negatives
        images = jnp.concatenate([batch['x'], samples.attacked, found.x])
        logits = jax.vmap(self.network.apply, (None, 0))(params, images)
        pos, attacked, neg = jnp.split(logits, [n, 2 * n])
        e_pos, e_neg = jax.vmap(obj.marginal_energy)(pos), jax.vmap(obj.marginal_energy)(neg)
        weights = self.weights(e_pos, exclude(e_neg, found.valid))
        positives_term, negatives_term = obj.contrast(e_pos, e_neg, weights)
        terms = {
            'classifier': obj.cross_entropy(attacked, batch['y']),
            'positives': self.p_x_weight * positives_term,
            'negatives': self.p_x_weight * negatives_term,
        }
        return terms, {
            'accuracy': self.accuracy(pos, batch['y']),
            'robust_accuracy': self.accuracy(attacked, batch['y']),
            **obj.scores(e_pos, e_neg, found.valid),
            **negatives.metrics(found),
        }
