"""Settings, each declared once: default, meaning, range, and whether it may change on a resume.

A configuration is a dataclass of groups of settings. Its declaration defines the flags
(`--config.KEY=VALUE`, by ml_collections), their checks, `--help`, the page docs/settings.md and
which settings may change when a run is continued.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from ebm_jax.errors import InputError

LARGEST = 2**31 - 1  # of whole numbers, which JAX keeps in 32 bits
LARGEST_FLOAT = 1e12  # far above any that means something


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What a setting means, and what it may be.

    Attributes:
      text: one line of explanation.
      low, high: inclusive bounds.
      above, below: exclusive bounds.
      choices: all allowed values.
      min_length: smallest length of a tuple.
      resume: whether the setting may change when a run is continued.
    """

    text: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    min_length: int = 0
    resume: bool = False

    @property
    def range(self) -> str:
        """'in [0, 1)', 'at least 1', 'one of a, b', or '' for anything."""
        if self.choices:
            return f'one of {", ".join(self.choices)}'
        low = self.low if self.above is None else self.above
        high = self.high if self.below is None else self.below
        if low is not None and high is not None:
            left, right = '[' if self.above is None else '(', ']' if self.below is None else ')'
            return f'in {left}{low:g}, {high:g}{right}'
        if low is not None:
            return f'at least {low:g}' if self.above is None else f'above {low:g}'
        if high is not None:
            return f'at most {high:g}' if self.below is None else f'below {high:g}'
        return ''

    def allows(self, value: Any) -> bool:
        """Whether a number or word is in range; numbers must be finite, and at most LARGEST_FLOAT
        in size."""
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        return (
            math.isfinite(value)
            and abs(value) <= LARGEST_FLOAT
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def setting(default: Any, text: str, **meaning: Any) -> Any:
    """A field of a group: default, what it means, and keywords of `Meaning`."""
    return dataclasses.field(default=default, metadata={'meaning': Meaning(text, **meaning)})


def group(kind: type, **changes: Any) -> Any:
    """A field of a configuration that is a group of settings, with other defaults by keyword."""
    return dataclasses.field(default_factory=lambda: kind(**changes))


def walk(config: Any, prefix: str = '') -> Iterator[tuple[str, dataclasses.Field, Any, Any]]:
    """(path, field, the group it is in, value) of every setting."""
    for part in dataclasses.fields(config):
        value = getattr(config, part.name)
        if dataclasses.is_dataclass(value):
            yield from walk(value, f'{prefix}{part.name}.')
        else:
            yield prefix + part.name, part, config, value


def flatten(config: Any) -> dict[str, Any]:
    """{'group.name': value} of a configuration."""
    return {path: value for path, _, _, value in walk(config)}


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain data, as JSON gives it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(config: Any, tree: Mapping[str, Any]) -> Any:
    """A configuration like `config` with the values of a tree of `to_dict`. Settings that have been
    added since keep their defaults, by which a run of before stays what it was.

    Raises: KeyError with the names that `config` does not have.
    """
    config = copy(config)
    names, given = set(flatten(config)), flat(tree)
    if set(given) - names:
        raise KeyError(', '.join(sorted(set(given) - names)))
    update(config, given)
    return config


def flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """{'group.name': value} of a tree of `to_dict`."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        is_group = isinstance(value, Mapping)
        found |= flat(value, f'{prefix}{name}.') if is_group else {prefix + name: value}
    return found


def copy(config: Any) -> Any:
    """An independent copy of the configuration."""
    values = {part.name: getattr(config, part.name) for part in dataclasses.fields(config)}
    return type(config)(
        **{k: copy(v) if dataclasses.is_dataclass(v) else v for k, v in values.items()}
    )


def update(config: Any, changes: Mapping[str, Any]) -> None:
    """Set settings by path, {'optimizer.learning_rate': 1e-3}, converted as in `as_declared`.

    Raises: KeyError for an unknown setting.
    """
    places = {path: (holder, part) for path, part, holder, _ in walk(config)}
    for path, value in changes.items():
        if path not in places:
            raise KeyError(path)
        holder, part = places[path]
        setattr(holder, part.name, _as_declared(value, part.type))


def as_declared(config: Any) -> None:
    """Convert values to their declared types where nothing is lost: whole numbers to floats, and
    to strings in tuples of names."""
    for _, part, holder, value in walk(config):
        setattr(holder, part.name, _as_declared(value, part.type))


def _as_declared(value, declared):
    if isinstance(value, list):
        value = tuple(value)
    if declared is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if declared == tuple[str, ...] and isinstance(value, tuple):
        return tuple(str(item) if isinstance(item, int) else item for item in value)
    return value


def check(config: Any, prefix: str = '') -> None:
    """Refuse values that are out of range or of another type.

    Args:
      config: a configuration, or one group of it.
      prefix: path of `config` within the whole configuration, for the error message.

    Raises: InputError that names the flag.
    """
    for path, part, _, value in walk(config, prefix):
        meaning = part.metadata['meaning']
        if not _has_type(value, part.type):
            wanted = getattr(part.type, '__name__', str(part.type))
            if typing.get_origin(part.type) is not None:
                wanted = str(part.type)
            raise InputError(f'--config.{path} must be {wanted}, got {value!r}')
        values = value if isinstance(value, tuple) else (value,)
        for item in values:
            if isinstance(item, int) and abs(item) > LARGEST:
                raise InputError(f'--config.{path} must be at most {LARGEST:,}, got {item}')
        if len(values) < meaning.min_length:
            raise InputError(f'--config.{path} must hold at least {meaning.min_length} value')
        if not all(meaning.allows(item) for item in values if item is not None):
            raise InputError(
                f'--config.{path} must be {meaning.range or "finite"}, and at most '
                f'{LARGEST_FLOAT:g} in size, got {_shown(value)}'
                if any(isinstance(item, float) and abs(item) > LARGEST_FLOAT for item in values)
                else f'--config.{path} must be {meaning.range or "finite"}, got {_shown(value)}'
            )


def _has_type(value, declared):
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin in (typing.Union, types.UnionType):
        return any(_has_type(value, kind) for kind in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_has_type(item, arguments[0]) for item in value)
    if declared is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if declared is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return declared is Any or isinstance(value, declared or type(None))


def _shown(value):
    return f'{value:g}' if isinstance(value, float) else str(value)


def free_on_resume(config: Any) -> set[str]:
    """Paths of the settings that may change when a run is continued."""
    return {path for path, part, _, _ in walk(config) if part.metadata['meaning'].resume}


def groups_of(config: Any) -> Iterator[tuple[str, str, list[tuple[str, dataclasses.Field, Any]]]]:
    """(path, first line of its docstring, [(path, field, value)]) of each group, the top first."""
    rows = list(walk(config))
    for holder in dict.fromkeys(id(row[2]) for row in rows):
        own = [row for row in rows if id(row[2]) == holder]
        path = own[0][0].rpartition('.')[0]
        doc = (own[0][2].__doc__ or '').strip().split('\n\n')[0]
        yield path, ' '.join(doc.split()), [(row[0], row[1], row[3]) for row in own]


def help_text(config: Any) -> str:
    """All settings in their groups, a line of meaning each, for --help."""
    lines = []
    for path, doc, rows in groups_of(config):
        lines += ['', f'{path or "run"}: {doc}']
        for name, part, value in rows:
            meaning = part.metadata['meaning']
            about = f' ({meaning.range})' if meaning.range else ''
            lines.append(f'  --config.{name}={_shown(value)}')
            lines.append(f'      {meaning.text}{about}')
    return '\n'.join(lines).lstrip('\n')


def table_cell(text: str) -> str:
    """Text that does not end its cell of a Markdown table."""
    return text.replace('|', '\\|')


def markdown(config: Any) -> str:
    """All settings in their groups, a table each, for docs/settings.md."""
    lines = []
    for path, doc, rows in groups_of(config):
        lines += [f'### `{path or "config"}`', '', doc, '']
        lines += ['| setting | default | range | meaning | may change on a resume |']
        lines += ['|---|---|---|---|---|']
        for name, part, value in rows:
            meaning = part.metadata['meaning']
            cells = (
                f'`{name}`',
                f'`{_shown(value)}`',
                meaning.range,
                table_cell(meaning.text),
                'yes' if meaning.resume else '',
            )
            lines.append(f'| {" | ".join(cells)} |')
        lines.append('')
    return '\n'.join(lines)
