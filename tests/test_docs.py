"""The code in the documents runs as it stands there."""

import functools
import importlib
import json
import pathlib
import re
import sys
import types

import jax
import numpy as np
import pytest
from absl import flags
from commands import assert_one_sentence, commands_of, in_process

import ebm_jax
from ebm_jax.data import recordings
from ebm_jax.errors import InputError
from ebm_jax.evaluate import extractor
from ebm_jax.train import state_shapes
from experiments.common import launch, processes, runs, settings

ROOT = pathlib.Path(__file__).parent.parent
GUIDE = 'docs/adding_a_method.md'
SMALL = [
    '--config.steps=2',
    '--config.batch_size=16',
    '--config.loss.num_negatives=8',
    '--config.sampler.num_steps=2',
    '--config.buffer.capacity=800',
    '--config.fresh.num_steps=2',
]


@functools.cache
def blocks_of(path):
    return re.findall(r'```python\n(.*?)```', (ROOT / path).read_text(), re.DOTALL)


def block(beginning, path=GUIDE):
    (found,) = (code for code in blocks_of(path) if code.startswith(f'"""{beginning}'))
    return found


@pytest.fixture
def as_module(monkeypatch):
    """A block as the file that the document says it is."""

    def make(name, code):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition('.')
        monkeypatch.setattr(importlib.import_module(parent), child, module, raising=False)
        exec(compile(code, name, 'exec'), module.__dict__)
        return module

    return make


@pytest.mark.slow
def test_the_method_and_the_experiment_of_the_guide_train_and_are_evaluated(
    as_module, tmp_path, monkeypatch, capsys
):
    """The method itself goes through tests/test_methods.py, too."""
    as_module('ebm_jax.methods.pcd', block('Persistent contrastive divergence, in full'))
    as_module('experiments.digits_pcd', block('Persistent contrastive divergence on the built-in'))
    monkeypatch.setattr(extractor, 'STEPS', 10)
    workdir = f'--workdir={tmp_path}/run'
    small = [
        *SMALL,
        '--config.network.width=4',
        '--config.network.stages=(1,)',
        '--config.network.scales=1',
        '--config.network.norm=false',
        '--config.loss.kl_chains=8',
        '--config.fresh.every=1',
    ]
    said = in_process(monkeypatch, capsys, 'experiments.digits_pcd', workdir, *small)
    assert 'Next: python -m experiments.evaluate' in said
    arguments = ['--fresh_per_class=2', '--resamples=2', '--ood=mixed=']
    in_process(monkeypatch, capsys, 'experiments.evaluate', workdir, *arguments)
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    assert summary['step'] == 2 and 'noise' in summary['ood_auroc']
    assert ebm_jax.load(tmp_path / 'run').log_prob(np.zeros((3, 8, 8, 1))).shape == (3,)


def settings_of(module):
    config = module.get_config()
    config.batch_size, config.loss.num_negatives, config.sampler.num_steps = 16, 8, 2
    config.fresh.num_steps = 2
    return config


def test_the_kernel_of_the_guide_is_the_one_that_trains(as_module):
    """Its chains are not those of the plain kernel, and its noise has Laplace tails."""
    guide = as_module('experiments.laplace', block('Langevin dynamics with its noise'))
    kernel = guide.laplace_langevin(0.1, 1.0)
    keys = jax.random.split(jax.random.key(0), 4000)

    def step(key):
        state = kernel.init(jax.numpy.zeros(1), None)
        return kernel.step(key, state, lambda x: 0.0 * x.sum())[0].position[0]

    moved = np.asarray(jax.vmap(step)(keys))
    kurtosis = np.mean(moved**4) / np.mean(moved**2) ** 2
    assert 4.5 < kurtosis < 8  # of a Laplace distribution 6, of a normal one 3
    experiment = runs.build(guide, settings_of(guide))
    assert experiment.chains.make_kernel(step_size=1.0).step.__qualname__.startswith('laplace')


@pytest.mark.slow
def test_a_run_with_a_network_of_the_guide_is_used_by_the_commands(
    as_module, tmp_path, monkeypatch, capsys
):
    """config.json cannot describe the network: the commands find it in the experiment."""
    guide = as_module('experiments.own_network', block('ST-JEM with a network of your own'))
    workdir, exported = f'--workdir={tmp_path}/run', f'{tmp_path}/exported'
    in_process(monkeypatch, capsys, 'experiments.own_network', workdir, *SMALL)
    in_process(monkeypatch, capsys, 'experiments.sample', workdir, '--num=4', '--steps=1')
    in_process(monkeypatch, capsys, 'experiments.export', workdir, f'--out={exported}')
    in_process(
        monkeypatch, capsys, 'experiments.sample', f'--workdir={exported}', '--num=4', '--steps=1'
    )
    drawn = [np.load(f'{tmp_path}/{name}/samples/drawn.npz')['x'] for name in ('run', 'exported')]
    np.testing.assert_array_equal(*drawn)
    with pytest.raises(InputError, match='network'):
        ebm_jax.load(exported)
    opened = ebm_jax.load(exported, networks={'network': guide.NETWORKS['nnx']})
    assert opened.class_probs(np.zeros((3, 8, 8, 1))).shape == (3, 10)


@pytest.mark.parametrize('kind', ['linen', 'nnx', 'plain'])
def test_the_networks_of_the_guide_build(as_module, kind):
    guide = as_module('experiments.own_network', block('ST-JEM with a network of your own'))
    experiment = guide.build(settings_of(guide), kind=kind)
    shapes = state_shapes(experiment.recipe).params
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(shapes))
    assert sizes == ([10, 640] if kind == 'plain' else [10, 128, 1280, 8192])


def test_the_evaluation_of_the_guide_reports(as_module, tmp_path):
    guide = as_module('experiments.own_evaluation', block('How bright samples are'))
    experiment = runs.build(guide, settings_of(guide))

    class State:
        eval_params = experiment.recipe.method.init(
            jax.random.key(0), {'x': np.zeros((1, 8, 8, 1)), 'y': np.zeros(1, int)}
        )[0]

    found = experiment.evaluations[-1](tmp_path, experiment, State)
    assert abs(found.metrics['sample_brightness']) < 0.2 and 'brightness of 20' in found.lines[0]


def run_blocks(path, names):
    """Run the Python blocks of a document in order, shortened, from an empty folder."""
    for code in blocks_of(path):
        short = code.replace('steps=600', 'steps=2').replace("'models/", f"'{ROOT}/models/")
        exec(re.sub(r'num_steps=\d{2,}', 'num_steps=2', short), names)


@pytest.mark.slow
def test_the_programs_of_the_readme_run_in_order(tmp_path, monkeypatch, capsys):
    (program,) = (code for code in blocks_of('README.md') if 'steps=600' in code)
    assert len(program.splitlines()) < 50
    monkeypatch.chdir(tmp_path)
    names = {}
    run_blocks('README.md', names)
    assert 'accuracy' in capsys.readouterr().out and (tmp_path / 'runs/mine/summary.json').exists()
    assert names['images'].shape == (16, 8, 8, 1)
    # commands use a run from Python as one of their own
    monkeypatch.setattr(extractor, 'STEPS', 10)
    workdir, small = '--workdir=runs/mine', ['--fresh_per_class=2', '--resamples=2']
    assert_one_sentence(monkeypatch, capsys, '--data=digits', 'experiments.evaluate', workdir)
    in_process(monkeypatch, capsys, 'experiments.evaluate', workdir, '--data=digits', *small)
    assert 'test_accuracy' in json.loads((tmp_path / 'runs/mine/summary.json').read_text())
    assert 'a run from Python' in (tmp_path / 'runs/mine/report.html').read_text()
    in_process(monkeypatch, capsys, 'experiments.sample', workdir, '--num=4', '--steps=1')
    in_process(monkeypatch, capsys, 'experiments.export', workdir, '--out=exported')
    assert ebm_jax.load('exported').class_probs(np.zeros((3, 8, 8, 1))).shape == (3, 10)


def write_frames(path):
    """Three frames in the format of `phoneme.data`."""
    lines = [','.join(['row.names', *(f'x.{i}' for i in range(1, 257)), 'g', 'speaker'])]
    for row, (phoneme, part) in enumerate([('sh', 'train'), ('aa', 'train'), ('sh', 'test')]):
        values = ','.join(f'{row + 0.5 * i:g}' for i in range(256))
        lines.append(f'{row + 1},{values},{phoneme},{part}.dr1.mcpm{row}.sa1')
    path.write_text('\n'.join(lines) + '\n')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['data', 'resume', 'evaluate', 'export'])
def test_the_programs_of_the_how_to_pages_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == 'data':
        write_frames(tmp_path / 'phoneme.data')
    names = {}
    run_blocks(f'docs/howto/{name}.md', names)
    if name == 'resume':
        assert int(names['state'].step) == 40
    if name == 'data':
        train, test, classes, _ = recordings.frames('data/phoneme_esl.npz')
        assert classes == ('aa', 'sh') and train.x.shape[2] == 256
        np.testing.assert_array_equal(train.y, [1, 0])
        assert np.load('data/phoneme_esl.npz')['x'][2, 1] == 2.5 and len(test.x) == 1


def test_the_chain_of_the_concepts_page_follows_its_density(capsys):
    names = {}
    exec(blocks_of('docs/concepts/energies.md')[0], names)
    x = np.asarray(names['x'])
    assert abs(x.mean() - 1) < 0.05 and abs(x.std() - 0.5) < 0.03


PAGES = sorted((ROOT / 'docs').rglob('*.md'))
# the guide's experiment is run above
ELSEWHERE = ('docs/_build', 'docs/tutorials', GUIDE)
DOCUMENTS = ['README.md', *(str(path.relative_to(ROOT)) for path in PAGES)]
DOCUMENTS = [path for path in DOCUMENTS if not path.startswith(ELSEWHERE)]
# what stands in a command for one of several words
VARIABLES = {
    'TABLE': 'order',
    'SEED': '0',
    '$seed': '0',
    '$kl': '1',
    '$affine': '1',
    '$scales': '1',
}
TARGETS = {'demo', 'test', 'test-slow', 'test-oldest', 'docs', 'wheel', 'lint'}


@pytest.mark.parametrize('path', DOCUMENTS)
def test_the_commands_of_a_document_can_be_given_in_its_order(path, monkeypatch):
    """Every module, flag and setting is there, and every run that is used was made before."""
    made = {'runs/demo'}  # by `make demo`, with which all begins
    for words in commands_of(path):
        while re.match(r'[A-Z_]+=', words[0]):
            del words[0]
        if words[0] == 'make':
            assert words[1] in TARGETS, words
            continue
        name, arguments = words[2], [word for word in words[3:] if '...' not in word]
        for variable, value in VARIABLES.items():
            arguments = [word.replace(f'={variable}', f'={value}') for word in arguments]
        if not name.startswith('experiments.') or 'NAME' in name:
            assert (
                name in ('pip', 'venv', 'pytest')
                or (ROOT / f'{name.replace(".", "/")}.py').exists()
            ), name
            continue
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, 'argv', [name, *arguments])  # settings are looked for there
        values = flags.FlagValues()
        if name == 'experiments.list':
            continue
        if hasattr(module, 'get_config'):
            launch.define_config(values, module.get_config())
            processes.define(values)
        else:
            module.define(values)
        if arguments == ['--help']:
            continue
        values(sys.argv)
        given = dict(re.findall(r'--(workdir|out)=([^\s:]+)', ' '.join(arguments)))
        if hasattr(module, 'get_config'):
            settings.as_declared(values.config)
            settings.check(values.config)
            made.add(given['workdir'])
        elif 'studies' not in name:
            used = re.findall(r'--(?:workdir|all|any|none|given)=([^\s:]+)', ' '.join(arguments))
            placeholders = {'DIR', 'RUN', 'A', 'B', '...'}
            assert set(used) <= made | placeholders, (words, made)
        made |= {given['out']} if 'out' in given else set()
