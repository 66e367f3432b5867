"""The one training loop: data, step, guard, checkpoints, log, progress. It knows no method and is never forked."""
import collections
import contextlib
import errno
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ebm_jax import cost, process
from ebm_jax.checkpoint import Checkpoints
from ebm_jax.errors import Diverged, InputError, NotSaved, Stopped
from ebm_jax.guard import Guard
from ebm_jax.record import Recorder, Silent, update_summary, write_json
from ebm_jax.train import (
    LIMITS,
    init_state,
    make_local_step,
    make_train_step,
    num_shards,
    shard_batch,
    shard_state,
    trace_step,
    unshard_state,
)

LAG = 2            # steps that may be under way on an accelerator before their figures are checked
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}


def fit(method, batch_at, optimizer, prepare, *, workdir, steps, settings=None, seed=0, ema=0.0, limits=LIMITS, devices=None,
        log_every=50, watch_every=None, checkpoint_every=500, picture_every=500, pictures=None, evaluate_every=0, evaluate=None,
        remedies=(), show=('loss', 'accuracy', 's_gap', 'effective_sample_size'), say=print):
    """Train until `steps`, from the newest checkpoint of `workdir` where there is one.

    A run that is stopped at any moment, by whatever, and continued ends with the same bits as one that is not. SIGTERM and Ctrl-C save
    before they end it.

    Args:
      method: Method. batch_at: step -> batch, dict of arrays [N, ...]. optimizer: optax. prepare: (key, x) -> network input.
      workdir: gets metrics.jsonl, summary.json, samples/*.png, checkpoints/, recoveries/, tensorboard/.
      steps: int >= 1. settings: written to WORKDIR/config.json once everything fits. seed: of everything random, >= 0.
      ema: decay of the moving average of parameters in [0, 1), 0 for none. limits: {metric: largest size}; beyond it the run has
        diverged (default: a loss of 1e8, JEM [code]).
      devices: default all, of all processes; the batch and the shards of chains must divide over them.
      log_every, checkpoint_every, picture_every, evaluate_every: in steps. watch_every: of the addends' gradient norms
        (default log_every).
      pictures: None, or TrainState -> {name: (images [N, H, W, C] in [-1, 1], columns or None)}. evaluate: None, or
        TrainState -> {name: float}. Both get the state with chains as [shards, ...].
      remedies: guard.Remedy for each time that a run which diverged may go back to a checkpoint and try again; see guard.py.
      show: metrics on the progress bar. say: where lines for people go.
    Returns: the final TrainState, chains as [shards, ...].
    Raises: InputError for what cannot be run; Diverged at a step that is not healthy (see `train.make_local_step`) with no try left, whose
      checkpoint is never written, the ones before stay; Stopped after a signal; NotSaved where the disk takes no more.
    """
    if steps < 1 or min(log_every, checkpoint_every, picture_every) < 1:
        raise InputError(f'steps and the intervals must be at least 1, got steps={steps}, log_every={log_every}, '
                         f'checkpoint_every={checkpoint_every}, picture_every={picture_every}')
    if not 0 <= ema < 1 or seed < 0:
        raise InputError(f'ema must lie in [0, 1) and seed be at least 0, got {ema} and {seed}')
    devices = sorted(devices or jax.devices(), key=lambda device: device.process_index)   # each process's next to each other
    workdir, first = pathlib.Path(workdir), batch_at(0)
    flops = _check(method, first, prepare, optimizer, devices, limits)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'workdir {workdir} cannot be made ({error.strerror}): choose a folder of yours') from error
    own = dict(method=method, batch_at=batch_at, optimizer=optimizer, prepare=prepare, ema=ema, limits=limits, pictures=pictures,
               evaluate=evaluate)
    every = dict(log=log_every, watch=watch_every or log_every, checkpoint=checkpoint_every, picture=picture_every, evaluate=evaluate_every)
    try:
        with (process.only_writer(workdir), process.Stop() as stop,
              contextlib.closing(Checkpoints(workdir / 'checkpoints', checkpoint_every, say=process.by_leader(say))) as checkpoints):
            guard = Guard(workdir, remedies)
            guard.settle(checkpoints)
            loop = _Loop(workdir, settings, checkpoints, guard, stop, devices, seed, steps, every, show, process.by_leader(say))
            while True:
                try:
                    changed = {name: part for name, part in guard.parts().items() if name in own}
                    return loop.run(**own | changed, flops=None if guard.attempt else flops)
                except Diverged as error:
                    loop.recover(error)
    except OSError as error:
        if error.errno not in UNWRITABLE and not isinstance(error, NotSaved):
            raise
        what = str(error) if isinstance(error, NotSaved) else f'{workdir} cannot be written ({error.strerror})'
        raise NotSaved(f'{what}: when that is mended (room on the disk, rights), the same command continues from the newest complete '
                       'checkpoint') from error


class _Loop(NamedTuple):
    """One run, try after try."""
    workdir: pathlib.Path
    settings: dict | None
    checkpoints: Checkpoints
    guard: Guard
    stop: process.Stop
    devices: list
    seed: int
    steps: int
    every: dict      # in steps: log, watch, checkpoint, picture, evaluate
    show: tuple
    say: Callable

    def run(self, method, batch_at, optimizer, prepare, ema, limits, pictures, evaluate, flops):
        """Train from where the present try stands to the end; the final state. flops: of a step, for a forecast; None for none."""
        first, devices, batch = batch_at(0), self.devices, lambda step: batch_at(step - 1 + self.guard.skipped)
        state = self.begin(lambda: init_state(jax.random.key(self.seed), method, optimizer, prepare, first, ema=ema))
        start = int(state.step)
        if self.settings is not None:
            process.by_leader(write_json)(self.workdir / 'config.json', self.settings)
        if start >= self.steps:
            self.say(f'{self.workdir} is already trained to step {start}; nothing to do for steps={self.steps}.')
            self.summarise({'finished': True, 'diverged': False, 'account': None, 'step': start})
            return state
        train_step = make_train_step(method, optimizer, prepare, devices=devices, ema=ema, limits=limits, watch_every=self.every['watch'])
        if flops:
            self.say(cost.forecast(method, flops, state, devices, self.steps - start))
        state = shard_state(state, devices)
        with contextlib.closing(Recorder(self.workdir, start) if process.leads() else Silent()) as recorder:
            draw = process.by_leader(lambda step, state: recorder.pictures(step, pictures(state)))
            measure = process.by_leader(lambda step, state: recorder.scalars(step, evaluate(state)))
            chores = [(self.every['picture'] if pictures else 0, lambda step, state: draw(step, process.gathered(state))),
                      (self.every['evaluate'] if evaluate else 0, lambda step, state: measure(step, process.gathered(state))),
                      (self.every['checkpoint'], lambda step, state: self.checkpoints.save(state))]   # last: what it covers is complete
            watch = _Watch(self, recorder, limits, batch)
            for step in watch.bar(start):
                if self.stop.asked(step + self.guard.skipped):   # a number that only grows
                    self.save_and_stop(step - 1, watch, state, start)
                state, metrics = train_step(state, shard_batch(batch(step), devices))
                watch.after_step(step, metrics)
                due = [chore for every, chore in chores if every and (step % every == 0 or step == self.steps)]
                if due:
                    watch.pause()
                    whole = unshard_state(state, devices)
                    for chore in due:
                        chore(step, whole)
        self.checkpoints.wait()
        self.summarise({
            'finished': True, 'diverged': False, 'account': None, 'step': self.steps, 'steps_per_second': watch.rate(),
            'seconds_per_step': watch.seconds_per_step(), 'parameters': cost.num_parameters(state.params),
            'devices': cost.describe(devices), 'quarantined_chains': int(state.quarantined)})
        return process.gathered(unshard_state(state, devices))

    def summarise(self, figures):
        process.by_leader(update_summary)(self.workdir, figures | self.guard.summary())

    def begin(self, make):
        """The state that the present try goes on from."""
        state = make() if self.checkpoints.latest() is None else self.checkpoints.restore(jax.eval_shape(make))
        step = int(state.step)
        if int(state.attempt) != self.guard.attempt:
            state = state.replace(key=jax.random.fold_in(state.key, self.guard.attempt), attempt=jnp.int32(self.guard.attempt))
        if 0 < step < self.steps:
            self.say(f'Continuing {self.workdir} from step {step}.')
        return state

    def save_and_stop(self, step, watch, state, start):
        """The end that a signal asked for. A state that no step was made from is not saved again."""
        watch.pause()
        if step > start:
            self.checkpoints.save(unshard_state(state, self.devices))
        raise Stopped(self.stop.signal, step)

    def recover(self, error):
        """Begin the next try after a divergence. Raises: Diverged where none is left."""
        if self.guard.tries_left:
            self.guard.go_back(error.step, error.why, self.checkpoints, self.say)
            self.summarise({'diverged': False, 'account': None})
            return
        kept = self.checkpoints.latest()
        kept = 'no checkpoint was written before it' if kept is None else f'the checkpoint of step {kept} is kept'
        used = f' All {self.guard.attempt} tries are used, see {self.guard.folder / "log.txt"}.' if self.guard.attempt else ''
        error = Diverged(error.step, error.why, f'{used} Nothing was saved after that; {kept}. Try a lower learning rate, more chain '
                         'steps (K), or a smaller step size.')
        self.summarise({'diverged': True, 'finished': False, 'step': error.step, 'account': error.account})
        raise error


class _Watch:
    """Clock, log and check of a loop: what happens after each step, without holding up an accelerator."""

    def __init__(self, loop, recorder, limits, batch):
        self.lag = 0 if loop.devices[0].platform == 'cpu' else LAG   # several CPU devices can dead-lock when the loop runs ahead
        self.recorder, self.steps, self.log_every, self.show = recorder, loop.steps, loop.every['log'], loop.show
        self.limits, self.batch = limits, batch
        self.pending = collections.deque()
        self.seconds = []
        self.mark = None
        self.progress = None

    def bar(self, start):
        """The steps from `start` to the end, under a progress bar."""
        self.progress = tqdm(range(start + 1, self.steps + 1), total=self.steps, initial=start, unit='step', dynamic_ncols=True,
                             disable=not process.leads())
        return self.progress

    def after_step(self, step, metrics):
        self.pending.append((step, metrics))
        while len(self.pending) > self.lag:
            self._check()
        now = time.perf_counter()
        if self.mark is not None:   # the first step, and the one after a pause, also compile or wait
            self.seconds.append(now - self.mark)
        self.mark = now

    def _check(self):
        step, metrics = self.pending.popleft()
        if not metrics['healthy']:   # this waits for the step
            self._diverged(step, jax.device_get(metrics))
        if step % self.log_every == 0 or step in (1, self.steps):
            values = _computed(jax.device_get(metrics))
            self.recorder.scalars(step, {**values, 'steps_per_second': self.rate()})
            self.progress.set_postfix({name: f'{values[name]:.3g}' for name in self.show if name in values}, refresh=False)

    def pause(self):
        """Before chores: only healthy states get through, and their time is not training time."""
        while self.pending:
            self._check()
        self.mark = None

    def seconds_per_step(self):
        """The median on the CPU, the mean where steps overlap; None before any was timed."""
        if not self.seconds:
            return None
        return statistics.median(self.seconds) if self.lag == 0 else statistics.fmean(self.seconds)

    def rate(self):
        """Steps per second; 0 before any was timed."""
        return 1 / self.seconds_per_step() if self.seconds else 0.0

    def _diverged(self, step, metrics):
        self.progress.close()
        self.recorder.scalars(step, _computed(metrics))
        bad = [f'{name} = {float(value)}' for name, value in sorted(metrics.items()) if not np.isfinite(value)]
        beyond = [f'{name} = {float(metrics[name]):.3g} (beyond its limit of {limit:g})' for name, limit in self.limits.items()
                  if abs(metrics[name]) > limit]
        why = f'{", ".join(bad)} (not finite)' if bad else ', '.join(beyond)
        if metrics.get('quarantined', 0) > 0:
            why += f'; {metrics["quarantined"]:.0f} chains went astray'
        if not np.isfinite(np.asarray(self.batch(step)['x'])).all():
            why += '; its batch holds values that are not finite'
        raise Diverged(step, why)


def _computed(metrics):
    """Metrics as floats, without the gradient norms of addends at steps that do not watch them."""
    return {name: float(value) for name, value in metrics.items() if not (name.startswith('grad_norm/') and value < 0)}


def _check(method, batch, prepare, optimizer, devices, limits):
    """Refuse, before anything long begins, what does not split over the devices or does not fit together; the FLOPs of a step."""
    fits = 'the parts of this run do not fit together'
    n = len(devices)
    try:
        shapes = jax.eval_shape(lambda: init_state(jax.random.key(0), method, optimizer, prepare, batch))
    except ValueError as error:
        raise InputError(f'{fits}: {str(error).splitlines()[0]}') from error
    for what, number in (('a batch of', len(batch['x'])), ('chains in shards of', num_shards(shapes))):
        if number is not None and number % n:
            raise InputError(f'{what} {number} cannot be split over {n} devices: choose a number divisible by {n}, or fewer devices')
    try:
        program = trace_step(make_local_step(method, optimizer, prepare, limits=limits), shapes, batch, n)
    except ValueError as error:
        raise InputError(f'{fits}: {str(error).splitlines()[0]}') from error
    return cost.flops_of(program, method.chain_steps)
