"""How much memory there is, and whether a run fits into it."""

import os
import pathlib
import resource
from collections.abc import Sequence
from typing import Any

import jax

from ebm_jax import cost
from ebm_jax.errors import InputError

LOWER = "lower the batch size, the number of chains, the buffer's capacity or the network's widths"


def left() -> int:
    """Bytes that this process can still have: of the memory of the machine, of its control groups
    (containers, batch systems) or of the limit on its address space (`ulimit -v`), what it has not
    taken yet; at least 0."""
    page = os.sysconf('SC_PAGE_SIZE')
    taken, held = _pages()
    physical = min([page * os.sysconf('SC_PHYS_PAGES'), *group_limits()]) - page * held
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        physical = min(physical, limit - page * taken)
    return max(physical, 0)


def group_limits(
    groups: str | pathlib.Path = '/proc/self/cgroup', mounted: str | pathlib.Path = '/sys/fs/cgroup'
) -> list[int]:
    """The limits on memory of the control groups that this process is in, of either version, and of
    the groups above these; empty where there are none. Bytes.

    Args: groups: the file that names them. mounted: where their files are.
    """
    top, found = pathlib.Path(mounted), []
    try:
        lines = pathlib.Path(groups).read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, name = line.split(':', 2)
        if 'memory' in controllers.split(','):
            root, file = top / 'memory', 'memory.limit_in_bytes'
        elif not controllers:
            root, file = top, 'memory.max'
        else:
            continue
        group = pathlib.PurePosixPath(name)
        for place in (group, *group.parents):  # the last one, /, is a container's own
            limit = root / str(place).lstrip('/') / file
            try:
                text = limit.read_text().strip()
            except OSError:  # not there, or not to be read
                continue
            found += [int(text)] if text.isdecimal() else []
    return found


def _pages():
    """(pages of address space, pages in memory) of this process; (0, 0) where Linux's /proc is not
    there."""
    try:
        taken, held, *_ = pathlib.Path('/proc/self/statm').read_text().split()
    except OSError:
        return 0, 0
    return int(taken), int(held)


def left_on(devices: Sequence[jax.Device]) -> int:
    """Bytes that are left on these devices together; CPU devices share the machine's."""
    stats = [device.memory_stats() or {} for device in devices]
    if not all('bytes_limit' in found for found in stats):
        return left()
    return sum(found['bytes_limit'] - found.get('bytes_in_use', 0) for found in stats)


def check(state: Any, program: Any, devices: Sequence[jax.Device]) -> None:
    """Refuse, before anything is allocated, a run whose state, or a single array of whose step, is
    larger than the memory that is left. A state is made whole, and then spread over the devices, so
    that it needs its room twice; arrays count as the program has them, before XLA fuses any. What
    passes may still not fit (`is_exhausted`).

    Args:
      state: TrainState, or its shapes. program: a step, traced, as each device runs it.
    Raises: InputError that says what takes how much.
    """
    here = [device for device in devices if device.process_index == jax.process_index()]
    memory, n = left_on(here), len(here)
    chains = cost.num_bytes(state.chains) * n // len(devices)
    rest = n * cost.num_bytes(state.replace(chains=()))
    largest = n * cost.largest_array(program)
    needed = max(chains + rest + cost.num_bytes(state), largest)
    if needed > memory:
        raise InputError(
            f'this run needs {_shown(needed)} of memory and {_shown(memory)} are left: its chains '
            f'take {_shown(chains)}, parameters and optimiser {_shown(rest)}, the largest array of '
            f'a step {_shown(largest)}: {LOWER}'
        )


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that memory could not be allocated."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(said in text for said in ('resource_exhausted', 'out of memory', 'bad_alloc'))
    )


def _shown(size):
    return f'{size / 2**30:,.1f} GiB'
