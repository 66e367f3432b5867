"""Live processes that are timed in turn (A B A B ...), so that all see the machine in the same
state."""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def seconds(run: Callable[..., Any], *arguments: Any) -> float:
    """How long run(*arguments) takes, which must wait for its results."""
    begin = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - begin


def serve(run: Callable[..., Any], version: str, variants: Sequence[str] = ()) -> None:
    """Answer each line of arguments on standard input with the seconds that run(*arguments) took;
    the worker's half of `Worker`, which is told the version and the variants."""
    print(json.dumps([version, list(variants)]), flush=True)
    for line in sys.stdin:
        print(json.dumps(seconds(run, *json.loads(line))), flush=True)


class Worker:
    """A process that ends in `serve`.

    Attributes: version, variants: what it said when it was ready.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Raises: RuntimeError, with the last line of its errors, where it does not start."""
        self._errors = tempfile.TemporaryFile('w+')  # noqa: SIM115, open as long as the process
        self._process = subprocess.Popen(
            command,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        self.version, self.variants = self._answer()

    def time(self, *arguments: Any) -> float:
        """Seconds. Raises: RuntimeError where the process has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which the answer will tell
            print(json.dumps(arguments), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self):
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines()
            raise RuntimeError(said[-1] if said else 'a timed process ended without a word')
        return json.loads(line)


def in_turn(variants: Mapping[str, Callable[[], float]], rounds: int) -> list[dict[str, float]]:
    """Seconds of each variant in each round, after a first call of each, which compiles."""
    for seconds_of in variants.values():
        seconds_of()
    return [{name: seconds_of() for name, seconds_of in variants.items()} for _ in range(rounds)]


def ratio(rounds: Sequence[Mapping[str, float]], name: str, reference: str) -> float:
    """Median over rounds of seconds of `name` / seconds of `reference`."""
    return statistics.median(each[name] / each[reference] for each in rounds)
