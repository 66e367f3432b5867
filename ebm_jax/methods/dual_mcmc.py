"""Dual-MCMC teaching: an energy E, a generator g and an inference model q teach each other by two
Langevin chains.

    p(z) = N(0, I),   p(x|z) = N(g(z), sigma^2 I),   q(z|x) = N(mean(x), diag V(x))
    x': the end of a chain on E(x) from g(z), z ~ p(z)
    z': the end of a chain on |x - g(z)|^2 / (2 sigma^2) + |z|^2 / 2 from a sample of q(z|x)

    E learns by   mean E(x) - mean E(x')
    g learns by   mean |x - g(z')|^2 / (2 sigma^2) + mean |x' - g(z)|^2 / (2 sigma^2)
    q learns by   mean -log q(z'|x) + mean -log q(z|x')

Samples are constants, so that each loss term has a gradient in its own network only and one
gradient teaches all three. CoopNets and others are settings of the same method.
Source: Cui & Han 2023, arXiv 2312.02469, section 3 [paper], and the constants of the authors'
  release [code].
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jax.lax import stop_gradient

from ebm_jax import devices, validity
from ebm_jax import objectives as obj
from ebm_jax.mcmc import run_chain
from ebm_jax.shapes import check_initial, check_kernel, check_network
from ebm_jax.teaching import LOSS_TERMS, NETWORKS, PAPER, Settings, check, check_taught, needs
from ebm_jax.types import (
    UNCONDITIONAL,
    Array,
    InitialSampler,
    Kernel,
    Method,
    Metrics,
    Network,
    PyTree,
    Round,
)
from ebm_jax.validity import masked_mean


@struct.dataclass
class Samples:
    """What the chains of one step found; () where no loss term takes it."""

    z: PyTree = ()  # [M, D]: draws of the prior
    x: PyTree = ()  # [M, ...]: x', where the chains in x ended
    label: PyTree = ()  # [M]: their labels, where conditional
    z_end: PyTree = ()  # [N, D]: z', where the chains in z ended, of each example of the batch
    valid_x: PyTree = ()  # bool [M]: False where the chain in x diverged; it is not in the loss
    valid_z: PyTree = ()  # bool [N]: False where the chain in z did
    stuck: Array | float = 0.0  # share of chains, in x or (without any) in z, that did not move


def dual_mcmc(
    energy: Network | None,
    generator: Network | None,
    inference: Network | None,
    settings: Settings = PAPER,
    *,
    x_kernel: Kernel,
    z_kernel: Kernel,
    latent_dim: int,
    num_negatives: int,
    x_initial_sampler: InitialSampler | None = None,
    conditional: bool = False,
) -> Method:
    """Dual-MCMC teaching, or a variant of it that `settings` describes.

    Args:
      energy: x -> scalar. generator: z [D] -> x. inference: x -> (mean [D], log variance [D]). None
        for those that the settings do not use (`needs`). With `conditional` each takes a label
        after its input (our addition).
      settings: `sequential` makes two rounds and needs `train.per_network` as the optimiser.
      x_kernel, z_kernel: kernels of the two chains. [code]: x by step_size s^2 / 2, s = .5,
        noise_scale .001; z by s = noise_scale = .1.
      latent_dim: D. num_negatives: M, draws of p(z), over all devices.
      x_initial_sampler: None, or where x-chains begin with from_generator=False.
      conditional: the networks are conditional; draws of p(z) take the labels of the batch, in
        turn.
    Returns: Method without chains that outlive a step; params = {'energy', 'generator',
      'inference'} of those in use. Its loss terms are those of Settings with nonzero weight, under
      the same names.
    Raises: TypeError for a part of another kind;
      ValueError when a number is out of range, or a network or x_initial_sampler is missing
      or not used.
    """
    needed = needs(settings)
    networks = dict(zip(NETWORKS, (energy, generator, inference)))
    for name, network in networks.items():
        if needed.networks[name] != (network is not None):
            raise ValueError(
                f'these settings use {"a" if needed.networks[name] else "no"} network {name!r}: '
                f'give {"it" if needed.networks[name] else "None"}'
            )
    check(settings, latent_dim, num_negatives)
    check_taught(settings, needed)
    if needed.x_chain and (x_initial_sampler is None) != settings.from_generator:
        raise ValueError(
            'x_initial_sampler is where x-chains begin with from_generator=False: give it then, '
            'and only then'
        )
    for name, network in networks.items():
        if network is not None:
            check_network(name, network)
    for name, kernel in (('x_kernel', x_kernel), ('z_kernel', z_kernel)):
        check_kernel(name, kernel)
    models = _Models(
        networks={name: network for name, network in networks.items() if network is not None},
        x_kernel=x_kernel,
        z_kernel=z_kernel,
        latent_dim=latent_dim,
        num_negatives=num_negatives,
        x_initial_sampler=x_initial_sampler,
        conditional=conditional,
    )
    rounds = [_Round(models=models, settings=settings)]
    teaches: list[tuple[str, ...] | None] = [None]
    if settings.sequential and len(models.networks) > 1 and settings.contrast:
        without_contrast = settings._replace(contrast=0.0)
        contrast_only = settings._replace(
            **dict.fromkeys(set(LOSS_TERMS) - {'contrast'}, 0.0)  # type: ignore[arg-type]
        )
        rounds = [
            _Round(models=models, settings=chosen) for chosen in (without_contrast, contrast_only)
        ]
        teaches = [tuple(name for name in models.networks if name != 'energy'), ('energy',)]
    x_chains = sum(needs(part.settings).x_chain for part in rounds)
    return Method(
        init=models.init,
        sample=rounds[0].sample,
        loss=rounds[0].loss,
        gradients_per_step=num_negatives * settings.x_steps * x_chains,
        chain_steps=max(settings.x_steps, settings.z_steps, 1),
        teaches=teaches[0],
        then=tuple(
            Round(part.sample, part.loss, names) for part, names in zip(rounds[1:], teaches[1:])
        ),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Models:
    """The networks in use, and what their chains need; fields as in `dual_mcmc`."""

    networks: dict[str, Network]
    x_kernel: Kernel
    z_kernel: Kernel
    latent_dim: int
    num_negatives: int
    x_initial_sampler: InitialSampler | None
    conditional: bool

    def conditions(self, labels):
        """What conditional networks take besides their input: [labels], else nothing."""
        return [labels] if self.conditional else []

    def conditions_of(self, batch):
        """The same of a batch, whose labels are not read where they are not needed."""
        return [batch['y']] if self.conditional else []

    def apply(self, name, params, x, *label):
        return self.networks[name].apply(params[name], x, *label)

    def init(self, key, batch):
        if self.x_initial_sampler is not None:
            check_initial('x_initial_sampler', self.x_initial_sampler, batch['x'])
        x = batch['x'][0]
        inputs = {'energy': x, 'generator': jnp.zeros(self.latent_dim), 'inference': x}
        keys = dict(zip(NETWORKS, jax.random.split(key, len(NETWORKS))))
        label = [labels[0] for labels in self.conditions_of(batch)]
        return {
            name: network.init(keys[name], inputs[name], *label)
            for name, network in self.networks.items()
        }, ()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Round:
    """Sampling and loss of one round of the step. Functions of one example take a label after their
    inputs where the networks are conditional."""

    models: _Models
    settings: Settings

    def sample(self, key, params, chains, batch):
        """The chains whose ends the loss terms take."""
        needed = needs(self.settings)
        x_key, z_key = jax.random.split(key)
        samples = Samples(stuck=jnp.zeros(()))
        if needed.x_chain:
            samples = self.sample_x(x_key, params, batch, samples)
        if needed.z_chain:
            samples = self.sample_z(z_key, params, batch, samples, needed)
        return stop_gradient(samples), chains

    def sample_x(self, key, params, batch, samples):
        models = self.models
        here, rest = divmod(models.num_negatives, devices.count())
        if rest:
            raise ValueError(
                'num_negatives must be divisible by the number of devices, got '
                f'{models.num_negatives} and {devices.count()}'
            )
        label = _labels_in_turn(batch['y'], here) if models.conditional else ()
        z, initial, x = jax.vmap(partial(self.run_x, params))(
            devices.keys(key, here), *models.conditions(label)
        )
        valid = validity.is_valid(x)
        stuck = samples.stuck
        if self.settings.x_steps:
            stuck = validity.stuck_fraction(initial, x)
        x = validity.select(valid, x, initial)
        return samples.replace(z=z, x=x, label=label, valid_x=valid, stuck=stuck)

    def run_x(self, params, key, *label):
        """(z, where the chain in x began, x')."""
        models = self.models
        z_key, initial_key, chain_key = jax.random.split(key, 3)
        z = jax.random.normal(z_key, (models.latent_dim,), jnp.float32)
        if self.settings.from_generator:
            initial = models.apply('generator', params, z, *label)
        else:
            assert models.x_initial_sampler is not None  # `dual_mcmc` checks it
            initial = models.x_initial_sampler(initial_key, *label or [UNCONDITIONAL])
        if not self.settings.x_steps:
            return z, initial, initial

        def energy_fn(x):
            return models.apply('energy', params, x, *label)

        x, _ = run_chain(chain_key, models.x_kernel, energy_fn, initial, self.settings.x_steps)
        return z, initial, x

    def sample_z(self, key, params, batch, samples, needed):
        models = self.models
        initial, z_end = jax.vmap(partial(self.run_z, params))(
            devices.keys(key, len(batch['x'])), batch['x'], *models.conditions_of(batch)
        )
        valid = validity.is_valid(z_end)
        stuck = samples.stuck
        if self.settings.z_steps and not needed.x_chain:
            stuck = validity.stuck_fraction(initial, z_end)
        z_end = validity.select(valid, z_end, initial)
        return samples.replace(z_end=z_end, valid_z=valid, stuck=stuck)

    def run_z(self, params, key, x, *label):
        """(where the chain in z began, z')."""
        models = self.models
        initial_key, chain_key = jax.random.split(key)
        initial = jax.random.normal(initial_key, (models.latent_dim,), jnp.float32)
        if self.settings.from_inference:
            q = models.apply('inference', params, x, *label)
            initial = obj.reparametrised(initial, *q)
        if not self.settings.z_steps:
            return initial, initial

        def energy_fn(z):
            mean = models.apply('generator', params, z, *label)
            return obj.latent_energy(z, x, mean, self.settings.sigma)

        z, _ = run_chain(chain_key, models.z_kernel, energy_fn, initial, self.settings.z_steps)
        return initial, z

    def loss(self, params, key, batch, samples):
        """The loss terms with nonzero weight, and metrics."""
        weights = {name: getattr(self.settings, name) for name in LOSS_TERMS}
        weights = {name: weight for name, weight in weights.items() if weight}
        metrics: Metrics = {}
        energies = None
        if 'contrast' in weights:
            energies = self.energies(params, batch, samples)
            metrics |= obj.scores(energies[0], energies[1], samples.valid_x)
        values = {
            name: term()
            for name, term in self.loss_terms(params, energies, key, batch, samples).items()
            if name in weights
        }
        valid = [jnp.asarray(mask, bool) for mask in (samples.valid_x, samples.valid_z)]
        metrics |= validity.chain_metrics(jnp.concatenate(valid), samples.stuck)
        to_mse = 2 * self.settings.sigma**2 / batch['x'][0].size
        for metric, name in (('mse/data', 'generator_data'), ('mse/chain', 'generator_chain')):
            if name in weights:
                metrics[metric] = to_mse * values[name]
        return {name: weights[name] * value for name, value in values.items()}, metrics

    def energies(self, params, batch, samples):
        """(E(x) [N], E(x') [M])."""
        energy = jax.vmap(partial(self.models.apply, 'energy', params))
        e_pos = energy(batch['x'], *self.models.conditions_of(batch))
        return e_pos, energy(samples.x, *self.models.conditions(samples.label))

    def loss_terms(self, params, energies, key, batch, samples) -> dict[str, Callable[[], Array]]:
        """{name in Settings: () -> its value, without its weight}. energies: of batch and samples,
        for the contrast."""
        x, data_labels = batch['x'], self.models.conditions_of(batch)
        chain_labels = self.models.conditions(samples.label)
        data_key, chain_key = jax.random.split(key)

        def each(one, *inputs):
            return jax.vmap(partial(one, params))(*inputs)

        def mean_over_z(one, *inputs):
            return masked_mean(each(one, *inputs, *data_labels), samples.valid_z)

        def mean_over_x(one, *inputs):
            return masked_mean(each(one, *inputs, *chain_labels), samples.valid_x)

        def contrast():
            e_pos, e_neg = energies
            weights = obj.uniform(e_pos, validity.exclude(e_neg, samples.valid_x))
            return sum(obj.contrast(e_pos, e_neg, weights))

        def generator_data():
            return mean_over_z(self.reconstruction_nll, x, samples.z_end)

        def generator_chain():
            return mean_over_x(self.reconstruction_nll, samples.x, samples.z)

        def inference_data():
            return mean_over_z(self.nll, samples.z_end, x)

        def inference_chain():
            return mean_over_x(self.nll, samples.z, samples.x)

        def elbo_data():
            return jnp.mean(each(self.neg_elbo, devices.keys(data_key, len(x)), x, *data_labels))

        def elbo_chain():
            keys = devices.keys(chain_key, len(samples.x))
            return mean_over_x(self.neg_elbo, keys, samples.x)

        def adversarial():
            return mean_over_x(self.adversarial_loss, samples.z)

        return {
            'contrast': contrast,
            'generator_data': generator_data,
            'generator_chain': generator_chain,
            'inference_data': inference_data,
            'inference_chain': inference_chain,
            'elbo_data': elbo_data,
            'elbo_chain': elbo_chain,
            'adversarial': adversarial,
        }

    def reconstruction_nll(self, params, x, z, *label):
        """-log p(x|z), up to a constant."""
        mean = self.models.apply('generator', params, z, *label)
        return obj.reconstruction_nll(x, mean, self.settings.sigma)

    def nll(self, params, z, x, *label):
        """-log q(z|x)."""
        return obj.gaussian_nll(z, *self.models.apply('inference', params, x, *label))

    def neg_elbo(self, params, key, x, *label):
        """Negative evidence lower bound of x."""
        q = self.models.apply('inference', params, x, *label)
        z = obj.reparametrised(jax.random.normal(key, (self.models.latent_dim,), jnp.float32), *q)
        return obj.gaussian_kl(*q) + self.reconstruction_nll(params, x, z, *label)

    def adversarial_loss(self, params, z, *label):
        """E(g(z)) - log q(z|g(z)), to teach g alone."""
        x, constant = self.models.apply('generator', params, z, *label), stop_gradient(params)
        energy = self.models.apply('energy', constant, x, *label)
        return energy + self.nll(constant, z, x, *label)


def _labels_in_turn(labels, here):
    """Labels of this device's `here` draws of the prior: those of the whole batch, in turn."""
    labels = devices.gather(labels)
    return labels[devices.positions(here) % len(labels)]
