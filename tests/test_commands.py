"""The commands of the documents, run in a reader's order and folder, with shortened settings."""

import importlib
import re
import shutil
import textwrap

import numpy as np
import pytest
from commands import ROOT, command, commands_of, in_process, succeed
from tfds_sets import png, prepare

pytest.importorskip('librosa', reason='the extra `speech` is not installed')
from spoken import digits_folder  # noqa: E402

from ebm_jax.evaluate import extractor  # noqa: E402
from experiments.common import settings  # noqa: E402

pytestmark = pytest.mark.slow
# Benchmarks have tests of their own, and so has --inception, whose file has 90 MB. Two commands of
# scaling.md are one run of two processes (tests/test_interruptions.py), the others are for a pod.
DOCUMENTS = [
    'README.md',
    'docs/howto/data.md',
    'docs/howto/evaluate.md',
    'docs/howto/export.md',
    'docs/howto/choose.md',
    'docs/howto/compose.md',
    'docs/howto/generators.md',
    'docs/howto/resume.md',
    'docs/howto/speech.md',
    'docs/concepts/more_methods.md',
    'docs/adding_a_method.md',
]
SHORT = {
    'steps': 2,
    'batch_size': 8,
    'log_every': 1,
    'checkpoint_every': 2,
    'evaluate_every': 0,
    'buffer.capacity': 160,
    'data.labels_per_class': 2,
    'data.window': 7,
    'data.time_mask': 3,
    'denoise.recordings': 1,
    'features.bins': 12,
    'fresh.every': 1,
    'loss.num_negatives': 8,
    'loss.positives': 8,
    'loss.kl_chains': 8,
    'loss.population': 8,
    'loss.population_after': 8,
    'loss.warmup': 1,
    'loss.energy_limit': 1e4,
    'test_z.inpaint_steps': 2,
    'latent_dim': 5,
    'network.depth': 10,
    'network.stages': (1,),
    'network.scales': 1,
    'network.norm': False,
    'network.attention_after': 0,
    'network.energy_widths': (4,),
    'network.energy_down': (True,),
    'network.generator_widths': (4, 4),
    'network.inference_widths': (4,),
    'network.inference_strides': (2,),
}
# of the other commands, where they have the flag
OF_THE_FULL_SUITE = [
    '--attacked=4',
    '--attack_steps=1',
    '--radii_l2=.5',
    '--radii_linf=.1',
    '--chains=4',
    '--bridges=2',
    '--long=2',
]
SHORT_FLAGS = {
    'experiments.evaluate': [
        '--fresh_per_class=2',
        '--resamples=2',
        '--limit=20',
    ],
    'experiments.sample': ['--num=4', '--steps=1'],
    'experiments.apply': ['--num=2'],
    'experiments.compose': ['--num=4', '--steps=1'],
    'experiments.chains': ['--steps=16', '--num=8', '--samples=10'],
    'experiments.speech': ['--steps=1'],
    'experiments.studies.vary': ['--steps=2'],
    'experiments.studies.denoise_tables': ['--steps=1', '--levels=10', '--recordings=1'],
    'experiments.studies.stability': [
        '--config.steps=2',
        '--config.seeds=1',
        '--config.num_steps=(1,)',
        '--config.learning_rates=(1e-3,)',
        '--config.guarded=0',
    ],
}


def shortened(config):
    """Settings of a run that takes seconds."""
    flat = settings.flatten(config)
    for name, value in flat.items():
        if name.endswith('num_steps') and not name.startswith('guard'):
            value = 1
        elif name in SHORT and value:
            value = SHORT[name]
        elif name == 'network.width':
            value = 1 if 'network.depth' in flat else 4
        elif name == 'network.widths':
            value = tuple(4 for _ in value)
        else:
            continue
        yield f'--config.{name}={value}'


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    """Folder of a TFDS set of as many classes as CIFAR-10."""
    import tensorflow_datasets as tfds

    features = {
        'image': tfds.features.Image(shape=(32, 32, 3), encoding_format='png'),
        'label': tfds.features.ClassLabel(num_classes=10),
    }
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    rows = [{'image': png(image), 'label': i % 10} for i, image in enumerate(images)]
    folder = tmp_path_factory.mktemp('sets')
    prepare(folder, 'Photographs', features, {'train': rows, 'test': rows})
    return folder


@pytest.fixture
def folder(tmp_path, photographs, monkeypatch):
    """What a reader has: data of each kind where the documents say, here small and made up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extractor, 'STEPS', 10)
    random = np.random.default_rng(0)

    def images(*shape):
        return random.integers(0, 256, shape, dtype=np.uint8)

    y = np.arange(40) % 10
    parts = {'x_train': images(40, 8, 8, 1), 'x_test': images(40, 8, 8, 1)}
    np.savez('own.npz', **parts, y_train=y, y_test=y)
    (tmp_path / 'data').mkdir()
    frames = {'x': random.normal(size=(60, 256)).astype(np.float32), 'y': np.arange(60) % 5}
    frames |= {'part': np.repeat(['train', 'test'], 30), 'label_names': list('abcde')}
    np.savez('data/phoneme_esl.npz', **frames)
    for name in ('dtd32', 'fashion_mnist_test'):
        np.savez(f'data/{name}.npz', x_test=images(20, 32, 32, 3), y_test=np.arange(20) % 5)
    (tmp_path / 'others').mkdir()
    for i in range(4):
        (tmp_path / f'others/{i}.png').write_bytes(png(images(8, 8, 3)))
    page = (ROOT / 'docs/howto/evaluate.md').read_text()
    suite = re.search(r'(?:^    [\[\w].*\n)+', page[page.index('`suite.toml`:') :], re.MULTILINE)
    (tmp_path / 'suite.toml').write_text(textwrap.dedent(suite[0]))
    digits_folder(tmp_path, rate=8000)
    for name in ('seven', 'noisy'):
        shutil.copy('recordings/0_jo_7.wav', f'{name}.wav')
    (tmp_path / 'sets').symlink_to(photographs)
    return tmp_path


STAND_INS = {
    'npz:FILE': 'npz:own.npz',
    'folder:OTHER_IMAGES': 'folder:others',
    'tfds:cifar10': 'tfds:photographs@sets',
    'tfds:mnist': 'tfds:photographs@sets',
}
DEMO = 'runs/demo'  # `make demo` made it before the how-to pages begin
# the guide's experiment is run by tests/test_docs.py
NOT_HERE = ('pip', 'venv', 'benchmarks.accelerator', 'benchmarks.tpu_compile')


def is_run_here(name, arguments):
    """Whether a command is one of this test; it knows the others."""
    if name.startswith('experiments.'):
        return name != 'experiments.digits_pcd' and '--inception=' not in ' '.join(arguments)
    assert name in NOT_HERE, name
    return False


def in_short(name, arguments):
    """The command with shortened settings, where the document does not give them, on stand-ins."""
    for real, made in STAND_INS.items():
        arguments = [word.replace(real, made) for word in arguments]
    module = importlib.import_module(name)
    if hasattr(module, 'get_config'):
        config = module.get_config()
        short = list(shortened(config))
        if config.data.source.startswith('tfds:'):
            short.append('--config.data.source=tfds:photographs@sets')
    else:
        short = SHORT_FLAGS.get(name, [])
        if '--suite=full' in arguments:
            short = [*short, *OF_THE_FULL_SUITE]
    flags = {word.split('=')[0] for word in arguments}
    return [*arguments, *(word for word in short if word.split('=')[0] not in flags)]


@pytest.mark.parametrize('path', DOCUMENTS)
def test_the_commands_of_a_document_run_in_its_order(path, folder, monkeypatch, capsys):
    commands = [words[words.index('-m') + 1 :] for words in commands_of(path) if '-m' in words]
    if any(f'--workdir={DEMO}' in words for words in commands):
        commands.insert(0, ['experiments.digits_st_jem', f'--workdir={DEMO}'])
    commands = [words for words in commands if is_run_here(words[0], words[1:])]
    assert commands
    for name, *arguments in commands:
        if name == 'experiments.list':
            assert '  digits_st_jem  ' in succeed(name, *arguments).stdout
        elif '--help' in arguments:
            assert '--config.steps' in command(name, *arguments).stdout
        else:
            in_process(monkeypatch, capsys, name, *in_short(name, arguments))
