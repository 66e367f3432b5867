"""Settings of an experiment side by side, each with several seeds: means with intervals.

Studies name the arms and what is measured; this file trains, keeps what is done, and makes the
table. Nothing is chosen on test data: arms see a validation part cut from training as their test.
"""

import dataclasses
import importlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from scipy import stats
from tqdm.auto import tqdm

from ebm_jax import data
from ebm_jax.errors import InputError
from ebm_jax.evaluate import calibration, distance
from ebm_jax.evaluate.extractor import Extractor
from ebm_jax.fit import check
from ebm_jax.images import Grid, as_uint8, save_grid
from ebm_jax.record import read_json, write_json
from ebm_jax.sharding import shard_batch, shard_state
from ebm_jax.train import Recipe, TrainState, init_state, make_train_step
from experiments.commands import list as list_command
from experiments.common import launch, runs, settings, sources
from experiments.common.experiment import Experiment
from experiments.common.sources import Datasets

Changes = Mapping[str, Any]  # {'group.setting': value} on top of the base
Measure = Callable[[Experiment, TrainState], dict[str, float]]
Trace = dict[str, list[float]]  # {metric: its values}
FILE = 'arms.json'
ELSEWHERE = {'data.source': '--data', 'seed': '--seeds'}  # what a row cannot change


class Traced(NamedTuple):
    """Metrics that are kept at every n-th step, where it has them, and where a run diverges; the
    gradient norms of loss terms are among them."""

    metrics: tuple[str, ...] = ()
    every: int = 1


NOTHING = Traced()


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


def chosen(values: Any, arms: Mapping[str, Changes]) -> Mapping[str, Changes]:
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


def train(
    experiment: Experiment, seed: int, steps: int, title: str, traced: Traced = NOTHING
) -> tuple[TrainState, int, Trace]:
    """Train in memory, without files or recoveries: (state, steps that were made before it
    diverged, or all, what was traced)."""
    recipe, devices = experiment.recipe, jax.local_devices()
    assert recipe is not None
    state = shard_state(init_state(jax.random.key(seed), recipe), devices)
    trace: Trace = {name: [] for name in traced.metrics}
    method, watch = None, traced.every if trace else 0
    for step in tqdm(range(steps), desc=title, unit='step', leave=False):
        now = recipe.at(step)
        if now.method is not method:
            method, train_step = now.method, make_train_step(now, watch_every=watch)
        batch = shard_batch(recipe.batch_at(step), devices)
        state, metrics = train_step(state, batch)
        healthy = bool(metrics['healthy'])
        if trace and ((step + 1) % traced.every == 0 or not healthy):
            for name in trace.keys() & metrics.keys():
                trace[name].append(float(metrics[name]))
        if not healthy:
            return state, step, trace
    return state, steps, trace


def checked(module: ModuleType, config: Any, datasets: Datasets | None = None) -> Recipe:
    """The recipe of a configuration that can be trained. Raises: InputError where it does not fit
    the data, the devices or the memory that there are."""
    recipe = runs.build(module, config, datasets).recipe
    assert recipe is not None
    check(recipe, jax.local_devices())
    return recipe


def configured(base: Any, changes: Changes) -> Any:
    """A copy of the base with an arm's changes."""
    config = settings.copy(base)
    settings.update(config, changes)
    return config


def results(
    workdir: pathlib.Path,
    module: ModuleType,
    base: Any,
    arms: Mapping[str, Changes],
    seeds: int,
    datasets: Callable[[int], Datasets],
    measure: Measure,
    protocol: Mapping[str, Any] | None = None,
    traced: Traced = NOTHING,
) -> dict[str, list[dict[str, float]]]:
    """{arm: metrics of each seed}, trained on the devices that there are (`use_all_cores`);
    'survived' is the share of the steps that were made before the run diverged. What is in
    workdir/arms.json is not trained again; `traces` reads what was traced.

    Args:
      base: configuration of the experiment that the arms change.
      seeds: runs of each arm. datasets: seed -> what it is trained and measured on.
      protocol: whatever else the results depend on, as plain data.
      traced: metrics whose course is kept.
    Raises: InputError where the folder holds a study with another base or protocol, or where an arm
      does not fit the devices or the memory that there are.
    """
    file = workdir / FILE
    given = {
        'base': settings.to_dict(base),
        'experiment': module.__name__,
        'protocol': plain(protocol or {}),
    }
    done = opened(file, base, given)
    workdir.mkdir(parents=True, exist_ok=True)
    missing = [
        (seed, arm)
        for seed in range(seeds)
        for arm, changes in arms.items()
        if done['runs'].get(f'{arm}/{seed}', {}).get('changes') != plain(changes)
    ]
    if missing:  # what does not fit is refused before anything is trained
        first = datasets(0)
        for arm in dict.fromkeys(arm for _, arm in missing):
            checked(module, configured(base, arms[arm]), first)
    for seed, arm in missing:
        changes, key = arms[arm], f'{arm}/{seed}'
        config = configured(base, {**changes, 'seed': seed})
        experiment = runs.build(module, config, datasets(seed))
        state, steps, trace = train(experiment, seed, config.steps, key, traced)
        found = {'survived': steps / config.steps}
        if steps == config.steps:
            try:
                found |= measure(experiment, state)
            except InputError as error:  # its chains diverge
                tqdm.write(f'{key} is not measured: {error}')
        done['runs'][key] = {'changes': plain(changes), 'metrics': found, 'trace': trace}
        write_json(file, done)
    return {
        arm: [done['runs'][f'{arm}/{seed}']['metrics'] for seed in range(seeds)] for arm in arms
    }


def read(file: pathlib.Path) -> dict[str, Any]:
    """What a study has found so far; {} where it begins. Raises: InputError for a damaged file."""
    found, problem = read_json(file, {})
    if problem:
        raise InputError(f'{file} {problem}: move it away, or use another --workdir')
    return found


def opened(file: pathlib.Path, base: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The study of a file, or a new one: what was `given`, and 'runs'. Settings that were added
    since have their defaults in older studies.

    Args: base: the configuration that given['base'] is the text of.
    Raises: InputError for a damaged file, or a study of something else.
    """
    found = read(file) or {**given, 'runs': {}}
    try:
        found['base'] = settings.to_dict(settings.from_dict(base, found['base']))
    except (KeyError, TypeError, ValueError):
        found['base'] = None  # of another family, or of settings that are gone
    if any(found.get(name) != value for name, value in given.items()):
        raise InputError(f'{file.parent} holds a study with other settings: use another --workdir')
    return found


def traces(workdir: pathlib.Path, arms: Sequence[str], seeds: int) -> dict[str, list[Trace]]:
    """{arm: what `results` traced, of each seed}."""
    found = json.loads((workdir / FILE).read_text())['runs']
    return {
        arm: [
            # what is not finite is a string in JSON
            {name: [float(value) for value in values] for name, values in trace.items()}
            for trace in (found[f'{arm}/{seed}']['trace'] for seed in range(seeds))
        ]
        for arm in arms
    }


def distances(
    experiment: Experiment,
    state: TrainState,
    judge: Extractor,
    num: int,
    picture: pathlib.Path | None = None,
) -> dict[str, float]:
    """Frechet distances of so many fresh samples: 'distance', half of its 95 % interval over their
    choice, that of as many test images, and that of each earlier stage of a sample, by its name.

    Args: picture: where the first hundred samples are shown.
    """
    model, params = experiment.model, state.eval_params
    reference, points = distance.reference_points(experiment.train, experiment.test, num)
    to = distance.distances_to(judge.features(reference))

    def drawn(steps):
        images = model.sample(jax.random.key(1), params, model.labels(num), steps)
        return as_uint8(np.asarray(images))

    def measured(images):
        return to(judge.features(images))['frechet']

    *earlier, last = (experiment.stages or {'': None}).items()
    images = drawn(last[1])
    if picture is not None:
        save_grid(picture, Grid(images[:100], 10))
    found = measured(images)
    return {
        'distance': found['value'],
        'margin': found['interval'][1] - found['value'],
        'test': measured(points['test'])['value'],
        **{name: measured(drawn(steps))['value'] for name, steps in earlier},
    }


def classification(found: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Accuracy and calibration of what `predict_dataset` has found."""
    logits = found['logits']
    return {
        'accuracy': calibration.accuracy(logits, labels),
        'ece': calibration.expected_calibration_error(logits, labels),
    }


def plain(changes: Changes) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(dict(changes)))


def interval(values: list[float]) -> tuple[float, float]:
    """(mean, half of the 95 % interval of the mean over seeds, by Student's t); one value has
    none."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float('nan')
    error = float(stats.sem(values))
    return mean, float(stats.t.ppf(0.975, len(values) - 1)) * error


def show(workdir: pathlib.Path, lines: list[str]) -> None:
    """Write table.md, and print it."""
    text = '\n'.join(lines)
    (workdir / 'table.md').write_text(text + '\n')
    print(text)


def table(
    found: Mapping[str, list[dict[str, float]]], columns: Mapping[str, str], percent: str = ''
) -> list[str]:
    """Markdown: a row for each arm, mean +- half of the interval for each column.

    Args: columns: {metric: heading}. percent: metrics, by spaces, that are shown in per cent.
    """
    lines = [
        '| | ' + ' | '.join(columns.values()) + ' |',
        '|---' * (len(columns) + 1) + '|',
    ]
    for arm, runs_of_arm in found.items():
        cells = []
        for name in columns:
            values = [run[name] for run in runs_of_arm if name in run]
            if not values:
                cells.append('-')
                continue
            mean, half = interval(values)
            scale, digits = (100, 1) if name in percent.split() else (1, 3)
            text = f'{scale * mean:.{digits}f}'
            cells.append(text if np.isnan(half) else f'{text} +- {scale * half:.{digits}f}')
        lines.append(f'| {arm} | ' + ' | '.join(cells) + ' |')
    return lines
