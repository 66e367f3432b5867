"""The parts of a dual-MCMC run on images in [-1, 1]."""
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, config_dict

from ebm_jax.apply import latent
from ebm_jax.errors import InputError
from ebm_jax.evaluate import predict
from ebm_jax.evaluate.samples import as_float
from ebm_jax.methods import dual_mcmc as method
from ebm_jax.networks import Generator, Inference, SpectralEnergy, per_example
from ebm_jax.record import stacked
from ebm_jax.replay import uniform_start
from ebm_jax.train import per_network
from ebm_jax.types import UNLABELLED
from experiments.figures_dual_mcmc import inpainting, reconstruction
from experiments.parts import Parts, averaged, base_config, kernel_of, marginal_of, optimizer_of, prepare_of, require, shared_fit, splits

PRESETS = {'paper': method.PAPER, 'release': method.RELEASE, 'coopnets': method.COOPNETS,
           'variational_cooperative': method.VARIATIONAL_COOPERATIVE, 'divergence_triangle': method.DIVERGENCE_TRIANGLE,
           'alternating_back_propagation': method.ALTERNATING_BACK_PROPAGATION, 'short_run': method.SHORT_RUN, 'vae': method.VAE}
NETWORKS = ('energy', 'generator', 'inference')


def dual_mcmc_config():
    """Settings that every dual-MCMC experiment has, with the release's constants; an experiment file sets its own on top."""
    config = base_config()
    del config.buffer, config.shards   # no chain outlives a step
    config.data.noise = 0.0
    config.preset = 'paper'            # one of PRESETS; what is set in `teaching` goes before it
    config.latent = 128
    # Both chains: noise of its own scale, or a temperature, see mcmc.langevin. s = .5 of the release is a step size of s^2 / 2.
    config.x_chain = ConfigDict(dict(step_size=0.125, noise=0.001, noise_is_temperature=False, num_steps=30))
    config.z_chain = ConfigDict(dict(step_size=0.005, noise=0.1, noise_is_temperature=False, num_steps=10))
    # At test time: the chain in x of fresh samples, and the chain in z, without noise (our reading: the likeliest z), num_steps of it to
    # reconstruct, inpaint_steps to fill in.
    config.fresh = ConfigDict(dict(step_size=0.08, noise=0.001, noise_is_temperature=False, num_steps=70))
    config.test_z = ConfigDict(dict(step_size=0.005, noise=0.0, noise_is_temperature=False, num_steps=10, inpaint_steps=200))
    # Fields of methods.dual_mcmc.Settings; None: as the preset has it. Steps are those of x_chain and z_chain, where the preset has them.
    config.teaching = ConfigDict({name: config_dict.placeholder(type(default)) for name, default in method.PAPER._asdict().items()
                                  if name not in ('x_steps', 'z_steps')})
    config.loss = ConfigDict(dict(num_negatives=64, conditional=False, gap_limit=1e4))
    config.network = ConfigDict(dict(energy_widths=(512, 512, 512, 512), energy_down=(True, True, False, False),
                                     generator_widths=(512, 512, 512, 512), inference_widths=(128, 256, 512, 1024),
                                     inference_strides=(1, 2, 2, 2)))
    del config.optimizer.learning_rate
    config.optimizer.update(dict(b1=0.0, b2=0.9, warmup=0))
    config.optimizer.energy = ConfigDict(dict(learning_rate=1e-4, weight_decay=0.0))
    config.optimizer.generator = ConfigDict(dict(learning_rate=3e-4, weight_decay=5e-4))
    config.optimizer.inference = ConfigDict(dict(learning_rate=1e-4, weight_decay=5e-4))
    return config


def for_small_images(config):
    """Larger rates and no weight decay, for small networks; a gap at which chains have overshot and end above the data for good."""
    for name, rate in (('energy', 5e-4), ('generator', 1e-3), ('inference', 1e-3)):
        config.optimizer[name].update(dict(learning_rate=rate, weight_decay=0.0))
    config.optimizer.b1 = 0.5
    config.loss.gap_limit = 5.0
    return config


def check(config):
    """Refuse what no part would refuse by itself, by its name."""
    require(config, {
        'preset': (config.preset in PRESETS, f'one of {", ".join(PRESETS)}'),
        'x_chain.num_steps': (config.x_chain.num_steps >= 0, 'at least 0'),
        'z_chain.num_steps': (config.z_chain.num_steps >= 0, 'at least 0'),
        'fresh.num_steps': (config.fresh.num_steps >= 0, 'at least 0'), 'fresh.step_size': (config.fresh.step_size > 0, 'above 0'),
        'test_z.num_steps': (config.test_z.num_steps >= 0, 'at least 0'),
        'test_z.inpaint_steps': (config.test_z.inpaint_steps >= 0, 'at least 0'),
        'loss.gap_limit': (config.loss.gap_limit > 0, 'above 0')})
    for name, numbers in config.network.items():
        if not numbers or min(numbers) < 1 and name != 'energy_down':
            raise InputError(f'--config.network.{name} must hold at least one number, each at least 1, got {tuple(numbers)}')
    for name in NETWORKS:
        rate, decay = config.optimizer[name].learning_rate, config.optimizer[name].weight_decay
        if not 0 < rate < math.inf or not 0 <= decay < math.inf:
            raise InputError(f'--config.optimizer.{name} needs a learning_rate above 0 and a weight_decay of at least 0, both finite, got '
                             f'{rate} and {decay}')


def settings_of(config):
    """The method's Settings: the preset with what config.teaching sets."""
    preset = PRESETS[config.preset]
    own = {name: value for name, value in config.teaching.items() if value is not None}
    return preset._replace(x_steps=preset.x_steps and config.x_chain.num_steps, z_steps=preset.z_steps and config.z_chain.num_steps, **own)


def networks_of(config, settings, shape, classes):
    """{name: Network or None}: those that the settings use."""
    c, num_classes = config.network, classes if config.loss.conditional else 0
    modules = {'energy': SpectralEnergy(c.energy_widths, c.energy_down, num_classes),
               'generator': Generator(shape, c.generator_widths, num_classes),
               'inference': Inference(config.latent, c.inference_widths, c.inference_strides, num_classes)}
    return {name: per_example(modules[name]) if used else None for name, used in method.uses(settings)[2].items()}


def image_dual_mcmc(config):
    """The parts of a dual-MCMC run on images."""
    check(config)
    train, test = splits(config)
    shape, classes, by_class = train.x.shape[1:], train.num_classes, config.loss.conditional
    settings = settings_of(config)
    networks = networks_of(config, settings, shape, classes)
    noise = uniform_start(shape)
    teacher = method.dual_mcmc(*(networks[name] for name in NETWORKS), settings, x_kernel=kernel_of(config.x_chain),
                               z_kernel=kernel_of(config.z_chain), latent=config.latent, num_negatives=config.loss.num_negatives,
                               x_start=None if settings.from_generator else noise, conditional=by_class)
    energy_fn, start, model = functions_of(config, networks, settings, noise)
    optimizer = per_network({name: optimizer_of(config, **config.optimizer[name]) for name in NETWORKS if networks[name]})
    view, scores = view_of(model, energy_fn, classes if by_class else 0)
    fit = dict(shared_fit(config, train, pictures_of(model, start, test, by_class, classes), optimizer), method=teacher,
               prepare=prepare_of(config, training=True), limits={'s_gap': config.loss.gap_limit} if settings.contrast else {},
               show=('loss', 's_gap', 'mse/data', 'mse/chain'))
    return Parts(fit, networks, predict.predictor(view, prepare_of(config, training=False)), scores, train, test, energy_fn, start,
                 {}, config.fresh, by_class, not by_class,
                 own_figures=(reconstruction, inpainting) if model else (), model=model, stages=stages_of(settings, model, energy_fn))


def stages_of(settings, model, energy_fn):
    """Fresh samples are those of the generator, or of its chains in x."""
    if not (model and settings.from_generator):
        return {}
    return {'generator': 0, 'refined': None} if energy_fn else {'generator': None}


def functions_of(config, networks, settings, noise):
    """(energy_fn or None, where fresh chains begin, LatentModel or None) of the trained networks."""
    of = (lambda label: [label]) if config.loss.conditional else (lambda label: [])
    energy, generator = networks['energy'], networks['generator']

    energy_fn = energy and (lambda params, x, label=UNLABELLED: energy.apply(params['energy'], x, *of(label)))

    def start(params, key, label):
        if generator is None or not settings.from_generator:
            return noise(key, label)
        return generator.apply(params['generator'], jax.random.normal(key, (config.latent,)), *of(label))

    model = None
    if generator:
        model = latent.LatentModel(generator, networks['inference'], energy_fn, kernel_of(config.test_z), settings.sigma,
                                   config.latent, settings.from_inference)
    return energy_fn, start, model


def view_of(model, energy_fn, classes):
    """(a view for evaluate.predict, the meaning of its scores): those that the networks at hand allow."""
    views, scores = [], {}
    if energy_fn:
        views.append(predict.energy_view(marginal_of(energy_fn, classes) if classes else energy_fn))
        scores |= predict.ENERGY_SCORES
    if model and model.inference:
        scores['joint'] = 'log p(z) + log p(x|z) at the mean of q(z|x)' + (', the largest over classes' if classes else '')
        labels = range(classes) if classes else [None]
        views.append(lambda params, x: {'joint': jnp.max(jnp.stack(
            [latent.joint_score(model, params, x, *([] if label is None else [label])) for label in labels]))})
    return lambda params, x: {name: value for view in views for name, value in view(params, x).items()}, scores


def pictures_of(model, start, test, by_class, classes):
    """state -> samples of the generator from fixed draws, and test images above their reconstructions."""
    if model is None:
        return lambda state: {}
    labels, x, of = np.arange(100) % classes, as_float(test.x[:20]), [test.y[:20]] if by_class else []
    draw = jax.jit(lambda params: jax.vmap(partial(start, params))(jax.random.split(jax.random.key(0), len(labels)), labels))
    again = jax.jit(lambda params: jax.vmap(partial(latent.reconstruct, model, params, jax.random.key(0), steps=0))(x, *of))

    def pictures(state):
        params = jax.device_get(averaged(state))   # to one device, wherever training has them
        grids = {'generator': (np.asarray(draw(params)), 10)}
        if model.inference:
            y = np.asarray(again(params))
            grids['reconstruction'] = stacked([x, y])
        return grids

    return pictures
