"""JEM and ST-JEM: a classifier that is also a generative model.

    L = L_yx + p_x_weight * [(1 - alpha) L_x + alpha L_xy]

L_yx is cross-entropy, L_x and L_xy are contrasts of log p(x) and log p(x|y) between the batch and
the samples of Langevin chains.
Plain JEM (Grathwohl et al. 2020, arXiv 1912.03263): weights = uniform, alpha = 0.
ST-JEM (Sustek et al. 2023, arXiv 2303.04187): weights = balanced; the formulas are our reading of
it, consistent with the first author's public code. alpha weighs the mutual information of the
batch, L = (L_yx + L_x) - alpha I with I = L_x - L_xy; alpha = 1 is the loss of that code.
"""

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from ebm_jax import devices, negatives
from ebm_jax import objectives as obj
from ebm_jax.adapt import Sampler
from ebm_jax.kl import KlTerm, Samples
from ebm_jax.mcmc import run_chains
from ebm_jax.negatives import Negatives
from ebm_jax.replay import ShardedBuffer, sharded
from ebm_jax.shapes import (
    check_buffer,
    check_classes,
    check_kind,
    check_network,
    check_weights,
)
from ebm_jax.types import (
    UNCONDITIONAL,
    Array,
    Method,
    Network,
    PyTree,
    ReplayBuffer,
    WeightRule,
)
from ebm_jax.validity import exclude, masked_mean

# a chain that grows is compiled anew when it has grown by as many steps
EXTRA_STEPS = 5
# past samples, or a few more, that the entropy of the KL term is estimated by
POPULATION = 104


@struct.dataclass
class Chains:
    """Everything the chains keep between steps; each leaf has a leading axis of shards."""

    buffer: PyTree  # ReplayState of each shard
    sampler: PyTree  # the sampler's tuned settings, equal in all shards
    calls: Array  # int32 [shards]: rounds of sampling so far, equal in all shards


def jem(
    network: Network,
    sampler: Sampler,
    buffer: ReplayBuffer,
    *,
    num_negatives: int,
    num_steps: int = 20,
    weights: WeightRule = obj.uniform,
    p_x_weight: float = 1.0,
    late_p_x_weight: tuple[int, float] | None = None,
    alpha: float = 0.0,
    entropy_weight: float = 0.0,
    conditional: float = 0.0,
    shards: int = 8,
    extra_step_every: int = 0,
    separate: bool = False,
    kl_weight: float = 0.0,
    kl_entropy_weight: float = 0.3,
) -> Method:
    """JEM, or ST-JEM with `weights=objectives.balanced`.

    Args:
      network: one example -> logits [C].
      sampler: `adapt.fixed(kernel)` or `adapt.adaptive(...)`.
      buffer: ReplayBuffer of ONE shard; the chains live in `shards` of them, so that they can be
        split over devices.
      num_negatives: M, chains advanced at each step, over all devices; divisible by `shards`.
      num_steps: K, steps of the kernel per training step; one more every `extra_step_every`
        training steps (0: never). The compiled loop is up to EXTRA_STEPS - 1 steps longer, so that
        it need not be compiled anew at each of them (`Method.at`).
      weights: `uniform`, `balanced`, or a partial of it (beta, include_positives).
      p_x_weight: factor on the generative part.
      late_p_x_weight: (training step from 0, factor from that step on), for a classifier whose
        decisions are the sharper for a small factor, once a larger one has made its samples (ours).
      alpha: weight in [0, 1] of the batch's mutual information I = L_x - L_xy; outside that range
        one of the two contrasts would be maximised without bound (range: our reading).
      entropy_weight: weight of the entropy form of mutual information, H(mean p(y|x)) - mean
        H(p(y|x)), which needs no labels and is over all examples of p(x); 0 leaves it out.
      conditional: share in [0, 1] of the chains that follow p(x|y), y drawn from the labels of the
        batch; the others follow p(x). At each step these are M * conditional of the M chains,
        rounded at random so that the number is exact in expectation.
      shards: number of independent buffers; a multiple of the number of devices.
      separate: the batch has two further entries, 'positives' [P, ...] and 'positives_y' [P], and
        the contrasts of log p(x) and log p(x|y) take these: images of another number or, as
        SADA-JEM has it (Yang et al. 2023, arXiv 2209.07959), without augmentation. The classifier
        alone takes 'x' and 'y'. With the same examples in both it is the plain method.
      kl_weight: of the KL term of improved contrastive divergence (`ebm_jax.kl`), through the last
        step of all M chains; 0 leaves it out. It adds the energies that the chains descend, of
        p(x) or p(x|y) (our reading: the paper has it for energies alone).
      kl_entropy_weight: of the entropy within the KL term; it counts once the buffers hold more
        than 1,000 past samples.
    Examples may lack a label (UNCONDITIONAL in 'y' or 'positives_y'): cross-entropy and the mutual
    information of the batch are then over those that have one, log p(x) over all, and labels of
    chains are drawn from those that are known. alpha is then multiplied by the share r of those
    with a label: (1 - r) L_x(without) + r [(1 - alpha) L_x + alpha L_xy](with), else it has no
    lower bound: our reading of semi-supervised learning with EBMs (Zhao et al. 2020).
    Returns: Method. Its loss terms: 'classifier', 'positives', 'negatives' (and
      'entropy_information', 'kl').
    Raises: TypeError for a part of another kind;
      ValueError when a number is out of range or M is not divisible by `shards`, or for a KL term
      with a sampler that tunes itself or chains that grow.
    """
    check_network('network', network)
    check_kind('sampler', sampler, Sampler, 'adapt.fixed(kernel)')
    check_buffer(buffer)
    negatives.check_shards(shards, num_negatives=num_negatives)
    if not 0 <= conditional <= 1:
        raise ValueError(f'conditional is a share in [0, 1], got {conditional}')
    if not 0 <= alpha <= 1:
        raise ValueError(
            'alpha must lie in [0, 1], beyond which a contrast is maximised without bound, got '
            f'{alpha}'
        )
    if num_steps < 1 or extra_step_every < 0:
        raise ValueError(
            f'num_steps must be >= 1 and extra_step_every >= 0, got {num_steps} and '
            f'{extra_step_every}'
        )
    late_from, late = late_p_x_weight or (1, 0.0)
    if late_from < 1:
        raise ValueError(f'late_p_x_weight is (a training step >= 1, a factor), got {late_from}')
    check_weights(
        p_x_weight=p_x_weight,
        late_p_x_weight=late,
        entropy_weight=entropy_weight,
        kl_weight=kl_weight,
        kl_entropy_weight=kl_entropy_weight,
    )
    kl = None
    if kl_weight:
        if sampler.tunes or extra_step_every:
            raise ValueError(
                'the KL term runs the last step of the chains again: it needs adapt.fixed(kernel) '
                'and extra_step_every=0'
            )
        kl = KlTerm(
            energies=lambda params, x, label: obj.energy_of(network.apply(params, x), label)[None],
            kernel=sampler.kernel(sampler.init()),
            num_steps=num_steps,
            weight=kl_weight,
            num_negatives=num_negatives,
            entropy_weight=kl_entropy_weight,
            population=-(-POPULATION // shards) * shards,
            shards=shards,
        )
    parts = _Jem(
        network=network,
        sampler=sampler,
        buffer=sharded(buffer),
        kl=kl,
        weights=weights,
        num_negatives=num_negatives,
        num_steps=num_steps,
        loop=num_steps,
        extra_step_every=extra_step_every,
        separate=separate,
        conditional=conditional,
        p_x_weight=p_x_weight,
        factor=p_x_weight,
        late_p_x_weight=late_p_x_weight,
        alpha=alpha,
        entropy_weight=entropy_weight,
        shards=shards,
    )
    return parts.method()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Jem:
    """The three functions of the method; fields as in `jem`."""

    network: Network
    sampler: Sampler
    buffer: ShardedBuffer
    kl: KlTerm | None
    weights: WeightRule
    num_negatives: int
    num_steps: int
    loop: int  # steps of the compiled loop, num_steps or more
    extra_step_every: int
    separate: bool
    conditional: float
    p_x_weight: float
    factor: float  # of p(x) at the steps that this Method is for: p_x_weight or the late one
    late_p_x_weight: tuple[int, float] | None
    alpha: float
    entropy_weight: float
    shards: int

    @property
    def per_shard(self) -> int:
        return self.num_negatives // self.shards

    def method(self) -> Method:
        """The Method whose loop has `loop` steps and whose p(x) has the factor `factor`."""
        return Method(
            init=self.init,
            sample=self.sample,
            loss=self.loss,
            gradients_per_step=self.num_negatives * self.loop,
            chain_steps=self.loop,
            at=self.at if self.extra_step_every or self.late_p_x_weight else None,
        )

    def at(self, step: int) -> Method:
        """The Method of a training step, from 0: its loop has K steps or a few more, its p(x) the
        factor of that step."""
        blocks, factor = 0, self.p_x_weight
        if self.extra_step_every:
            blocks = -(-(step // self.extra_step_every) // EXTRA_STEPS)
        if self.late_p_x_weight and step >= self.late_p_x_weight[0]:
            factor = self.late_p_x_weight[1]
        return _changed(self, self.num_steps + blocks * EXTRA_STEPS, factor)

    def positives(self, batch):
        """The examples of p(x) [P, ...]."""
        return batch['positives'] if self.separate else batch['x']

    def positives_y(self, batch):
        """Their labels [P]."""
        return batch['positives_y'] if self.separate else batch['y']

    def logits(self, params, x):
        """[n, ...] -> [n, C]."""
        return jax.vmap(self.network.apply, (None, 0))(params, x)

    def init(self, key, batch):
        network_key, buffer_key = jax.random.split(key)
        params = self.network.init(network_key, batch['x'][0])
        labels = batch['y'], self.positives_y(batch)
        check_classes(self.network, params, batch['x'][0], *labels)

        def in_every_shard(leaf):
            return jnp.broadcast_to(leaf, (self.shards, *jnp.shape(leaf)))

        buffer = self.buffer.init(buffer_key, self.shards)
        negatives.check_positions(buffer, batch)
        if self.kl:
            self.kl.check_buffer(buffer)
        return params, Chains(
            buffer=buffer,
            sampler=jax.tree.map(in_every_shard, self.sampler.init()),
            calls=jnp.zeros(self.shards, jnp.int32),
        )

    def wanted_labels(self, key, label_keys, batch):
        """[shards here, chains per shard]: labels drawn from those of the batch, UNCONDITIONAL for
        the chains on p(x)."""
        first = devices.positions(len(label_keys)) * self.per_shard
        # distinct from the shards' own keys; the same on all devices
        shift_key, quota_key = jax.random.split(jax.random.fold_in(key, self.shards))
        # so that the chains on p(x) are not always those of the same shards
        shift = jax.random.randint(shift_key, (), 0, self.num_negatives)
        chain = (first[:, None] + jnp.arange(self.per_shard) + shift) % self.num_negatives
        quota = jnp.floor(self.num_negatives * self.conditional + jax.random.uniform(quota_key))
        labels = negatives.batch_labels(label_keys, self.per_shard, self.positives_y(batch))
        if self.separate:  # few of them may be known; those of the classifier are
            own = negatives.batch_labels(label_keys, self.per_shard, batch['y'])
            hidden = devices.total(jnp.sum(batch['positives_y'] == UNCONDITIONAL))
            labels = jnp.where(hidden > 0, own, labels)
        return jnp.where(chain < quota, labels, UNCONDITIONAL)

    def sample(self, key, params, chains, batch):
        names = 'labels', 'draw', 'chains', 'write', *(['past', 'past_move'] if self.kl else [])
        keys = negatives.shard_keys(key, len(chains.calls), *names)
        run_keys = negatives.chain_keys(keys['chains'], self.per_shard)
        settings = jax.tree.map(lambda leaf: leaf[0], chains.sampler)
        stop = None
        if self.extra_step_every:
            stop = self.num_steps + chains.calls[0] // self.extra_step_every

        def run(draw):
            if self.kl:
                return self.kl.run_chains(params, run_keys, draw.position, draw.label)
            x, _ = run_chains(
                run_keys,
                self.sampler.kernel(settings),
                lambda x, label: obj.energy_of(self.network.apply(params, x), label),
                draw.position,
                self.loop,
                draw.label,
                stop=stop,
            )
            return negatives.Run(draw.position, x)

        found, buffer, before = negatives.advance(
            keys['draw'],
            keys['write'],
            self.buffer,
            chains.buffer,
            self.wanted_labels(key, keys['labels'], batch),
            run,
        )
        if self.sampler.tunes:
            energies = jax.vmap(obj.marginal_energy)(self.logits(params, found.x))
            score = devices.mean(-masked_mean(energies, found.valid))
            settings = self.sampler.update(settings, score)
        tuned = jax.tree.map(
            lambda leaf, old: jnp.broadcast_to(leaf, old.shape), settings, chains.sampler
        )
        samples: Negatives | Samples = found
        if self.kl:
            past_keys = keys['past'], keys['past_move']
            samples = self.kl.samples(
                run_keys, past_keys, before, found, self.buffer, chains.buffer
            )
        return samples, Chains(buffer=buffer, sampler=tuned, calls=chains.calls + 1)

    def loss(self, params, key, batch, samples):
        del key
        found = samples.negatives if self.kl else samples
        positives, valid = self.positives(batch), found.valid
        n, labels = len(positives), self.positives_y(batch)
        images = [positives, found.x, *([batch['x']] if self.separate else [])]
        logits = self.logits(params, jnp.concatenate(images))
        pos, neg, classified = jnp.split(logits, [n, n + len(found.x)])
        if not self.separate:
            classified = pos
        e_pos, e_neg = jax.vmap(obj.marginal_energy)(pos), jax.vmap(obj.marginal_energy)(neg)
        w = self.weights(e_pos, exclude(e_neg, valid))
        positives_term, negatives_term = obj.contrast(e_pos, e_neg, w)
        # the logits of excluded negatives, as energies -f(x)[y], are infinite
        counted = -exclude(-neg, valid)
        correct = jnp.argmax(classified, 1) == batch['y']
        metrics = {
            'accuracy': obj.labelled_mean(correct.astype(jnp.float32), batch['y']),
            **obj.scores(e_pos, e_neg, valid),
            **negatives.metrics(found),
            'effective_sample_size': obj.effective_sample_size(w),
            'batch_information': obj.batch_information(pos, labels, counted),
        }
        if self.alpha:
            w_y = self.weights(-pos, -counted)  # [N, C], [M, C]: a set of weights for each class
            conditional = obj.class_contrast(pos, labels, neg, w_y)
            # alpha I = alpha (L_x - L_xy) of the examples that have a label
            known = (labels != UNCONDITIONAL).astype(e_pos.dtype)
            alpha = self.alpha * devices.mean(jnp.mean(known))
            mean_energy = obj.labelled_mean(e_pos, labels)
            positives_term += alpha * (conditional[0] - mean_energy)
            negatives_term += alpha * (conditional[1] - negatives_term)
            shares = obj.class_shares(labels, pos.shape[1])
            metrics['effective_sample_size_by_class'] = shares @ obj.effective_sample_size(w_y)
        terms = {
            'classifier': obj.cross_entropy(classified, batch['y']),
            'positives': self.factor * positives_term,
            'negatives': self.factor * negatives_term,
        }
        if self.entropy_weight:
            information = obj.entropy_information(pos)
            terms['entropy_information'] = -self.entropy_weight * information
        if self.kl:
            value, kl_metrics = self.kl.value(params, samples)
            terms['kl'] = self.kl.weight * value
            metrics |= kl_metrics
        return terms, metrics


@functools.lru_cache(maxsize=64)
def _changed(parts, loop, factor):
    """The same object for the same arguments, so that `Method.at` says when to compile again."""
    return dataclasses.replace(parts, loop=loop, factor=factor).method()
