"""Export a trained run: python -m experiments.export --workdir=DIR --out=FOLDER

Writes a folder that stands alone: model.safetensors (weights), config.json (what the model is, the
settings that trained it, its metrics, a hash) and README.md (the model card). `ebm_jax.load` and
the commands that need no data (sample, compose, speech) open it as they open a run.
"""

import pathlib
import shlex
from typing import Any

from absl import flags

from experiments.common import launch, runs, settings


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
    flags.DEFINE_string('out', None, 'Folder to write, empty or new.', flag_values=values)
    flags.mark_flag_as_required('workdir', values)
    flags.mark_flag_as_required('out', values)


def changes(workdir: str) -> dict[str, Any]:
    """{path: value} of the settings in which a run differs from its experiment."""
    config, module = runs.read_run(pathlib.Path(workdir))
    shipped, own = settings.flatten(module.get_config()), settings.flatten(config)
    return {name: value for name, value in own.items() if value != shipped[name]}


def run(values: Any) -> None:
    """Export and print."""
    opened = runs.open_model(values.workdir)
    experiment = opened.settings.get('experiment')
    commands = []
    if experiment:
        changed = [
            shlex.quote(f'--config.{name}={value}')
            for name, value in changes(values.workdir).items()
        ]
        commands = [
            ' '.join([f'python -m {experiment} --workdir=RUN', *changed]),
            'python -m experiments.evaluate --workdir=RUN',
            'python -m experiments.export --workdir=RUN --out=FOLDER',
        ]
    digest = opened.export(values.out, '\n'.join(commands))
    print(f'{values.out}: step {opened.step}, SHA-256 of the weights {digest[:12]}...')


if __name__ == '__main__':
    launch.main(run, define, __doc__)
