"""For notebooks, on a laptop or on Colab: what they need at their beginning, and pictures while a
run trains."""

import importlib
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata

# packages that are left as they are: replacing them would need a restart of the runtime
KEPT = ('jax', 'jaxlib', 'libtpu', 'numpy', 'flax', 'optax', 'orbax-checkpoint', 'chex')
NEEDED = {
    '': (
        *('jax', 'flax', 'optax', 'orbax.checkpoint', 'chex', 'dm_pix', 'absl', 'ml_collections'),
        *('tensorflow_datasets', 'scipy', 'sklearn', 'arviz_stats', 'PIL', 'matplotlib', 'tqdm'),
        *('tensorboardX', 'safetensors'),
    ),
    'speech': ('librosa', 'soundfile', 'praatio', 'noisereduce', 'pystoi'),
}
SIDE = 520  # of pictures, in pixels
SMALL = 'EBM_JAX_SMALL'  # environment: a run of seconds, to check that everything works


def set_up(clone: str | pathlib.Path, extra: str = '') -> bool:
    """Prepare a notebook: install what is missing beside the JAX that is there, use the cores of a
    CPU, and print versions and devices. No restart is needed.

    Args: clone: folder of the repository. extra: '' or 'speech'.
    Returns: whether the environment asks for small settings (EBM_JAX_SMALL).
    Raises: RuntimeError, in one sentence, where something cannot be had.
    """
    wanted = [*NEEDED[''], *(NEEDED[extra] if extra else ())]
    missing = [name for name in wanted if not _is_there(name)]
    if missing:
        _install(f'{pathlib.Path(clone)}[{extra}]' if extra else str(clone), missing)
    import jax
    from matplotlib import pyplot

    from ebm_jax.compiling import compile_quickly_on_cpu

    if tuple(map(int, jax.__version__.split('.')[:3])) < (0, 7, 2):
        raise RuntimeError(
            f'JAX {jax.__version__} is too old: choose a newer runtime, or pip install "jax>=0.7.2"'
        )
    compile_quickly_on_cpu()
    if 'JAX_NUM_CPU_DEVICES' not in os.environ:
        try:
            jax.config.update('jax_num_cpu_devices', 2 if (os.cpu_count() or 1) > 1 else 1)
        except RuntimeError:
            print('JAX was in use already; its devices stay as they are.')
    try:
        devices = jax.devices()
    except RuntimeError as error:
        raise RuntimeError(
            f'JAX finds no devices ({str(error).splitlines()[0]}): choose another runtime type, or '
            'restart the runtime'
        ) from error
    pyplot.close(pyplot.figure())  # from now on the notebook shows figures
    versions = ', '.join(f'{name} {metadata.version(name)}' for name in ('jax', 'flax', 'optax'))
    print(f'Python {sys.version.split()[0]}, {versions}')
    print(f'{len(devices)} {devices[0].platform.upper()} device(s): {devices[0].device_kind}')
    if devices[0].platform == 'cpu':
        print('No accelerator: this notebook uses small settings where they matter.')
    return bool(os.environ.get(SMALL))


def _is_there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package of a module
        return False


def _install(what, missing):
    print(f'Installing what is missing: {", ".join(missing)}')
    lines = []
    for name in KEPT:
        try:
            lines.append(f'{name}=={metadata.version(name)}\n')
        except metadata.PackageNotFoundError:
            continue
    with tempfile.NamedTemporaryFile('w', suffix='.txt') as constraints:
        constraints.writelines(lines)
        constraints.flush()
        command = [sys.executable, '-m', 'pip', 'install', '--quiet', '-c', constraints.name, what]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if 'ERROR' in line] or ['pip failed']
        raise RuntimeError(f'{", ".join(missing)} could not be installed: {said[0]}')
    importlib.invalidate_caches()


def watch(workdir: str | pathlib.Path) -> Callable[[int], None]:
    """A function of the training step that shows the newest pictures of a run, in place of those
    before: for `report` of `fit`."""
    from IPython import display
    from PIL import Image

    place = display.display(display.Markdown('*Pictures appear here.*'), display_id=True)

    def show(step: int) -> None:
        pictures = sorted((pathlib.Path(workdir) / 'samples').glob(f'*_{step:06d}.png'))
        if pictures:
            with Image.open(pictures[0]) as picture:
                factor = min(SIDE / side for side in picture.size)
            width = round(factor * picture.width)
            place.update(display.Image(str(pictures[0]), width=width))

    return show
