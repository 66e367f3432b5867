"""Studies of settings by seeds: what is cut off, what is kept, how intervals are made."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from commands import assert_one_sentence, in_process
from scipy import stats

from ebm_jax import process
from ebm_jax.data import Examples
from ebm_jax.errors import ChainsDiverged, InputError
from ebm_jax.evaluate import extractor
from ebm_jax.images import as_float
from experiments import digits_energy_matching, digits_icd, digits_st_jem
from experiments.common import settings, sources
from experiments.common.sources import Datasets
from experiments.studies import arms, asked, dual_mcmc_tables, equal_time, icd_ablation

MADE = Examples('made', np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1), np.arange(100) % 10)


def test_validation_is_cut_from_training_and_nothing_else():
    test = MADE._replace(name='test')
    found = asked.validation(Datasets(train=MADE, test=test), 20, seed=3)
    held, kept = found.test.x.reshape(-1), found.train.x.reshape(-1)
    assert len(held) == 20 and sorted([*held, *kept]) == list(range(100))
    again = asked.validation(Datasets(train=MADE, test=test), 20, seed=3)
    np.testing.assert_array_equal(again.test.x, found.test.x)
    assert set(asked.validation(Datasets(train=MADE, test=test), 20, seed=4).test.x.flat) != set(
        held
    )
    with pytest.raises(InputError, match='cannot be cut off'):
        asked.validation(Datasets(train=MADE, test=test), 60)


def test_intervals_are_students_and_the_table_says_so():
    values = [0.91, 0.93, 0.95, 0.90]
    mean, half = arms.interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert mean == pytest.approx(np.mean(values)) and half == pytest.approx((high - low) / 2)
    assert np.isnan(arms.interval([0.5])[1])
    lines = arms.table(
        {'a': [{'x': 0.5, 'y': 1.0}, {'x': 0.7, 'y': 1.0}], 'b': [{'y': 2.0}]},
        {'x': 'share, %', 'y': 'other'},
        percent='x',
    )
    assert lines[2].startswith('| a | 60.0 +- ') and lines[3] == '| b | - | 2.000 |'
    # Wilson's interval of one event in three runs
    runs = [{'x': 1.0}, {'x': 0.0}, {'x': 0.0}]
    low, high = stats.binomtest(1, 3).proportion_ci(0.95, method='wilson')
    assert arms.table({'a': runs}, {'x': 'fell'}, events='x')[2] == (
        f'| a | 1 of 3 [{low:.2f}, {high:.2f}] |'
    )


def test_runs_are_kept_and_only_what_changed_is_trained_again(tmp_path, monkeypatch):
    base = digits_st_jem.get_config()
    settings.update(base, {'steps': 2})
    trained = []
    monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '8')  # as conftest has it
    checked = []

    def build(module, config, datasets):
        return SimpleNamespace(recipe=config.loss.alpha, loss=config.loss, seed=config.seed)

    def check(recipe, devices):
        checked.append(recipe)
        assert not trained  # all are checked before any is trained

    monkeypatch.setattr(arms.runs, 'build', build)
    monkeypatch.setattr(arms, 'check', check)
    monkeypatch.setattr(arms, 'initial_params', lambda recipe: None)

    def train(config, seed, steps, title, traced):
        trained.append((title, config.loss.alpha, config.seed))
        return None, 1 if config.loss.alpha == 0.5 else steps, {'loss': [seed, float('nan')]}

    monkeypatch.setattr(arms, 'train', train)

    def results(choice):
        given = (digits_st_jem, base, choice, 2, lambda seed: None)
        return arms.results(tmp_path, *given, lambda config, state: {'alpha': config.loss.alpha})

    found = results({'none': {'loss.alpha': 0.0}, 'half': {'loss.alpha': 0.5}})
    assert len(trained) == 4 and ('half/1', 0.5, 1) in trained and checked == [0.0, 0.5]
    assert found['none'] == [{'survived': 1.0, 'alpha': 0.0}] * 2
    assert found['half'] == [{'survived': 0.5}] * 2  # diverged: nothing is measured
    kept = arms.traces(tmp_path, ['none'], 2)['none']  # as a run that diverged leaves it
    np.testing.assert_array_equal([run['loss'] for run in kept], [[0, np.nan], [1, np.nan]])
    trained.clear()
    results({'none': {'loss.alpha': 0.1}, 'half': {'loss.alpha': 0.5}})
    assert {title for title, *_ in trained} == {'none/0', 'none/1'}
    older = json.loads((tmp_path / arms.FILE).read_text())
    del older['base']['buffer']['side']  # a setting that was added since has its default
    (tmp_path / arms.FILE).write_text(json.dumps(older))
    trained.clear()
    results({'none': {'loss.alpha': 0.1}, 'half': {'loss.alpha': 0.5}})
    assert not trained
    settings.update(base, {'steps': 3})
    with pytest.raises(InputError, match='other settings'):
        results({})
    assert set(json.loads((tmp_path / arms.FILE).read_text())['runs']) == {
        f'{arm}/{seed}' for arm in ('none', 'half') for seed in (0, 1)
    }


def test_a_run_whose_chains_diverge_and_a_damaged_study_are_told(tmp_path, monkeypatch, capsys):
    base = digits_st_jem.get_config()
    monkeypatch.setattr(arms, 'checked', lambda *given: None)
    monkeypatch.setattr(arms.runs, 'build', lambda *given: None)
    monkeypatch.setattr(arms, 'train', lambda *given: (None, base.steps, {}))

    def measure(experiment, state):
        raise ChainsDiverged('3 of 4 chains end at values that are not finite')

    def results(measure=measure, folder=tmp_path):
        return arms.results(folder, digits_st_jem, base, {'a': {}}, 1, lambda seed: None, measure)

    assert results() == {'a': [{'survived': 1.0}]}
    assert 'a/0 is not measured: 3 of 4 chains' in capsys.readouterr().out

    def endless(experiment, state):
        return {'error': float('inf')}

    for _ in range(2):  # measured, and read again
        found = results(endless, tmp_path / 'endless')
        assert found == {'a': [{'survived': 1.0, 'error': float('inf')}]}
        assert 'inf' in arms.table(found, {'error': 'error'})[2]
    with (
        process.exclusive_lock(tmp_path / 'endless'),
        pytest.raises(InputError, match='is being written by another run'),
    ):
        results(endless, tmp_path / 'endless')

    def unreadable(experiment, state):
        raise InputError('extractor.npz is damaged')

    with pytest.raises(InputError, match='extractor.npz is damaged'):
        results(unreadable, tmp_path / 'other')
    assert not (tmp_path / 'other' / arms.FILE).exists()  # to be measured once it is mended
    (tmp_path / arms.FILE).write_text('{"base": ')
    with pytest.raises(InputError, match='cannot be read.*use another --workdir'):
        results()


def test_a_warm_up_keeps_its_share_of_a_run_of_another_length():
    config = digits_energy_matching.get_config()
    longer = equal_time.lasting(config, 2 * config.steps)
    assert longer.steps == 4000 and longer.loss.warmup == 3000 and config.loss.warmup == 1500
    plain = equal_time.lasting(digits_st_jem.get_config(), 7)
    assert plain.steps == 7


def test_samples_that_are_the_test_images_have_their_distance():
    """Of the last stage; black ones are farther, as an earlier stage. By raw pixels as features."""
    digits = sources.datasets_of('digits')
    test = digits.test.rows(np.arange(60))

    def sample(key, params, labels, steps):
        images = as_float(test.x)
        return images if steps is None else np.full_like(images, -1)

    experiment = SimpleNamespace(
        train=digits.train,
        test=test,
        model=SimpleNamespace(sample=sample, labels=lambda n: np.zeros(n, int)),
        stages={'black': 0, 'refined': None},
    )

    def features(images):
        assert images.dtype == np.uint8
        return images.reshape(len(images), -1)[:, ::4] / 255.0

    judge = SimpleNamespace(features=features)
    found = arms.distances(experiment, SimpleNamespace(eval_params=None), judge, 60)
    assert found['distance'] == pytest.approx(found['test'], rel=1e-6)
    assert found['black'] > 3 * found['test']


def trace_of(gaps, kl=(), contrast=()):
    return {'s_gap': gaps, 's_positives': gaps, 'grad_norm/kl': kl, 'grad_norm/contrast': contrast}


def test_collapse_is_a_gap_that_stays_or_a_run_that_ended():
    def collapsed(gaps, survived=1.0):
        found = icd_ablation.summary({'survived': survived}, trace_of(gaps), gap=0.5)
        return bool(found['collapsed'])

    assert collapsed([0, 0, 0, 0, -0.9]) and collapsed([0, 0, 0, 0, float('nan')])
    assert not collapsed([9, 0, 0, 0, 0.1]) and collapsed([0] * 5, survived=0.9)


def test_the_ratio_of_gradients_leaves_out_the_start_and_steps_without_norms():
    nan, inf = float('nan'), float('inf')
    kl, contrast = [90, -1, 1, 2, 3, 4, 1, 1, inf], [1, -1, 10, 10, 10, 10, 0, nan, inf]
    found = icd_ablation.summary({'survived': 1}, trace_of([0], kl, contrast), gap=0.5)
    assert found['ratio'] == pytest.approx(0.25)
    assert 'ratio' not in icd_ablation.summary({'survived': 1}, trace_of([0]), gap=0.5)


@pytest.mark.parametrize('term, rows', [('with', 4), ('without', 4)])
def test_the_rows_of_the_claim_are_networks_with_and_without_the_term(term, rows):
    base = digits_icd.get_config()
    found = {
        name: arms.configured(base, changes)
        for name, changes in icd_ablation.claim().items()
        if name.endswith(f', {term} KL term')
    }
    assert len(found) == rows
    assert {c.loss.kl_weight for c in found.values()} == {base.loss.kl_weight * (term == 'with')}
    networks = {
        name.split(',')[0]: (c.network.norm, c.network.kernel_transform, c.network.attention_after)
        for name, c in found.items()
    }
    assert networks == {
        'plain': (False, 'plain', 0),
        '+norm': (True, 'standardised', 0),
        '+attention': (False, 'plain', 1),
        '+spectral norm': (False, 'spectral', 0),
    }


SMALL_STUDIES = {
    'icd_ablation': [
        '--set=batch_size=16 loss.num_negatives=8 loss.kl_chains=8 loss.population=8 '
        'loss.population_after=10 sampler.num_steps=2 buffer.capacity=640 fresh.num_steps=5 '
        'fresh.every=2 fresh.plain=1 network.width=4 network.stages=(1,1)',
        '--vary=network.scales=1',
        '--vary=loss.kl_weight=0',
        '--steps=4',
    ],
    'dual_mcmc_tables': [
        '--vary=preset=vae',
        '--vary=network.generator_widths=(4,4)',
        '--seconds=1',
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize('study', list(SMALL_STUDIES))
def test_tables_of_generators_train_measure_and_continue(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(extractor, 'STEPS', 10)
    monkeypatch.setattr(icd_ablation, 'SAMPLES', 40)
    monkeypatch.setattr(dual_mcmc_tables, 'SAMPLES', 40)
    name = f'experiments.studies.{study}'
    arguments = [name, f'--workdir={tmp_path}', *SMALL_STUDIES[study]]
    first = in_process(monkeypatch, capsys, *arguments)
    with monkeypatch.context() as patched:
        patched.setattr(arms, 'train', lambda *given: pytest.fail('trained again'))
        assert in_process(patched, capsys, *arguments) == first
    runs = json.loads((tmp_path / 'arms.json').read_text())['runs']
    assert len(runs) == 2
    wrong = {'is not one of': ['--experiment=digits_st_jem'], 'other settings': ['--train=600']}
    if study == 'icd_ablation':
        with_kl, without = runs['network.scales=1/0'], runs['loss.kl_weight=0/0']
        assert len(with_kl['trace']['s_gap']) == 4 and min(with_kl['trace']['grad_norm/kl']) > 0
        assert without['trace']['grad_norm/kl'] == [] and without['metrics']['distance'] > 0
        assert (tmp_path / 'traces.png').stat().st_size > 500
        wrong['data.label is given by the data'] = ['--set=data.label=slant']
        wrong['kl_chains'] = ['--set=loss.kl_chains=12', f'--workdir={tmp_path}/other']
    else:
        seconds = json.loads((tmp_path / 'seconds.json').read_text())['seconds']
        for row, value in seconds.items():  # one second each
            steps = max(1, round(1 / value))
            assert runs[f'{row}/0']['changes']['steps'] == steps
            assert f'| {row} | {steps}.000 |' in first
        assert 'generator' not in runs['preset=vae/0']['metrics']  # no chain in x follows it
        assert runs['network.generator_widths=(4,4)/0']['metrics']['generator'] > 0
        wrong['either --table or rows'] = ['--table=order']
        wrong['steps is given by --steps or --seconds'] = ['--vary=steps=3']
        wrong['not both'] = ['--steps=3']
    for says, more in wrong.items():
        assert_one_sentence(monkeypatch, capsys, says, *arguments, *more)


@pytest.mark.slow
@pytest.mark.parametrize('study', ['equal_time', 'vary', 'semi_supervised'])
def test_studies_train_measure_and_continue(study, tmp_path, monkeypatch, capsys):
    """On few steps; the second time nothing is trained."""
    arguments = [f'experiments.studies.{study}', f'--workdir={tmp_path}']
    if study == 'equal_time':
        monkeypatch.setattr(equal_time, 'SAMPLES', 20)
        monkeypatch.setattr(extractor, 'STEPS', 10)
        monkeypatch.setattr(equal_time, 'seconds_per_step', lambda recipe, steps: 0.1)
        arguments += ['--experiments=digits_dat', '--minutes=0.034']
    elif study == 'vary':
        arguments += ['--vary=loss.alpha=.5 loss.beta=.2', '--vary=', '--steps=2']
    else:
        arguments += ['--steps=2', '--seeds=1', '--per_class=8', '--arms=the classifier alone']
    first = in_process(monkeypatch, capsys, *arguments)
    monkeypatch.setattr(arms, 'train', lambda *given: pytest.fail('trained again'))
    assert in_process(monkeypatch, capsys, *arguments) == first
    names, row = (first.splitlines()[i].strip('| ').split(' | ') for i in (0, 2))
    found = dict(zip(names, row[1:]))
    assert found['survived'] == '1.000'
    if study == 'equal_time':
        assert found['steps'] == '20.000' and float(found['distance of fresh samples']) > 0
        says = 'is not one of'
        wrong = ['--experiments=digits_typo', f'--workdir={tmp_path}/other']
        assert_one_sentence(monkeypatch, capsys, says, f'experiments.studies.{study}', *wrong)
    else:
        assert 0 < float(found['accuracy, %']) <= 100
    if study == 'vary':
        assert float(found['diversity']) > 0
        kept = json.loads((tmp_path / 'arms.json').read_text())['runs']
        assert kept['loss.alpha=.5 loss.beta=.2/0']['changes'] == {
            'loss.alpha': 0.5,
            'loss.beta': 0.2,
        }
        assert kept['as shipped/0']['changes'] == {}
        for says, wrong in {
            'did you mean --config.loss.alpha': ['--vary=loss.alhpa=0'],
            'digits_icd is not one of cifar100_jem': ['--vary=', '--experiment=digits_icd'],
            'vowels_st_jem is not one of': ['--vary=', '--experiment=vowels_st_jem'],
            'seed is given by --seeds': ['--vary=seed=3'],
            'data.source is given by --data': ['--vary=data.source=npz:x.npz'],
            'loss.alpha is given twice': ['--vary=loss.alpha=0 loss.alpha=1'],
            'choose 32 or 40': ['--vary=', '--vary=batch_size=36', '--steps=2000'],
        }.items():
            wrong += [f'--workdir={tmp_path}/other']
            assert_one_sentence(monkeypatch, capsys, says, f'experiments.studies.{study}', *wrong)
    if study == 'semi_supervised':
        assert 'p(x) over all' not in first
        spread = next(line for line in first.splitlines() if 'LabelSpreading' in line)
        assert 75 < float(spread.split('|')[2]) < 100  # 80 labels, the others by their neighbours
        wrong = ['--arms=typo', f'--workdir={tmp_path}/other']
        assert_one_sentence(
            monkeypatch, capsys, 'typo is not one of', f'experiments.studies.{study}', *wrong
        )
