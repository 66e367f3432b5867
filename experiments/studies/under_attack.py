"""Accuracy under attack: a plain classifier, JEM, ST-JEM, refinement before the classification, and
dual adversarial training, on the same network, data and steps.

    python -m experiments.studies.under_attack --workdir=runs/robust
    python -m experiments.studies.under_attack --workdir=runs/robust_mnist \\
        --data=npz:data/mnist.npz --steps=1000 --radii=.5,1,2 \\
        --arms='plain classifier' --arms='JEM, learning rate 5e-4' --arms=ST-JEM

APGD-CE and then APGD-DLR on what is left, in L2; radii are for pixels in [0, 1]. A classifier that
refines its input is attacked by what fools it without refinement, then through the chain, which is
taken as the identity and then as it is. Writes arms.json and table.md; rerunning continues.
"""

import pathlib
from functools import partial
from typing import Any

from absl import flags

from ebm_jax.evaluate import calibration, predict
from ebm_jax.train import TrainState
from experiments import digits_dat, digits_st_jem, mnist_dat, mnist_st_jem
from experiments.common import launch, settings, sources
from experiments.common.cores import use_all_cores
from experiments.common.experiment import Experiment
from experiments.evaluations.robustness import robust_accuracy
from experiments.studies import arms, asked

PLAIN_ARMS: dict[str, dict[str, Any]] = {  # without refinement
    'plain classifier': {'loss.p_x_weight': 0.0, 'loss.alpha': 0.0},
}
SLOW_JEM = {  # of 28x28 images and larger, where JEM diverges at ST-JEM's learning rate
    'JEM, learning rate 5e-4': {
        'loss.balanced': False,
        'loss.alpha': 0.0,
        'optimizer.learning_rate': 5e-4,
    },
}
JEM_ARMS: dict[str, dict[str, Any]] = {  # with and without refinement
    'JEM': {'loss.balanced': False, 'loss.alpha': 0.0},
    'ST-JEM': {},
}
DAT_ARMS: dict[str, dict[str, Any]] = {
    'adversarial training alone': {'loss.p_x_weight': 0.0},
    'dual adversarial training': {},
}


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string('workdir', None, 'Folder of the study.', flag_values=values)
    flags.DEFINE_string('data', 'digits', 'The data set.', flag_values=values)
    flags.DEFINE_integer('seeds', 3, 'Runs of each method.', 1, flag_values=values)
    flags.DEFINE_integer('steps', 1200, 'Training steps of a run.', 1, flag_values=values)
    flags.DEFINE_list('radii', ['.25', '.5', '1'], 'Of the attacks.', flag_values=values)
    flags.DEFINE_integer('attacked', 360, 'Test examples to attack.', 1, flag_values=values)
    flags.DEFINE_integer('attack_steps', 50, 'Steps of each attack.', 1, flag_values=values)
    flags.DEFINE_integer('refine', 10, 'Steps of the refinement.', 1, flag_values=values)
    asked.define_rows(values)
    flags.mark_flag_as_required('workdir', values)


def measure(
    experiment: Experiment, state: TrainState, radii: list[float], values: Any, refine: int
) -> dict[str, float]:
    """Accuracy on all test images, and under attack of some; with `refine`, also after as many
    steps."""
    found = predict.predict_dataset(experiment.predict, state.eval_params, experiment.test)
    result = {'accuracy': calibration.accuracy(found['logits'], experiment.test.y)}
    for prefix, steps in (('', 0), ('refined ', refine)):
        if prefix and not refine:
            continue
        accuracy, _ = robust_accuracy(
            experiment,
            state,
            'l2',
            radii,
            examples=values.attacked,
            steps=values.attack_steps,
            refine=steps,
        )
        result |= {f'{prefix}{radius:g}': share for radius, share in accuracy.items()}
    return result


def run(values: Any) -> None:
    """Train what is missing, write and print."""
    workdir, radii = pathlib.Path(values.workdir), sorted(launch.numbers(values, 'radii', above=0))
    whole = sources.datasets_of(values.data)
    found: dict[str, list[dict[str, float]]] = {}
    large = whole.train.x.shape[1] > 16
    jem, dat = (mnist_st_jem, mnist_dat) if large else (digits_st_jem, digits_dat)
    modules = {'plain': jem, 'jem': jem, 'dat': dat}
    plain_arms = PLAIN_ARMS | (SLOW_JEM if large else {})
    rows_chosen = asked.chosen(values, plain_arms | JEM_ARMS | DAT_ARMS)
    bases = {name: module.get_config() for name, module in modules.items()}
    for base in bases.values():
        settings.update(base, {'steps': values.steps, 'data.source': values.data})
        if large:
            base.network.widths, base.network.strides = (16, 32, 64, 64), (2, 1, 2, 2)
            base.optimizer.warmup = min(200, values.steps // 4)
    bases['dat'].adversary.radius = radii[-2] if len(radii) > 1 else radii[0]
    use_all_cores(*bases.values())
    for name, part in (('plain', plain_arms), ('jem', JEM_ARMS), ('dat', DAT_ARMS)):
        found |= arms.results(
            workdir / name,
            modules[name],
            bases[name],
            {arm: changes for arm, changes in part.items() if arm in rows_chosen},
            values.seeds,
            lambda seed: whole,
            partial(measure, radii=radii, values=values, refine=values.refine * (name == 'jem')),
            {
                name: getattr(values, name)
                for name in ('radii', 'attacked', 'attack_steps', 'refine')
            },
        )
    rows: dict[str, list[dict[str, float]]] = {}
    for arm, runs_of_arm in found.items():
        rows[arm] = runs_of_arm
        if arm in JEM_ARMS:
            start = 'refined '
            rows[f'{arm}, {values.refine} steps of refinement'] = [
                {name.removeprefix(start): x for name, x in run.items() if name.startswith(start)}
                | {'survived': run['survived']}
                for run in runs_of_arm
            ]
    columns = {'accuracy': 'accuracy, %'} | {
        f'{radius:g}': f'radius {radius:g}, %' for radius in (0.0, *radii)
    }
    lines = arms.table(rows, columns, percent=' '.join(columns))
    arms.show(workdir, lines)


if __name__ == '__main__':
    launch.main(run, define, __doc__)
