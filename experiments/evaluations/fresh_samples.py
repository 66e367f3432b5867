"""What evaluate measures of fresh samples: are they recognised, how varied are they, how far from
the data."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from ebm_jax import data
from ebm_jax.evaluate import distance, inception, samples
from ebm_jax.evaluate.extractor import Extractor
from ebm_jax.images import as_float, image_grid, save_grid
from ebm_jax.train import TrainState
from ebm_jax.types import UNCONDITIONAL
from experiments.common.experiment import Experiment
from experiments.evaluations.standard import Section


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
    classes, sampling = experiment.train.num_classes, experiment.model.spec.sampling
    shown: dict[str, Any] = {}
    if experiment.recipe.pictures is not None:
        shown |= experiment.recipe.pictures(state)
    shown['data'] = experiment.model.pictures(as_float(data.subsample(experiment.train, 100).x)), 10
    moved = ''
    if sampling.transition:
        moved = f', augmentation every {sampling.every} steps except in the last {sampling.plain}'
    begin = 'generator' if experiment.stages else 'initial distribution'
    numbers = ', '.join(
        f'{name.replace("_", " ")} {value:g}'
        for name, value in sampling.kernel.arguments.items()
        if isinstance(value, float)
    )
    lines = [
        f'Fresh chains: {experiment.model.num_steps()} {sampling.kernel.name} steps of size '
        f'{sampling.step_size:g} from the {begin}, {numbers}{moved}.'
    ]
    metrics: dict[str, Any] = {}
    if fresh.unconditional is not None:
        shown['fresh_unconditional'] = experiment.model.pictures(fresh.unconditional[:100]), 10
    if fresh.conditional is not None:
        metrics, more = recognition(experiment, fresh.conditional, fresh.labels)
        lines += more
        in_columns = np.arange(len(fresh.labels)).reshape(classes, -1)[:, :10].T.reshape(-1)
        images = experiment.model.pictures(fresh.conditional[in_columns])
        shown['fresh_conditional'] = images, classes
    for name, (images, columns) in shown.items():
        save_grid(workdir / 'samples' / f'{name}.png', image_grid(images, columns))
    lines.append('Grids in samples/: ' + ', '.join(f'{name}.png' for name in sorted(shown)))
    return metrics, lines


def recognition(experiment: Experiment, images: np.ndarray, labels: np.ndarray) -> Section:
    """Do conditional samples show what was asked for, and how much do they differ?"""
    train, test = experiment.train, experiment.test
    classifier = samples.fit_reference_classifier(train)
    recognised = samples.recognition_accuracy(classifier, images, labels)
    own = samples.recognition_accuracy(classifier, test.x, test.y)
    diversity, by_class = samples.diversity(images, labels, train)
    return {
        'conditional_sample_accuracy': recognised,
        'conditional_sample_diversity': diversity,
        'conditional_sample_diversity_by_class': by_class,
        'reference_classifier_accuracy': own,
    }, [
        f'conditional samples recognised  {100 * recognised:6.2f} %   {len(labels)} fresh samples, '
        f'{len(labels) // train.num_classes} of each class, classified by a support vector machine '
        f'fitted on real training images (its own test accuracy: {100 * own:.2f} %)',
        f'diversity within a class        {diversity:6.2f}     mean pairwise distance over that of '
        f'real images of the class; smallest class {min(by_class.values()):.2f}',
    ]


def distances(
    experiment: Experiment, fresh: FreshSamples, extractors: Sequence[Extractor], resamples: int
) -> Section:
    """How far fresh samples are from the data, compared with reference points; class coverage and
    confidence."""
    images = dict(fresh.stages) | {'fresh': fresh.main}
    reference, points = distance.reference_points(
        experiment.train, experiment.test, len(fresh.main)
    )
    found: dict[str, Any] = {}
    lines: list[str] = []
    for extractor in extractors:
        is_fid = extractor.confidence is None
        features = {name: extractor.features(x) for name, x in (images | points).items()}
        measure = distance.distances_to(extractor.features(reference), halves=min(resamples, 50))
        bar = tqdm(features.items(), desc='distances', unit='set', delay=2, leave=False)
        table = {name: measure(x) for name, x in bar}
        found['fid' if is_fid else 'sample_distance'] = {
            **table,
            'n': len(fresh.main),
            'extractor': extractor.hash,
            'reference': len(reference),
        }
        frechet, kernel = ('FID', 'KID') if is_fid else ('Frechet', 'kernel')
        lines += [
            f'{frechet} and {kernel} distance in the features of {extractor.name} (hash '
            f'{extractor.hash}), against {len(reference):,} training images; train, test, shifted, '
            'noise are reference points:',
            f'{"set":<16}{"images":>7}{frechet:>12}  {"95 % interval":<20}{kernel:>12}  '
            '95 % interval',
        ]
        for name, row in table.items():
            cells = [_cell(row[name]) for name in ('frechet', 'kernel')]
            lines.append(f'{name:<16}{len(features[name]):>7,}{"".join(cells)}')
        if is_fid and len(fresh.main) < inception.FEATURES:
            lines.append(
                f'fewer images than the {inception.FEATURES:,} features: not comparable with '
                'published FIDs (--fresh_per_class)'
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
        f'{confidence:.3f} (test images: {real.max(1).mean():.3f})'
    )
    return found, lines


def _cell(row):
    low, high = row['interval']
    return f'{row["value"]:>12.4g}  {f"[{low:.4g}, {high:.4g}]":<20}'
