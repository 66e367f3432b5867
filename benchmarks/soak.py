"""A long run in pieces that are killed: do memory, open files, disk or the time of a step grow?

    python -m benchmarks.soak --workdir=runs/soak --experiment=digits_st_jem --pieces=10 -- \\
        --config.steps=50000 --config.checkpoint_every=500

What follows -- goes to the experiment. Each piece but the last is a process of its own that is
killed (SIGKILL) once it has reached its share of the steps. Memory (resident), open files, threads
and the disk that the run's folder takes are read every second. Writes WORKDIR/soak.json and prints
a table: the first and last fifth of the first and of the last piece, and the first and last tenth
of the steps' rate.
"""

import math
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

from absl import app, flags
from tqdm.auto import tqdm

from ebm_jax.record import read_rows, write_json

FLAGS = flags.FLAGS
flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
flags.DEFINE_string('experiment', 'digits_st_jem', 'Which experiment.')
flags.DEFINE_integer('pieces', 10, 'Processes, one after the other.', 1)


def status(pid: int, run: pathlib.Path) -> dict[str, float]:
    """What the process and its folder take now."""
    process = pathlib.Path('/proc') / str(pid)
    lines = (process / 'status').read_text().splitlines()
    values = dict(line.split(':', 1) for line in lines)
    # os.walk leaves out what is removed while it looks
    sizes = [
        _size(os.path.join(folder, name)) for folder, _, names in os.walk(run) for name in names
    ]
    return {
        'memory_mb': int(values['VmRSS'].split()[0]) / 1024,
        'threads': int(values['Threads']),
        'open_files': len(os.listdir(process / 'fd')),
        'files': len(sizes),
        'disk_mb': sum(sizes) / 2**20,
    }


def _size(file):
    try:
        return os.path.getsize(file)
    except FileNotFoundError:  # a checkpoint that has made room for a newer one
        return 0


def newest(run: pathlib.Path) -> int:
    """The last step that was logged."""
    rows, _ = read_rows(run / 'metrics.jsonl')
    return rows[-1]['step'] if rows else 0


def piece(command: list[str], run: pathlib.Path, until: int | None) -> list[dict[str, float]]:
    """Run until a step is logged, then kill; None: to the end. Returns what was seen."""
    process, seen = subprocess.Popen(command, stdout=subprocess.DEVNULL), []
    while process.poll() is None:
        time.sleep(1)
        step = newest(run)
        try:
            seen.append({'step': step, **status(process.pid, run)})
        except (FileNotFoundError, ProcessLookupError, KeyError):  # it has just ended
            continue
        if until is not None and step >= until:
            process.kill()
    if process.wait() not in (0, -signal.SIGKILL):
        sys.exit(f'a piece ended with exit code {process.returncode}')
    return seen


def main(arguments: list[str]) -> None:
    root = pathlib.Path(FLAGS.workdir)
    run = root / 'run'
    given = [
        sys.executable,
        '-m',
        f'experiments.{FLAGS.experiment}',
        f'--workdir={run}',
        *arguments[1:],
    ]
    asked = [one.partition('=')[2] for one in arguments if one.startswith('--config.steps=')]
    if not asked:
        sys.exit('give --config.steps=N after --')
    steps = int(asked[-1])
    pieces = []
    for i in tqdm(range(FLAGS.pieces), unit='piece'):
        last = i == FLAGS.pieces - 1
        pieces.append(piece(given, run, None if last else steps * (i + 1) // FLAGS.pieces))
        write_json(root / 'soak.json', {'command': given[1:], 'pieces': pieces})
    rows, _ = read_rows(run / 'metrics.jsonl')
    rates = [row['steps_per_second'] for row in rows if row.get('steps_per_second')]
    tenth = max(1, len(rates) // 10)
    print(f'steps {newest(run):,}; rows of metrics {len(rows):,}')
    print(
        f'{"":<24}{"first piece":>16}{"":>10}{"last piece":>16}\n'
        f'{"":<24}{"begins":>12}{"ends":>12}{"begins":>14}{"ends":>12}'
    )
    for name in ('memory_mb', 'open_files', 'threads', 'files', 'disk_mb'):
        cells = []
        for seen in (pieces[0], pieces[-1]):
            trained = [one[name] for one in seen if one['step'] > seen[0]['step']] or [math.nan]
            fifth = max(1, len(trained) // 5)
            cells += [statistics.median(trained[:fifth]), statistics.median(trained[-fifth:])]
        print(f'{name:<24}{cells[0]:>12.1f}{cells[1]:>12.1f}{cells[2]:>14.1f}{cells[3]:>12.1f}')
    print(
        f'{"steps per second":<24}{statistics.median(rates[:tenth]):>12.1f}{"":>26}'
        f'{statistics.median(rates[-tenth:]):>12.1f}'
    )


if __name__ == '__main__':
    app.run(main)
