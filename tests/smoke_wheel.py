"""Install the wheel of a folder into an empty environment and use it from outside the clone:
python tests/smoke_wheel.py dist [PYTHON]

Import, train the README's example for two steps, export the model, and load it again.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
AFTERWARDS = """
import pathlib
import ebm_jax
assert 'site-packages' in ebm_jax.__file__, ebm_jax.__file__
assert (pathlib.Path(ebm_jax.__file__).parent / 'py.typed').exists()
ebm_jax.load('runs/mine').export('exported')
probabilities = ebm_jax.load('exported').class_probs(test.x[:5])
assert probabilities.shape == (5, 10) and abs(probabilities.sum(1) - 1).max() < 1e-5
print('the wheel works:', ebm_jax.__version__)
"""


def main(folder: str, python: str = sys.executable) -> None:
    (wheel,) = pathlib.Path(folder).resolve().glob('*.whl')
    (sdist,) = pathlib.Path(folder).resolve().glob('*.tar.gz')
    programs = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
    (program,) = (code for code in programs if 'steps=600' in code)
    program = program.replace('steps=600', 'steps=2')
    with tempfile.TemporaryDirectory() as empty:
        run = pathlib.Path(empty) / 'venv' / 'bin' / 'python'
        subprocess.run([python, '-m', 'venv', f'{empty}/venv'], check=True)
        pip = [run, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
        subprocess.run([*pip, '-c', ROOT / 'requirements.txt', wheel], check=True, cwd=empty)
        # the sdist builds the same wheel
        subprocess.run([*pip, '--no-deps', '--force-reinstall', sdist], check=True, cwd=empty)
        (pathlib.Path(empty) / 'use.py').write_text(program + AFTERWARDS)
        subprocess.run([run, 'use.py'], check=True, cwd=empty)


if __name__ == '__main__':
    main(*sys.argv[1:])
