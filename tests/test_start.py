"""The start of a run: kept programs, and which packages it needs."""

import os
import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT
from tfds_sets import png, prepare

SMALL = [
    '--config.steps=2',
    '--config.batch_size=8',
    '--config.loss.num_negatives=8',
    '--config.buffer.capacity=160',
    '--config.network.widths=(4,)',
    '--config.network.strides=(2,)',
    '--config.sampler.num_steps=1',
    '--config.evaluate_every=0',
]
BLOCKED = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ABSENT:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
"""


def start(arguments, code=None, **environment):
    prefix = ['-c', code] if code else ['-m']
    run = subprocess.run(
        [sys.executable, *prefix, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return run


@pytest.mark.slow
def test_a_run_on_npz_needs_no_tfds_no_tensorboard_and_no_arviz(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 40, 8, 8, 1), np.uint8)
    labels = np.arange(40) % 10
    np.savez(
        tmp_path / 'own.npz', x_train=images[0], y_train=labels, x_test=images[1], y_test=labels
    )
    absent = ['tensorflow_datasets', 'array_record', 'grain', 'tensorboardX', 'arviz_stats']
    code = f'ABSENT = {[*absent, "dm_pix"]}\n{BLOCKED}'
    run = start(
        [
            'experiments.digits_st_jem',
            f'--workdir={tmp_path}/run',
            f'--config.data.source=npz:{tmp_path}/own.npz',
            *SMALL,
        ],
        code,
    )
    assert 'pip install tensorboardX' in run.stderr
    assert (tmp_path / 'run' / 'metrics.jsonl').read_text().count('\n') == 2


@pytest.mark.slow
def test_a_later_start_compiles_nothing_and_images_on_disk_train_the_same_model(tmp_path):
    """A run that holds its images in memory, and one that reads them from disk in two commands: the
    same bits. Programs are kept in the user's cache folder, so the latter compile nothing new."""
    import tensorflow_datasets as tfds

    from benchmarks.same_bits import numbers_of

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 8, 8, 3), np.uint8), np.arange(40) % 10
    rows = [{'image': png(image), 'label': int(y)} for image, y in zip(images, labels)]
    features = {
        'image': tfds.features.Image(shape=(8, 8, 3)),
        'label': tfds.features.ClassLabel(num_classes=10),
    }
    prepare(tmp_path, 'Continued', features, {'train': rows, 'test': rows[:20]})
    source = f'--config.data.source=tfds:continued:1.0.0@{tmp_path}'
    run, kept = ['experiments.images_st_jem', *SMALL, '--config.optimizer.decay_steps=4'], []
    for name, where, steps in (
        ('memory', source, 4),
        ('disk', f'{source}?memory=false', 2),
        ('disk', f'{source}?memory=false', 4),
    ):
        start(
            [*run, where, f'--workdir={tmp_path / name}', f'--config.steps={steps}'],
            XDG_CACHE_HOME=str(tmp_path / 'cache'),
            JAX_COMPILATION_CACHE_DIR='',  # the suite's own is not the user's
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0.3',
        )
        programs = (tmp_path / 'cache' / 'ebm_jax').glob('*-cache')
        kept.append({path.name for path in programs})
    steps = {name for name in kept[0] if '_fun' in name or 'local_step' in name}
    assert steps and kept[1] == kept[2]
    assert steps == {name for name in kept[2] if '_fun' in name or 'local_step' in name}
    before, after = (numbers_of(tmp_path / name) for name in ('memory', 'disk'))
    assert before.keys() == after.keys() and len(before) > 10
    for name, leaf in before.items():
        np.testing.assert_array_equal(leaf, after[name], err_msg=name)


def test_a_cpus_compiler_takes_less_time_and_the_users_flags_and_other_platforms_are_left(tmp_path):
    """Found out before JAX starts: by what is asked for, and by what is installed."""
    code = """if True:
        import os, jax
        from ebm_jax.compiling import compile_quickly_on_cpu
        for platforms, flags in (('cpu', ''), ('cpu', '--xla_backend_optimization_level=3'),
                                 ('cuda,cpu', ''), (None, '')):
            jax.config.update('jax_platforms', platforms)
            os.environ['XLA_FLAGS'] = flags
            compile_quickly_on_cpu()
            print(os.environ['XLA_FLAGS'])
    """
    (tmp_path / 'jax_plugins').mkdir()  # as a GPU's package has it
    run = start([], code, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    level = '--xla_backend_optimization_level'
    assert run.stdout.split('\n')[:4] == [f'{level}=2', f'{level}=3', '', '']


@pytest.mark.slow
def test_an_experiment_sets_the_compilers_level_before_jax_starts(tmp_path):
    start(
        ['experiments.digits_st_jem', f'--workdir={tmp_path}/run', *SMALL],
        XLA_FLAGS=f'--xla_dump_to={tmp_path}/dump',
        JAX_ENABLE_COMPILATION_CACHE='false',
    )
    options = [path.read_text() for path in (tmp_path / 'dump').glob('*make*.debug_options')]
    assert options and all('xla_backend_optimization_level: 2' in said for said in options)
