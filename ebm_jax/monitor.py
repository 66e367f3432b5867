"""Clock, log and health check of a training loop: what happens after each step, without holding up
an accelerator."""

import collections
import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from ebm_jax import process
from ebm_jax.errors import Diverged
from ebm_jax.record import NullRecorder, Recorder
from ebm_jax.types import Batch, Metrics

# of fixed width: what does not fit a narrow terminal is cut off at its end
BAR = (
    '{desc}{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} '
    '[{elapsed}<{remaining}, {rate_fmt}{postfix}]'
)
TICK = 1.0  # seconds between signs of life while a step is compiled
WINDOW = 5  # logged steps without any learning after which a run counts as dead
LAG = 2  # steps that may be under way on an accelerator before their metrics are checked
OnLog = Callable[[int, Mapping[str, float]], object]  # of a step and its metrics


class Monitor:
    """Checks, times and logs the steps of one attempt.

    Args:
      recorder: where metrics go, every `log_every` steps. steps: where the run ends.
      limits: {metric: largest size}, for the sentence that says why a run diverged.
      batch_at: step -> batch, for the same. show: metrics on the progress bar.
      platform: of the devices; several CPU devices can deadlock when the loop runs ahead.
      end_dead: whether a dead network counts as diverged, instead of a warning alone.
      on_log: called with each step that is logged and its metrics.
      before: rows of metrics.jsonl of the steps before, of a run that is continued: it finds a dead
        network where one that was not interrupted would.
    """

    def __init__(
        self,
        recorder: Recorder | NullRecorder,
        *,
        steps: int,
        log_every: int,
        limits: Mapping[str, float],
        batch_at: Callable[[int], Batch],
        show: Iterable[str],
        platform: str,
        end_dead: bool = False,
        before: Iterable[Mapping[str, Any]] = (),
        on_log: OnLog | None = None,
    ) -> None:
        self.lag = 0 if platform == 'cpu' else LAG
        self.end_dead, self.on_log = end_dead, on_log
        self.recorder, self.steps, self.log_every = recorder, steps, log_every
        self.limits, self.batch_at, self.show = limits, batch_at, tuple(show)
        self.pending: collections.deque[tuple[int, Metrics]] = collections.deque()
        self.seconds: list[float] = []
        self.compile_seconds = 0.0  # of all compilations, with the first step of each
        self.last_end: float | None = None
        self.progress: Any = None  # a tqdm, while steps are made
        # the last logged steps, without the rows of evaluations
        self.logged: collections.deque[Mapping[str, Any]] = collections.deque(
            (row for row in before if 'loss' in row), maxlen=WINDOW
        )
        self.dead: int | None = None  # the step at which the network was found dead

    def bar(self, start: int) -> Iterator[int]:
        """The steps from `start` to the end, under a progress bar."""
        # counted by hand: as an iterator, tqdm counts a step twice after `unpause`
        self.progress = tqdm(
            total=self.steps,
            initial=start,
            unit='step',
            dynamic_ncols=True,
            bar_format=BAR,
            disable=not process.is_primary(),
        )
        with self.progress:
            for step in range(start + 1, self.steps + 1):
                yield step
                self.progress.update()

    @contextlib.contextmanager
    def compiling(self, each: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Around a step that is compiled first: says on the bar for how long, and keeps that time
        out of the bar's rate.

        Args: each: called at every sign of life, from a thread of its own.
        """
        begin, done = time.perf_counter(), threading.Event()

        def tick():
            while not done.wait(TICK):
                seconds = time.perf_counter() - begin
                self.progress.set_description(f'compiling, {seconds:.0f} s so far')
                each()

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        try:
            yield
        finally:
            done.set()
            ticker.join()
            self.compile_seconds += time.perf_counter() - begin
            self.last_end = None
            self.progress.set_description(refresh=False)
            self.progress.unpause()

    def after_step(self, step: int, metrics: Metrics) -> None:
        """Check the steps that are due, and record the time.

        Raises: Diverged.
        """
        self.pending.append((step, metrics))
        while len(self.pending) > self.lag:
            self._check()
        now = time.perf_counter()
        if self.last_end is not None:  # the first step, or one after a pause, may compile or wait
            self.seconds.append(now - self.last_end)
        self.last_end = now

    def pause(self) -> None:
        """Call before other work: lets only healthy states through, and stops the clock."""
        while self.pending:
            self._check()
        self.last_end = None

    def seconds_per_step(self) -> float | None:
        """The median on the CPU, the mean where steps overlap; None before any was timed."""
        if not self.seconds:
            return None
        return statistics.median(self.seconds) if not self.lag else statistics.fmean(self.seconds)

    def steps_per_second(self) -> float:
        """0 before any step was timed."""
        seconds = self.seconds_per_step()
        return 1 / seconds if seconds else 0.0

    def _check(self):
        step, metrics = self.pending.popleft()
        if not metrics['healthy']:  # this waits for the step
            self._diverged(step, jax.device_get(metrics))
        if step % self.log_every == 0 or step in (1, self.steps):
            values = _computed(jax.device_get(metrics))
            self._log(step, {**values, 'steps_per_second': self.steps_per_second()})
            self._watch_life(step, values)
            shown = {name: f'{values[name]:.3g}' for name in self.show if name in values}
            self.progress.set_postfix(shown, refresh=False)

    def _log(self, step, values):
        self.recorder.scalars(step, values)
        if self.on_log is not None and process.is_primary():
            self.on_log(step, values)

    def _watch_life(self, step, values):
        """Say once when the network no longer tells examples apart, which nothing mends.

        Raises: Diverged where that ends the attempt, at the first of these steps.
        """
        self.logged.append({'step': step, **values})
        if self.dead is None and len(self.logged) == WINDOW and is_dead(self.logged):
            self.dead = step
            found = (
                f'the network no longer tells data from samples (their energies, or the loss, are '
                f'the same at {WINDOW} logged steps): it is dead'
            )
            if self.end_dead:
                self.progress.close()
                raise Diverged(self.logged[0]['step'], found, made=step)
            self.progress.write(
                f'Warning: at step {step} {found}. Stop the run, and start another one with a '
                'lower learning rate or larger warm-up.'
            )

    def _diverged(self, step, metrics):
        self.progress.close()
        self._log(step, _computed(metrics))
        not_finite = [
            f'{name} = {float(value)}'
            for name, value in sorted(metrics.items())
            if not np.isfinite(value)
        ]
        beyond = [
            f'{name} = {float(metrics[name]):.3g} (beyond its limit of {limit:g})'
            for name, limit in self.limits.items()
            if abs(metrics[name]) > limit
        ]
        why = f'{", ".join(not_finite)} (not finite)' if not_finite else ', '.join(beyond)
        if metrics.get('quarantined', 0) > 0:
            why += f'; {metrics["quarantined"]:.0f} chains diverged'
        if not np.isfinite(np.asarray(self.batch_at(step)['x'])).all():
            why += '; its batch holds values that are not finite'
        raise Diverged(step, why)


def is_dead(rows: Iterable[Mapping[str, float]]) -> bool:
    """Whether in all these rows of metrics the energies of data and of samples are the same, or the
    loss does not change at all."""
    rows = list(rows)
    flat = [
        abs(row['s_gap']) <= 1e-6 * (1 + abs(row['s_positives']))
        for row in rows
        if 's_gap' in row and 's_positives' in row
    ]
    losses = {row.get('loss') for row in rows}
    return (len(flat) == len(rows) and all(flat)) or (len(losses) == 1 and None not in losses)


def _computed(metrics):
    """Metrics as floats, without the gradient norms of loss terms at steps that skip them."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if not (name.startswith('grad_norm/') and value < 0)
    }
