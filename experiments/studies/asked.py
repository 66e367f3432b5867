"""What a study is asked for: its flags, the rows of settings that --vary names, and the data.

Nothing is chosen on test data: by default rows see a validation part cut from training as their
test.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from absl import flags

from ebm_jax import data
from ebm_jax.errors import InputError
from experiments.commands import list as list_command
from experiments.common import launch, settings, sources
from experiments.common.sources import Datasets

ELSEWHERE = {  # what a row cannot change
    'data.source': '--data',
    'data.label': 'the labels of --data',
    'data.leave_out': 'the classes of --data',
    'seed': '--seeds',
}


def modules(
    flag: str, names: Sequence[str], fits: Callable[[Any], bool] = lambda config: True
) -> dict[str, ModuleType]:
    """{name: module} of experiments that a flag names.

    Args: fits: whether the study can run an experiment of these settings.
    Raises: InputError for a name that no such experiment has.
    """
    known = list_command.first_lines(list_command.EXPERIMENTS)

    def module(name):
        return importlib.import_module(f'experiments.{name}')

    for name in names:
        if name not in known or not fits(module(name).get_config()):
            fitting = [other for other in known if fits(module(other).get_config())]
            raise InputError(f'--{flag}={name} is not one of {", ".join(fitting)}')
    return {name: module(name) for name in names}


def define_part(values: Any, part: str) -> None:
    """The flags that `parts` reads. Args: part: default of --part."""
    flags.DEFINE_integer(
        'train', 0, 'Training images that are used; 0: all.', 0, flag_values=values
    )
    flags.DEFINE_enum(
        'part', part, ['test', 'validation'], 'What is measured on.', flag_values=values
    )


def define_study(values: Any, experiment: str) -> None:
    """The flags of a study of rows of settings, see `base_of`, `rows` and `parts`.

    Args: experiment: default of --experiment.
    """
    flags.DEFINE_string('workdir', None, 'Folder of the study.', flag_values=values)
    flags.DEFINE_string('experiment', experiment, 'Whose settings.', flag_values=values)
    flags.DEFINE_string(
        'data', '', "The data set; default: the experiment's own.", flag_values=values
    )
    flags.DEFINE_multi_string(
        'vary',
        None,
        'The settings of a row, as loss.alpha=0 loss.beta=.2; values without spaces.',
        flag_values=values,
    )
    flags.DEFINE_integer('seeds', 1, 'Runs of each row.', 1, flag_values=values)
    flags.DEFINE_integer(
        'steps', 0, "Training steps of a run; 0: the experiment's own.", 0, flag_values=values
    )
    define_part(values, 'validation')
    flags.mark_flag_as_required('workdir', values)


def base_of(values: Any, fits: Callable[[Any], bool]) -> tuple[ModuleType, Any]:
    """(the experiment, its settings with --data and --steps), which --data then names, too.

    Args: fits: as in `modules`.
    Raises: InputError, see `modules`.
    """
    (module,) = modules('experiment', [values.experiment], fits).values()
    base = module.get_config()
    base.data.source = values.data = values.data or base.data.source
    base.steps = values.steps or base.steps
    return module, base


def changes_of(
    base: Any, text: str, flag: str, elsewhere: Mapping[str, str] = ELSEWHERE
) -> dict[str, Any]:
    """The settings that a flag's text changes, as `loss.alpha=0 loss.beta=.2`.

    Args: elsewhere: {what it cannot change: the flag that does, or why}.
    Raises: InputError for what is not a setting, or not one that it may change.
    """
    arguments = text.split()
    names = [given.partition('=')[0] for given in arguments]
    for name in names:
        if name in elsewhere:
            raise InputError(f'--{flag}={text}: {name} is given by {elsewhere[name]}')
        if names.count(name) > 1:
            raise InputError(f'--{flag}={text}: {name} is given twice')
    parsed = launch.parsed_settings(
        settings.copy(base), [f'--config.{given}' for given in arguments]
    )
    flat = settings.flatten(parsed)
    return {name: flat[name] for name in names}


def rows(
    base: Any, varied: Sequence[str], elsewhere: Mapping[str, str] = ELSEWHERE
) -> dict[str, dict[str, Any]]:
    """{what was asked for: its settings}. Raises: InputError, see `changes_of`."""
    return {
        text.strip() or 'as shipped': changes_of(base, text, 'vary', elsewhere) for text in varied
    }


def define_rows(values: Any) -> None:
    """The flag that `chosen` reads."""
    flags.DEFINE_multi_string(
        'arms', [], 'Train only these rows; default: all.', flag_values=values
    )


def chosen(values: Any, arms: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """The arms that --arms names. Raises: InputError for a name that no arm has."""
    for name in values.arms:
        if name not in arms:
            raise InputError(f'--arms={name} is not one of: {"; ".join(arms)}')
    return {name: arms[name] for name in values.arms or arms}


def parts(values: Any) -> tuple[Datasets, Callable[[int], Datasets]]:
    """(the data, seed -> what a run is trained and measured on), by --data, --train and --part;
    the validation part is a fifth of training."""
    whole = sources.datasets_of(values.data)
    if values.train:
        whole = dataclasses.replace(whole, train=data.subsample(whole.train, values.train))

    def of_seed(seed):
        if values.part == 'test':
            return whole
        return validation(whole, len(whole.train.x) // 5, seed)

    return whole, of_seed


def validation(datasets: Datasets, n: int, seed: int = 0) -> Datasets:
    """Training without n of its examples, which are the test set.

    Raises: InputError where fewer than n are left.
    """
    total = len(datasets.train.y)
    if not 0 < n < total / 2:
        raise InputError(f'{n} of {total} training examples cannot be cut off for validation')
    order = np.random.default_rng([seed, 77]).permutation(total)
    held, kept = np.sort(order[:n]), np.sort(order[n:])
    return Datasets(train=datasets.train.rows(kept), test=datasets.train.rows(held))
