"""The parts of a JEM or ST-JEM run on images."""
import math
from functools import partial

from ml_collections import ConfigDict

from ebm_jax import adapt, data, objectives, replay
from ebm_jax.errors import InputError
from ebm_jax.evaluate import calibration, predict
from ebm_jax.methods.jem import jem
from ebm_jax.networks import per_example
from experiments.parts import (
    Parts,
    averaged,
    base_config,
    buffer_picture,
    kernel_of,
    prepare_of,
    require,
    shard_capacity,
    shared_fit,
    splits,
    unchanged,
)


def jem_config():
    """Settings that every JEM experiment has; an experiment file sets its own numbers on top of these."""
    config = base_config()
    # noise: of its own scale, or a temperature, see mcmc.langevin. adaptive takes a temperature, where tuning begins.
    config.sampler = ConfigDict(dict(step_size=1.0, noise=0.01, noise_is_temperature=False, momentum=0.0, num_steps=20, extra_step_every=0,
                                     adaptive=False))
    config.fresh = ConfigDict(dict(step_size=1.0, noise=0.01, noise_is_temperature=False, num_steps=200))
    config.loss = ConfigDict(dict(balanced=True, beta=1.0, include_positives=True, num_negatives=64, conditional=0.5, p_x_weight=1.0,
                                  alpha=0.0, entropy_weight=0.0))
    return config


def check(config):
    """Refuse numbers that no part would refuse by itself, by their names."""
    loss = config.loss
    require(config, {'fresh.step_size': (config.fresh.step_size > 0, 'above 0'),
                     'loss.p_x_weight': (0 <= loss.p_x_weight < math.inf, 'finite and at least 0'),
                     'loss.entropy_weight': (math.isfinite(loss.entropy_weight), 'finite')})


def image_jem(config, module_of, start=None):
    """The parts of a JEM or ST-JEM run on images.

    Args: module_of: number of classes -> linen module. start: of the chains, default U(-1, 1).
    """
    check(config)
    train, test = splits(config)
    start = start or replay.uniform_start(train.x.shape[1:])
    return jem_parts(config, module_of(train.num_classes), train, test, start, partial(prepare_of, config))


def jem_parts(config, module, train, test, start, prepare, *, picture=unchanged, **more):
    """The parts of a JEM or ST-JEM run on anything.

    Args: module: linen. start: (key, label) -> x, of the chains. prepare: training or not -> ((key, example) -> network input).
      picture: positions -> images, for grids. more: further fields of Parts.
    """
    num_classes, network = train.num_classes, per_example(module)
    method = jem(network, sampler_of(config), buffer_of(config, start, num_classes), weights=weights_of(config),
                 num_negatives=config.loss.num_negatives, num_steps=config.sampler.num_steps,
                 extra_step_every=config.sampler.extra_step_every, shards=config.shards, conditional=config.loss.conditional,
                 p_x_weight=config.loss.p_x_weight, alpha=config.loss.alpha, entropy_weight=config.loss.entropy_weight)
    predict_fn = predict.predictor(predict.classifier_view(network), prepare(training=False))
    some = data.some(test, 2000)   # for the curve during training; `evaluate` takes all

    def accuracy(state):
        return {'test_accuracy': calibration.accuracy(predict.over(predict_fn, averaged(state), some)['logits'], some.y)}

    def pictures(state):
        positions, columns = buffer_picture(state, num_classes)
        return {'buffer': (picture(positions), columns)}

    fit = dict(shared_fit(config, train, pictures), method=method, prepare=prepare(training=True), evaluate=accuracy)
    return Parts(fit, network, predict_fn, predict.CLASSIFIER_SCORES, train, test,
                 lambda params, x, label: objectives.energy_of(network.apply(params, x), label),
                 lambda params, key, label: start(key, label), {}, config.fresh,
                 by_class=True, unlabelled=True, picture=picture, **more)


def sampler_of(config):
    c = config.sampler
    if not c.adaptive:
        return adapt.fixed(kernel_of(c, momentum=c.momentum))
    if not c.noise_is_temperature or c.noise <= 0:
        raise InputError('the adaptive sampler needs --config.sampler.noise_is_temperature=true and a noise > 0')
    return adapt.adaptive(c.step_size, c.noise ** -0.5, momentum=c.momentum)


def buffer_of(config, start, num_classes):
    """One shard of the buffer: in blocks by class where some chains are conditional."""
    capacity, restart = shard_capacity(config), config.buffer.restart
    if config.loss.conditional > 0:
        return replay.class_conditional(start, capacity, num_classes, unlabelled=1 - config.loss.conditional, restart=restart)
    return replay.persistent(start, capacity, restart=restart)


def weights_of(config):
    if config.loss.balanced:
        return partial(objectives.balanced, beta=config.loss.beta, include_positives=config.loss.include_positives)
    return objectives.uniform
