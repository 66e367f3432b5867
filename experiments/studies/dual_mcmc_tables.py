"""The tables of dual-MCMC teaching on our data.

    python -m experiments.studies.dual_mcmc_tables --workdir=DIR --table=TABLE

  order    joint update against the release's sequential one, at equal time
  z_chain  where the chain in z begins, and how many steps it has, at equal training steps
  x_chain  how many steps the chain in x has, at equal training steps
  presets  CoopNets, divergence triangle, ... side by side, at equal time

Each row is a run of --experiment with a few settings changed, in DIR/ROW. Distances of generator
and refined samples, and reconstruction errors, are those of evaluate. Seconds per step are medians
of alternating steps of all rows. Writes TABLE.txt and TABLE.json; rerunning the command continues.
"""

import json
import pathlib
from types import ModuleType
from typing import Any

import jax
import numpy as np
from absl import flags

from ebm_jax.errors import Diverged, InputError
from ebm_jax.evaluate import distance, extractor
from ebm_jax.images import Grid, save_grid
from ebm_jax.record import write_json
from ebm_jax.train import TrainState
from experiments.common import launch, runs, settings
from experiments.common.cores import use_all_cores
from experiments.common.experiment import Experiment
from experiments.common.timing import seconds_per_step
from experiments.evaluations.generator import held_out_inputs, reconstructed
from experiments.families.dual_mcmc import PRESETS, DualSettings
from experiments.studies import arms

TABLES: dict[str, dict[str, dict[str, Any]]] = {
    'order': {'joint': {'teaching.sequential': False}, 'sequential': {'teaching.sequential': True}},
    'z_chain': {
        f'{initial}_{steps}': {
            'teaching.from_inference': initial == 'q',
            'z_chain.num_steps': steps,
            'test_z.num_steps': steps,
        }
        for initial in ('noise', 'q')
        for steps in (10, 30)
    },
    'x_chain': {
        str(steps): {'x_chain.num_steps': steps, 'fresh.num_steps': steps}
        for steps in (10, 20, 30, 50)
    },
    # the gap limit of 5 for small images is meant for `paper`
    'presets': {
        name: {'preset': name, 'loss.gap_limit': 1e4} for name in PRESETS if name != 'release'
    },
}
AT_EQUAL_TIME = ('order', 'presets')
SAMPLES = 500


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string(
        'workdir', None, 'Folder of the table; the same command continues it.', flag_values=values
    )
    flags.DEFINE_enum('table', None, list(TABLES), 'Which table.', flag_values=values)
    flags.DEFINE_string(
        'experiment',
        'digits_dual_mcmc',
        'The experiment whose settings are changed.',
        flag_values=values,
    )
    flags.DEFINE_string(
        'source',
        None,
        'Data, as in --config.data.source; default as the experiment has it.',
        flag_values=values,
    )
    flags.DEFINE_integer(
        'seconds',
        60,
        'Training time of each row, where rows have equal time.',
        1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        'steps',
        400,
        'Training steps of each row, where rows have equal steps.',
        1,
        flag_values=values,
    )
    flags.DEFINE_integer('seed', 0, 'Seed of every row.', 0, flag_values=values)
    flags.mark_flag_as_required('workdir', values)
    flags.mark_flag_as_required('table', values)


def run(values: Any) -> None:
    """Train what is missing, write and print."""
    workdir = pathlib.Path(values.workdir)
    (module,) = arms.modules('experiment', [values.experiment], is_dual).values()
    rows = {
        name: config_of(module, values, changes) for name, changes in TABLES[values.table].items()
    }
    use_all_cores(*rows.values())
    plan = planned(workdir / f'{values.table}.plan.json', module, rows, values)
    for name, config in rows.items():
        config.steps = plan[name]['steps']
    found = {}
    for name, config in rows.items():
        try:
            experiment, state = runs.fit_experiment(workdir / name, module, config)
            found[name] = plan[name] | measured(workdir, name, experiment, state)
        except Diverged as error:
            found[name] = plan[name] | {'diverged': error.step}
        write_json(workdir / f'{values.table}.json', found)
    lines = table(found, values)
    (workdir / f'{values.table}.txt').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))


def is_dual(config: Any) -> bool:
    """Whether a run is one of dual-MCMC teaching."""
    return isinstance(config, DualSettings)


def config_of(module: ModuleType, values: Any, changes: dict[str, Any]) -> DualSettings:
    """The settings of a row."""
    config = module.get_config()
    config.seed = values.seed
    config.picture_every = 10**9  # only the last
    if values.source:
        config.data.source = values.source
    settings.update(config, changes)
    return config


def planned(
    file: pathlib.Path, module: ModuleType, rows: dict[str, DualSettings], values: Any
) -> dict[str, dict[str, Any]]:
    """{row: {'seconds_per_step', 'steps'}}, timed once and kept for the reruns."""
    names = ('experiment', 'source', 'seconds', 'steps', 'seed')
    asked = {name: values[name].value for name in names}
    if file.exists():
        saved = json.loads(file.read_text())
        if saved['asked'] != asked:
            raise InputError(
                f'{file.parent} holds this table with other flags ({saved["asked"]}): use those, '
                'or another --workdir'
            )
        return saved['rows']
    recipes = [runs.build(module, config).recipe for config in rows.values()]
    plan = {}
    for name, seconds in zip(rows, seconds_per_step(recipes)):
        steps = values.steps
        if values.table in AT_EQUAL_TIME:
            steps = max(1, round(values.seconds / seconds))
        plan[name] = {'seconds_per_step': seconds, 'steps': steps}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {'asked': asked, 'rows': plan})
    return plan


def measured(
    workdir: pathlib.Path, name: str, experiment: Experiment, state: TrainState
) -> dict[str, float]:
    """Distances of samples from the data, and reconstruction errors, of one row."""
    train, test, model = experiment.train, experiment.test, experiment.model
    features = extractor.classifier_extractor(train, workdir / 'extractor.npz').features
    params, key = state.eval_params, jax.random.key(1)
    reference, _ = distance.reference_points(train, test, SAMPLES)
    measure = distance.distances_to(features(reference), halves=20)
    stages = experiment.stages or {'refined': None}
    drawn = {
        stage: model.sample(key, params, model.labels(SAMPLES), steps)
        for stage, steps in stages.items()
    }
    save_grid(workdir / f'{name}.png', Grid(drawn[list(stages)[-1]][:100], 10))
    found = {
        stage: measure(features(images))['frechet']['value'] for stage, images in drawn.items()
    }
    if model.latent is not None:
        x, _, conditions = held_out_inputs(experiment)
        for what, steps in (('mse_start', 0), ('mse_chain', model.spec.latent.num_steps)):
            again = reconstructed(experiment, params, key, x, conditions, steps)
            found[what] = float(np.mean(np.square(again - x)))
    return found


def table(found: dict[str, Any], values: Any) -> list[str]:
    """A line for each row."""
    columns = {
        'generator': 'distance, g',
        'refined': 'g + chain',
        'mse_start': 'MSE, initial',
        'mse_chain': 'after chain',
    }
    budget = (
        f'{values.seconds} s of training each'
        if values.table in AT_EQUAL_TIME
        else f'{values.steps} training steps each'
    )
    machine = f'{jax.local_device_count()} {jax.devices()[0].device_kind} device(s)'
    lines = [
        f'{values.experiment}, seed {values.seed}, {SAMPLES} samples, {machine}; {budget}',
        f'{values.table:<28}{"steps":>7}{"s/step":>9}'
        + ''.join(f'{title:>13}' for title in columns.values()),
    ]
    for name, row in found.items():
        cells = [f'{row[column]:>13.4g}' if column in row else f'{"-":>13}' for column in columns]
        end = f'  diverged at step {row["diverged"]}' if 'diverged' in row else ''.join(cells)
        lines.append(f'{name:<28}{row["steps"]:>7,}{row["seconds_per_step"]:>9.3f}{end}')
    return lines


if __name__ == '__main__':
    launch.main(run, define, __doc__)
