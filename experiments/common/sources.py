"""Data by name: 'digits', 'npz:FILE[?test=.1&coloured=true]', 'folder:FOLDER[?size=64&test=.1]',
'tfds:NAME[@FOLDER][?size=64&label=FIELD&memory=false]'. test=.1 cuts a tenth off for tests;
coloured=true gives each grey image a colour (`data.coloured`)."""

import pathlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from ebm_jax import data
from ebm_jax.data import Examples
from ebm_jax.errors import InputError

CHANGES: dict[str, Callable[[Examples], Examples]] = {
    'rotated': data.rotated,
    'inverted': data.inverted,
    'noise': data.uniform_noise,
    'mixed': data.mixed,
    'letters': lambda test: data.letters(len(test.x), min(test.x.shape[1:3])),
}
GROUPS = ('near', 'far')  # of out-of-distribution sets, as OpenOOD groups them


@dataclass(frozen=True, kw_only=True)
class Datasets:
    """What a run is trained and tested on.

    Attributes:
      train, test: its examples.
      extra_ood: {name: () -> Examples}, out-of-distribution sets that only this run has.
      extra: whatever else its family has read.
    """

    train: Examples
    test: Examples
    extra_ood: Mapping[str, Callable[[], Examples]] = field(default_factory=dict)
    extra: Any = None


def load(source: str, split: str) -> Examples:
    """The images of a source by its name. Raises: InputError for an unknown source."""
    kind, _, where = source.partition(':')
    if kind == 'digits' and not where:
        return data.digits(split)
    if kind in ('npz', 'folder') and where:
        own = 'size' if kind == 'folder' else 'coloured'
        where, options = options_of(source, ('test', own))
        size, share = _pixels(source, options), options.get('test')
        coloured = _truth(source, options, 'coloured', 'false')
        # what is to be divided comes as one set
        asked = split if share is None else 'train'
        found = data.npz(where, asked) if kind == 'npz' else data.folder(where, asked, size)
        if share is not None:
            found = data.divided(found, _share(source, share), split)
        # other colours in each split
        return data.coloured(found, seed=('train', 'test').index(split)) if coloured else found
    if kind == 'tfds' and where:
        name, folder, options = tfds_parts(source, ('size', 'label', 'memory'))
        # what is tested is small, and looked at from all sides
        in_memory = _truth(source, options, 'memory', 'true') or split == 'test'
        pixels = _pixels(source, options)
        for read in ('memory', 'size'):
            options.pop(read, None)
        return data.tfds(name, split, folder, size=pixels, memory=in_memory, **options)
    raise InputError(
        f'unknown data {source!r}: give digits, npz:FILE[?test=.1&coloured=true], '
        'folder:FOLDER[?size=64&test=.1] or '
        'tfds:NAME[@FOLDER][?size=64&label=FIELD&memory=false]'
    )


def _pixels(source, options):
    size = options.get('size')
    if size is not None and not (size.isdecimal() and int(size) > 0):
        raise InputError(f'{source!r}: the size must be a whole number of pixels, got {size!r}')
    return int(size) if size else None


def _truth(source, options, name, default):
    text = options.get(name, default)
    if text not in ('true', 'false'):
        raise InputError(f'{source!r}: {name} must be true or false, got {text!r}')
    return text == 'true'


def _share(source, text):
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise InputError(f'{source!r}: test must be a share between 0 and 1, got {text!r}')
    return share


def tfds_parts(source: str, known: tuple[str, ...]) -> tuple[str, str | None, dict[str, str]]:
    """'tfds:NAME[@FOLDER][?key=value&...]' -> (name, folder or None, options).

    Raises: InputError for options other than `known`.
    """
    place, options = options_of(source, known)
    name, _, folder = place.partition('@')
    return name, folder or None, options


def options_of(source: str, known: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """'KIND:PLACE[?key=value&...]' -> (PLACE, options).

    Raises: InputError for options other than `known`.
    """
    place, _, query = source.partition(':')[2].partition('?')
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        options = {'': ''}
    if not set(options) <= set(known) or '' in options.values():
        raise InputError(
            f'{source!r}: what follows ? must look like KEY=VALUE&KEY=VALUE, with keys among '
            f'{", ".join(known)}'
        )
    return place, options


def splits(source: str) -> tuple[Examples, Examples]:
    """(train, test) of a source, checked against each other. Raises: InputError."""
    train, test = load(source, 'train'), load(source, 'test')
    if test.x.shape[1:] != train.x.shape[1:] or test.num_classes > train.num_classes:
        raise InputError(
            f'{source}: training images are {list(train.x.shape[1:])} in {train.num_classes} '
            f'classes, test images {list(test.x.shape[1:])} in {test.num_classes}: both splits '
            'must agree'
        )
    if train.num_classes > 1 and test.num_classes == 1:
        raise InputError(
            f'{source}: all test images are of class 0, and training images of {train.num_classes} '
            'classes: give test images of all classes, with their labels (y_test)'
        )
    if train.x.shape == test.x.shape and np.array_equal(train.x, test.x):
        raise InputError(
            f'{source} has no test split of its own: give x_train and x_test, or the folders train '
            f'and test; or cut one off by {source}{"&" if "?" in source else "?"}test=.1'
        )
    return train, test


def datasets_of(source: str) -> Datasets:
    """Both splits of a source. Raises: InputError as `splits`."""
    train, test = splits(source)
    return Datasets(train=train, test=test)


def ood_dataset(spec: str, datasets: Datasets) -> Examples:
    """An out-of-distribution set: one of the run's own (held_out: the classes that were left out of
    training), one that is made from the test set by name (rotated, inverted, noise, mixed, or
    letters of its size), or any source. Its images are brought to the size and channels of the
    test set by the rules of `data.matched`.

    Raises: InputError for an unknown set, or one that no rule brings to that shape.
    """
    test = datasets.test
    if spec in datasets.extra_ood:
        return datasets.extra_ood[spec]()
    if spec == 'held_out':
        raise InputError(
            'held_out needs a run that left classes out of training (--config.data.leave_out)'
        )
    examples = CHANGES[spec](test) if spec in CHANGES else load(spec, 'test')
    return data.matched(examples, test.x.shape[1:])


def ood_suite(path: str) -> dict[str, str]:
    """A TOML file of near and far sets -> {'near/NAME' or 'far/NAME': what to load}.

        [near]
        letters = "npz:data/letters.npz"
        [far]
        textures = "npz:data/textures.npz"

    Raises: InputError for a file that is missing, damaged, or has other tables.
    """
    try:
        content = tomllib.loads(pathlib.Path(path).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f'--ood_suite={path} cannot be read as TOML ({error})') from error
    found = {
        f'{kind}/{name}': source
        for kind, sets in content.items()
        if isinstance(sets, dict)
        for name, source in sets.items()
    }
    texts = all(isinstance(source, str) for source in found.values())
    if not found or set(content) - set(GROUPS) or not texts:
        raise InputError(
            f'--ood_suite={path} must have the tables [near] and [far], or one of them, with lines '
            'NAME = "DATA"'
        )
    return found


def ood_names(specs: tuple[str, ...], flag: str = '--config.ood') -> dict[str, str]:
    """('rotated', 'textures=npz:FILE') -> {name: what to load}. NAME= alone gives ''.

    Raises: InputError for what is neither NAME=DATA nor a change of the test set by name.
    """
    found = {}
    for spec in specs:
        name, equals, source = spec.partition('=')
        if not name or not equals and spec not in CHANGES:
            raise InputError(
                f'{flag}={spec} must look like NAME=DATA (near/NAME=DATA, far/NAME=DATA), or be a '
                f'set that is made here: {", ".join(CHANGES)}'
            )
        if name in ('test', 'edges'):
            raise InputError(
                f'{flag}={spec}: {name!r} has another meaning here, choose another name'
            )
        found[name] = source if equals else spec
    return found
