"""Imports go one way, in the library and in the packages above it, and are never circular."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# part of ebm_jax -> what of ebm_jax it may import, besides the base and itself
BASE = {
    'types',
    'errors',
    'devices',
    'conv',
    'cost',
    'images',
    'validity',
    'initial',
    'batching',
    'shapes',
    'labels',
    'versions',
    'memory',
}
LIBRARY = {
    'types': set(),
    'errors': set(),
    'conv': {'types'},
    'images': set(),
    'labels': {'types'},
    'shapes': {'types'},
    'versions': set(),
    'compiling': set(),
    'notebook': {'compiling'},
    'devices': {'types', 'versions'},
    'cost': {'types', 'conv'},
    'memory': {'cost', 'errors'},
    'prefetch': set(),
    'initial': {'types'},
    'batching': {'types', 'shapes', 'versions'},
    'validity': {'types', 'devices'},
    'audio': BASE,
    'augment': BASE,
    'composition': BASE,
    'data': BASE | {'audio'},
    'mcmc': BASE,
    'kernels': BASE | {'mcmc'},
    'networks': BASE,
    'objectives': BASE,
    'process': BASE,
    'record': BASE,
    'replay': BASE,
    'teaching': BASE,
    'adapt': BASE | {'mcmc'},
    'negatives': BASE | {'replay'},
    'kl': BASE | {'mcmc', 'negatives', 'objectives', 'replay'},
    'methods': BASE
    | {'adapt', 'kernels', 'kl', 'mcmc', 'negatives', 'objectives', 'replay', 'teaching'},
    'apply': BASE | {'audio', 'data', 'mcmc', 'objectives'},
    'evaluate': BASE | {'apply', 'data', 'mcmc', 'networks', 'objectives'},
    'train': BASE,
    'sharding': BASE | {'train'},
    'checkpoint': BASE | {'process', 'train'},
    'guard': BASE | {'checkpoint', 'process', 'record', 'train'},
    'monitor': BASE | {'process', 'record'},
    'fit': BASE
    | {'checkpoint', 'guard', 'monitor', 'prefetch'}
    | {'process', 'record', 'sharding', 'train'},
    'spec': BASE | {'networks'},
    'model': BASE
    | {'apply', 'augment', 'composition', 'data', 'evaluate', 'kernels', 'mcmc', 'networks'}
    | {'objectives', 'spec'},
    'card': {'spec'},
    'exported': BASE | {'card', 'model', 'record', 'spec'},
    'trained': BASE | {'apply', 'checkpoint', 'exported', 'mcmc', 'model', 'record', 'spec'},
    '__init__': {'trained', 'types'},
}
FOLDERS = ('apply', 'data', 'evaluate', 'methods', 'networks')
# part of experiments -> what of experiments it may import; 'experiments': the top-level files
ABOVE = {
    'common': {'common'},
    'evaluations': {'common', 'evaluations'},
    'families': {'common', 'evaluations', 'families'},
    'experiments': {'common', 'families', 'experiments'},
    'commands': {'common', 'evaluations', 'families'},
    'studies': {'common', 'evaluations', 'families', 'experiments', 'commands', 'studies'},
}
# networks and optimisers arrive as arguments
FORBIDDEN = {'methods': {'optax', 'flax.linen', 'absl', 'ml_collections'}}
EVERYWHERE_FORBIDDEN = {'absl', 'ml_collections', 'experiments', 'torch', 'tensorflow'}
FILES = sorted((ROOT / 'ebm_jax').rglob('*.py'))
FILES_ABOVE = sorted((ROOT / 'experiments').rglob('*.py'))


def imports(path, type_checking=False):
    """Every module that a file imports, 'from a import b' as both a and a.b."""
    tree = ast.parse(path.read_text())
    hidden = set()
    if not type_checking:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and getattr(node.test, 'id', '') == 'TYPE_CHECKING':
                hidden |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path} imports relatively'
            yield node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def part_of(path, package='ebm_jax'):
    parts = path.relative_to(ROOT / package).parts
    if package == 'experiments' and len(parts) == 1:
        return 'experiments'
    return parts[0].removesuffix('.py')


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    imported = {name.split('.')[1] for name in imports(path) if name.startswith('ebm_jax.')}
    own = {part_of(path)} if part_of(path) in FOLDERS else set()
    assert imported & set(LIBRARY) <= LIBRARY[part_of(path)] | own


@pytest.mark.parametrize('path', FILES_ABOVE, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way_above_the_library(path):
    imported = set()
    for name in imports(path):
        parts = name.split('.')
        if parts[0] == 'experiments' and len(parts) > 1:
            imported.add(parts[1] if parts[1] in ABOVE else 'experiments')
    assert imported <= ABOVE[part_of(path, 'experiments')]


def test_no_module_imports_itself_by_way_of_others():
    """Over every file of both packages, at import time."""
    modules = {}
    for path in (*FILES, *FILES_ABOVE):
        name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        modules[name.removesuffix('.__init__')] = path
    graph = {
        name: {found for found in imports(path) if found in modules and found != name}
        for name, path in modules.items()
    }
    for name in graph:  # a package's own import of its parts, and theirs of their package
        graph[name] = {
            found
            for found in graph[name]
            if not name.startswith(found + '.') and found != 'ebm_jax'
        }
    done, path = set(), []

    def visit(name):
        assert name not in path, ' -> '.join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for found in sorted(graph[name]):
                visit(found)
            done.add(path.pop())

    for name in sorted(graph):
        visit(name)


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_knows_no_launcher_and_no_other_framework(path):
    banned = EVERYWHERE_FORBIDDEN | FORBIDDEN.get(part_of(path), set())
    found = {
        name
        for name in imports(path)
        for ban in banned
        if name == ban or name.startswith(ban + '.')
    }
    assert not found


def test_only_train_says_pmap():
    said = [p.name for p in FILES if 'jax.pmap' in p.read_text() or 'jax.pmap' in set(imports(p))]
    assert said == ['train.py']


def test_methods_do_not_import_each_other():
    for path in (ROOT / 'ebm_jax' / 'methods').glob('*.py'):
        others = {p.stem for p in path.parent.glob('*.py')} - {path.stem, '__init__'}
        assert not {
            name for name in imports(path) if name.split('.')[-1] in others and 'methods' in name
        }


def test_no_two_files_have_one_name_for_different_subjects():
    """But for a method and the family that sets it up."""
    same_subject = {'__init__', 'dat', 'dual_mcmc', 'energy_matching', 'icd', 'jem', 'networks'}
    stems = [path.stem for path in (*FILES, *FILES_ABOVE)]
    assert {stem for stem in stems if stems.count(stem) > 1} <= same_subject


def public_functions(body, of_class=False):
    """(function, whether it is a method) of a module or a public class."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            yield from public_functions(node.body, of_class=True)
        elif isinstance(node, ast.FunctionDef) and (
            not node.name.startswith('_') or node.name.startswith('__')
        ):
            yield node, of_class


@pytest.mark.parametrize('path', [*FILES, *FILES_ABOVE], ids=lambda p: str(p.relative_to(ROOT)))
def test_public_functions_are_annotated(path):
    for function, is_method in public_functions(ast.parse(path.read_text()).body):
        spec = function.args
        arguments = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
        static = any(getattr(d, 'id', '') == 'staticmethod' for d in function.decorator_list)
        arguments = [argument for argument in arguments if argument is not None]
        taken = arguments[1:] if is_method and not static else arguments
        missing = [argument.arg for argument in taken if argument.annotation is None]
        assert not missing and function.returns is not None, f'{function.name}: {missing}'
