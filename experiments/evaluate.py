"""Evaluate any run: python -m experiments.evaluate --workdir=DIR [--ood=NAME=DATA ...]

Accuracy, calibration, out-of-distribution detection, fresh and buffer samples, judged. Writes evaluation.json, evaluation.txt (the same,
with the protocol beside each figure), reliability.png, scores.png, curves.png and samples/*.png into the workdir, and the main figures into
its summary.json. NAME=DATA adds an out-of-distribution set: rotated, inverted, noise, mixed (changes of the test set), npz:FILE, folder:FOLDER
or tfds:NAME[@FOLDER]; NAME= alone removes one of the experiment's own.
"""
import pathlib
import time

import jax
import numpy as np
from absl import flags

from ebm_jax.apply.sample import sample
from ebm_jax.errors import InputError
from ebm_jax.evaluate import calibration, ood, predict, report, samples
from ebm_jax.record import image_grid, save_grid, update_summary, write_json
from ebm_jax.types import UNLABELLED
from experiments import launch
from experiments.parts import averaged, buffer_picture, outsiders

SCORES = {'log_px': 'log p(x) + log Z = logsumexp_c f(x)[c]', 'max_py': 'max_y p(y|x)', 'grad_norm': '-|grad_x log p(x)|'}


def define(values):
    flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
    flags.DEFINE_multi_string('ood', [], 'NAME=DATA, an out-of-distribution set; NAME= removes one.', flag_values=values)
    flags.DEFINE_integer('limit', 10_000, 'Examples at most of each out-of-distribution set.', 1, flag_values=values)
    flags.DEFINE_integer('fresh_per_class', 50, 'Fresh conditional samples of each class.', 2, flag_values=values)
    flags.DEFINE_integer('resamples', 200, 'Bootstrap resamples.', 2, flag_values=values)
    flags.mark_flag_as_required('workdir', values)


def run(values):
    began = time.time()
    workdir = pathlib.Path(values.workdir)
    config, parts, state = launch.restore(workdir)
    outside = {name: outsiders(spec, parts.test) for name, spec in requested(config, values.ood).items()}
    found = {'step': int(state.step)}
    lines = [f'Evaluation of {workdir}, step {int(state.step)}', '']
    for section in (evaluate_classifier, evaluate_detection, evaluate_samples):
        figures, text = section(workdir, config, parts, state, outside, values)
        found.update(figures)
        lines += [*text, '']
    report.curves(workdir / 'curves.png', workdir / 'metrics.jsonl',
                  [['s_positives', 's_negatives'], ['grad_norm/positives', 'grad_norm/negatives'], ['accuracy', 'test_accuracy']])
    found['evaluation_seconds'] = round(time.time() - began, 1)
    write_json(workdir / 'evaluation.json', found)
    (workdir / 'evaluation.txt').write_text('\n'.join(lines))
    summary = {key: found[key] for key in ('test_accuracy', 'ece', 'conditional_sample_accuracy', 'conditional_sample_diversity')}
    summary['ood_auroc'] = {name: {score: figures['auroc'] for score, figures in by_score.items()} for name, by_score in found['ood'].items()}
    update_summary(workdir, summary)
    print('\n'.join(lines))


def requested(config, additions):
    """The experiment's out-of-distribution sets, with the user's NAME=DATA on top."""
    sets = dict(config.ood)
    for addition in additions:
        name, equals, spec = addition.partition('=')
        if not name or not equals:
            raise InputError(f'--ood={addition} must look like NAME=DATA')
        sets[name] = spec
    return {name: spec for name, spec in sets.items() if spec}


def evaluate_classifier(workdir, config, parts, state, outside, values):
    logits = predict.over(parts.predict, averaged(state), parts.test).logits
    accuracy, ece = calibration.accuracy(logits, parts.test.y), calibration.expected_calibration_error(logits, parts.test.y)
    report.reliability_plot(workdir / 'reliability.png', *calibration.reliability(logits, parts.test.y), ece)
    noise = f'input noise N(0, {config.data.noise:g}^2) as in training'
    return {'test_accuracy': accuracy, 'ece': ece}, [
        f'test accuracy  {100 * accuracy:6.2f} %   {len(logits):,} examples of {parts.test.name}, {noise}; moving average of the parameters',
        f'ECE            {100 * ece:6.2f} %   20 equal bins of max p(y|x), the same examples; reliability.png']


def evaluate_detection(workdir, config, parts, state, outside, values):
    inside = predict.over(parts.predict, averaged(state), parts.test)
    found, lines, histogram = {}, ['Out-of-distribution detection against the test set (positive class), higher score = more familiar.',
                                   f'AUROC with a {95} % bootstrap interval ({values.resamples} resamples of both sets), AUPR, and FPR at 95 % TPR.',
                                   *(f'  {score}: {meaning}' for score, meaning in SCORES.items()),
                                   f'{"set":<24}{"examples":>9}  {"score":<10}{"AUROC":>7}  {"interval":<16}{"AUPR":>6}{"FPR95":>7}'], {}
    for name, examples in outside.items():
        examples = examples._replace(x=examples.x[:values.limit], y=examples.y[:values.limit])
        scores = predict.over(parts.predict, averaged(state), examples)
        histogram[name] = scores.log_px
        found[name] = {}
        for score in SCORES:
            pair = getattr(inside, score), getattr(scores, score)
            figures = ood.detection(*pair)
            interval = ood.bootstrap_interval(*pair, resamples=values.resamples)
            found[name][score] = {**figures, 'interval': interval}
            low, high = interval['auroc']
            lines.append(f'{name:<24}{len(examples.x):>9,}  {score:<10}{figures["auroc"]:>7.3f}  [{low:.3f}, {high:.3f}]  '
                         f'{figures["aupr"]:>6.3f}{figures["fpr95"]:>7.3f}')
    if outside:
        report.score_histograms(workdir / 'scores.png', inside.log_px, histogram, 'log p(x) + log Z')
    return {'ood': found}, lines


def evaluate_samples(workdir, config, parts, state, outside, values):
    classes = parts.train.num_classes
    labels = np.repeat(np.arange(classes), values.fresh_per_class)
    draw = lambda key, labels, what: sample(jax.random.key(key), parts.energy_fn, averaged(state), parts.kernel, parts.start, labels,
                                            parts.fresh_steps, description=what)
    conditional = draw(1, labels, 'fresh conditional samples')
    unconditional = draw(2, np.full(100, UNLABELLED), 'fresh samples')
    judge = samples.independent_judge(parts.train)
    judge_accuracy = samples.agreement(judge, parts.test.x, parts.test.y)
    recognised = samples.agreement(judge, conditional, labels)
    diversity, by_class = samples.diversity(conditional, labels, parts.train)
    shown = min(10, values.fresh_per_class)
    columns = conditional.reshape(classes, -1, *conditional.shape[1:])[:, :shown].swapaxes(0, 1).reshape(-1, *conditional.shape[1:])
    save_grid(workdir / 'samples' / 'fresh_conditional.png', image_grid(columns, classes))
    save_grid(workdir / 'samples' / 'fresh_unconditional.png', image_grid(unconditional, 10))
    save_grid(workdir / 'samples' / 'buffer.png', image_grid(*buffer_picture(state, classes)))
    save_grid(workdir / 'samples' / 'data.png', image_grid(parts.train.x[:100] / 127.5 - 1, 10))
    figures = {'conditional_sample_accuracy': recognised, 'conditional_sample_diversity': diversity,
               'conditional_sample_diversity_by_class': by_class, 'judge_accuracy': judge_accuracy}
    return figures, [
        f'Fresh chains: {parts.fresh_steps} steps from the start distribution, temperature and step as configured (config.fresh, config.sampler).',
        f'conditional samples recognised  {100 * recognised:6.2f} %   {len(labels)} fresh samples, {values.fresh_per_class} of each class, judged by a '
        f'support vector machine fitted on the real training images (its own test accuracy: {100 * judge_accuracy:.2f} %)',
        f'diversity within a class        {diversity:6.2f}     mean pairwise distance over that of real images; smallest class '
        f'{min(by_class.values()):.2f}',
        'Grids: samples/fresh_conditional.png, fresh_unconditional.png, buffer.png (chains of the training buffer), data.png (real images)']


if __name__ == '__main__':
    launch.main(run, define)
