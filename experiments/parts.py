"""What all experiments share: data by name, settings that every run has, optimiser, pictures. A family of methods builds its parts on
these, see parts_jem.py, parts_icd.py and parts_dual_mcmc.py.
"""
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from ebm_jax import augment, data, mcmc
from ebm_jax.apply.sample import sample
from ebm_jax.compose import any_of
from ebm_jax.errors import InputError
from ebm_jax.guard import Remedy
from ebm_jax.train import init_state
from ebm_jax.types import UNLABELLED
from experiments.launch import flatten


def unchanged(x):
    return x


class Parts(NamedTuple):
    """An experiment, built: what `fit` takes, and what evaluation and sampling need."""
    fit: dict              # keyword arguments of fit, all but workdir
    network: Any           # the Network, or {name: Network}
    predict: Callable      # (params, key, raw examples) -> {name: values}, see evaluate.predict
    scores: dict           # {name of a score in that: its meaning}; the first is the energy's
    train: data.Examples
    test: data.Examples
    energy_fn: Callable | None   # (params, x, label) -> scalar
    start: Callable        # (params, key, label) -> x: where chains begin
    kernel_options: dict   # of every Langevin kernel of the run, beside its scales, see mcmc.langevin
    fresh: ConfigDict      # settings of fresh chains
    by_class: bool         # energy_fn takes classes
    unlabelled: bool       # energy_fn takes UNLABELLED
    transition: Any = None           # of fresh chains, see apply.sample
    own_figures: tuple = ()          # functions (workdir, config, parts, state) -> (figures, lines), run by evaluate
    model: Any = None                # apply.latent.LatentModel of runs with a generator
    stages: dict = {}                # {name: steps, None for all}: stages of fresh chains that evaluate measures, too
    picture: Callable = unchanged    # what the network sees, [N, H, W, C] -> images in [-1, 1] for grids
    own_sets: dict = {}              # {name: () -> data.Examples}: out-of-distribution sets that only this run has
    speech: Any = None               # parts_speech.Speech of runs on speech

    def state_shapes(self):
        """The shapes of the run's TrainState."""
        keys = ('method', 'optimizer', 'prepare')
        return jax.eval_shape(lambda: init_state(jax.random.key(0), *(self.fit[k] for k in keys), self.fit['batch_at'](0),
                                                 ema=self.fit['ema']))

    def kernel_at(self, step_size):
        """The Kernel of fresh chains."""
        return kernel_of(self.fresh, step_size, **self.kernel_options)

    def draw(self, key, params, labels, steps=None, **options):
        """Fresh samples, one for each label: `apply.sample` with the experiment's settings."""
        steps = self.steps(steps)
        energy_fn = self.energy_fn or (lambda params, x, label: jnp.zeros(()))   # of runs without, whose chains have no steps
        return sample(key, energy_fn, params, self.kernel_at(self.fresh.step_size), self.start, labels, steps, **self.plan(), **options,
                      description='fresh samples')

    def steps(self, wanted=None):
        """How many steps fresh chains take: as wanted or as configured; none without an energy."""
        if self.energy_fn is None:
            return 0
        return self.fresh.num_steps if wanted is None else wanted

    def plan(self):
        """When fresh chains pass the transition: keyword arguments of `apply.sample`."""
        return dict(transition=self.transition, every=self.fresh.every, plain=self.fresh.plain) if self.transition else {}


def load(spec, split):
    """Examples by name: 'digits', 'npz:FILE', 'folder:FOLDER', 'tfds:NAME[@FOLDER][?size=64&label=attributes.Male]'."""
    kind, _, where = spec.partition(':')
    if kind == 'digits' and not where:
        return data.digits(split)
    if kind == 'npz' and where:
        return data.npz(where, split)
    if kind == 'folder' and where:
        return data.folder(where, split)
    if kind == 'tfds' and where:
        place, _, query = where.partition('?')
        name, _, folder = place.partition('@')
        return data.tfds(name, split, folder or None, **tfds_options(spec, query))
    raise InputError(f'unknown data {spec!r}: give digits, npz:FILE, folder:FOLDER or tfds:NAME[@FOLDER][?size=64&label=FIELD]')


def tfds_options(spec, query):
    """'size=64&label=attributes.Male' -> keyword arguments of data.tfds."""
    options = dict(part.partition('=')[::2] for part in query.split('&') if part)
    size = options.pop('size', None)
    if set(options) - {'label'} or '' in options.values() or not (size is None or size.isdecimal() and int(size) > 0):
        raise InputError(f'{spec!r}: what follows ? must look like size=64&label=attributes.Male, either or both')
    return {**options, 'size': size and int(size)}


def splits(config):
    """(train, test) of config.data.source, checked against each other."""
    source = config.data.source
    train, test = load(source, 'train'), load(source, 'test')
    if test.x.shape[1:] != train.x.shape[1:] or test.num_classes > train.num_classes:
        raise InputError(f'{source}: training images are {list(train.x.shape[1:])} in {train.num_classes} classes, test images '
                         f'{list(test.x.shape[1:])} in {test.num_classes}: both splits must agree')
    if train.x.shape == test.x.shape and np.array_equal(train.x, test.x):
        raise InputError(f'{source} has no test split of its own: give x_train and x_test, or the folders train and test')
    return train, test


def outsiders(spec, parts):
    """An out-of-distribution set: one that the run has by itself (held_out: the classes that were left out of training), a change of the
    test set by name (rotated, inverted, noise, mixed), or any data source.
    """
    test = parts.test
    if spec in parts.own_sets:
        return parts.own_sets[spec]()
    if spec == 'held_out':
        raise InputError('held_out needs a run that left classes out of training (--config.data.leave_out)')
    changes = {'rotated': data.rotated, 'inverted': data.inverted, 'noise': data.uniform_noise, 'mixed': data.mixed}
    examples = changes[spec](test) if spec in changes else load(spec, 'test')
    if examples.x.shape[1:] != test.x.shape[1:]:
        raise InputError(f'out-of-distribution set {spec!r} has images of shape {list(examples.x.shape[1:])}, but the model was trained '
                         f'on {list(test.x.shape[1:])}: bring it to that size first')
    return examples


def base_config():
    """Settings that every experiment on images has; each family and each experiment file sets its own numbers on top of these."""
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
    config.buffer = ConfigDict(dict(capacity=2048, restart=0.05))
    # What changes each time that the run has diverged and goes back, in turn, on top of earlier changes; and by which factor. () ends it.
    config.guard = ConfigDict(dict(remedies=('new_key', 'num_steps', 'learning_rate', 'num_steps', 'learning_rate', 'step_size'),
                                   learning_rate=0.5, num_steps=2, step_size=0.5))
    return config


REMEDIES = {   # name in config.guard.remedies: the settings that it multiplies, of those that the experiment has
    'new_key': (),
    'learning_rate': ('optimizer.learning_rate', *(f'optimizer.{name}.learning_rate' for name in ('energy', 'generator', 'inference'))),
    'num_steps': ('sampler.num_steps', 'x_chain.num_steps'),
    'step_size': ('sampler.step_size', 'x_chain.step_size')}


def remedies_of(config, build):
    """guard.Remedy for each of config.guard.remedies. build: configuration -> Parts."""
    def changed(names):
        flat = flatten(config)
        there = [(name, path) for name in names for path in REMEDIES[name] if path in flat]
        for name, path in there:
            flat[path] *= config.guard[name]
        then = ConfigDict(config.to_dict())
        then.update_from_flattened_dict({path: flat[path] for _, path in there})
        return then

    tunes_itself = 'sampler' in config and config.sampler.get('adaptive', False)   # its step is part of the state, not of the settings
    names = [name for name in config.guard.remedies if not (name == 'step_size' and tunes_itself)]
    described = lambda name: name.replace('_', ' ') + (f' x {config.guard[name]:g}' if REMEDIES[name] else '')
    return [Remedy(described(name), lambda names=names[:i + 1]: build(changed(names)).fit if any(map(REMEDIES.get, names)) else {})
            for i, name in enumerate(names)]


def require(config, requirements):
    """Refuse numbers that no part would refuse by itself: {name: (fine, what it must be)}, besides those that every run has."""
    o = config.optimizer
    requirements = {
        'seed': (config.seed >= 0, 'at least 0'), 'batch_size': (config.batch_size >= 1, 'at least 1'),
        'shards': (config.get('shards', 1) >= 1, 'at least 1'), 'evaluate_every': (config.evaluate_every >= 0, 'at least 0 (0: never)'),
        'data.crop': (config.data.get('crop', 0) >= 0, 'at least 0'), 'fresh.num_steps': (config.fresh.num_steps >= 1, 'at least 1'),
        'optimizer.learning_rate': (0 < o.get('learning_rate', 1) < math.inf, 'finite and above 0'),
        'optimizer.warmup': (o.warmup >= 0, 'at least 0'),
        'optimizer.decay_steps': (bool(o.milestones) or o.decay_steps > o.warmup, 'above optimizer.warmup'),
        'optimizer.ema': (0 <= o.ema < 1, 'in [0, 1)'),
        'guard.remedies': (set(config.guard.remedies) <= set(REMEDIES), f'some of {", ".join(REMEDIES)}'),
        'guard.learning_rate': (0 < config.guard.learning_rate <= 1, 'in (0, 1]'),
        'guard.num_steps': (config.guard.num_steps >= 1, 'at least 1'),
        'guard.step_size': (0 < config.guard.step_size <= 1, 'in (0, 1]'), **requirements}
    values = config.to_dict()
    for name, (fine, must) in requirements.items():
        if not fine:
            group, _, key = name.rpartition('.')
            raise InputError(f'--config.{name} must be {must}, got {(values[group] if group else values)[key]}')
    try:
        kernel_of(config.fresh)   # made only after training
    except ValueError as error:
        raise InputError(f'--config.fresh: {error}') from error


def learning_rate_of(config, rate=None):
    """step -> learning rate, the largest being `rate` (default: the configured one)."""
    c = config.optimizer
    rate = rate or c.learning_rate
    if c.milestones:
        after = optax.piecewise_constant_schedule(rate, {int(step) - c.warmup: c.drop for step in c.milestones})
        return optax.join_schedules([optax.linear_schedule(0.0, rate, c.warmup), after], [c.warmup])
    return optax.warmup_cosine_decay_schedule(0.0, rate, c.warmup, c.decay_steps, rate * c.decay_to)


def optimizer_of(config, learning_rate=None, weight_decay=0.0):
    """Adam at that rate; the norm of the gradient is clipped where clip_norm > 0. Weight decay is added to the gradient, as PyTorch's Adam
    has it.
    """
    c = config.optimizer
    first = [optax.clip_by_global_norm(c.clip_norm)] if c.clip_norm > 0 else []
    first += [optax.add_decayed_weights(weight_decay)] if weight_decay > 0 else []
    return optax.chain(*first, optax.adam(learning_rate_of(config, learning_rate), c.b1, c.b2))


def prepare_of(config, training):
    """uint8 image -> network input: [-1, 1], crop and flip in training, noise in training and test (JEM [code])."""
    steps = [augment.scale_pixels]
    if training and config.data.crop:
        steps.append(augment.random_crop(config.data.crop))
    if training and config.data.flip:
        steps.append(augment.random_flip)
    return augment.chain(*steps, augment.gaussian_noise(config.data.noise))


def shared_fit(config, train, pictures, optimizer=None):
    """The arguments of `fit` that every experiment on images gives in the same way."""
    return dict(optimizer=optimizer or optimizer_of(config), seed=config.seed, steps=config.steps, ema=config.optimizer.ema,
                batch_at=lambda step: data.batch_at(train, step, config.batch_size, config.seed), log_every=config.log_every,
                checkpoint_every=config.checkpoint_every, picture_every=config.picture_every, evaluate_every=config.evaluate_every,
                pictures=pictures)


def noise_scale_of(c):
    """The scale of the noise of config.sampler or config.fresh, also where it is given as a temperature."""
    return (2 * c.step_size * c.noise) ** 0.5 if c.noise_is_temperature else c.noise


def kernel_of(c, step_size=None, **options):
    """The Langevin kernel of config.sampler or config.fresh, its noise of its own scale or of a temperature."""
    return mcmc.langevin(step_size or c.step_size, **{'temperature' if c.noise_is_temperature else 'noise_scale': c.noise}, **options)


def shard_capacity(config):
    """Entries of one shard's buffer, so that all together hold at least config.buffer.capacity."""
    return -(-config.buffer.capacity // config.shards)


def marginal_of(energy_fn, classes):
    """(params, x) -> -log sum_c exp(-E(x|c)), classes alike in weight and constant (our reading: ICD's OR)."""
    def marginal(params, x):
        return any_of(*(partial(energy_fn, params, label=label) for label in range(classes)))(x)
    return marginal


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
