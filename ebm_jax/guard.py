"""Recovery of a diverged run: back to a healthy state, a change for the next attempt, a log, and an
end when no attempt is left.

The healthy states are the checkpoints at multiples of `checkpoint_every`. They hold the whole state
of a run and are on disk, so a run that is killed while it recovers continues the same attempt where
it was. What follows is a function of the log and those checkpoints only.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ebm_jax import process
from ebm_jax.checkpoint import Checkpoints
from ebm_jax.errors import Diverged, InputError
from ebm_jax.record import atomic_write, read_json, read_rows, write_json
from ebm_jax.train import Recipe

SOON = 4  # in intervals of checkpoints: the length of the ring, plus one


class RecoveryAction(NamedTuple):
    """What changes for one attempt.

    Every attempt has new random numbers and continues with the batches after those already seen.
    """

    name: str  # for people: 'learning rate x 0.5'
    # () -> the recipe of the attempt, with all changes so far; None: that of the run, unchanged
    recipe: Callable[[], Recipe] | None = None


ENTRY = {
    'attempt': int,
    'diverged_at': int,
    'why': str,
    'back_to': int,
    'change': str,
    'settled': bool,
}


def read_log(path: pathlib.Path) -> list[dict[str, Any]]:
    """The attempts of a run so far, from recoveries/log.json.

    Raises: InputError where it is damaged: without it nobody knows in which attempt the run is.
    """
    log, problem = read_json(path, [])
    for entry in log:
        if not isinstance(entry, dict) or any(
            not isinstance(entry.get(name), kind) for name, kind in ENTRY.items()
        ):
            problem = problem or f'holds an entry that is not one of a recovery ({entry!r})'
    if problem:
        raise InputError(
            f'{path} {problem}: it says in which attempt the run is, so put a copy back, or train '
            'in a new workdir'
        )
    return log


class Guard:
    """The attempts of one run: the current one, and where the next one would go back to. Kept in
    WORKDIR/recoveries, which nothing else writes."""

    def __init__(self, workdir: pathlib.Path, actions: Sequence[RecoveryAction]) -> None:
        """actions: one for each attempt, in turn."""
        self.folder, self.actions = pathlib.Path(workdir) / 'recoveries', tuple(actions)
        self.log = read_log(self.folder / 'log.json')
        done = [entry['change'] for entry in self.log]
        given = [action.name for action in self.actions]
        if given[: len(done)] != done:
            raise InputError(
                f'{workdir} has already gone back {len(done)} times, with {", ".join(done)}: keep '
                f'these as the first recovery actions (given: {", ".join(given) or "none"}), and '
                'add or remove actions only after them'
            )

    @property
    def attempts_left(self) -> int:
        """How often the run may still go back."""
        return len(self.actions) - len(self.log)

    @property
    def attempt(self) -> int:
        """How often the run has gone back."""
        return len(self.log)

    @property
    def skipped(self) -> int:
        """How many batches the data are ahead of the steps: those of abandoned steps are not used
        again."""
        return sum(entry.get('made', entry['diverged_at']) - entry['back_to'] for entry in self.log)

    @property
    def action(self) -> RecoveryAction | None:
        """That of the current attempt; None before the first."""
        return self.actions[self.attempt - 1] if self.attempt else None

    def recipe(self, original: Recipe) -> Recipe:
        """The recipe of the current attempt."""
        changed = self.action and self.action.recipe
        return original if changed is None else changed()

    def settle(self, checkpoints: Checkpoints) -> None:
        """Drop the states after the beginning of the current attempt, also where the run was killed
        before it could."""
        if self.log and not self.log[-1]['settled']:
            checkpoints.drop_after(self.log[-1]['back_to'])
            self.log[-1]['settled'] = True
            process.primary_only(write_json)(self.folder / 'log.json', self.log)

    def target(self, step: int, ring: Sequence[int], margin: int) -> int:
        """The step to go back to from a divergence at `step`.

        This is the newest state that is at least `margin` steps old, since a state saved shortly
        before is likely on its way there. Where the run got no further than ever before, it is the
        next state further back than last time; where there is none, 0, the very beginning. The last
        attempt also restarts at 0 where the one before it ended soon: its states may all be on
        their way to where it ended.

        Args: ring: steps of healthy states, newest first.
        """
        last = self.log and self.attempts_left == 1
        if last and step - self.log[-1]['back_to'] <= SOON * margin:
            return 0
        latest = step - margin
        if self.log and step <= max(entry['diverged_at'] for entry in self.log):
            latest = min(latest, self.log[-1]['back_to'] - 1)
        return next((state for state in ring if 0 < state <= latest), 0)

    def go_back(
        self, error: Diverged, checkpoints: Checkpoints, echo: Callable[[str], None]
    ) -> None:
        """Begin the next attempt: keep the abandoned metrics, write the log, drop the states after
        its beginning."""
        step = error.step
        back_to = self.target(step, checkpoints.ring(), checkpoints.every)
        number, action = self.attempt + 1, self.actions[self.attempt]
        entry = {
            'attempt': number,
            'diverged_at': step,
            'made': error.made,
            'why': error.why,
            'back_to': back_to,
            'change': action.name,
            'settled': False,
        }
        self.log.append(entry)
        lines = [
            f'Attempt {entry["attempt"]} of {len(self.actions)}: the run had diverged at step '
            f'{entry["diverged_at"]}: {entry["why"]}. Back to step {entry["back_to"]}, with '
            f'{entry["change"]}.'
            for entry in self.log
        ]
        process.primary_only(self._write)(number, back_to, lines)
        process.barrier('recovery')
        self.settle(checkpoints)
        echo(lines[-1])

    def _write(self, number, back_to, lines):
        self.folder.mkdir(exist_ok=True)
        rows, _ = read_rows(self.folder.parent / 'metrics.jsonl')
        abandoned = [json.dumps(row) + '\n' for row in rows if row['step'] > back_to]
        atomic_write(self.folder / f'abandoned_{number}.jsonl', ''.join(abandoned))
        atomic_write(self.folder / 'log.txt', '\n'.join(lines) + '\n')
        # last: from here on the run is in this attempt
        write_json(self.folder / 'log.json', self.log)

    def summary(self) -> dict[str, int]:
        """The entries for summary.json."""
        return {'recoveries': self.attempt, 'tries_left': self.attempts_left}
