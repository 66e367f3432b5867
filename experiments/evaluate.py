"""Evaluate any run: python -m experiments.evaluate --workdir=DIR [--ood=NAME=DATA ...]

Accuracy, calibration, out-of-distribution detection, fresh and buffer samples, judged. Writes evaluation.json, evaluation.txt (the
same, with the protocol beside each figure), reliability.png, scores.png, curves.png and samples/*.png into the workdir, and the main
figures into its summary.json. NAME=DATA adds an out-of-distribution set: rotated, inverted, noise, mixed (changes of the test set),
npz:FILE, folder:FOLDER or tfds:NAME[@FOLDER]; NAME= alone removes one of the experiment's own.
"""
import pathlib
import time

import jax
import numpy as np
from absl import flags

from ebm_jax import data
from ebm_jax.apply.sample import sample
from ebm_jax.errors import InputError
from ebm_jax.evaluate import calibration, ood, predict, report, samples
from ebm_jax.record import image_grid, save_grid, update_summary, write_json
from ebm_jax.types import UNLABELLED
from experiments import launch
from experiments.parts import averaged, buffer_picture, outsiders

CURVES = [['s_positives', 's_negatives'], ['grad_norm/positives', 'grad_norm/negatives'], ['effective_sample_size'],
          ['accuracy', 'test_accuracy']]
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
    inside = predict.over(parts.predict, averaged(state), parts.test)
    found, lines = {'step': int(state.step)}, [f'Evaluation of {workdir}, step {int(state.step)}']
    for figures, text in (classifier(workdir, config, parts, state, inside), detection(workdir, parts, state, inside, outside, values),
                          samples_of(workdir, config, parts, state, values)):
        found.update(figures)
        lines += ['', *text]
    report.curves(workdir / 'curves.png', workdir / 'metrics.jsonl', CURVES)
    found['evaluation_seconds'] = round(time.time() - began, 1)
    write_json(workdir / 'evaluation.json', found)
    (workdir / 'evaluation.txt').write_text('\n'.join(lines) + '\n')
    summary = {key: found[key] for key in ('test_accuracy', 'ece', 'conditional_sample_accuracy', 'conditional_sample_diversity')}
    summary['ood_auroc'] = {name: {score: by_score[score]['auroc'] for score in SCORES} for name, by_score in found['ood'].items()}
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


def classifier(workdir, config, parts, state, inside):
    """Accuracy and calibration on the test set."""
    logits, labels = inside.logits, parts.test.y
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
             *(f'  {score}: {meaning}' for score, meaning in SCORES.items()),
             f'{"set":<16}{"examples":>9}  {"score":<10}{"AUROC":>7}  {"interval":<16}{"AUPR":>6}{"FPR95":>7}']
    found, log_px = {}, {}
    for name, examples in outside.items():
        examples = data.some(examples, values.limit)
        scores = predict.over(parts.predict, averaged(state), examples, seed=1)
        log_px[name], found[name] = scores.log_px, {}
        for score in SCORES:
            pair = getattr(inside, score), getattr(scores, score)
            figures = ood.detection(*pair)
            interval = ood.bootstrap_interval(*pair, resamples=values.resamples)
            found[name][score] = {**figures, 'interval': interval, 'examples': len(examples.x)}
            lines.append(f'{name:<16}{len(examples.x):>9,}  {score:<10}{figures["auroc"]:>7.3f}  '
                         f'[{interval["auroc"][0]:.3f}, {interval["auroc"][1]:.3f}]  {figures["aupr"]:>6.3f}{figures["fpr95"]:>7.3f}')
    if outside:
        report.score_histograms(workdir / 'scores.png', inside.log_px, log_px, 'log p(x) + log Z')
    return {'ood': found}, lines


def samples_of(workdir, config, parts, state, values):
    """Fresh and buffer samples as grids, the conditional ones judged by an independent classifier."""
    classes, num, c = parts.train.num_classes, values.fresh_per_class, config.fresh
    labels = np.repeat(np.arange(classes), num)
    fresh = sample(jax.random.key(1), parts.energy_fn, averaged(state), parts.kernel, parts.start,
                   np.concatenate([labels, np.full(100, UNLABELLED)]), parts.fresh_steps, description='fresh samples')
    conditional, unconditional = fresh[:len(labels)], fresh[len(labels):]
    judge = samples.independent_judge(parts.train)
    recognised = samples.agreement(judge, conditional, labels)
    own = samples.agreement(judge, parts.test.x, parts.test.y)
    diversity, by_class = samples.diversity(conditional, labels, parts.train)
    in_columns = np.arange(len(labels)).reshape(classes, num)[:, :10].T.reshape(-1)
    for name, images, columns in (('fresh_conditional', conditional[in_columns], classes), ('fresh_unconditional', unconditional, 10),
                                  ('buffer', *buffer_picture(state, classes)), ('data', data.some(parts.train, 100).x / 127.5 - 1, 10)):
        save_grid(workdir / 'samples' / f'{name}.png', image_grid(images, columns))
    figures = {'conditional_sample_accuracy': recognised, 'conditional_sample_diversity': diversity,
               'conditional_sample_diversity_by_class': by_class, 'judge_accuracy': own}
    return figures, [
        f'Fresh chains: {parts.fresh_steps} Langevin steps of size {c.step_size:g} from the start distribution, '
        f'{"temperature" if c.noise_is_temperature else "noise"} {c.noise:g}.',
        f'conditional samples recognised  {100 * recognised:6.2f} %   {len(labels)} fresh samples, {num} of each class, judged by a '
        f'support vector machine fitted on real training images (its own test accuracy: {100 * own:.2f} %)',
        f'diversity within a class        {diversity:6.2f}     mean pairwise distance over that of real images of the class; smallest '
        f'class {min(by_class.values()):.2f}',
        'Grids: samples/fresh_conditional.png, fresh_unconditional.png, buffer.png (chains of the training buffer), data.png (real images)']


if __name__ == '__main__':
    launch.main(run, define, __doc__)
