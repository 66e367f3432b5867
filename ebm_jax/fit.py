"""The one training loop: data, step, checkpoints, log, progress. It knows no method and is never forked."""
import collections
import contextlib
import pathlib
import statistics
import time

import jax
import numpy as np
from tqdm import tqdm

from ebm_jax import cost
from ebm_jax.checkpoint import Checkpoints
from ebm_jax.errors import Diverged, InputError
from ebm_jax.record import Recorder, update_summary, write_json
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

EFFICIENCY = 0.4   # share of the measured matrix rate that a train step is assumed to reach, in the forecast only
LAG = 2            # steps that may be under way on an accelerator before their figures are checked


def fit(method, batch_at, optimizer, prepare, *, workdir, steps, settings=None, seed=0, ema=0.0, limits=LIMITS, devices=None,
        log_every=50, watch_every=None, checkpoint_every=500, picture_every=500, pictures=None, evaluate_every=0, evaluate=None,
        show=('loss', 'accuracy', 's_gap', 'effective_sample_size'), say=print):
    """Train until `steps`, from the newest checkpoint of `workdir` where there is one.

    Args:
      method: Method. batch_at: step -> batch, dict of arrays [N, ...]. optimizer: optax. prepare: (key, x) -> network input.
      workdir: gets metrics.jsonl, summary.json, samples/*.png, checkpoints/, tensorboard/.
      steps: int >= 1. settings: written to WORKDIR/config.json once everything fits. seed: of everything random, >= 0.
      ema: decay of the moving average of parameters in [0, 1), 0 for none. limits: {metric: largest size}; beyond it the run has
        diverged (default: a loss of 1e8, JEM [code]).
      devices: default all local ones; the batch and the shards of chains must divide over them.
      log_every, checkpoint_every, picture_every, evaluate_every: in steps. watch_every: of the addends' gradient norms
        (default log_every).
      pictures: None, or TrainState -> {name: (images [N, H, W, C] in [-1, 1], columns or None)}. evaluate: None, or
        TrainState -> {name: float}. Both get the state with chains as [shards, ...].
      show: metrics on the progress bar. say: where lines for people go.
    Returns: the final TrainState, chains as [shards, ...].
    Raises: InputError for what cannot be run; Diverged at the first step whose loss, gradient or energies are not finite. Its
      checkpoint is never written; the one before stays.
    """
    if steps < 1 or min(log_every, checkpoint_every, picture_every) < 1:
        raise InputError(f'steps and the intervals must be at least 1, got steps={steps}, log_every={log_every}, '
                         f'checkpoint_every={checkpoint_every}, picture_every={picture_every}')
    if not 0 <= ema < 1 or seed < 0:
        raise InputError(f'ema must lie in [0, 1) and seed be at least 0, got {ema} and {seed}')
    devices = list(devices or jax.local_devices())
    workdir, first = pathlib.Path(workdir), batch_at(0)
    _check(method, first, prepare, optimizer, devices, limits)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'workdir {workdir} cannot be made ({error.strerror}): choose a folder of yours') from error
    with contextlib.closing(Checkpoints(workdir / 'checkpoints')) as checkpoints:
        make = lambda: init_state(jax.random.key(seed), method, optimizer, prepare, first, ema=ema)
        state = make() if checkpoints.latest() is None else checkpoints.restore(jax.eval_shape(make))
        start = int(state.step)
        if settings is not None:
            write_json(workdir / 'config.json', settings)
        if start >= steps:
            say(f'{workdir} is already trained to step {start}; nothing to do for steps={steps}.')
            update_summary(workdir, {'finished': True, 'diverged': False, 'account': None, 'step': start})
            return state
        if start:
            say(f'Continuing {workdir} from step {start}.')
        train_step = make_train_step(method, optimizer, prepare, devices=devices, ema=ema, limits=limits,
                                     watch_every=watch_every or log_every)
        say(forecast(method, make_local_step(method, optimizer, prepare, limits=limits), state, first, devices, steps - start))
        state = shard_state(state, devices)
        with contextlib.closing(Recorder(workdir, start)) as recorder:
            chores = [(checkpoint_every, lambda step, state: checkpoints.save(state)),
                      (picture_every if pictures else 0, lambda step, state: recorder.pictures(step, pictures(state))),
                      (evaluate_every if evaluate else 0, lambda step, state: recorder.scalars(step, evaluate(state)))]
            run = _Run(devices, recorder, checkpoints, steps, log_every, show, limits)
            try:
                for step in run.bar(start):
                    state, metrics = train_step(state, shard_batch(batch_at(step - 1), devices))
                    run.after_step(step, metrics)
                    due = [chore for every, chore in chores if every and (step % every == 0 or step == steps)]
                    if due:
                        run.pause()
                        whole = unshard_state(state)
                        for chore in due:
                            chore(step, whole)
            except KeyboardInterrupt:
                say(f'\nInterrupted; the same command continues from the checkpoint of step {checkpoints.latest() or 0}.')
                raise
            except Diverged as error:
                update_summary(workdir, {'diverged': True, 'finished': False, 'step': error.step, 'account': error.account})
                raise
    update_summary(workdir, {'finished': True, 'diverged': False, 'account': None, 'step': steps,
                             'steps_per_second': run.rate(), 'seconds_per_step': run.seconds_per_step(),
                             'parameters': cost.num_parameters(state.params), 'devices': _describe(devices)})
    return unshard_state(state)


class _Run:
    """Clock, log and check of a loop: what happens after each step, without holding up an accelerator."""

    def __init__(self, devices, recorder, checkpoints, steps, log_every, show, limits):
        self.lag = 0 if devices[0].platform == 'cpu' else LAG   # several CPU devices can dead-lock when the loop runs ahead
        self.recorder, self.checkpoints, self.steps, self.log_every, self.show = recorder, checkpoints, steps, log_every, show
        self.limits = limits
        self.pending = collections.deque()
        self.seconds = []
        self.mark = None
        self.progress = None

    def bar(self, start):
        """The steps from `start` to the end, under a progress bar."""
        self.progress = tqdm(range(start + 1, self.steps + 1), total=self.steps, initial=start, unit='step', dynamic_ncols=True)
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
            self._stop(step, jax.device_get(metrics))
        if step % self.log_every == 0 or step in (1, self.steps):
            values = _computed(jax.device_get(metrics))
            self.recorder.scalars(step, {**values, 'steps_per_second': self.rate()})
            self.progress.set_postfix({name: f'{values[name]:.3g}' for name in self.show if name in values}, refresh=False)

    def check_all(self):
        while self.pending:
            self._check()

    def pause(self):
        """Before chores: only finite states get through, and their time is not training time."""
        self.check_all()
        self.mark = None

    def seconds_per_step(self):
        """The median on the CPU, the mean where steps overlap; None before any was timed."""
        if not self.seconds:
            return None
        return statistics.median(self.seconds) if self.lag == 0 else statistics.fmean(self.seconds)

    def rate(self):
        """Steps per second; 0 before any was timed."""
        return 1 / self.seconds_per_step() if self.seconds else 0.0

    def _stop(self, step, metrics):
        bad = [f'{name} = {float(value)}' for name, value in sorted(metrics.items()) if not np.isfinite(value)]
        beyond = [f'{name} = {float(metrics[name]):.3g} (beyond its limit of {limit:g})' for name, limit in self.limits.items()
                  if abs(metrics[name]) > limit]
        bad = f'{", ".join(bad)} (not finite)' if bad else ', '.join(beyond)
        kept = self.checkpoints.latest()
        kept = 'no checkpoint was written before it' if kept is None else f'the checkpoint of step {kept} is kept'
        self.recorder.scalars(step, _computed(metrics))
        raise Diverged(step, f'Training diverged at step {step}: {bad}. Nothing was saved after that; {kept}. '
                             'Try a lower learning rate, more chain steps (K), or a smaller step size.')


def _computed(metrics):
    """Metrics as floats, without the gradient norms of addends at steps that do not watch them."""
    return {name: float(value) for name, value in metrics.items() if not (name.startswith('grad_norm/') and value < 0)}


def _check(method, batch, prepare, optimizer, devices, limits):
    """Refuse, before anything long begins, what does not split over the devices or does not fit together."""
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
        trace_step(make_local_step(method, optimizer, prepare, limits=limits), shapes, batch, n)
    except ValueError as error:
        raise InputError(f'{fits}: {str(error).splitlines()[0]}') from error


def forecast(method, local_step, state, batch, devices, steps):
    """What the run will cost, in a few lines, before the first long step. local_step, state, batch: as for one device."""
    flops = cost.count_flops(local_step, state, batch, loop_length=method.chain_steps)
    rate = cost.matmul_rate(devices[0]) * (1 if devices[0].platform == 'cpu' else len(devices))   # one CPU product uses all cores
    seconds = steps * flops / (rate * EFFICIENCY)
    return (f'{_describe(devices)}: {cost.num_parameters(state.params):,} parameters; per step {method.gradients_per_step:,} energy '
            f'gradients along the chains and {flops / 1e9:.3g} GFLOP in all; state {cost.num_bytes(state) / 2**20:.1f} MiB\n'
            f'about {_duration(seconds)} for {steps:,} steps, at {EFFICIENCY:.0%} of the {rate / 1e9:,.0f} GFLOP/s that a '
            'matrix product reaches here now (the bar below will know better)')


def _describe(devices):
    return f'{len(devices)} {devices[0].device_kind} device{"s" if len(devices) > 1 else ""}'


def _duration(seconds):
    if seconds < 90:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 5400 else f'{seconds / 3600:.1f} h'
