"""What evaluate measures of fresh samples: are they recognised, how varied are they, how far from
the data."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm.auto import tqdm

from ebm_jax import data
from ebm_jax.evaluate import distance, samples
from ebm_jax.evaluate.extractor import Extractor
from ebm_jax.images import Grid, as_float, save_frames, save_strip
from ebm_jax.spec import FEATURES
from ebm_jax.train import TrainState
from ebm_jax.types import UNCONDITIONAL
from experiments.common.building import class_name
from experiments.common.experiment import Experiment
from experiments.common.section import SAMPLES, Section, Shown, save_shown, share_interval

FRAMES = 24  # parts of the moving picture
SCORED = 5000  # images of a part, for the Inception Score
INITIAL_WORDS = {  # the initial distribution of a model, as a reader knows it
    'uniform': 'uniform noise',
    'normal': 'normal noise',
    'bernoulli': 'random binary images',
    'class_gaussian': 'a Gaussian of the class (informative initialisation)',
}


class FreshSamples(NamedTuple):
    """Fresh samples of a run, whose model may be conditional, unconditional or both."""

    conditional: np.ndarray | None  # [classes * num, ...]
    labels: np.ndarray  # theirs
    unconditional: np.ndarray | None
    stages: Mapping[str, np.ndarray]  # {name: as `main`, after fewer steps}

    @property
    def main(self) -> np.ndarray:
        """The samples for metrics that need no labels."""
        return self.unconditional if self.conditional is None else self.conditional


def draw(experiment: Experiment, state: TrainState, num: int) -> FreshSamples:
    """num samples of each class, and 100 of p(x); or, without classes, as many of p(x)."""
    model, classes = experiment.model, experiment.train.num_classes
    labels = np.zeros(0, int)
    if model.class_conditional:
        labels = np.repeat(np.arange(classes), num)
    free = 0
    if model.unconditional:
        free = 100 if model.class_conditional else classes * num
    asked = np.concatenate([labels, np.full(free, UNCONDITIONAL)])

    def drawn(steps):
        x = model.sample(jax.random.key(1), state.eval_params, asked, steps)
        conditional = x[: len(labels)] if model.class_conditional else None
        return FreshSamples(conditional, labels, x[len(labels) :] if free else None, {})

    earlier = {name: steps for name, steps in experiment.stages.items() if steps is not None}
    stages = {name: drawn(steps).main for name, steps in earlier.items()}
    return drawn(None)._replace(stages=stages)


def grids(
    workdir: pathlib.Path, experiment: Experiment, state: TrainState, fresh: FreshSamples
) -> Section:
    """Grids of fresh samples and of the pictures of training; are conditional samples
    recognised?"""
    classes, model = experiment.train.num_classes, experiment.model
    pictures: dict[str, Grid] = {}
    if experiment.recipe is not None and experiment.recipe.pictures is not None:
        pictures |= experiment.recipe.pictures(state)
    real = model.pictures(as_float(data.subsample(experiment.train, 100).x))
    pictures['data'] = Grid(real, 10, 'Training examples.')
    lines = [f'Fresh chains: {_described(experiment)}.']
    recognised = Section({}, [])
    if fresh.unconditional is not None:
        images = model.pictures(fresh.unconditional[:100])
        caption = f'Fresh samples of p(x): {_described(experiment)}.'
        pictures['fresh_unconditional'] = Grid(images, 10, caption)
    if fresh.conditional is not None:
        recognised = recognition(experiment, fresh.conditional, fresh.labels)
        lines += recognised.lines
        images = model.pictures(fresh.conditional[_in_columns(fresh.labels, classes, 10)])
        caption = f'Fresh samples of p(x|y), one class per column: {_described(experiment)}.'
        pictures['fresh_conditional'] = Grid(images, classes, caption, _headings(model))
    # what matters most comes first in the report
    first = ('fresh_conditional', 'fresh_unconditional')
    order = sorted(pictures, key=lambda name: first.index(name) if name in first else len(first))
    shown = [
        save_shown(workdir, SAMPLES, name, name.replace('_', ' ').capitalize(), pictures[name])
        for name in order
    ]
    lines.append('Grids in samples/: ' + ', '.join(f'{name}.png' for name in sorted(pictures)))
    return Section(recognised.metrics, lines, shown, recognised.intervals)


def chains_at_work(
    workdir: pathlib.Path, experiment: Experiment, state: TrainState, per_class: int = 4
) -> Section:
    """A moving picture of fresh chains, from their initial positions to their samples."""
    model, classes = experiment.model, experiment.train.num_classes
    steps = model.num_steps()
    plan = model.transition_plan()
    moved = max(steps - plan['plain'], 0) // plan['every'] * plan['every'] if plan else 0
    parts = max(1, min(FRAMES, steps - moved))
    if not (model.has_energy and steps):
        return Section({}, [])
    conditional = model.class_conditional
    labels = np.tile(np.arange(classes), per_class) if conditional else model.labels(30)
    _, positions = model.sample(
        jax.random.key(1),
        state.eval_params,
        labels,
        trajectory=parts,
        description='chains at work',
    )
    taken = _steps_of_frames(model, steps, parts, positions.shape[1])
    columns = classes if conditional else 10
    frames = [Grid(model.pictures(positions[:, i]), columns) for i in range(positions.shape[1])]
    save_frames(workdir / 'samples' / 'chains.gif', frames)
    save_strip(workdir / 'report' / 'chains.png', frames)
    what = 'one class per column' if conditional else f'one chain per {model.spec.examples[:-1]}'
    shown = Shown(
        SAMPLES,
        'report/chains.png',
        'Chains at work',
        f'Fresh chains from their initial positions to their samples, {what}: '
        f'{_described(experiment)}.',
        [f'after {n:,} of {steps:,} steps' for n in taken],
    )
    return Section({}, [], [shown])


def _steps_of_frames(model, steps, parts, frames):
    """How many steps a chain has made at each frame of a trajectory."""
    blocks = frames - 1 - parts  # with transitions, `every` steps each
    every = model.transition_plan().get('every', 0)
    each = (steps - blocks * every) // parts
    later = [blocks * every + each * i for i in range(1, parts)]
    return [*(every * i for i in range(blocks + 1)), *later, steps]


def _in_columns(labels, classes, rows):
    """Indices that put `rows` samples of each class below each other."""
    return np.arange(len(labels)).reshape(classes, -1)[:, :rows].T.reshape(-1)


def _headings(model):
    return [class_name(model.spec.class_names, label) for label in range(model.spec.num_classes)]


def _described(experiment):
    """How fresh chains run."""
    sampling = experiment.model.spec.sampling
    moved = ''
    if sampling.transition:
        moved = f', augmentation every {sampling.every} steps except in the last {sampling.plain}'
    begin = 'the generator' if experiment.stages else INITIAL_WORDS[sampling.initial.name]
    features = experiment.model.spec.units == FEATURES
    axes = '; windows of features, time to the right, frequency upwards' if features else ''
    numbers = ', '.join(
        f'{name.replace("_", " ")} {value:g}'
        for name, value in sampling.kernel.arguments.items()
        if isinstance(value, float)
    )
    steps = experiment.model.num_steps()
    kernel = sampling.kernel.name.replace('_', ' ')
    said = f'{steps} {kernel} steps of size {sampling.step_size:g} from {begin}'
    return ', '.join(filter(None, (said, numbers))) + moved + axes


def recognition(experiment: Experiment, images: np.ndarray, labels: np.ndarray) -> Section:
    """Do conditional samples show what was asked for, and how much do they differ?"""
    train, test, what = experiment.train, experiment.test, experiment.model.spec.examples
    classifier = samples.fit_reference_classifier(train)
    recognised = samples.recognition_accuracy(classifier, images, labels)
    own = samples.recognition_accuracy(classifier, test.x, test.y)
    diversity, by_class = samples.diversity(images, labels, train)
    metrics = {
        'conditional_sample_accuracy': recognised,
        'conditional_sample_diversity': diversity,
        'conditional_sample_diversity_by_class': by_class,
        'reference_classifier_accuracy': own,
    }
    lines = [
        f'conditional samples recognised  {100 * recognised:6.2f} %   {len(labels)} fresh samples, '
        f'{len(labels) // train.num_classes} of each class, classified by a support vector machine '
        f'fitted on real training {what} (its own test accuracy: {100 * own:.2f} %)',
        f'diversity within a class        {diversity:6.2f}     mean pairwise distance over that of '
        f'real {what} of the class; smallest class {min(by_class.values()):.2f}',
    ]
    intervals = {'conditional_sample_accuracy': share_interval(recognised, len(labels))}
    return Section(metrics, lines, intervals=intervals)


def distances(
    experiment: Experiment, fresh: FreshSamples, extractors: Sequence[Extractor], resamples: int
) -> Section:
    """How far fresh samples are from the data, compared with reference points; class coverage and
    confidence."""
    images = dict(fresh.stages) | {'fresh': fresh.main}
    what = experiment.model.spec.examples
    reference, points = distance.reference_points(
        experiment.train, experiment.test, len(fresh.main)
    )
    found: dict[str, Any] = {}
    lines: list[str] = []
    for extractor in extractors:
        is_fid = extractor.confidence is None
        features = {name: extractor.features(x) for name, x in (images | points).items()}
        size = features['fresh'].shape[1]
        few = min(len(fresh.main), len(reference)) <= size  # N images: a covariance of rank N - 1
        shown = [name for name in distance.DISTANCES if not (few and name == 'frechet')]
        measure = distance.distances_to(
            extractor.features(reference), halves=min(resamples, 50), kinds=shown
        )
        bar = tqdm(features.items(), desc='distances', unit='set', delay=2, leave=False)
        table = {name: measure(x) for name, x in bar}
        found['fid' if is_fid else 'sample_distance'] = {
            **table,
            'n': len(fresh.main),
            'extractor': extractor.hash,
            'reference': len(reference),
        }
        called = ('FID', 'KID') if is_fid else ('Frechet', 'kernel')
        names = dict(zip(distance.DISTANCES, called))
        lines += [
            f'{" and ".join(names[kind] for kind in shown)} distance in the features of '
            f'{extractor.name} (hash {extractor.hash}), against {len(reference):,} training '
            f'{what}; train, test, shifted, noise are reference points:',
            f'{"set":<16}{what:>7}'
            + ''.join(f'{names[kind]:>12}  {"95 % interval":<20}' for kind in shown),
        ]
        for name, row in table.items():
            cells = [_cell(row[kind]) for kind in shown]
            lines.append(f'{name:<16}{len(features[name]):>7,}{"".join(cells)}')
        if extractor.own_classes is not None:
            score = {
                name: distance.inception_score(
                    extractor.own_classes(x), splits=max(1, len(x) // SCORED)
                )
                for name, x in features.items()
            }
            found['fid']['inception_score'] = {name: mean for name, (mean, _) in score.items()}
            lines.append(
                f'Inception Score (higher is better; parts of {SCORED:,} images and '
                'more, or all that there are; fewer score lower): '
                + ', '.join(f'{name} {mean:.2f}' for name, (mean, _) in score.items())
            )
        if few:
            lines.append(
                f'too few {what} for the {names["frechet"]} distance: {len(fresh.main):,} fresh '
                f'samples and {len(reference):,} training {what} do not determine the covariance '
                f'of {size:,} features (--fresh_per_class)'
            )
        fresh_row, train_row = table['fresh'], table['train']
        near = [kind for kind in shown if fresh_row[kind]['value'] <= train_row[kind]['value']]
        if near:
            lines.append(
                f'by the {" and ".join(names[kind] for kind in near)} distance, fresh samples are '
                f'no further from the data than as many training {what} are: with so few it does '
                'not tell them apart'
            )
    free = fresh.main if fresh.unconditional is None else fresh.unconditional
    given, real = (extractors[0].confidence(x) for x in (free, points['test']))
    coverage, confidence = distance.coverage(given, experiment.train.y), float(given.max(1).mean())
    found |= {
        'class_coverage': coverage,
        'sample_confidence': confidence,
        'stages': {
            name: 'fresh' if steps is None else name for name, steps in experiment.stages.items()
        },
    }
    asked = ', asked for in equal numbers,' if fresh.unconditional is None else ''
    lines.append(
        f'class coverage of {len(free)} fresh samples{asked} {coverage:.3f}   classes given by the '
        'classifier above, exp(entropy) over that of the data; its mean confidence '
        f'{confidence:.3f} (test {what}: {real.max(1).mean():.3f})'
    )
    intervals = {
        f'{name}.frechet': tuple(found[name]['fresh']['frechet']['interval'])
        for name in ('sample_distance', 'fid')
        if 'frechet' in found.get(name, {}).get('fresh', {})
    }
    return Section(found, lines, intervals=intervals)


def _cell(row):
    low, high = row['interval']
    return f'{row["value"]:>12.4g}  {f"[{low:.4g}, {high:.4g}]":<20}'
