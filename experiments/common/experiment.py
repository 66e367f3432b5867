"""An experiment, built from its settings: how its run trains, and what evaluation, sampling and
applications need besides."""

import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ebm_jax.data import Examples
from ebm_jax.data.recordings import Recording
from ebm_jax.data.windows import Frontend
from ebm_jax.evaluate.predict import Predictor
from ebm_jax.model import Model
from ebm_jax.train import Recipe, TrainState
from ebm_jax.types import Kernel
from experiments.common.groups import Denoise
from experiments.common.section import Section
from experiments.common.sources import Datasets


@dataclass(frozen=True, kw_only=True)
class TrainingChains:
    """The chains in x that training runs, as telemetry observes them.

    Attributes:
      num_steps: K of the first round.
      steps_of: TrainState -> K of its next round.
      make_kernel: (**numbers) -> Kernel; the numbers may be traced.
      numbers: TrainState -> arguments of make_kernel, as configured or as the sampler has tuned
        them; 'step_size', and 'noise_scale' of Langevin kernels.
    """

    num_steps: int
    steps_of: Callable[[TrainState], int]
    make_kernel: Callable[..., Kernel]
    numbers: Callable[[TrainState], dict[str, float]]


class Evaluation(Protocol):
    """A section of `evaluate`, see `experiments.common.section`."""

    def __call__(
        self, workdir: pathlib.Path, experiment: 'Experiment', state: TrainState, /
    ) -> Section: ...


class SpeechRun(NamedTuple):
    """What a run on recordings has besides its windows."""

    frontend: Frontend
    test: list[Recording]
    others: list[Recording]  # of the speakers that were left out of training
    denoise: Denoise


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment, built.

    Attributes:
      recipe: how it trains; None for a run from Python, which is evaluated only.
      model: what it trains, as pure functions of parameters.
      datasets: what it is trained and tested on.
      predict: (params, key, raw examples) -> {name: values}, see `evaluate.predict`.
      scores: {name of a score in that: its meaning}; the first is the main one.
      input_noise: standard deviation of the noise that `predict` adds.
      chains: the chains in x that training runs; None for methods without any.
      ood: out-of-distribution sets for evaluate, {name: what to load}.
      stages: {name: steps, None for all}: stages of fresh chains that evaluate also measures.
      evaluations: additional sections of evaluate.
      speech: what only runs on recordings have.
    """

    recipe: Recipe | None
    model: Model
    datasets: Datasets
    predict: Predictor
    scores: Mapping[str, str]
    input_noise: float
    chains: TrainingChains | None = None
    ood: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, int | None] = field(default_factory=dict)
    evaluations: tuple[Evaluation, ...] = ()
    speech: SpeechRun | None = None

    @property
    def train(self) -> Examples:
        return self.datasets.train

    @property
    def test(self) -> Examples:
        return self.datasets.test
