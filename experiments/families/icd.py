"""Improved contrastive divergence: its settings, and the experiment on images that they define.

Images are in [-1, 1] here as everywhere in the library, and in [0, 1] in the release: its step size
s and noise n are 4 s and 2 n here, with the same chain (x = 2 u - 1, and a gradient in x is half of
one in u).
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

from ebm_jax import model, objectives, replay
from ebm_jax.errors import InputError
from ebm_jax.methods.icd import icd
from ebm_jax.spec import Part, Sampling, TransitionPart, energy_spec
from ebm_jax.types import InitialSampler, Kernel, Method, Network, ReplayBuffer, Transition
from experiments.common.assembly import energy_experiment
from experiments.common.building import (
    chain_numbers,
    kernel_part,
    make_kernel,
    shard_capacity,
    traced_kernel,
)
from experiments.common.experiment import Experiment, TrainingChains
from experiments.common.groups import (
    Buffer,
    Chain,
    Optimizer,
    PersistentRunSettings,
)
from experiments.common.labelled import LabelledData, labelled_splits
from experiments.common.settings import group, setting
from experiments.common.sources import Datasets
from experiments.evaluations.kl_term import kl_cost, kl_gradient_ratio
from experiments.families.networks import EnergyNetwork

BOUNDS = (-1.0, 1.0)
LANGEVIN: dict[str, Any] = {'bounds': BOUNDS, 'noise_first': True}  # of every Langevin chain
BUFFERS = {
    'first_in_first_out': replay.first_in_first_out,
    'reservoir': replay.reservoir,
    'persistent': replay.persistent,
}


@dataclass
class FreshChains(Chain):
    """Fresh samples, drawn after training."""

    every: int = setting(20, 'steps between transitions', low=1)
    plain: int = setting(80, 'last steps without transitions', low=0)


@dataclass
class IcdBuffer(Buffer):
    """The replay buffer; in blocks by class where energies are conditional."""

    kind: str = setting('first_in_first_out', 'which samples stay', choices=tuple(BUFFERS))


@dataclass
class ChainTransition:
    """Augmentation as a transition of the chain: the probability of each part."""

    resized_crop: bool = setting(False, 'random resized crop')
    flip: bool = setting(False, 'random horizontal flip')
    jitter: float = setting(0.0, 'probability of colour jitter', low=0, high=1)
    jitter_strength: float = setting(1.0, 'factor on its brightness, contrast, ...', low=0)
    grayscale: float = setting(0.0, 'probability of greyscale', low=0, high=1)
    blur: float = setting(0.0, 'probability of Gaussian blur', low=0, high=1)
    affine: float = setting(0.0, 'probability of a random affine map (our reading)', low=0, high=1)
    elastic: float = setting(0.0, 'probability of an elastic one (our reading)', low=0, high=1)


@dataclass
class IcdLoss:
    """Contrast, KL term and squared energies."""

    num_negatives: int = setting(64, 'chains M of a step, over all devices', low=1)
    kl_weight: float = setting(1.0, 'weight of the KL term', low=0)
    kl_steps: int = setting(1, 'last steps of the chain that carry a gradient', low=1)
    kl_chains: int = setting(64, 'chains of the KL term', low=1)
    kernel_entropy: bool = setting(False, 'kernel estimate of the entropy, else nearest neighbour')
    entropy_weight: float = setting(0.3, 'weight of the entropy in the KL term', low=0)
    population: int = setting(104, 'past samples that the entropy is estimated by', low=1)
    population_after: int = setting(1000, 'past samples before the entropy counts', low=0)
    l2_weight: float = setting(1.0, 'weight of squared energies', low=0)
    conditional: bool = setting(False, 'one energy for each label')
    from_data: bool = setting(False, 'chains begin at the examples of the batch')
    energy_limit: float = setting(10.0, '|mean E(x+)| beyond which the run has diverged', above=0)


@dataclass
class IcdSettings(PersistentRunSettings):
    """A run of improved contrastive divergence on images."""

    data: LabelledData = group(LabelledData, noise=0.0)
    optimizer: Optimizer = group(
        Optimizer, learning_rate=2e-4, b1=0.0, b2=0.9, clip_norm=0.5, decay_to=1.0
    )
    buffer: IcdBuffer = group(IcdBuffer, capacity=10_000, restart=0.001)
    sampler: Chain = group(Chain, step_size=400.0, noise=0.002, num_steps=40)
    fresh: FreshChains = group(FreshChains, step_size=400.0, noise=0.002, num_steps=400)
    transition: ChainTransition = group(ChainTransition)
    loss: IcdLoss = group(IcdLoss)
    network: Any = group(EnergyNetwork)


def image_icd(
    config: IcdSettings,
    datasets: Datasets | None = None,
    *,
    network: Network | None = None,
    kernel: Kernel | None = None,
    sampling: Sampling | None = None,
    prepare_test: Transition | None = None,
) -> Experiment:
    """The experiment of an ICD run on images.

    Args:
      config: settings of the run.
      datasets: default: those that config.data names.
      network: one example (and its label, where conditional) -> energies of its scales; default:
        that of config.network.
      kernel: of the chains of training; default: that of config.sampler.
      sampling: how fresh samples are drawn, and where chains begin; default: that of config.fresh.
      prepare_test: as in `energy_experiment`.
    """
    datasets = datasets or labelled_splits(config.data)
    shape, num_classes = datasets.train.x.shape[1:], datasets.train.num_classes
    conditional = config.loss.conditional
    network = network or config.network.build(
        num_classes if conditional else 0, shape, head_bias=config.loss.l2_weight > 0
    )
    sampling = sampling or sampling_of(config, shape)
    spec = energy_spec(network, shape, num_classes, sampling, conditional=conditional)
    trained = model.build(spec, {'network': network})
    method = method_of(config, network, trained, num_classes, kernel)
    experiment = energy_experiment(
        config,
        datasets,
        trained,
        method,
        limits={'s_positives': config.loss.energy_limit},
        show=('loss', 's_gap', 'loss/kl', 'grad_norm'),
        prepare_test=prepare_test,
        chains=TrainingChains(
            num_steps=config.sampler.num_steps,
            steps_of=lambda state: config.sampler.num_steps,
            make_kernel=traced_kernel(kernel_part(config.sampler, 'sampler'), LANGEVIN, kernel),
            numbers=lambda state: chain_numbers(config.sampler, kernel),
        ),
    )
    if not config.loss.kl_weight:
        return experiment
    plain = dataclasses.replace(config.loss, kl_weight=0.0)
    changed = dataclasses.replace(config, loss=plain)
    assert experiment.recipe is not None
    without_kl = dataclasses.replace(
        experiment.recipe, method=method_of(changed, network, trained, num_classes, kernel)
    )
    evaluations = kl_gradient_ratio, partial(kl_cost, without_kl=without_kl)
    return dataclasses.replace(experiment, evaluations=evaluations)


def sampling_of(config: IcdSettings, shape: tuple[int, ...]) -> Sampling:
    """How fresh samples are drawn."""
    return Sampling(
        kernel=kernel_part(config.fresh, 'fresh', **LANGEVIN),
        step_size=config.fresh.step_size,
        num_steps=config.fresh.num_steps,
        initial=Part('uniform', {'low': BOUNDS[0], 'high': BOUNDS[1]}),
        transition=transition_parts(config.transition, shape),
        every=config.fresh.every,
        plain=config.fresh.plain,
    )


def method_of(
    config: IcdSettings,
    network: Network,
    trained: model.Model,
    num_classes: int,
    own_kernel: Kernel | None = None,
) -> Method:
    """The Method of the settings; its chains use the transition of fresh chains."""
    c = config.loss
    initial = trained.spec.sampling.initial
    initial_sampler = model.INITIAL[initial.name](trained.spec.shape, **initial.arguments)
    kernel = kernel_part(config.sampler, 'sampler', **LANGEVIN)
    return icd(
        network,
        own_kernel or make_kernel(config.sampler, kernel, 'sampler'),
        buffer_of(config, initial_sampler, num_classes),
        num_negatives=c.num_negatives,
        num_steps=config.sampler.num_steps,
        transition=trained.transition,
        kl_weight=c.kl_weight,
        kl_steps=c.kl_steps,
        kl_chains=c.kl_chains,
        entropy=(
            objectives.kernel_entropy if c.kernel_entropy else objectives.nearest_neighbour_entropy
        ),
        entropy_weight=c.entropy_weight,
        population=c.population,
        population_after=c.population_after,
        l2_weight=c.l2_weight,
        conditional=c.conditional,
        from_data=c.from_data,
        shards=config.shards,
    )


def buffer_of(
    config: IcdSettings, initial_sampler: InitialSampler, num_classes: int
) -> ReplayBuffer:
    """One shard of the buffer: in blocks by class where chains are conditional, else as named."""
    capacity = shard_capacity(config.buffer.capacity, config.shards)
    restart = config.buffer.restart
    if config.loss.conditional:
        return replay.class_conditional(
            initial_sampler, capacity, num_classes, unconditional=0.0, restart=restart
        )
    return BUFFERS[config.buffer.kind](initial_sampler, capacity, restart=restart)


def transition_parts(c: ChainTransition, shape: tuple[int, ...]) -> tuple[TransitionPart, ...]:
    """The parts of the chain's transition, in the release's order after affine and elastic."""
    if (c.jitter or c.grayscale) and shape[-1] != 3:
        raise InputError(
            '--config.transition.jitter and grayscale need RGB images, these have '
            f'{shape[-1]} channels: set them to 0'
        )
    strength = c.jitter_strength
    jitter = {name: 0.8 * strength for name in ('brightness', 'contrast', 'saturation')}
    jitter['hue'] = min(0.4 * strength, 0.5)
    parts = (
        TransitionPart('affine', {}, c.affine),
        TransitionPart('elastic', {}, c.elastic),
        TransitionPart('resized_crop', {}, float(c.resized_crop)),
        TransitionPart('colour_jitter', jitter, c.jitter),
        TransitionPart('grayscale', {}, c.grayscale),
        TransitionPart('blur', {}, c.blur),
        TransitionPart('flip', {}, float(c.flip)),
    )
    return tuple(part for part in parts if part.probability)
