"""What the experiments share: data by name, optimiser, and the parts of a JEM run on images."""
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from ebm_jax import adapt, augment, data, mcmc, objectives, replay
from ebm_jax.errors import InputError
from ebm_jax.evaluate import calibration, predict
from ebm_jax.methods.jem import jem
from ebm_jax.networks import per_example
from ebm_jax.train import init_state
from ebm_jax.types import UNLABELLED


class Parts(NamedTuple):
    """An experiment, built: what `fit` takes, and what evaluation and sampling need."""
    fit: dict              # keyword arguments of fit, all but workdir
    network: Any
    predict: Any           # (params, key, raw examples) -> evaluate.predict.Predictions
    train: data.Examples
    test: data.Examples
    energy_fn: Any         # (params, x, label) -> scalar
    start: Any             # (key, label) -> x: where chains begin
    kernel: Any            # of fresh chains
    fresh_steps: int

    def state_shapes(self):
        """The shapes of the run's TrainState."""
        keys = ('method', 'optimizer', 'prepare')
        return jax.eval_shape(lambda: init_state(jax.random.key(0), *(self.fit[k] for k in keys), self.fit['batch_at'](0),
                                                 ema=self.fit['ema']))


def load(spec, split):
    """Examples by name: 'digits', 'npz:FILE', 'folder:FOLDER', 'tfds:NAME' or 'tfds:NAME@FOLDER'."""
    kind, _, where = spec.partition(':')
    if kind == 'digits' and not where:
        return data.digits(split)
    if kind == 'npz' and where:
        return data.npz(where, split)
    if kind == 'folder' and where:
        return data.folder(where, split)
    if kind == 'tfds' and where:
        name, _, folder = where.partition('@')
        return data.tfds(name, split, folder or None)
    raise InputError(f'unknown data {spec!r}: give digits, npz:FILE, folder:FOLDER, tfds:NAME or tfds:NAME@FOLDER')


def outsiders(spec, test):
    """An out-of-distribution set: a change of the test set by name (rotated, inverted, noise, mixed), or any data source."""
    changes = {'rotated': data.rotated, 'inverted': data.inverted, 'noise': data.uniform_noise, 'mixed': data.mixed}
    examples = changes[spec](test) if spec in changes else load(spec, 'test')
    if examples.x.shape[1:] != test.x.shape[1:]:
        raise InputError(f'out-of-distribution set {spec!r} has images of shape {list(examples.x.shape[1:])}, but the model was trained '
                         f'on {list(test.x.shape[1:])}: bring it to that size first')
    return examples


def jem_config():
    """Settings that every JEM experiment has; an experiment file sets its own numbers on top of these."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 1000
    config.batch_size = 64
    config.shards = 8                   # of chains; devices must divide it
    config.log_every, config.checkpoint_every, config.picture_every, config.evaluate_every = 50, 500, 500, 500
    config.data = ConfigDict(dict(source='digits', noise=0.03, crop=0, flip=False))
    config.ood = ConfigDict(dict(rotated='rotated', inverted='inverted', noise='noise', mixed='mixed'))
    # Linear warm-up, then a cosine to decay_to of the rate at decay_steps; with milestones times `drop` at each instead.
    config.optimizer = ConfigDict(dict(learning_rate=1e-3, warmup=50, decay_steps=1000, decay_to=0.05, milestones=(), drop=1.0,
                                       b1=0.9, b2=0.999, clip_norm=0.0, ema=0.99))
    # noise: of its own scale, or a temperature, see mcmc.langevin. adaptive takes a temperature, where tuning begins.
    config.sampler = ConfigDict(dict(step_size=1.0, noise=0.01, noise_is_temperature=False, momentum=0.0, num_steps=20, extra_step_every=0,
                                     adaptive=False))
    config.fresh = ConfigDict(dict(step_size=1.0, noise=0.01, noise_is_temperature=False, num_steps=200))
    config.buffer = ConfigDict(dict(capacity=2048, restart=0.05))
    config.loss = ConfigDict(dict(balanced=True, beta=1.0, include_positives=True, num_negatives=64, conditional=0.5, p_x_weight=1.0,
                                  alpha=0.0, entropy_weight=0.0))
    return config


def check(config):
    """Refuse numbers that no part would refuse by itself, by their names."""
    o, loss = config.optimizer, config.loss
    requirements = {
        'seed': (config.seed >= 0, 'at least 0'), 'batch_size': (config.batch_size >= 1, 'at least 1'),
        'shards': (config.shards >= 1, 'at least 1'), 'evaluate_every': (config.evaluate_every >= 0, 'at least 0 (0: never)'),
        'data.crop': (config.data.crop >= 0, 'at least 0'), 'fresh.num_steps': (config.fresh.num_steps >= 1, 'at least 1'),
        'optimizer.learning_rate': (0 < o.learning_rate < math.inf, 'finite and above 0'),
        'optimizer.warmup': (o.warmup >= 0, 'at least 0'),
        'optimizer.decay_steps': (bool(o.milestones) or o.decay_steps > o.warmup, 'above optimizer.warmup'),
        'optimizer.ema': (0 <= o.ema < 1, 'in [0, 1)'), 'loss.p_x_weight': (0 <= loss.p_x_weight < math.inf, 'finite and at least 0'),
        'loss.alpha': (math.isfinite(loss.alpha), 'finite'), 'loss.entropy_weight': (math.isfinite(loss.entropy_weight), 'finite')}
    values = config.to_dict()
    for name, (fine, must) in requirements.items():
        if not fine:
            group, _, key = name.rpartition('.')
            raise InputError(f'--config.{name} must be {must}, got {(values[group] if group else values)[key]}')


def learning_rate_of(config):
    """step -> learning rate."""
    c = config.optimizer
    if c.milestones:
        after = optax.piecewise_constant_schedule(c.learning_rate, {int(step) - c.warmup: c.drop for step in c.milestones})
        return optax.join_schedules([optax.linear_schedule(0.0, c.learning_rate, c.warmup), after], [c.warmup])
    return optax.warmup_cosine_decay_schedule(0.0, c.learning_rate, c.warmup, c.decay_steps, c.learning_rate * c.decay_to)


def optimizer_of(config):
    """Adam at that rate; the norm of the gradient is clipped where clip_norm > 0."""
    c = config.optimizer
    clip = [optax.clip_by_global_norm(c.clip_norm)] if c.clip_norm > 0 else []
    return optax.chain(*clip, optax.adam(learning_rate_of(config), c.b1, c.b2))


def prepare_of(config, training):
    """uint8 image -> network input: [-1, 1], crop and flip in training, noise in training and test (JEM [code])."""
    steps = [augment.scale_pixels]
    if training and config.data.crop:
        steps.append(augment.random_crop(config.data.crop))
    if training and config.data.flip:
        steps.append(augment.random_flip)
    return augment.chain(*steps, augment.gaussian_noise(config.data.noise))


def image_jem(config, module_of, start=None):
    """The parts of a JEM or ST-JEM run on images.

    Args: module_of: number of classes -> linen module. start: of the chains, default U(-1, 1).
    """
    check(config)
    train, test = load(config.data.source, 'train'), load(config.data.source, 'test')
    shape, num_classes = train.x.shape[1:], train.num_classes
    if test.x.shape[1:] != shape or test.num_classes > num_classes:
        raise InputError(f'{config.data.source}: training images are {list(shape)} in {num_classes} classes, test images '
                         f'{list(test.x.shape[1:])} in {test.num_classes}: both splits must agree')
    if train.x.shape == test.x.shape and np.array_equal(train.x, test.x):
        raise InputError(f'{config.data.source} has no test split of its own: give x_train and x_test, or the folders train and test')
    network = per_example(module_of(num_classes))
    start = start or replay.uniform_start(shape)
    method = jem(network, sampler_of(config), buffer_of(config, start, num_classes), weights=weights_of(config),
                 num_negatives=config.loss.num_negatives, num_steps=config.sampler.num_steps,
                 extra_step_every=config.sampler.extra_step_every, shards=config.shards, conditional=config.loss.conditional,
                 p_x_weight=config.loss.p_x_weight, alpha=config.loss.alpha, entropy_weight=config.loss.entropy_weight)
    predict_fn = predict.predictor(network, prepare_of(config, training=False))
    some = data.some(test, 2000)   # for the curve during training; `evaluate` takes all

    def accuracy(state):
        return {'test_accuracy': calibration.accuracy(predict.over(predict_fn, averaged(state), some).logits, some.y)}

    fit = dict(method=method, optimizer=optimizer_of(config), prepare=prepare_of(config, training=True), seed=config.seed,
               batch_at=lambda step: data.batch_at(train, step, config.batch_size, config.seed), steps=config.steps,
               ema=config.optimizer.ema, log_every=config.log_every, checkpoint_every=config.checkpoint_every,
               picture_every=config.picture_every, evaluate_every=config.evaluate_every,
               pictures=lambda state: {'buffer': buffer_picture(state, num_classes)},
               evaluate=accuracy)
    return Parts(fit, network, predict_fn, train, test, lambda params, x, label: objectives.energy_of(network.apply(params, x), label),
                 start, kernel_of(config.fresh), config.fresh.num_steps)


def kernel_of(c, momentum=0.0):
    """The Langevin kernel of config.sampler or config.fresh."""
    return mcmc.langevin(c.step_size, **{'temperature' if c.noise_is_temperature else 'noise_scale': c.noise}, momentum=momentum)


def sampler_of(config):
    c = config.sampler
    if not c.adaptive:
        return adapt.fixed(kernel_of(c, c.momentum))
    if not c.noise_is_temperature or c.noise <= 0:
        raise InputError('the adaptive sampler needs --config.sampler.noise_is_temperature=true and a noise > 0')
    return adapt.adaptive(c.step_size, c.noise ** -0.5, momentum=c.momentum)


def buffer_of(config, start, num_classes):
    """One shard of the buffer: in blocks by class where some chains are conditional."""
    capacity, restart = -(-config.buffer.capacity // config.shards), config.buffer.restart   # at least the capacity in all
    if config.loss.conditional > 0:
        return replay.class_conditional(start, capacity, num_classes, unlabelled=1 - config.loss.conditional, restart=restart)
    return replay.persistent(start, capacity, restart=restart)


def weights_of(config):
    if config.loss.balanced:
        return partial(objectives.balanced, beta=config.loss.beta, include_positives=config.loss.include_positives)
    return objectives.uniform


def averaged(state):
    """The parameters to evaluate: their moving average where one is kept."""
    return state.ema_params or state.params


def buffer_picture(state, num_classes, per_class=10):
    """(images, columns): chains of the buffer, a column for each class and for p(x), the oldest of each first."""
    buffer = state.chains.buffer
    position, label, age = (np.asarray(leaf).reshape(-1, *leaf.shape[2:]) for leaf in (buffer.position, buffer.label, buffer.age))
    of_kind = {kind: np.flatnonzero((label == kind) & (age >= 0)) for kind in (*range(num_classes), UNLABELLED)}
    oldest = [entries[np.argsort(-age[entries], kind='stable')] for entries in of_kind.values() if len(entries)]
    if len(oldest) == 1:
        return position[oldest[0][:10 * per_class]], 10
    rows = min(per_class, *map(len, oldest))
    return position[np.stack([entries[:rows] for entries in oldest], 1).reshape(-1)], len(oldest)
