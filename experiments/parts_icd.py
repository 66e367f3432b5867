"""The parts of an improved-contrastive-divergence run on images.

Images are in [-1, 1] here as everywhere in the library, and in [0, 1] in the release: its step size s and noise n are 4 s and 2 n here,
with the same chain (x = 2 u - 1, and a gradient in x is half of one in u).
"""
import math
from functools import partial

import numpy as np
from ml_collections import ConfigDict

from ebm_jax import augment, data, objectives, replay
from ebm_jax.errors import InputError
from ebm_jax.evaluate import predict
from ebm_jax.evaluate.attributes import ATTRIBUTES, relabelled, thirds
from ebm_jax.methods.icd import icd
from ebm_jax.networks import MultiScaleEnergy, per_example, spectral, standardised
from ebm_jax.types import UNLABELLED
from experiments.figures_icd import kl_cost, kl_gradient_ratio
from experiments.parts import (
    Parts,
    base_config,
    buffer_picture,
    kernel_of,
    marginal_of,
    prepare_of,
    require,
    shard_capacity,
    shared_fit,
    splits,
)

BOUNDS = (-1.0, 1.0)
KERNEL = dict(bounds=BOUNDS, noise_first=True)
BUFFERS = {'first_in_first_out': replay.first_in_first_out, 'reservoir': replay.reservoir, 'persistent': replay.persistent}
REWEIGHT = {'standardised': standardised, 'spectral': spectral, 'plain': lambda kernel: kernel}


def icd_config():
    """Settings that every ICD experiment has; an experiment file sets its own numbers on top of these."""
    config = base_config()
    # label: what a conditional energy is conditioned on, class, stroke or slant. leave_out: classes that training never sees; the others
    # are numbered anew.
    config.data.update(dict(noise=0.0, label='class', leave_out=()))
    config.optimizer.update(dict(learning_rate=2e-4, b1=0.0, b2=0.9, clip_norm=0.5, decay_to=1.0))
    config.sampler = ConfigDict(dict(step_size=400.0, noise=0.002, noise_is_temperature=False, num_steps=40))
    # Fresh chains: `transition` before every `every` steps, none in the last `plain`.
    config.fresh = ConfigDict(dict(step_size=400.0, noise=0.002, noise_is_temperature=False, num_steps=400, every=20, plain=80))
    config.buffer.update(dict(capacity=10_000, restart=0.001, kind='first_in_first_out'))
    # Probabilities, but for resized_crop (on or off) and jitter_strength (a factor on brightness, contrast, saturation and hue).
    config.transition = ConfigDict(dict(resized_crop=False, flip=False, jitter=0.0, jitter_strength=1.0, grayscale=0.0, blur=0.0,
                                        affine=0.0, elastic=0.0))
    # energy_limit: the run has diverged where |mean E(x+)| exceeds it.
    config.loss = ConfigDict(dict(num_negatives=64, kl_weight=1.0, kl_steps=1, kl_chains=64, kernel_entropy=False, entropy_weight=0.3,
                                  population=104, population_after=1000, l2_weight=1.0, conditional=False, from_data=False,
                                  energy_limit=10.0))
    config.network = ConfigDict(dict(width=64, stages=(1, 2, 4, 8), scales=3, plain=True, reweight='standardised', norm=True,
                                     attention_after=0, stem_stride=1))
    return config


def check(config):
    """Refuse what no part would refuse by itself, by its name."""
    loss, names = config.loss, lambda table: f'one of {", ".join(table)}'
    require(config, {
        'data.label': (config.data.label in ('class', *ATTRIBUTES), names(('class', *ATTRIBUTES))),
        'buffer.kind': (config.buffer.kind in BUFFERS, names(BUFFERS)),
        'network.reweight': (config.network.reweight in REWEIGHT, names(REWEIGHT)),
        'loss.kl_weight': (0 <= loss.kl_weight < math.inf, 'finite and at least 0'),
        'loss.entropy_weight': (0 <= loss.entropy_weight < math.inf, 'finite and at least 0'),
        'loss.l2_weight': (0 <= loss.l2_weight < math.inf, 'finite and at least 0'),
        'loss.energy_limit': (loss.energy_limit > 0, 'above 0'),
        'fresh.step_size': (config.fresh.step_size > 0, 'above 0'), 'fresh.every': (config.fresh.every >= 1, 'at least 1'),
        'fresh.plain': (config.fresh.plain >= 0, 'at least 0')})


def image_icd(config):
    """The parts of an ICD run on images."""
    check(config)
    train, test, held_out = labelled_splits(config)
    shape, classes = train.x.shape[1:], train.num_classes
    by_class = config.loss.conditional
    network = network_of(config, classes)
    start = replay.uniform_start(shape, *BOUNDS)
    transition = transition_of(config.transition, shape)
    method = method_of(config, network, buffer_of(config, start, classes), transition)
    energy_fn = energy_of(network, by_class)
    fit = dict(shared_fit(config, train, lambda state: {'buffer': buffer_picture(state, classes if by_class else 0)}), method=method,
               prepare=prepare_of(config, training=True), limits={'s_positives': config.loss.energy_limit},
               show=('loss', 's_gap', 'loss/kl', 'grad_norm'))
    view = predict.energy_view(marginal_of(energy_fn, classes) if by_class else lambda params, x: energy_fn(params, x, UNLABELLED))
    return Parts(fit, network, predict.predictor(view, prepare_of(config, training=False)), predict.ENERGY_SCORES, train, test, energy_fn,
                 lambda params, key, label: start(key, label), KERNEL,
                 config.fresh, by_class, not by_class, transition, (kl_gradient_ratio, partial(kl_cost, build=image_icd)),
                 own_sets={'held_out': lambda: held_out} if held_out is not None else {})


def labelled_splits(config):
    """(train, test, held out): the classes that the run may see, under the labels that it is conditioned on; the left-out test images."""
    train, test = splits(config)
    held_out, left_out = None, list(config.data.leave_out)
    if left_out:
        held_out = data.of_classes(test, left_out)
        train, test = (data.of_classes(examples, left_out, keep=False) for examples in (train, test))
        remaining = np.unique(train.y)   # numbered anew, so that no class is without examples
        train, test = (examples._replace(y=np.searchsorted(remaining, examples.y).astype(np.int32)) for examples in (train, test))
    if config.data.label != 'class':
        if train.x.shape[-1] != 1:
            raise InputError(f'--config.data.label={config.data.label} is measured on grey images, but {train.name} has '
                             f'{train.x.shape[-1]} channels')
        edges = thirds(ATTRIBUTES[config.data.label](train.x))
        train, test = (relabelled(examples, config.data.label, edges) for examples in (train, test))
    return train, test, held_out


def network_of(config, classes):
    c = dict(config.network)
    rest = REWEIGHT['spectral' if c['reweight'] == 'spectral' else 'plain']   # spectral control is of every convolution or of none
    return per_example(MultiScaleEnergy(**{**c, 'reweight': REWEIGHT[c['reweight']], 'reweight_rest': rest,
                                           'attention_after': c['attention_after'] or None,
                                           'num_classes': classes if config.loss.conditional else 0}))


def buffer_of(config, start, classes):
    """One shard of the buffer: in blocks by class where chains are conditional, else as named."""
    capacity, restart = shard_capacity(config), config.buffer.restart
    if config.loss.conditional:
        return replay.class_conditional(start, capacity, classes, unlabelled=0.0, restart=restart)
    return BUFFERS[config.buffer.kind](start, capacity, restart=restart)


def method_of(config, network, buffer, transition):
    c = config.loss
    return icd(network, kernel_of(config.sampler, **KERNEL), buffer, num_negatives=c.num_negatives,
               num_steps=config.sampler.num_steps, transition=transition, kl_weight=c.kl_weight, kl_steps=c.kl_steps, kl_chains=c.kl_chains,
               entropy=objectives.kernel_entropy if c.kernel_entropy else objectives.nearest_neighbour_entropy,
               entropy_weight=c.entropy_weight, population=c.population, population_after=c.population_after, l2_weight=c.l2_weight,
               conditional=c.conditional, from_data=c.from_data, shards=config.shards)


def energy_of(network, by_class):
    """(params, x, label) -> the SUM over scales, which is what chains descend."""
    if by_class:
        return lambda params, x, label: network.apply(params, x, label).sum()
    return lambda params, x, label: network.apply(params, x).sum()


def transition_of(c, shape):
    """The chain's transition by config.transition, or None. In the order of the release; affine and elastic come first."""
    colour = c.jitter or c.grayscale
    if colour and shape[-1] != 3:
        raise InputError(f'--config.transition.jitter and grayscale need RGB images, these have {shape[-1]} channels: set them to 0')
    s = c.jitter_strength
    steps = [(c.affine, augment.random_affine()), (c.elastic, augment.elastic()), (float(c.resized_crop), augment.random_resized_crop()),
             (c.jitter, augment.colour_jitter(0.8 * s, 0.8 * s, 0.8 * s, min(0.4 * s, 0.5))), (c.grayscale, augment.grayscale),
             (c.blur, augment.gaussian_blur())]
    steps = [step if probability == 1 else augment.sometimes(probability, step) for probability, step in steps if probability]
    steps += [augment.random_flip] if c.flip else []
    return augment.chain(*steps) if steps else None
