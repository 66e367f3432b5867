"""Imports run one way: types <- parts <- methods <- experiments, and types <- train <- fit <- experiments."""
import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
BASE = {'types', 'devices', 'errors', 'conv', 'cost'}
MAY_IMPORT = {   # module -> what of ebm_jax it may import
    'types': set(), 'devices': set(), 'errors': set(), 'conv': set(), 'cost': set(),
    'mcmc': BASE, 'replay': BASE | {'mcmc'}, 'objectives': BASE, 'augment': BASE, 'networks': BASE, 'data': BASE, 'record': BASE,
    'audio': BASE, 'speech': BASE | {'audio', 'data'}, 'formants': BASE | {'speech'},
    'adapt': BASE | {'mcmc'}, 'compose': BASE,
    'methods': BASE | {'mcmc', 'objectives', 'replay', 'methods'},
    'process': BASE, 'train': BASE, 'checkpoint': BASE | {'process'},
    'guard': BASE | {'process', 'record'}, 'fit': BASE | {'train', 'checkpoint', 'record', 'guard', 'process'},
    'evaluate': BASE | {'objectives', 'mcmc', 'data', 'record', 'networks', 'evaluate'},
    'apply': BASE | {'mcmc', 'objectives', 'apply'},
}
FORBIDDEN = {'methods': {'optax', 'flax.linen', 'absl', 'ml_collections'}}   # networks and optimisers arrive as arguments
EVERYWHERE_FORBIDDEN = {'absl', 'ml_collections', 'experiments', 'torch', 'tensorflow'}
FILES = sorted((ROOT / 'ebm_jax').rglob('*.py'))


def imports(path):
    """Every module that a file imports, 'from a import b' as both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path} imports relatively'
            yield node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def room(path):
    return path.relative_to(ROOT / 'ebm_jax').parts[0].removesuffix('.py')


def rooms_imported(path):
    return {name.split('.')[1] for name in imports(path) if name.startswith('ebm_jax.')} & set(MAY_IMPORT)


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    if room(path) == '__init__':
        return
    own = {room(path)} if path.parent.name in ('evaluate', 'apply', 'methods', 'networks') else set()
    assert rooms_imported(path) <= MAY_IMPORT[room(path)] | own


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_knows_no_launcher_and_no_other_framework(path):
    banned = EVERYWHERE_FORBIDDEN | FORBIDDEN.get(room(path), set())
    found = {name for name in imports(path) for ban in banned if name == ban or name.startswith(ban + '.')}
    assert not found


def test_only_train_says_pmap():
    assert [p.name for p in FILES if 'jax.pmap' in p.read_text() or 'jax.pmap' in set(imports(p))] == ['train.py']


def test_methods_do_not_import_each_other():
    for path in (ROOT / 'ebm_jax' / 'methods').glob('*.py'):
        others = {p.stem for p in path.parent.glob('*.py')} - {path.stem, '__init__'}
        assert not {name for name in imports(path) if name.split('.')[-1] in others and 'methods' in name}
