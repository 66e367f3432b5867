"""The ways a run ends early: unusable input, divergence, a signal, or a file that cannot be
written."""

from signal import Signals


class InputError(ValueError):
    """Something the user gave (a flag, file, data set, checkpoint) cannot be used; the message is
    one sentence that says what to do."""


class InUse(InputError):
    """Another run writes to the folder."""


class ChainsDiverged(InputError):
    """Chains of a trained energy end at values that are not finite."""


class Diverged(RuntimeError):
    """A step that is not healthy. `account` is the full message, `why` the metrics that failed,
    `then` what is kept and what to do, `made` the last step that was made, where that is a later
    one."""

    def __init__(self, step: int, why: str, then: str = '', made: int | None = None) -> None:
        self.made = step if made is None else made
        self.step, self.why, self.account = (
            step,
            why,
            f'Training diverged at step {step}: {why}.{then}',
        )
        super().__init__(self.account)


class Stopped(RuntimeError):
    """A signal asked the run to stop; everything up to `step` is saved."""

    def __init__(self, signal: Signals, step: int) -> None:
        super().__init__(f'Stopped by {signal.name} after step {step}; the same command continues.')
        self.signal, self.step = signal, step


class NotSaved(OSError):
    """A file of the run cannot be written; what was written before stays."""
