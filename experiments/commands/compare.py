"""Compare runs side by side: python -m experiments.compare --workdir=A --workdir=B ...

Prints a table with one line for each run: the settings in which they differ, and the metrics of
summary.json (run `evaluate` first). A metric that a run does not have stays empty.
"""

import json
import pathlib
from typing import Any

from absl import flags
from flax.traverse_util import flatten_dict

from ebm_jax.errors import InputError
from ebm_jax.record import read_summary
from ebm_jax.trained import read_config
from experiments.common import launch

METRICS = [
    'test_accuracy',
    'ece',
    'conditional_sample_accuracy',
    'sample_distance.frechet',
    'sample_distance.kernel',
    'sample_distance.generator.frechet',
    'sample_distance.refined.frechet',
    'fid.frechet',
    'class_coverage',
    'reconstruction_mse.q',
    'reconstruction_mse.q_refined',
    'inpainting_mse',
    'kl_gradient_ratio',
    'kl_cost_percent',
    'seconds_per_step',
    'diverged',
    'step',
]


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_multi_string('workdir', [], 'Folder of a run; give several.', flag_values=values)


def run(values: Any) -> None:
    """Print the table."""
    if not values.workdir:
        raise InputError('give --workdir=DIR for each run to be compared')
    rows, settings = {}, {}
    for workdir in values.workdir:
        content = read_config(pathlib.Path(workdir))
        rows[workdir] = flatten_dict(read_summary(workdir), sep='.')
        named = {'experiment': content.get('experiment'), **content.get('config', {})}
        settings[workdir] = flatten_dict(named, sep='.')
    keys = sorted({key for one in settings.values() for key in one})
    differing = [
        key for key in keys if len({json.dumps(one.get(key)) for one in settings.values()}) > 1
    ]
    main = ('.energy', '.log_px', '.joint')
    scores = sorted(
        {
            key
            for row in rows.values()
            for key in row
            if key.startswith('ood_auroc.') and key.endswith(main)
        }
    )
    metrics = [
        name for name in METRICS + scores if any(row.get(name) is not None for row in rows.values())
    ]
    header = ['run', *differing, *metrics]
    print('| ' + ' | '.join(header) + ' |\n|' + '---|' * len(header))
    for workdir, row in rows.items():
        cells = [shown(settings[workdir].get(key)) for key in differing]
        cells += [shown(row.get(name)) for name in metrics]
        print('| ' + ' | '.join([pathlib.Path(workdir).name, *cells]) + ' |')


def shown(value: Any) -> str:
    """A cell; empty for None."""
    if value is None:
        return ''
    return f'{value:.3g}' if isinstance(value, float) else str(value)


if __name__ == '__main__':
    launch.main(run, define, __doc__)
