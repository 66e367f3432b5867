"""The report of a run whose disk is full."""

import json
import resource
import signal
import subprocess
import sys

import pytest
from commands import ROOT

from experiments.common import report


@pytest.mark.slow
def test_a_report_that_cannot_be_written_ends_nothing(tmp_path):
    """A limit on the size of files, in a process of its own; no part of a file is left, and what
    was there stays."""
    (tmp_path / 'config.json').write_text(json.dumps({'experiment': 'experiments.own'}))
    (tmp_path / 'summary.json').write_text(json.dumps({'step': 1}))
    before = report.write(tmp_path).read_text()
    (tmp_path / 'summary.json').write_text(json.dumps({'step': 2}))

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    program = f'from experiments.common import report; report.refresh({str(tmp_path)!r}); print(3)'
    done = subprocess.run(
        [sys.executable, '-B', '-c', program],
        cwd=ROOT,
        preexec_fn=limited,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.strip() == '3', done.stderr
    assert 'the report could not be written: ' in done.stderr and 'File too large' in done.stderr
    assert (tmp_path / 'report.html').read_text() == before
    assert not list(tmp_path.glob('*.part'))
