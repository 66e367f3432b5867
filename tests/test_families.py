"""Networks and kernels of one's own in every family, without touching the library."""

import dataclasses
import importlib
import json
import math
import shlex
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import ROOT

from benchmarks import made
from ebm_jax import cost, fit, mcmc, model
from ebm_jax.errors import InputError
from ebm_jax.images import as_float
from ebm_jax.spec import ModelSpec
from ebm_jax.train import init_state, make_local_step, state_shapes, trace_step
from ebm_jax.types import Kernel, Network
from experiments.common import building, runs, settings
from experiments.evaluations import fresh_samples, full
from experiments.families import dual_mcmc, icd
from experiments.families.dual_mcmc import DualSettings


def plain(outputs):
    """A linear network of two plain functions."""

    def init(key, x, *label):
        return {'w': 0.1 * jax.random.normal(key, (x.size, outputs))}

    return Network(init, lambda params, x, *label: x.reshape(-1) @ params['w'])


def own_kernel():
    """Langevin dynamics that says its name."""
    kernel = mcmc.langevin(0.1, noise_scale=0.01, noise_first=True)

    def own_step(key, state, energy_fn):
        return kernel.step(key, state, energy_fn)

    return Kernel(kernel.init, own_step)


@pytest.mark.slow
@pytest.mark.parametrize('family', ['icd', 'dual_mcmc', 'speech', 'speech_dual_mcmc'])
def test_every_family_takes_networks_and_a_kernel_of_ones_own(family):
    """Training moves the parameters of the network, by chains of the kernel (the guide's
    example has JEM)."""
    kernel = own_kernel()
    if 'speech' in family:
        pytest.importorskip('librosa', reason='the extra `speech` is not installed')
    if family == 'icd':
        config = importlib.import_module('experiments.digits_icd').get_config()
        experiment = icd.image_icd(config, network=plain(1), kernel=kernel)
    elif 'dual_mcmc' in family:
        config, shape = importlib.import_module('experiments.digits_dual_mcmc').get_config(), (8, 8)
        build = dual_mcmc.image_dual_mcmc
        if family == 'speech_dual_mcmc':
            config = importlib.import_module('experiments.spoken_digits_dual_mcmc').get_config()
            config.data.source, config.data.every, config.features.rate = 'vowels', 20, 16000
            config.loss.gap_limit = 1e4  # of linear energies
            shape = (config.data.window, config.features.bins)
            build = importlib.import_module(f'experiments.families.{family}').speech_dual_mcmc
        generator, inference = plain(math.prod(shape)), plain(2 * config.latent_dim)
        networks = {
            'energy': plain(1),
            'generator': generator._replace(
                apply=lambda params, z, *label: generator.apply(params, z).reshape(*shape, 1)
            ),
            'inference': inference._replace(
                apply=lambda params, x, *label: jnp.split(inference.apply(params, x), 2)
            ),
        }
        networks['energy'] = networks['energy']._replace(
            apply=lambda params, x, *label: (x.reshape(-1) @ params['w'])[0]
        )
        experiment = build(config, networks=networks, kernel=kernel)
    else:
        config = importlib.import_module('experiments.vowels_st_jem').get_config()
        speech = importlib.import_module('experiments.families.speech_jem')
        experiment = speech.speech_jem(config, network=plain(7), kernel=kernel)
    assert experiment.chains.make_kernel(step_size=1.0).step.__name__ == 'own_step'
    recipe = experiment.recipe
    state = init_state(jax.random.key(0), recipe)
    before = jax.device_get(state.params)
    names = {'w'} if 'dual_mcmc' not in family else {'energy', 'generator', 'inference'}
    assert set(before) == names and recipe.description['networks'] == dict.fromkeys(
        ['network'] if 'dual_mcmc' not in family else sorted(names)
    )
    step = jax.jit(make_local_step(recipe))
    for i in range(2):  # the warm-up begins at a learning rate of 0
        state, metrics = step(state, recipe.batch_at(i))
        assert metrics['healthy']
    assert not any(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.params))
    )


def test_a_method_without_a_buffer_has_no_picture_of_one():
    assert building.buffer_pictures(SimpleNamespace(chains=()), 10) == {}


SMALL_NETWORKS = {
    'jem': {'network.depth': 10, 'network.width': 1},
    'icd': {'network.width': 8, 'network.stages': (1, 2), 'network.scales': 1}
    | {'network.attention_after': 0},
    'dual_mcmc': {
        'network.energy_widths': (4,) * 4,
        'network.energy_down': (True, True, False, False),
        'network.generator_widths': (4,) * 4,
        'network.inference_widths': (4,) * 4,
        'network.inference_strides': (1, 2, 2, 2),
    },
}
ACCELERATOR = [
    'cifar10_jem',
    'cifar10_st_jem',
    'cifar10_st_jem_fast',
    'cifar10_icd',
    'cifar10_dual_mcmc',
    'celeba64_dual_mcmc',
    *(
        PAPERS_SETS := [
            'cifar100_jem',
            'cifar100_st_jem',
            'celeba64_icd',
            'celeba128_icd',
            'imagenet32_icd',
            'lsun128_icd',
            'lsun64_dual_mcmc',
            'celebahq256_dual_mcmc',
        ]
    ),
]


SMALL_CIFAR = [f'cifar10_small_{system}' for system in ('st_jem', 'jem', 'icd', 'dual_mcmc')]


@pytest.mark.parametrize('name', [*ACCELERATOR, *SMALL_CIFAR])
def test_experiments_for_accelerators_split_over_1_2_4_and_8_devices(name):
    config = importlib.import_module(f'experiments.{name}').get_config()
    for n in (1, 2, 4, 8):
        assert all(number % n == 0 for number in config.divisors()), (name, n, config.divisors())


def chains_flops(config, experiment, params):
    """2 F for each gradient of a chain in x or z, F of the network that it descends; for JEM and
    ICD also 3 F for each example of the loss."""
    x = jax.ShapeDtypeStruct(experiment.model.spec.shape, jnp.float32)
    if isinstance(config, DualSettings):
        networks = experiment.model.networks
        z = jax.ShapeDtypeStruct((config.latent_dim,), jnp.float32)
        in_x = cost.count_flops(networks['energy'].apply, params['energy'], x)
        in_z = cost.count_flops(networks['generator'].apply, params['generator'], z)
        num_x = config.loss.num_negatives * config.x_chain.num_steps
        return 2 * (in_x * num_x + in_z * config.batch_size * config.z_chain.num_steps)
    label = jax.ShapeDtypeStruct((), jnp.int32)
    of_one = cost.count_flops(experiment.model.energy_fn, params, x, label)
    examples = config.batch_size + config.loss.num_negatives
    return of_one * (2 * config.loss.num_negatives * config.sampler.num_steps + 3 * examples)


@pytest.mark.slow
@pytest.mark.parametrize('name', PAPERS_SETS)
def test_the_papers_sets_have_launchers_that_are_traced_at_full_size(name):
    """Shapes of the whole state; its memory: weights, Adam's two moments, their average where there
    is one, and the buffer; operations of a step, of which the chains take most."""
    module = importlib.import_module(f'experiments.{name}')
    assert f'python -m experiments.{name} --workdir=' in module.__doc__
    assert 'Data:' in module.__doc__ and 'not run' in module.__doc__
    config = module.get_config()
    experiment = runs.build(module, config, made.datasets(name, size=512))
    recipe = experiment.recipe
    shapes = state_shapes(recipe)
    num = cost.num_parameters(shapes.params)
    assert 6e6 < num < 120e6
    if 'jem' in name:
        assert num == 36_471_338 + 90 * 641  # WRN-28-10 with a head of 100 classes, not 10
    networks = 4 * num * (3 + (recipe.ema > 0))
    assert abs(cost.num_bytes(shapes.replace(chains=())) - networks) < 1000
    positions = 0
    if not isinstance(config, DualSettings):
        positions = 4 * config.buffer.capacity * np.prod(experiment.model.spec.shape)
    np.testing.assert_allclose(cost.num_bytes(shapes.chains), positions, rtol=1e-3)
    traced = trace_step(recipe, 1, shapes=shapes)
    ratio = cost.flops_of(traced.program) / chains_flops(config, experiment, shapes.params)
    assert 0.95 < ratio < 1.4
    assert cost.largest_array(traced.program) < 2**31


def flags_below(heading):
    """{experiment: the flags that its file names below a heading}."""
    found = {}
    for file in sorted((ROOT / 'experiments').glob('*.py')):
        _, told, rest = file.read_text().partition(f'{heading}\n\n')
        if told:
            found[file.stem] = shlex.split(rest.partition('"""')[0].replace('\\\\\n', ' '))
    return found


LAPTOP = flags_below('On a laptop, add:')
SPOKEN = ('spoken_digits_st_jem', 'spoken_digits_dual_mcmc')
ACCELERATOR = flags_below('On a GPU or TPU, where it was not run, add:')


def test_large_experiments_name_settings_for_a_laptop_and_small_ones_for_an_accelerator():
    sets = ('cifar10', 'celeba', 'imagenet', 'lsun')
    names = {file.stem for file in (ROOT / 'experiments').glob('*.py')}
    found = {name for name in names if name.startswith(sets)}
    small = {name for name in found if '_small_' in name}
    assert LAPTOP.keys() == found - small
    beside = {'mnist_st_jem', 'mnist_icd', 'mnist_dual_mcmc'}
    assert ACCELERATOR.keys() == small | beside | set(SPOKEN)


@pytest.mark.slow
@pytest.mark.parametrize('name', LAPTOP)
def test_a_laptop_needs_an_hour_at_most(name):
    """By the operations of all steps, at 30 GFLOP/s, which two cores reach in convolutions."""
    config, experiment = made.built(name, LAPTOP[name])
    traced = trace_step(experiment.recipe, 1, shapes=state_shapes(experiment.recipe))
    assert config.steps * cost.flops_of(traced.program) / 30e9 < 3600


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(ACCELERATOR.keys() - set(SPOKEN)))
def test_settings_for_accelerators_fit_eight_devices(name):
    _, experiment = made.built(name, ACCELERATOR[name])
    assert fit.check(experiment.recipe, jax.devices()[:8]).n == 8


@pytest.mark.parametrize('name', SPOKEN)
def test_settings_of_speech_for_accelerators_are_divided_by_eight_devices(name):
    _, config = made.configured(name, ACCELERATOR[name])
    assert not any(number % 8 for number in config.divisors()) and config.batch_size == 256


@pytest.mark.slow
@pytest.mark.parametrize('name', ['cifar10_st_jem_fast', 'cifar10_icd', 'cifar10_dual_mcmc'])
def test_a_step_of_each_family_is_traced_for_8_devices_before_anything_runs(name):
    module = importlib.import_module(f'experiments.{name}')
    config = module.get_config()
    family = next(
        family for family in SMALL_NETWORKS if name.removesuffix('_fast').endswith(family)
    )
    settings.update(config, SMALL_NETWORKS[family])
    recipe = runs.build(module, config, made.datasets(name, size=256)).recipe
    traced = fit.check(recipe, jax.devices()[:8])
    assert traced.n == 8 and cost.flops_of(traced.program) > 0


def test_the_refusal_of_a_number_of_devices_says_which_number_to_give():
    module = importlib.import_module('experiments.cifar10_dual_mcmc_published')
    config = module.get_config()
    settings.update(config, SMALL_NETWORKS['dual_mcmc'])
    recipe = runs.build(module, config, made.datasets('cifar10', size=256)).recipe
    with pytest.raises(InputError, match='batch of .* 100 cannot be split over 8 .* 96 or 104'):
        fit.check(recipe, jax.devices()[:8])


@pytest.mark.parametrize('name', ['digits_st_jem', 'vowels_st_jem'])
def test_chains_and_fresh_samples_begin_at_the_fitted_gaussians(name):
    """By the spec alone, as config.json keeps it: the mean of many starts is that of the class's
    training images, and the buffer of the run is filled with such starts."""
    module = importlib.import_module(f'experiments.{name}')
    config = module.get_config()
    config.buffer.initial, config.buffer.side = 'class_gaussian', 16
    experiment = runs.build(module, config)
    kept = json.loads(json.dumps(experiment.model.spec.to_json()))
    opened = model.build(ModelSpec.from_json(kept))
    keys = jax.random.split(jax.random.key(0), 2000)
    starts = jax.vmap(lambda key: opened.initial_sampler({}, key, jnp.int32(3)))(keys)
    threes = as_float(experiment.train.x[experiment.train.y == 3])[:1000]
    # clipped to [-1, 1], so a little less bright where a pixel is often white; windows of speech
    # are fitted at 16 x 16 values
    np.testing.assert_allclose(starts.mean(0), threes.mean(0), atol=0.1)
    buffer = init_state(jax.random.key(0), experiment.recipe).chains.buffer
    of_class = np.asarray(buffer.position)[np.asarray(buffer.label) == 3]
    np.testing.assert_allclose(of_class.mean(0), threes.mean(0), atol=0.35)
    assert np.abs(of_class.mean(0)).max() > 0.25  # noise would have means near 0


def test_the_report_has_words_for_every_initial_distribution():
    assert set(fresh_samples.INITIAL_WORDS) == set(model.INITIAL)


@pytest.mark.parametrize('name, noised', [('digits_density', True), ('digits_st_jem', False)])
def test_runs_at_temperature_one_are_compared_on_images_with_noise(name, noised):
    module = importlib.import_module(f'experiments.{name}')
    experiment = runs.build(module, module.get_config())
    suite = full.FullSuite(
        radii={}, attacked=8, attack_steps=2, refine=0, times=8, chains=8, bridges=3
    )
    assert ('density with noise' in full.parts_of(experiment, suite)) is noised


def test_classes_without_images_have_no_gaussian():
    module = importlib.import_module('experiments.digits_st_jem')
    config = module.get_config()
    config.buffer.initial = 'class_gaussian'
    whole = runs.build(module, config).datasets
    kept = whole.train.rows(np.flatnonzero(whole.train.y != 4))
    with pytest.raises(InputError, match=r'class_gaussian.*class 4 has 0 images.*or use uniform'):
        runs.build(module, config, dataclasses.replace(whole, train=kept))


def test_chains_without_a_step_size_have_no_recovery_by_it():
    module = importlib.import_module('experiments.digits_discrete')
    config = module.get_config()
    assert 'step_size' in config.guard.actions  # as in older runs, which open
    assert 'step_size' not in config.available_actions()
    runs.build(module, config)
