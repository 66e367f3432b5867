"""All experiments and commands, a line each: python -m experiments.list [--settings | --commands]

--settings prints the reference page of all settings instead (docs/settings.md), --commands that of
the flags of commands and studies (docs/commands.md).
"""

import ast
import importlib
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from experiments.common import settings
from experiments.common.groups import RunSettings
from experiments.families import networks
from experiments.families.dat import DatSettings
from experiments.families.dual_mcmc import DualSettings
from experiments.families.energy_matching import EnergyMatchingSettings
from experiments.families.icd import IcdSettings
from experiments.families.jem import JemSettings
from experiments.families.speech_dual_mcmc import SpeechDualSettings
from experiments.families.speech_jem import SpeechSettings

EXPERIMENTS = pathlib.Path(__file__).parent.parent
COMMANDS, STUDIES = EXPERIMENTS / 'commands', EXPERIMENTS / 'studies'
FAMILIES = {
    'JEM and ST-JEM on images': JemSettings,
    'JEM and ST-JEM on speech': SpeechSettings,
    'Improved contrastive divergence': IcdSettings,
    'Dual-MCMC teaching': DualSettings,
    'Dual-MCMC teaching on speech': SpeechDualSettings,
    'Dual adversarial training': DatSettings,
    'Energy matching': EnergyMatchingSettings,
}
NETWORKS = (networks.WideResNetwork, networks.SpeechNetwork)  # those that no family has by default


def first_lines(folder: pathlib.Path) -> dict[str, str]:
    """{module: first sentence of its docstring} of the programs in a folder."""
    found = {}
    for file in sorted(folder.glob('*.py')):
        text = file.read_text()
        doc = ast.get_docstring(ast.parse(text))
        if doc and '__main__' in text:
            first = ' '.join(doc.split('\n\n')[0].split()).partition(': python -m')[0]
            found[file.stem] = first
    return found


def lines() -> list[str]:
    """What is printed."""
    shown = []
    for title, folder in (
        ('Experiments: python -m experiments.NAME --workdir=DIR', EXPERIMENTS),
        ('Commands: python -m experiments.NAME --workdir=DIR', COMMANDS),
        ('Studies: python -m experiments.studies.NAME --workdir=DIR', STUDIES),
    ):
        shown += ['', title]
        shown += [f'  {name:<26}{line}' for name, line in first_lines(folder).items()]
    return [*shown[1:], '', 'The settings of one: python -m experiments.NAME --help']


def settings_page() -> str:
    """docs/settings.md."""
    parts = [
        '# Settings',
        '',
        'Made by `python -m experiments.list --settings > docs/settings.md`. Defaults are those of '
        'the family; `python -m experiments.NAME --help` shows those of an experiment. Each is '
        'changed by `--config.SETTING=VALUE`.',
        '',
    ]
    for title, family in FAMILIES.items():
        parts += [f'## {title}', '', settings.markdown(family())]
    parts += ['## Other networks', '']
    for network in NETWORKS:
        table = settings.markdown(network()).replace('### `config`', f'### `{network.__name__}`')
        parts.append(table)
    return '\n'.join(parts).rstrip() + '\n'


def commands_page() -> str:
    """docs/commands.md."""
    parts = [
        '# Commands',
        '',
        'Made by `python -m experiments.list --commands > docs/commands.md`; '
        '`python -m experiments.NAME --help` says more of each. Settings of runs that a study '
        'trains (`--config.run.SETTING=VALUE`) are on the [page of settings](settings.md).',
        '',
    ]
    for folder, package in ((COMMANDS, 'experiments'), (STUDIES, 'experiments.studies')):
        for name, line in first_lines(folder).items():
            module = importlib.import_module(f'experiments.{folder.name}.{name}')
            parts += [f'## `{package}.{name}`', '', line, '']
            if hasattr(module, 'define'):
                parts += [*flag_table(module.define), '']
    return '\n'.join(parts).rstrip() + '\n'


def flag_table(define: Callable[[flags.FlagValues], None]) -> list[str]:
    """Markdown: a row for each flag that `define` defines, and each setting of its own."""
    values = flags.FlagValues()
    define(values)
    rows = []
    for name in values:
        flag = values[name]
        if name == 'config':
            for path, part, _, value in own_settings(flag.value):
                of = part.metadata['meaning']
                rows.append((f'config.{path}', value, with_choices(of.text, of.choices)))
        elif not name.startswith('config.'):
            choices, meaning = getattr(flag.parser, 'enum_values', ()), flag.help
            if choices:  # absl writes them first, between |
                meaning = meaning.partition('>: ')[2]
            meaning, repeated, _ = meaning.partition('repeat this option')  # absl's words
            meaning = ' '.join(meaning.split()).rstrip(';')
            if repeated:
                meaning += ' May be repeated.'
            default = flag.default
            if isinstance(default, list) and not repeated:
                default = ','.join(default)
            rows.append((name, default, with_choices(meaning, choices)))
    table = ['| flag | default | meaning |', '|---|---|---|']
    for name, default, meaning in rows:
        shown = '' if default in (None, '', [], ()) else f'`{default}`'
        table.append(f'| `--{name}` | {shown} | {settings.table_cell(meaning)} |')
    return table


def with_choices(meaning: str, choices: Sequence[str] | None) -> str:
    """What a flag means, with the values that it takes."""
    return f'{meaning.rstrip(".")}. One of {", ".join(choices)}.' if choices else meaning


def own_settings(config: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    """As `settings.walk`, without the groups that are settings of runs."""
    runs = [name for name, value in vars(config).items() if isinstance(value, RunSettings)]
    for row in settings.walk(config):
        if row[0].partition('.')[0] not in runs:
            yield row


PAGES = {'--settings': settings_page, '--commands': commands_page}


if __name__ == '__main__':
    asked = [page for flag, page in PAGES.items() if flag in sys.argv[1:]]
    print(asked[0]().rstrip() if asked else '\n'.join(lines()))
