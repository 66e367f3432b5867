"""The networks, as linen modules behind `Network(init, apply)` of one example.

No batch statistics and no other mutable state: they would couple chains. Outputs (logits, energies)
are float32 whatever the compute type `dtype`; parameters and chain states are float32 too.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from ebm_jax.errors import InputError
from ebm_jax.networks.base import (
    avg_pool_2x,
    identity,
    nnx_per_example,
    per_example,
    spectral,
    standardised,
)
from ebm_jax.networks.classifiers import Conv1DNet, ConvNet, WideResNet
from ebm_jax.networks.energies import MultiScaleEnergy, ResidualEnergy, SelfAttention
from ebm_jax.networks.generators import Generator, InferenceNet, SpectralEnergy
from ebm_jax.types import Network

__all__ = [
    'Conv1DNet',
    'ConvNet',
    'Generator',
    'InferenceNet',
    'MultiScaleEnergy',
    'ResidualEnergy',
    'SelfAttention',
    'SpectralEnergy',
    'WideResNet',
    'avg_pool_2x',
    'build',
    'describe',
    'identity',
    'nnx_per_example',
    'per_example',
    'spectral',
    'standardised',
]

# The networks that a saved model may name.
NETWORKS = {
    module.__name__: module
    for module in (
        Conv1DNet,
        ConvNet,
        Generator,
        InferenceNet,
        MultiScaleEnergy,
        ResidualEnergy,
        SpectralEnergy,
        WideResNet,
    )
}
VALUES = {  # arguments that are not plain data, by name
    'identity': identity,
    'spectral': spectral,
    'standardised': standardised,
    'float32': jnp.float32,
    'bfloat16': jnp.bfloat16,
}


def describe(module: Any) -> tuple[str, dict[str, Any]] | None:
    """(class, arguments) of one of the library's modules as plain data; None for any other."""
    if NETWORKS.get(type(module).__name__) is not type(module):
        return None
    names = [name for name in module.__dataclass_fields__ if name not in ('parent', 'name')]
    arguments = {name: _plain(getattr(module, name)) for name in names}
    if any(value is _UNKNOWN for value in arguments.values()):
        return None
    return type(module).__name__, arguments


def build(name: str, arguments: Mapping[str, Any]) -> Network:
    """The Network of a description by `describe`.

    Raises: InputError for what `describe` never returns.
    """
    try:
        module = NETWORKS[name]
        return per_example(module(**{key: _value(value) for key, value in arguments.items()}))
    except (KeyError, TypeError) as error:
        raise InputError(
            f'ebm_jax has no network {name}({", ".join(arguments)}): the model is of another '
            'version, or damaged'
        ) from error


_UNKNOWN = object()


def _plain(value):
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return next(({'value': name} for name, known in VALUES.items() if known is value), _UNKNOWN)


def _value(plain):
    if isinstance(plain, dict):
        return VALUES[plain['value']]
    return tuple(plain) if isinstance(plain, list) else plain
