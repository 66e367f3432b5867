"""Dual adversarial training: its settings, and the experiment on images that they define."""

from dataclasses import dataclass
from typing import Any

from ebm_jax import kernels, replay
from ebm_jax.evaluate import attacks
from ebm_jax.methods.dat import Adversary, dat
from ebm_jax.model import INITIAL
from ebm_jax.spec import Part, Sampling
from ebm_jax.types import Network
from experiments.common import sources
from experiments.common.assembly import classifier_experiment
from experiments.common.building import prepare_images, shard_capacity
from experiments.common.experiment import Experiment, TrainingChains
from experiments.common.groups import Buffer, ImageData, Optimizer, PersistentRunSettings
from experiments.common.settings import group, setting
from experiments.common.sources import Datasets
from experiments.families.networks import ConvNetwork

BOUNDS = (-1.0, 1.0)


@dataclass
class Ascent:
    """Steps of one length down the energy, without noise."""

    step_size: float = setting(0.2, 'Euclidean length of a step, pixels in [-1, 1]', above=0)
    num_steps: int = setting(20, 'steps K of each negative', low=1)


@dataclass
class Adversarial:
    """The attack on the examples of the classifier: PGD."""

    norm: str = setting('l2', 'of the ball', choices=tuple(attacks.NORMS))
    radius: float = setting(0.5, 'of the ball, pixels in [0, 1]; 0: no attack', low=0)
    num_steps: int = setting(10, 'steps of the attack', low=1)


@dataclass
class DatLoss:
    """L = L_yx of attacked examples + p_x_weight L_x."""

    num_negatives: int = setting(64, 'chains M of a step, over all devices', low=1)
    p_x_weight: float = setting(1.0, 'weight of the generative part', low=0)


@dataclass
class DatSettings(PersistentRunSettings):
    """A run of dual adversarial training on images."""

    data: ImageData = group(ImageData)
    optimizer: Optimizer = group(Optimizer)
    buffer: Buffer = group(Buffer)
    sampler: Ascent = group(Ascent)
    fresh: Ascent = group(Ascent, num_steps=200)
    adversary: Adversarial = group(Adversarial)
    loss: DatLoss = group(DatLoss)
    network: Any = group(ConvNetwork)


def image_dat(
    config: DatSettings, datasets: Datasets | None = None, *, network: Network | None = None
) -> Experiment:
    """The experiment of a run of dual adversarial training on images.

    Args:
      config: settings of the run.
      datasets: default: those that config.data.source names.
      network: one example -> logits; default: that of config.network.
    """
    datasets = datasets or sources.datasets_of(config.data.source)
    c, shape = config.data, datasets.train.x.shape[1:]
    network = network or config.network.build(datasets.train.num_classes, shape)
    initial = Part('uniform')
    method = dat(
        network,
        ascent(config.sampler.step_size),
        replay.persistent(
            INITIAL[initial.name](shape, **initial.arguments),
            shard_capacity(config.buffer.capacity, config.shards),
            restart=config.buffer.restart,
        ),
        adversary=adversary_of(config.adversary),
        num_negatives=config.loss.num_negatives,
        num_steps=config.sampler.num_steps,
        p_x_weight=config.loss.p_x_weight,
        shards=config.shards,
    )
    return classifier_experiment(
        config,
        datasets,
        network,
        method,
        sampling=Sampling(
            kernel=Part('steepest_descent', {'bounds': list(BOUNDS)}),
            step_size=config.fresh.step_size,
            num_steps=config.fresh.num_steps,
            initial=initial,
        ),
        prepare=prepare_images(c.noise, c.crop, c.flip),
        prepare_test=prepare_images(c.noise),
        chains=TrainingChains(
            num_steps=config.sampler.num_steps,
            steps_of=lambda state: config.sampler.num_steps,
            make_kernel=ascent,
            numbers=lambda state: {'step_size': config.sampler.step_size},
        ),
    )


def ascent(step_size: Any) -> Any:
    """The kernel of the negatives."""
    return kernels.steepest_descent(step_size, bounds=BOUNDS)


def adversary_of(c: Adversarial) -> Adversary:
    """The attack on an example of the batch."""
    attack = attacks.pgd(attacks.NORMS[c.norm], steps=c.num_steps, bounds=BOUNDS)

    def adversary(key, logits, x, label):
        if not c.radius:
            return x
        # a pixel in [0, 1] is half as wide as one in [-1, 1]
        return attack.run(key, attacks.deterministic(logits), x, label, 2 * c.radius).x

    return adversary
