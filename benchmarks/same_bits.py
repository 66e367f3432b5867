"""Do two versions of the code train the same models, to the last bit?

    python -m benchmarks.same_bits record --out=DIR [--root=CLONE] \\
        [--frames=data/phoneme_esl.npz] [--experiments=digits_st_jem,...]
    python -m benchmarks.same_bits compare --before=DIR --after=DIR [--rename=OLD=NEW ...]

`record` trains 60 steps of each family (seed 0, one CPU device) with the code of --root. `compare`
compares every metric of metrics.jsonl and every number of the last checkpoint, and ends with exit
code 1 where they differ. --rename says which metric or leaf has another name now.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

from ebm_jax.checkpoint import steps_in

STEPS = 60
RUNS = {  # experiment: steps of its schedule
    'digits_st_jem': 1200,
    'digits_jem': 1200,
    'digits_icd': 900,
    'digits_dual_mcmc': 2000,
    'vowels_st_jem': 1000,
    'phonemes_st_jem': 900,
}
TIMED = ('steps_per_second',)  # metrics that differ between any two runs


def record(
    out: pathlib.Path, root: pathlib.Path, frames: str | None, experiments: list[str]
) -> None:
    """Train runs of RUNS with the code in `root`."""
    environment = {**os.environ, 'JAX_NUM_CPU_DEVICES': '1', 'PYTHONPATH': str(root)}
    for name in experiments:
        if name.startswith('phonemes') and frames is None:
            continue
        settings = {
            'steps': STEPS,
            'optimizer.decay_steps': RUNS[name],
            'log_every': 5,
            'checkpoint_every': STEPS // 2,
            'picture_every': STEPS,
            'evaluate_every': STEPS // 2,
        }
        if name.startswith('phonemes'):
            settings['data.source'] = f'frames:{frames}'
        command = [sys.executable, '-m', f'experiments.{name}', f'--workdir={out / name}']
        command += [f'--config.{key}={value}' for key, value in settings.items()]
        subprocess.run(command, cwd=root, env=environment, check=True)


def metrics_of(workdir: pathlib.Path) -> dict[str, object]:
    """{'STEP/NAME': value} of metrics.jsonl."""
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return {
        f'{row["step"]}/{name}': value
        for row in rows
        for name, value in row.items()
        if name not in TIMED
    }


def numbers_of(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """{path: array} of the last checkpoint, whatever devices it was saved from."""
    checkpoints = (workdir / 'checkpoints').absolute()
    folder = checkpoints / str(max(steps_in(checkpoints))) / 'default'
    with ocp.PyTreeCheckpointer() as checkpointer:
        saved = checkpointer.metadata(folder).item_metadata.tree
        as_numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        state = checkpointer.restore(folder, restore_args=as_numpy)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
        for path, leaf in leaves
    }


def compare(before: pathlib.Path, after: pathlib.Path, renamed: dict[str, str]) -> bool:
    """Print what differs; whether nothing does."""

    def mapped(found):
        parts = {path: path.split('/') for path in found}
        return {
            '/'.join(renamed.get(part, part) for part in parts[path]): value
            for path, value in found.items()
        }

    old_runs, new_runs = (
        {path.name for path in folder.iterdir() if path.is_dir()} for folder in (before, after)
    )
    for name in sorted(old_runs ^ new_runs):
        print(f'{name}: only in {before if name in old_runs else after}')
    equal = old_runs == new_runs
    for workdir in sorted(before / name for name in old_runs & new_runs):
        for what, read in (('metrics', metrics_of), ('numbers of the checkpoint', numbers_of)):
            old, new = mapped(read(workdir)), read(after / workdir.name)
            differing = [
                path
                for path in sorted(old.keys() | new.keys())
                if path not in old
                or path not in new
                or not np.array_equal(np.asarray(old[path]), np.asarray(new[path]))
            ]
            equal &= not differing
            print(f'{workdir.name}: {len(old)} {what}, {len(differing)} differ', *differing[:20])
    return equal


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('task', choices=('record', 'compare'))
    parser.add_argument('--out', type=pathlib.Path)
    parser.add_argument('--root', type=pathlib.Path, default=pathlib.Path.cwd())
    parser.add_argument('--frames')
    parser.add_argument('--experiments', default=','.join(RUNS))
    parser.add_argument('--before', type=pathlib.Path)
    parser.add_argument('--after', type=pathlib.Path)
    parser.add_argument('--rename', action='append', default=[])
    options = parser.parse_args()
    if options.task == 'record':
        frames = options.frames and str(pathlib.Path(options.frames).absolute())
        record(
            options.out.absolute(),
            options.root.absolute(),
            frames,
            options.experiments.split(','),
        )
        return
    renamed = dict(pair.split('=', 1) for pair in options.rename)
    sys.exit(not compare(options.before, options.after, renamed))


if __name__ == '__main__':
    main()
