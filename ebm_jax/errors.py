"""The two ways a run ends early: what the user gave cannot be used, or the run diverged."""


class InputError(ValueError):
    """Something the user gave (a flag, file, data set, checkpoint) cannot be used; the message is one sentence that says what to do."""


class Diverged(RuntimeError):
    """A step produced a number that is not finite. `account` says when, which figures, and what is kept."""

    def __init__(self, step, account):
        super().__init__(account)
        self.step, self.account = step, account
