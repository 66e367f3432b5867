"""The parts of `evaluate --suite=full`, one after another, each kept as soon as it is done."""

import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import ebm_jax
from ebm_jax import data
from ebm_jax.record import write_json
from ebm_jax.spec import FEATURES
from ebm_jax.train import TrainState
from experiments.common.experiment import Experiment
from experiments.common.section import Section
from experiments.evaluations import density, robustness

FOLDER = 'evaluation'  # in the workdir


@dataclass(frozen=True, kw_only=True)
class FullSuite:
    """Its settings; see the flags of `evaluate`."""

    radii: Mapping[str, Sequence[float]]
    attacked: int
    attack_steps: int
    refine: int
    times: int
    chains: int
    bridges: int


def say(what: str) -> None:
    """What is being measured, for those who wait."""
    print(f'measuring: {what}', file=sys.stderr)


def parts_of(
    experiment: Experiment, c: FullSuite
) -> dict[str, tuple[Callable[..., Section], dict[str, Any]]]:
    """{name: (function, its settings)} of what this model can be asked, the longest last."""
    model = experiment.model
    of_images = model.spec.units != FEATURES
    found: dict[str, tuple[Callable[..., Section], dict[str, Any]]] = {}
    attacked: dict[str, Any] = {
        'radii': dict(c.radii),
        'examples': c.attacked,
        'steps': c.attack_steps,
    }
    if model.classifier is not None and of_images:
        found['robustness'] = robustness.robustness, attacked
        if c.refine:
            refined = {**attacked, 'refine': c.refine}
            found['robustness after refinement'] = robustness.robustness, refined
    if experiment.chains is not None:
        found['long chains'] = density.long_chains, {'times': c.times}
    if model.has_energy and of_images:
        settings = {'chains': c.chains, 'bridges': c.bridges, 'rivals': density.RIVALS}
        found['density'] = density.log_likelihood, settings
        if experiment.input_noise and density.at_temperature_one(model.spec.sampling):
            found['density with noise'] = density.log_likelihood, {**settings, 'noised': True}
    return found


def measure(
    workdir: pathlib.Path, experiment: Experiment, state: TrainState, c: FullSuite
) -> list[Section]:
    """All parts. Each is kept in WORKDIR/evaluation/ with a hash of the parameters, its settings
    and the version, and not measured again while these are the same."""
    parts, found = parts_of(experiment, c), []
    for i, (name, (function, settings)) in enumerate(parts.items()):
        file = workdir / FOLDER / f'{name.replace(" ", "_")}.json'
        digest = digest_of(experiment, state, settings)
        section = read(file, digest)
        if section is None:
            say(f'{name}, part {i + 1} of {len(parts)} of the full suite')
            began = time.time()
            section = function(workdir, experiment, state, **settings)
            file.parent.mkdir(exist_ok=True)
            write_json(file, {'hash': digest, 'section': section.to_json()})
            say(f'{name} took {time.time() - began:.0f} s')
        else:
            say(f'{name}: as kept in {file}')
        found.append(section)
    return found


def digest_of(experiment: Experiment, state: TrainState, settings: Mapping[str, Any]) -> str:
    """SHA-256 of the evaluation parameters, the model, the chains of training, some of the data,
    the noise, the settings and the version."""
    chains = experiment.chains
    numbers = {} if chains is None else {'K': chains.num_steps, **chains.numbers(state)}
    spec, noise = experiment.model.spec.to_json(), experiment.input_noise
    said = [ebm_jax.__version__, settings, spec, numbers, noise]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    examples = [data.subsample(part, 200) for part in (experiment.train, experiment.test)]
    for leaf in jax.tree.leaves((state.eval_params, [(part.x, part.y) for part in examples])):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def read(file: pathlib.Path, digest: str) -> Section | None:
    """A part that was kept under this hash; None where there is none, or a damaged one."""
    try:
        content = json.loads(file.read_text())
        return Section.from_json(content['section']) if content['hash'] == digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
