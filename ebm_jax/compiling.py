"""How programs are compiled: kept from one run to the next, and quickly."""

import importlib.util
import os
import pathlib
from importlib import metadata

import jax

# Of LLVM on the CPU, 3 by default: its last level takes an eighth to two fifths of the time before
# the first step (most of it for random numbers), and makes no step faster (docs/results/speed.md).
CPU_LEVEL = 2
CPU_FLAG = '--xla_backend_optimization_level'
# Of the TPU compiler, in [-1, 1], 0 by default: at -1 the train steps of CIFAR-10 compile in one to
# five minutes, and the compiler expects them to run about as fast (docs/results/speed.md).
TPU_EFFORT = -1.0
MAX_BYTES = 4 * 2**30  # of the folder; the programs that were not used for longest go first


def keep_programs() -> None:
    """Keep compiled programs in the user's cache folder, so that the second start of an experiment
    does not compile again. Has no effect where the user chose a folder (JAX_COMPILATION_CACHE_DIR),
    or none (JAX_ENABLE_COMPILATION_CACHE=false).

    The folder is $XDG_CACHE_HOME/ebm_jax, by default ~/.cache/ebm_jax; JAX names the programs by
    their code, its own version, the devices and the flags.
    """
    if not jax.config.values['jax_compilation_cache_dir']:
        caches = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
        jax.config.update('jax_compilation_cache_dir', str(pathlib.Path(caches) / 'ebm_jax'))
        jax.config.update('jax_compilation_cache_max_size', MAX_BYTES)


def compile_quickly_on_cpu() -> None:
    """Let the compiler of a CPU take less time; must be called before JAX's first computation. Has
    no effect where another platform may do the work (the flag would be for that one, too), or where
    the user chose (--xla_backend_optimization_level in XLA_FLAGS).
    """
    chosen = os.environ.get('XLA_FLAGS', '')
    if CPU_FLAG not in chosen and _only_cpu():
        os.environ['XLA_FLAGS'] = f'{chosen} {CPU_FLAG}={CPU_LEVEL}'.strip()


def _only_cpu() -> bool:
    """Whether JAX will use the CPU, found out without starting it."""
    platforms = jax.config.values['jax_platforms']
    if platforms:
        return platforms.split(',')[0] == 'cpu'
    plugins = metadata.entry_points(group='jax_plugins')
    others = ('jax_plugins', 'libtpu')  # GPUs, TPUs
    return not plugins and not any(importlib.util.find_spec(name) for name in others)


def compile_quickly_on_tpu() -> None:
    """Let the compiler of a TPU take less time: minutes instead of a quarter of an hour. Has no
    effect on other devices, or where the user chose (JAX_EXEC_TIME_OPTIMIZATION_EFFORT)."""
    chosen = 'JAX_EXEC_TIME_OPTIMIZATION_EFFORT' in os.environ
    if jax.default_backend() == 'tpu' and not chosen:
        jax.config.update('jax_exec_time_optimization_effort', TPU_EFFORT)
