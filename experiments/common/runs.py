"""Runs of experiments: trained in a workdir or continued there, and opened again with their
data."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax.checkpoint import Checkpoints, steps_in
from ebm_jax.compiling import compile_quickly_on_tpu
from ebm_jax.errors import InputError, InUse
from ebm_jax.evaluate import predict
from ebm_jax.exported import is_export, read_config
from ebm_jax.fit import fit
from ebm_jax.train import TrainState, state_shapes
from ebm_jax.trained import TrainedModel, load
from experiments.common import report, settings, sources
from experiments.common.building import prepare_images, recovery_actions
from experiments.common.cores import use_all_cores
from experiments.common.experiment import Experiment
from experiments.common.sources import Datasets
from experiments.common.telemetry import with_telemetry


class Run(NamedTuple):
    """A run, opened."""

    config: Any
    experiment: Experiment
    state: TrainState


def build(module: ModuleType, config: Any, datasets: Datasets | None = None) -> Experiment:
    """The experiment of a configuration.

    Args:
      module: an experiment, with `get_config` and `build`.
      config: its configuration.
      datasets: those that another configuration of the same data has read; default: read now.

    Raises: InputError, also for a value that a factory refuses.
    """
    settings.as_declared(config)
    settings.check(config)
    try:
        experiment = module.build(config, datasets)
        if not isinstance(experiment, Experiment):
            raise InputError(
                f'{module.__name__}.build must return an Experiment, got a '
                f'{type(experiment).__name__}'
            )
        if config.init_from:
            experiment = beginning_with(experiment, config.init_from)
        return with_telemetry(experiment, config.seed)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f'the configuration of {module.__name__} cannot be built: {error}'
        ) from error


def beginning_with(experiment: Experiment, path: str) -> Experiment:
    """The experiment whose training begins with the evaluation parameters of a run or an exported
    model, which are read where it begins, not where it continues."""
    recipe = dataclasses.replace(experiment.recipe, init_params=lambda: open_model(path).params)
    return dataclasses.replace(experiment, recipe=recipe)


def fit_experiment(
    workdir: str | pathlib.Path,
    module: ModuleType,
    config: Any,
    show: Callable[[int], object] | None = None,
) -> tuple[Experiment, TrainState]:
    """Train the experiment in a workdir, or continue it there.

    Args: show: called with the step when its pictures are written (`notebook.watch`).
    """
    workdir = pathlib.Path(workdir)
    compile_quickly_on_tpu()
    check_same_run(workdir, module, config)
    experiment = build(module, config)

    def rebuild(changed):
        return build(module, changed, experiment.datasets).recipe

    def look(step):
        report.refresh(workdir, (step, config.steps))
        if show is not None:
            show(step)

    in_use = False
    try:
        state = fit(
            experiment.recipe,
            workdir=workdir,
            steps=config.steps,
            settings={'experiment': module.__name__, 'config': settings.to_dict(config)},
            seed=config.seed,
            log_every=config.log_every,
            checkpoint_every=config.checkpoint_every,
            picture_every=config.picture_every,
            evaluate_every=config.evaluate_every,
            recovery_actions=recovery_actions(config, rebuild),
            end_dead=config.guard.dead,
            report=look,
        )
    except InUse:
        in_use = True
        raise
    finally:  # however the run ended
        if jax.process_index() == 0 and not in_use:
            report.refresh(workdir)
    return experiment, state


def check_same_run(workdir: pathlib.Path, module: ModuleType, config: Any) -> None:
    """Refuse to continue a run under other settings. A workdir that holds neither checkpoints nor
    recoveries holds no run yet.

    A schedule as long as the run (decay_steps = 0) gets its length here, in place: that of the
    saved run, else the steps of `config`.
    """
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f'--workdir={workdir} is a file: choose a folder')
    saved = None
    recovered = (workdir / 'recoveries' / 'log.json').exists()
    if recovered or steps_in(workdir / 'checkpoints'):
        saved = read_config(workdir)
        if saved.get('experiment') != module.__name__:
            other = saved.get('experiment', 'a Python program')
            raise InputError(
                f'{workdir} holds a run of {other}: choose another --workdir for {module.__name__}'
            )
    old = {} if saved is None else settings.flatten(_read(workdir, saved, module))
    config.fix_schedule(old)
    if saved is None:
        if config.init_from:
            _check_model(config.init_from)
        return
    new, free = settings.flatten(config), settings.free_on_resume(config)
    changed = sorted(
        key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and key not in free
    )
    if changed:
        listed = ', '.join(f'{key} ({old.get(key)} there, {new.get(key)} now)' for key in changed)
        raise InputError(
            f'{workdir} holds a run with other settings: {listed}; use those, or another --workdir'
        )


def _check_model(path):
    """Refuse, before the data are read, a folder without a model."""
    try:
        read_config(pathlib.Path(path))
    except InputError as error:
        raise InputError(f'--config.init_from: {error}') from error


def open_model(path: str | pathlib.Path) -> TrainedModel:
    """The trained model of a run or an exported folder, as `ebm_jax.load`. A network from outside
    ebm_jax comes from the experiment, which then reads its data. Raises: InputError."""
    path = pathlib.Path(path)
    description = read_config(path).get('model')
    parts = description.get('networks') if isinstance(description, dict) else None
    if not isinstance(parts, dict) or None not in parts.values():
        return load(path)
    config, module = read_run(path)
    return load(path, networks=build(module, config).model.networks)


def read_run(workdir: pathlib.Path) -> tuple[Any, ModuleType]:
    """(configuration, the experiment's module) of a run. Raises: InputError."""
    content = read_config(workdir)
    content = content.get('settings', content)  # of an exported folder
    if 'experiment' not in content:
        raise InputError(
            f'{workdir} was trained from Python, not by an experiment: open it with ebm_jax.load'
        )
    try:
        module = importlib.import_module(content['experiment'])
    except (ModuleNotFoundError, ValueError, AttributeError) as error:
        raise InputError(
            f'{workdir}/config.json cannot be used ({error}): it is damaged, or its experiment is '
            'not on the Python path'
        ) from error
    return _read(workdir, content, module), module


def _read(workdir, content, module):
    try:
        return settings.from_dict(module.get_config(), content['config'])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{workdir}/config.json was written by another version of {module.__name__} '
            f'(differing: {error}), or is damaged: use that version, or train again'
        ) from error


def restore(workdir: str | pathlib.Path, source: str | None = None) -> Run:
    """The newest checkpoint of a run, with its data. To be called before any JAX computation.

    Args: source: data of a run that was trained from Python, which its folder does not name.
    Raises: InputError.
    """
    if is_export(pathlib.Path(workdir)):
        raise InputError(f'{workdir} is an exported model: give the run that it came from')
    if 'experiment' in read_config(pathlib.Path(workdir)):
        if source is not None:
            raise InputError(f'{workdir} names its own data: leave --data={source} out')
        return restore_all([workdir])[0]
    if source is None:
        raise InputError(
            f'{workdir} was trained from Python and does not say on which data: evaluate takes '
            '--data=digits or --data=npz:FILE; sample, export and ebm_jax.load need none'
        )
    use_all_cores()
    return _trained_from_python(load(workdir), sources.datasets_of(source))


def _trained_from_python(opened, datasets):
    """A Run of a model without an experiment: there is no recipe, and of the training state there
    are the evaluation parameters only."""
    model = opened.model
    shape = datasets.train.x.shape[1:]
    if shape != model.spec.shape:
        raise InputError(
            f'the model takes examples of {list(model.spec.shape)}, but the data are {list(shape)}'
        )
    classes = datasets.train.num_classes
    if classes != model.spec.num_classes:
        raise InputError(
            f'the model knows {model.spec.num_classes} classes, but the data have {classes}'
        )
    view, scores = model.view()
    experiment = Experiment(
        recipe=None,
        model=model,
        datasets=datasets,
        predict=predict.predictor(view, prepare_images(0.0)),
        scores=scores,
        input_noise=0.0,
        ood={name: name for name in sources.CHANGES},
    )
    state = TrainState(
        step=jnp.int32(opened.step),
        params=opened.params,
        opt_state=(),
        ema_params=(),
        chains=(),
        key=jax.random.key(0),
        quarantined=jnp.int32(0),
        attempt=jnp.int32(0),
    )
    return Run(None, experiment, state)


def restore_all(workdirs: Sequence[str | pathlib.Path]) -> list[Run]:
    """As `restore`, for several runs at once."""
    found = [read_run(pathlib.Path(workdir)) for workdir in workdirs]
    use_all_cores(*(config for config, _ in found))
    return [_restore(workdir, *run) for workdir, run in zip(workdirs, found)]


def _restore(workdir, config, module):
    folder = pathlib.Path(workdir) / 'checkpoints'
    experiment = build(module, config)
    with Checkpoints(folder, read_only=True) as checkpoints:
        state = checkpoints.restore(state_shapes(experiment.recipe))
    return Run(config, experiment, state)
