"""Experiments from a method: of classifiers whose logits are energies, and of energies alone."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ebm_jax import data, model
from ebm_jax.evaluate import calibration, post_hoc, predict
from ebm_jax.spec import Sampling, classifier_spec
from ebm_jax.train import LIMITS, Pictures, Recipe, TrainState
from ebm_jax.types import Batch, Method, Network, Transition
from experiments.common.building import batches, buffer_pictures, optimizer_of, prepare_images
from experiments.common.experiment import Experiment, TrainingChains
from experiments.common.sources import Datasets, ood_names


def classifier_experiment(
    config: Any,
    datasets: Datasets,
    network: Network,
    method: Method,
    *,
    sampling: Sampling,
    prepare: Transition,
    prepare_test: Transition,
    prepare_more: Mapping[str, Transition] | None = None,
    batch_at: Callable[[int], Batch] | None = None,
    spec_changes: dict[str, Any] | None = None,
    **more: Any,
) -> Experiment:
    """The experiment of a method that trains a classifier whose logits are energies.

    Args:
      config: settings of the run: those of RunSettings, `data.noise` and `optimizer`.
      network: one example -> logits. method: how it is trained.
      sampling: how fresh samples are drawn.
      prepare, prepare_test: (key, example) -> network input; prepare_more: of further entries of a
        batch.
      batch_at: step -> batch; default: of the training examples.
      spec_changes: changes of the model's spec.
      more: further fields of Experiment.
    """
    num_classes, shape = datasets.train.num_classes, datasets.train.x.shape[1:]
    spec = classifier_spec(network, shape, num_classes, sampling)
    spec = dataclasses.replace(spec, **spec_changes or {})
    trained = model.build(spec, {'network': network})
    view, _ = trained.view()
    predict_fn = predict.predictor(view, prepare_test)
    some = data.subsample(datasets.test, 2000)  # for the curve during training

    def evaluate(state):
        found = predict.predict_dataset(predict_fn, state.eval_params, some)
        return {'test_accuracy': calibration.accuracy(found['logits'], some.y)}

    def pictures(state):
        return buffer_pictures(state, num_classes, trained.pictures, names=trained.spec.class_names)

    optimizer = config.optimizer
    recipe = Recipe(
        method=method,
        optimizer=optimizer_of(
            optimizer, optimizer.learning_rate, config.steps, optimizer.weight_decay
        ),
        batch_at=batch_at or batches(datasets.train, config.batch_size, config.seed),
        prepare=prepare,
        prepare_more=prepare_more or {},
        ema=optimizer.ema,
        pictures=pictures,
        evaluate=evaluate,
        description=trained.spec.to_json(),
    )
    return Experiment(
        recipe=recipe,
        model=trained,
        datasets=datasets,
        predict=predict.predictor(post_hoc.with_features(view, network), prepare_test),
        scores=predict.CLASSIFIER_SCORES,
        input_noise=config.data.noise,
        ood=ood_names(config.ood),
        **more,
    )


def energy_experiment(
    config: Any,
    datasets: Datasets,
    trained: model.Model,
    method: Method,
    *,
    limits: Mapping[str, float] = LIMITS,
    show: tuple[str, ...] = ('loss', 's_gap', 'grad_norm'),
    chains: TrainingChains | None = None,
    pictures: Callable[[TrainState], Pictures] | None = None,
    prepare_test: Transition | None = None,
) -> Experiment:
    """The experiment of a method that trains an energy without a classifier.

    Args:
      config: settings of the run: those of RunSettings, `data` and `optimizer`.
      trained: the model. method: how it is trained.
      limits: of metrics, beyond which the run has diverged. show: metrics on the progress bar.
      chains: those of training, where they outlive a step.
      pictures: what to show while it trains; default: the chains of the replay buffer.
      prepare_test: (key, example) -> network input where scores are computed; default: as
        config.data says, without crop and flip.
    """
    c, picture_classes = config.optimizer, 0
    if trained.spec.conditional:
        picture_classes = datasets.train.num_classes
    recipe = Recipe(
        method=method,
        optimizer=optimizer_of(c, c.learning_rate, config.steps, c.weight_decay),
        batch_at=batches(datasets.train, config.batch_size, config.seed),
        prepare=prepare_images(config.data.noise, config.data.crop, config.data.flip),
        ema=c.ema,
        limits=limits,
        pictures=pictures or (lambda state: buffer_pictures(state, picture_classes)),
        show=show,
        description=trained.spec.to_json(),
    )
    view, scores = trained.view()
    if not trained.spec.conditional:
        view = post_hoc.with_features(view, trained.networks['network'])
    return Experiment(
        recipe=recipe,
        model=trained,
        datasets=datasets,
        predict=predict.predictor(view, prepare_test or prepare_images(config.data.noise)),
        scores=scores,
        input_noise=config.data.noise,
        chains=chains,
        ood=ood_names(config.ood),
    )
