"""What makes log p(x) of ST-JEM better than max p(y|x) against real sets? Settings x seeds.

    python -m experiments.studies.ood_ablation --workdir=runs/ood --data=npz:data/mnist.npz \\
        --ood=fashion=npz:data/fashion_mnist_test.npz --ood=textures=npz:data/dtd32.npz \\
        --ood=cifar10=npz:data/cifar10.npz

Shortened runs of experiments.mnist_st_jem. The test images are a validation part cut from training.
Near sets are printed letters (made here) and, with --leave_out=8,9, classes that training never
sees. Writes arms.json and table.md; rerunning continues.
"""

import pathlib
from functools import partial
from typing import Any

import numpy as np
from absl import flags

from ebm_jax import data
from ebm_jax.errors import InputError
from ebm_jax.evaluate import ood, predict
from ebm_jax.train import TrainState
from experiments import mnist_st_jem
from experiments.common import launch
from experiments.common.cores import use_all_cores
from experiments.common.experiment import Experiment
from experiments.common.sources import CHANGES, Datasets, load, ood_names
from experiments.studies import arms, asked

ARMS: dict[str, dict[str, Any]] = {
    'as mnist_st_jem, shortened': {},
    'alpha 0': {'loss.alpha': 0.0},
    'alpha .5': {'loss.alpha': 0.5},
    'weight of p(x) 3': {'loss.p_x_weight': 3.0},
    'weight of p(x) 10': {'loss.p_x_weight': 10.0},
    'K = 5': {'sampler.num_steps': 5},
    'K = 20': {'sampler.num_steps': 20},
    'noise of the chains .03': {'sampler.noise': 0.03},
    'noise of the data .1': {'data.noise': 0.1},
    'restart .2': {'buffer.restart': 0.2},
    'all chains on p(x)': {'loss.conditional': 0.0, 'loss.alpha': 0.0},
    'uniform weights (JEM)': {'loss.balanced': False, 'loss.alpha': 0.0},
    'beta .5': {'loss.beta': 0.5},
    'beta .5, weight 3': {'loss.beta': 0.5, 'loss.p_x_weight': 3.0},
    'beta .2': {'loss.beta': 0.2},
    'beta .1': {'loss.beta': 0.1},
    'beta .05': {'loss.beta': 0.05},
    'beta .2, K = 5': {'loss.beta': 0.2, 'sampler.num_steps': 5},
    'beta .1, K = 5': {'loss.beta': 0.1, 'sampler.num_steps': 5},
    'beta .1, restart .2': {'loss.beta': 0.1, 'buffer.restart': 0.2},
    'beta .1, 128 negatives': {'loss.beta': 0.1, 'loss.num_negatives': 128},
    'informative initialisation': {'buffer.initial': 'class_gaussian'},
    'informative initialisation, beta .2, K = 5': {
        'buffer.initial': 'class_gaussian',
        'loss.beta': 0.2,
        'sampler.num_steps': 5,
    },
    'KL term .1': {'loss.kl_weight': 0.1},
    'KL term 1': {'loss.kl_weight': 1.0},
    'KL term 1, beta .2, K = 5': {
        'loss.kl_weight': 1.0,
        'loss.beta': 0.2,
        'sampler.num_steps': 5,
    },
    'beta .1, entropy': {'loss.beta': 0.1, 'loss.entropy_weight': 0.3},
}
SCORES = {'log_px': 'log p(x)', 'max_py': 'max p(y given x)'}


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string('workdir', None, 'Folder of the study.', flag_values=values)
    flags.DEFINE_string('data', 'npz:data/mnist.npz', 'The data set.', flag_values=values)
    flags.DEFINE_multi_string('ood', [], 'NAME=DATA, further sets.', flag_values=values)
    flags.DEFINE_list(
        'leave_out', [], 'Classes that training never sees; a near set.', flag_values=values
    )
    flags.DEFINE_integer('seeds', 3, 'Runs of each setting.', 1, flag_values=values)
    flags.DEFINE_integer('steps', 600, 'Training steps of a run.', 1, flag_values=values)
    flags.DEFINE_integer('validation', 2000, 'Images cut from training.', 10, flag_values=values)
    flags.DEFINE_integer('limit', 1000, 'Images of each other set.', 10, flag_values=values)
    asked.define_rows(values)
    flags.mark_flag_as_required('workdir', values)


def base_of(steps: int) -> Any:
    """Shortened settings of mnist_st_jem, with a narrower network."""
    config = mnist_st_jem.get_config()
    config.steps, config.optimizer.warmup = steps, min(100, steps // 4)
    config.network.widths = (16, 32, 64, 64)
    return config


def measure(
    experiment: Experiment, state: TrainState, outside: dict[str, data.Examples]
) -> dict[str, float]:
    """Accuracy and calibration; AUROC of each score against each set, and their means."""
    inside = predict.predict_dataset(experiment.predict, state.eval_params, experiment.test)
    found = arms.classification(inside, experiment.test.y)
    for name, examples in outside.items():
        scores = predict.predict_dataset(experiment.predict, state.eval_params, examples, seed=1)
        for score in SCORES:
            found[f'{name}.{score}'] = ood.detection(inside[score], scores[score])['auroc']
    for score in SCORES:
        found[f'mean.{score}'] = sum(found[f'{name}.{score}'] for name in outside) / len(outside)
    return found


def run(values: Any) -> None:
    """Train what is missing, write and print."""
    workdir, rows = pathlib.Path(values.workdir), asked.chosen(values, ARMS)
    train = load(values.data, 'train')
    shape = train.x.shape[1:]
    outside = {'letters': data.matched(data.letters(values.limit, min(shape[:2])), shape)}
    for name, source in ood_names(tuple(values.ood), '--ood').items():
        if source in CHANGES or name in ('letters', 'left out', 'mean'):
            raise InputError(
                f'--ood={name}: this study takes NAME=DATA; letters, left out and mean are names '
                'of its own'
            )
        examples = data.subsample(load(source, 'test'), values.limit)
        outside[name] = data.matched(examples, shape)
    if values.leave_out:
        left_out = launch.numbers(values, 'leave_out', int, low=0)
        held = data.subsample(data.select_classes(train, left_out), values.limit)
        outside['left out'] = held
        train = data.select_classes(train, left_out, keep=False)
        train = train._replace(y=np.unique(train.y, return_inverse=True)[1].astype(np.int32))
    whole = Datasets(train=train, test=train)
    use_all_cores(base_of(values.steps))
    found = arms.results(
        workdir,
        mnist_st_jem,
        base_of(values.steps),
        rows,
        values.seeds,
        lambda seed: asked.validation(whole, values.validation, seed),
        partial(measure, outside=outside),
        {
            name: getattr(values, name)
            for name in ('data', 'ood', 'leave_out', 'validation', 'limit')
        },
    )
    columns = {'survived': 'survived', 'accuracy': 'accuracy, %', 'ece': 'ECE, %'}
    for name in (*outside, 'mean'):
        columns |= {f'{name}.{score}': f'{name}: {title}' for score, title in SCORES.items()}
    lines = arms.table(found, columns, percent='accuracy ece')
    arms.show(workdir, lines)


if __name__ == '__main__':
    launch.main(run, define, __doc__)
