"""A JEM or ST-JEM run on speech: windows of features take the place of images, everything else is
as in `jem`."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ebm_jax import audio
from ebm_jax.data.recordings import Frames
from ebm_jax.errors import InputError
from ebm_jax.spec import Part
from ebm_jax.types import Kernel, Network
from experiments.common.experiment import Evaluation, Experiment, SpeechRun
from experiments.common.settings import group, setting
from experiments.common.sources import Datasets
from experiments.evaluations import speech_quality, spoken_frames
from experiments.families.jem import JemBuffer, JemSettings, jem_experiment
from experiments.families.networks import Conv1DNetwork
from experiments.families.speech_data import (
    NORMAL,
    OnSpeech,
    load_speech,
    parts_of,
)


@dataclass
class SpeechBuffer(JemBuffer):
    """The replay buffer, and where its chains begin."""

    initial: str = setting(
        'normal',
        'initial distribution: normal noise of the standard deviation of the features, or a '
        'Gaussian of each class, fitted to 1,000 of its training windows at `side` values',
        choices=('normal', 'class_gaussian'),
    )

    @property
    def plain(self) -> Part:
        return NORMAL


@dataclass
class SpeechSettings(OnSpeech, JemSettings):
    """A JEM or ST-JEM run on speech."""

    buffer: Any = group(SpeechBuffer)
    network: Any = group(Conv1DNetwork)


def speech_jem(
    config: SpeechSettings,
    datasets: Datasets | None = None,
    *,
    network: Network | None = None,
    kernel: Kernel | None = None,
) -> Experiment:
    """The experiment of a JEM or ST-JEM run on speech.

    Args:
      config: settings of the run.
      datasets: default: those that config.data names.
      network: window -> logits; default: that of config.network.
      kernel: of the chains of training; default: that of config.sampler.
    """
    datasets = datasets or load_speech(config)
    run = datasets.extra
    evaluations: tuple[Evaluation, ...] = ()
    if isinstance(run, SpeechRun):
        evaluations = speech_quality.EVALUATIONS
    elif run is not None:
        evaluations = of_frames(config, run)
    return jem_experiment(
        config,
        datasets,
        network or config.network.build(datasets.train.num_classes, datasets.train.x.shape[1:]),
        initial=config.buffer.part(datasets.train),
        kernel=kernel,
        evaluations=evaluations,
        **parts_of(config.data, run),
    )


def of_frames(config: SpeechSettings, frames: Frames) -> tuple[Evaluation, ...]:
    """What evaluate measures of a run on frames alone. Raises: InputError where they are too short
    for the log-periodograms that the settings say they are."""
    if not config.data.periodograms:
        return ()
    if len(frames.scale.mean) <= audio.ORDER:
        raise InputError(
            f'{config.data.source}: frames of {len(frames.scale.mean)} numbers are no periodograms '
            'of speech: give --config.data.periodograms=false'
        )
    return (partial(spoken_frames.heard, frames.scale, config.features.rate),)
