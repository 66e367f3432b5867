"""The accelerator benchmark, with small networks on the CPU."""

import json
import os
import subprocess
import sys

import pytest
from commands import ROOT

from benchmarks import accelerator


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
    assert (tmp_path / 'weights.npz').exists()


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


def test_the_torch_part_has_the_same_energies(tmp_path):
    """Where PyTorch is installed; it checks its energies against ours by itself."""
    pytest.importorskip('torch', reason='PyTorch is not installed')
    accelerator.chain(tmp_path, True, 4, 'float32', 1)
    run = subprocess.run(
        [sys.executable, '-m', 'benchmarks.accelerator', f'--out={tmp_path}', '--worker=torch']
        + ['--arguments={"small": true, "chains": 4}'],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])['eager'] > 0
