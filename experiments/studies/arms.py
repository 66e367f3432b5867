"""Settings of an experiment side by side, each with several seeds: means with intervals.

Studies name the arms (`asked`) and what is measured; this file trains, keeps what is done, and
makes the table.
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats
from tqdm.auto import tqdm

from ebm_jax.errors import ChainsDiverged, InputError
from ebm_jax.evaluate import calibration, distance
from ebm_jax.evaluate.extractor import Extractor
from ebm_jax.fit import check
from ebm_jax.images import Grid, as_uint8, save_grid
from ebm_jax.process import exclusive_lock
from ebm_jax.record import read_json, write_json
from ebm_jax.sharding import shard_batch, shard_state
from ebm_jax.train import Recipe, TrainState, init_state, initial_params, make_train_step
from experiments.common import runs, settings
from experiments.common.experiment import Experiment
from experiments.common.section import share_interval
from experiments.common.sources import Datasets

Changes = Mapping[str, Any]  # {'group.setting': value} on top of the base
Measure = Callable[[Experiment, TrainState], dict[str, float]]
Trace = dict[str, list[float]]  # {metric: its values}
FILE = 'arms.json'


class Traced(NamedTuple):
    """Metrics that are kept at every n-th step, where it has them, and where a run diverges; the
    gradient norms of loss terms are among them."""

    metrics: tuple[str, ...] = ()
    every: int = 1


NOTHING = Traced()


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
    the data, the devices, the memory that there are or the model that it begins with."""
    recipe = runs.build(module, config, datasets).recipe
    assert recipe is not None
    check(recipe, jax.local_devices())
    initial_params(recipe)
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
      does not fit the devices or the memory that there are; InUse where another process trains in
      the folder.
    """
    file = workdir / FILE
    given = {
        'base': settings.to_dict(base),
        'experiment': module.__name__,
        'protocol': plain(protocol or {}),
    }
    workdir.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(workdir):
        done = opened(file, base, given)
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
                except ChainsDiverged as error:
                    tqdm.write(f'{key} is not measured: {error}')
            done['runs'][key] = {'changes': plain(changes), 'metrics': found, 'trace': trace}
            write_json(file, done)
    return {
        arm: [numbers(done['runs'][f'{arm}/{seed}']['metrics']) for seed in range(seeds)]
        for arm in arms
    }


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as they were written: what is not finite is a string in JSON."""
    return {name: float(value) for name, value in metrics.items()}


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
    check_same(file, found, given)
    return found


def check_same(file: pathlib.Path, found: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse a file of a study of something else than what is `given`. Raises: InputError."""
    if any(found.get(name) != value for name, value in given.items()):
        raise InputError(
            f'{file.parent} holds a study with other settings: use another --workdir, or move '
            f'{file.name} away'
        )


def traces(workdir: pathlib.Path, arms: Sequence[str], seeds: int) -> dict[str, list[Trace]]:
    """{arm: what `results` traced, of each seed}; what is not finite is a string in JSON."""
    found = json.loads((workdir / FILE).read_text())['runs']
    return {
        arm: [
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
    choice, that of at most as many test images, and that of each earlier stage of a sample, by its
    name.

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
    found: Mapping[str, list[dict[str, float]]],
    columns: Mapping[str, str],
    percent: str = '',
    events: str = '',
) -> list[str]:
    """Markdown: a row for each arm, mean +- half of the interval for each column.

    Args:
      columns: {metric: heading}.
      percent: metrics, by spaces, that are shown in per cent.
      events: those that happen in a run (1) or not (0), shown with Wilson's interval.
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
            if name in events.split():
                low, high = share_interval(float(np.mean(values)), len(values))
                cells.append(f'{sum(values):.0f} of {len(values)} [{low:.2f}, {high:.2f}]')
                continue
            mean, half = interval(values)
            scale, digits = (100, 1) if name in percent.split() else (1, 3)
            text = f'{scale * mean:.{digits}f}'
            cells.append(text if np.isnan(half) else f'{text} +- {scale * half:.{digits}f}')
        lines.append(f'| {arm} | ' + ' | '.join(cells) + ' |')
    return lines
