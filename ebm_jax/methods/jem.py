"""JEM and ST-JEM: a classifier that is also a generative model.

    L = L_yx + p_x_weight * [(1 - alpha) L_x + alpha L_xy]

L_yx is cross-entropy, L_x and L_xy are contrasts of log p(x) and log p(x|y) between the batch and the samples of Langevin chains.
Plain JEM (Grathwohl et al. 2020, arXiv 1912.03263): weights = uniform, alpha = 0.
ST-JEM (Sustek et al. 2023, arXiv 2303.04187): weights = balanced; the formulas are our reading of it, consistent with the first
author's public code. alpha weighs the mutual information of the batch, L = (L_yx + L_x) - alpha I with I = L_x - L_xy; alpha = 1 is
the loss of that code.
"""
import jax
import jax.numpy as jnp
from flax import struct

from ebm_jax import devices
from ebm_jax import objectives as obj
from ebm_jax.mcmc import chain_health, run_chains, unmoved
from ebm_jax.replay import pools, quarantine
from ebm_jax.types import UNLABELLED, Array, Method, PyTree


@struct.dataclass
class Chains:
    """Everything the chains keep between steps; each leaf has a leading axis of shards."""
    buffer: PyTree    # ReplayState of each shard
    sampler: PyTree   # the sampler's tuned settings, equal in all shards
    calls: Array      # int32 [shards]: rounds of sampling so far, equal in all shards


@struct.dataclass
class Samples:
    """Negatives of one step: where the chains ended."""
    x: PyTree         # [M, ...]
    label: Array      # [M]
    age: Array        # [M]: rounds since the chain (re)started
    sound: Array      # bool [M]: False for chains that went astray; they are not in the loss
    dead: Array       # share of chains that did not move


def jem(network, sampler, buffer, *, num_negatives, num_steps=20, weights=obj.uniform, p_x_weight=1.0, alpha=0.0,
        entropy_weight=0.0, conditional=0.0, shards=8, extra_step_every=0):
    """JEM, or ST-JEM with `weights=objectives.balanced`.

    Args:
      network: Network, one example -> logits [C].
      sampler: `adapt.fixed(kernel)` or `adapt.adaptive(...)`.
      buffer: ReplayBuffer of ONE shard; the chains live in `shards` of them, so that they can be split over devices.
      num_negatives: M, chains advanced at each step, over all devices; divisible by `shards`.
      num_steps: K, steps of the kernel per training step; one more every `extra_step_every` training steps (0: never).
      weights: rule (e_pos, e_neg) -> Weights: `uniform`, `balanced`, or a partial of it (beta, include_positives).
      p_x_weight: factor on the generative part. alpha: weight in [0, 1] of the batch's mutual information I = L_x - L_xy; beyond, one
        of the two contrasts would be climbed without bound (range: our reading).
      entropy_weight: weight of the entropy form of mutual information, H(mean p(y|x)) - mean H(p(y|x)); 0 leaves it out.
      conditional: share in [0, 1] of the chains that follow p(x|y), y drawn from the labels of the batch; the others follow p(x).
        At each step M conditional of the M chains, rounded down or up so that the mean over steps is exact.
      shards: number of independent buffers; a multiple of the number of devices.
    Returns: Method. Its addends: 'classifier', 'positives', 'negatives' (and 'entropy_information').
    Raises: ValueError when a number is out of range or M does not divide.
    """
    if num_negatives < 1 or shards < 1 or num_negatives % shards:
        raise ValueError(f'num_negatives must be a positive multiple of shards, got {num_negatives} and {shards}')
    if not 0 <= conditional <= 1:
        raise ValueError(f'conditional is a share in [0, 1], got {conditional}')
    if not 0 <= alpha <= 1:
        raise ValueError(f'alpha must lie in [0, 1], beyond which a contrast is climbed without bound, got {alpha}')
    if num_steps < 1 or extra_step_every < 0:
        raise ValueError(f'num_steps must be >= 1 and extra_step_every >= 0, got {num_steps} and {extra_step_every}')
    per_shard, pool = num_negatives // shards, pools(buffer)
    logits_of = jax.vmap(network.apply, (None, 0))

    def init(key, batch):
        network_key, buffer_key = jax.random.split(key)
        params = network.init(network_key, batch['x'][0])
        repeat = lambda leaf: jnp.broadcast_to(leaf, (shards, *jnp.shape(leaf)))
        chains = Chains(pool.init(buffer_key, shards), jax.tree.map(repeat, sampler.init()), jnp.zeros(shards, jnp.int32))
        return params, chains

    def wanted_labels(key, shard_keys, batch):
        """[shards here, chains per shard]: labels from the batch's histogram, UNLABELLED for the chains on p(x)."""
        first = devices.positions(len(shard_keys)) * per_shard
        shift_key, quota_key = jax.random.split(jax.random.fold_in(key, shards))   # beyond the shards' own keys; the same on all devices
        shift = jax.random.randint(shift_key, (), 0, num_negatives)                # each shard gets its turn at p(x)
        chain = (first[:, None] + jnp.arange(per_shard) + shift) % num_negatives
        quota = jnp.floor(num_negatives * conditional + jax.random.uniform(quota_key))
        of_batch = devices.gather(batch['y']).astype(jnp.int32)
        pick = jax.vmap(lambda key: jax.random.randint(key, (per_shard,), 0, len(of_batch)))(shard_keys)
        return jnp.where(chain < quota, of_batch[pick], UNLABELLED)

    def sample(key, params, chains, batch):
        here = len(chains.calls)
        keys = jax.vmap(lambda key: jax.random.split(key, 4))(devices.keys(key, here))
        labels = wanted_labels(key, keys[:, 0], batch)
        draw = pool.draw(keys[:, 1], chains.buffer, labels)
        settings = jax.tree.map(lambda leaf: leaf[0], chains.sampler)
        steps = num_steps + chains.calls[0] // extra_step_every if extra_step_every else num_steps
        chain_keys = jax.vmap(lambda key: jax.random.split(key, per_shard))(keys[:, 2])
        x, _ = run_chains(chain_keys.reshape(-1), sampler.kernel(settings),
                          lambda x, label: obj.energy_of(network.apply(params, x), label),
                          draw.position, steps, draw.label)
        dead = unmoved(draw.position, x)
        x, ended, sound = quarantine(draw, jax.lax.stop_gradient(x))
        written = pool.write(keys[:, 3], chains.buffer, ended, x)
        if sampler.tunes:
            score = devices.mean(-obj.mean_where(jax.vmap(obj.marginal_energy)(logits_of(params, x)), sound))
            settings = sampler.update(settings, score)
        tuned = jax.tree.map(lambda leaf, old: jnp.broadcast_to(leaf, old.shape), settings, chains.sampler)
        return Samples(x, draw.label, draw.age + 1, sound, dead), Chains(written, tuned, chains.calls + 1)

    def loss(params, key, batch, samples):
        del key
        logits = logits_of(params, jnp.concatenate([batch['x'], samples.x]))
        pos, neg = jnp.split(logits, [len(batch['x'])])
        e_pos, e_neg = jax.vmap(obj.marginal_energy)(pos), jax.vmap(obj.marginal_energy)(neg)
        w = weights(e_pos, jnp.where(samples.sound, e_neg, obj.OUT))
        up, down = obj.contrast(e_pos, e_neg, w)
        if alpha:
            w_y = weights(-pos, jnp.where(samples.sound[:, None], -neg, obj.OUT))   # [N, C], [M, C]: a set of weights for each class
            up_y, down_y = obj.class_contrast(pos, batch['y'], neg, w_y)
            up, down = (1 - alpha) * up + alpha * up_y, (1 - alpha) * down + alpha * down_y
        addends = {'classifier': obj.cross_entropy(pos, batch['y']), 'positives': p_x_weight * up, 'negatives': p_x_weight * down}
        if entropy_weight:
            addends['entropy_information'] = -entropy_weight * obj.entropy_information(pos)
        metrics = {
            'accuracy': jnp.mean(jnp.argmax(pos, 1) == batch['y']),
            **obj.scores(e_pos, e_neg, samples.sound), **chain_health(samples.sound, samples.dead),
            'effective_sample_size': obj.effective_sample_size(w),
            'batch_information': obj.batch_information(pos, batch['y'], jnp.where(samples.sound[:, None], neg, -obj.OUT)),
            'chain_age_mean': jnp.mean(samples.age.astype(jnp.float32)),
            'chain_age_max': devices.maximum(jnp.max(samples.age)).astype(jnp.float32),
        }
        if alpha:
            shares = obj.class_shares(batch['y'], pos.shape[1])
            metrics['effective_sample_size_by_class'] = shares @ obj.effective_sample_size(w_y)
        return addends, metrics

    return Method(init, sample, loss, num_negatives * num_steps, num_steps)
