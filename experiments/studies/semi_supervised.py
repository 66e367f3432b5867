"""Few labels: semi-supervised ST-JEM beside the classifier alone and scikit-learn.

    python -m experiments.studies.semi_supervised --workdir=runs/few
    python -m experiments.studies.semi_supervised --workdir=runs/few_mnist \\
        --data=npz:data/mnist.npz --train=5000

The settings are those of `digits_semi_st_jem`, for images beyond 16x16 of `mnist_semi_st_jem`.
Every method sees the same labels (another draw for each seed) and, but for the classifier alone and
logistic regression, all images. Accuracy is measured on the test images, or with --part=validation
on a part cut from training. Writes arms.json and table.md; rerunning continues.
"""

import pathlib
import warnings
from typing import Any

import numpy as np
from absl import flags
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from ebm_jax import data
from ebm_jax.evaluate import predict
from ebm_jax.images import as_float
from ebm_jax.train import TrainState
from experiments import digits_semi_st_jem, mnist_semi_st_jem
from experiments.common import launch, settings
from experiments.common.cores import use_all_cores
from experiments.common.experiment import Experiment
from experiments.common.sources import Datasets
from experiments.studies import arms, asked

ARMS: dict[str, dict[str, Any]] = {
    'the classifier alone': {
        'loss.p_x_weight': 0.0,
        'loss.alpha': 0.0,
        'loss.entropy_weight': 0.0,
    },
    'p(x) over all, alpha 0': {'loss.alpha': 0.0, 'loss.entropy_weight': 0.0},
    'and mutual information of the labelled, alpha 1': {'loss.entropy_weight': 0.0},
    'and its entropy form over all, weight .3': {},
    'and its entropy form over all, weight 1': {'loss.entropy_weight': 1.0},
}


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string('workdir', None, 'Folder of the study.', flag_values=values)
    flags.DEFINE_string('data', 'digits', 'The data set.', flag_values=values)
    flags.DEFINE_integer(
        'per_class', 0, "Labels of each class; 0: the experiment's.", 0, flag_values=values
    )
    flags.DEFINE_integer('seeds', 5, 'Runs of each method.', 1, flag_values=values)
    flags.DEFINE_integer(
        'steps', 0, "Training steps of a run; 0: the experiment's.", 0, flag_values=values
    )
    asked.define_rows(values)
    asked.define_part(values, 'test')
    flags.mark_flag_as_required('workdir', values)


def measure(experiment: Experiment, state: TrainState) -> dict[str, float]:
    """Accuracy and calibration."""
    found = predict.predict_dataset(experiment.predict, state.eval_params, experiment.test)
    return arms.classification(found, experiment.test.y)


def of_scikit_learn(datasets: Datasets, known: np.ndarray) -> dict[str, float]:
    """{method: accuracy}. The width of the kernel is chosen among four by how well the labels that
    are known are found again from the others (leave one fold out)."""
    train, test = datasets.train, datasets.test
    x, x_test = (as_float(part.x).reshape(len(part.x), -1) for part in (train, test))
    hidden = data.labels_hidden(train, known).y

    def spread(gamma, labels):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', ConvergenceWarning)
            return LabelSpreading(gamma=gamma, max_iter=50).fit(x, labels)

    folds = np.arange(len(known)) % 5

    def found_again(gamma):
        right = 0
        for fold in range(5):
            out = known[folds == fold]
            labels = hidden.copy()
            labels[out] = -1
            right += np.sum(spread(gamma, labels).transduction_[out] == train.y[out])
        return right

    widths = [scale / x.shape[1] for scale in (0.3, 1.0, 3.0, 10.0)]
    best = max(widths, key=found_again)
    regression = LogisticRegression(max_iter=1000)
    training = SelfTrainingClassifier(regression, criterion='k_best', k_best=len(x) // 20)
    return {
        'LabelSpreading': float(np.mean(spread(best, hidden).predict(x_test) == test.y)),
        'logistic regression': float(
            regression.fit(x[known], train.y[known]).score(x_test, test.y)
        ),
        'SelfTraining of it': float(np.mean(training.fit(x, hidden).predict(x_test) == test.y)),
    }


def run(values: Any) -> None:
    """Train what is missing, write and print."""
    rows = asked.chosen(values, ARMS)
    workdir, (whole, datasets) = pathlib.Path(values.workdir), asked.parts(values)
    module = mnist_semi_st_jem if whole.train.x.shape[1] > 16 else digits_semi_st_jem
    base = module.get_config()
    per_class = values.per_class or base.data.labels_per_class
    changes = {
        'steps': values.steps or base.steps,
        'data.source': values.data,
        'data.labels_per_class': per_class,
        'batch_size': min(64, per_class * whole.train.num_classes),
    }
    settings.update(base, changes)
    use_all_cores(base)
    found = arms.results(
        workdir,
        module,
        base,
        rows,
        values.seeds,
        datasets,
        measure,
        {'part': values.part, 'train': values.train},
    )
    for seed in range(values.seeds):
        given = datasets(seed)
        known = data.few_of_each(given.train, per_class, seed)
        for name, accuracy in of_scikit_learn(given, known).items():
            found.setdefault(name, []).append({'accuracy': accuracy})
    columns = {'accuracy': 'accuracy, %', 'ece': 'ECE, %', 'survived': 'survived'}
    lines = arms.table(found, columns, percent='accuracy ece')
    arms.show(workdir, lines)


if __name__ == '__main__':
    launch.main(run, define, __doc__)
