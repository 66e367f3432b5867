"""WORKDIR/report.html: a run on one page, from the files in its folder."""

import html
import importlib
import json
import pathlib
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ebm_jax.checkpoint import steps_in
from ebm_jax.errors import InputError
from ebm_jax.evaluate import figures
from ebm_jax.exported import is_export, read_config
from ebm_jax.record import atomic_write, read_or_leave_out, read_rows, read_summary
from experiments.common import page, settings
from experiments.common.headlines import headlines_of
from experiments.common.section import HEADINGS, SAMPLES, UNFAMILIAR, Shown

FILE = 'report.html'
PANELS: list[figures.Panel] = [
    ('Loss', 'loss', ['loss']),
    (
        'Data and samples: close together and level is good',
        'mean of -E(x)',
        ['s_positives', 's_negatives'],
    ),
    ('Their difference', 'mean of -E(x), data - samples', ['s_gap']),
    ('Accuracy', 'share', ['accuracy', 'test_accuracy']),
    (
        'Gradient of each loss term: none should take off',
        'norm',
        ['grad_norm/positives', 'grad_norm/negatives', 'grad_norm/contrast', 'grad_norm/kl']
        + ['grad_norm/classifier', 'grad_norm/generator', 'grad_norm/inference'],
    ),
    ('Samples that carry the weights', 'effective sample size', ['effective_sample_size']),
    ('Entropy estimate of the KL term', 'nats', ['kl_entropy']),
    ('Reconstruction', 'mean squared error', ['mse/data', 'mse/chain']),
    (
        'Chains of one round, as they stand in training',
        'share',
        ['chains/acceptance', 'chains/clipped', 'chains/saturated'],
    ),
    ('Ages of the chains in the buffer', 'rounds', ['chains/age_p50', 'chains/age_p90']),
]


class Workdir(NamedTuple):
    """What a run has left in its folder."""

    path: pathlib.Path
    config: dict[str, Any]
    summary: dict[str, Any]
    evaluation: dict[str, Any]  # {} before `evaluate`
    recoveries: list[dict[str, Any]]

    @property
    def step(self) -> int | None:
        """Of the newest checkpoint; None before there is one."""
        return max(steps_in(self.path / 'checkpoints'), default=None)

    @property
    def shown(self) -> list[Shown]:
        """What evaluation has to show; before it, the newest pictures of training."""
        if self.evaluation:
            return [Shown(**one) for one in self.evaluation.get('shown', [])]
        newest: dict[str, tuple[int, str]] = {}
        for path in (self.path / 'samples').glob('*.png'):
            if found := re.fullmatch(r'(.+)_(\d{6,})\.png', path.name):
                newest[found[1]] = max(newest.get(found[1], (0, '')), (int(found[2]), path.name))
        return [
            Shown('Samples', f'samples/{file}', name.replace('_', ' ').capitalize(), '')
            for name, (_, file) in sorted(newest.items())
        ]


def read(workdir: str | pathlib.Path) -> Workdir:
    """Raises: InputError for a folder that holds no run, or a damaged file."""
    path = pathlib.Path(workdir)
    if is_export(path):
        raise InputError(f'{path} is an exported model: give the run that it came from')
    return Workdir(
        path,
        read_config(path),
        read_summary(path),
        read_or_leave_out(path / 'evaluation.json', {}),
        read_or_leave_out(path / 'recoveries' / 'log.json', []),
    )


def write(workdir: str | pathlib.Path, training: tuple[int, int] | None = None) -> pathlib.Path:
    """Write the report of a run, and its curves.png.

    Args: training: (step, steps) of a run that is under way.
    Returns: its path. Raises: InputError as `read`.
    """
    run = read(workdir)
    if training is not None:  # what was evaluated before is of another step
        run = run._replace(evaluation={}, summary={})
    parts = [*_head(run, training), *_numbers(run)]
    for group in groups_of(run.shown):
        own = [one for one in run.shown if one.group == group]
        parts += [f'<h2>{html.escape(group)}</h2>', page.figures(run.path, own)]
        parts += TABLES[group](run) if group in TABLES else []
    parts += _curves(run)
    parts += _how(run)
    text = page.page(f'{_name(run)}: {run.path.name}', parts, unfinished=training is not None)
    atomic_write(run.path / FILE, text)
    return run.path / FILE


def refresh(workdir: str | pathlib.Path, training: tuple[int, int] | None = None) -> None:
    """As `write`, beside a run that must not end because of its report: says what went wrong."""
    if not (pathlib.Path(workdir) / 'config.json').exists():
        return
    try:
        write(workdir, training)
    except (InputError, OSError, ValueError, KeyError, TypeError) as error:
        print(f'the report could not be written: {error}', file=sys.stderr)


def groups_of(shown: Iterable[Shown]) -> list[str]:
    """The headings, in the order of the page; those of one's own sections last."""
    found = dict.fromkeys(one.group for one in shown)
    order = [*HEADINGS, *found]
    return sorted(found, key=order.index)


def _name(run):
    return run.config.get('experiment', 'a run from Python').removeprefix('experiments.')


def _head(run, training):
    """What this is, and how the run stands."""
    summary, evaluated, newest = run.summary, run.evaluation.get('step'), run.step
    if training is not None:
        stand = f'Training: step {training[0]:,} of {training[1]:,}. This page reads itself again.'
        kind = 'quiet'
    elif summary.get('diverged'):
        stand, kind = str(summary.get('account') or 'The run diverged.'), 'bad'
    elif summary.get('finished') and summary.get('step') == newest:
        again = summary.get('recoveries', 0)
        after = f', after {again} recoveries from a divergence' if again else ''
        stand, kind = f'Trained to step {summary["step"]:,}{after}.', 'good'
    else:
        stand, kind = f'Not trained to its end: stopped at step {newest or 0:,}.', 'bad'
    lines = [f'<h1>{html.escape(_name(run))}</h1>']
    lines.append(f'<p class="quiet">{html.escape(str(run.path))}</p>')
    lines.append(f'<p class="{kind}">{html.escape(stand)}</p>')
    if evaluated is not None and newest not in (None, evaluated):
        lines.append(
            f'<p class="bad">Evaluated at step {evaluated:,}, but the run has gone on to '
            f'{newest:,}: evaluate again.</p>'
        )
    if not run.evaluation and training is None:
        lines.append(
            '<p class="quiet">Not evaluated yet: python -m experiments.evaluate '
            f'--workdir={html.escape(str(run.path))}</p>'
        )
    return lines


def _numbers(run):
    """The headline metrics as cards; those of out-of-distribution sets have a table below."""
    intervals = run.evaluation.get('intervals', {})
    cards = []
    for name, (headline, value) in headlines_of(run.summary).items():
        if name.startswith('ood_auroc.'):
            continue
        between = ''
        if name in intervals:
            low, high = (headline.text(end) for end in intervals[name])
            between = f'95 %: {low} to {high}'
        cards.append(page.card(headline.title, headline.text(value), between, headline.meaning))
    return [f'<div class="cards">{"".join(cards)}</div>'] if cards else []


def _unfamiliar(run):
    """AUROC of every score for every set, the best one of each set in bold."""
    found = run.evaluation.get('ood', {})
    if not found:
        return []
    scores = list(next(iter(found.values())))
    rows, best, wins = [], [], dict.fromkeys(scores, 0)
    for name, of_set in found.items():
        winner = max(scores, key=lambda score: of_set[score]['auroc'])
        wins[winner] += 1
        best.append(2 + scores.index(winner))
        cells = [
            f'{_text(one["auroc"], ".3f")} [{_ends(one["interval"]["auroc"])}]'
            for one in (of_set[score] for score in scores)
        ]
        rows.append([name, f'{of_set[scores[0]]["examples"]:,}', *cells])
    most = max(wins, key=wins.__getitem__)
    said = (
        'AUROC with 95 % bootstrap intervals: how well each score tells test examples from those '
        f'of a set; .5 is chance, 1 perfect. Most often best: {most} '
        f'({wins[most]} of {len(found)} sets).'
    )
    return [
        f'<p class="quiet">{html.escape(said)}</p>',
        page.table(['set', 'examples', *scores], rows, best),
    ]


def _ends(interval):
    return ', '.join(_text(end, '.3f') for end in interval)


def _text(value, how):
    """A number; one that is not finite is a string in JSON."""
    return value if isinstance(value, str) else format(value, how)


def _distances(run):
    """Distances of samples and of the reference points."""
    parts = []
    for name, (title, where) in DISTANCES.items():
        rows = [
            [row, _text(values['frechet']['value'], '.4g'), _short(values['frechet']['interval'])]
            for row, values in run.evaluation.get(name, {}).items()
            if isinstance(values, Mapping) and 'frechet' in values
        ]
        if rows:
            parts.append(page.table(['set', title, '95 % interval'], rows))
            parts.append(
                f'<p class="quiet">Distance to training images in {where}. train, test, shifted '
                'and noise are reference points: the distances of other real examples, of shifted '
                'ones, and of noise.</p>'
            )
    return parts


def _short(interval):
    return ' to '.join(_text(end, '.4g') for end in interval)


DISTANCES = {
    'sample_distance': (
        'Frechet distance',
        'the features of a small classifier trained on them (not an FID)',
    ),
    'fid': ('FID', 'the features of the Inception network'),
}
TABLES = {UNFAMILIAR: _unfamiliar, SAMPLES: _distances}


def _curves(run):
    rows, _ = read_rows(run.path / 'metrics.jsonl')
    steps = [entry['back_to'] for entry in run.recoveries]
    figure = figures.curves(rows, PANELS, steps)
    if figure is None:
        return []
    figures.save(figure, run.path / 'curves.png')
    marked = ' Dotted: a diverged run went back here and continued.' if steps else ''
    caption = f'Metrics of training over its steps.{marked}'
    drawn = figures.svg(figure, 'curves').replace(
        '<svg', f'<svg role="img" aria-label="{caption}"', 1
    )
    parts = ['<h2>Training</h2>', f'<figure>{drawn}<figcaption>{caption}</figcaption></figure>']
    if run.recoveries:
        header = ['attempt', 'diverged at', 'back to', 'change', 'why']
        lines = [
            [str(e['attempt']), f'{e["diverged_at"]:,}', f'{e["back_to"]:,}', e['change'], e['why']]
            for e in run.recoveries
        ]
        parts.append(page.table(header, lines))
    return parts


def _how(run):
    """How it was measured, and how it is made again."""
    parts = ['<h2>How</h2>']
    protocol = run.path / 'evaluation.txt'
    if protocol.exists():
        parts.append(page.folded('Protocol of the evaluation', protocol.read_text()))
    again = 'trained from Python, by ebm_jax.fit.fit'
    if 'experiment' in run.config:
        again = commands(str(run.path), run.config)
    parts.append(page.folded('Commands that make this run again', again))
    config = {name: value for name, value in run.config.items() if name != 'model'}
    parts.append(page.folded('Configuration', json.dumps(config, indent=2)))
    if 'model' in run.config:
        parts.append(page.folded('Model', json.dumps(run.config['model'], indent=2)))
    return parts


def commands(workdir: str, config: Mapping[str, Any]) -> str:
    """The commands that make a run again: its experiment, with the settings that are not the
    experiment's own, and its evaluation."""
    name = config['experiment']
    arguments = [f'python -m {name}', shlex.quote(f'--workdir={workdir}')]
    arguments += [
        shlex.quote(f'--config.{path}={value}') for path, value in changed(config).items()
    ]
    evaluate = f'python -m experiments.evaluate {shlex.quote(f"--workdir={workdir}")}'
    return f'{" ".join(arguments)}\n{evaluate}'


def changed(config: Mapping[str, Any]) -> dict[str, Any]:
    """{path: value} of the settings of a saved run that are not those of its experiment; {} where
    that cannot be imported."""
    try:
        default = settings.flatten(importlib.import_module(config['experiment']).get_config())
    except (ModuleNotFoundError, AttributeError):
        return {}
    saved = settings.flat(config.get('config', {}))
    differing = {
        path: tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for path, value in saved.items()
    }
    return {
        path: value
        for path, value in differing.items()
        if path in default and value != default[path]
    }
