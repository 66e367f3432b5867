"""What happens when a run diverges: back to a healthy state, a change for the next try, a log, and an end when no try is left.

The healthy states are the checkpoints at multiples of `checkpoint_every`: everything of a run is in them, and since they are on disk, a run
that is killed while it recovers takes up the same try where it was. What follows is a function of the log and those checkpoints only.
"""
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from ebm_jax import process
from ebm_jax.errors import InputError
from ebm_jax.record import write_json, write_whole

SOON = 4   # checkpoints: the reach of the ring, and one


class Remedy(NamedTuple):
    """What changes for one try. Every try has other random numbers, and goes on with the batches behind those it had seen.

    parts may give all arguments of `fit`; taken are method, batch_at, optimizer, prepare, ema, limits, pictures and evaluate.
    """
    name: str                                  # for people: 'learning rate x 0.5'
    parts: Callable[[], dict] = dict           # () -> arguments of `fit` that it replaces, with all changes so far


class Guard:
    """The tries of one run: which one it is in, and where the next would go. Kept in WORKDIR/recoveries, which nothing else writes."""

    def __init__(self, workdir, remedies):
        """remedies: one Remedy for each try, in turn."""
        self.folder, self.remedies = pathlib.Path(workdir) / 'recoveries', tuple(remedies)
        log = self.folder / 'log.json'
        self.log = json.loads(log.read_text()) if log.exists() else []
        done, named = [entry['change'] for entry in self.log], [remedy.name for remedy in self.remedies]
        if named[:len(done)] != done:
            raise InputError(f'{workdir} has already gone back {len(done)} times, with {", ".join(done)}: keep these as the first remedies '
                             f'(given: {", ".join(named) or "none"}), and add or leave out behind them')

    @property
    def tries_left(self):
        return len(self.remedies) - len(self.log)

    @property
    def attempt(self):
        """How often the run has gone back."""
        return len(self.log)

    @property
    def skipped(self):
        """How many batches the data are ahead of the steps: those of abandoned steps are not seen again."""
        return sum(entry['diverged_at'] - entry['back_to'] for entry in self.log)

    def parts(self):
        """The arguments of `fit` that the present try replaces."""
        return self.remedies[self.attempt - 1].parts() if self.log else {}

    def settle(self, checkpoints):
        """Drop the states past the beginning of the present try, also where the run was killed before it could."""
        if self.log and not self.log[-1]['settled']:
            checkpoints.drop_after(self.log[-1]['back_to'])
            self.log[-1]['settled'] = True
            process.by_leader(write_json)(self.folder / 'log.json', self.log)

    def target(self, step, ring, margin):
        """Where to go back to from a divergence at `step`.

        The newest state that is at least `margin` steps old, since one saved shortly before is likely on its way there; where the
        run got no further than ever before, the next one further back than last time; 0, the very beginning, where there is none. The last
        try begins anew, too, where the one before it ended soon: its states may all be on their way to where it ended.

        Args: ring: steps of healthy states, newest first.
        """
        if self.log and self.tries_left == 1 and step - self.log[-1]['back_to'] <= SOON * margin:
            return 0
        latest = step - margin
        if self.log and step <= max(entry['diverged_at'] for entry in self.log):
            latest = min(latest, self.log[-1]['back_to'] - 1)
        return next((state for state in ring if 0 < state <= latest), 0)

    def go_back(self, step, why, checkpoints, say):
        """Begin the next try: keep the abandoned metrics, write the log, drop the states past its beginning."""
        back_to = self.target(step, checkpoints.ring(), checkpoints.every)
        number, remedy = self.attempt + 1, self.remedies[self.attempt]
        self.log.append({'try': number, 'diverged_at': step, 'why': why, 'back_to': back_to, 'change': remedy.name, 'settled': False})
        lines = [f'Try {entry["try"]} of {len(self.remedies)}: the run had diverged at step {entry["diverged_at"]}: {entry["why"]}. '
                 f'Back to step {entry["back_to"]}, with {entry["change"]}.' for entry in self.log]
        process.by_leader(self._write)(number, back_to, lines)
        process.meet('recovery')
        self.settle(checkpoints)
        say(lines[-1])

    def _write(self, number, back_to, lines):
        self.folder.mkdir(exist_ok=True)
        rows = self.folder.parent / 'metrics.jsonl'
        abandoned = [line for line in rows.read_text().splitlines() if json.loads(line)['step'] > back_to]
        write_whole(self.folder / f'abandoned_{number}.jsonl', ''.join(line + '\n' for line in abandoned))
        write_whole(self.folder / 'log.txt', '\n'.join(lines) + '\n')
        write_json(self.folder / 'log.json', self.log)   # last: from here on the run is in this try

    def summary(self):
        """Figures for summary.json."""
        return {'recoveries': self.attempt, 'tries_left': self.tries_left}
