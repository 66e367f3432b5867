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


def of_machine() -> int:
    """Bytes that this process can still have: of the memory of the machine, or of the limit on its
    address space (`ulimit -v`), what it has not taken yet."""
    page = os.sysconf('SC_PAGE_SIZE')
    taken, held = _pages()
    physical = page * (os.sysconf('SC_PHYS_PAGES') - held)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return physical if limit == resource.RLIM_INFINITY else min(physical, limit - page * taken)


def _pages():
    """(pages of address space, pages in memory) of this process; (0, 0) where Linux's /proc is not
    there."""
    try:
        taken, held, *_ = pathlib.Path('/proc/self/statm').read_text().split()
    except OSError:
        return 0, 0
    return int(taken), int(held)


def of_devices(devices: Sequence[jax.Device]) -> int:
    """Bytes of all devices of this process together; CPU devices share the machine's."""
    stats = [device.memory_stats() for device in devices]
    limits = [found.get('bytes_limit', 0) if found else 0 for found in stats]
    return sum(limits) if all(limits) else of_machine()


def check(state: Any, program: Any, devices: Sequence[jax.Device]) -> None:
    """Refuse, before anything is allocated, a run whose state, or a single array of whose step, is
    larger than the memory that is left. A state is made whole, and then spread over the devices, so
    that it needs its room twice. What passes may still not fit (`is_exhausted`).

    Args:
      state: TrainState, or its shapes. program: a step, traced, as each device runs it.
    Raises: InputError that says what takes how much.
    """
    here = [device for device in devices if device.process_index == jax.process_index()]
    memory, n = of_devices(here), len(here)
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
