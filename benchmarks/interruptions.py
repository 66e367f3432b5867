"""Runs that are killed at a random moment and continued: do they end with the same bits as one that
was never interrupted?

    python -m benchmarks.interruptions --workdir=runs/interruptions \\
        --experiment=digits_st_jem --signal=KILL --runs=20 -- --config.steps=200

What follows -- goes to the experiment. Each run is a process of its own, gets the signal at a
moment drawn uniformly over the time that the uninterrupted run took, and is then continued by the
same command. Every number of the last checkpoint is compared. TERM must also end with exit code 143
and leave a checkpoint of the step that it reports.
"""

import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
from absl import app, flags, logging

from benchmarks.same_bits import numbers_of

FLAGS = flags.FLAGS
flags.DEFINE_string('workdir', None, 'Folder of the runs.', required=True)
flags.DEFINE_string('experiment', 'digits_st_jem', 'Which experiment.')
flags.DEFINE_enum('signal', 'KILL', ['KILL', 'TERM'], 'What is sent.')
flags.DEFINE_integer('runs', 20, 'How many runs are interrupted.', 1)
flags.DEFINE_integer('seed', 0, 'Seed of the moments.')


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Whether two checkpoints hold the same numbers."""
    return a.keys() == b.keys() and all(
        np.array_equal(a[name], b[name], equal_nan=True) for name in a
    )


def main(arguments: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)  # orbax logs a lot
    root, number = pathlib.Path(FLAGS.workdir), getattr(signal, f'SIG{FLAGS.signal}')

    def command(workdir):
        return [
            sys.executable,
            '-m',
            f'experiments.{FLAGS.experiment}',
            f'--workdir={workdir}',
            *arguments[1:],
        ]

    def run(workdir):
        return subprocess.run(command(workdir), capture_output=True, text=True, check=True)

    run(root / 'warm')  # fills the cache of compiled programs, where one is set
    began = time.perf_counter()
    run(root / 'whole')
    seconds, whole = time.perf_counter() - began, numbers_of(root / 'whole')
    moments, good = random.Random(FLAGS.seed), 0
    for i in range(FLAGS.runs):
        workdir, moment = root / f'{FLAGS.signal.lower()}_{i}', moments.uniform(0, seconds)
        process = subprocess.Popen(
            command(workdir), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            out, err = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            out, err = process.communicate()
        said = re.search(r'Stopped by SIGTERM after step (\d+)', out)
        # ended before the signal, by it before it is handled, or as a run that is stopped ends
        fine = process.returncode in (0, -number, 143)
        if said:
            step = said.group(1)  # before the first there is nothing to save
            fine = process.returncode == 143 and (
                step == '0' or (workdir / 'checkpoints' / step).is_dir()
            )
        if fine:
            run(workdir)
            fine = same(whole, numbers_of(workdir))
        good += fine
        how = f'said {said.group(0)!r}' if said else f'exit code {process.returncode}'
        end = 'the same bits' if fine else f'NOT THE SAME {err[-300:]}'
        print(
            f'{i + 1}: {FLAGS.signal} after {moment:.1f} of {seconds:.1f} s, {how}: {end}',
            flush=True,
        )
    print(
        f'{FLAGS.experiment}: {good} of {FLAGS.runs} runs interrupted by SIG{FLAGS.signal} ended'
        ' with the bits of the uninterrupted one'
    )
    sys.exit(good != FLAGS.runs)


if __name__ == '__main__':
    app.run(main)
