import atexit
import gc
import importlib.metadata
import os
import shutil
import tempfile

# eight fake devices, also on a machine with an accelerator
os.environ['JAX_PLATFORMS'] = 'cpu'
# Tests compile much and compute little. On one train step of three networks these flags cut
# compilation from 9 s to 3 s (JAX 0.10).
FAST_TO_COMPILE = [
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    '--xla_cpu_parallel_codegen_split_count=1',
]
if importlib.metadata.version('jaxlib').startswith('0.10.'):
    # later versions do not have this flag, and abort on unknown flags
    FAST_TO_COMPILE.append('--xla_cpu_use_fusion_emitters=false')
os.environ['XLA_FLAGS'] = ' '.join([os.environ.get('XLA_FLAGS', ''), *FAST_TO_COMPILE])

# where in the source each operation comes from is not looked at
os.environ.setdefault('JAX_TRACEBACK_IN_LOCATIONS_LIMIT', '0')

# tracing makes many long-lived objects: scanning them often costs a tenth of the suite's time
gc.set_threshold(200_000, 50, 100)

# One cache of compiled programs for this run of the suite, its workers and the commands that it
# starts: half the time goes to compilation.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='ebm_jax_tests_')
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.02'
    atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)

import jax  # noqa: E402

# before the first computation: the sharded step is tested on fake devices
jax.config.update('jax_num_cpu_devices', 8)


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that no worker is left with one at the end (the
    Makefile keeps this order)."""
    items.sort(key=lambda item: not item.path.name.startswith('test_experiments'))
