"""All experiments and commands, a line each: python -m experiments.list [--settings]

--settings prints the reference page of all settings instead (docs/settings.md).
"""

import ast
import pathlib
import sys

from experiments.common import settings
from experiments.families import networks
from experiments.families.dat import DatSettings
from experiments.families.dual_mcmc import DualSettings
from experiments.families.energy_matching import EnergyMatchingSettings
from experiments.families.icd import IcdSettings
from experiments.families.jem import JemSettings
from experiments.families.speech_jem import SpeechSettings

EXPERIMENTS = pathlib.Path(__file__).parent.parent
FAMILIES = {
    'JEM and ST-JEM on images': JemSettings,
    'JEM and ST-JEM on speech': SpeechSettings,
    'Improved contrastive divergence': IcdSettings,
    'Dual-MCMC teaching': DualSettings,
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
        ('Commands: python -m experiments.NAME --workdir=DIR', EXPERIMENTS / 'commands'),
        ('Studies: python -m experiments.studies.NAME --workdir=DIR', EXPERIMENTS / 'studies'),
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


if __name__ == '__main__':
    print('\n'.join(lines()) if '--settings' not in sys.argv[1:] else settings_page().rstrip())
