"""The systems of the stability study: small JEM, ST-JEM, DAT, CD, ICD and dual-MCMC runs as
functions of what is varied."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import optax

from ebm_jax import adapt, audio, augment, data, initial, kernels, mcmc, objectives, replay
from ebm_jax.data import Examples, recordings
from ebm_jax.errors import InputError
from ebm_jax.evaluate import attacks
from ebm_jax.methods import dual_mcmc
from ebm_jax.methods.dat import dat
from ebm_jax.methods.icd import icd
from ebm_jax.methods.jem import jem
from ebm_jax.networks import ConvNet, Generator, InferenceNet, per_example
from ebm_jax.train import Recipe, per_network
from ebm_jax.types import InitialSampler, Network, Transition, WeightRule
from experiments import phonemes_st_jem

BATCH, NUM_NEGATIVES, SHARDS = 64, 64, 8
ENERGY = per_example(ConvNet(1, (16, 32), (1, 2)))
ATTACK = attacks.pgd(attacks.L2, steps=5)  # of DAT's classifier


class Setting(NamedTuple):
    """What is varied; the learning rate and the step size may be traced."""

    system: str
    num_steps: int
    learning_rate: float
    step_size: float  # in units of the system's own


class Task(NamedTuple):
    """A data set, and what the systems need to learn it."""

    train: Examples
    test: Examples
    network: Network  # of JEM and ST-JEM
    initial_sampler: InitialSampler
    prepare: Transition


def task_of(source: str) -> Task:
    """The built-in digits, or frames of speech. Raises: InputError for another source."""
    if source == 'digits':
        return Task(
            data.digits('train'),
            data.digits('test'),
            per_example(ConvNet(10)),
            initial.uniform((8, 8, 1)),
            augment.chain(augment.scale_pixels, augment.gaussian_noise(0.03)),
        )
    kind, _, file = source.partition(':')
    if kind != 'frames' or not file:
        raise InputError(f'--config.data must be digits or frames:FILE.npz, got {source}')
    config = phonemes_st_jem.get_config()
    frames = recordings.frames(file)
    shape = frames.train.x.shape[1:]
    return Task(
        frames.train,
        frames.test,
        config.network.build(len(frames.names), shape),
        initial.normal(shape, 1 / audio.SPAN),
        augment.gaussian_noise(config.data.noise),
    )


def recipe(task: Task, setting: Setting, seed: int = 0) -> Recipe:
    """The run of a setting; seed: of its batches."""
    return SYSTEMS[setting.system](task, setting)(
        batch_at=lambda step: data.batch_at(task.train, step, BATCH, seed), prepare=task.prepare
    )


def _jem(weights: WeightRule, task: Task, setting: Setting) -> Callable[..., Recipe]:
    method = jem(
        task.network,
        adapt.fixed(mcmc.langevin(setting.step_size, noise_scale=0.01)),
        replay.persistent(task.initial_sampler, 250),
        num_negatives=NUM_NEGATIVES,
        num_steps=setting.num_steps,
        weights=weights,
        shards=SHARDS,
    )
    return partial(Recipe, method=method, optimizer=optax.adam(setting.learning_rate))


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
    initial_sampler = initial.uniform(task.train.x.shape[1:], 0.0, 1.0)
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
    adam = optax.adam(setting.learning_rate, 0.0, 0.9)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), adam)
    return partial(Recipe, method=method, optimizer=optimizer, limits={'s_positives': 10.0})


def _dual_mcmc(task: Task, setting: Setting) -> Callable[..., Recipe]:
    def energy(params, x):
        return ENERGY.apply(params, x)[0]

    method = dual_mcmc.dual_mcmc(
        ENERGY._replace(apply=energy),
        per_example(Generator(task.train.x.shape[1:], (64, 32))),
        per_example(InferenceNet(16, (32, 64), (1, 2))),
        dual_mcmc.PAPER._replace(x_steps=setting.num_steps, z_steps=10),
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
