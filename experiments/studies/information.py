"""What the weight alpha of mutual information does: accuracy, calibration, certainty, samples.

    python -m experiments.studies.information --workdir=runs/alpha
    python -m experiments.studies.information --workdir=runs/alpha_mnist \\
        --data=npz:data/mnist.npz --train=10000 --steps=600

ST-JEM with each alpha and seed, measured on a part cut from training (--part=validation), on which
a weight may be chosen, or on the test images. Samples are fresh conditional ones, recognised by a
support vector machine fitted to the training images. Writes arms.json and table.md; rerunning
continues.
"""

import pathlib
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import flags
from sklearn.pipeline import Pipeline

from ebm_jax.evaluate import predict, samples
from ebm_jax.images import as_uint8
from ebm_jax.train import TrainState
from experiments import digits_st_jem, mnist_st_jem
from experiments.common import launch, settings
from experiments.common.cores import use_all_cores
from experiments.common.experiment import Experiment
from experiments.studies import arms

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string('workdir', None, 'Folder of the study.', flag_values=values)
    flags.DEFINE_string('data', 'digits', 'The data set.', flag_values=values)
    flags.DEFINE_integer('seeds', 5, 'Runs of each alpha.', 1, flag_values=values)
    flags.DEFINE_integer('steps', 1200, 'Training steps of a run.', 1, flag_values=values)
    arms.define_part(values, 'validation')
    flags.mark_flag_as_required('workdir', values)


def measure(experiment: Experiment, state: TrainState, judge: Pipeline) -> dict[str, float]:
    """Of the classifier and of 20 fresh samples of each class."""
    found = predict.predict_dataset(experiment.predict, state.eval_params, experiment.test)
    wanted = np.repeat(np.arange(experiment.train.num_classes), 20)
    drawn = experiment.model.sample(jax.random.key(1), state.eval_params, wanted)
    images = as_uint8(np.asarray(drawn))
    return arms.classification(found, experiment.test.y) | {
        'confidence': float(found['max_py'].mean()),
        'recognised': samples.recognition_accuracy(judge, images, wanted),
        'diversity': samples.diversity(images, wanted, experiment.train)[0],
    }


def run(values: Any) -> None:
    """Train what is missing, write and print."""
    workdir, (whole, datasets) = pathlib.Path(values.workdir), arms.parts(values)
    module = mnist_st_jem if whole.train.x.shape[1] > 16 else digits_st_jem
    base = module.get_config()
    settings.update(base, {'steps': values.steps, 'data.source': values.data})
    base.optimizer.warmup = min(base.optimizer.warmup, values.steps // 4)
    use_all_cores(base)
    judge = samples.fit_reference_classifier(whole.train)
    found = arms.results(
        workdir,
        module,
        base,
        {f'alpha {alpha:g}': {'loss.alpha': alpha} for alpha in ALPHAS},
        values.seeds,
        datasets,
        partial(measure, judge=judge),
        {'part': values.part, 'train': values.train},
    )
    columns = {
        'accuracy': 'accuracy, %',
        'confidence': 'mean max p(y given x), %',
        'ece': 'ECE, %',
        'recognised': 'samples recognised, %',
        'diversity': 'diversity',
        'survived': 'survived',
    }
    lines = arms.table(found, columns, percent='accuracy confidence ece recognised')
    arms.show(workdir, lines)


if __name__ == '__main__':
    launch.main(run, define, __doc__)
