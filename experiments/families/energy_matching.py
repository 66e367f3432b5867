"""Energy matching: its settings, and the experiment on images that they define."""

from dataclasses import dataclass
from typing import Any

import jax

from ebm_jax import kernels, model
from ebm_jax.errors import ChainsDiverged
from ebm_jax.images import Grid
from ebm_jax.methods.energy_matching import energy_matching
from ebm_jax.model import INITIAL
from ebm_jax.spec import Part, Sampling, energy_spec
from ebm_jax.types import Network
from experiments.common import sources
from experiments.common.assembly import energy_experiment
from experiments.common.experiment import Experiment
from experiments.common.groups import ImageData, Optimizer, RunSettings
from experiments.common.settings import group, setting
from experiments.common.sources import Datasets
from experiments.families.networks import EnergyNetwork


@dataclass
class Flow:
    """A chain from noise at time 0 to the data at time 1, and beyond it at a fixed temperature."""

    step_size: float = setting(0.05, 'time of a step', above=0)
    num_steps: int = setting(30, 'steps', low=1)


@dataclass
class MatchingLoss:
    """L = L_flow + cd_weight L_cd."""

    temperature: float = setting(0.01, 'near the data', above=0)
    onset: float = setting(0.8, 'time from which the temperature rises', low=0, high=1)
    cd_weight: float = setting(1e-3, 'weight of contrastive divergence', low=0)
    warmup: int = setting(600, 'training steps of L_flow alone', low=0)
    clip: float = setting(
        0.1, 'a contrast mean E(x+) - mean E(x-) below -clip teaches nothing; 0: no bound', low=0
    )


@dataclass
class EnergyMatchingSettings(RunSettings):
    """A run of energy matching on images."""

    data: ImageData = group(ImageData, noise=0.0)
    optimizer: Optimizer = group(Optimizer)
    sampler: Flow = group(Flow)
    fresh: Flow = group(Flow, num_steps=40)
    loss: MatchingLoss = group(MatchingLoss)
    network: Any = group(EnergyNetwork, norm=False, kernel_transform='plain')

    def recovery_paths(self) -> dict[str, tuple[str, ...]]:
        return {
            'new_key': (),
            'learning_rate': ('optimizer.learning_rate',),
            'num_steps': ('sampler.num_steps',),
            'step_size': ('sampler.step_size',),
        }


def image_energy_matching(
    config: EnergyMatchingSettings,
    datasets: Datasets | None = None,
    *,
    network: Network | None = None,
) -> Experiment:
    """The experiment of a run of energy matching on images.

    Args:
      config: settings of the run.
      datasets: default: those that config.data.source names.
      network: one example -> energies, whose sum is E; default: that of config.network.
    """
    datasets = datasets or sources.datasets_of(config.data.source)
    shape, c = datasets.train.x.shape[1:], config.loss
    network = network or config.network.build(0, shape, head_bias=False)
    heat: dict[str, Any] = {'temperature': c.temperature, 'onset': c.onset}
    initial = Part('normal')
    sampling = Sampling(
        kernel=Part('heated_langevin', heat),
        step_size=config.fresh.step_size,
        num_steps=config.fresh.num_steps,
        initial=initial,
    )
    spec = energy_spec(network, shape, datasets.train.num_classes, sampling)
    step_size = config.sampler.step_size

    def kernel(begin):
        return kernels.heated_langevin(step_size, begin=begin, **heat)

    method = energy_matching(
        network,
        INITIAL[initial.name](shape, **initial.arguments),
        kernel,
        temperature=c.temperature,
        num_steps=config.sampler.num_steps,
        cd_weight=c.cd_weight,
        warmup=c.warmup,
        clip=c.clip or None,
    )
    trained = model.build(spec, {'network': network})

    def pictures(state):
        try:
            x = trained.sample(jax.random.key(0), state.eval_params, trained.labels(50))
        except ChainsDiverged:  # a picture is no reason to end a run
            return {}
        steps = config.fresh.num_steps
        return {'fresh': Grid(trained.pictures(x), 10, f'Fresh samples, {steps} steps from noise.')}

    return energy_experiment(
        config,
        datasets,
        trained,
        method,
        show=('loss', 'loss/flow', 's_gap'),
        pictures=pictures,
    )
