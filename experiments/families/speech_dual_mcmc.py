"""Dual-MCMC teaching on speech: windows of features take the place of images, everything else is
as in `dual_mcmc`."""

from dataclasses import dataclass
from typing import Any

from ebm_jax.errors import InputError
from ebm_jax.types import Kernel, Network
from experiments.common.experiment import Experiment
from experiments.common.settings import group
from experiments.common.sources import Datasets
from experiments.families.dual_mcmc import DualSettings, dual_mcmc_experiment
from experiments.families.networks import SizedDualNetworks
from experiments.families.speech_data import (
    NORMAL,
    OnSpeech,
    load_speech,
    parts_of,
)


@dataclass
class SpeechDualSettings(OnSpeech, DualSettings):
    """A run of dual-MCMC teaching on speech."""

    network: Any = group(SizedDualNetworks)


def speech_dual_mcmc(
    config: SpeechDualSettings,
    datasets: Datasets | None = None,
    *,
    networks: dict[str, Network] | None = None,
    kernel: Kernel | None = None,
) -> Experiment:
    """The experiment of a dual-MCMC run on speech.

    Args:
      config: settings of the run.
      datasets: default: those that config.data names.
      networks: {'energy', 'generator', 'inference'}; default: those of config.network.
      kernel: of the chains in x; default: that of config.x_chain.
    """
    if config.data.periodograms:
        raise InputError(
            '--config.data.periodograms is for JEM and ST-JEM, whose frames evaluate turns into '
            'sound: leave it out'
        )
    datasets = datasets or load_speech(config)
    return dual_mcmc_experiment(
        config,
        datasets,
        networks=networks,
        kernel=kernel,
        initial=NORMAL,
        **parts_of(config.data, datasets.extra),
    )
