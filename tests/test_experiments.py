"""The command line: a run from start to samples, and every mistake ending in one sentence and exit
code 2."""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest
from browser import opened, problems
from commands import ROOT, assert_one_sentence, command, in_process, run_in_process, succeed
from PIL import Image
from selenium.webdriver.common.keys import Keys
from tfds_sets import png, prepare

import ebm_jax
from ebm_jax import data, process
from ebm_jax.checkpoint import steps_in
from ebm_jax.errors import InputError
from ebm_jax.evaluate import extractor
from ebm_jax.images import as_uint8
from ebm_jax.record import update_summary
from ebm_jax.train import state_shapes
from ebm_jax.types import UNCONDITIONAL
from experiments import digits_st_jem
from experiments.commands import compare
from experiments.commands import compose as compose_runs
from experiments.commands import evaluate as evaluate_command
from experiments.common import building, launch, report, runs, settings, sources
from experiments.common.section import Shown
from experiments.evaluations import density, full, robustness
from experiments.studies import composing

SHARED = ROOT.parent / 'shared' / 'data'
NAMES = [
    'digits_dat',
    'digits_discrete',
    'digits_energy_matching',
    'digits_jem',
    'digits_semi_st_jem',
    'digits_st_jem',
    'mnist_st_jem',
    'cifar10_jem',
    'cifar10_st_jem',
    'cifar10_st_jem_published',
    'cifar10_st_jem_fast',
    'cifar10_small_st_jem',
    'cifar10_small_jem',
    'cifar10_small_icd',
    'cifar10_small_dual_mcmc',
    'digits_icd',
    'mnist_icd',
    'mnist_dat',
    'mnist_energy_matching',
    'mnist_semi_st_jem',
    'cifar10_icd',
    'digits_dual_mcmc',
    'mnist_dual_mcmc',
    'cifar10_dual_mcmc',
    'cifar10_dual_mcmc_published',
    'celeba64_dual_mcmc',
    'images_st_jem',
    'images_icd',
    'images_dual_mcmc',
]
SMALL = [
    '--config.steps=4',
    '--config.batch_size=16',
    '--config.log_every=2',
    '--config.checkpoint_every=2',
    '--config.evaluate_every=0',
    '--config.loss.num_negatives=8',
    '--config.sampler.num_steps=2',
    '--config.buffer.capacity=800',
    '--config.fresh.num_steps=3',
    '--config.network.widths=(4,4,4)',
]


SMALL_ICD = [
    '--config.steps=4',
    '--config.batch_size=16',
    '--config.log_every=2',
    '--config.checkpoint_every=4',
    '--config.evaluate_every=0',
    '--config.loss.num_negatives=8',
    '--config.loss.kl_chains=8',
    '--config.loss.population=8',
    '--config.loss.population_after=10',
    '--config.sampler.num_steps=2',
    '--config.buffer.capacity=640',
    '--config.fresh.num_steps=5',
    '--config.fresh.every=2',
    '--config.fresh.plain=1',
    '--config.network.width=4',
    '--config.network.stages=(1,)',
    '--config.network.scales=1',
    '--config.network.norm=false',
]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A short run by the real command, stopped and continued."""
    workdir = tmp_path_factory.mktemp('runs') / 'digits'
    succeed('experiments.digits_st_jem', f'--workdir={workdir}', *SMALL, '--config.steps=2')
    done = succeed('experiments.digits_st_jem', f'--workdir={workdir}', *SMALL)
    return workdir, done


def test_rerunning_the_command_continues_the_run(trained):
    workdir, done = trained
    assert 'Continuing' in done.stdout and 'from step 2' in done.stdout and 'GFLOP' in done.stdout
    assert json.loads((workdir / 'summary.json').read_text())['step'] == 4
    assert {
        'config.json',
        'metrics.jsonl',
        'summary.json',
        'report.html',
        'samples',
        'checkpoints',
        'tensorboard',
    } <= {p.name for p in workdir.iterdir()}


def test_a_run_begins_with_another_one(trained, tmp_path, monkeypatch, capsys):
    workdir, _ = trained
    given = (
        'experiments.digits_st_jem',
        f'--workdir={tmp_path}/new',
        *SMALL,
        f'--config.init_from={workdir}',
        '--config.steps=1',
        '--config.optimizer.learning_rate=1e-9',
    )
    other = '--config.network.widths=(4,4,8)'
    assert_one_sentence(monkeypatch, capsys, 'other networks', *given, other)
    succeed(*given)  # the corrected command starts clean
    before, after = (ebm_jax.load(path).params for path in (workdir, tmp_path / 'new'))
    chex.assert_trees_all_close(after, before, atol=1e-7)


def test_several_cores_are_used_without_being_asked(trained):
    cores = len(os.sched_getaffinity(0))
    devices = json.loads((trained[0] / 'summary.json').read_text())['devices']
    assert (
        devices
        == f'{max(n for n in (1, 2, 4, 8) if n <= cores)} cpu device{"s" if cores > 1 else ""}'
    )


@pytest.fixture(scope='module')
def evaluated(trained):
    """(the run, what its evaluation printed)"""
    workdir, printed = trained[0], io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(extractor, 'STEPS', 30)
        suite = workdir.parent / 'suite.toml'
        images = np.random.default_rng(0).integers(0, 256, (30, 20, 24, 3), dtype=np.uint8)
        np.savez(workdir.parent / 'large.npz', x=images, y=np.zeros(30, int))
        suite.write_text(f'[far]\nlarge = "npz:{workdir.parent}/large.npz"\n')
        arguments = ['--fresh_per_class=3', '--resamples=5', '--ood=extra=digits']
        arguments.append(f'--ood_suite={suite}')
        run_in_process(patch, 'experiments.evaluate', f'--workdir={workdir}', *arguments)
    return workdir, printed.getvalue()


def test_evaluate_writes_every_metric_under_its_stable_name(evaluated):
    workdir, printed = evaluated
    summary = json.loads((workdir / 'summary.json').read_text())
    for name in (
        'test_accuracy',
        'ece',
        'conditional_sample_accuracy',
        'conditional_sample_diversity',
        'steps_per_second',
    ):
        assert isinstance(summary[name], float), name
    made = {'rotated', 'inverted', 'noise', 'mixed', 'near/letters'}
    assert set(summary['ood_auroc']) == made | {'extra', 'far/large'}
    names = {'log_px', 'max_py', 'grad_norm', 'energy_t', 'typicality', 'mahalanobis', 'knn'}
    assert all(set(scores) == names for scores in summary['ood_auroc'].values())
    # of one set each
    for group, only in (('near', 'near/letters'), ('far', 'far/large')):
        assert summary['ood'][group] == summary['ood_auroc'][only]
    full = json.loads((workdir / 'evaluation.json').read_text())
    low, high = full['ood']['noise']['log_px']['interval']['auroc']
    assert low <= full['ood']['noise']['log_px']['auroc'] <= high
    # the test set against itself, under other noise
    assert 0.45 < summary['ood_auroc']['extra']['log_px'] < 0.55
    assert full['ood']['extra']['log_px']['auroc'] != 0.5
    text = (workdir / 'evaluation.txt').read_text()
    assert (
        printed.strip() == f'{text.strip()}\n\nLook at {workdir}/report.html'
        and 'support vector machine' in text
        and '20 equal bins' in text
    )
    for name in (
        'reliability.png',
        'scores.png',
        'curves.png',
        'samples/fresh_conditional.png',
        'samples/fresh_unconditional.png',
        'samples/buffer.png',
        'samples/data.png',
        'samples/chains.gif',
    ):
        assert (workdir / name).stat().st_size > 500, name
    low, high = full['intervals']['test_accuracy']
    assert low < summary['test_accuracy'] < high
    # 30 samples for 64 features
    assert 'too few images for the Frechet distance' in text
    assert 'kernel' in summary['sample_distance']
    assert 'frechet' not in summary['sample_distance']
    said = [line.split(':')[0] for line in text.splitlines() if 'those of the test set' in line]
    assert said == ['extra']


def test_chains_that_diverge_leave_the_rest_of_an_evaluation(trained, tmp_path, monkeypatch):
    """Those of parameters that are far too large."""
    monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '8')  # as conftest has it
    _, experiment, state = runs.restore(trained[0])
    wild = SimpleNamespace(eval_params=jax.tree.map(lambda leaf: 1e30 * leaf, state.eval_params))
    (section,) = evaluate_command.sections_of_samples(tmp_path, experiment, wild, [], 2, 2)
    assert section.metrics == {}
    assert 'Fresh samples are not measured: 1' in section.lines[0]


def test_a_run_that_another_process_trains_keeps_its_page(tmp_path):
    workdir = tmp_path / 'run'
    workdir.mkdir()
    (workdir / 'report.html').write_text('as the other process wrote it')
    (workdir / 'config.json').write_text('{}')
    held = process.exclusive_lock(workdir)
    refused = pytest.raises(InputError, match='written by another run')
    with held, refused:
        runs.fit_experiment(workdir, digits_st_jem, digits_st_jem.get_config())
    assert (workdir / 'report.html').read_text() == 'as the other process wrote it'


def test_a_checkpoint_that_is_being_written_is_no_step(tmp_path):
    for name in ('20', '100', '200.orbax-checkpoint-tmp', 'other'):
        (tmp_path / 'checkpoints' / name).mkdir(parents=True)
    assert steps_in(tmp_path / 'checkpoints') == [20, 100]
    assert steps_in(tmp_path / 'none') == []


@pytest.mark.slow
def test_metrics_of_another_step_go_where_they_are_not_measured_again(
    evaluated, tmp_path, monkeypatch, capsys
):
    """A distance by Inception and a set of the step before; those of the same step stay."""
    few = '--fresh_per_class=2', '--resamples=2', '--limit=20'
    for before, stays in ((-1, False), (0, True)):
        workdir = tmp_path / str(before)
        shutil.copytree(evaluated[0], workdir)
        found = json.loads((workdir / 'evaluation.json').read_text())
        row = {'frechet': {'value': 7.0, 'interval': [6, 8]}}
        found['step'] += before
        found['fid'] = {'fresh': row, 'n': 2, 'extractor': 'x'}
        (workdir / 'evaluation.json').write_text(json.dumps(found))
        update_summary(workdir, {'fid': {'frechet': 7.0}, 'ood_auroc': {'old': {'log_px': 0.5}}})
        in_process(monkeypatch, capsys, 'experiments.evaluate', f'--workdir={workdir}', *few)
        summary = json.loads((workdir / 'summary.json').read_text())
        assert ('fid' in summary) == ('old' in summary['ood_auroc']) == stays
        assert 'test_accuracy' in summary and summary['steps_per_second'] > 0


@pytest.mark.slow
def test_the_full_suite_keeps_its_parts(evaluated, tmp_path, monkeypatch, capsys):
    """Stopped in the middle, it goes on; other settings are measured anew."""
    workdir = tmp_path / 'run'
    shutil.copytree(evaluated[0], workdir)
    arguments = [
        f'--workdir={workdir}',
        *('--suite=full', '--fresh_per_class=2', '--resamples=2', '--limit=20'),
        *(f'--ood={name}=' for name in ('rotated', 'inverted', 'noise', 'mixed', 'near/letters')),
        *('--attacked=16', '--attack_steps=3', '--radii_l2=.5', '--radii_linf=.05,.1'),
        *('--long=8', '--chains=8', '--bridges=3'),
    ]
    settings_of_suite = full.FullSuite(
        radii={'l2': [0.5], 'linf': [0.05, 0.1]},
        attacked=16,
        attack_steps=3,
        refine=0,
        times=8,
        chains=8,
        bridges=3,
    )
    monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '8')  # as conftest has it
    _, experiment, state = runs.restore(workdir)
    with monkeypatch.context() as patch:
        patch.setattr(density, 'log_likelihood', lambda *given, **more: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            full.measure(workdir, experiment, state, settings_of_suite)
    kept = {file.name for file in (workdir / 'evaluation').iterdir()}
    assert kept == {'robustness.json', 'long_chains.json'}
    monkeypatch.setattr(extractor, 'STEPS', 10)
    monkeypatch.setattr(robustness, 'robustness', lambda *given, **more: 1 / 0)
    text = in_process(monkeypatch, capsys, 'experiments.evaluate', *arguments)
    summary = json.loads((workdir / 'summary.json').read_text())
    robust = summary['robust_accuracy']
    assert set(robust['l2']) == {'0.5'} and set(robust['linf']) == {'0.05', '0.1'}
    assert robust['linf']['0.1'] <= robust['linf']['0.05'] <= 1
    for name in ('log_z', 'bits_per_dim', 'r_hat'):
        assert isinstance(summary[name], float), name
    assert 'APGD-DLR' in text and 'dequantised from 17 grey levels' in text
    assert 'Accuracy under attack' in (workdir / 'report.html').read_text()
    with pytest.raises(ZeroDivisionError):
        other = dataclasses.replace(settings_of_suite, attacked=8)
        full.measure(workdir, experiment, state, other)


def test_the_report_of_a_run_in_a_browser(evaluated, tmp_path):
    """It stands alone (from any folder, without a network), every picture can be decoded, the
    slider moves the frames, and it fits a phone and the dark theme."""
    path = tmp_path / 'moved.html'
    path.write_text((evaluated[0] / 'report.html').read_text())
    assert not re.search(r'(?:src|href)="(?!data:|#)', path.read_text())
    with opened(path) as browser:
        assert problems(browser) == []
        text = browser.find_element('tag name', 'body').text
        for said in (
            'Trained to step 4',
            'accuracy',
            'Chains at work',
            'Unfamiliar data',
            'rotated',
        ):
            assert said in text, said
        slider = browser.find_element('css selector', '.frames input')
        frames = browser.find_elements('css selector', '.frames img')
        seen = []
        for key in (Keys.HOME, Keys.END):
            slider.send_keys(key)
            (frame,) = [frame for frame in frames if frame.is_displayed()]
            said = browser.find_element('css selector', '.frames output').text
            seen.append((frames.index(frame), said, frame.screenshot_as_base64))
        first, last = seen
        assert first[:2] == (0, 'after 0 of 3 steps')
        assert last[:2] == (len(frames) - 1, 'after 3 of 3 steps') and first[2] != last[2]
        light = browser.find_element('tag name', 'body').value_of_css_property('background-color')
        assert all(image.get_attribute('alt') for image in browser.find_elements('tag name', 'img'))
        assert browser.find_elements('css selector', 'svg[aria-label*="Reliability"]')
    with opened(path, width=390, dark=True) as browser:
        body = browser.find_element('tag name', 'body')
        assert body.value_of_css_property('background-color') != light
        assert browser.execute_script('return document.scrollingElement.scrollWidth') <= 390


def test_the_report_before_and_after(evaluated, tmp_path):
    """While a run trains its newest pictures and curves are shown, and the page reads itself
    again; a run that diverged says so."""
    copied = tmp_path / 'run'
    shutil.copytree(evaluated[0], copied)
    text = report.write(copied, (2, 4)).read_text()
    assert 'http-equiv="refresh"' in text and 'step 2 of 4' in text and 'Loss' in text
    assert text.count('<img') == 1 and 'Unfamiliar data' not in text
    update_summary(
        copied, {'diverged': True, 'finished': False, 'account': 'Diverged <at> step 3.'}
    )
    text = report.write(copied).read_text()
    assert 'Diverged &lt;at&gt; step 3.' in text and 'http-equiv="refresh"' not in text
    assert '--config.sampler.num_steps=2' in text and '--config.seed' not in text
    # a damaged file does not end a run
    (copied / 'evaluation.json').write_text('{')
    report.refresh(copied, (2, 4))


def test_sections_of_ones_own_come_last_in_the_report():
    shown = [Shown(group, 'file', 'title', '') for group in ('Mine', 'Speech', 'Samples', 'Mine')]
    assert report.groups_of(shown) == ['Samples', 'Speech', 'Mine']


@pytest.fixture(scope='module')
def trained_icd(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'digits_icd'
    succeed(
        'experiments.digits_icd',
        f'--workdir={workdir}',
        *SMALL_ICD,
        '--config.data.leave_out=(8,9)',
        '--config.transition.flip=true',
        devices='8',
    )
    return workdir


@pytest.mark.slow
def test_evaluate_knows_energies_without_a_classifier(trained_icd, monkeypatch, capsys):
    monkeypatch.setattr(extractor, 'STEPS', 30)
    text = in_process(
        monkeypatch,
        capsys,
        'experiments.evaluate',
        f'--workdir={trained_icd}',
        '--fresh_per_class=9',
        '--resamples=5',
        '--ood=mixed=',
    )
    summary = json.loads((trained_icd / 'summary.json').read_text())
    for name in ('class_coverage', 'kl_gradient_ratio', 'kl_cost_percent', 'sample_confidence'):
        assert isinstance(summary[name], float) and np.isfinite(summary[name]), name
    assert (
        summary['diverged'] is False
        and 'test_accuracy' not in summary
        and summary['kl_gradient_ratio'] > 0
    )
    assert (
        set(summary['sample_distance']) == {'frechet', 'kernel', 'n', 'extractor'}
        and summary['sample_distance']['n'] == 72
    )
    assert set(summary['ood_auroc']) == {'rotated', 'inverted', 'noise', 'held_out'}
    names = {'energy', 'grad_norm', 'typicality', 'mahalanobis', 'knn'}
    assert all(set(scores) == names for scores in summary['ood_auroc'].values())
    full = json.loads((trained_icd / 'evaluation.json').read_text())
    low, high = full['sample_distance']['fresh']['frechet']['interval']
    assert (
        low < summary['sample_distance']['frechet'] < high
        and full['sample_distance']['noise']['frechet']['value'] > 0
    )
    of_test_split = np.isin(data.digits('test').y, (8, 9)).sum()
    assert full['ood']['held_out']['energy']['examples'] == of_test_split
    assert (
        'augmentation every 2 steps except in the last 1' in text
        and summary['sample_distance']['extractor'] in text
    )


@pytest.mark.slow
def test_energies_of_different_runs_and_methods_compose(
    trained, trained_icd, tmp_path, monkeypatch, capsys
):
    """By the command, and the same energy by hand at a point."""
    out = tmp_path / 'both'
    in_process(
        monkeypatch,
        capsys,
        'experiments.compose',
        f'--all={trained[0]}:3*2.0',
        f'--any={trained_icd}',
        f'--any={trained[0]}',
        f'--none={trained[0]}:5',
        f'--given={trained[0]}:6,1*3',
        '--sharpness=2',
        '--not_weight=0.5',
        '--num=8',
        '--steps=2',
        f'--out={out}',
    )
    with np.load(tmp_path / 'both.npz') as drawn:
        assert drawn['x'].shape == (8, 8, 8, 1) and np.isfinite(drawn['x']).all()
    jem_model, icd_model = ebm_jax.load(trained[0]), ebm_jax.load(trained_icd)
    terms = [
        compose_runs.parse(*term)
        for term in (
            ('all', 'a:3*2.0'),
            ('any', 'b'),
            ('any', 'a'),
            ('none', 'a:5'),
            ('given', 'a:6,1*3'),
        )
    ]
    assert terms[0] == compose_runs.Term('all', 'a', (3,), 2.0)
    assert terms[4].needed(10) == (6, 1, 0, 2, 3, 4, 5, 7, 8, 9) and terms[0].needed(10) == (3,)

    def jem_energy(label):
        return lambda x: jem_model.energy_fn(jem_model.params, x, label)

    def icd_energy(x):
        return icd_model.energy_fn(icd_model.params, x, UNCONDITIONAL)

    every = [jem_energy(label) for label in terms[4].needed(10)]
    energies = [jem_energy(3), icd_energy, jem_energy(UNCONDITIONAL), jem_energy(5), *every]
    whole = compose_runs.combined(terms, [1, 1, 1, 1, 10], 2.0, 0.5, *energies)
    x = np.random.default_rng(0).uniform(-1, 1, (8, 8, 1)).astype(np.float32)
    by_hand = (
        2 * jem_energy(3)(x)
        - np.log(np.exp(-2 * icd_energy(x)) + np.exp(-2 * jem_energy(UNCONDITIONAL)(x))) / 2
        - 0.5 * jem_energy(5)(x)
        - 3 * np.log(jem_model.class_probs(x[None])[0, [1, 6]].sum())
    )
    np.testing.assert_allclose(whole(x), by_hand, rtol=1e-4)
    assert whole.factors == 3  # AND 1, OR 1, NOT 1, a condition none


@pytest.mark.slow
def test_compare_names_what_differs(trained, trained_icd, tmp_path, monkeypatch, capsys):
    table = in_process(
        monkeypatch,
        capsys,
        'experiments.compare',
        f'--workdir={trained[0]}',
        f'--workdir={trained_icd}',
        '--markdown',
        f'--out={tmp_path}/both.html',
    ).splitlines()
    cells = [dict(zip(table[0].split(' | '), line.split(' | '))) for line in table[2:4]]
    assert [row['experiment'] for row in cells] == [
        'experiments.digits_st_jem',
        'experiments.digits_icd',
    ]
    assert (
        cells[0]['loss.kl_steps'] == ''
        and cells[1]['loss.kl_steps'] == '1'
        and 'seed' not in table[0].split(' | ')
    )
    page = (tmp_path / 'both.html').read_text()
    assert '<h3>digits</h3>' in page and '<h3>digits_icd</h3>' in page


def test_the_table_of_compare_fits_the_terminal(monkeypatch):
    monkeypatch.setenv('COLUMNS', '60')
    heads = [f'run_{i}' for i in range(9)]
    rows = {'learning rate': ['0.001'] * 9, 'accuracy': [f'{i}.0 %' for i in range(9)]}
    printed = compare.terminal(heads, rows)
    assert max(map(len, printed.splitlines())) <= 60
    # every run once, in order
    assert re.findall(r'run_\d', printed) == heads and '8.0 %' in printed


def test_energies_of_other_units_or_sizes_do_not_compose():
    def opened(units='pixels', speech=None, shape=(8, 8, 1)):
        spec = SimpleNamespace(units=units, speech=speech, shape=shape)
        model = SimpleNamespace(
            has_energy=True, unconditional=True, class_conditional=True, spec=spec
        )
        return SimpleNamespace(model=model, num_classes=10)

    term = compose_runs.parse('all', 'runs/a')
    compose_runs.check(term, opened(), opened())
    speech = opened('features', {'scale': {'mean': [0.0]}}), opened('features', {'scale': {}})
    for other, first, says in (
        (speech[0], opened(), 'in other units'),
        (*speech, 'in other units'),
        (opened(shape=(9, 9, 1)), opened(), 'only energies of one size'),
    ):
        with pytest.raises(InputError, match=f'runs/a.*{says}'):
            compose_runs.check(term, other, first)


@pytest.mark.slow
@pytest.mark.parametrize(
    'study, small',
    [
        ('coloured_compose', [*SMALL, '--config.network.strides=(2,2,2)']),
        ('coloured_icd_compose', SMALL_ICD),
    ],
)
def test_compositions_are_trained_measured_and_continued(
    study, small, tmp_path, monkeypatch, capsys
):
    """Of coloured digits: class and colour, two of the study's four runs."""
    monkeypatch.setattr(composing, 'PAIRS', ((3, 8),))
    grey = {split: data.digits(split) for split in ('train', 'test')}
    arrays = {f'{key}_{split}': getattr(grey[split], key) for split in grey for key in 'xy'}
    np.savez(tmp_path / 'digits.npz', **arrays)
    arguments = [
        f'experiments.studies.{study}',
        f'--workdir={tmp_path}/compose',
        *(argument.replace('--config.', '--config.run.') for argument in small),
        f'--config.run.data.source=npz:{tmp_path}/digits.npz?coloured=true',
        '--config.compose.attributes=("colour",)',
        '--config.run.steps=1',
        '--config.run.picture_every=9',
        '--config.compose.num=8',
    ]
    first = in_process(monkeypatch, capsys, *arguments)
    found = json.loads((tmp_path / 'compose' / 'composition.json').read_text())
    assert set(found['and']) == {
        'real images',
        'class',
        'colour',
        'class AND colour',
        'class AND colour, by conditions',
    }
    assert set(found['or']) == {'3 OR 8'} and set(found['not']) == {'NOT red', 'NOT blue'}
    assert set(found['not']['NOT red']) == {'alone', 'difference', 'conditions'}
    real = found['and']['real images']
    np.testing.assert_allclose([real['class'], real['colour']], [0.1, 1 / 3], atol=0.06)
    row = found['and']['class AND colour, by conditions']
    assert 0 <= row['interval'][0] <= row['asked'] <= row['interval'][1] <= 1
    again = in_process(monkeypatch, capsys, *arguments)
    assert (
        again.count('already trained') == 2 and first.splitlines()[-5:] == again.splitlines()[-5:]
    )
    assert (tmp_path / 'compose' / 'samples' / 'class_and_colour_by_conditions.png').exists()


@pytest.mark.slow
def test_apply_works_on_runs_without_a_generator(
    trained, trained_icd, tmp_path, monkeypatch, capsys
):
    for workdir in (trained[0], trained_icd):
        for task in ('inpaint', 'refine', 'scores'):
            said = in_process(
                monkeypatch,
                capsys,
                'experiments.apply',
                f'--workdir={workdir}',
                f'--task={task}',
                '--num=8',
                f'--out={tmp_path}/{task}',
                *{'inpaint': ['--steps=2', '--hide=top'], 'refine': ['--steps=2']}.get(task, []),
            )
            assert said.startswith(('8 images', 'scores of 8 images'))
            if task == 'scores':
                table = (tmp_path / 'scores.csv').read_text().splitlines()
                assert len(table) == 9 and table[0].startswith('image,label,')
                numbers = np.load(tmp_path / 'scores.npz')
                # which of the images they are, whose labels these are
                rows = np.array([[int(cell) for cell in line.split(',')[:2]] for line in table[1:]])
                np.testing.assert_array_equal(numbers['image'], rows[:, 0])
                if workdir == trained[0]:
                    np.testing.assert_array_equal(data.digits('test').y[rows[:, 0]], rows[:, 1])
                name = table[0].split(',')[2]
                written = [float(line.split(',')[2]) for line in table[1:]]
                np.testing.assert_allclose(written, numbers[name], rtol=1e-4)
        with np.load(tmp_path / 'inpaint.npz') as found:
            known = np.broadcast_to(found['known'], found['x'].shape)
            np.testing.assert_array_equal(found['filled'][known], found['x'][known])
            assert not found['known'][:4].any() and found['known'][4:].all()
            # ICD's bounds put some at black, where x is
            assert np.mean(found['filled'][~known] != found['x'][~known]) > 0.9
        with np.load(tmp_path / 'refine.npz') as found:
            assert (
                np.abs(found['refined'] - found['x']).max() > 0
                and np.isfinite(found['refined']).all()
            )
    with np.load(tmp_path / 'scores.npz') as found:
        assert set(found) == {'image', 'energy', 'grad_norm'} and found['energy'].shape == (8,)


def test_sample_draws_what_was_asked_for(trained, tmp_path):
    succeed(
        'experiments.sample',
        f'--workdir={trained[0]}',
        '--label=3,4',
        '--num=6',
        '--singly',
        f'--out={tmp_path}/drawn.v2',
    )
    with np.load(tmp_path / 'drawn.v2.npz') as drawn:
        assert drawn['x'].shape == (6, 8, 8, 1) and drawn['y'].tolist() == [3, 4] * 3
        images = drawn['images']
        np.testing.assert_array_equal(images, as_uint8(drawn['x']))
    single = np.asarray(Image.open(tmp_path / 'drawn.v2' / '005.png'))
    np.testing.assert_array_equal(single, images[5, ..., 0])
    assert (tmp_path / 'drawn.v2.png').exists()


def mistakes(workdir, tmp_path):
    """Mistake -> (module, arguments, what the sentence must say); workdir holds a run."""
    new, big = f'--workdir={tmp_path}/new', f'{tmp_path}/big.npz'
    uneven, nameless = f'{tmp_path}/uneven.npz', f'{tmp_path}/nameless.npz'
    unlabelled = f'{tmp_path}/unlabelled.npz'
    train, evaluate = 'experiments.digits_st_jem', 'experiments.evaluate'
    icd, compose = 'experiments.digits_icd', 'experiments.compose'
    return {
        'unknown key': (train, [new, '--config.stepz=3'], 'stepz'),
        'wrong type': (train, [new, '--config.steps=many'], 'many'),
        'stray argument': (train, [new, 'steps=3'], 'steps=3'),
        'no workdir': (train, [], 'workdir'),
        'unknown data': (train, [new, '--config.data.source=mnist'], 'npz:FILE'),
        'missing file': (
            train,
            [new, '--config.data.source=npz:/nowhere/set.npz'],
            '/nowhere/set.npz',
        ),
        'missing tfds': (
            train,
            [new, f'--config.data.source=tfds:cifar10@{tmp_path}'],
            'prepare it first',
        ),
        'negatives do not divide': (
            train,
            [new, '--config.loss.num_negatives=10'],
            'multiple of shards',
        ),
        'batch too large': (train, [new, '--config.batch_size=2000'], 'larger than'),
        'number out of range': (train, [new, '--config.sampler.step_size=-1.0'], 'step_size'),
        'information beyond 1': (
            train,
            [new, '--config.loss.alpha=1.5'],
            '--config.loss.alpha must be in [0, 1]',
        ),
        'not finite': (train, [new, '--config.optimizer.learning_rate=nan'], 'learning_rate'),
        'shapes of the splits': (
            train,
            [new, f'--config.data.source=npz:{uneven}'],
            'both splits must agree',
        ),
        'no labels': (train, [new, f'--config.data.source=npz:{unlabelled}'], 'y_train'),
        'no test labels': (train, [new, f'--config.data.source=npz:{nameless}'], 'y_test'),
        'no test split': (train, [new, f'--config.data.source=npz:{big}'], 'no test split'),
        'batch not divisible by devices': (
            train,
            [new, '--config.batch_size=36'],
            'choose 32 or 40',
        ),
        'chains not divisible by devices': (train, [new, '--config.shards=4'], 'choose 8, or'),
        'negative seed': (train, [new, '--config.seed=-1'], 'seed'),
        'no batch': (train, [new, '--config.batch_size=0'], 'batch_size'),
        'widths of another length': (
            train,
            [new, '--config.network.widths=(4,4)', '--config.network.strides=(1,2,2)'],
            'widths',
        ),
        'adaptive without a temperature': (
            train,
            [new, '--config.sampler.adaptive=true'],
            'noise_is_temperature',
        ),
        'momentum of another kernel': (
            train,
            [
                new,
                '--config.sampler.kernel=mala',
                '--config.sampler.noise_is_temperature=true',
                '--config.sampler.momentum=0.5',
            ],
            'sampler.momentum is of the kernel langevin, not mala',
        ),
        'zero steps': (train, [new, '--config.steps=0'], 'at least 1'),
        'buffer too small': (train, [new, '--config.buffer.capacity=80'], 'enlarge the buffer'),
        'other settings': (
            train,
            [f'--workdir={workdir}', *SMALL, '--config.loss.alpha=0.25'],
            'loss.alpha',
        ),
        'other experiment': ('experiments.digits_jem', [f'--workdir={workdir}'], 'digits_st_jem'),
        'workdir is a file': (train, [f'--workdir={big}'], 'big.npz'),
        'nothing to evaluate': (
            evaluate,
            [f'--workdir={tmp_path}/empty'],
            'config.json is missing',
        ),
        'no such suite': (
            evaluate,
            [f'--workdir={workdir}', f'--ood_suite={tmp_path}/none.toml'],
            'cannot be read as TOML',
        ),
        'bad radius': (
            evaluate,
            [f'--workdir={workdir}', '--suite=full', '--radii_l2=.5,-1'],
            'numbers above 0',
        ),
        'no such ood': (evaluate, [f'--workdir={workdir}', '--ood=nonsense'], 'NAME=DATA'),
        'unknown buffer': (icd, [new, '--config.buffer.kind=stack'], 'first_in_first_out'),
        'unknown label': (icd, [new, '--config.data.label=shape'], 'stroke'),
        'label that all images share': (
            icd,
            [
                new,
                f'--config.data.source=npz:{tmp_path}/two_greys.npz',
                '--config.data.label=stroke',
            ],
            'the same stroke',
        ),
        'unknown class left out': (icd, [new, '--config.data.leave_out=(3,12)'], 'are 0 to 9'),
        'weight that never changes': (
            train,
            [new, '--config.loss.late_from=400', '--config.steps=400'],
            'never changes',
        ),
        'no model to begin with': (
            train,
            [new, f'--config.init_from={tmp_path}/none'],
            '--config.init_from: ',
        ),
        'colour of grey images': (icd, [new, '--config.data.label=colour'], 'RGB'),
        'all classes left out': (
            icd,
            [new, '--config.data.leave_out=(0,1,2,3,4,5,6,7,8,9)'],
            'no example',
        ),
        'colours of grey images': (icd, [new, '--config.transition.jitter=0.8'], 'RGB'),
        'probability above 1': (icd, [new, '--config.transition.affine=1.5'], 'in [0, 1]'),
        'too many scales': (icd, [new, '--config.network.scales=3'], 'scales'),
        'population never reached': (
            icd,
            [new, '--config.loss.population_after=4000'],
            'never exceeded',
        ),
        'no held-out classes': (
            evaluate,
            [f'--workdir={workdir}', '--ood=left=held_out'],
            'leave_out',
        ),
        'flags of the full suite': (
            evaluate,
            [f'--workdir={workdir}', '--refine=10'],
            '--suite=full',
        ),
        'no inception weights': (
            evaluate,
            [f'--workdir={workdir}', f'--inception={tmp_path}/no.npz'],
            'no.npz',
        ),
        'nothing to compose': (
            compose,
            [f'--none={workdir}', f'--out={tmp_path}/new'],
            'nothing to compose',
        ),
        'no such class to compose': (
            compose,
            [f'--all={workdir}:12', f'--out={tmp_path}/new'],
            '0 to 9',
        ),
        'no label of a condition': (
            compose,
            [f'--all={workdir}', f'--given={workdir}', f'--out={tmp_path}/new'],
            'names no label',
        ),
        'all labels of a condition': (
            compose,
            [
                f'--all={workdir}',
                f'--given={workdir}:0,1,2,3,4,5,6,7,8,9',
                f'--out={tmp_path}/new',
            ],
            'no condition',
        ),
        'several labels of a product': (
            compose,
            [f'--all={workdir}:1,2', f'--out={tmp_path}/new'],
            'only --given takes several',
        ),
        'weight to compose': (
            compose,
            [f'--all={workdir}:1*-2', f'--out={tmp_path}/new'],
            'weight > 0',
        ),
        'no question': (
            'experiments.studies.digits_compose',
            [new, '--config.compose.num=0'],
            'compose.num',
        ),
        'extractor of other data': (
            evaluate,
            [f'--workdir={workdir}', f'--extractor={tmp_path}/big.npz'],
            'no extractor',
        ),
        'no generator': (
            'experiments.apply',
            [f'--workdir={workdir}', '--task=reconstruct'],
            'needs a generator',
        ),
        'no such mask': (
            'experiments.apply',
            [f'--workdir={workdir}', '--task=inpaint', '--hide=half'],
            'left, right',
        ),
        'no such task': (
            'experiments.apply',
            [f'--workdir={workdir}', '--task=colour'],
            'reconstruct',
        ),
        'flag of another task': (
            'experiments.apply',
            [f'--workdir={workdir}', '--task=scores', '--label=3'],
            'does nothing with it',
        ),
        'drop without milestones': (
            train,
            [new, '--config.optimizer.drop=0.3'],
            'of which there are none',
        ),
        'noise of binary images': (
            'experiments.digits_discrete',
            [new, '--config.data.noise=0.3'],
            'has no effect on binary images',
        ),
        'a set that a study has itself': (
            'experiments.studies.ood_ablation',
            [new, '--data=digits', '--ood=rotated'],
            'this study takes NAME=DATA',
        ),
        'forms of other kernels': (
            'experiments.studies.forms_of_not',
            [
                new,
                '--config.run.fresh.kernel=mala',
                '--config.run.fresh.noise_is_temperature=true',
            ],
            'must be langevin',
        ),
        'no such label': ('experiments.sample', [f'--workdir={workdir}', '--label=11'], '0 to 9'),
    }


@pytest.mark.parametrize('mistake', mistakes('', ''))
def test_a_mistake_gets_one_sentence_and_exit_code_2(
    mistake, trained, tmp_path, monkeypatch, capsys
):
    (tmp_path / 'empty').mkdir()
    images = {
        side: np.random.default_rng(0).integers(0, 256, (20, side, side, 1), dtype=np.uint8)
        for side in (8, 16)
    }
    labels = np.arange(20) % 10
    np.savez(tmp_path / 'big.npz', x=images[16], y=labels)
    np.savez(
        tmp_path / 'uneven.npz', x_train=images[8], y_train=labels, x_test=images[16], y_test=labels
    )
    np.savez(tmp_path / 'nameless.npz', x_train=images[8], y_train=labels, x_test=images[8][:10])
    np.savez(tmp_path / 'unlabelled.npz', x_train=images[8], x_test=images[8][:10])
    black_or_white = 255 * (images[8] > 99).astype(np.uint8)
    two_greys = {
        f'{name}_{split}': value[rows]
        for split, rows in (('train', slice(15)), ('test', slice(10, 20)))
        for name, value in (('x', black_or_white), ('y', labels))
    }
    np.savez(tmp_path / 'two_greys.npz', **two_greys)
    name, arguments, says = mistakes(trained[0], tmp_path)[mistake]
    assert_one_sentence(monkeypatch, capsys, says, name, *arguments)
    # the corrected command starts clean
    assert not (tmp_path / 'new').exists() and list((tmp_path / 'empty').iterdir()) == []


def test_an_out_of_distribution_set_is_the_test_split(trained, tmp_path):
    """The release scored SVHN's train split, and returned image 0 of CIFAR-100 for every index."""
    rng = np.random.default_rng(0)
    images = {
        split: rng.integers(0, 256, (30, 8, 8, 1), dtype=np.uint8) for split in ('train', 'test')
    }
    np.savez(
        tmp_path / 'set.npz',
        **{f'x_{split}': x for split, x in images.items()},
        y_train=np.arange(30) % 3,
    )
    module = importlib.import_module('experiments.digits_icd')
    datasets = runs.build(module, module.get_config()).datasets
    found = sources.ood_dataset(f'npz:{tmp_path}/set.npz', datasets)
    np.testing.assert_array_equal(found.x, images['test'])


def test_help_lists_the_settings(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['experiments.digits_st_jem', '--help'])
    with pytest.raises(SystemExit) as caught:
        launch.train('experiments.digits_st_jem')
    shown = capsys.readouterr().out
    assert caught.value.code == 0 and '--workdir' in shown
    assert (
        'python -m experiments.digits_st_jem --workdir=' in shown
        and '--config.loss.alpha=1\n' in shown
    )
    # default, meaning and range of a setting stand together
    assert (
        '--config.buffer.restart=0.05\n      probability that a drawn chain restarts (in [0, 1])'
        in shown
    )


@pytest.mark.slow
def test_a_checkpoint_opens_on_another_number_of_devices(trained, tmp_path):
    succeed(
        'experiments.sample',
        f'--workdir={trained[0]}',
        '--num=2',
        f'--out={tmp_path}/two',
        devices='1',
    )


@pytest.mark.slow
def test_a_damaged_checkpoint_and_a_damaged_config(trained, tmp_path, monkeypatch, capsys):
    import shutil

    workdir = tmp_path / 'copy'
    shutil.copytree(trained[0], workdir)

    def damage(step):
        for file in (workdir / 'checkpoints' / str(step)).rglob('*'):
            if file.is_file() and file.stat().st_size > 200:
                file.write_bytes(b'damaged')

    damage(4)
    done = succeed('experiments.sample', f'--workdir={workdir}', '--num=2', f'--out={tmp_path}/two')
    assert (
        'checkpoints/4 cannot be restored' in done.stdout
        and 'the one of step 2 is used' in done.stdout
    )
    damage(2)
    assert_one_sentence(
        monkeypatch, capsys, 'delete that folder', 'experiments.sample', f'--workdir={workdir}'
    )
    (workdir / 'config.json').write_text('{"experiment"')
    assert_one_sentence(
        monkeypatch, capsys, 'damaged', 'experiments.sample', f'--workdir={workdir}'
    )


@pytest.mark.slow
def test_a_run_that_diverges_ends_with_its_account_and_exit_code_1(tmp_path):
    given = [
        'experiments.digits_jem',
        f'--workdir={tmp_path}',
        *SMALL,
        '--config.steps=60',
        '--config.checkpoint_every=50',
        '--config.optimizer.warmup=1',
        '--config.guard.actions=("new_key",)',
    ]
    done = command(*given, '--config.optimizer.learning_rate=1e6')
    assert (
        done.returncode == 1
        and 'diverged at step' in done.stderr
        and 'in a new workdir' in done.stderr
        and 'Traceback' not in done.stderr
    )
    assert json.loads((tmp_path / 'summary.json').read_text())['diverged']
    # without a checkpoint, but its attempts are used: other settings would not be these
    assert not list((tmp_path / 'checkpoints').glob('[0-9]*'))
    other = command(*given, '--config.optimizer.learning_rate=1e-3')
    assert other.returncode == 2 and 'optimizer.learning_rate (1000000.0 there' in other.stderr
    again = command(*given, '--config.optimizer.learning_rate=1e6')
    assert again.returncode == 1 and 'attempt 1 of 1' in again.stdout


@pytest.mark.parametrize('name', NAMES)
def test_experiments_carry_their_command_and_build(name, tmp_path):
    module = importlib.import_module(f'experiments.{name}')
    assert (
        f'python -m experiments.{name} --workdir=' in module.__doc__
        and 'Expected' in module.__doc__
    )
    config = module.get_config()
    size = {
        'digits': (8, 8, 1),
        'mnist': (28, 28, 1),
        'cifar10': (32, 32, 3),
        'celeba64': (64, 64, 3),
        'images': (16, 16, 3),
    }[name.split('_')[0]]
    rng = np.random.default_rng(0)
    made = {
        f'{a}_{split}': v
        for split in ('train', 'test')
        for a, v in (
            ('x', rng.integers(0, 256, (160, *size), dtype=np.uint8)),
            ('y', np.arange(160) % 10),
        )
    }
    np.savez(tmp_path / 'made.npz', **made)
    config.data.source = f'npz:{tmp_path}/made.npz'
    shapes = state_shapes(runs.build(module, config).recipe)
    if 'dual_mcmc' in name:
        assert set(shapes.params) == {'energy', 'generator', 'inference'}
    if 'dual_mcmc' in name or 'energy_matching' in name:
        assert shapes.chains == ()
        return
    assert shapes.chains.buffer.position.shape[2:] == size and shapes.chains.buffer.seen.shape == (
        config.shards,
    )


def test_cifar10_configurations_have_the_published_constants():
    jem, st_jem = (
        importlib.import_module(f'experiments.cifar10_{name}').get_config()
        for name in ('jem', 'st_jem_published')
    )
    assert (jem.network.depth, jem.network.width, jem.batch_size, jem.steps // 781) == (
        28,
        10,
        64,
        200,
    )
    assert (jem.sampler.num_steps, jem.sampler.step_size, jem.sampler.noise) == (20, 1.0, 0.01)
    assert (
        jem.buffer.capacity,
        jem.buffer.restart,
        jem.data.noise,
        jem.data.crop,
        jem.data.flip,
    ) == (10_000, 0.05, 0.03, 4, True)
    assert (jem.optimizer.learning_rate, jem.optimizer.warmup, jem.optimizer.drop) == (
        1e-4,
        1000,
        0.3,
    )
    assert [m // 781 for m in jem.optimizer.milestones] == [160, 180] and not jem.loss.balanced
    assert (st_jem.optimizer.learning_rate, st_jem.optimizer.drop, st_jem.steps // 781) == (
        7e-5,
        0.6,
        26,
    )
    assert (
        st_jem.loss.num_negatives,
        st_jem.loss.conditional,
        st_jem.loss.alpha,
        st_jem.loss.balanced,
    ) == (6, 0.9, 1.0, True)
    assert (
        st_jem.sampler.step_size,
        st_jem.sampler.noise,
        st_jem.sampler.noise_is_temperature,
        st_jem.sampler.momentum,
    ) == (0.1, 1e-4, True, 0.1)
    assert st_jem.sampler.extra_step_every == 781 and st_jem.sampler.adaptive
    # the default differs in its chains alone: many short ones, as many gradients at each step
    default = importlib.import_module('experiments.cifar10_st_jem').get_config()
    changed = {
        name
        for name, value in settings.flatten(default).items()
        if value != settings.flatten(st_jem)[name]
    }
    chains = {'loss.num_negatives', 'sampler.num_steps', 'sampler.extra_step_every', 'shards'}
    assert changed == chains
    for epoch in (0, 22):
        many, few = (
            c.loss.num_negatives * (c.sampler.num_steps + epoch * 781 // c.sampler.extra_step_every)
            for c in (default, st_jem)
        )
        np.testing.assert_allclose(many, few, rtol=0.07)

    def rate(config, step):
        c = config.optimizer
        return float(building.learning_rate(c, c.learning_rate, config.steps)(step))

    np.testing.assert_allclose(
        [rate(jem, s) for s in (0, 500, 1000, 160 * 781 - 1, 160 * 781 + 1, 181 * 781)],
        [0, 5e-5, 1e-4, 1e-4, 3e-5, 9e-6],
        rtol=1e-5,
    )
    np.testing.assert_allclose(rate(st_jem, 9 * 781), 7e-5 * 0.36, rtol=1e-5)


def test_cifar10_icd_is_the_releases():
    """On [-1, 1]: four times the step and twice the noise of [0, 1]."""
    config = importlib.import_module('experiments.cifar10_icd').get_config()
    s, o, t, n, loss = (
        config.sampler,
        config.optimizer,
        config.transition,
        config.network,
        config.loss,
    )
    assert (s.step_size, s.noise, s.num_steps, config.buffer.capacity, config.buffer.restart) == (
        400,
        0.002,
        40,
        10_000,
        0.001,
    )
    assert (o.learning_rate, o.b1, o.b2, o.clip_norm, o.ema, config.batch_size) == (
        2e-4,
        0,
        0.9,
        0.5,
        0.99,
        128,
    )
    assert (t.resized_crop, t.flip, t.jitter, t.jitter_strength, t.grayscale, t.blur) == (
        True,
        True,
        0.8,
        1.0,
        0.2,
        0,
    )
    assert (n.width, n.stages, n.scales, n.attention_after, n.plain) == (
        64,
        (1, 2, 4, 8),
        3,
        2,
        True,
    )
    assert (loss.kl_weight, loss.kl_steps, loss.kl_chains, loss.entropy_weight, loss.l2_weight) == (
        1,
        1,
        128,
        0.3,
        1,
    )
    assert loss.energy_limit == 10
    np.testing.assert_allclose(
        [building.learning_rate(o, o.learning_rate, 20_000)(step) for step in (0, 1, 19_999)],
        2e-4,
        rtol=1e-6,
    )


def unpacked(tmp_path, *arguments):
    if not (SHARED / 'unpack.py').exists():
        pytest.skip(
            'the real data sets lie beside the repository only on some machines (../shared/data)'
        )
    subprocess.run(
        [sys.executable, str(SHARED / 'unpack.py'), str(tmp_path), *arguments],
        check=True,
        capture_output=True,
    )


@pytest.mark.slow
def test_real_mnist_runs_from_the_unpacked_file(tmp_path):
    unpacked(tmp_path, 'mnist')
    succeed(
        'experiments.mnist_st_jem',
        f'--workdir={tmp_path}/run',
        f'--config.data.source=npz:{tmp_path}/mnist.npz',
        '--config.steps=2',
        '--config.sampler.num_steps=1',
        '--config.evaluate_every=0',
    )
    assert json.loads((tmp_path / 'run' / 'summary.json').read_text())['finished']


@pytest.mark.slow
def test_real_photographs_run_from_tfds(tmp_path):
    """Some of CIFAR-100, prepared by TFDS itself."""
    import tensorflow_datasets as tfds

    unpacked(tmp_path, 'cifar100_test')
    with np.load(tmp_path / 'cifar100_test.npz') as real:
        rows = [
            {'image': png(image), 'label': int(label)}
            for image, label in zip(real['x_test'][:400], real['y_test'])
        ]
    features = {
        'image': tfds.features.Image(shape=(32, 32, 3)),
        'label': tfds.features.ClassLabel(num_classes=100),
    }
    prepare(tmp_path / 'tfds', 'Cifar100Part', features, {'train': rows[:200], 'test': rows[200:]})
    succeed(
        'experiments.digits_st_jem',
        f'--workdir={tmp_path}/run',
        f'--config.data.source=tfds:cifar100_part@{tmp_path}/tfds',
        *SMALL,
        '--config.steps=2',
        '--config.loss.conditional=0.0',
    )
    assert json.loads((tmp_path / 'run' / 'summary.json').read_text())['finished']
