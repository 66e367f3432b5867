import atexit
import os
import shutil
import tempfile

os.environ['JAX_PLATFORMS'] = 'cpu'   # eight fake devices, also on a machine with an accelerator
# Tests compile much and compute little: LLVM's optimiser would take half of their time.
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_backend_optimization_level=0'

# One cache of compiled programs for this run of the suite, its workers and the commands that it starts: half the time goes to compilation.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='ebm_jax_tests_')
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.3'
    atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)

import jax  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)   # before the first computation: the sharded step is tested on fake devices
