"""Generators at equal training time: the distance of fresh samples to the data.

    python -m experiments.studies.equal_time --workdir=runs/equal
    python -m experiments.studies.equal_time --workdir=runs/equal_mnist --minutes=8 \\
        --data=npz:data/mnist.npz --experiments=mnist_energy_matching,mnist_icd,mnist_dual_mcmc

Each experiment is trained with its own settings, for as many steps as fit into that time
(compilation is not counted; the schedule ends with the run, and energy matching's warm-up keeps its
share of it). The distance is that of 500 fresh samples in the features of a classifier trained on
the data, with a 95 % interval for the choice of samples; seeds have intervals of their own. Writes
arms.json of each experiment and table.md; rerunning continues.
"""

import pathlib
import statistics
from functools import partial
from typing import Any

import numpy as np
from absl import flags

from ebm_jax.evaluate import extractor
from ebm_jax.evaluate.extractor import Extractor
from ebm_jax.record import write_json
from ebm_jax.train import Recipe, TrainState
from experiments.common import launch, settings, sources, timing
from experiments.common.cores import use_all_cores
from experiments.common.experiment import Experiment
from experiments.common.groups import ImageData
from experiments.studies import arms, asked

SAMPLES = 500


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string('workdir', None, 'Folder of the study.', flag_values=values)
    flags.DEFINE_string('data', 'digits', 'The data set.', flag_values=values)
    flags.DEFINE_list(
        'experiments',
        ['digits_energy_matching', 'digits_icd', 'digits_dual_mcmc'],
        'What is compared.',
        flag_values=values,
    )
    flags.DEFINE_float('minutes', 4, 'Training time of each run.', 0.01, flag_values=values)
    flags.DEFINE_integer('seeds', 1, 'Runs of each experiment.', 1, flag_values=values)
    flags.mark_flag_as_required('workdir', values)


def seconds_per_step(recipe: Recipe, steps: int) -> float:
    """The mean over a run of so many steps, whose program may change on the way; of each program
    the median of a few steps."""
    recipes = [recipe.at(int(step)) for step in np.linspace(0, steps - 1, 20)]
    programs = {id(recipe.method): recipe for recipe in recipes}
    seconds = dict(zip(programs, timing.seconds_per_step(list(programs.values()))))
    return statistics.fmean(seconds[id(recipe.method)] for recipe in recipes)


def measure(experiment: Experiment, state: TrainState, judge: Extractor) -> dict[str, float]:
    """Steps that were made, and distances of fresh samples and of as many test images."""
    found = arms.distances(experiment, state, judge, SAMPLES)
    return {'steps': float(int(state.step)), **found}


def lasting(config: Any, steps: int) -> Any:
    """The configuration of a run of so many steps, whose warm-up keeps its share."""
    config, before = settings.copy(config), config.steps
    config.steps = steps
    if hasattr(config.loss, 'warmup'):  # of energy matching
        config.loss.warmup = config.loss.warmup * steps // before
    return config


def run(values: Any) -> None:
    """Train what is missing, write and print."""
    workdir, whole = pathlib.Path(values.workdir), sources.datasets_of(values.data)
    workdir.mkdir(parents=True, exist_ok=True)
    modules = asked.modules(
        'experiments', values.experiments, lambda config: isinstance(config.data, ImageData)
    )
    bases = {name: module.get_config() for name, module in modules.items()}
    for base in bases.values():
        settings.update(base, {'data.source': values.data})
    use_all_cores(*bases.values())
    judge = extractor.classifier_extractor(whole.train, workdir / 'extractor.npz')
    found: dict[str, list[dict[str, float]]] = {}
    for name, module in modules.items():
        file = workdir / name / 'seconds.json'  # a rerun has the same number of steps
        timed = arms.read(file)
        if not timed:
            recipe = arms.checked(module, settings.copy(bases[name]), whole)
            timed = {'seconds': seconds_per_step(recipe, bases[name].steps)}
            file.parent.mkdir(exist_ok=True)
            write_json(file, timed)
        seconds = timed['seconds']
        steps = max(20, round(60 * values.minutes / seconds))
        found |= arms.results(
            workdir / name,
            module,
            lasting(bases[name], steps),
            {name: {}},
            values.seeds,
            lambda seed: whole,
            partial(measure, judge=judge),
            {'minutes': values.minutes, 'seconds': seconds},
        )
    columns = {
        'distance': 'distance of fresh samples',
        'margin': 'margin of the choice of samples',
        'test': 'of test images',
        'steps': 'steps',
        'survived': 'survived',
    }
    lines = arms.table(found, columns)
    arms.show(workdir, lines)


if __name__ == '__main__':
    launch.main(run, define, __doc__)
