"""A folder with an exported model: written, and read.

It is self-contained: model.safetensors (the evaluation parameters), config.json (the model's spec,
the settings that trained it, its metrics, and the SHA-256 of the weights) and README.md (the model
card). Nothing in it is executable.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.flax import load_file as load_by_jax
from safetensors.numpy import load_file, save

from ebm_jax import cost
from ebm_jax.card import card
from ebm_jax.errors import InputError
from ebm_jax.model import Model
from ebm_jax.record import as_json, atomic_write, write_json
from ebm_jax.shapes import first_difference, named_leaves
from ebm_jax.spec import ModelSpec
from ebm_jax.types import ArrayLike, Params

WEIGHTS, CONFIG, CARD = 'model.safetensors', 'config.json', 'README.md'
FORMAT = 'ebm_jax model 1'


def write(
    folder: pathlib.Path,
    spec: ModelSpec,
    params: Params,
    step: int,
    *,
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
    commands: str = '',
) -> str:
    """Write a model to a folder of its own.

    Args: step, settings, metrics: as in `trained.TrainedModel`. commands: that made it, for the
      card.
    Returns: the SHA-256 of the weights.
    Raises: InputError for a folder that holds something else, or cannot be written.
    """
    try:
        taken = folder.is_file() or folder.is_dir() and any(folder.iterdir())
        if taken and not _is_own(folder):
            raise InputError(f'{folder} holds something else: choose an empty or new folder')
        as_json([dict(settings), dict(metrics)])  # refuses before anything is written
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f'{WEIGHTS}.part'
        # save_file would make a file that nobody else can read
        beside.write_bytes(
            save({name: np.asarray(leaf) for name, leaf in named_leaves(params).items()})
        )
        digest = _sha256(beside)
        beside.replace(folder / WEIGHTS)
        content = {
            'format': FORMAT,
            'model': spec.to_json(),
            'step': step,
            'sha256': digest,
            'settings': dict(settings),
            'metrics': dict(metrics),
        }
        write_json(folder / CONFIG, content)
        text = card(
            spec,
            name=settings.get('experiment', 'An energy-based model').rpartition('.')[2],
            metrics=metrics,
            parameters=cost.num_parameters(params),
            step=step,
            digest=digest,
            commands=commands,
        )
        atomic_write(folder / CARD, text)
    except OSError as error:
        raise InputError(
            f'{folder} cannot be written ({error.strerror}): choose a folder you can write to'
        ) from error
    return digest


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """The config.json of a run or an export.

    Raises: InputError where there is none that can be read.
    """
    file = pathlib.Path(path) / CONFIG
    if not file.is_file():
        raise InputError(
            f'no model in {path} ({CONFIG} is missing): give the workdir of a run or an exported '
            'folder'
        )
    try:
        content = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f'{file} cannot be read ({error}): it may be damaged') from error
    if not isinstance(content, dict):
        raise InputError(f'{file} holds no settings: it may be damaged')
    return content


def is_export(path: pathlib.Path) -> bool:
    """Whether a folder is an exported model."""
    return (path / WEIGHTS).is_file()


def _is_own(folder: pathlib.Path) -> bool:
    """Whether a folder is an export of this library, whole or interrupted: others have files of the
    same names."""
    if not is_export(folder):
        return False
    return not (folder / CONFIG).exists() or read_config(folder).get('format') == FORMAT


def weights(path: pathlib.Path, content: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The weights of an exported folder, {'a/b': array}.

    Args: content: of its config.json.
    Raises: InputError where they are of another format, or not those that were exported.
    """
    if content.get('format') != FORMAT:
        raise InputError(
            f'{path} has the format {content.get("format")!r}, not {FORMAT!r}: it is of another '
            'version of ebm_jax, or not exported by it'
        )
    if _sha256(path / WEIGHTS) != content.get('sha256'):
        raise InputError(
            f'{path / WEIGHTS} is not the file that was exported (its SHA-256 differs): copy the '
            'folder again'
        )
    try:
        return load_file(path / WEIGHTS)
    except KeyError:  # a type that numpy alone does not know, such as bfloat16
        return {name: np.asarray(leaf) for name, leaf in load_by_jax(path / WEIGHTS).items()}
    except (SafetensorError, OSError) as error:
        raise InputError(f'{path / WEIGHTS} cannot be read ({error}): it is damaged') from error


def matched(path: pathlib.Path, model: Model, found: Mapping[str, ArrayLike]) -> Params:
    """Parameters {'a/b': array} as the pytree that the networks of the model take.

    Raises: InputError where they do not belong to these networks.
    """
    spec, latent = model.spec, model.spec.latent
    x, label = jnp.zeros(spec.shape), [jnp.zeros((), jnp.int32)] if spec.conditional else []

    def shapes(name):
        z_or_x = jnp.zeros(latent.latent_dim) if latent and name == 'generator' else x
        return jax.eval_shape(lambda: model.networks[name].init(jax.random.key(0), z_or_x, *label))

    if latent is None:
        wanted = shapes('network')
    else:
        wanted = {name: shapes(name) for name in model.networks}
    if model.classifier is not None:
        outputs = jax.eval_shape(model.classifier.logits, wanted, x).shape
        if outputs != (spec.num_classes,):
            raise InputError(
                f'{path}: the network has outputs {list(outputs)} where the description says '
                f'{spec.num_classes} classes: it is damaged'
            )
    needed = named_leaves(wanted)
    differing = first_difference(found, needed)
    if differing:
        name, there, here = differing
        raise InputError(
            f'{path}: the parameter {name} is {there or "missing"} where the model has '
            f'{here or "none"}: weights and config.json do not belong together'
        )
    return jax.tree.unflatten(jax.tree.structure(wanted), [found[name] for name in needed])


def _sha256(file):
    with file.open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()
