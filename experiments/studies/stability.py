"""How often training diverges: whole runs side by side, over seeds, learning rates, chain lengths
and step sizes, on the built-in digits, other images, or speech.

    python -m experiments.studies.stability --workdir=runs/stability [--config.seeds=5]
    python -m experiments.studies.stability --workdir=runs/of_phonemes \\
        --config.data=frames:data/phoneme_esl.npz --config.systems='("jem","st_jem")'
    python -m experiments.studies.stability --workdir=runs/wide --config.network=wide_resnet \\
        --config.systems='("jem","st_jem")' --config.num_steps='(20,)' --config.optimizer=sgd

All runs of one system and one K are one program: mapped by `vmap`, on the CPU one after the other
(`lax.map`), which is twice as fast there, since convolutions are slow where each run has kernels of
its own. A run counts as diverged at the first step that is not healthy: a metric, gradient or
parameter that is not finite, or the system's own limit (JEM [code]: a loss beyond 1e8; contrastive
divergence, ICD [code]: |mean E+| beyond 10; dual-MCMC, ours: a gap beyond 100). Of the diverged
runs, up to `guarded` of each setting are then trained again, one by one, with the guard on.
Intervals are Wilson's, 95 %; the share of a system's runs, over all its settings together, that
have not diverged after so many steps is Kaplan and Meier's estimate. Writes stability.txt,
stability.json, heat maps (stability.png) and survival.png; rerunning the command continues.

JEM and DAT: three layers of 32, 64, 128 channels, without normalisation (JEM also WRN-10-2 or two
hidden layers of 256 units, SGD with momentum .9, and mutual information), batch 64, 64 negatives,
Adam, buffer 2,000, noise .01, no clamp. On speech: the network, features and noise of
`phonemes_st_jem` (frames:) or `spoken_digits_st_jem` (fsdd:, windows of log-mel features, without
masks), chains from their normal distribution. DAT: steps of .2 down the energy, its classifier
attacked by PGD (5 steps, L2 radius .5).
"""

import json
import pathlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from ebm_jax import data
from ebm_jax import devices as across
from ebm_jax.errors import Diverged, InputError
from ebm_jax.evaluate import figures
from ebm_jax.fit import fit
from ebm_jax.guard import RecoveryAction
from ebm_jax.images import as_float
from ebm_jax.process import exclusive_lock
from ebm_jax.record import update_summary, write_json
from ebm_jax.train import init_state, make_local_step
from ebm_jax.types import Params
from experiments.common import launch, settings
from experiments.common.cores import use_all_cores
from experiments.common.section import share_interval
from experiments.studies import arms
from experiments.studies.stability_figures import Row, heat_maps, survival_curves
from experiments.studies.systems import (
    ADJUSTABLE,
    BATCH,
    OPTIMIZERS,
    Grid,
    Setting,
    Task,
    clipped,
    name_of,
    recipe,
    task_of,
)

CHUNK = 20  # steps of all runs in one call
GIVE = '--config.systems=\'("jem","st_jem")\''
WITH_CLASSIFIER = ('jem', 'st_jem', 'dat')


def train_side_by_side(
    system: str, num_steps: int, cases: Sequence[tuple[float, float, int]], c: Grid, task: Task
) -> tuple[dict[str, np.ndarray], Params]:
    """All cases (learning rate, step size, seed) of one system and one K.

    Returns: ({metric: [steps, cases]}, final params [cases, ...]).
    """
    devices = jax.local_devices()
    filled = [*cases, *[cases[-1]] * (-len(cases) % len(devices))]
    rates, sizes, seeds = (jnp.asarray(column) for column in zip(*filled))
    which = np.asarray(seeds)

    def batches_at(step):
        rows = [data.batch_at(task.train, step, BATCH, seed) for seed in range(c.seeds)]
        return jax.tree.map(lambda *leaves: np.stack(leaves)[which], *rows)

    def split(tree, axis=0):
        """[..., runs, ...] -> [..., devices, runs of a device, ...], runs along `axis`."""

        def leaf(x):
            return x.reshape(*x.shape[:axis], len(devices), -1, *x.shape[axis + 1 :])

        return jax.tree.map(leaf, tree)

    def batches(steps):
        """[steps, devices, runs of a device, ...]"""
        return split(jax.tree.map(lambda *leaves: np.stack(leaves), *map(batches_at, steps)), 1)

    first = recipe(task, Setting(system, num_steps, *cases[0][:2]))
    state = split(jax.vmap(lambda seed: init_state(jax.random.key(seed), first))(seeds))
    rates, sizes = split((rates, sizes))

    def one_step(case):
        rate, size, state, batch = case
        with across.independent():
            step = make_local_step(recipe(task, Setting(system, num_steps, rate, size)))
            state, metrics = step(state, batch)
        return state, {name: metrics[name] for name in ('healthy', 's_positives', 's_gap')}

    @partial(jax.pmap, devices=devices, in_axes=(0, 0, 0, 1), out_axes=(0, 1))
    def advance(state, rates, sizes, batches):
        one_by_one = devices[0].platform == 'cpu'
        each = partial(jax.lax.map, one_step) if one_by_one else jax.vmap(one_step)
        return jax.lax.scan(lambda state, batch: each((rates, sizes, state, batch)), state, batches)

    found = []
    title = f'{system}, K = {num_steps}, {len(cases)} runs'
    for begin in tqdm(range(0, c.steps, CHUNK), desc=title, unit='chunk'):
        steps = range(begin, min(begin + CHUNK, c.steps))
        state, metrics = advance(state, rates, sizes, batches(steps))
        found.append(jax.device_get(metrics))

    def join(leaves, axis):
        """Of the runs that were asked for, as they were before `split`."""
        merged = leaves.reshape(*leaves.shape[:axis], -1, *leaves.shape[axis + 2 :])
        return merged[(slice(None),) * axis + (slice(len(cases)),)]

    metrics = jax.tree.map(lambda *leaves: join(np.concatenate(leaves), 1), *found)
    return metrics, jax.tree.map(lambda leaf: join(leaf, 0), state.params)


def accuracy(params: Params, task: Task) -> float:
    """Accuracy on the test set."""

    @jax.jit
    def of_all(params, x):
        return jax.lax.map(partial(task.network.apply, params), x, batch_size=500)

    logits = of_all(params, as_float(task.test.x))
    return float(np.mean(np.argmax(logits, 1) == task.test.y))


def runs_of(system: str, num_steps: int, c: Grid, task: Task) -> dict[str, Row]:
    """{name: row} of the runs of one system and one K, without the guard."""
    cases = [
        (rate, size, seed)
        for rate in c.learning_rates
        for size in c.step_sizes
        for seed in range(c.seeds)
    ]
    metrics, params = train_side_by_side(system, num_steps, cases, c, task)
    found = {}
    for i, (rate, size, seed) in enumerate(cases):
        unhealthy = np.flatnonzero(~metrics['healthy'][:, i])
        row: Row = {'diverged_at': None, 'accuracy': None, 'gap': None}
        if len(unhealthy):
            row['diverged_at'] = int(unhealthy[0]) + 1
        else:
            trace = metrics['s_gap'][:, i][::10]
            row['gap'] = float(np.median(np.abs(trace[-len(trace) // 5 :])))
        if system in WITH_CLASSIFIER:
            row['accuracy'] = accuracy(jax.tree.map(lambda leaf, i=i: leaf[i], params), task)
        found[name_of(Setting(system, num_steps, rate, size), seed)] = row
    return found


def guarded_run(workdir: pathlib.Path, one: Setting, seed: int, c: Grid, task: Task) -> Row:
    """The same run by `fit`, with the guard on."""
    changed, actions = one, [RecoveryAction('other random numbers')]
    # as the experiments have it, but for their last, smaller steps
    for name in ('K x 2', 'learning rate x 0.5') * 2:
        if name == 'K x 2':
            changed = changed._replace(num_steps=2 * changed.num_steps)
        else:
            changed = changed._replace(learning_rate=changed.learning_rate / 2)
        actions.append(RecoveryAction(name, partial(recipe, task, changed, seed)))
    try:
        state = fit(
            recipe(task, one, seed),
            workdir=workdir,
            steps=c.steps,
            seed=seed,
            log_every=50,
            checkpoint_every=50,
            picture_every=c.steps + 1,
            recovery_actions=actions,
            echo=lambda line: None,
        )
    except Diverged:
        state = None
    log = workdir / 'recoveries' / 'log.json'
    recoveries = len(json.loads(log.read_text())) if log.exists() else 0
    row: Row = {'finished': state is not None, 'recoveries': recoveries, 'accuracy': None}
    if state is not None and one.system in WITH_CLASSIFIER:
        row['accuracy'] = accuracy(state.params, task)
    return row


def share(k: int, n: int) -> str:
    """'3 of 5 [.23, .88]'"""
    low, high = share_interval(k / n, n)
    return f'{k} of {n} [{low:.2f}, {high:.2f}]'


def table(found: dict[str, Any], c: Grid) -> list[str]:
    """A line for each setting."""
    lines = [
        f'{c.data}, {c.steps} steps, {c.seeds} seeds each; without the guard | with it, at most '
        f'{c.guarded} of the diverged',
        f'{"system":<10}{"K":>3}{"rate":>8}{"step":>6}  {"diverged":<22}{"at step":>9}'
        f'{"accuracy, rest":>16}{"|gap|, rest":>13}  |  '
        f'{"finish":<8}{"recoveries":>11}{"accuracy":>10}',
    ]
    for one in c.all_settings():
        names = [name_of(one, seed) for seed in range(c.seeds)]
        runs = [found['runs'][name] for name in names]
        guarded = [found['guarded'][name] for name in names if name in found['guarded']]
        diverged = [run for run in runs if run['diverged_at'] is not None]
        rest = [run for run in runs if run['diverged_at'] is None]
        finished = [run for run in guarded if run['finished']]
        finish = f'{len(finished)} of {len(guarded)}' if guarded else '-'
        lines.append(
            f'{one.system:<10}{one.num_steps:>3}{one.learning_rate:>8g}{one.step_size:>6g}  '
            f'{share(len(diverged), len(runs)):<22}{median(diverged, "diverged_at", ".0f"):>9}'
            f'{median(rest, "accuracy", ".3f"):>16}{median(rest, "gap", ".2g"):>13}  |  '
            f'{finish:<8}{median(guarded, "recoveries", ".1f"):>11}'
            f'{median(finished, "accuracy", ".3f"):>10}'
        )
    return lines


def median(rows: Sequence[Row], key: str, form: str) -> str:
    """The median of the values that are not None; '-' where there are none."""
    values = [row[key] for row in rows if row[key] is not None]
    return f'{np.median(values):{form}}' if values else '-'


def check(c: Grid) -> None:
    """Refuse what cannot be run. Raises: InputError."""
    settings.check(c)
    for name in ('systems', 'num_steps', 'learning_rates', 'step_sizes'):
        if not getattr(c, name):
            raise InputError(f'--config.{name} must hold at least one value')
    if c.data != 'digits' and not set(c.systems) <= set(ADJUSTABLE):
        raise InputError(
            f'--config.systems={",".join(c.systems)}: on data other than digits only '
            f'{" and ".join(ADJUSTABLE)} are set up: give {GIVE}'
        )
    for name in ('network', 'optimizer', 'clip', 'alpha'):
        if getattr(c, name) != getattr(Grid(), name) and not set(c.systems) <= set(ADJUSTABLE):
            raise InputError(f'--config.{name} is of {" and ".join(ADJUSTABLE)} alone: give {GIVE}')


def define(values: Any) -> None:
    """The flags."""
    launch.define_config(values, Grid())


def opened(file: pathlib.Path, c: Grid) -> dict[str, Any]:
    """The results of the study so far. Raises: InputError where they are damaged, or of another
    grid."""
    grid = settings.to_dict(c)
    found = arms.read(file) or {'config': grid, 'runs': {}, 'guarded': {}}
    free = ('systems', 'guarded')
    there = settings.to_dict(Grid()) | found['config']  # settings that were added since
    if any(there[name] != grid[name] for name in grid if name not in free):
        raise InputError(
            f'{file.parent} holds a study of another grid ({found["config"]}): use that, or '
            'another --workdir'
        )
    return found


def run(values: Any) -> None:
    """Train what is missing, write and print."""
    workdir, c = pathlib.Path(values.workdir), values.config
    check(c)
    use_all_cores(c)
    file = workdir / 'stability.json'
    opened(file, c)  # another study is refused before the folder is made or locked
    optimizer = clipped(OPTIMIZERS[c.optimizer], c.clip)
    task = task_of(c.data, c.network)._replace(optimizer=optimizer, alpha=c.alpha)
    workdir.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(workdir):
        found = opened(file, c)
        train_missing(workdir, found, c, task)
    lines = table(found, c)
    figures.save(heat_maps(found, c), workdir / 'stability.png', dpi=90)
    figures.save(survival_curves(found, c), workdir / 'survival.png', dpi=90)
    (workdir / 'stability.txt').write_text('\n'.join(lines) + '\n')
    runs, guarded = found['runs'].values(), found['guarded'].values()
    update_summary(
        workdir,
        {
            'finished': True,
            'diverged': sum(row['diverged_at'] is not None for row in runs),
            'runs': len(runs),
            'guarded': len(guarded),
            'guarded_finished': sum(row['finished'] for row in guarded),
        },
    )
    print('\n'.join(lines))


def train_missing(workdir: pathlib.Path, found: dict[str, Any], c: Grid, task: Task) -> None:
    """Train what `found` does not have yet, adding and writing it."""
    file = workdir / 'stability.json'
    for one in c.all_settings():
        if name_of(one, 0) not in found['runs']:
            found['runs'] |= runs_of(one.system, one.num_steps, c, task)
            write_json(file, found)
    for one in c.all_settings():
        diverged = [
            seed
            for seed in range(c.seeds)
            if found['runs'][name_of(one, seed)]['diverged_at'] is not None
        ]
        for seed in diverged[: c.guarded]:
            name = name_of(one, seed)
            if name not in found['guarded']:
                folder = workdir / 'guarded' / name.replace(' ', '_')
                found['guarded'][name] = guarded_run(folder, one, seed, c, task)
                write_json(file, found)


if __name__ == '__main__':
    launch.main(run, define, __doc__)
