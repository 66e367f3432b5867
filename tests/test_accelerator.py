"""The accelerator benchmark, with small networks on the CPU."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
from commands import ROOT

from benchmarks import accelerator, turns


@pytest.mark.slow
def test_what_is_done_is_written_and_an_early_end_loses_nothing(tmp_path, monkeypatch):
    """A part that works, one that fails and one for which no time is left, each told in the file
    and in the table."""
    monkeypatch.chdir(ROOT)
    parts = [('chain', {'chains': 4, 'dtype': 'bfloat16', 'unroll': 5}, '')]
    parts += [('step', {'experiment': 'no_such'}, ''), ('data', {}, '')]
    monkeypatch.setattr(accelerator, 'cases', lambda small, gpu: parts)
    monkeypatch.setattr(accelerator, 'SHORTEST', 1e9)
    told = accelerator.run_all(tmp_path / 'none', 1, None)
    assert [row['problem'] for row in told] == ['no time left'] * 3
    monkeypatch.setattr(accelerator, 'SHORTEST', 0)
    monkeypatch.setattr(accelerator, 'cases', lambda small, gpu: parts[:2])
    accelerator.run_all(tmp_path, 3, None)
    chain, broken = json.loads((tmp_path / 'accelerator.json').read_text())
    assert chain['result']['ms_per_step'] > 0 and chain['result']['tflops'] > 0
    assert broken['result'] is None and 'no_such' in broken['problem']
    lines = (tmp_path / 'table.md').read_text().splitlines()
    assert lines[2].startswith('| chain 4 bfloat16 5 |') and 'no_such' in lines[3]


@pytest.mark.parametrize('experiment', ['cifar10_jem', 'cifar10_dual_mcmc'])
def test_train_steps_are_built_small(experiment):
    recipe = accelerator.built(experiment, small=True).recipe
    assert len(recipe.batch_at(0)['x']) == 8


def test_unrolling_and_flags_come_after_the_main_figures():
    parts = accelerator.cases(small=False, gpu=True)
    order = [part for part, _, _ in parts]
    assert order[:2] == ['rate', 'chain'] and order.index('data') < order.index('chain', 8)
    chains = [arguments for part, arguments, _ in parts if part == 'chain']
    assert {row['chains'] for row in chains} == {16, 64, 256}
    assert {row['unroll'] for row in chains} == {1, 2, 5}
    assert {flags for _, _, flags in parts} == {'', '--xla_gpu_enable_command_buffer='}


def test_two_processes_are_timed_in_turn(tmp_path):
    """Each call of one follows a call of the other; the seconds are those of the call; a process
    that does not start is told by its last words."""
    log = tmp_path / 'log'
    program = (
        'import sys, time\nfrom benchmarks import turns\n'
        'def run(seconds):\n'
        '    open(sys.argv[1], "a").write(sys.argv[2])\n'
        '    time.sleep(seconds)\n'
        'turns.serve(run, sys.argv[2])\n'
    )
    workers = {
        name: turns.Worker(
            [sys.executable, '-c', program, str(log), name], {**os.environ, 'PYTHONPATH': str(ROOT)}
        )
        for name in 'AB'
    }
    assert workers['B'].version == 'B'
    a, b = partial(workers['A'].time, 0.05), partial(workers['B'].time, 0.1)
    rounds = turns.in_turn({'A': a, 'B': b}, 3)
    for worker in workers.values():
        worker.close()
    assert log.read_text() == 'ABABABAB'  # the first AB compiles
    assert len(rounds) == 3 and all(each['A'] >= 0.05 and each['B'] >= 0.1 for each in rounds)
    assert turns.ratio([{'A': 1, 'B': 2}, {'A': 1, 'B': 3}, {'A': 2, 'B': 2}], 'B', 'A') == 2
    with pytest.raises(RuntimeError, match='ended without a word'):
        workers['A'].time(0)
    with pytest.raises(RuntimeError, match="No module named 'nothing_like_it'"):
        turns.Worker([sys.executable, '-c', 'import nothing_like_it'])


@pytest.mark.slow
def test_the_torch_part_has_the_same_energies(tmp_path):
    """Where PyTorch is at hand (EBM_JAX_TORCH: a Python that has it); it checks its energies
    against ours by itself."""
    python = os.environ.get('EBM_JAX_TORCH', sys.executable)
    there = subprocess.run([python, '-c', 'import torch'], capture_output=True).returncode == 0
    if not there:
        pytest.skip('PyTorch is not installed (EBM_JAX_TORCH names a Python that has it)')
    found = accelerator.torch_chain(tmp_path, True, 4, python)
    assert found['eager'] > 0 and found['ebm_jax, bfloat16'] > 0
    ratios = [found[f'{name} / ours'] for name in ('eager', 'bfloat16', 'bfloat16, compiled')]
    assert found['best ratio'] <= min(ratios)
