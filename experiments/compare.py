"""Runs side by side: python -m experiments.compare --workdir=A --workdir=B ... prints one line for each, and what their settings differ in.

Figures are those of summary.json (run `evaluate` first); a figure that a run does not have stays empty.
"""
import json
import pathlib

from absl import flags

from ebm_jax.errors import InputError
from experiments import launch

FIGURES = ['test_accuracy', 'ece', 'conditional_sample_accuracy', 'sample_distance.frechet', 'sample_distance.kernel',
           'sample_distance.generator.frechet', 'sample_distance.refined.frechet', 'fid.frechet', 'class_coverage', 'reconstruction_mse.q',
           'reconstruction_mse.q_refined', 'inpainting_mse', 'kl_gradient_ratio', 'kl_cost_percent', 'seconds_per_step', 'diverged', 'step']


def define(values):
    flags.DEFINE_multi_string('workdir', [], 'Folder of a run; give several.', flag_values=values)


def run(values):
    if not values.workdir:
        raise InputError('give --workdir=DIR for each run to be compared')
    rows, settings = {}, {}
    for workdir in values.workdir:
        content, _ = launch.read_config(workdir)
        summary = pathlib.Path(workdir) / 'summary.json'
        rows[workdir] = launch.flatten(json.loads(summary.read_text())) if summary.exists() else {}
        settings[workdir] = launch.flatten({'experiment': content['experiment'], **content['config']})
    keys = sorted({key for one in settings.values() for key in one})
    differing = [key for key in keys if len({json.dumps(one.get(key)) for one in settings.values()}) > 1]
    main = ('.energy', '.log_px', '.joint')
    scores = sorted({key for row in rows.values() for key in row if key.startswith('ood_auroc.') and key.endswith(main)})
    figures = [name for name in FIGURES + scores if any(row.get(name) is not None for row in rows.values())]
    header = ['run', *differing, *figures]
    print('| ' + ' | '.join(header) + ' |\n|' + '---|' * len(header))
    for workdir, row in rows.items():
        cells = [shown(settings[workdir].get(key)) for key in differing] + [shown(row.get(name)) for name in figures]
        print('| ' + ' | '.join([pathlib.Path(workdir).name, *cells]) + ' |')


def shown(value):
    if value is None:
        return ''
    return f'{value:.3g}' if isinstance(value, float) else str(value)


if __name__ == '__main__':
    launch.main(run, define, __doc__)
