"""One run as several processes: the flags by which they find each other."""

import atexit
import subprocess
import sys
from typing import Any

import jax
from absl import flags

from ebm_jax.errors import InputError

# seconds without a sign of life after which the other processes of a run give up
HEARTBEAT = 20
WATCHES: list[subprocess.Popen] = []  # the children of say_if_this_process_dies


def define(values: Any) -> None:
    """The flags of a run of several processes."""
    flags.DEFINE_bool(
        'distributed',
        False,
        'One of several processes that share a run, on a TPU pod, Slurm, Kubernetes or MPI, which'
        ' JAX detects automatically; elsewhere also give the next three flags.',
        flag_values=values,
    )
    flags.DEFINE_string('coordinator', None, 'HOST:PORT of the first process.', flag_values=values)
    flags.DEFINE_integer('processes', None, 'How many there are.', 1, flag_values=values)
    flags.DEFINE_integer('process', None, 'Which of them this is, from 0.', 0, flag_values=values)
    flags.DEFINE_integer(
        'wait', 300, 'Seconds to wait for the others at the start.', 1, flag_values=values
    )


def join(values: Any) -> None:
    """Join the other processes of a run if the flags say so; must be called before JAX's first
    computation."""
    given = [values.coordinator, values.processes, values.process]
    if not values.distributed and all(value is None for value in given):
        return
    if any(value is None for value in given) and not all(value is None for value in given):
        raise InputError(
            'give --coordinator=HOST:PORT, --processes=N and --process=I together, or none of them'
            ' and --distributed'
        )
    if values.process is not None and values.process >= values.processes:
        raise InputError(
            f'--process counts from 0 and must be below --processes={values.processes}, got'
            f' {values.process}'
        )
    say_if_this_process_dies()
    try:
        jax.distributed.initialize(
            values.coordinator,
            values.processes,
            values.process,
            initialization_timeout=values.wait,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f'the processes of this run do not find each other ({str(error).splitlines()[0]}): give'
            ' --coordinator=HOST:PORT, --processes=N and --process=I to each'
        ) from error


def say_if_this_process_dies() -> None:
    """When one process of a run dies, JAX ends the others from C++, where no exception can be
    caught: a child process then says what to do."""
    watch = (
        'import sys\nif not sys.stdin.read():\n    print("error: this process of the run ended'
        ' early, most likely because another one did: start all of them again with the same'
        ' commands; they continue from the newest complete checkpoint", file=sys.stderr)'
    )
    child = subprocess.Popen(
        [sys.executable, '-c', watch], stdin=subprocess.PIPE, start_new_session=True
    )
    WATCHES.append(child)
    atexit.register(child.communicate, b'in order')
