"""Steps to divergence of several studies of stability, side by side.

    python -m experiments.studies.survival --workdir=runs/mlp --workdir=runs/wide --out=survival.png

Kaplan and Meier's estimate of the share of runs that have not diverged, with its 95 % band by the
log-log transform, of all runs of each system of each study (`stability`).
"""

import pathlib
from typing import Any

from absl import flags
from matplotlib.figure import Figure

from ebm_jax.errors import InputError
from ebm_jax.evaluate import figures
from ebm_jax.record import with_ending
from experiments.common import launch, settings
from experiments.studies import arms
from experiments.studies.stability_figures import draw_survival
from experiments.studies.systems import Grid

NAMES = {'adam': 'Adam', 'sgd': 'SGD', 'mlp': 'MLP', 'wide_resnet': 'Wide-ResNet'}


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_multi_string('workdir', None, 'Folder of a study.', flag_values=values)
    flags.DEFINE_string('out', None, 'The picture.', flag_values=values)
    flags.mark_flags_as_required(['workdir', 'out'], values)


def opened(workdir: str) -> tuple[dict[str, Any], Grid]:
    """The runs of a study and its grid. Raises: InputError where it is none, or not finished."""
    file = pathlib.Path(workdir) / 'stability.json'
    found = arms.read(file)
    if not found:
        raise InputError(
            f'{workdir} holds no study of stability: run experiments.studies.stability'
        )
    try:
        c = settings.from_dict(Grid(), found['config'])
    except (KeyError, TypeError) as error:
        raise InputError(f'{file} was written by another version: {error}') from error
    settings.as_declared(c)
    if len(found['runs']) < len(c.all_settings()) * c.seeds:
        raise InputError(f'{workdir} is not finished: run its command again')
    return found, c


def title(c: Grid) -> str:
    """What tells a study from others."""
    data = pathlib.Path(c.data.partition(':')[2] or c.data).stem
    ks = ', '.join(map(str, c.num_steps))
    optimizer, network = (NAMES.get(name, name) for name in (c.optimizer, c.network))
    return f'{data}, {network}, {optimizer}, alpha {c.alpha:g}, K = {ks}'


@figures.styled
def picture(studies: list[tuple[dict[str, Any], Grid]]) -> Figure:
    """A panel for each study."""
    columns = min(3, len(studies))
    rows = -(-len(studies) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows), layout='constrained')
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, (found, c) in zip(axes, studies):
        draw_survival(axis, found, c)
        axis.set_title(title(c), fontsize=8)
        axis.set_ylabel('')
    for axis in axes[len(studies) :]:
        axis.set_visible(False)
    figure.supylabel('share of all runs not diverged', fontsize=9)
    return figure


def run(values: Any) -> None:
    """Draw and write."""
    studies = [opened(workdir) for workdir in values.workdir]
    out = with_ending(values.out, '.png')
    out.parent.mkdir(parents=True, exist_ok=True)
    figures.save(picture(studies), out, dpi=90)
    print(f'{len(studies)} studies: {out}')


if __name__ == '__main__':
    launch.main(run, define, __doc__)
