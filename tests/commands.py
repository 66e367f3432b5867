"""Runs commands as a user types them: in a process of their own, or in this one on its existing
devices."""

import importlib
import os
import pathlib
import re
import shlex
import subprocess
import sys

from experiments.common import launch

ROOT = pathlib.Path(__file__).parent.parent

# four steps of dual-MCMC teaching with small networks
SHORT_DUAL_MCMC = [
    '--config.steps=4',
    '--config.batch_size=16',
    '--config.loss.num_negatives=16',
    '--config.log_every=2',
    '--config.checkpoint_every=4',
    '--config.x_chain.num_steps=2',
    '--config.z_chain.num_steps=2',
    '--config.fresh.num_steps=3',
    '--config.test_z.num_steps=2',
    '--config.test_z.inpaint_steps=3',
    '--config.network.energy_widths=(4,)',
    '--config.network.energy_down=(True,)',
    '--config.network.generator_widths=(4,4)',
    '--config.network.inference_widths=(4,)',
    '--config.network.inference_strides=(2,)',
    '--config.evaluate_every=0',
    '--config.latent_dim=5',
]


def command(*arguments, devices=None):
    environment = {**os.environ, **({'JAX_NUM_CPU_DEVICES': devices} if devices else {})}
    return subprocess.run(
        [sys.executable, '-m', *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        env=environment,
    )


def succeed(*arguments, devices=None):
    """Run a command that must succeed."""
    done = command(*arguments, devices=devices)
    assert done.returncode == 0, done.stderr
    return done


def in_process(monkeypatch, capsys, name, *arguments):
    """Run a command in this process, on its existing devices, and return what it printed."""
    run_in_process(monkeypatch, name, *arguments)
    return capsys.readouterr().out


def run_in_process(monkeypatch, name, *arguments):
    module = importlib.import_module(name)
    # as conftest has it; the launcher then leaves devices alone
    monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '8')
    monkeypatch.setattr(sys, 'argv', [name, *arguments])
    launch.main(module.run, module.define, '') if hasattr(module, 'define') else launch.train(name)


def assert_one_sentence(monkeypatch, capsys, says, name, *arguments):
    """The command ends with exit code 2 and one line that says so."""
    try:
        in_process(monkeypatch, capsys, name, *arguments)
    except SystemExit as end:
        assert end.code == 2
    else:
        raise AssertionError(f'{name} {arguments} was not refused')
    # as a terminal shows it: what follows the last carriage return of each line
    lines = capsys.readouterr().err.strip().split('\n')
    message = [line.rsplit('\r', 1)[-1] for line in lines]
    assert len(message) == 1 and message[0].startswith('error: ') and says in message[0], message


def commands_of(path):
    """The commands in the indented and fenced blocks of a document, in order."""
    lines = iter((ROOT / path).read_text().splitlines())
    for line in lines:
        text = line.strip()
        if not re.match(r'\s*(?:[A-Z_]+=\S+ )*(?:python -m|make) ', line):
            continue
        while text.endswith('\\'):
            text = text[:-1] + next(lines).strip()
        yield shlex.split(text, comments=True)
