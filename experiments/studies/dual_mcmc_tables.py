"""The tables of dual-MCMC teaching on our data.

    python -m experiments.studies.dual_mcmc_tables --workdir=DIR --table=presets --seconds=50
    python -m experiments.studies.dual_mcmc_tables --workdir=DIR --table=z_chain --steps=300
    python -m experiments.studies.dual_mcmc_tables --workdir=DIR --seconds=60 \\
        --vary='preset=vae optimizer.generator.learning_rate=.003' --vary=preset=vae

  order    joint update against the release's sequential one
  z_chain  where the chain in z begins, and how many steps it has
  x_chain  how many steps the chain in x has
  presets  CoopNets, divergence triangle, ... side by side

A row for each run of a table or for each --vary, on top of the experiment's settings, with every
seed; --seconds gives all rows equal training time, --steps equal training steps. Distances of
samples, and reconstruction errors at the initial and the final position of the chain in z, are
those of evaluate, on a part cut from training or on the test images (--part).
Seconds per step are medians of alternating steps of all rows, timed once. Writes arms.json and
table.md, and a picture of each row's samples; rerunning continues.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import jax
import numpy as np
from absl import flags

from ebm_jax.errors import InputError
from ebm_jax.evaluate import extractor
from ebm_jax.evaluate.extractor import Extractor
from ebm_jax.record import write_json
from ebm_jax.train import TrainState
from experiments.common import launch
from experiments.common.cores import use_all_cores
from experiments.common.experiment import Experiment
from experiments.common.groups import ImageData
from experiments.common.sources import Datasets
from experiments.common.timing import seconds_per_step
from experiments.evaluations.generator import held_out_inputs, reconstructed
from experiments.families.dual_mcmc import PRESETS, DualSettings
from experiments.studies import arms, asked

TABLES: dict[str, dict[str, dict[str, Any]]] = {
    'order': {'joint': {'teaching.sequential': False}, 'sequential': {'teaching.sequential': True}},
    'z_chain': {
        f'{initial}, {steps} steps': {
            'teaching.from_inference': initial == 'q',
            'z_chain.num_steps': steps,
            'test_z.num_steps': steps,
        }
        for initial in ('noise', 'q')
        for steps in (10, 30)
    },
    'x_chain': {
        f'{steps} steps': {'x_chain.num_steps': steps, 'fresh.num_steps': steps}
        for steps in (10, 20, 30, 50)
    },
    # the gap limit of 5 for small images is meant for `paper`
    'presets': {
        name: {'preset': name, 'loss.gap_limit': 1e4} for name in PRESETS if name != 'release'
    },
}
COLUMNS = {
    'steps': 'steps',
    'seconds': 's per step',
    'distance': 'distance of samples',
    'generator': 'of the generator, where a chain follows',
    'mse_start': 'error: initial',
    'mse_chain': 'final',
    'survived': 'survived',
}
SAMPLES = 500
ELSEWHERE = {**asked.ELSEWHERE, 'steps': '--steps or --seconds'}


def define(values: Any) -> None:
    """The flags."""
    asked.define_study(values, 'digits_dual_mcmc')
    flags.DEFINE_enum('table', None, list(TABLES), 'Which table.', flag_values=values)
    flags.DEFINE_integer(
        'seconds', 0, 'Training time of a run; 0: the rows have equal steps.', 0, flag_values=values
    )


def is_dual(config: Any) -> bool:
    """Whether a run is one of dual-MCMC teaching on images."""
    return isinstance(config, DualSettings) and isinstance(config.data, ImageData)


def rows_of(base: DualSettings, values: Any) -> dict[str, dict[str, Any]]:
    """The rows that were asked for. Raises: InputError."""
    if bool(values.table) == bool(values.vary):
        raise InputError('give either --table or rows by --vary')
    if values.seconds and values.steps:
        raise InputError('give either --seconds or --steps, not both')
    return TABLES[values.table] if values.table else asked.rows(base, values.vary, ELSEWHERE)


def planned(
    file: pathlib.Path,
    module: ModuleType,
    base: DualSettings,
    rows: Mapping[str, Mapping[str, Any]],
    datasets: Datasets,
) -> dict[str, float]:
    """{row: seconds per step}, those that are not known yet timed in turn, and kept for the reruns.

    Raises: InputError where the folder holds a study of another experiment or other data.
    """
    given = {'experiment': module.__name__, 'data': base.data.source}
    plan = arms.read(file) or {**given, 'seconds': {}}
    arms.check_same(file, plan, given)
    new = {name: row for name, row in rows.items() if name not in plan['seconds']}
    recipes = [arms.checked(module, arms.configured(base, row), datasets) for row in new.values()]
    timed = seconds_per_step(recipes) if recipes else []
    plan['seconds'] |= dict(zip(new, timed))
    write_json(file, plan)
    return plan['seconds']


def measure(
    experiment: Experiment,
    state: TrainState,
    judge: Callable[[], Extractor],
    picture: pathlib.Path,
) -> dict[str, float]:
    """Distances of samples from the data, and reconstruction errors."""
    model, params = experiment.model, state.eval_params
    found = arms.distances(experiment, state, judge(), SAMPLES, picture)
    if model.latent is not None:
        x, _, conditions = held_out_inputs(experiment)
        for what, steps in (('mse_start', 0), ('mse_chain', model.spec.latent.num_steps)):
            again = reconstructed(experiment, params, jax.random.key(1), x, conditions, steps)
            found[what] = float(np.mean(np.square(again - x)))
    return found


def run(values: Any) -> None:
    """Train what is missing, write and print."""
    module, base = asked.base_of(values, is_dual)
    rows = rows_of(base, values)
    use_all_cores(*(arms.configured(base, row) for row in rows.values()))
    workdir, (whole, datasets) = pathlib.Path(values.workdir), asked.parts(values)
    workdir.mkdir(parents=True, exist_ok=True)
    seconds = planned(workdir / 'seconds.json', module, base, rows, datasets(0))
    steps = {
        name: max(1, round(values.seconds / seconds[name])) if values.seconds else base.steps
        for name in rows
    }

    @functools.cache  # trained once, and only where something is measured
    def judge():
        return extractor.classifier_extractor(whole.train, workdir / 'extractor.npz')

    found: dict[str, list[dict[str, float]]] = {}
    for i, (name, row) in enumerate(rows.items()):
        # a row of --vary can be longer than a name of a file may be
        picture = workdir / f'{name if len(name) < 40 else f"row_{i + 1}"}.png'
        found |= arms.results(
            workdir,
            module,
            base,
            {name: {**row, 'steps': steps[name]}},
            values.seeds,
            datasets,
            partial(measure, judge=judge, picture=picture),
            {'part': values.part, 'train': values.train, 'seconds': values.seconds},
        )
        for metrics in found[name]:
            metrics |= {'seconds': seconds[name], 'steps': float(steps[name])}
    arms.show(workdir, arms.table(found, COLUMNS))


if __name__ == '__main__':
    launch.main(run, define, __doc__)
