"""The processes of a run: one writer per folder, an orderly end on a signal, and which of several
processes does what.

In a run of several processes (`jax.distributed`) all do the same work; only the first, the primary
one, writes files and shows progress.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from ebm_jax.errors import InputError, InUse


def is_primary() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def primary_only(fn: Callable[..., Any]) -> Callable[..., Any]:
    """fn on the primary process, a function that does nothing on the others."""
    return fn if is_primary() else lambda *args, **kwargs: None


def barrier(name: str) -> None:
    """Wait until all processes have reached this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def gathered(state: Any) -> Any:
    """A state from `sharding.unshard_state`, whole on each process; all processes must call it."""
    if jax.process_count() == 1:
        return state

    def raw(leaf):
        return (
            jax.random.key_data(leaf)
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf
        )

    whole = jax.tree.map(
        lambda leaf: multihost_utils.process_allgather(raw(leaf), tiled=True), state
    )
    return whole.replace(key=jax.random.wrap_key_data(whole.key))


@contextlib.contextmanager
def exclusive_lock(folder: str | pathlib.Path) -> Iterator[None]:
    """Lock a folder for this run; the system releases the lock however the process ends.

    Raises: InUse where another run holds it; InputError where its file is a folder.
    """
    if not is_primary():
        yield
        return
    file = pathlib.Path(folder) / '.lock'
    if file.is_dir():
        raise InputError(f'{file} is a folder and not a file: remove it')
    with file.open('a+') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise InUse(
                f'{folder} is being written by another run ({lock.read().strip()}): wait for its'
                ' end, or choose another folder'
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            print(
                f'{folder} lies on a file system without locks ({error.strerror}): make sure'
                ' yourself that only one run writes there'
            )
        lock.truncate(0)
        lock.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        lock.flush()
        yield


class Stop:
    """Whether SIGTERM or SIGINT (Ctrl-C) has arrived: `signal` is the signal, or None. A second
    Ctrl-C interrupts at once. While the main thread is in the compiler it sees no signal: another
    thread then asks `end_if_asked`.

    A context manager. Signals reach the main thread only; elsewhere it does nothing. With several
    processes JAX itself listens for SIGTERM and finds a step at which all of them stop; Ctrl-C then
    interrupts as usual.
    """

    SIGNALS = signal.SIGTERM, signal.SIGINT

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None  # gets the number of each signal as it arrives
        self._wakeup = -1
        self._arrived: list[int] = []

    def __enter__(self) -> 'Stop':
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
            self._pipe = os.pipe()
            for end in self._pipe:
                os.set_blocking(end, False)
            self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        return self

    def end_if_asked(self, sentence: str | None) -> None:
        """End the process if a signal has arrived, from a thread beside the main one.

        Args: sentence: what to say, where nothing is to be saved; None: only a second Ctrl-C ends.
        """
        if self._pipe is None:
            return
        with contextlib.suppress(BlockingIOError):
            self._arrived += [n for n in os.read(self._pipe[0], 64) if n in self.SIGNALS]
        hard = self._arrived.count(signal.SIGINT) > 1
        if self._arrived and (hard or sentence is not None):
            name = signal.Signals(self._arrived[-1]).name
            print(f'\n{name}: {sentence or "ended at once."}', file=sys.stderr, flush=True)
            os._exit(128 + self._arrived[-1])

    def _note(self, number, frame):
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def asked(self, step: int) -> bool:
        """Whether to stop before this step; all processes get the same answer, and must ask at
        every step."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.signal = signal.SIGTERM
        return self.signal is not None

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pipe is not None:
            signal.set_wakeup_fd(self._wakeup)
            for end in self._pipe:
                os.close(end)
            self._pipe = None
