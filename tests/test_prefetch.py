"""Batches made ahead: the same in the same order, no more of them than asked for."""

import threading
import time

import pytest

from ebm_jax.prefetch import prefetched


def test_the_values_are_those_of_the_steps_in_order():
    made = []

    def make(step):
        made.append((step, threading.current_thread() is not threading.main_thread()))
        return step**2

    assert list(prefetched(make, range(3, 10))) == [step**2 for step in range(3, 10)]
    assert made == [(step, True) for step in range(3, 10)]


def test_no_more_are_made_than_asked_for_and_none_after_an_early_end():
    made = []
    batches = prefetched(lambda step: made.append(step), range(100), ahead=3)
    next(batches)
    time.sleep(0.1)
    assert made == [0, 1, 2, 3]
    batches.close()
    time.sleep(0.1)
    assert len(made) <= 4 and threading.active_count() < 20


def test_a_batch_is_made_while_the_one_before_is_used():
    began = threading.Event()

    def make(step):
        if step == 1:
            began.set()
        return step

    batches = prefetched(make, range(2))
    assert next(batches) == 0
    assert began.wait(5)  # without asking for it


def test_what_make_raises_is_raised_at_its_step():
    def make(step):
        if step == 2:
            raise OSError('no such record')
        return step

    batches = prefetched(make, range(5))
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(OSError, match='no such record'):
        next(batches)
