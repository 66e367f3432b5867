"""Improved contrastive divergence (ICD): contrastive divergence with the gradient term that is usually left out.

    L = L_CD + kl_weight (E_q[E_sg(x(theta))] - entropy_weight H(q)) + l2_weight (E[E(x+)^2] + E[E(x-)^2])
    L_CD = E_data[E(x+)] - E_q[E(sg(x-))]

q is the law of the end of a K-step Langevin chain. In L_CD the samples are constants and the energy is live; in the KL term the energy
is constant and the samples are live, through the last m steps of the same chain.
Source: Du, Li, Tenenbaum & Mordatch 2021, arXiv 2012.01316, with the constants of its release; the marks below say which is which.
Plain contrastive divergence is `kl_weight=0, l2_weight=0, from_data=True` with `replay.fresh`; persistent contrastive divergence the same
with `replay.persistent` and from_data=False.
"""
import math

import jax
import jax.numpy as jnp
from flax import struct
from jax.lax import stop_gradient

from ebm_jax import devices
from ebm_jax import objectives as obj
from ebm_jax.mcmc import HamiltonianState, advance, chain_health, unmoved
from ebm_jax.replay import pools, quarantine
from ebm_jax.types import UNLABELLED, Array, Method, PyTree


@struct.dataclass
class Chains:
    """Everything the chains keep between steps; each leaf has a leading axis of shards."""
    buffer: PyTree    # ReplayState of each shard


@struct.dataclass
class Tail:
    """The last m steps of some chains, to be walked again with live parameters."""
    state: PyTree     # [n, ...] the kernel's state before them
    key: Array        # [n] the chain's key
    label: Array      # [n]
    sound: Array      # bool [n]: False for chains that went astray


@struct.dataclass
class Samples:
    """Negatives of one step, and what the KL term needs of them."""
    x: PyTree         # [M, ...]: where the chains ended
    label: Array      # [M]
    age: Array        # [M]: rounds since the chain (re)started
    sound: Array      # bool [M]: False for chains that went astray; they are not in the loss
    dead: Array       # share of chains that did not move
    tail: Tail
    population: PyTree   # [P, ...]: past samples, the same on all devices
    present: Array       # bool [P]: which of them are there
    ready: Array         # bool: the buffer holds enough past samples for the entropy


def icd(network, kernel, buffer, *, num_negatives, num_steps=40, transition=None, kl_weight=1.0, kl_steps=1, kl_chains=None,
        entropy=obj.nearest_neighbour_entropy, entropy_weight=0.3, population=104, population_after=1000, l2_weight=1.0,
        weights=obj.uniform, conditional=False, from_data=False, shards=8):
    """Improved contrastive divergence.

    Args:
      network: Network, one example (and its label, where conditional) -> energies [S] of its scales, or a scalar. A chain
        descends their SUM, the loss takes their MEAN ([code]).
      kernel: an unadjusted Langevin kernel; the release's adds its noise before the drift and clips ([code]: `noise_first=True`).
      buffer: ReplayBuffer of ONE shard.
      num_negatives: M, chains advanced at each step over all devices; divisible by `shards`.
      num_steps: K ([code]: 40).
      transition: None, or (key, x) -> x: a transition of the chain before its K steps, always accepted (data augmentation).
      kl_weight: 0 leaves the KL term out. kl_steps: m in [1, K], steps of the chain that carry a gradient ([code]: 1).
      kl_chains: n, how many of the M chains the KL term takes; divisible by `shards`, default all.
      entropy: (x [n, ...], population [P, ...], present [P]) -> [n], `objectives.nearest_neighbour_entropy` or `kernel_entropy`.
      entropy_weight: of H(q) within the KL term ([code]: 0.3, a heuristic).
      population: P, divisible by `shards` ([code]: 100). Drawn uniformly without replacement from the past samples in the buffer as it
        was before this step's samples were written, each passed through `transition`.
      population_after: the entropy counts once the buffers hold more past samples than this ([code]: 1,000).
      l2_weight: of the squared energies ([code]: 1.0).
      weights: rule (e_pos [N], e_neg [M]) -> Weights of the contrast; `uniform` in the paper.
      conditional: the network takes a label; chains follow labels drawn from those of the batch.
      from_data: chains start at the batch (and its labels), which then must hold M examples, and not at the buffer.
      shards: number of independent buffers; a multiple of the number of devices.
    Returns: Method. Its addends: 'contrast' and, where their weights are not 0, 'kl' and 'energy_square'.
    Raises: ValueError when a number is out of range, does not divide, or the buffer can never hold `population_after` samples.
    """
    kl_chains = num_negatives if kl_chains is None else kl_chains
    with_entropy = kl_weight != 0 and entropy_weight != 0
    used = {'num_negatives': num_negatives} | ({'kl_chains': kl_chains} if kl_weight else {}) | (
        {'population': population} if with_entropy else {})
    for name, number in used.items():
        if shards < 1 or number < 1 or number % shards:
            raise ValueError(f'{name} must be a positive multiple of shards, got {number} and {shards} shards')
    for name, weight in (('kl_weight', kl_weight), ('entropy_weight', entropy_weight), ('l2_weight', l2_weight)):
        if not 0 <= weight < math.inf:
            raise ValueError(f'{name} must be finite and at least 0, got {weight}')
    if kl_chains > num_negatives:
        raise ValueError(f'kl_chains cannot exceed num_negatives, got {kl_chains} of {num_negatives}')
    if not 1 <= kl_steps <= num_steps:
        raise ValueError(f'kl_steps must lie in [1, num_steps], got {kl_steps} of {num_steps}')
    per_shard, pool = num_negatives // shards, pools(buffer)

    def energies(params, x, label):
        """[S] of one example."""
        return jnp.atleast_1d(network.apply(params, x, *([label] if conditional else [])))

    def many(params, x, label):
        return jax.vmap(energies, (None, 0, 0))(params, x, label)

    def energy(params, label):
        """x -> scalar, the sum of scales."""
        return lambda x: jnp.sum(energies(params, x, label))

    def steps(params, first, count):
        """(key, state, label) -> state, `count` steps of a chain."""
        return lambda key, state, label: advance(key, kernel, energy(params, label), state, count, first=first)[0]

    def init(key, batch):
        network_key, buffer_key = jax.random.split(key)
        params = network.init(network_key, batch['x'][0], *([batch['y'][0]] if conditional else []))
        state = pool.init(buffer_key, shards)
        if with_entropy and population_after >= state.age.size:
            raise ValueError(f'population_after={population_after} is never exceeded by a buffer of {state.age.size} entries: '
                             'lower it, or enlarge the buffer')
        return params, Chains(state)

    def moved(keys, x):
        return x if transition is None else jax.vmap(transition)(keys, x)

    def wanted_labels(keys, batch):
        if not conditional:
            return jnp.full((len(keys), per_shard), UNLABELLED)
        if from_data:
            return batch['y'].reshape(len(keys), per_shard)
        of_batch = devices.gather(batch['y']).astype(jnp.int32)
        return of_batch[jax.vmap(lambda key: jax.random.randint(key, (per_shard,), 0, len(of_batch)))(keys)]

    def past(peek_keys, move_keys, state):
        """A population of past samples, the same on all devices, and whether it counts."""
        if not with_entropy:
            return (), (), ()
        each = population // shards
        x, present = pool.peek(peek_keys, state, each)
        x = moved(jax.vmap(lambda key: jax.random.split(key, each))(move_keys).reshape(-1), x)
        return (*devices.gather((x, present)), pool.count(state) > population_after)

    def sample(key, params, chains, batch):
        here = len(chains.buffer.seen)
        keys = jax.vmap(lambda key: jax.random.split(key, 7))(devices.keys(key, here))
        each = lambda column: jax.vmap(lambda key: jax.random.split(key, per_shard))(keys[:, column]).reshape(-1)
        if from_data and len(batch['x']) != here * per_shard:
            raise ValueError(f'chains that start at the data need as many negatives as the batch has examples, got {num_negatives} '
                             f'for {len(batch["x"]) * devices.count()}')
        draw = pool.draw(keys[:, 0], chains.buffer, wanted_labels(keys[:, 1], batch))
        if from_data:
            draw = draw._replace(position=batch['x'], age=jnp.zeros_like(draw.age))
        start = jax.vmap(lambda x, label: kernel.init(x, energy(params, label)))(moved(each(2), draw.position), draw.label)
        if kl_weight and isinstance(start, HamiltonianState):
            raise ValueError('the KL term needs a gradient through the kernel, which a Metropolis test does not have: take '
                             'mcmc.langevin, or kl_weight=0')
        chain_keys = each(3)
        before = jax.vmap(steps(params, 0, num_steps - kl_steps))(chain_keys, start, draw.label)
        x = jax.vmap(steps(params, num_steps - kl_steps, kl_steps))(chain_keys, before, draw.label).position
        dead = unmoved(start.position, x)
        x, ended, sound = quarantine(draw, stop_gradient(x))
        of_kl = (jnp.arange(here)[:, None] * per_shard + jnp.arange(kl_chains // shards)).reshape(-1)   # the first of each shard
        of_sound = jnp.where(sound[of_kl], of_kl, of_kl[jnp.argmax(sound[of_kl])])   # the way of one astray would be walked again
        tail = Tail(*jax.tree.map(lambda leaf: leaf[of_sound], (before, chain_keys, draw.label)), sound[of_kl])
        samples = Samples(x, draw.label, draw.age + 1, sound, dead, tail, *past(keys[:, 4], keys[:, 5], chains.buffer))
        return stop_gradient(samples), Chains(pool.write(keys[:, 6], chains.buffer, ended, x))

    def kl_term(params, samples):
        """(value, metrics): E_sg at the end of chains whose last m steps are live, and their entropy."""
        tail = samples.tail
        x = jax.vmap(steps(params, num_steps - kl_steps, kl_steps))(tail.key, tail.state, tail.label).position
        end = obj.mean_where(many(stop_gradient(params), x, tail.label), tail.sound)
        if not with_entropy:
            return end, {'kl_energy': end}
        spread = jnp.where(samples.ready, obj.mean_where(entropy(x, samples.population, samples.present), tail.sound), 0.0)
        return end - entropy_weight * spread, {'kl_energy': end, 'kl_entropy': spread,
                                               'kl_entropy_counts': samples.ready.astype(jnp.float32)}

    def loss(params, key, batch, samples):
        del key
        e_pos, e_neg = many(params, batch['x'], batch['y']), many(params, samples.x, samples.label)
        of_scales = jnp.mean(e_pos, 1), jnp.mean(e_neg, 1)
        addends = {'contrast': sum(obj.contrast(*of_scales, weights(of_scales[0], jnp.where(samples.sound, of_scales[1], obj.OUT))))}
        metrics = {
            **obj.scores(*of_scales, samples.sound), **chain_health(samples.sound, samples.dead),
            'chain_age_mean': jnp.mean(samples.age.astype(jnp.float32)),
            'chain_age_max': devices.maximum(jnp.max(samples.age)).astype(jnp.float32)}
        if l2_weight:
            addends['energy_square'] = l2_weight * obj.energy_square(e_pos, e_neg, samples.sound)
        if kl_weight:
            value, more = kl_term(params, samples)
            addends['kl'] = kl_weight * value
            metrics.update(more)
        return addends, metrics

    return Method(init, sample, loss, num_negatives * num_steps, num_steps)
