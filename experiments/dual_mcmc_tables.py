"""The tables of dual-MCMC teaching on our data: python -m experiments.dual_mcmc_tables --workdir=DIR --table=TABLE

  order    joint update against the release's sequential one, at equal time
  z_chain  which model starts the chain in z, and how many steps it has, at equal training steps
  x_chain  how many steps the chain in x has, at equal training steps
  presets  CoopNets, divergence triangle, ... side by side, at equal time

Each row is a run of --experiment with a few settings changed, in DIR/ROW. Distances of generator and refined samples, and reconstruction
errors, as in evaluate. Times of a step are medians, rows in turns. Writes TABLE.txt and TABLE.json; rerunning the command continues.
"""
import importlib
import json
import pathlib

import jax
import numpy as np
from absl import flags

from ebm_jax.errors import Diverged, InputError
from ebm_jax.evaluate import distance, extractor
from ebm_jax.record import image_grid, save_grid, write_json
from ebm_jax.types import UNLABELLED
from experiments import launch
from experiments.figures_dual_mcmc import inputs_of, reconstructed
from experiments.parts import averaged
from experiments.parts_dual_mcmc import PRESETS
from experiments.timing import seconds_per_step

TABLES = {
    'order': {'joint': {'teaching.sequential': False}, 'sequential': {'teaching.sequential': True}},
    'z_chain': {f'{start}_{steps}': {'teaching.from_inference': start == 'q', 'z_chain.num_steps': steps, 'test_z.num_steps': steps}
                for start in ('noise', 'q') for steps in (10, 30)},
    'x_chain': {str(steps): {'x_chain.num_steps': steps, 'fresh.num_steps': steps} for steps in (10, 20, 30, 50)},
    'presets': {name: {'preset': name, 'loss.gap_limit': 1e4} for name in PRESETS if name != 'release'}}   # 5 is of `paper`
AT_EQUAL_TIME = ('order', 'presets')
SAMPLES = 500


def define(values):
    flags.DEFINE_string('workdir', None, 'Folder of the table; the same command continues it.', flag_values=values)
    flags.DEFINE_enum('table', None, list(TABLES), 'Which table.', flag_values=values)
    flags.DEFINE_string('experiment', 'digits_dual_mcmc', 'The experiment whose settings are changed.', flag_values=values)
    flags.DEFINE_string('source', None, 'Data, as in --config.data.source; default as the experiment has it.', flag_values=values)
    flags.DEFINE_integer('seconds', 60, 'Training time of each row, where rows have equal time.', 1, flag_values=values)
    flags.DEFINE_integer('steps', 400, 'Training steps of each row, where rows have equal steps.', 1, flag_values=values)
    flags.DEFINE_integer('seed', 0, 'Seed of every row.', 0, flag_values=values)
    flags.mark_flag_as_required('workdir', values)
    flags.mark_flag_as_required('table', values)


def run(values):
    workdir = pathlib.Path(values.workdir)
    module = module_of(values.experiment)
    rows = {name: config_of(module, values, changes) for name, changes in TABLES[values.table].items()}
    launch.use_all_cores(*rows.values())
    plan = planned(workdir / f'{values.table}.plan.json', module, rows, values)
    for name, config in rows.items():
        config.steps = config.optimizer.decay_steps = plan[name]['steps']
    found = {}
    for name, config in rows.items():
        try:
            parts, state = launch.fit_in(workdir / name, module, config)
            found[name] = plan[name] | measured(workdir, name, config, parts, state)
        except Diverged as error:
            found[name] = plan[name] | {'diverged': error.step}
        write_json(workdir / f'{values.table}.json', found)
    lines = table(found, values)
    (workdir / f'{values.table}.txt').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))


def module_of(name):
    try:
        module = importlib.import_module(f'experiments.{name}')
        if 'preset' in module.get_config():
            return module
    except (ModuleNotFoundError, AttributeError):
        pass
    raise InputError(f'--experiment={name} is no dual-MCMC experiment: give for instance digits_dual_mcmc')


def config_of(module, values, changes):
    config = module.get_config()
    config.seed = values.seed
    config.picture_every = 10 ** 9   # only the last
    if values.source:
        config.data.source = values.source
    config.update_from_flattened_dict(changes)
    return config


def planned(file, module, rows, values):
    """{row: {'seconds_per_step', 'steps'}}, timed once and kept for the reruns."""
    asked = {name: values[name].value for name in ('experiment', 'source', 'seconds', 'steps', 'seed')}
    if file.exists():
        there = json.loads(file.read_text())
        if there['asked'] != asked:
            raise InputError(f'{file.parent} holds this table with other flags ({there["asked"]}): use those, or another --workdir')
        return there['rows']
    seconds = dict(zip(rows, seconds_per_step([launch.build(module, config) for config in rows.values()])))
    steps = lambda name: max(1, round(values.seconds / seconds[name])) if values.table in AT_EQUAL_TIME else values.steps
    plan = {name: {'seconds_per_step': seconds[name], 'steps': steps(name)} for name in rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {'asked': asked, 'rows': plan})
    return plan


def measured(workdir, name, config, parts, state):
    """Distances of samples from the data, and reconstruction errors, of one row."""
    by, params, key = extractor.of_classifier(parts.train, workdir / 'extractor.npz'), averaged(state), jax.random.key(1)
    reference, _ = distance.reference_and_known_cases(parts.train, parts.test, SAMPLES)
    measure = distance.distances_to(by.features(reference), halves=20)
    labels = np.arange(SAMPLES) % parts.train.num_classes if parts.by_class else np.full(SAMPLES, UNLABELLED)
    stages = parts.stages or {'refined': None}
    drawn = {stage: parts.draw(key, params, labels, steps) for stage, steps in stages.items()}
    save_grid(workdir / f'{name}.png', image_grid(drawn[list(stages)[-1]][:100], 10))
    found = {stage: measure(by.features(images))['frechet']['value'] for stage, images in drawn.items()}
    if parts.model:
        x, _, of = inputs_of(parts)
        for what, steps in (('mse_start', 0), ('mse_chain', config.test_z.num_steps)):
            found[what] = float(np.mean(np.square(reconstructed(parts, params, key, x, of, steps) - x)))
    return found


def table(found, values):
    columns = {'generator': 'distance, g', 'refined': 'g + chain', 'mse_start': 'MSE, start', 'mse_chain': 'after chain'}
    budget = f'{values.seconds} s of training each' if values.table in AT_EQUAL_TIME else f'{values.steps} training steps each'
    machine = f'{jax.local_device_count()} {jax.devices()[0].device_kind} device(s)'
    lines = [f'{values.experiment}, seed {values.seed}, {SAMPLES} samples, {machine}; {budget}',
             f'{values.table:<28}{"steps":>7}{"s/step":>9}' + ''.join(f'{title:>13}' for title in columns.values())]
    for name, row in found.items():
        cells = [f'{row[column]:>13.4g}' if column in row else f'{"-":>13}' for column in columns]
        end = f'  diverged at step {row["diverged"]}' if 'diverged' in row else ''.join(cells)
        lines.append(f'{name:<28}{row["steps"]:>7,}{row["seconds_per_step"]:>9.3f}{end}')
    return lines


if __name__ == '__main__':
    launch.main(run, define, __doc__)
