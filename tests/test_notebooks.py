"""The notebooks' sources: without outputs, with one first cell that works. `make docs` executes all
their cells."""

import json
import pathlib
import re
import subprocess
import sys
from importlib import metadata

import pytest

import ebm_jax
from ebm_jax import notebook

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
URL = re.search(r"URL = '(.*)'", (ROOT / 'setup.py').read_text()).group(1)


def cells(path, kind):
    found = json.loads(path.read_text())['cells']
    return [''.join(cell['source']) for cell in found if cell['cell_type'] == kind]


def test_all_six_are_there():
    names = {path.stem for path in NOTEBOOKS}
    assert names == {
        *('st_jem_digits', 'cifar10_tpu', 'icd_compose', 'dual_mcmc', 'speech', 'your_own')
    }


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_a_source_that_opens_in_colab(path):
    content = json.loads(path.read_text())
    for cell in content['cells']:
        assert not cell.get('outputs') and cell.get('execution_count') is None
    begin = cells(path, 'markdown')[0]
    repository = URL.removeprefix('https://github.com/')
    colab = f'colab.research.google.com/github/{repository}/blob/main/notebooks/{path.name}'
    assert begin.startswith('# ') and colab in begin and '**Time**' in begin
    first = cells(path, 'code')[0]
    assert f"REPOSITORY = '{URL}'" in first
    # one cell, the same in all but for what speech needs
    same = cells(NOTEBOOKS[0], 'code')[0]
    assert first.replace(", 'speech')", ')') == same.replace(", 'speech')", ')')


@pytest.mark.parametrize('name', ['st_jem_digits', 'speech'])
def test_the_first_cell_sets_up(name, tmp_path):
    """From the folder of the clone that it stands in, and a second time without harm."""
    first = cells(ROOT / 'notebooks' / f'{name}.ipynb', 'code')[0]
    (tmp_path / 'cell.py').write_text(f'{first}\nimport jax\njax.devices()\n{first}\nprint(small)')
    done = subprocess.run(
        [sys.executable, tmp_path / 'cell.py'],
        cwd=ROOT / 'notebooks',
        capture_output=True,
        text=True,
        env={'PATH': '', 'JAX_PLATFORMS': 'cpu', 'EBM_JAX_SMALL': '1'},
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith('Python 3.') and f'jax {metadata.version("jax")}' in said[0]
    assert 'CPU device' in said[1] and said[-1] == 'True'
    assert 'Installing' not in done.stdout


def test_the_clone_is_found_again_beside_the_installed_library(tmp_path):
    """As after a restart of Colab's runtime: the first start has cloned and installed."""
    (tmp_path / 'site').mkdir()
    (tmp_path / 'site' / 'ebm_jax').symlink_to(ROOT / 'ebm_jax')
    (tmp_path / 'ebm_jax_clone').symlink_to(ROOT)
    first = cells(ROOT / 'notebooks' / 'st_jem_digits.ipynb', 'code')[0]
    (tmp_path / 'cell.py').write_text(f'{first}\nimport experiments\nprint(experiments.__file__)')
    done = subprocess.run(
        [sys.executable, tmp_path / 'cell.py'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={'PATH': '', 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(tmp_path / 'site')},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f'{tmp_path}/ebm_jax_clone/experiments/__init__.py'


def test_one_address_and_one_version():
    citation = (ROOT / 'CITATION.cff').read_text()
    assert (
        f'version: {ebm_jax.__version__}\n' in citation and f'repository-code: {URL}\n' in citation
    )
    for document in ('README.md', 'docs/install.md'):
        assert f'git clone {URL}\n' in (ROOT / document).read_text()


def test_what_cannot_be_installed_is_said_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(notebook.NEEDED, 'speech', ('no_such_module',))
    with pytest.raises(RuntimeError, match='^no_such_module could not be installed: ERROR'):
        notebook.set_up(tmp_path / 'no_such_clone', 'speech')
