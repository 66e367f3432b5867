"""The command line of dual-MCMC teaching: a run, its metrics, its applications, its tables, and
mistakes."""

import dataclasses
import importlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import SHORT_DUAL_MCMC as SMALL
from commands import assert_one_sentence, in_process, succeed

import ebm_jax
from ebm_jax import data, teaching
from ebm_jax.errors import InputError
from ebm_jax.evaluate import extractor
from ebm_jax.train import state_shapes
from experiments import digits_dual_mcmc
from experiments.common import runs
from experiments.families.dual_mcmc import PRESETS, method_settings

NAME = 'experiments.digits_dual_mcmc'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'dual'
    succeed(NAME, f'--workdir={workdir}', *SMALL, '--config.loss.conditional=true', devices='8')
    return workdir


@pytest.mark.slow
def test_a_loaded_run_reconstructs_and_interpolates(trained, tmp_path):
    """Against the networks applied by hand; from the run and from its export."""
    opened, key = ebm_jax.load(trained), jax.random.key(0)
    test = data.digits('test')
    x, labels = test.x[:3], test.y[:3].astype(np.int32)
    networks, params = opened.model.networks, opened.params

    def through_q(x, label):
        mean, _ = networks['inference'].apply(params['inference'], x, label)
        return networks['generator'].apply(params['generator'], mean, label)

    expected = jax.vmap(through_q)(opened.model.to_units(x), labels)
    found = opened.reconstruct(key, x, labels, num_steps=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.allclose(opened.reconstruct(key, x, labels, num_steps=5), expected, atol=1e-5)
    paths = opened.interpolate(key, x[:1], x[1:2], num=4, labels=labels[:1], num_steps=0)
    np.testing.assert_allclose(paths[0, 0], expected[0], atol=1e-5)
    ends = jax.vmap(through_q)(opened.model.to_units(x[1:2]), labels[:1])
    np.testing.assert_allclose(paths[0, -1], ends[0], atol=1e-5)
    energies = jax.vmap(lambda x: networks['energy'].apply(params['energy'], x, 3))(
        opened.model.to_units(x)
    )
    np.testing.assert_allclose(
        opened.log_prob(x, label=3), -jnp.sum(energies.reshape(3, -1), 1), rtol=1e-5
    )
    opened.export(tmp_path / 'exported')
    written = (tmp_path / 'exported' / 'README.md').read_text()
    assert 'An energy with a generator and an inference model, of examples' in written
    images = opened.sample(key, 16, num_steps=0)
    (program,) = re.findall(r'again = (model.reconstruct.*)', written)
    again = eval(program, {'model': opened, 'jax': jax, 'images': images})
    assert again.shape == images.shape
    exported = ebm_jax.load(tmp_path / 'exported')
    np.testing.assert_array_equal(exported.reconstruct(key, x, labels, num_steps=0), found)
    for mistake, says in (
        (lambda: opened.reconstruct(key, x), 'give labels, 3 integers'),
        (lambda: opened.reconstruct(key, x, [0, -1, 2]), 'label -1 must lie in 0 to 9'),
        (lambda: opened.class_probs(x), 'not a classifier'),
        (lambda: opened.classify_sound(np.zeros(100)), 'not trained on recordings'),
        (lambda: opened.sample(key, 0), 'num must be at least 1'),
    ):
        with pytest.raises(InputError, match=says):
            mistake()


def evaluated(monkeypatch, capsys, workdir):
    monkeypatch.setattr(extractor, 'STEPS', 30)
    text = in_process(
        monkeypatch,
        capsys,
        'experiments.evaluate',
        f'--workdir={workdir}',
        '--fresh_per_class=7',
        '--resamples=5',
        '--ood=mixed=',
        '--ood=noise=',
    )
    return text, json.loads((workdir / 'summary.json').read_text())


@pytest.mark.slow
def test_evaluate_writes_the_metrics_of_three_networks(trained, monkeypatch, capsys):
    text, summary = evaluated(monkeypatch, capsys, trained)
    assert (
        set(summary['reconstruction_mse']) == {'q', 'q_refined'}
        and summary['reconstruction_mse']['q'] > 0
    )
    assert (
        summary['sample_distance']['generator']['frechet']
        != summary['sample_distance']['refined']['frechet']
    )
    assert summary['sample_distance']['refined']['frechet'] == summary['sample_distance']['frechet']
    assert (
        summary['inpainting_mse'] > 0
        and summary['seconds_per_step'] > 0
        and summary['diverged'] is False
    )
    assert 0 <= summary['conditional_sample_accuracy'] <= 1 and set(
        summary['ood_auroc']['rotated']
    ) == {'energy', 'grad_norm', 'joint', 'typicality'}
    assert 'nearest neighbour' in text and 'mean image' in text and 'from the generator' in text
    for name in (
        'generator',
        'reconstruction',
        'reconstructed',
        'inpainted',
        'fresh_conditional',
        'data',
    ):
        assert (trained / 'samples' / f'{name}.png').stat().st_size > 300, name


@pytest.mark.slow
def test_a_vae_has_no_energy_and_is_evaluated_without(tmp_path, monkeypatch, capsys):
    in_process(
        monkeypatch, capsys, NAME, f'--workdir={tmp_path}/vae', *SMALL, '--config.preset=vae'
    )
    _, summary = evaluated(monkeypatch, capsys, tmp_path / 'vae')
    assert 'conditional_sample_accuracy' not in summary and summary['inpainting_mse'] > 0
    assert (
        set(summary['ood_auroc']['rotated']) == {'joint', 'typicality'}
        and 'refined' not in summary['sample_distance']
    )
    assert (
        summary['sample_distance']['generator']['frechet'] == summary['sample_distance']['frechet']
    )
    for task in ('refine', 'inpaint'):
        arguments = ['experiments.apply', f'--workdir={tmp_path}/vae', f'--task={task}', '--num=8']
        if task == 'refine':
            assert_one_sentence(monkeypatch, capsys, 'needs an energy', *arguments)
        else:
            in_process(monkeypatch, capsys, *arguments)
    chains = 'experiments.chains', f'--workdir={tmp_path}/vae'
    assert_one_sentence(monkeypatch, capsys, 'no chains in x', *chains)
    assert_one_sentence(
        monkeypatch,
        capsys,
        'no energy',
        'experiments.compose',
        f'--all={tmp_path}/vae',
        f'--out={tmp_path}/new',
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    'preset, sets, scores',
    [
        ('alternating_back_propagation', {'generator'}, set()),
        ('short_run', set(), {'energy', 'grad_norm', 'typicality'}),
    ],
)
def test_runs_of_one_network_are_evaluated_too(preset, sets, scores, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / preset
    in_process(
        monkeypatch, capsys, NAME, f'--workdir={workdir}', *SMALL, f'--config.preset={preset}'
    )
    text, summary = evaluated(monkeypatch, capsys, workdir)
    assert {name for name in summary['sample_distance'] if name in ('generator', 'refined')} == sets
    assert set(summary['ood_auroc'].get('rotated', {})) == scores
    assert set(summary.get('reconstruction_mse', {})) == (
        {'prior', 'prior_refined'} if sets else set()
    )
    tasks = {
        'reconstruct': 'needs a generator',
        'refine': 'needs an energy',
        'scores': 'needs an energy or',
    }
    fine = {'reconstruct'} if sets else {'refine', 'scores'}
    for task, refusal in tasks.items():
        arguments = ['experiments.apply', f'--workdir={workdir}', f'--task={task}', '--num=8']
        if task in fine:
            in_process(monkeypatch, capsys, *arguments)
        else:
            assert_one_sentence(monkeypatch, capsys, refusal, *arguments)
    assert preset in in_process(
        monkeypatch, capsys, 'experiments.compare', f'--workdir={workdir}', '--out='
    )


@pytest.mark.parametrize('preset', PRESETS)
def test_every_preset_is_the_same_method_under_other_settings(preset):
    module = importlib.import_module(NAME)
    config = module.get_config()
    config.preset = preset
    # recoveries change chains in x only where there are any
    no_chain = preset in ('vae', 'divergence_triangle', 'alternating_back_propagation')
    assert ('num_steps' in config.available_actions()) == (not no_chain)
    config.teaching.sigma = 0.25
    experiment = runs.build(module, config)
    settings = method_settings(config)
    used = {name for name, yes in teaching.needs(settings).networks.items() if yes}
    assert set(state_shapes(experiment.recipe).params) == used and settings.sigma == 0.25
    model = experiment.model
    assert (experiment.chains is not None) == ('energy' in used and settings.x_steps > 0)
    if experiment.chains is not None:
        assert experiment.chains.num_steps == settings.x_steps
    assert (model.latent is None) == ('generator' not in used)
    assert model.has_energy == ('energy' in used)


def test_teaching_overrides_the_preset():
    config = importlib.import_module(NAME).get_config()
    config.preset, config.teaching.inference_chain = 'release', 0.0
    settings = method_settings(config)
    assert settings == teaching.RELEASE._replace(
        inference_chain=0.0, x_steps=config.x_chain.num_steps
    )
    config.preset = 'divergence_triangle'  # which has no chain in x, whatever x_chain says
    assert method_settings(config).x_steps == 0


@pytest.mark.slow
def test_reconstruct_interpolate_and_inpaint(trained, tmp_path, monkeypatch, capsys):
    def apply(*arguments):
        return in_process(
            monkeypatch,
            capsys,
            'experiments.apply',
            f'--workdir={trained}',
            '--num=8',
            f'--out={tmp_path}/out',
            *arguments,
        )

    apply('--task=reconstruct', '--z_steps=0')
    with np.load(tmp_path / 'out.npz') as found:
        np.testing.assert_array_equal(found['q'], found['refined'])
        q = found['q']
    apply('--task=reconstruct')
    with np.load(tmp_path / 'out.npz') as found:
        np.testing.assert_allclose(found['q'], q, atol=1e-6)
        assert np.abs(found['refined'] - q).max() > 1e-4
    for arguments in ([], ['--samples']):
        assert apply('--task=interpolate', '--frames=4', *arguments).startswith(
            '8 paths of 4 images'
        )
        with np.load(tmp_path / 'out.npz') as found:
            assert (
                found['frames'].shape == (8, 4, 8, 8, 1)
                and np.abs(np.diff(found['frames'], axis=1)).max() > 0
            )
    from PIL import Image

    mask = np.full((8, 8), 255, np.uint8)
    mask[3] = 0
    Image.fromarray(mask).save(tmp_path / 'mask.png')
    apply('--task=inpaint', f'--hide={tmp_path}/mask.png')
    with np.load(tmp_path / 'out.npz') as found:
        np.testing.assert_array_equal(np.delete(found['filled'], 3, 1), np.delete(found['x'], 3, 1))
        filled = found['filled']
    apply('--task=inpaint', f'--hide={tmp_path}/mask.png', '--starts=8')
    with np.load(tmp_path / 'out.npz') as found:
        assert np.abs(found['filled'] - filled).max() > 1e-3
        assert np.all(found['filled'][:, 3] != found['x'][:, 3])


@pytest.mark.slow
def test_sample_shows_the_chain_and_the_generator_alone(trained, tmp_path, monkeypatch, capsys):
    def draw(*arguments):
        return in_process(
            monkeypatch,
            capsys,
            'experiments.sample',
            f'--workdir={trained}',
            '--num=4',
            f'--out={tmp_path}/s',
            *arguments,
        )

    draw('--trajectory=3')
    with np.load(tmp_path / 's.npz') as found:
        path, x = found['trajectory'], found['x']
    assert path.shape == (4, 4, 8, 8, 1)
    np.testing.assert_array_equal(path[:, -1], x)
    draw('--steps=0', '--label=3')
    with np.load(tmp_path / 's.npz') as found:
        assert set(found['y']) == {3}
    draw('--steps=0')
    with np.load(tmp_path / 's.npz') as found:
        np.testing.assert_allclose(found['x'], path[:, 0], atol=1e-6)


def test_the_releases_constants():
    cifar, celeba = (
        importlib.import_module(f'experiments.{name}').get_config()
        for name in ('cifar10_dual_mcmc_published', 'celeba64_dual_mcmc')
    )
    settings = method_settings(cifar)
    x, z, variance = cifar.x_chain, cifar.z_chain, settings.sigma**2
    assert (
        settings.x_steps,
        settings.z_steps,
        settings.sequential,
        cifar.batch_size,
        cifar.latent_dim,
    ) == (30, 10, True, 100, 128)
    np.testing.assert_allclose(
        (x.step_size, x.noise, z.step_size, z.noise), (0.5**2 / 2, 0.001, 0.1**2 / 2, 0.1)
    )
    # the chain in z divides the square by .3^2
    np.testing.assert_allclose(1 / variance, 2 / 0.3**2)
    # |x - g|^2 + 50 |x' - g|^2, and -log q + .1 -log q
    np.testing.assert_allclose(
        [settings.generator_data / (2 * variance), settings.generator_chain / (2 * variance)],
        [1, 50],
    )
    assert (settings.contrast, settings.inference_data, settings.inference_chain) == (1, 1, 0.1)
    rates = [
        dataclasses.astuple(getattr(cifar.optimizer, name))
        for name in ('energy', 'generator', 'inference')
    ]
    assert rates == [(1e-4, 0), (3e-4, 5e-4), (1e-4, 5e-4)] and (
        cifar.optimizer.b1,
        cifar.optimizer.b2,
    ) == (0, 0.9)
    assert (cifar.fresh.num_steps, cifar.fresh.step_size, cifar.loss.gap_limit) == (70, 0.08, 1e4)
    assert celeba.x_chain.step_size == 0.3**2 / 2
    np.testing.assert_allclose(method_settings(celeba).generator_chain / (2 * variance), 70)


MISTAKES = {
    'preset': (NAME, ['--config.preset=gan'], 'coopnets'),
    'latent': (NAME, ['--config.latent_dim=0'], 'latent'),
    'sigma': (NAME, ['--config.teaching.sigma=0.0'], 'sigma'),
    'weight': (NAME, ['--config.teaching.contrast=-1.0'], 'contrast'),
    'rate': (NAME, ['--config.optimizer.generator.learning_rate=0.0'], 'optimizer.generator'),
    'negatives': (NAME, ['--config.loss.num_negatives=12'], 'divisible by'),
    'grid': (NAME, ['--config.network.generator_widths=(4,4,4,4,4)'], 'multiples of'),
    'other latent': (
        NAME,
        ['--config.latent_dim=6', '--config.loss.conditional=true', *SMALL[:-1]],
        'latent_dim (5 there, 6 now)',
    ),
    'other method': ('experiments.digits_icd', [], 'digits_dual_mcmc'),
    'empty widths': (NAME, ['--config.network.generator_widths=()'], 'network.generator_widths'),
    'no width': (NAME, ['--config.network.energy_widths=(0,4)'], 'network.energy_widths'),
    'noise of fresh chains': (
        NAME,
        ['--config.fresh.noise=-1.0'],
        'fresh.noise must be at least 0',
    ),
    'one image': (
        'experiments.apply',
        ['--task=interpolate', '--data=npz:MASK/one.npz'],
        'at least two',
    ),
    'class': ('experiments.apply', ['--task=reconstruct', '--label=10'], '0 to 9'),
    'mask of another size': (
        'experiments.apply',
        ['--task=inpaint', '--hide=MASK/small.png'],
        '4x4',
    ),
    'mask that hides nothing': (
        'experiments.apply',
        ['--task=inpaint', '--hide=MASK/white.png'],
        'hides nothing',
    ),
    'images of another size': (
        'experiments.apply',
        ['--task=scores', '--data=npz:MASK/big.npz'],
        'bring them to that size',
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_gets_one_sentence(mistake, trained, tmp_path, monkeypatch, capsys):
    from PIL import Image

    Image.new('L', (4, 4)).save(tmp_path / 'small.png')
    Image.new('L', (8, 8), 255).save(tmp_path / 'white.png')
    np.savez(tmp_path / 'one.npz', x=np.zeros((1, 8, 8, 1), np.uint8), y=[0])
    np.savez(tmp_path / 'big.npz', x=np.zeros((20, 16, 16, 1), np.uint8), y=np.arange(20))
    name, arguments, says = MISTAKES[mistake]
    of_the_run = 'other' in mistake or name != NAME
    workdir = trained if of_the_run else tmp_path / 'new'
    before = sorted(trained.rglob('*'))
    assert_one_sentence(
        monkeypatch,
        capsys,
        says,
        name,
        f'--workdir={workdir}',
        *(a.replace('MASK', str(tmp_path)) for a in arguments),
    )
    assert not (tmp_path / 'new').exists() and sorted(trained.rglob('*')) == before


@pytest.mark.slow
def test_a_checkpoint_of_other_networks_is_refused(trained, tmp_path, monkeypatch, capsys):
    import shutil

    shutil.copytree(trained, tmp_path / 'copy')
    content = json.loads((trained / 'config.json').read_text())
    content['config']['latent_dim'] = content['model']['latent']['latent_dim'] = 7
    (tmp_path / 'copy' / 'config.json').write_text(json.dumps(content))
    for command, says in (('evaluate', 'checkpoint'), ('sample', 'do not belong together')):
        assert_one_sentence(
            monkeypatch, capsys, says, f'experiments.{command}', f'--workdir={tmp_path}/copy'
        )


def test_a_gap_beyond_its_limit_counts_as_divergence():
    config = importlib.import_module(NAME).get_config()
    config.loss.gap_limit = 7.0
    # what fit does with it: test_fit.py
    assert runs.build(importlib.import_module(NAME), config).recipe.limits == {'s_gap': 7.0}


def test_the_chain_in_z_has_momentum_and_only_langevins_has():
    config = digits_dual_mcmc.get_config()
    experiment = digits_dual_mcmc.build(config)
    assert experiment.model.spec.latent.kernel.arguments == {'noise_scale': 0.0, 'momentum': 0.7}
    config.test_z.kernel, config.test_z.noise = 'mala', 1.0
    config.test_z.noise_is_temperature = True
    with pytest.raises(InputError, match='test_z.momentum is of the kernel langevin, not mala'):
        digits_dual_mcmc.build(config)
