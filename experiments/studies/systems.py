"""The systems of the stability study: small JEM, ST-JEM, DAT, CD, ICD and dual-MCMC runs as
functions of what is varied."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import optax

from ebm_jax import (
    adapt,
    audio,
    augment,
    data,
    initial,
    kernels,
    mcmc,
    objectives,
    replay,
    teaching,
)
from ebm_jax.data import Examples
from ebm_jax.errors import InputError
from ebm_jax.evaluate import attacks
from ebm_jax.methods import dual_mcmc
from ebm_jax.methods.dat import dat
from ebm_jax.methods.icd import icd
from ebm_jax.methods.jem import jem
from ebm_jax.networks import ConvNet, Generator, InferenceNet, WideResNet, per_example
from ebm_jax.train import Recipe, per_network
from ebm_jax.types import InitialSampler, Network, Transition, WeightRule
from experiments import phonemes_st_jem, spoken_digits_st_jem
from experiments.common import sources
from experiments.common.settings import setting
from experiments.families.speech_data import load_speech

BATCH, NUM_NEGATIVES, SHARDS = 64, 64, 8
ENERGY = per_example(ConvNet(1, (16, 32), (1, 2)))
ATTACK = attacks.pgd(attacks.L2, steps=5)  # of DAT's classifier


def _mlp(num_classes: int) -> nn.Module:
    """Two hidden layers of 256 units."""
    hidden = [layer for _ in range(2) for layer in (nn.Dense(256), nn.swish)]
    return nn.Sequential([lambda x: x.reshape(len(x), -1), *hidden, nn.Dense(num_classes)])


# {kind of source: the experiment whose network, features and noise its runs have}
SPEECH = {'frames': phonemes_st_jem, 'fsdd': spoken_digits_st_jem}
# of JEM and ST-JEM on images, none with normalisation: {name: number of classes -> module}
CLASSIFIERS: dict[str, Callable[[int], nn.Module]] = {
    'convolutions': ConvNet,
    'wide_resnet': partial(WideResNet, depth=10, width=2),
    'mlp': _mlp,
}
Optimizer = Callable[[jax.typing.ArrayLike], optax.GradientTransformation]  # of a learning rate
MOMENTUM = 0.9
OPTIMIZERS: dict[str, Optimizer] = {
    'adam': optax.adam,
    'sgd': partial(optax.sgd, momentum=MOMENTUM),
}


def clipped(optimizer: Optimizer, norm: float) -> Optimizer:
    """The optimiser of gradients of that norm at most; 0: any."""
    if not norm:
        return optimizer
    return lambda rate: optax.chain(optax.clip_by_global_norm(norm), optimizer(rate))


class Setting(NamedTuple):
    """What is varied; the learning rate and the step size may be traced."""

    system: str
    num_steps: int
    learning_rate: float
    step_size: float  # in units of the system's own


def name_of(one: Setting, seed: int) -> str:
    """The name of a run."""
    return (
        f'{one.system} K={one.num_steps} lr={one.learning_rate:g} step={one.step_size:g} '
        f'seed={seed}'
    )


class Task(NamedTuple):
    """A data set, and what the systems need to learn it."""

    train: Examples
    test: Examples
    network: Network  # of JEM and ST-JEM
    initial_sampler: InitialSampler
    prepare: Transition
    optimizer: Optimizer = optax.adam  # of JEM and ST-JEM
    alpha: float = 0.0  # weight of mutual information, of JEM and ST-JEM


def task_of(source: str, network: str = 'convolutions') -> Task:
    """Images (the built-in digits, or any that `sources.datasets_of` names), frames of speech, or
    windows of spoken digits.

    Args: network: one of CLASSIFIERS; speech has that of its experiment in SPEECH.
    Raises: InputError for another source.
    """
    kind = source.partition(':')[0]
    if kind not in SPEECH:
        try:
            images = sources.datasets_of(source)
        except InputError as error:
            raise InputError(
                f'{error}; or speech: frames:FILE.npz, fsdd:FILE.npz or fsdd:FOLDER'
            ) from error
        return Task(
            images.train,
            images.test,
            per_example(CLASSIFIERS[network](images.train.num_classes)),
            initial.uniform(images.train.x.shape[1:]),
            augment.chain(augment.scale_pixels, augment.gaussian_noise(0.03)),
        )
    if network != 'convolutions':
        raise InputError(
            f'the network {network} is for images: speech has the convolutions of its experiment'
        )
    config = SPEECH[kind].get_config()
    config.data.source = source
    windows = load_speech(config)
    shape = windows.train.x.shape[1:]
    return Task(
        windows.train,
        windows.test,
        config.network.build(windows.train.num_classes, shape),
        initial.normal(shape, 1 / audio.SPAN),
        augment.gaussian_noise(config.data.noise),
    )


def recipe(task: Task, setting: Setting, seed: int = 0) -> Recipe:
    """The run of a setting; seed: of its batches."""
    return SYSTEMS[setting.system](task, setting)(
        batch_at=lambda step: data.batch_at(task.train, step, BATCH, seed), prepare=task.prepare
    )


def _jem(weights: WeightRule, task: Task, setting: Setting) -> Callable[..., Recipe]:
    buffer, conditional = replay.persistent(task.initial_sampler, 250), 0.0
    if task.alpha:  # log p(x|y) needs chains of each class: half of them, as JemLoss has it
        classes, conditional = task.train.num_classes, 0.5
        capacity = max(250, 2 * NUM_NEGATIVES // SHARDS * classes)  # each class could take all
        buffer = replay.class_conditional(
            task.initial_sampler, capacity, classes, unconditional=1 - conditional
        )
    method = jem(
        task.network,
        adapt.fixed(mcmc.langevin(setting.step_size, noise_scale=0.01)),
        buffer,
        num_negatives=NUM_NEGATIVES,
        num_steps=setting.num_steps,
        weights=weights,
        alpha=task.alpha,
        conditional=conditional,
        shards=SHARDS,
    )
    return partial(Recipe, method=method, optimizer=task.optimizer(setting.learning_rate))


def _dat(task: Task, setting: Setting) -> Callable[..., Recipe]:
    def adversary(key, logits, x, label):
        return ATTACK.run(key, attacks.deterministic(logits), x, label, 1.0).x

    method = dat(
        task.network,
        kernels.steepest_descent(0.2 * setting.step_size, bounds=(-1, 1)),
        replay.persistent(task.initial_sampler, 250),
        adversary=adversary,
        num_negatives=NUM_NEGATIVES,
        num_steps=setting.num_steps,
        shards=SHARDS,
    )
    return partial(Recipe, method=method, optimizer=optax.adam(setting.learning_rate))


def _icd(kl_weight: float, task: Task, setting: Setting) -> Callable[..., Recipe]:
    kernel = mcmc.langevin(
        2.0 * setting.step_size, noise_scale=0.02, bounds=(-1, 1), noise_first=True
    )
    initial_sampler = initial.uniform(task.train.x.shape[1:])
    method = icd(
        ENERGY,
        kernel,
        replay.first_in_first_out(initial_sampler, 250, restart=0.02),
        num_negatives=NUM_NEGATIVES,
        num_steps=setting.num_steps,
        kl_weight=kl_weight,
        kl_chains=16,
        l2_weight=float(kl_weight > 0),
    )
    optimizer = clipped(partial(optax.adam, b1=0.0, b2=0.9), 0.5)(setting.learning_rate)
    return partial(Recipe, method=method, optimizer=optimizer, limits={'s_positives': 10.0})


def _dual_mcmc(task: Task, setting: Setting) -> Callable[..., Recipe]:
    def energy(params, x):
        return ENERGY.apply(params, x)[0]

    method = dual_mcmc.dual_mcmc(
        ENERGY._replace(apply=energy),
        per_example(Generator(task.train.x.shape[1:], (64, 32))),
        per_example(InferenceNet(16, (32, 64), (1, 2))),
        teaching.PAPER._replace(x_steps=setting.num_steps, z_steps=10),
        x_kernel=mcmc.langevin(setting.step_size, noise_scale=0.001),
        z_kernel=mcmc.langevin(0.005, noise_scale=0.1),
        latent_dim=16,
        num_negatives=NUM_NEGATIVES,
    )
    factors = {'energy': 1.0, 'generator': 3.0, 'inference': 1.0}
    optimizers = {
        name: optax.adam(factor * setting.learning_rate, 0.5, 0.9)
        for name, factor in factors.items()
    }
    optimizer = per_network(optimizers)
    return partial(Recipe, method=method, optimizer=optimizer, limits={'s_gap': 100.0})


SYSTEMS: dict[str, Callable[[Task, Setting], Callable[..., Recipe]]] = {
    'jem': partial(_jem, objectives.uniform),
    'st_jem': partial(_jem, objectives.balanced),
    'dat': _dat,
    'cd': partial(_icd, 0.0),
    'icd': partial(_icd, 1.0),
    'dual_mcmc': _dual_mcmc,
}
ADJUSTABLE = ('jem', 'st_jem')  # those set up for other data, networks and optimisers


@dataclass
class Grid:
    """The runs of the study."""

    data: str = setting(
        'digits', 'digits, npz:FILE or another set of images, frames:FILE.npz or fsdd:FILE.npz'
    )
    systems: tuple[str, ...] = setting(tuple(SYSTEMS), 'systems', choices=tuple(SYSTEMS))
    seeds: int = setting(5, 'runs of each setting', low=1)
    steps: int = setting(600, 'training steps of a run', low=1)
    num_steps: tuple[int, ...] = setting((1, 2, 5), 'steps K of the chains', low=1)
    learning_rates: tuple[float, ...] = setting((1e-3, 5e-3, 1e-2), 'learning rates', above=0)
    step_sizes: tuple[float, ...] = setting((1.0,), "factors on the system's own", above=0)
    network: str = setting(
        'convolutions', 'of JEM and ST-JEM on images', choices=tuple(CLASSIFIERS)
    )
    optimizer: str = setting('adam', 'of JEM and ST-JEM', choices=tuple(OPTIMIZERS))
    clip: float = setting(0.0, 'largest norm of a gradient of JEM and ST-JEM; 0: any', low=0)
    alpha: float = setting(
        0.0,
        'weight of mutual information in JEM and ST-JEM; above 0 half of the chains have a class',
        low=0,
        high=1,
    )
    guarded: int = setting(2, 'diverged runs of a setting to train again with the guard', low=0)

    def divisors(self) -> tuple[int, ...]:
        return BATCH, SHARDS, NUM_NEGATIVES

    def of_system(self, system: str) -> list[Setting]:
        return [
            Setting(system, num_steps, rate, size)
            for num_steps in self.num_steps
            for rate in self.learning_rates
            for size in self.step_sizes
        ]

    def all_settings(self) -> list[Setting]:
        return [one for system in self.systems for one in self.of_system(system)]
