"""How programs are compiled: kept from one run to the next, and quickly for TPUs."""

import os
import pathlib

import jax

# Of the TPU compiler, in [-1, 1], 0 by default: at -1 the train steps of CIFAR-10 compile in one to
# five minutes, and the compiler expects them to run about as fast (docs/results/speed.md).
EFFORT = -1.0
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


def compile_quickly() -> None:
    """Let the compiler of a TPU take less time: minutes instead of a quarter of an hour. Has no
    effect on other devices, or where the user chose (JAX_EXEC_TIME_OPTIMIZATION_EFFORT)."""
    chosen = 'JAX_EXEC_TIME_OPTIMIZATION_EFFORT' in os.environ
    if jax.default_backend() == 'tpu' and not chosen:
        jax.config.update('jax_exec_time_optimization_effort', EFFORT)
