"""Dual-MCMC teaching: an energy E, a generator g and an inference model q teach each other by two Langevin chains.

    p(z) = N(0, I),  p(x|z) = N(g(z), sigma^2 I),  q(z|x) = N(mean(x), diag V(x)),  pi(x) ~ exp(-E(x))
    x' : chain on E from g(z), z ~ p(z);    z' : chain on |x - g(z)|^2 / (2 sigma^2) + |z|^2 / 2 from a sample of q(z|x)
    E: mean E(x) - mean E(x');   g: mean misfit(x, g(z')) + mean misfit(x', g(z));   q: mean -log q(z'|x) + mean -log q(z|x')

Samples are constants, so that each addend has a gradient in its own network only and one gradient teaches three. Source: Cui & Han 2023,
arXiv 2312.02469, section 3 [paper], and the constants of the authors' release [code]. CoopNets and others are settings of the same method.
"""
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.lax import stop_gradient

from ebm_jax import devices
from ebm_jax import objectives as obj
from ebm_jax.mcmc import chain_health, run_chain, select, sound, unmoved
from ebm_jax.types import UNLABELLED, Kernel, Method, PyTree, Round


class Settings(NamedTuple):
    """Which chains are run, and the weight of each addend of the loss; 0 leaves it out. The defaults are the paper's equal weights."""
    x_steps: int = 30              # of the chain in x; 0: its end is its start
    z_steps: int = 10              # of the chain in z
    from_generator: bool = True    # x-chains start at g(z), else at noise
    from_inference: bool = True    # z-chains start at a sample of q(z|x), else at one of p(z)
    sigma: float = 0.3             # of p(x|z)
    contrast: float = 1.0          # E: mean E(x) - mean E(x')
    generator_data: float = 1.0    # g: mean |x - g(z')|^2 / (2 sigma^2)
    generator_chain: float = 1.0   # g: mean |x' - g(z)|^2 / (2 sigma^2)
    inference_data: float = 1.0    # q: mean -log q(z'|x)
    inference_chain: float = 1.0   # q: mean -log q(z|x')
    elbo_data: float = 0.0         # g, q: mean of KL(q(z|x) || p(z)) + E_q |x - g(z)|^2 / (2 sigma^2), by reparametrisation
    elbo_chain: float = 0.0        # g, q: the same of x'
    adversarial: float = 0.0       # g: mean E(g(z)) - log q(z|g(z))
    sequential: bool = False       # [code]: g and q first, then E, on chains drawn anew from the g just updated (same z, same noise)


ADDENDS = ('contrast', 'generator_data', 'generator_chain', 'inference_data', 'inference_chain', 'elbo_data', 'elbo_chain', 'adversarial')
SILENT = Settings(contrast=0.0, generator_data=0.0, generator_chain=0.0, inference_data=0.0, inference_chain=0.0)

PAPER = Settings()
# [code] divides the misfit of the z-chain by sigma^2 = .3^2, not 2 sigma^2, and its generator losses are squared errors, the second one
# times 50 (CelebA-64: 70).
RELEASE = Settings(sigma=0.3 / math.sqrt(2), generator_data=0.09, generator_chain=50 * 0.09, inference_chain=0.1, sequential=True)
# CoopNets (Xie et al. 2018): the generator learns from its chains only.
COOPNETS = SILENT._replace(contrast=1.0, generator_chain=1.0)
# Variational cooperative learning (Xie et al. 2021): a variational autoencoder learns from revised samples.
VARIATIONAL_COOPERATIVE = SILENT._replace(contrast=1.0, elbo_chain=1.0)
# Divergence triangle (Han et al. 2019): KL(Q||P) + KL(P||Pi) - KL(Q||Pi) without chains. Its x' is g(z), without noise (our reading).
DIVERGENCE_TRIANGLE = SILENT._replace(x_steps=0, contrast=1.0, inference_chain=1.0, elbo_data=1.0, adversarial=1.0)
# Alternating back-propagation (Han et al. 2017): no energy, z-chains from p(z). Theirs persist (our reading: a fresh start).
ALTERNATING_BACK_PROPAGATION = SILENT._replace(from_inference=False, generator_data=1.0)
# Short-run EBM (Nijkamp et al. 2019): no generator, x-chains from noise.
SHORT_RUN = SILENT._replace(from_generator=False, contrast=1.0)
# Variational autoencoder (Kingma & Welling 2014), the baseline.
VAE = SILENT._replace(elbo_data=1.0)


def uses(settings):
    """Which chains' ends and which networks the settings need: (x', z', {network: whether}).

    Chains are 'needed' where an addend takes their end, of however many steps.
    """
    s = settings
    x_end = bool(s.contrast or s.generator_chain or s.inference_chain or s.elbo_chain or s.adversarial)
    z_end = bool(s.generator_data or s.inference_data)
    both = bool(s.elbo_data or s.elbo_chain or s.adversarial)
    return x_end, z_end, {
        'energy': bool(s.contrast or s.adversarial or x_end and s.x_steps),
        'generator': both or bool(s.generator_data or s.generator_chain or x_end and s.from_generator or z_end and s.z_steps),
        'inference': both or bool(s.inference_data or s.inference_chain or z_end and s.from_inference)}


@struct.dataclass
class Samples:
    """What one step's chains found; () where no addend takes it."""
    z: PyTree       # [M, D]: draws of the prior
    x: PyTree       # [M, ...]: x', where the chains in x ended that began at g(z), or at noise
    label: PyTree   # [M]: theirs, where conditional
    z_end: PyTree   # [N, D]: z', where the chains in z ended, of each example of the batch
    sound_x: PyTree   # bool [M]: False where the chain in x went astray; it is not in the loss
    sound_z: PyTree   # bool [N]: False where the chain in z did
    dead: jax.Array   # share of chains, in x or (without any) in z, that did not move


def dual_mcmc(energy, generator, inference, settings=PAPER, *, x_kernel, z_kernel, latent, num_negatives, x_start=None,
              conditional=False):
    """Dual-MCMC teaching, or what else `settings` says.

    Args:
      energy: Network, x -> scalar. generator: Network, z [D] -> x. inference: Network, x -> (mean [D], log variance [D]). None for those
        that the settings do not use (`uses`). With `conditional` each takes a label after its input (our addition).
      settings: Settings. `sequential` makes two rounds and needs `train.per_network` for an optimiser.
      x_kernel, z_kernel: kernels of the two chains. [code]: x by step_size s^2 / 2, s = .5, noise_scale .001; z by s = noise_scale = .1.
      latent: D. num_negatives: M, draws of p(z), over all devices.
      x_start: None, or (key, label) -> x, where x-chains begin with from_generator=False.
      conditional: the networks are conditional; draws of p(z) take the labels of the batch, in turn.
    Returns: Method without chains that outlive a step; params = {'energy', 'generator', 'inference'} of those in use. Its addends are those
      of Settings with weight, by these names.
    Raises: ValueError when a number is out of range, or a network or x_start is missing or not used.
    """
    x_end, _, used = uses(settings)
    given = {'energy': energy, 'generator': generator, 'inference': inference}
    for name, network in given.items():
        if used[name] != (network is not None):
            raise ValueError(f'these settings use {"a" if used[name] else "no"} network {name!r}: give {"it" if used[name] else "None"}')
    _check(settings, latent, num_negatives)
    _check_taught(settings, used)
    if x_end and (x_start is None) != settings.from_generator:
        raise ValueError('x_start is where x-chains begin with from_generator=False: give it then, and only then')
    models = _Models({name: network for name, network in given.items() if used[name]}, settings, x_kernel, z_kernel, latent, x_start,
                     conditional)

    def init(key, batch):
        first = {'energy': batch['x'][0], 'generator': jnp.zeros(latent), 'inference': batch['x'][0]}
        keys = dict(zip(given, jax.random.split(key, len(given))))
        return {name: network.init(keys[name], first[name], *models.conditions(batch['y'][0]))
                for name, network in models.networks.items()}, ()

    plan = [(settings, None)]
    if settings.sequential and len(models.networks) > 1 and settings.contrast:
        plan = [(settings._replace(contrast=0.0), tuple(name for name in models.networks if name != 'energy')),
                (settings._replace(**dict.fromkeys(set(ADDENDS) - {'contrast'}, 0.0)), ('energy',))]
    rounds = [Round(_sampler(models, of, num_negatives), _loss(models, of), teaches) for of, teaches in plan]
    gradients = num_negatives * settings.x_steps * sum(uses(of)[0] for of, _ in plan)
    return Method(init, rounds[0].sample, rounds[0].loss, gradients, max(settings.x_steps, settings.z_steps, 1), rounds[0].teaches,
                  tuple(rounds[1:]))


class _Models(NamedTuple):
    """The networks in use and the two chains; functions of one example, `label` empty or one label."""
    networks: dict
    settings: Settings
    x_kernel: Kernel
    z_kernel: Kernel
    latent: int
    x_start: Callable | None
    conditional: bool

    def conditions(self, labels):
        """What conditional networks take besides their input: [labels], else nothing."""
        return [labels] if self.conditional else []

    def apply(self, name, params, x, *label):
        return self.networks[name].apply(params[name], x, *label)

    def end_in_x(self, params, key, *label):
        """(z, where it began, x') of a chain in x."""
        z_key, start_key, chain_key = jax.random.split(key, 3)
        z = jax.random.normal(z_key, (self.latent,))
        x = self.apply('generator', params, z, *label) if self.settings.from_generator else self.x_start(start_key, *label or [UNLABELLED])
        start = x
        if self.settings.x_steps:
            x, _ = run_chain(chain_key, self.x_kernel, lambda x: self.apply('energy', params, x, *label), x, self.settings.x_steps)
        return z, start, x

    def end_in_z(self, params, key, x, *label):
        """(where it began, z') of a chain in z."""
        start_key, chain_key = jax.random.split(key)
        z = jax.random.normal(start_key, (self.latent,))
        if self.settings.from_inference:
            z = obj.reparametrised(z, *self.apply('inference', params, x, *label))
        start = z
        if self.settings.z_steps:
            target = lambda z: obj.latent_energy(z, x, self.apply('generator', params, z, *label), self.settings.sigma)
            z, _ = run_chain(chain_key, self.z_kernel, target, z, self.settings.z_steps)
        return start, z

    def energies(self, params, batch, samples):
        """(E(x) [N], E(x') [M])."""
        of = jax.vmap(partial(self.apply, 'energy', params))
        return of(batch['x'], *self.conditions(batch['y'])), of(samples.x, *self.conditions(samples.label))

    def misfit(self, params, x, z, *label):
        return obj.misfit(x, self.apply('generator', params, z, *label), self.settings.sigma)

    def surprise(self, params, z, x, *label):
        """-log q(z|x)."""
        return obj.gaussian_nll(z, *self.apply('inference', params, x, *label))

    def bound(self, params, key, x, *label):
        """Negative evidence bound of x."""
        q = self.apply('inference', params, x, *label)
        return obj.gaussian_kl(*q) + self.misfit(params, x, obj.reparametrised(jax.random.normal(key, (self.latent,)), *q), *label)

    def fooled(self, params, z, *label):
        """E(g(z)) - log q(z|g(z)), to teach g alone."""
        x, fixed = self.apply('generator', params, z, *label), stop_gradient(params)
        return self.apply('energy', fixed, x, *label) + self.surprise(fixed, z, x, *label)


def _sampler(models, settings, num_negatives):
    """Method.sample for a round: the chains whose ends its addends take."""
    x_end, z_end, _ = uses(settings)

    def sample(key, params, chains, batch):
        x_key, z_key = jax.random.split(key)
        z, x, label, end, sound_x, sound_z, dead = (), (), (), (), (), (), jnp.zeros(())
        if x_end:
            here, rest = divmod(num_negatives, devices.count())
            if rest:
                raise ValueError(f'num_negatives must be divisible by the number of devices, got {num_negatives} and {devices.count()}')
            label = _in_turn(batch['y'], here) if models.conditional else ()
            z, start, x = jax.vmap(partial(models.end_in_x, params))(devices.keys(x_key, here), *models.conditions(label))
            sound_x, dead = sound(x), unmoved(start, x) if settings.x_steps else dead
            x = select(sound_x, x, start)
        if z_end:
            keys = devices.keys(z_key, len(batch['x']))
            start, end = jax.vmap(partial(models.end_in_z, params))(keys, batch['x'], *models.conditions(batch['y']))
            sound_z = sound(end)
            dead = unmoved(start, end) if settings.z_steps and not x_end else dead
            end = select(sound_z, end, start)
        return stop_gradient(Samples(z, x, label, end, sound_x, sound_z, dead)), chains

    return sample


def _in_turn(labels, here):
    """Labels of this device's `here` draws of the prior: those of the whole batch, in turn."""
    labels = devices.gather(labels)
    return labels[devices.positions(here) % len(labels)]


def _loss(models, settings):
    """Method.loss for a round: the addends with weight."""
    weights = {name: getattr(settings, name) for name in ADDENDS if getattr(settings, name)}

    def loss(params, key, batch, samples):
        energies = models.energies(params, batch, samples) if 'contrast' in weights else ()
        values = {name: addend() for name, addend in _addends(models, params, energies, key, batch, samples).items() if name in weights}
        fine = jnp.concatenate([jnp.asarray(of, bool) for of in (samples.sound_x, samples.sound_z)])
        metrics = chain_health(fine, samples.dead) | (obj.scores(*energies, samples.sound_x) if energies else {})
        to_mse = 2 * settings.sigma ** 2 / batch['x'][0].size
        for metric, name in (('mse/data', 'generator_data'), ('mse/chain', 'generator_chain')):
            metrics |= {metric: to_mse * values[name]} if name in weights else {}
        return {name: weights[name] * value for name, value in values.items()}, metrics

    return loss


def _addends(models, params, energies, key, batch, samples):
    """{name in Settings: () -> its value, without its weight}. energies: of batch and samples, for the contrast."""
    of_batch, of_samples = models.conditions(batch['y']), models.conditions(samples.label)
    data_keys, chain_keys = (partial(devices.keys, key) for key in jax.random.split(key))
    each = lambda one, *of: jax.vmap(partial(one, params))(*of)
    over_z = lambda *of: obj.mean_where(each(*of), samples.sound_z)
    over_x = lambda *of: obj.mean_where(each(*of), samples.sound_x)

    def contrast():
        e_pos, e_neg = energies
        return sum(obj.contrast(e_pos, e_neg, obj.uniform(e_pos, jnp.where(samples.sound_x, e_neg, obj.OUT))))

    return {
        'contrast': contrast,
        'generator_data': lambda: over_z(models.misfit, batch['x'], samples.z_end, *of_batch),
        'generator_chain': lambda: over_x(models.misfit, samples.x, samples.z, *of_samples),
        'inference_data': lambda: over_z(models.surprise, samples.z_end, batch['x'], *of_batch),
        'inference_chain': lambda: over_x(models.surprise, samples.z, samples.x, *of_samples),
        'elbo_data': lambda: jnp.mean(each(models.bound, data_keys(len(batch['x'])), batch['x'], *of_batch)),
        'elbo_chain': lambda: over_x(models.bound, chain_keys(len(samples.x)), samples.x, *of_samples),
        'adversarial': lambda: over_x(models.fooled, samples.z, *of_samples)}


def _check(settings, latent, num_negatives):
    for name, number in (('latent', latent), ('num_negatives', num_negatives)):
        if number < 1:
            raise ValueError(f'{name} must be at least 1, got {number}')
    for name, number in (('x_steps', settings.x_steps), ('z_steps', settings.z_steps)):
        if number < 0:
            raise ValueError(f'{name} must be at least 0, got {number}')
    if not 0 < settings.sigma < math.inf:
        raise ValueError(f'sigma must be finite and above 0, got {settings.sigma}')
    for name in ADDENDS:
        if not 0 <= getattr(settings, name) < math.inf:
            raise ValueError(f'the weight {name} must be finite and at least 0, got {getattr(settings, name)}')
    if not any(getattr(settings, name) for name in ADDENDS):
        raise ValueError('all weights are 0: there is nothing to learn')
    if not settings.from_generator and (settings.generator_chain or settings.inference_chain):
        raise ValueError('generator_chain and inference_chain need chains that begin at g(z): their z is nothing to chains from noise')


def _check_taught(settings, used):
    """An optimiser would decay, or carry on moving, what no addend teaches."""
    both = settings.elbo_data or settings.elbo_chain
    taught = {'energy': settings.contrast, 'generator': both or settings.generator_data or settings.generator_chain or settings.adversarial,
              'inference': both or settings.inference_data or settings.inference_chain}
    for name, needed in used.items():
        if needed and not taught[name]:
            raise ValueError(f'these settings use the network {name!r}, but all addends that teach it have weight 0')
