"""Batches made ahead of the step that takes them."""

import collections
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar('T')
AHEAD = 2  # batches that are ready, or being made, while a step runs


def prefetched(make: Callable[[int], T], steps: range, *, ahead: int = AHEAD) -> Generator[T]:
    """make(step) of each step in turn, made on a thread while earlier ones are in use.

    The values depend on the step alone, so that a run which is stopped and continued sees the same.

    Args: make: reads a batch and places it on the devices. ahead: >= 1.
    Raises: what `make` raises, at the step that it was raised for.
    """
    pool, ready = ThreadPoolExecutor(1, 'prefetch'), collections.deque[Future[T]]()
    coming = iter(steps)
    try:
        for _ in steps:
            for step in coming:
                ready.append(pool.submit(make, step))
                if len(ready) > ahead:
                    break
            yield ready.popleft().result()
    finally:  # also where a run ends early
        pool.shutdown(cancel_futures=True)
