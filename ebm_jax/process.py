"""What a run owes to the machine it runs on: one writer for each folder, and an end in order when it is asked to stop."""
import contextlib
import fcntl
import os
import pathlib
import signal
import socket
import threading

from ebm_jax.errors import InputError


@contextlib.contextmanager
def only_writer(folder):
    """Hold a folder for this process; the system lets go of it however the process ends.

    Raises: InputError where another process holds it.
    """
    with (pathlib.Path(folder) / '.lock').open('a+') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise InputError(f'{folder} is being written by another run ({lock.read().strip()}): wait for its end, or choose another '
                             'folder') from error
        lock.truncate(0)
        lock.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        lock.flush()
        yield


class Stop:
    """Whether SIGTERM or SIGINT (Ctrl-C) has come: `signal` is it, or None. A second Ctrl-C interrupts at once.

    A context manager; signals reach the main thread only, elsewhere it does nothing.
    """
    SIGNALS = signal.SIGTERM, signal.SIGINT

    def __init__(self):
        self.signal = None
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def _note(self, number, frame):
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)
