"""Compositions of separately trained energies of digits: what the studies `digits_compose` and
`coloured_compose` do.

The class AND attributes, in two ways: by the paper's sums of energies and by conditions
(`composition.posterior`); OR of two classes; a class NOT with a level of an attribute, by the
paper's differences and by conditions. Each factor is measured: the class by a support vector
machine, attributes directly from the image (high and low third of the training images).
"""

import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from ebm_jax import composition
from ebm_jax.composition import Composition
from ebm_jax.data import Examples
from ebm_jax.errors import InputError
from ebm_jax.evaluate import samples
from ebm_jax.evaluate.attributes import ATTRIBUTES, LEVELS, ink, level, thirds
from ebm_jax.images import Grid, as_pixels, save_grid
from ebm_jax.record import update_summary, write_json
from ebm_jax.types import Params
from experiments.commands.compose import draw, joined
from experiments.common import settings
from experiments.common.cores import use_all_cores
from experiments.common.experiment import Experiment
from experiments.common.runs import fit_experiment
from experiments.common.section import share_interval
from experiments.common.settings import group, setting
from experiments.families.icd import IcdSettings
from experiments.families.jem import JemSettings
from experiments.studies import arms

PAIRS = ((3, 8), (0, 1), (4, 7))  # of classes, for OR
COLUMN = 2 + max(map(len, ATTRIBUTES))  # width in the table

Runs = dict[str, tuple[Experiment, Params]]  # {label: the run of that label}
Found = tuple[dict[str, Any], list[str]]  # (what was found, lines for people)


@dataclass
class Asked:
    """Which energies there are, and how many samples."""

    attributes: tuple[str, ...] = setting(
        ('stroke', 'slant'), 'that have an energy beside the class', choices=tuple(ATTRIBUTES)
    )
    num: int = setting(200, 'samples of each composition', low=1)


@dataclass
class Questions(Asked):
    """The compositions and how they are sampled."""

    not_weight: float = setting(
        0.5, "weight of NOT (the paper's 0.001 to 0.01 have no effect on these energies)", low=0
    )
    sharpness: float = setting(1.0, 's of OR', above=0)


@dataclass
class Settings:
    """A run for the class and for each attribute, and what is asked of their compositions."""

    run: Any = group(IcdSettings)
    compose: Any = group(Questions)

    def divisors(self) -> tuple[int, ...]:
        return self.run.divisors()

    @property
    def labels(self) -> tuple[str, ...]:
        return 'class', *self.compose.attributes


def settings_of(run: IcdSettings | JemSettings) -> Settings:
    """The study of energies with these settings; those of contrastive divergence as conditional
    ones."""
    if isinstance(run, IcdSettings):
        run.loss.conditional = True
        run.transition.affine = 0.0  # it would change the slant that a chain was asked for
    return Settings(run=run)


def train(module: ModuleType, workdir: pathlib.Path, config: Settings) -> Runs:
    """The runs, trained where they are not yet. Raises: InputError, before any training, where one
    of them cannot be trained."""
    use_all_cores(config)
    found, configs = {}, {label: settings.copy(config.run) for label in config.labels}
    for label, one in configs.items():
        one.data.label = label
        arms.checked(module, one)
    for label, one in configs.items():
        experiment, state = fit_experiment(workdir / label, module, one)
        found[label] = experiment, state.eval_params
    return found


class AttributeProbe:
    """Measures what an image shows: its class, by its ink, and the level of each attribute."""

    def __init__(self, train: Examples, attributes: Sequence[str]) -> None:
        grey = np.round(255 * ink(train.x)[..., None]).astype(np.uint8)
        self.classifier = samples.fit_reference_classifier(train._replace(x=grey))
        self.edges = {name: thirds(ATTRIBUTES[name](train.x)) for name in attributes}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        grey = 2 * ink(images)[..., None] - 1
        shown = {name: level(ATTRIBUTES[name](images), edges) for name, edges in self.edges.items()}
        return {'class': self.classifier.predict(as_pixels(grey)), **shown}


def sample(
    runs: Runs,
    labels: Sequence[str],
    combine: Callable[..., Composition],
    wanted: np.ndarray,
) -> np.ndarray:
    """Samples of a composition.

    Args:
      runs: the trained runs.
      labels: which run each term takes.
      combine: energy functions -> composition.
      wanted: the labels of the terms, int [N, T].
    """
    of_terms = [(runs[label][0].model, runs[label][1]) for label in labels]
    composed, params = joined(combine, of_terms)
    return draw(jax.random.key(0), composed, params, wanted, of_terms[0][0])


def classes_of(runs: Runs) -> int:
    """How many classes the data have."""
    return runs['class'][0].train.num_classes


def wanted_of_and(num: int, classes: int, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """{label: int [num]}: the wanted value of each factor; of attributes, the low or the high
    third."""
    extremes = np.random.default_rng(0).choice([0, 2], (num, len(labels)))
    return {
        label: np.arange(num) % classes if label == 'class' else extremes[:, i]
        for i, label in enumerate(labels)
    }


class Way(NamedTuple):
    """A way to compose: the runs that the terms take, their labels, and how they are combined."""

    runs: Sequence[str]
    labels: np.ndarray  # int [N, T]
    combine: Callable[..., Composition]


def conditions(label: str, wanted: np.ndarray) -> Way:
    """What `posterior` takes: the wanted level of an attribute, then the two others."""
    levels = len(LEVELS[label])
    labels = np.stack([(wanted + i) % levels for i in range(levels)], 1)
    return Way((label,) * levels, labels, lambda one, *rest: composition.posterior([one], rest))


def ways_of_and(labels: Sequence[str], wanted: Mapping[str, np.ndarray]) -> dict[str, Way]:
    """The product of all, and the first one with conditions on the others."""
    chosen = np.stack([wanted[label] for label in labels], 1)
    product = Way(labels, chosen, composition.all_of)
    if len(labels) == 1:
        return {'product': product}
    given = [conditions(label, wanted[label]) for label in labels[1:]]
    sizes = [len(one.runs) for one in given]

    def combine(first, *rest):
        left = iter(rest)
        parts = [one.combine(*itertools.islice(left, n)) for one, n in zip(given, sizes)]
        return composition.all_of(first, *parts)

    return {
        'product': product,
        'conditions': Way(
            (labels[0], *(name for one in given for name in one.runs)),
            np.concatenate([chosen[:, :1], *(one.labels for one in given)], 1),
            combine,
        ),
    }


def measure_and(runs: Runs, probe: AttributeProbe, c: Questions, folder: pathlib.Path) -> Found:
    """Success rates of each factor and of all together, for single factors and all products."""
    names = tuple(runs)
    wanted = wanted_of_and(c.num, classes_of(runs), names)
    heads = ''.join(f'{label:>{COLUMN}}' for label in names)
    lines = [
        f'{"energy":<54}{heads}  all asked   share of {c.num} samples that show what was wanted; '
        '* = asked for'
    ]
    rows: dict[str, dict[str, Any]] = {}
    rows['real images'] = real = chance(probe, runs['class'][0].test, wanted)
    cells = ''.join(f'{100 * real[label]:>{COLUMN - 2}.0f}  ' for label in names)
    lines.append(f'{"(real test images)":<54}{cells}{100 * real["asked"]:>6.1f} %')
    for labels in (
        chosen
        for size in range(1, len(names) + 1)
        for chosen in itertools.combinations(names, size)
    ):
        for way, given in ways_of_and(labels, wanted).items():
            joined = ' AND '.join(labels)
            name = joined if way == 'product' else f'{joined}, by {way}'
            images = sample(runs, given.runs, given.combine, given.labels)
            shown = probe(images)
            hit = {label: shown[label] == wanted[label] for label in names}
            every = np.all([hit[label] for label in labels], 0)
            rows[name] = {
                **{label: float(hit[label].mean()) for label in names},
                'asked': float(every.mean()),
                'interval': share_interval(float(every.mean()), c.num),
            }
            cells = ''.join(
                f'{100 * hit[label].mean():>{COLUMN - 2}.0f}{"*" if label in labels else " "} '
                for label in names
            )
            lines.append(f'{name:<54}{cells}{shares(rows[name], "asked")}')
            file = name.replace(' ', '_').replace(',', '').lower()
            save_grid(folder / f'{file}.png', Grid(images[:100], 10))
    return {'and': rows}, lines


def chance(
    probe: AttributeProbe, test: Examples, wanted: dict[str, np.ndarray]
) -> dict[str, float]:
    """How often real test images, drawn at random, show what was wanted: the success rate of an
    energy that ignores it."""
    shown = probe(test.x)
    hit = {label: shown[label][:, None] == wanted[label] for label in wanted}
    return {
        **{label: float(hits.mean()) for label, hits in hit.items()},
        'asked': float(np.all(list(hit.values()), 0).mean()),
    }


def measure_or(runs: Runs, probe: AttributeProbe, c: Questions, folder: pathlib.Path) -> Found:
    """Mixtures of two classes: how many samples show either, and how the two share them."""
    rows: dict[str, dict[str, float]] = {}
    lines, num = [''], c.num
    combine = partial(composition.any_of, sharpness=c.sharpness)
    pairs = [pair for pair in PAIRS if max(pair) < classes_of(runs)]
    if not pairs:
        return {'or': rows}, []
    wanted = np.repeat(pairs, num, 0)
    wanted[1::2] = wanted[1::2, ::-1]  # chains may begin at their first label: both in turn
    drawn = sample(runs, ('class', 'class'), combine, wanted)
    drawn = drawn.reshape(len(pairs), num, *drawn.shape[1:])
    for (a, b), images in zip(pairs, drawn):
        shown = probe(images)['class']
        rows[f'{a} OR {b}'] = {
            'either': float(np.isin(shown, (a, b)).mean()),
            'first': float((shown == a).mean()),
        }
        lines.append(
            f'{f"class {a} OR class {b}":<28}{100 * np.isin(shown, (a, b)).mean():>6.1f} % show'
            f' either, {100 * (shown == a).mean():.1f} % the {a}'
        )
        save_grid(folder / f'{a}_or_{b}.png', Grid(images[:100], 10))
    return {'or': rows}, lines


def measure_not(runs: Runs, probe: AttributeProbe, c: Questions, folder: pathlib.Path) -> Found:
    """A class without the high or low third of an attribute, beside the class alone. Steps are
    those of `composition.divided`: half as long for the difference."""
    rows, lines, classes = {}, [''], np.arange(c.num) % classes_of(runs)
    alone = sample(runs, ('class',), composition.all_of, classes[:, None])
    for label, unwanted in itertools.product(c.attributes, (2, 0)):
        word = LEVELS[label][unwanted]
        given = conditions(label, np.full(c.num, unwanted))
        pair = np.stack([classes, given.labels[:, 0]], 1)

        def other_labels(first, one, *rest):
            return composition.all_of(first, composition.posterior(rest, [one]))

        ways = {
            'difference': Way(
                ('class', label), pair, partial(composition.without, weight=c.not_weight)
            ),
            'conditions': Way(
                ('class', *given.runs),
                np.concatenate([classes[:, None], given.labels], 1),
                other_labels,
            ),
        }
        row: dict[str, dict[str, Any]] = {}
        drawn = {'alone': alone} | {
            way: sample(runs, asked.runs, asked.combine, asked.labels)
            for way, asked in ways.items()
        }
        for way, images in drawn.items():
            shown = probe(images)
            is_unwanted = shown[label] == unwanted
            row[way] = {
                'unwanted': float(is_unwanted.mean()),
                'interval': share_interval(float(is_unwanted.mean()), c.num),
                'class': float((shown['class'] == classes).mean()),
            }
            lines.append(
                f'{f"class NOT {word}, {way}":<40}{shares(row[way], "unwanted")} are {word}, class '
                f'right in {100 * row[way]["class"]:.1f} %'
            )
            if way != 'alone':
                save_grid(folder / f'not_{word}_{way}.png', Grid(images[:100], 10))
        rows[f'NOT {word}'] = row
    return {'not': rows}, lines


def shares(row: Mapping[str, Any], name: str) -> str:
    """A share with its interval, in per cent."""
    low, high = row['interval']
    return f'{100 * row[name]:>6.1f} % [{100 * low:.0f}, {100 * high:.0f}]'


def check(config: Settings) -> None:
    """Refuse, before any training, runs that cannot be composed. Raises: InputError."""
    settings.check(config)
    if isinstance(config.run, IcdSettings) and not config.run.loss.conditional:
        raise InputError('--config.run.loss.conditional must be true')
    if config.run.data.label != 'class':
        raise InputError(
            '--config.run.data.label is set by the study: name attributes by '
            '--config.compose.attributes'
        )
    if config.run.data.leave_out:
        raise InputError(
            '--config.run.data.leave_out must be (): the compositions use all ten classes'
        )


def run(module: ModuleType, values: Any) -> None:
    """Train, compose, measure, write and print. Args: module: of the runs' experiment."""
    workdir, config = pathlib.Path(values.workdir), values.config
    check(config)
    runs = train(module, workdir, config)
    probe = AttributeProbe(runs['class'][0].train, config.compose.attributes)
    folder = workdir / 'samples'
    found: dict[str, Any] = {}
    lines: list[str] = []
    for measure in (measure_and, measure_or, measure_not):
        metrics, text = measure(runs, probe, config.compose, folder)
        found |= metrics
        lines += text
    write_json(workdir / 'composition.json', found)
    (workdir / 'composition.txt').write_text('\n'.join(lines) + '\n')
    update_summary(workdir, {'composition': found, 'finished': True})
    print('\n'.join(lines))
