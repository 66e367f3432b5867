"""Compare runs side by side: python -m experiments.compare --workdir=A --workdir=B ...

Prints a table, one column for each run: the settings in which they differ, and the main metrics of
summary.json (`evaluate` first). Writes the same with their pictures next to each other to --out
(compare.html). --markdown prints a Markdown table, one line for each run.
"""

import html
import json
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from flax.traverse_util import flatten_dict

from ebm_jax.errors import InputError
from ebm_jax.record import atomic_write
from experiments.common import launch, page, report
from experiments.common.headlines import headlines_of

WIDEST = 32  # of a column, in letters
FACTS = ('diverged', 'step')  # of a run, besides its metrics


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_multi_string('workdir', [], 'Folder of a run; give several.', flag_values=values)
    flags.DEFINE_boolean('markdown', False, 'Print a Markdown table.', flag_values=values)
    flags.DEFINE_string(
        'out', 'compare.html', 'The page to write; empty for none.', flag_values=values
    )


def run(values: Any) -> None:
    """Print the table, and write the page."""
    if not values.workdir:
        raise InputError('give --workdir=DIR for each run to be compared')
    given = [report.read(workdir) for workdir in values.workdir]
    rows = table_of(given)
    heads = names_of(given)
    print(markdown(heads, rows) if values.markdown else terminal(heads, rows))
    waiting = [one.path for one in given if not one.evaluation]
    for path in waiting:
        again = f'python -m experiments.evaluate --workdir={path}'
        print(f'not evaluated yet: {again}', file=sys.stderr)
    if values.out:
        out = pathlib.Path(values.out)
        if not out.parent.is_dir():
            raise InputError(f'--out={out} lies in a folder that does not exist: make it first')
        atomic_write(out, page_of(given, heads, rows))
        print(f'Look at {out}', file=sys.stderr)


def names_of(given: Sequence[report.Workdir]) -> list[str]:
    """Folder names of the runs; whole paths where these are not told apart by them."""
    names = [one.path.name for one in given]
    return names if len(set(names)) == len(names) else [str(one.path) for one in given]


def table_of(given: Sequence[report.Workdir]) -> dict[str, list[str]]:
    """{what: its value in each run}: the settings that differ, then metrics; '' where a run has
    none."""
    settings = [
        flatten_dict(
            {'experiment': one.config.get('experiment'), **one.config.get('config', {})}, sep='.'
        )
        for one in given
    ]
    keys = sorted({key for one in settings for key in one})
    rows = {
        key: [shown(one.get(key)) for one in settings]
        for key in keys
        if len({json.dumps(one.get(key)) for one in settings}) > 1
    }
    metrics = [headlines_of(one.summary) for one in given]
    titles = {name: headline for one in metrics for name, (headline, _) in one.items()}
    # in the order in which any run has them
    for name, headline in titles.items():
        rows[headline.title] = [
            one[name][0].text(one[name][1]) if name in one else '' for one in metrics
        ]
    for name in FACTS:
        rows[name] = [shown(one.summary.get(name)) for one in given]
    return rows


def shown(value: Any) -> str:
    """A cell; empty for None."""
    if value is None:
        return ''
    return f'{value:.3g}' if isinstance(value, float) else str(value)


def terminal(heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """The table in as many blocks of columns as the terminal needs; runs that do not fit come
    below."""
    width = shutil.get_terminal_size((100, 24)).columns
    first = min(max(map(len, rows)), 34)
    columns = [
        min(max(len(cell) for cell in (head, *(row[i] for row in rows.values()))), WIDEST)
        for i, head in enumerate(heads)
    ]
    blocks: list[list[int]] = [[]]
    for i in range(len(heads)):
        if blocks[-1] and first + sum(columns[j] + 2 for j in (*blocks[-1], i)) > width:
            blocks.append([])
        blocks[-1].append(i)
    lines = []
    for block in blocks:
        for name, row in {'': heads, **rows}.items():
            cells = ''.join(f'  {_cut(row[i], columns[i]):>{columns[i]}}' for i in block)
            lines.append(f'{_cut(name, first):<{first}}{cells}'.rstrip())
        lines.append('')
    return '\n'.join(lines)


def _cut(text, width):
    return text if len(text) <= width else text[: width - 1] + '\N{HORIZONTAL ELLIPSIS}'


def markdown(heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """One line for each run."""
    header = ['run', *rows]
    lines = ['| ' + ' | '.join(header) + ' |', '|' + '---|' * len(header)]
    for i, head in enumerate(heads):
        cells = [head, *(row[i] for row in rows.values())]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def page_of(
    given: Sequence[report.Workdir], heads: Sequence[str], rows: Mapping[str, Sequence[str]]
) -> str:
    """The page: the table, then what the runs have to show, next to each other."""
    title = ', '.join(heads)
    parts = [f'<h1>{html.escape(title)}</h1>']
    parts.append(page.table(['', *heads], [[name, *row] for name, row in rows.items()]))
    found: dict[tuple[str, str], None] = {}
    for one in given:
        found |= {(shown.group, shown.title): None for shown in one.shown}
    order = report.groups_of(shown for one in given for shown in one.shown)
    for group, name in sorted(found, key=lambda one: order.index(one[0])):
        parts.append(f'<h2>{html.escape(group)}: {html.escape(name)}</h2><div class="shown">')
        for head, one in zip(heads, given):
            for what in one.shown:
                if (what.group, what.title) == (group, name):
                    parts.append(page.figure(one.path, what._replace(title=head, wide=False)))
        parts.append('</div>')
    return page.page(title, parts)


if __name__ == '__main__':
    launch.main(run, define, __doc__)
