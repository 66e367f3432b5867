"""Evaluate any run: python -m experiments.evaluate --workdir=DIR [--ood=NAME=DATA ...]

Accuracy and calibration (of classifiers), out-of-distribution detection, fresh samples, whether
they are recognised, and their distance to the data. Writes evaluation.json, evaluation.txt (the
same, with the protocol of each metric), scores.png, curves.png, samples/*.png (and
reliability.png) into the workdir, and the main metrics into its summary.json. report.html shows it
all on one page.

NAME=DATA adds an out-of-distribution set: rotated, inverted, noise, mixed (changes of the test
set), letters (printed), npz:FILE, folder:FOLDER or tfds:NAME[@FOLDER]; NAME= alone removes one.
Names near/NAME and far/NAME make groups whose means are reported; --ood_suite=FILE reads groups
from a file. Images of another shape are resized. The run's own sets
(classes left out of training; for speech also noise, babble and speakers left out) are included by
default. Distances are in the features of a classifier trained here on the run's data
(WORKDIR/extractor.npz, or --extractor=FILE to share one); --inception=FILE adds the true FID
and the Inception Score.

--suite=full adds accuracy under attack (APGD), log Z and bits per dimension, and chains 100 times
as long as in training. Each of these is kept in WORKDIR/evaluation/ as soon as it is done, so an
evaluation that was stopped goes on where it was.
"""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

from absl import flags

from ebm_jax.errors import ChainsDiverged, InputError
from ebm_jax.evaluate import attacks, distance, extractor, predict
from ebm_jax.evaluate.extractor import Extractor
from ebm_jax.record import read_json, update_summary, write_json
from ebm_jax.train import TrainState
from experiments.common import launch, report, runs
from experiments.common.experiment import Experiment
from experiments.common.section import Section
from experiments.common.sources import ood_dataset, ood_names, ood_suite
from experiments.evaluations import fresh_samples, full, standard
from experiments.evaluations.full import say

OF_FULL = (
    'radii_l2',
    'radii_linf',
    'attacked',
    'attack_steps',
    'refine',
    'long',
    'chains',
    'bridges',
)


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
    flags.DEFINE_string(
        'data', None, 'Data of a run that was trained from Python, as digits.', flag_values=values
    )
    flags.DEFINE_multi_string(
        'ood', [], 'NAME=DATA, an out-of-distribution set; NAME= removes one.', flag_values=values
    )
    flags.DEFINE_string(
        'ood_suite',
        None,
        'TOML file with tables [near] and [far] of lines NAME = "DATA".',
        flag_values=values,
    )
    flags.DEFINE_integer(
        'limit',
        10_000,
        'Maximum number of examples of each out-of-distribution set.',
        1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        'fresh_per_class',
        50,
        'Fresh samples of each class; an unconditional model draws as many in total.',
        2,
        flag_values=values,
    )
    flags.DEFINE_integer('resamples', 200, 'Bootstrap resamples.', 2, flag_values=values)
    flags.DEFINE_string(
        'extractor',
        None,
        'File of the classifier in whose features distances are measured.',
        flag_values=values,
    )
    flags.DEFINE_string(
        'inception',
        None,
        'FID Inception weights, the .pth of pytorch-fid as it is, see docs/howto/evaluate.md.',
        flag_values=values,
    )
    flags.DEFINE_enum(
        'suite',
        'standard',
        ['standard', 'full'],
        'full: also attacks, log Z and long chains; parts that are done are kept.',
        flag_values=values,
    )
    flags.DEFINE_list(
        'radii_l2', ['.25', '.5', '1'], 'Of L2 attacks, pixels in [0, 1].', flag_values=values
    )
    flags.DEFINE_list(
        'radii_linf', ['.03', '.1', '.2'], 'Of Linf attacks, pixels in [0, 1].', flag_values=values
    )
    flags.DEFINE_integer('attacked', 500, 'Test examples to attack.', 1, flag_values=values)
    flags.DEFINE_integer('attack_steps', 100, 'Steps of each attack.', 1, flag_values=values)
    flags.DEFINE_integer(
        'refine', 0, 'Langevin steps before classifying, also attacked.', 0, flag_values=values
    )
    flags.DEFINE_integer(
        'long', 100, 'Long chains are this many times as long.', 1, flag_values=values
    )
    flags.DEFINE_integer('chains', 128, 'Chains that estimate log Z.', 2, flag_values=values)
    flags.DEFINE_integer('bridges', 1000, 'Bridges of log Z.', 1, flag_values=values)
    flags.mark_flag_as_required('workdir', values)


def run(values: Any) -> None:
    """Evaluate, write and print."""
    began = time.time()
    workdir = pathlib.Path(values.workdir)
    check_suite(values)
    radii = {
        norm: sorted(launch.numbers(values, f'radii_{norm}', above=0)) for norm in attacks.NORMS
    }
    _, experiment, state = runs.restore(workdir, values.data)
    suite = ood_suite(values.ood_suite) if values.ood_suite else {}
    requested = requested_ood(experiment, tuple(values.ood), suite)
    outside = {name: ood_dataset(spec, experiment.datasets) for name, spec in requested.items()}
    extractors = extractors_of(workdir, experiment, values)
    say('scores of the test set')
    inside = predict.predict_dataset(experiment.predict, state.eval_params, experiment.test)
    say('fresh samples')
    of_samples = sections_of_samples(
        workdir, experiment, state, extractors, values.fresh_per_class, values.resamples
    )
    sections = []
    if experiment.model.classifier is not None:
        sections.append(standard.classification(workdir, experiment, state, inside))
    say('out-of-distribution sets')
    detection = standard.detection(
        workdir,
        experiment,
        state,
        inside,
        outside,
        limit=values.limit,
        resamples=values.resamples,
    )
    sections += [detection, *of_samples]
    for measure in experiment.evaluations:
        function: Any = getattr(measure, 'func', measure)
        name = function.__name__.replace('_', ' ')
        say(name)
        try:
            sections.append(measure(workdir, experiment, state))
        except ChainsDiverged as error:
            sections.append(Section({}, [f'Not measured, {name}: {error}']))
    if values.suite == 'full':
        sections += full.measure(
            workdir,
            experiment,
            state,
            full.FullSuite(
                radii=radii,
                attacked=values.attacked,
                attack_steps=values.attack_steps,
                refine=values.refine,
                times=values.long,
                chains=values.chains,
                bridges=values.bridges,
            ),
        )
    step = int(state.step)
    found: dict[str, Any] = {'step': step}
    lines = [f'Evaluation of {workdir}, step {step}']
    for section in sections:
        found.update(section.metrics)
        lines += ['', *section.lines] if section.lines else []
    found['intervals'] = {
        name: list(interval) for section in sections for name, interval in section.intervals.items()
    }
    found['shown'] = [shown._asdict() for section in sections for shown in section.shown]
    found['evaluation_seconds'] = round(time.time() - began, 1)
    # metrics of another step that are not measured now would be taken for those of this one
    earlier, _ = read_json(workdir / 'evaluation.json', {})
    old = summary_of(earlier) if earlier and earlier.get('step') != step else {}
    write_json(workdir / 'evaluation.json', found)
    (workdir / 'evaluation.txt').write_text('\n'.join(lines) + '\n')
    update_summary(workdir, summary_of(found), without=old)
    print('\n'.join(lines))
    print(f'\nLook at {report.write(workdir)}')


def check_suite(values: Any) -> None:
    """Raises: InputError for flags of the full suite without it."""
    given = [name for name in OF_FULL if values[name].present]
    if given and values.suite != 'full':
        raise InputError(f'--{given[0]} belongs to the full suite: add --suite=full')


def sections_of_samples(
    workdir: pathlib.Path,
    experiment: Experiment,
    state: TrainState,
    extractors: list[Extractor],
    per_class: int,
    resamples: int,
) -> list[Section]:
    """Fresh samples: grids, moving chains, distances; or a line that says that chains diverge."""
    found = []
    try:
        fresh = fresh_samples.draw(experiment, state, per_class)
        found.append(fresh_samples.grids(workdir, experiment, state, fresh))
        found.append(fresh_samples.distances(experiment, fresh, extractors, resamples))
        found.append(fresh_samples.chains_at_work(workdir, experiment, state))
    except ChainsDiverged as error:
        what = 'Moving chains are not shown' if found else 'Fresh samples are not measured'
        found.append(Section({}, [f'{what}: {error}']))
    return found


def summary_of(found: dict[str, Any]) -> dict[str, Any]:
    """The main metrics, under stable names."""
    plain = (int, float, type(None))
    left_out = ('step', 'reference_classifier_accuracy')
    summary: dict[str, Any] = {
        name: value
        for name, value in found.items()
        if isinstance(value, plain) and name not in left_out
    }
    summary['evaluated_step'] = found['step']
    nested = ('reconstruction_mse', 'denoise', 'denoise_babble')
    for name in (*nested, 'robust_accuracy', 'refined_robust_accuracy'):
        if name in found:
            summary[name] = found[name]
    if found.get('ood_groups'):
        summary['ood'] = {
            group: {score: metrics['auroc'] for score, metrics in scores.items()}
            for group, scores in found['ood_groups'].items()
        }
    summary['ood_auroc'] = {
        name: {score: metrics['auroc'] for score, metrics in scores.items()}
        for name, scores in found.get('ood', {}).items()
    }
    for name in ('sample_distance', 'fid'):
        if name in found:
            summary[name] = distance_summary(found[name], found['stages'])
    return summary


def distance_summary(table: dict[str, Any], stages: dict[str, str]) -> dict[str, Any]:
    """The distances of fresh samples, and of their stages."""

    def values(row):
        return {
            name: table[row][name]['value'] for name in distance.DISTANCES if name in table[row]
        }

    stage_values = {name: values(row) for name, row in stages.items()}
    if 'inception_score' in table:
        stage_values['inception_score'] = table['inception_score']['fresh']
    return values('fresh') | {'n': table['n'], 'extractor': table['extractor']} | stage_values


def requested_ood(
    experiment: Experiment, additions: tuple[str, ...], suite: Mapping[str, str]
) -> dict[str, str]:
    """The experiment's out-of-distribution sets and the run's own, with a suite and the user's
    NAME=DATA on top."""
    sets = dict(experiment.ood) | {name: name for name in experiment.datasets.extra_ood}
    sets |= dict(suite) | ood_names(additions, '--ood')
    return {name: spec for name, spec in sets.items() if spec}


def extractors_of(workdir: pathlib.Path, experiment: Experiment, values: Any) -> list[Extractor]:
    """The extractors to measure in, the data set's own first; read or trained before anything else
    that takes long."""
    # read first, since the other may have to be trained
    true_fid = [extractor.inception_extractor(values.inception)] if values.inception else []
    file = values.extractor or workdir / 'extractor.npz'
    return [extractor.classifier_extractor(experiment.train, file), *true_fid]


if __name__ == '__main__':
    launch.main(run, define, __doc__)
