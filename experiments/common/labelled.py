"""The labels that a run of images sees: the classes of its data, or levels of an attribute that is
measured on each image."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ebm_jax import data
from ebm_jax.data import Examples
from ebm_jax.errors import InputError
from ebm_jax.evaluate.attributes import ATTRIBUTES, LEVELS, relabelled, thirds
from experiments.common import sources
from experiments.common.groups import ImageData
from experiments.common.settings import setting
from experiments.common.sources import Datasets


@dataclass
class LabelledData(ImageData):
    """The data set, what happens to an image, and its labels."""

    label: str = setting(
        'class',
        'what a label is: the class, or the low, middle or high third of an attribute',
        choices=('class', *ATTRIBUTES),
    )
    leave_out: tuple[int, ...] = setting((), 'classes that training never sees')


def labelled_splits(c: LabelledData) -> Datasets:
    """The classes that the run may see, under its labels; the test images of those left out are an
    out-of-distribution set. Raises: InputError, also as `sources.splits`."""
    train, test = sources.splits(c.source)
    extra_ood: dict[str, Any] = {}
    if c.leave_out:
        unknown = sorted(set(c.leave_out) - set(range(train.num_classes)))
        if unknown:
            raise InputError(
                f'--config.data.leave_out names {", ".join(map(str, unknown))}, but the classes of '
                f'{train.name} are 0 to {train.num_classes - 1}'
            )
        held_out = data.select_classes(test, c.leave_out)
        extra_ood['held_out'] = lambda: held_out
        train, test = (
            data.select_classes(examples, c.leave_out, keep=False) for examples in (train, test)
        )
        remaining = np.unique(train.y)  # renumbered, so that no class is without examples
        train, test = (_renumbered(examples, remaining) for examples in (train, test))
    if c.label != 'class':
        if c.label == 'colour' and train.x.shape[-1] != 3:
            raise InputError(
                f'--config.data.label=colour is measured on RGB images, but {train.name} has '
                f'{train.x.shape[-1]} channels'
            )
        edges = thirds(ATTRIBUTES[c.label](train.x))
        train, test = (relabelled(examples, c.label, edges) for examples in (train, test))
        if np.min(np.bincount(train.y, minlength=len(LEVELS[c.label]))) == 0:
            raise InputError(
                f'--config.data.label={c.label}: too many images of {train.name} have the same '
                f'{c.label} to tell low, middle and high: use another label'
            )
    return Datasets(train=train, test=test, extra_ood=extra_ood)


def _renumbered(examples: Examples, classes: np.ndarray) -> Examples:
    return examples._replace(y=np.searchsorted(classes, examples.y).astype(np.int32))
