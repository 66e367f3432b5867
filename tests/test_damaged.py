"""A workdir that is damaged: never a traceback, never a lost checkpoint, never a run that goes on
from a state that was not saved."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebm_jax.checkpoint import Checkpoints, digests
from ebm_jax.errors import InputError
from ebm_jax.fit import fit
from ebm_jax.guard import read_log
from ebm_jax.monitor import is_dead
from ebm_jax.record import DAMAGED, read_rows, read_summary, update_summary
from ebm_jax.train import Recipe, state_shapes
from ebm_jax.types import Method

CASES = int(os.environ.get('EBM_JAX_DAMAGES', '12'))


def recipe():
    """A number is fitted to the mean of the data; a walk is its chain."""

    def init(key, batch):
        return jax.random.normal(key, (50,)), {'walk': jnp.zeros((8, 3))}

    def sample(key, params, chains, batch):
        walk = chains['walk'] + jax.random.normal(key, (len(chains['walk']), 3))
        return walk, {'walk': walk}

    def loss(params, key, batch, walk):
        return {'square': jnp.mean((params - jnp.mean(batch['x'])) ** 2)}, {}

    return Recipe(
        method=Method(init, sample, loss),
        batch_at=lambda step: {'x': np.full((8, 1), step / 7, np.float32)},
        optimizer=optax.adam(0.1),
        prepare=lambda key, x: x,
    )


RECIPE = recipe()


def train(workdir, steps):
    return fit(
        RECIPE,
        workdir=workdir,
        steps=steps,
        log_every=1,
        checkpoint_every=2,
        picture_every=1000,
        settings={'experiment': 'made'},
    )


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """(a run of 6 steps, {step: its state} of its checkpoints, its state after 8 steps)"""
    folder = tmp_path_factory.mktemp('damaged')
    train(folder / 'run', 6)
    with Checkpoints(folder / 'run' / 'checkpoints', 2, read_only=True) as checkpoints:
        saved = {
            step: digests(checkpoints.restore(state_shapes(RECIPE), step)) for step in (2, 4, 6)
        }
    shutil.copytree(folder / 'run', folder / 'whole')
    return folder / 'run', saved, digests(train(folder / 'whole', 8))


def files_of(run):
    return sorted(
        str(path.relative_to(run))
        for path in run.rglob('*')
        if path.is_file() and path.name != '.lock'
    )


def truncate(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def flip(path, share):
    data = bytearray(path.read_bytes())
    for i in range(min(4, len(data))):
        data[int(share * (len(data) - 1)) - i] ^= 0xFF
    path.write_bytes(bytes(data))


def to_folder(path, share):
    path.unlink()
    path.mkdir()


def remove(path, share):
    path.unlink()


DAMAGES = {'truncate': truncate, 'flip': flip, 'folder': to_folder, 'remove': remove}


@pytest.mark.slow
@settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    file=st.floats(0, 0.999),
    kind=st.sampled_from([*DAMAGES, 'swap']),
    share=st.floats(0, 1),
    other=st.floats(0, 0.999),
)
def test_damage_never_ends_in_another_state(base, file, kind, share, other):
    run, saved, end = base
    copy = run.parent / 'copy'
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    names = files_of(copy)
    path, second = (copy / names[int(x * len(names))] for x in (file, other))
    if kind == 'swap' and path != second:
        held = path.read_bytes()
        path.write_bytes(second.read_bytes())
        second.write_bytes(held)
    elif kind != 'swap':
        DAMAGES[kind](path, share)
    touched = {path} | ({second} if kind == 'swap' else set())
    try:
        state = train(copy, 8)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
        return
    # the same state as of the whole run, or of one that began anew
    assert digests(state) == end or not any(
        (copy / 'checkpoints' / str(step)).exists() for step in (2, 4)
    )
    whole = [
        step
        for step in (4, 6)
        if not any((copy / 'checkpoints' / str(step)) in one.parents for one in touched)
    ]
    for step in whole:  # what was whole is there, and is what was saved
        with Checkpoints(copy / 'checkpoints', 2, read_only=True) as checkpoints:
            assert digests(checkpoints.restore(state_shapes(RECIPE), step)) == saved[step]


def copied(base, tmp_path):
    shutil.copytree(base[0], tmp_path / 'run')
    return tmp_path / 'run'


def test_a_checkpoint_under_another_name_is_not_taken(base, tmp_path, capsys):
    run = copied(base, tmp_path)
    (run / 'checkpoints' / '6').rename(run / 'checkpoints' / '10')
    train(run, 8)
    assert 'holds the state of step 6' in capsys.readouterr().out
    assert (run / 'damaged_checkpoints').is_dir()


def test_a_changed_number_is_seen_by_its_hash(base, tmp_path, monkeypatch):
    run = copied(base, tmp_path)
    with Checkpoints(run / 'checkpoints', 2, read_only=True) as checkpoints:
        state = checkpoints.restore(state_shapes(RECIPE), 6)
    moved = state.replace(params=state.params.at[3].add(1e-7))
    assert digests(moved)['params'] != digests(state)['params']
    assert digests(moved)['chains'] == digests(state)['chains']
    shutil.rmtree(run / 'checkpoints' / '6')
    with monkeypatch.context() as patch:  # as if the disk had changed it
        patch.setattr('ebm_jax.checkpoint.digests', lambda _: digests(state))
        with Checkpoints(run / 'checkpoints', 2) as checkpoints:
            checkpoints.save(moved)
    with Checkpoints(run / 'checkpoints', 2, read_only=True) as checkpoints:
        with pytest.raises(InputError, match='params differ from'):
            checkpoints.restore(state_shapes(RECIPE), 6)
        assert checkpoints.restore_eval_params()[0] == 4


@pytest.mark.parametrize('content', ['{"a"', '', '[]', None])
def test_a_damaged_summary_is_begun_anew_and_kept(content, tmp_path, capsys):
    path = tmp_path / 'summary.json'
    path.mkdir() if content is None else path.write_text(content)
    with pytest.warns(UserWarning, match='left out'):
        assert read_summary(tmp_path) == {}
    update_summary(tmp_path, {'step': 3})
    assert read_summary(tmp_path) == {'step': 3}
    assert len(list((tmp_path / DAMAGED).iterdir())) == 1
    assert 'is begun anew' in capsys.readouterr().err


@pytest.mark.parametrize('content', ['[{', '', '[{}]', '{}', '[3]', None])
def test_a_damaged_log_of_recoveries_is_refused(content, tmp_path):
    path = tmp_path / 'log.json'
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(InputError, match='put a copy back'):
        read_log(path)
    assert read_log(tmp_path / 'none.json') == []


def test_rows_that_are_none_are_left_out(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    rows = ['{"step": 1}', 'null', '{"loss": 3}', '\xff', '{"step": 2}']
    path.write_text('\n'.join([*rows, '{"step": 3, "lo']))  # the last one cut short
    found, problem = read_rows(path)
    assert [row['step'] for row in found] == [1, 2] and 'line 2' in problem
    path.write_text('{"step": 1}\n{"st')
    assert read_rows(path) == ([{'step': 1}], '')
    assert read_rows(tmp_path) == ([], read_rows(tmp_path)[1]) and read_rows(tmp_path)[1]


@pytest.mark.parametrize('found', [1, 3, '3'])
def test_a_checkpoint_of_another_version_says_so(found, base, tmp_path, monkeypatch):
    """An earlier one is read where it fits; a later one is refused as it is; what is no version is
    damage, though not of the state."""
    monkeypatch.setattr('ebm_jax.checkpoint.FORMAT', found)
    train(tmp_path, 2)
    monkeypatch.undo()
    template = state_shapes(RECIPE)
    says = {
        1: 'earlier version of ebm_jax .format 1, this is 2',
        3: 'later version .* 3',
        '3': 'it is damaged or of another configuration',
    }[found]
    with Checkpoints(tmp_path / 'checkpoints', 2, read_only=True) as checkpoints:
        if found != 3:
            assert digests(checkpoints.restore(template)) == base[1][2]
            template = template.replace(params={'other': template.params})
        with pytest.raises(InputError, match=says):
            checkpoints.restore(template)


def test_files_in_the_place_of_folders(base, tmp_path):
    run = copied(base, tmp_path)
    shutil.rmtree(run / 'tensorboard')
    (run / 'tensorboard').write_text('x')
    (run / '.lock').unlink()
    (run / '.lock').mkdir()
    with pytest.raises(InputError, match='remove it'):
        train(run, 8)
    (run / '.lock').rmdir()
    assert digests(train(run, 8)) == base[2]
    assert (run / 'tensorboard').is_dir() and list((run / DAMAGED).iterdir())
    (tmp_path / 'new').mkdir()
    (tmp_path / 'new' / 'checkpoints').write_text('x')
    with pytest.raises(InputError, match='is a file and not a folder'):
        train(tmp_path / 'new', 2)


def test_a_dead_network_is_told_from_a_living_one():
    def rows(gaps, losses):
        return [{'s_gap': g, 's_positives': 5.0, 'loss': x} for g, x in zip(gaps, losses)]

    assert is_dead(rows([0.0, 1e-7, 0.0], [2.3, 2.4, 2.3]))
    assert is_dead(rows([1.0, 2.0, 3.0], [2.3, 2.3, 2.3]))
    assert not is_dead(rows([0.0, 0.0, 0.1], [2.3, 2.4, 2.3]))
    assert is_dead([{'loss': 1.0}] * 3) and not is_dead([{'loss': 1.0}, {'loss': 2.0}])


def test_the_summary_says_whether_the_network_lives(base):
    summary = json.loads((base[0] / 'summary.json').read_text())
    assert summary['healthy'] is True
