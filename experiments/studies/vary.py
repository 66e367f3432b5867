"""What settings do to a hybrid classifier: accuracy, calibration, certainty, samples.

    python -m experiments.studies.vary --workdir=runs/alphas --steps=1200 --seeds=5 \\
        --vary=loss.alpha=0 --vary=loss.alpha=0.5 --vary=loss.alpha=1
    python -m experiments.studies.vary --workdir=runs/weight --experiment=cifar10_small_st_jem \\
        --vary=loss.p_x_weight=1 --vary='loss.p_x_weight=0.1 loss.beta=0.2'

A row for each --vary, whose settings are separated by spaces, on top of the experiment's own, with
every seed. Measured on a part cut from training (--part=validation), on which a setting may be
chosen, or on the test images. Samples are fresh conditional ones, recognised by a support vector
machine fitted to the training images. Writes arms.json and table.md; rerunning continues.
"""

import functools
import pathlib
from typing import Any

import jax
import numpy as np
from absl import flags
from sklearn.pipeline import Pipeline

from ebm_jax.evaluate import predict, samples
from ebm_jax.images import as_uint8
from ebm_jax.train import TrainState
from experiments.common import launch
from experiments.common.cores import use_all_cores
from experiments.common.experiment import Experiment
from experiments.families.jem import JemData, JemSettings
from experiments.studies import arms, asked


def define(values: Any) -> None:
    """The flags."""
    asked.define_study(values, 'digits_st_jem')
    flags.mark_flag_as_required('vary', values)


def of_images(config: Any) -> bool:
    """Whether a run is a JEM or ST-JEM of images."""
    return isinstance(config, JemSettings) and isinstance(config.data, JemData)


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
    module, base = asked.base_of(values, of_images)
    if values.steps:
        base.optimizer.warmup = min(base.optimizer.warmup, values.steps // 4)
    varied = asked.rows(base, values.vary)
    use_all_cores(*(arms.configured(base, changes) for changes in varied.values()))
    workdir, (whole, datasets) = pathlib.Path(values.workdir), asked.parts(values)

    @functools.cache  # fitted once, and only where something is measured
    def judge():
        return samples.fit_reference_classifier(whole.train)

    found = arms.results(
        workdir,
        module,
        base,
        varied,
        values.seeds,
        datasets,
        lambda experiment, state: measure(experiment, state, judge()),
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
