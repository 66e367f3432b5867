"""CPU devices of a run."""

import math
import os
from typing import Any

import jax


def use_all_cores(*configs: Any) -> None:
    """Set up several CPU devices, which use the cores better than one and give the same result;
    must be called before JAX's first computation.

    Takes the largest number of devices, up to the number of cores, that divides all `divisors()` of
    the configurations (without configurations: one device per core). Has no effect where an
    accelerator does the work, or where the user chose a number (XLA_FLAGS, JAX_NUM_CPU_DEVICES).
    """
    chosen = (
        'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', '')
        or 'JAX_NUM_CPU_DEVICES' in os.environ
    )
    if chosen or jax.distributed.is_initialized():
        return
    # 0 for no configuration, which any number divides
    common = math.gcd(*(number for config in configs for number in config.divisors()))
    has_affinity = hasattr(os, 'sched_getaffinity')
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    fitting = [n for n in range(1, max(cores, 1) + 1) if common % n == 0]
    jax.config.update('jax_num_cpu_devices', max(fitting))
