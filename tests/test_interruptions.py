"""Real processes that are killed, stopped, given a full disk or a workdir that another one holds;
and several that share a run."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from commands import ROOT

ENVIRONMENT = {**os.environ, 'PYTHONPATH': str(ROOT)}


def start(workdir, *options, devices=1, before=()):
    return subprocess.Popen(
        [
            *before,
            sys.executable,
            str(ROOT / 'tests' / 'short_run.py'),
            f'--workdir={workdir}',
            *options,
        ],
        env={**ENVIRONMENT, 'JAX_NUM_CPU_DEVICES': str(devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workdir, *options, devices=1):
    process = start(workdir, *options, devices=devices)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return out


def wait_for_step(workdir, step):
    """Until metrics.jsonl has that step."""
    deadline = time.monotonic() + 60
    file = workdir / 'metrics.jsonl'
    while not (file.exists() and f'"step": {step},' in file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def numbers(workdir, step):
    checkpointer, folder = ocp.PyTreeCheckpointer(), workdir / 'checkpoints' / str(step) / 'default'
    as_numpy = jax.tree.map(
        lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray),
        checkpointer.metadata(folder).item_metadata.tree,
    )
    # whatever devices it was saved from
    state = checkpointer.restore(folder, restore_args=as_numpy)
    return (
        np.asarray(state['params']),
        np.asarray(state['chains']['walk']),
        np.asarray(state['opt_state'][0]['nu']),
    )


def rows(workdir):
    return [
        {**json.loads(line), 'steps_per_second': 0}
        for line in (workdir / 'metrics.jsonl').read_text().splitlines()
    ]


def assert_same_end(whole, workdir, step=40):
    chex.assert_trees_all_equal(numbers(whole, step), numbers(workdir, step))
    assert rows(whole) == rows(workdir)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('whole')
    finish(workdir)
    return workdir


@pytest.mark.parametrize('step', [3, pytest.param(17, marks=pytest.mark.slow)])
def test_a_killed_run_continues_to_the_same_bits(whole, tmp_path, step):
    process = start(tmp_path)
    wait_for_step(tmp_path, step)
    process.kill()
    process.communicate()
    finish(tmp_path)
    assert_same_end(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('sent', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_and_the_command_continues(whole, tmp_path, sent):
    process = start(tmp_path)
    wait_for_step(tmp_path, 12)
    process.send_signal(sent)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 128 + sent and 'Traceback' not in err
    step = int(
        re.search(
            rf'Stopped by {sent.name} after step (\d+); the same command continues', out
        ).group(1)
    )
    assert step >= 12 and (tmp_path / 'checkpoints' / str(step)).is_dir()
    assert f'from step {step}' in finish(tmp_path)
    assert_same_end(whole, tmp_path)


@pytest.mark.slow
def test_a_workdir_has_one_writer(whole, tmp_path):
    first = start(tmp_path)
    wait_for_step(tmp_path, 2)
    first.send_signal(signal.SIGSTOP)  # or it might end before the second one looks
    second = start(tmp_path)
    _, err = second.communicate(timeout=60)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2 and len(err.strip().splitlines()) == 1
    assert f'{tmp_path} is being written by another run (process {first.pid} on' in err
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert_same_end(whole, tmp_path)


@pytest.mark.slow
def test_a_clock_that_goes_back_changes_nothing(whole, tmp_path):
    process = start(tmp_path)
    wait_for_step(tmp_path, 12)
    process.kill()
    process.communicate()
    finish(tmp_path, '--clock=-86400')
    assert_same_end(whole, tmp_path)


OF_USER = () if os.geteuid() == 0 else ('--user', '--preserve-credentials')
OWN_MOUNTS = 'unshare', *(() if os.geteuid() == 0 else ('--map-root-user',)), '--mount'


def mounts_can_be_made():
    tried = subprocess.run([*OWN_MOUNTS, 'mount', '-t', 'tmpfs', 'x', '/mnt'], capture_output=True)
    return tried.returncode == 0


needs_mounts = pytest.mark.skipif(not mounts_can_be_made(), reason='no right to mount here')


@pytest.mark.slow
@needs_mounts
def test_a_folder_that_becomes_read_only_ends_the_run_and_keeps_what_was_there(whole, tmp_path):
    process = start(tmp_path, before=OWN_MOUNTS)
    wait_for_step(tmp_path, 9)
    process.send_signal(signal.SIGSTOP)  # or it might end before its folder is read-only
    folder = tmp_path / 'checkpoints'
    over = f'mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}'
    subprocess.run(
        ['nsenter', f'--target={process.pid}', *OF_USER, '--mount', 'sh', '-c', over],
        check=True,
    )
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    said = re.findall(r'\berror: [^\n]*', err)
    assert len(said) == 1 and 'Read-only file system' in said[0] and 'permissions' in said[0], err
    last = max(int(found.name) for found in folder.iterdir() if found.name.isdigit())
    assert last >= 5 and f'from step {last}' in finish(tmp_path)
    assert_same_end(whole, tmp_path)


@pytest.mark.slow
@needs_mounts
def test_a_disk_that_fills_up_ends_the_run_and_keeps_what_was_there(tmp_path):
    """A small file system, full but for a few lines of metrics.jsonl: these come first."""
    options = '--numbers=10', '--steps=10'
    finish(tmp_path / 'whole', *options)
    finish(tmp_path / 'run', options[0], '--steps=5')
    small = tmp_path / 'small'
    small.mkdir()
    fill = (
        f'mount -t tmpfs -o size=2m x {small} && cp -r {tmp_path}/run {small} && '
        f'dd if=/dev/zero of={small}/filler bs=4k 2> /dev/null; "$@"; code=$?; '
        f'rm {small}/filler; cp -r {small}/run {tmp_path}/after; exit $code'
    )
    before = *OWN_MOUNTS, 'sh', '-c', fill, 'sh'
    process = start(small / 'run', *options, before=before)
    _, err = process.communicate(timeout=60)
    said = re.findall(r'\berror: [^\n]*', err)
    assert process.returncode == 1 and len(said) == 1, err[-2000:]
    assert 'No space left' in said[0] and 'room on the disk' in said[0]
    assert 'from step 5' in finish(tmp_path / 'after', *options)
    assert_same_end(tmp_path / 'whole', tmp_path / 'after', 10)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_keeps_what_was_there(tmp_path):
    """A limit on the size of files, as of a quota, comes in when the run is continued."""
    # in blocks of 512 bytes, in some shells 1024
    limited = 'sh', '-c', 'ulimit -f 40 && exec "$@"', 'sh'
    options = '--numbers=30000', '--steps=10'
    finish(tmp_path / 'whole', *options)
    finish(tmp_path / 'run', options[0], '--steps=5')
    process = start(tmp_path / 'run', *options, before=limited)
    out, err = process.communicate(timeout=60)
    # tensorstore's own threads say more, sometimes within the line
    said = re.findall(r'\berror: [^\n]*', err)
    assert process.returncode == 1 and len(said) == 1, err[-2000:]
    assert (
        'cannot be written' in said[0]
        and 'File too large' in said[0]
        and 'room on the disk' in said[0]
    )
    assert 'from step 5' in finish(tmp_path / 'run', *options)
    assert_same_end(tmp_path / 'whole', tmp_path / 'run', 10)


@pytest.fixture(scope='module')
def four_devices(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('four')
    finish(workdir, devices=4)
    return workdir


def start_several(workdir, *options, n=2):
    """n processes, of four devices in all, that share a run."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    shared = [f'--coordinator=localhost:{port}', f'--processes={n}']
    return [start(workdir, *options, *shared, f'--process={i}', devices=4 // n) for i in range(n)]


def assert_near_end(whole, workdir, step=40):
    chex.assert_trees_all_close(numbers(whole, step), numbers(workdir, step), rtol=1e-5)
    for a, b in zip(rows(whole), rows(workdir), strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5)


@pytest.mark.slow
def test_two_processes_of_two_devices_are_one_of_four_and_the_run_is_theirs_to_share(
    tmp_path, four_devices
):
    """Begun by two, stopped by a signal to the second, continued by four, ended by one; against one
    process with four devices."""
    shared = tmp_path / 'shared'
    pair = start_several(shared)
    wait_for_step(shared, 7)
    pair[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=60) for process in pair]
    assert [process.returncode for process in pair] == [143, 143], said
    step = int(re.search(r'Stopped by SIGTERM after step (\d+)', said[0][0]).group(1))
    assert 7 <= step < 39 and f'after step {step}' in said[1][0]
    later = (step + 40) // 2
    four = start_several(shared, f'--steps={later}', n=4)
    said = [process.communicate(timeout=60) for process in four]
    assert [process.returncode for process in four] == [0, 0, 0, 0], said
    assert f'from step {step}' in said[0][0] and 'from step' not in said[1][0]
    assert f'from step {later}' in finish(shared, devices=4)
    assert_near_end(four_devices, shared)


def wait_for_a_checkpoint(workdir, step):
    """Until that checkpoint is there, in part or whole."""
    deadline = time.monotonic() + 60
    while not list((workdir / 'checkpoints').glob(f'{step}*')):
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize('moment', ['start', 'step', 'checkpoint'])
def test_when_one_of_two_processes_dies_the_other_ends_and_the_rerun_continues(
    moment, tmp_path, four_devices
):
    shared = tmp_path / 'shared'
    pair = start_several(shared, *(['--wait=5'] if moment == 'start' else []))
    if moment == 'step':
        wait_for_step(shared, 12)
    elif moment == 'checkpoint':
        wait_for_a_checkpoint(shared, 10)
    pair[0].kill()
    _, err = pair[1].communicate(timeout=60)
    pair[0].communicate()
    assert pair[1].returncode != 0
    says = 'start all of them again with the same commands'
    assert says in err.strip().splitlines()[-1], err
    pair = start_several(shared)
    said = [process.communicate(timeout=60) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert_near_end(four_devices, shared)


@pytest.mark.parametrize(
    'options, says',
    [
        (['--processes=2', '--process=0'], 'together'),
        (['--coordinator=localhost:1', '--processes=2', '--process=2'], 'below --processes=2'),
    ],
)
def test_flags_of_processes_that_do_not_fit(tmp_path, options, says):
    process = start(tmp_path, *options)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and says in err and len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_signal_during_compilation_is_answered_at_once(tmp_path):
    """The main thread is in the compiler and sees no signal."""
    environment = {**ENVIRONMENT, 'XDG_CACHE_HOME': str(tmp_path), 'JAX_NUM_CPU_DEVICES': '1'}
    arguments = ['-m', 'experiments.digits_icd', f'--workdir={tmp_path}/run']
    process = subprocess.Popen(
        [sys.executable, *arguments], env=environment, stderr=subprocess.PIPE, cwd=ROOT
    )
    said = b''
    while b'compiling, ' not in said:
        said += os.read(process.stderr.fileno(), 4096)
        assert process.poll() is None, said.decode()
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM
    assert 'SIGTERM: stopped before step 1; the same command begins there again' in rest.decode()
    assert (tmp_path / 'run' / 'metrics.jsonl').read_text() == ''
