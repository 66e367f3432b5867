"""The training loop, one for all methods: data, step, guard, checkpoints, log, progress."""

import contextlib
import errno
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import cost, memory, process, sharding
from ebm_jax.checkpoint import Checkpoints, steps_in
from ebm_jax.errors import Diverged, InputError, NotSaved, Stopped
from ebm_jax.guard import Guard, RecoveryAction
from ebm_jax.monitor import Monitor, OnLog
from ebm_jax.prefetch import prefetched
from ebm_jax.record import (
    NullRecorder,
    Recorder,
    as_json,
    read_rows,
    update_summary,
    write_json,
)
from ebm_jax.train import (
    Recipe,
    Traced,
    TrainState,
    init_state,
    initial_params,
    make_train_step,
    state_shapes,
    trace_step,
)
from ebm_jax.types import Method

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}


def fit(
    recipe: Recipe,
    *,
    workdir: str | pathlib.Path,
    steps: int,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    devices: Sequence[jax.Device] | None = None,
    log_every: int = 50,
    watch_every: int | None = None,
    checkpoint_every: int = 500,
    picture_every: int = 500,
    evaluate_every: int = 0,
    recovery_actions: Sequence[RecoveryAction] = (),
    end_dead: bool = False,
    report: Callable[[int], object] | None = None,
    on_log: OnLog | None = None,
    echo: Callable[[str], None] = print,
) -> TrainState:
    """Train until `steps`, from the newest checkpoint of `workdir` where there is one.

    A run that is stopped at any moment, for any reason, and continued ends with the same bits as
    an uninterrupted one. SIGTERM and Ctrl-C save a checkpoint before they end the run.

    Args:
      recipe: what is trained, and what it shows.
      workdir: gets config.json, metrics.jsonl, summary.json, samples/*.png, checkpoints/,
        recoveries/, tensorboard/.
      steps: int >= 1. seed: of everything random, >= 0.
      settings: what made the recipe; written to config.json once all parts fit together.
      devices: default all, of all processes; the batch and the shards of chains must divide over
        them.
      log_every, checkpoint_every, picture_every: in steps, at least 1. evaluate_every: 0 for never.
      watch_every: of the gradient norms of loss terms (default log_every).
      recovery_actions: one for each time that a diverged run may go back to a checkpoint and
        continue; see guard.py.
      end_dead: whether a network that no longer tells data from samples counts as diverged;
        else there is a warning, and `healthy: false` in summary.json.
      report: called with the step when pictures and evaluations of that step are written.
      on_log: called with the step and its metrics, numbers, when these are logged, also of a step
        that diverged; in the first process alone. A run that goes back logs steps again. For
        loggers of one's own, such as wandb.log(metrics | {'step': step}).
      echo: takes messages for the user.
    Returns: the final state, chains as [shards, ...].
    Raises: InputError for what cannot be run; Diverged at a step that is not healthy (see
      `train.make_local_step`) with no attempt left (that state is never saved, earlier checkpoints
      stay); Stopped after a signal; NotSaved where a file cannot be written.
    """
    if steps < 1 or min(log_every, checkpoint_every, picture_every) < 1:
        raise InputError(
            f'steps and the intervals must be at least 1, got steps={steps}, '
            f'log_every={log_every}, checkpoint_every={checkpoint_every}, '
            f'picture_every={picture_every}'
        )
    if not 0 <= recipe.ema < 1 or seed < 0:
        raise InputError(
            f'ema must lie in [0, 1) and seed be at least 0, got {recipe.ema} and {seed}'
        )
    # the devices of a process next to each other
    devices = sorted(devices or jax.devices(), key=lambda device: device.process_index)
    workdir = pathlib.Path(workdir)
    as_json(settings or {})  # refuses before any long work
    traced = check(recipe, devices, log_every if watch_every is None else watch_every)
    if not steps_in(workdir / 'checkpoints'):
        initial_params(recipe)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f'workdir {workdir} cannot be made ({error.strerror}): choose a folder you can write to'
        ) from error
    content = dict(settings or {})
    if recipe.description is not None:
        content['model'] = recipe.description
    echo = process.primary_only(echo)
    every = Intervals(
        log=log_every,
        watch=log_every if watch_every is None else watch_every,
        checkpoint=checkpoint_every,
        picture=picture_every,
        evaluate=evaluate_every,
    )
    try:
        with (
            process.exclusive_lock(workdir),
            process.Stop() as stop,
            contextlib.closing(
                Checkpoints(workdir / 'checkpoints', checkpoint_every, echo=echo)
            ) as checkpoints,
        ):
            guard = Guard(workdir, recovery_actions)
            guard.settle(checkpoints)
            loop = _Loop(
                workdir=workdir,
                config=content,
                checkpoints=checkpoints,
                guard=guard,
                stop=stop,
                devices=devices,
                seed=seed,
                steps=steps,
                every=every,
                end_dead=end_dead,
                report=report,
                on_log=on_log,
                echo=echo,
            )
            if guard.action:
                of = f'attempt {guard.attempt} of {len(guard.actions)}'
                echo(f'Continuing with {guard.action.name}, {of}')
            while True:
                try:
                    return loop.run(guard.recipe(recipe), None if guard.attempt else traced)
                except Diverged as error:
                    loop.recover(error)
    except OSError as error:
        if error.errno not in UNWRITABLE and not isinstance(error, NotSaved):
            raise
        problem = f'{workdir} cannot be written ({error.strerror})'
        raise NotSaved(
            f'{error if isinstance(error, NotSaved) else problem}: when that is fixed (room on the '
            'disk, permissions), the same command continues from the newest complete checkpoint'
        ) from error


def check(recipe: Recipe, devices: Sequence[jax.Device], watch_every: int = 0) -> Traced:
    """Check, before any long work, that the parts fit together and split over the devices.

    Returns: the first training step, traced.
    Raises: InputError where they do not fit.
    """
    n, batch = len(devices), recipe.batch_at(0)
    if not isinstance(batch, Mapping) or 'x' not in batch:
        found = f'with {", ".join(batch)}' if isinstance(batch, Mapping) else 'instead'
        raise InputError(
            f"batch_at must give a dict with an entry 'x' (and 'y' of labels), got a "
            f'{type(batch).__name__} {found}'
        )
    with _fitting(batch):
        shapes = state_shapes(recipe)
    numbers = {'chains in shards of': sharding.num_shards(shapes)}
    numbers |= {f'a batch of {name!r} of size': len(leaf) for name, leaf in batch.items()}
    for what, number in numbers.items():
        if number is not None and number % n:
            raise InputError(
                f'{what} {number} cannot be split over {n} devices: choose '
                f'{sharding.multiples_near(number, n)}, or fewer devices'
            )
    with _fitting(batch):
        traced = trace_step(recipe.at(0), n, watch_every=watch_every, shapes=shapes)
    memory.check(shapes, traced.program, devices)
    return traced


def _shapes(batch):
    """{entry: shape} of a batch."""
    return {name: np.shape(leaf) for name, leaf in batch.items()}


def _of_shapes(shapes, batch, step):
    """The batch of a step. Raises: InputError where it is not shaped as the first one."""
    if _shapes(batch) != shapes:
        raise InputError(
            f'the batch of step {step} has the shapes {_shapes(batch)}, the first one {shapes}: '
            'batch_at must give batches of one size (leave out a smaller last one)'
        )
    return batch


@contextlib.contextmanager
def _fitting(batch):
    """Turns what parts that do not fit raise into one sentence; the key of another dict than the
    batch that is missing is a defect, and stays. Raises: InputError."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if isinstance(error, TypeError) and 'shape' not in str(error):
            raise  # a defect of a part, not parts that do not fit
        raise InputError(
            f'the parts of this run do not fit together: {str(error).splitlines()[0]}'
        ) from error
    except KeyError as error:
        name = error.args[0]
        if name in batch or name not in ('y', 'positives', 'positives_y'):
            raise
        raise InputError(
            f'the method needs an entry {name!r} in the batch, got {", ".join(batch)}: let '
            'batch_at give it'
        ) from error


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """How often things happen, in steps; 0 for never."""

    log: int
    watch: int
    checkpoint: int
    picture: int
    evaluate: int


@dataclass(frozen=True, kw_only=True)
class _Loop:
    """One run, attempt after attempt."""

    workdir: pathlib.Path
    config: dict[str, Any]  # content of config.json
    checkpoints: Checkpoints
    guard: Guard
    stop: process.Stop
    devices: list[jax.Device]
    seed: int
    steps: int
    every: Intervals
    end_dead: bool
    report: Callable[[int], object] | None
    on_log: OnLog | None
    echo: Callable[[str], None]

    def run(self, recipe: Recipe, traced: Traced | None) -> TrainState:
        """Train from where the current attempt is to the end; the final state.

        traced: the recipe's first step; None for another attempt, which needs no forecast.
        """

        def batch_at(step):
            return recipe.batch_at(step - 1 + self.guard.skipped)

        def unsaved(step):
            """What to say to a signal before the first step, None after it."""
            if step > start + 1:
                return None
            return f'stopped before step {step}; the same command begins there again.'

        devices = self.devices
        state = self.begin(recipe)
        start = int(state.step)
        if self.config:
            process.primary_only(write_json)(self.workdir / 'config.json', self.config)
        if start >= self.steps:
            self.echo(
                f'{self.workdir} is already trained to step {start}; nothing to do for '
                f'steps={self.steps}.'
            )
            self.summarise({'finished': True, 'diverged': False, 'account': None, 'step': start})
            return state
        if traced:
            steps_left = self.steps - start
            self.echo(cost.forecast(recipe.method, traced.program, state, devices, steps_left))
        state = sharding.shard_state(state, devices)
        rows, _ = read_rows(self.workdir / 'metrics.jsonl')
        recorder = Recorder(self.workdir, start) if process.is_primary() else NullRecorder()
        shapes = _shapes(recipe.batch_at(0))
        batches = prefetched(
            lambda step: sharding.shard_batch(_of_shapes(shapes, batch_at(step), step), devices),
            range(start + 1, self.steps + 1),
        )
        with contextlib.closing(recorder), contextlib.closing(batches):
            monitor = Monitor(
                recorder,
                steps=self.steps,
                log_every=self.every.log,
                limits=recipe.limits,
                batch_at=batch_at,
                show=recipe.show,
                platform=devices[0].platform,
                end_dead=self.end_dead,
                on_log=self.on_log,
                before=[row for row in rows if row['step'] <= start],
            )
            tasks = self.tasks(recipe, recorder)
            compiled: Method | None = None
            for step, batch in zip(monitor.bar(start), batches):
                if self.stop.asked(step + self.guard.skipped):  # grows even where a run goes back
                    self.save_and_stop(step - 1, monitor, state, start)
                now = recipe.at(step - 1)
                waiting: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
                if now.method is not compiled:
                    compiled = now.method
                    waiting = monitor.compiling(partial(self.stop.end_if_asked, unsaved(step)))
                    known = traced if now.method is recipe.at(0).method else None
                    train_step = make_train_step(
                        now, devices=devices, watch_every=self.every.watch, traced=known
                    )
                with waiting:
                    state, metrics = train_step(state, batch)
                monitor.after_step(step, metrics)
                due = [
                    task
                    for intervals, task in tasks
                    if any(
                        every and (step % every == 0 or step == self.steps) for every in intervals
                    )
                ]
                if due:
                    monitor.pause()
                    whole = sharding.unshard_state(state, devices)
                    for task in due:
                        task(step, whole)
        self.checkpoints.wait()
        self.summarise(
            {
                'finished': True,
                'diverged': False,
                'account': None,
                'step': self.steps,
                'steps_per_second': monitor.steps_per_second(),
                'seconds_per_step': monitor.seconds_per_step(),
                'compile_seconds': monitor.compile_seconds,
                'parameters': cost.num_parameters(state.params),
                'devices': cost.describe(devices),
                'quarantined_chains': int(state.quarantined),
                'healthy': monitor.dead is None,
            }
        )
        return process.gathered(sharding.unshard_state(state, devices))

    def tasks(self, recipe, recorder):
        """[(intervals in steps, task(step, whole state))]; saving comes last, so that everything up
        to a checkpoint is complete."""

        def draw_pictures(step, state):
            state = process.gathered(state)
            if process.is_primary():
                recorder.pictures(step, recipe.pictures(state))

        def evaluate(step, state):
            state = process.gathered(state)
            if process.is_primary():
                recorder.scalars(step, recipe.evaluate(state))

        def show(step, state):
            if process.is_primary():
                assert self.report is not None
                self.report(step)

        def save(step, state):
            self.checkpoints.save(state)

        pictures = self.every.picture if recipe.pictures else 0
        evaluations = self.every.evaluate if recipe.evaluate else 0
        return [
            ((pictures,), draw_pictures),
            ((evaluations,), evaluate),
            ((pictures, evaluations) if self.report else (), show),
            ((self.every.checkpoint,), save),
        ]

    def summarise(self, summary: dict[str, Any]) -> None:
        process.primary_only(update_summary)(self.workdir, summary | self.guard.summary())

    def begin(self, recipe: Recipe) -> TrainState:
        """The state from which the current attempt continues."""
        if self.checkpoints.latest() is None:
            state = init_state(jax.random.key(self.seed), recipe)
        else:
            state = self.checkpoints.restore(state_shapes(recipe))
        step, attempt = int(state.step), self.guard.attempt
        if int(state.attempt) != attempt:
            key = jax.random.fold_in(state.key, attempt)
            state = state.replace(key=key, attempt=jnp.int32(attempt))
        if 0 < step < self.steps:
            self.echo(f'Continuing {self.workdir} from step {step}.')
        return state

    def save_and_stop(self, step, monitor, state, start):
        """End the run as a signal asked. A state from which no step was made is not saved
        again."""
        monitor.pause()
        if step > start:
            self.checkpoints.save(sharding.unshard_state(state, self.devices))
        assert self.stop.signal is not None
        raise Stopped(self.stop.signal, step)

    def recover(self, error: Diverged) -> None:
        """Begin the next attempt after a divergence.

        Raises: Diverged where none is left.
        """
        if self.guard.attempts_left:
            self.guard.go_back(error, self.checkpoints, self.echo)
            self.summarise({'diverged': False, 'account': None})
            return
        newest = self.checkpoints.latest()
        kept = f'the checkpoint of step {newest} is kept'
        if newest is None:
            kept = 'no checkpoint was written before it'
        used = ''
        if self.guard.attempt:
            log = self.guard.folder / 'log.txt'
            used = f' All {self.guard.attempt} attempts are used, see {log}.'
        error = Diverged(
            error.step,
            error.why,
            f'{used} Nothing was saved after that; {kept}. Try a lower learning rate, more chain '
            'steps (K), or a smaller step size, in a new workdir.',
        )
        self.summarise(
            {'diverged': True, 'finished': False, 'step': error.step, 'account': error.account}
        )
        raise error
