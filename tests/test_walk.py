"""Every setting of every experiment with every kind of bad value: one sentence, or a run that
fits."""

import importlib
import math
import os

import jax
import numpy as np
import pytest
from commands import ROOT

from benchmarks import made
from ebm_jax.errors import InputError
from ebm_jax.fit import check
from experiments.commands import list as list_command
from experiments.common import runs, settings

CASES = int(os.environ.get('EBM_JAX_WALK', '28'))  # built and traced; all: a million
NAMES = list(list_command.first_lines(ROOT / 'experiments'))
SMALL = {  # networks that are traced at once
    'digits_icd': {'network.width': 8},
    'cifar10_st_jem': {'network.depth': 10, 'network.width': 1},
}
TRACED = [
    'digits_st_jem',
    'digits_icd',
    'digits_dual_mcmc',
    'digits_dat',
    'digits_energy_matching',
    'digits_discrete',
    'cifar10_st_jem',
]


def bad_values(declared):
    """Not a number, infinite, negative, zero, huge, of another type, empty."""
    text = str(declared)
    if 'tuple' in text:
        items = ['x'] if 'str' in text else [math.nan, -1, 0, settings.LARGEST, 'x']
        return [(), 3, *((item,) for item in items)]
    if declared is bool or declared is str:
        return ['', 'x', 3, None]
    if declared is int:
        return [math.nan, math.inf, -1, 0, settings.LARGEST, 2**70, 1.5, 'x', '', None]
    return [math.nan, math.inf, -1.0, 0.0, settings.LARGEST_FLOAT, 1e30, 'x', '', None]


def cases(config):
    """(path, bad value) of all settings; data sets are tried in test_experiments.py."""
    return [
        (path, value)
        for path, part, _, default in settings.walk(config)
        if path not in ('data.source', 'ood')
        for value in bad_values(part.type)
        if (type(value), value) != (type(default), default)
    ]


def changed(config, path, value):
    config = settings.copy(config)
    settings.update(config, {path: value})
    return config


@pytest.mark.parametrize('name', NAMES)
def test_values_that_are_no_numbers_or_of_another_type_are_refused(name):
    """Whatever the setting; what is refused names its flag in one sentence."""
    config = importlib.import_module(f'experiments.{name}').get_config()
    declared = {path: part for path, part, _, _ in settings.walk(config)}
    for path, value in cases(config):
        meaning, kind = declared[path].metadata['meaning'], str(declared[path].type)
        try:
            settings.check(changed(config, path, value))
        except InputError as error:
            assert f'--config.{path} must ' in str(error) and len(str(error).splitlines()) == 1
            continue
        items = value if isinstance(value, tuple) else [value]
        for item in items:
            assert item != '' or kind == "<class 'str'>", (path, value)
            assert item is not None or 'None' in kind, (path, value)
            if isinstance(item, str):
                assert 'str' in kind and (not meaning.choices or item in meaning.choices)
            elif item is not None:
                whole = isinstance(item, int)
                largest = settings.LARGEST if whole else settings.LARGEST_FLOAT
                assert math.isfinite(item) and abs(item) <= largest, (path, value)


@pytest.mark.slow
@pytest.mark.parametrize('name', TRACED)
def test_what_is_not_refused_is_a_run_that_fits(name):
    """Built on its data and traced, as every run is before it begins. A sample of the cases that
    pass the declaration; EBM_JAX_WALK=1000000 takes all."""
    module = importlib.import_module(f'experiments.{name}')
    base = module.get_config()
    settings.update(base, SMALL.get(name, {}))
    datasets = runs.build(module, settings.copy(base), made.datasets(name, size=1000)).datasets
    left = []
    for path, value in cases(base):
        try:
            settings.check(changed(base, path, value))
        except InputError:
            continue
        left.append((path, value))
    order = np.random.default_rng(0).permutation(len(left))[: -(-CASES // len(TRACED))]
    for path, value in (left[i] for i in order):
        try:
            experiment = runs.build(module, changed(base, path, value), datasets)
            check(experiment.recipe, jax.devices()[:1], 50)
        except InputError as error:
            assert len(str(error).splitlines()) == 1, (path, value)
