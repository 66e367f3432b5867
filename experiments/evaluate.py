"""Evaluate any run: python -m experiments.evaluate --workdir=DIR [--ood=NAME=DATA ...]

Accuracy and calibration (of classifiers), out-of-distribution detection, fresh samples, judged, and their distance to the
data. Writes evaluation.json, evaluation.txt (the same, with the protocol beside each figure), scores.png, curves.png, samples/*.png (and
reliability.png) into the workdir, and the main figures into its summary.json. NAME=DATA adds an out-of-distribution set: rotated,
inverted, noise, mixed (changes of the test set), npz:FILE, folder:FOLDER or tfds:NAME[@FOLDER]; NAME= alone removes one. Those that the
run has by itself (classes left out of training; of speech also noise, babble and speakers left out) are there already. Distances are in
the features of a classifier that is trained on the run's data here (WORKDIR/extractor.npz, or --extractor=FILE to share one);
--inception=FILE.npz adds the true FID.
"""
import pathlib
import time
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from ebm_jax import data
from ebm_jax.errors import InputError
from ebm_jax.evaluate import calibration, distance, extractor, inception, ood, predict, report, samples
from ebm_jax.record import image_grid, save_grid, update_summary, write_json
from ebm_jax.types import UNLABELLED
from experiments import launch
from experiments.parts import averaged, outsiders

CURVES = [['loss'], ['s_positives', 's_negatives'], ['grad_norm/positives', 'grad_norm/negatives', 'grad_norm/contrast', 'grad_norm/kl'],
          ['effective_sample_size', 'kl_entropy'], ['mse/data', 'mse/chain'], ['accuracy', 'test_accuracy']]


def define(values):
    flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
    flags.DEFINE_multi_string('ood', [], 'NAME=DATA, an out-of-distribution set; NAME= removes one.', flag_values=values)
    flags.DEFINE_integer('limit', 10_000, 'Examples at most of each out-of-distribution set.', 1, flag_values=values)
    flags.DEFINE_integer('fresh_per_class', 50, 'Fresh samples of each class; so many for each class in all where there are no classes.', 2,
                         flag_values=values)
    flags.DEFINE_integer('resamples', 200, 'Bootstrap resamples.', 2, flag_values=values)
    flags.DEFINE_string('extractor', None, 'File of the classifier whose features distances are in.', flag_values=values)
    flags.DEFINE_string('inception', None, 'FID Inception weights as .npz, see ebm_jax/evaluate/inception.py.', flag_values=values)
    flags.mark_flag_as_required('workdir', values)


def run(values):
    began = time.time()
    workdir = pathlib.Path(values.workdir)
    config, parts, state = launch.restore(workdir)
    outside = {name: outsiders(spec, parts) for name, spec in requested(config, parts, values.ood).items()}
    extractors = extractors_of(workdir, parts, values)
    inside = predict.over(parts.predict, averaged(state), parts.test)
    fresh = fresh_samples(parts, state, values.fresh_per_class)
    sections = [detection(workdir, parts, state, inside, outside, values), samples_of(workdir, parts, state, fresh),
                distances_of(parts, fresh, extractors, values.resamples)]
    if 'logits' in inside:
        sections.insert(0, classifier(workdir, config, parts, state, inside))
    sections += [figures(workdir, config, parts, state) for figures in parts.own_figures]
    found, lines = {'step': int(state.step)}, [f'Evaluation of {workdir}, step {int(state.step)}']
    for figures, text in sections:
        found.update(figures)
        lines += ['', *text] if text else []
    report.curves(workdir / 'curves.png', workdir / 'metrics.jsonl', CURVES)
    found['evaluation_seconds'] = round(time.time() - began, 1)
    write_json(workdir / 'evaluation.json', found)
    (workdir / 'evaluation.txt').write_text('\n'.join(lines) + '\n')
    update_summary(workdir, summary_of(found))
    print('\n'.join(lines))


def summary_of(found):
    """The main figures, under the names that stay."""
    plain = (int, float, type(None))
    summary = {key: value for key, value in found.items() if isinstance(value, plain) and key not in ('step', 'judge_accuracy')}
    summary |= {name: found[name] for name in ('reconstruction_mse', 'denoise', 'denoise_babble') if name in found}
    summary['ood_auroc'] = {name: {score: figures['auroc'] for score, figures in scores.items()} for name, scores in found['ood'].items()}
    for name in ('sample_distance', 'fid'):
        if name in found:
            of = found[name]
            values = lambda row, of=of: {key: of[row][key]['value'] for key in distance.DISTANCES}
            stages = {name: values(row) for name, row in found['stages'].items()}
            summary[name] = values('fresh') | {'n': of['n'], 'extractor': of['extractor']} | stages
    return summary


def requested(config, parts, additions):
    """The experiment's out-of-distribution sets and those that the run has by itself, with the user's NAME=DATA on top."""
    sets = dict(config.ood) | {name: name for name in parts.own_sets}
    for addition in additions:
        name, equals, spec = addition.partition('=')
        if not name or not equals:
            raise InputError(f'--ood={addition} must look like NAME=DATA')
        sets[name] = spec
    return {name: spec for name, spec in sets.items() if spec}


def classifier(workdir, config, parts, state, inside):
    """Accuracy and calibration on the test set."""
    logits, labels = inside['logits'], parts.test.y
    accuracy, ece = calibration.accuracy(logits, labels), calibration.expected_calibration_error(logits, labels)
    report.reliability_plot(workdir / 'reliability.png', *calibration.reliability(logits, labels), ece)
    return {'test_accuracy': accuracy, 'ece': ece}, [
        f'test accuracy  {100 * accuracy:6.2f} %   {len(logits):,} test examples of {parts.test.name}, input noise '
        f'N(0, {config.data.noise:g}^2) as in training, '
        f'{"moving average of the parameters" if state.ema_params else "parameters of the last step"}',
        f'ECE            {100 * ece:6.2f} %   20 equal bins of max p(y|x), the same examples; reliability.png']


def detection(workdir, parts, state, inside, outside, values):
    """How well each score tells the test set from the out-of-distribution sets."""
    lines = ['Out-of-distribution detection: the test set (positive class) against each set, higher score = more familiar.',
             f'AUROC with its 95 % bootstrap interval ({values.resamples} resamples of both sets), AUPR, FPR at 95 % TPR.',
             *(f'  {score}: {meaning}' for score, meaning in parts.scores.items()),
             f'{"set":<16}{"examples":>9}  {"score":<10}{"AUROC":>7}  {"interval":<16}{"AUPR":>6}{"FPR95":>7}']
    if not parts.scores:
        return {'ood': {}}, []
    found, of_main, main = {}, {}, next(iter(parts.scores))
    for name, examples in outside.items():
        examples = data.some(examples, values.limit)
        scores = predict.over(parts.predict, averaged(state), examples, seed=1)
        of_main[name], found[name] = scores[main], {}
        for score in parts.scores:
            pair = inside[score], scores[score]
            figures = ood.detection(*pair)
            interval = ood.bootstrap_interval(*pair, resamples=values.resamples)
            found[name][score] = {**figures, 'interval': interval, 'examples': len(examples.x)}
            lines.append(f'{name:<16}{len(examples.x):>9,}  {score:<10}{figures["auroc"]:>7.3f}  '
                         f'[{interval["auroc"][0]:.3f}, {interval["auroc"][1]:.3f}]  {figures["aupr"]:>6.3f}{figures["fpr95"]:>7.3f}')
    if outside:
        report.score_histograms(workdir / 'scores.png', inside[main], of_main, parts.scores[main])
    return {'ood': found}, lines


class Fresh(NamedTuple):
    """Fresh samples of a run, whose energy may know classes, or none, or both."""
    conditional: np.ndarray | None     # [classes * num, ...]
    labels: np.ndarray                 # theirs
    unconditional: np.ndarray | None
    stages: dict                       # {name: as `main`, after fewer steps}

    @property
    def main(self):
        """Those that figures without classes are taken of."""
        return self.unconditional if self.conditional is None else self.conditional


def fresh_samples(parts, state, num):
    classes = parts.train.num_classes
    labels = np.repeat(np.arange(classes), num) if parts.by_class else np.zeros(0, int)
    free = 0 if not parts.unlabelled else 100 if parts.by_class else classes * num
    asked = np.concatenate([labels, np.full(free, UNLABELLED)])
    split = lambda drawn: (drawn[:len(labels)] if parts.by_class else None, labels, drawn[len(labels):] if free else None)
    draw = lambda steps: parts.draw(jax.random.key(1), averaged(state), asked, steps)
    earlier = {name: steps for name, steps in parts.stages.items() if steps is not None}
    return Fresh(*split(draw(None)), {name: Fresh(*split(draw(steps)), {}).main for name, steps in earlier.items()})


def samples_of(workdir, parts, state, fresh):
    """Fresh samples and what training shows as grids; the conditional ones judged by an independent classifier."""
    classes, c = parts.train.num_classes, parts.fresh
    grids = parts.fit['pictures'](state) | {'data': (parts.picture(samples.as_float(data.some(parts.train, 100).x)), 10)}
    moved = f', augmentation every {c.every} steps but in the last {c.plain}' if parts.transition else ''
    lines = [f'Fresh chains: {parts.steps()} Langevin steps of size {c.step_size:g} from the '
             f'{"generator" if parts.stages else "start distribution"}, {"temperature" if c.noise_is_temperature else "noise"} '
             f'{c.noise:g}{moved}.']
    figures = {}
    if fresh.unconditional is not None:
        grids['fresh_unconditional'] = parts.picture(fresh.unconditional[:100]), 10
    if fresh.conditional is not None:
        figures, more = judged(parts, fresh.conditional, fresh.labels)
        lines += more
        in_columns = np.arange(len(fresh.labels)).reshape(classes, -1)[:, :10].T.reshape(-1)
        grids['fresh_conditional'] = parts.picture(fresh.conditional[in_columns]), classes
    for name, (images, columns) in grids.items():
        save_grid(workdir / 'samples' / f'{name}.png', image_grid(images, columns))
    return figures, [*lines, 'Grids in samples/: ' + ', '.join(f'{name}.png' for name in sorted(grids))]


def judged(parts, images, labels):
    """Do conditional samples show what was asked for, and how much do they differ?"""
    judge = samples.independent_judge(parts.train)
    recognised = samples.agreement(judge, images, labels)
    own = samples.agreement(judge, parts.test.x, parts.test.y)
    diversity, by_class = samples.diversity(images, labels, parts.train)
    figures = {'conditional_sample_accuracy': recognised, 'conditional_sample_diversity': diversity,
               'conditional_sample_diversity_by_class': by_class, 'judge_accuracy': own}
    return figures, [
        f'conditional samples recognised  {100 * recognised:6.2f} %   {len(labels)} fresh samples, '
        f'{len(labels) // parts.train.num_classes} of each class, judged by a support vector machine fitted on real training images '
        f'(its own test accuracy: {100 * own:.2f} %)',
        f'diversity within a class        {diversity:6.2f}     mean pairwise distance over that of real images of the class; smallest '
        f'class {min(by_class.values()):.2f}']


def extractors_of(workdir, parts, values):
    """The extractors to measure in, the data set's own first; read or trained before anything long starts."""
    true_fid = [extractor.of_inception(values.inception)] if values.inception else []   # first: the other may train
    return [extractor.of_classifier(parts.train, values.extractor or workdir / 'extractor.npz'), *true_fid]


def distances_of(parts, fresh, extractors, resamples):
    """How far fresh samples are from the data, beside known cases; class coverage and confidence."""
    images = fresh.stages | {'fresh': fresh.main}
    reference, cases = distance.reference_and_known_cases(parts.train, parts.test, len(fresh.main))
    found, lines = {}, []
    for by in extractors:
        features, against = {name: by.features(x) for name, x in (images | cases).items()}, by.features(reference)
        measure = distance.distances_to(against, halves=min(resamples, 50))
        table = {name: measure(x) for name, x in tqdm(features.items(), desc='distances', unit='set', delay=2, leave=False)}
        found['fid' if by.confidence is None else 'sample_distance'] = {**table, 'n': len(fresh.main), 'extractor': by.hash,
                                                                        'reference': len(reference)}
        frechet, kernel = ('FID', 'KID') if by.confidence is None else ('Frechet', 'kernel')
        lines += [f'{frechet} and {kernel} distance in the features of {by.name} (hash {by.hash}), against {len(reference):,} training '
                  'images; train, test, shifted, noise are real images that say what a figure means:',
                  f'{"set":<16}{"images":>7}{frechet:>12}  {"95 % interval":<20}{kernel:>12}  95 % interval']
        for name, row in table.items():
            cells = [f'{row[d]["value"]:>12.4g}  {"[{:.4g}, {:.4g}]".format(*row[d]["interval"]):<20}' for d in ('frechet', 'kernel')]
            lines.append(f'{name:<16}{len(features[name]):>7,}' + ''.join(cells))
        if by.confidence is None and len(fresh.main) < inception.FEATURES:
            lines.append(f'fewer images than the {inception.FEATURES:,} features: not comparable with published FIDs (--fresh_per_class)')
    free = fresh.main if fresh.unconditional is None else fresh.unconditional
    given, real = (extractors[0].confidence(x) for x in (free, cases['test']))
    covered, sure = distance.coverage(given, parts.train.y), float(given.max(1).mean())
    found |= {'class_coverage': covered, 'sample_confidence': sure,
              'stages': {name: 'fresh' if steps is None else name for name, steps in parts.stages.items()}}
    asked = ', asked for in equal numbers,' if fresh.unconditional is None else ''
    return found, [*lines, f'class coverage of {len(free)} fresh samples{asked} {covered:.3f}   classes given by the classifier above, '
                   f'exp(entropy) over that of the data; its mean confidence {sure:.3f} (test images: {real.max(1).mean():.3f})']


if __name__ == '__main__':
    launch.main(run, define, __doc__)
