"""A trained model, opened: the same numbers from the run and from its export, by command and by
Python; folders that cannot be opened get one sentence."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commands import ROOT, assert_one_sentence, in_process, succeed
from flax import nnx

import ebm_jax
from ebm_jax import adapt, augment, data, initial, mcmc, replay
from ebm_jax.errors import InputError
from ebm_jax.fit import fit
from ebm_jax.methods.jem import jem
from ebm_jax.model import build
from ebm_jax.networks import ConvNet, nnx_per_example, per_example
from ebm_jax.record import update_summary
from ebm_jax.spec import Part, classifier_spec
from ebm_jax.train import Recipe
from ebm_jax.types import UNCONDITIONAL, Network
from experiments.common import runs

KEY = jax.random.key(0)
TEST = data.digits('test')
SMALL = [
    '--config.steps=2',
    '--config.batch_size=16',
    '--config.log_every=2',
    '--config.loss.num_negatives=8',
    '--config.sampler.num_steps=2',
    '--config.buffer.capacity=800',
    '--config.fresh.num_steps=3',
    '--config.evaluate_every=0',
    '--config.network.widths=(4,4,4)',
]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A classifier whose data set is gone."""
    folder = tmp_path_factory.mktemp('trained')
    train = data.digits('train')
    file = folder / 'digits.npz'
    np.savez(file, x_train=train.x, y_train=train.y, x_test=TEST.x, y_test=TEST.y)
    workdir = folder / 'run'
    source = f'--config.data.source=npz:{file}'
    succeed('experiments.images_st_jem', f'--workdir={workdir}', *SMALL, source, devices='8')
    config, module = runs.read_run(workdir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('JAX_NUM_CPU_DEVICES', '8')
        state = runs.restore(workdir).state
    file.unlink()
    return workdir, config, module, state


def test_the_numbers_are_those_of_the_run(run):
    """p(y|x) and log p(x) against the network by hand; raw pixels and network units are one."""
    workdir, config, _, state = run
    opened = ebm_jax.load(workdir)
    assert opened.step == 2 and opened.settings['config']['steps'] == 2
    chex.assert_trees_all_equal(opened.params, state.ema_params)  # of evaluation
    logits = config.network.build(10, (8, 8, 1)).apply
    x = TEST.x[:5]
    units = x / np.float32(127.5) - 1
    by_hand = jax.vmap(logits, (None, 0))(state.ema_params, units)
    np.testing.assert_allclose(opened.class_probs(x), jax.nn.softmax(by_hand), atol=1e-6)
    np.testing.assert_allclose(opened.log_prob(x), jax.nn.logsumexp(by_hand, 1), rtol=1e-5)
    np.testing.assert_allclose(opened.log_prob(units, label=3), by_hand[:, 3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(opened.logits(x), by_hand, rtol=1e-4, atol=1e-5)
    of_each, labels = opened.log_prob(x, label=[0, 1, 2, 3, 9]), np.array([0, 1, 2, 3, 9])
    np.testing.assert_allclose(of_each, by_hand[np.arange(5), labels], rtol=1e-4, atol=1e-5)
    energy = opened.energy_fn(opened.params, units[0], UNCONDITIONAL)
    np.testing.assert_allclose(energy, -jax.nn.logsumexp(by_hand[0]), rtol=1e-5)


def test_samples_are_chains_of_the_kernel_and_follow_their_key(run):
    opened = ebm_jax.load(run[0])
    drawn = opened.sample(KEY, 4, label=3, num_steps=2)
    assert drawn.shape == (4, 8, 8, 1) and drawn.dtype == np.float32
    np.testing.assert_array_equal(drawn, opened.sample(KEY, 4, label=3, num_steps=2))
    # no steps: U(-1, 1), and the labels do not matter
    np.testing.assert_array_equal(
        opened.sample(KEY, 4, label=3, num_steps=0), opened.sample(KEY, 4, num_steps=0)
    )
    assert np.abs(drawn - opened.sample(KEY, 4, label=4, num_steps=2)).max() > 0
    # of each its own label: the second one of 3 is the second of 3, 3, ...
    mixed = opened.sample(KEY, 4, label=[4, 3, 4, 3], num_steps=2)
    np.testing.assert_allclose(mixed[1::2], drawn[1::2], atol=1e-6)


def test_examples_are_refined_and_filled_in_downhill(run):
    """Chains without noise, of the energy of the label that was asked for; known entries stay."""
    opened = ebm_jax.load(run[0])
    quiet = Part('langevin', {'noise_scale': 0.0})
    sampling = dataclasses.replace(opened.model.spec.sampling, kernel=quiet, step_size=0.05)
    spec = dataclasses.replace(opened.model.spec, sampling=sampling)
    opened = dataclasses.replace(opened, model=build(spec))
    x, label = opened.model.to_units(TEST.x[:3]), np.array([1, 2, 3])

    def by_hand(label, x):
        gradient = jax.grad(partial(opened.energy_fn, opened.params))
        for _ in range(2):
            x = x - 0.05 * gradient(x, label)
        return x

    found = opened.refine(KEY, TEST.x[:3], label, num_steps=2)
    np.testing.assert_allclose(found, jax.vmap(by_hand)(label, x), atol=1e-5)
    free = opened.refine(KEY, TEST.x[:3], num_steps=2)
    np.testing.assert_allclose(free[0], by_hand(UNCONDITIONAL, x[0]), atol=1e-5)
    known = np.arange(8)[:, None, None] < 4  # the upper half
    full = opened.inpaint(KEY, TEST.x[:3], known, num_steps=5)
    np.testing.assert_array_equal(full[:, :4], x[:, :4])
    begun = opened.inpaint(KEY, TEST.x[:3], known, num_steps=0)
    assert np.all(opened.log_prob(full) > opened.log_prob(begun))
    assert np.abs(full - begun)[:, 4:].max() > 0 and np.abs(begun[:, 4:] - x[:, 4:]).max() > 0.1


def test_parameters_of_lower_precision_are_exported(run, tmp_path):
    opened = ebm_jax.load(run[0])
    low = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), opened.params)
    dataclasses.replace(opened, params=low).export(tmp_path / 'low')
    again = ebm_jax.load(tmp_path / 'low').params
    chex.assert_trees_all_equal(again, jax.tree.map(np.asarray, low))
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(again))


def test_an_export_opens_as_the_run_does(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'model'
    in_process(monkeypatch, capsys, 'experiments.export', f'--workdir={run[0]}', f'--out={out}')
    assert {path.name for path in out.iterdir()} == {
        'README.md',
        'config.json',
        'model.safetensors',
    }
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1  # as readable as each other
    opened, exported = ebm_jax.load(run[0]), ebm_jax.load(out)
    chex.assert_trees_all_equal(exported.params, opened.params)
    assert exported.metrics == json.loads((run[0] / 'summary.json').read_text())
    np.testing.assert_array_equal(exported.log_prob(TEST.x[:3]), opened.log_prob(TEST.x[:3]))
    card = (out / 'README.md').read_text()
    assert 'python -m experiments.images_st_jem' in card and '| step |' in card
    assert 'seconds' not in card and 'model.class_probs(images)' in card
    arguments = f'--workdir={out}', '--num=2', '--label=1', f'--out={tmp_path}/drawn'
    in_process(monkeypatch, capsys, 'experiments.sample', *arguments)
    assert np.load(tmp_path / 'drawn.npz')['x'].shape == (2, 8, 8, 1)
    with pytest.raises(InputError, match='holds something else'):
        opened.export(run[0])
    opened.export(out)  # its own folder, again
    foreign = tmp_path / 'foreign'  # of another library, with files of the same names
    foreign.mkdir()
    for name in ('model.safetensors', 'config.json'):
        (foreign / name).write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match='holds something else'):
        opened.export(foreign)
    assert (foreign / 'model.safetensors').read_text() == '{"model_type": "bert"}'


def test_a_second_call_compiles_nothing(run, caplog):
    opened = ebm_jax.load(run[0])
    calls = {
        'p(y|x)': lambda: opened.class_probs(TEST.x[:16]),
        'log p(x)': lambda: opened.log_prob(TEST.x[:16]),
        'log p(x|3)': lambda: opened.log_prob(TEST.x[:16], label=3),
        'samples': lambda: opened.sample(KEY, 4, label=3, num_steps=2),
    }
    with jax.log_compiles():
        first = {name: call() for name, call in calls.items()}
        assert 'Compiling' in caplog.text
        caplog.clear()
        again = {name: call() for name, call in calls.items()}
        opened.sample(KEY, 4, label=4, num_steps=2)
    chex.assert_trees_all_equal(first, again)
    assert 'Compiling' not in caplog.text
    assert np.abs(first['log p(x)'] - first['log p(x|3)']).min() > 0


def test_metrics_of_another_step_are_told(run, tmp_path, monkeypatch, capsys):
    workdir, out = tmp_path / 'run', tmp_path / 'out'
    shutil.copytree(run[0], workdir)
    export = 'experiments.export', f'--workdir={workdir}', f'--out={out}'
    step = ebm_jax.load(workdir).step
    for evaluated, told in ((step, False), (step - 1, True)):
        update_summary(workdir, {'evaluated_step': evaluated})
        said = in_process(monkeypatch, capsys, *export)
        assert (f'are of step {evaluated}, the weights of step {step}' in said) == told
        assert f'| evaluated_step | {evaluated} |' in (out / 'README.md').read_text()


def test_a_model_opens_without_the_experiments(run, tmp_path):
    """As from a wheel, in a folder where there is nothing else."""
    program = (
        'import sys, ebm_jax, numpy as np\n'
        f'model = ebm_jax.load({str(run[0])!r})\n'
        'assert model.class_probs(np.zeros((1, 8, 8, 1), np.uint8)).shape == (1, 10)\n'
        "assert not any(name.split('.')[0] in ('experiments', 'absl.app') for name in sys.modules)"
    )
    (tmp_path / 'ebm_jax').symlink_to(ROOT / 'ebm_jax')
    done = subprocess.run(
        [sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


DAMAGED = {
    'no step': lambda content: content.pop('step'),
    'step is a word': lambda content: content.update(step='x'),
    'no networks': lambda content: content['model'].update(networks={}),
    'shape is a word': lambda content: content['model'].update(shape='abc'),
    'features without scale': lambda content: content['model'].update(speech={}),
    'unknown kernel': lambda content: content['model']['sampling'].update(kernel=['gibbs', {}]),
    'unknown argument': lambda content: content['model']['sampling'].update(
        kernel=['langevin', {'heat': 1}]
    ),
    'unknown kind': lambda content: content['model'].update(kind='diffusion'),
    'other classes': lambda content: content['model'].update(num_classes=7),
}


def damaged(folder, kind):
    if kind == 'weights of another file':
        file = folder / 'model.safetensors'
        file.write_bytes(file.read_bytes()[:-4] + b'\0\0\0\1')
    elif kind == 'weights of another network':
        content = json.loads((folder / 'config.json').read_text())
        content['model']['networks']['network'][1]['widths'] = [4, 4, 8]
        (folder / 'config.json').write_text(json.dumps(content))
    elif kind == 'no such network':
        content = json.loads((folder / 'config.json').read_text())
        content['model']['networks']['network'][0] = 'os.system'
        (folder / 'config.json').write_text(json.dumps(content))
    elif kind == 'config cut short':
        (folder / 'config.json').write_text((folder / 'config.json').read_text()[:100])
    elif kind == 'no description':
        (folder / 'config.json').write_text('{"model": {"kind": "classifier"}}')
    elif kind == 'another format':
        content = json.loads((folder / 'config.json').read_text())
        (folder / 'config.json').write_text(json.dumps(content | {'format': 'other'}))
    elif kind in DAMAGED:
        content = json.loads((folder / 'config.json').read_text())
        DAMAGED[kind](content)
        (folder / 'config.json').write_text(json.dumps(content))
    elif kind == 'nothing there':
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    'kind, says',
    [
        ('weights of another file', 'SHA-256 differs'),
        ('weights of another network', 'do not belong together'),
        ('no such network', 'has no network os.system'),
        ('config cut short', 'may be damaged'),
        ('no description', 'not a model description'),
        ('another format', "has the format 'other'"),
        ('nothing there', 'config.json is missing'),
        ('no step', 'lacks a part of an exported model'),
        ('step is a word', 'lacks a part of an exported model'),
        ('no networks', "has one network, 'network'"),
        ('shape is a word', 'not a model description'),
        ('features without scale', 'speech features is damaged'),
        ('unknown kernel', "there is no 'gibbs': it is one of langevin, mala, hmc"),
        ('unknown argument', 'langevin cannot be made'),
        ('unknown kind', "no kind of model 'diffusion'"),
        ('other classes', 'outputs [10] where the description says 7 classes'),
    ],
)
def test_a_foreign_or_damaged_folder_gets_one_sentence(run, tmp_path, kind, says):
    folder = tmp_path / 'model'
    ebm_jax.load(run[0]).export(folder)
    damaged(folder, kind)
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        ebm_jax.load(folder)
    assert '\n' not in str(caught.value)


def test_the_card_names_the_command_that_trained(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'exported'
    in_process(monkeypatch, capsys, 'experiments.export', f'--workdir={run[0]}', f'--out={out}')
    (line,) = [
        line
        for line in (out / 'README.md').read_text().splitlines()
        if line.startswith('python -m experiments.images_st_jem')
    ]
    given = [flag for flag in SMALL if flag != '--config.evaluate_every=0']
    assert all(flag.replace(',4', ', 4') in line for flag in given if 'log_every' not in flag)
    assert '--config.optimizer.learning_rate' not in line  # as shipped


def test_a_damaged_summary_is_left_out_with_a_warning(run, tmp_path):
    """The model opens without its metrics."""
    shutil.copytree(run[0], tmp_path / 'run')
    (tmp_path / 'run' / 'summary.json').write_text('{"step": 2,')
    with pytest.warns(UserWarning, match='summary.json cannot be read'):
        assert ebm_jax.load(tmp_path / 'run').metrics == {}


def test_what_a_model_is_not_gets_one_sentence(run, tmp_path, monkeypatch, capsys):
    opened = ebm_jax.load(run[0])
    for call, says in (
        (lambda: opened.log_prob(np.zeros((2, 28, 28, 1), np.uint8)), r'takes examples \[N, 8, 8'),
        (lambda: opened.log_prob(TEST.x[:2].astype(np.int64)), 'uint8 in .* got int64 up to 255'),
        (lambda: opened.log_prob(TEST.x[:2].astype(np.int64) % 2), 'got int64 up to 1'),
        (lambda: opened.log_prob(16.0 * (TEST.x[:2] > 99)), 'got float64 up to 16'),
        (lambda: opened.sample(KEY, 2, label=10), '0 to 9'),
        (lambda: opened.sample(KEY, 2, label=[1, 2, 3]), 'as many as the 2 examples'),
        (lambda: opened.refine(KEY, TEST.x[:2], num_steps=-1), 'num_steps must be at least 0'),
        (lambda: opened.log_prob(TEST.x[:2], label=[1, 12]), 'label 12 must lie in 0 to 9'),
        (lambda: opened.log_prob(TEST.x[:2], label=1.5), 'got float64'),
        (lambda: opened.inpaint(KEY, TEST.x[:2], np.ones((3, 3), bool)), 'known must be a mask'),
        (
            lambda: opened.inpaint(KEY, TEST.x[:2], np.ones((8, 8, 1), bool), starts=2),
            'with a generator',
        ),
        (lambda: opened.reconstruct(KEY, TEST.x[:2]), 'no generator'),
        (lambda: opened.classify_sound(np.zeros(100)), 'not trained on recordings'),
    ):
        with pytest.raises(InputError, match=says):
            call()
    assert_one_sentence(
        monkeypatch, capsys, 'no data file', 'experiments.evaluate', f'--workdir={run[0]}'
    )


def recipe(network, description):
    kernel = mcmc.langevin(1.0, noise_scale=0.01)
    buffer = replay.persistent(initial.uniform((8, 8, 1)), 8)
    train = data.digits('train')
    return Recipe(
        method=jem(network, adapt.fixed(kernel), buffer, num_negatives=8, num_steps=1),
        optimizer=optax.adam(1e-3),
        batch_at=lambda step: data.batch_at(train, step, 8),
        prepare=augment.scale_pixels,
        description=description and description.to_json(),
    )


def trained_by_python(workdir, network, description):
    return fit(recipe(network, description), workdir=workdir, steps=1, devices=jax.devices()[:1])


def test_a_run_trained_from_python_opens_the_same_way(tmp_path):
    network = per_example(ConvNet(10, (4, 4), (2, 2)))
    spec = classifier_spec(network, (8, 8, 1), 10)
    state = trained_by_python(tmp_path / 'run', network, spec)
    opened = ebm_jax.load(tmp_path / 'run')
    chex.assert_trees_all_equal(opened.params, state.params)
    opened.export(tmp_path / 'out')
    exported = ebm_jax.load(tmp_path / 'out')
    np.testing.assert_array_equal(
        exported.sample(KEY, 2, num_steps=1), opened.sample(KEY, 2, num_steps=1)
    )
    trained_by_python(tmp_path / 'nameless', network, None)
    with pytest.raises(InputError, match='config.json is missing'):
        ebm_jax.load(tmp_path / 'nameless')


class Perceptron(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.head = nnx.Linear(64, 8, rngs=rngs), nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.swish(self.hidden(x.reshape(len(x), -1))))


def plain_network():
    def init(key, x):
        return {'w': 0.1 * jax.random.normal(key, (x.size, 10)), 'b': jnp.zeros(10)}

    return Network(init, lambda params, x: x.reshape(-1) @ params['w'] + params['b'])


@pytest.mark.parametrize('kind', ['nnx', 'plain'])
def test_networks_of_any_kind_train_and_open(kind, tmp_path):
    network = nnx_per_example(lambda rngs: Perceptron(rngs)) if kind == 'nnx' else plain_network()
    spec = classifier_spec(network, (8, 8, 1), 10)
    state = trained_by_python(tmp_path / 'run', network, spec)
    with pytest.raises(InputError, match="give it as networks={'network'"):
        ebm_jax.load(tmp_path / 'run')
    opened = ebm_jax.load(tmp_path / 'run', networks={'network': network})
    x = TEST.x[:3] / np.float32(127.5) - 1
    logits = jax.vmap(network.apply, (None, 0))(state.params, x)
    np.testing.assert_allclose(opened.class_probs(x), jax.nn.softmax(logits), atol=1e-6)
    start = network.init(jax.random.key(5), x[0])
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), start, state.params)
    assert all(value > 0 for value in jax.tree.leaves(moved))


def test_networks_with_other_state_get_one_sentence():
    import flax.linen as nn

    class Normalised(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=False)(x)

    class Dropped(nnx.Module):
        def __init__(self, rngs):
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(x)

    for network in (per_example(Normalised()), nnx_per_example(lambda rngs: Dropped(rngs))):
        with pytest.raises(ValueError, match='other state than parameters'):
            network.init(KEY, jnp.zeros(3))
    with pytest.raises(TypeError, match='nnx_per_example'):
        per_example(Perceptron(nnx.Rngs(0)))


@pytest.mark.slow
def test_every_network_of_the_library_is_rebuilt_from_its_description():
    from ebm_jax import networks

    modules = {
        'ConvNet': (networks.ConvNet(3, (4,), (2,)), (8, 8, 1)),
        'Conv1DNet': (networks.Conv1DNet(3, 'frequency', (4,), (2,), 3), (5, 12, 1)),
        'WideResNet': (networks.WideResNet(3, 10, 1, jnp.bfloat16), (8, 8, 3)),
        'ResidualEnergy': (networks.ResidualEnergy(4, (1,), norm=False), (8, 8, 1)),
        'MultiScaleEnergy': (
            networks.MultiScaleEnergy(
                8, (1, 2), 2, kernel_transform=networks.spectral, attention_after=1
            ),
            (8, 8, 1),
        ),
        'Generator': (networks.Generator((8, 8, 1), (4, 4)), (3,)),
        'InferenceNet': (networks.InferenceNet(3, (4,), (2,)), (8, 8, 1)),
        'SpectralEnergy': (networks.SpectralEnergy((4,), (True,)), (8, 8, 1)),
    }
    assert set(modules) == set(networks.NETWORKS)
    for name, (module, shape) in modules.items():
        described = networks.describe(module)
        again = networks.build(*json.loads(json.dumps(described)))
        assert again.module == module, name
        x = jax.random.normal(KEY, shape)
        network = per_example(module)
        params = network.init(KEY, x)
        chex.assert_trees_all_equal(again.init(KEY, x), params)
        chex.assert_trees_all_equal(again.apply(params, x), network.apply(params, x))
    assert networks.describe(networks.ResidualEnergy(kernel_transform=lambda w: 2 * w)) is None
