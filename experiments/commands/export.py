"""Export a trained run: python -m experiments.export --workdir=DIR --out=FOLDER

Writes a folder that stands alone: model.safetensors (weights), config.json (what the model is, the
settings that trained it, its metrics, a hash) and README.md (the model card). `ebm_jax.load` and
the commands that need no data (sample, compose, speech) open it as they open a run.
"""

from typing import Any

from absl import flags

from experiments.common import launch, report, runs


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
    flags.DEFINE_string('out', None, 'Folder to write, empty or new.', flag_values=values)
    flags.mark_flag_as_required('workdir', values)
    flags.mark_flag_as_required('out', values)


def run(values: Any) -> None:
    """Export and print."""
    opened = runs.open_model(values.workdir)
    commands = ''
    if 'experiment' in opened.settings:
        commands = report.commands('RUN', opened.settings)
        commands += '\npython -m experiments.export --workdir=RUN --out=FOLDER'
    evaluated = opened.metrics.get('evaluated_step', opened.step)
    if evaluated != opened.step:
        print(
            f'warning: the metrics of the card are of step {evaluated}, the weights of step '
            f'{opened.step}: evaluate {values.workdir} and export again'
        )
    digest = opened.export(values.out, commands)
    print(f'{values.out}: step {opened.step}, SHA-256 of the weights {digest[:12]}...')


if __name__ == '__main__':
    launch.main(run, define, __doc__)
