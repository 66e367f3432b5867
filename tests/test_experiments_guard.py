"""The guard from the command line, the study of divergence, and chains under examination."""

import ast
import dataclasses
import importlib
import json
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import assert_one_sentence, in_process, succeed
from jax.flatten_util import ravel_pytree
from PIL import Image
from scipy import special
from spoken import digits_folder

from ebm_jax import devices as across
from ebm_jax import objectives
from ebm_jax.errors import InputError
from ebm_jax.evaluate import extractor
from ebm_jax.images import as_float
from ebm_jax.networks import ConvNet, per_example
from ebm_jax.sharding import shard_batch, shard_state
from ebm_jax.train import (
    init_state,
    make_local_step,
    make_train_step,
    state_shapes,
    trace_step,
)
from ebm_jax.types import UNCONDITIONAL
from experiments import digits_jem
from experiments.common import runs, settings, sources
from experiments.common.building import recovery_actions
from experiments.families.jem import JemChain, training_chains
from experiments.studies import sharpness, stability, stability_figures, systems

SMALL = [
    '--config.batch_size=16',
    '--config.log_every=2',
    '--config.loss.num_negatives=8',
    '--config.sampler.num_steps=2',
    '--config.buffer.capacity=800',
    '--config.network.widths=(4,4,4)',
    '--config.fresh.num_steps=3',
]


def changes_of(name, **of_guard):
    """[(name of the action, the configuration that it builds; None where it builds nothing)]."""
    config = importlib.import_module(f'experiments.{name}').get_config()
    settings.update(config.guard, of_guard)
    actions = recovery_actions(config, lambda config: config)
    return config, [(action.name, action.recipe and action.recipe()) for action in actions]


def test_recovery_actions_change_what_they_say_on_top_of_each_other():
    config, changes = changes_of(
        'digits_jem',
        actions=('new_key', 'learning_rate', 'num_steps', 'learning_rate', 'step_size'),
        learning_rate=0.5,
        num_steps=3,
        step_size=0.1,
    )
    assert [name for name, _ in changes] == [
        'new key',
        'learning rate x 0.5',
        'num steps x 3',
        'learning rate x 0.5',
        'step size x 0.1',
    ]
    assert changes[0][1] is None  # other random numbers only: nothing is recompiled
    rate, steps, size = (
        config.optimizer.learning_rate,
        config.sampler.num_steps,
        config.sampler.step_size,
    )
    found = [
        (c.optimizer.learning_rate / rate, c.sampler.num_steps / steps, c.sampler.step_size / size)
        for _, c in changes[1:]
    ]
    np.testing.assert_allclose(found, [(0.5, 1, 1), (0.5, 3, 1), (0.25, 3, 1), (0.25, 3, 0.1)])
    # fresh chains stay as configured
    assert config.optimizer.learning_rate == rate and config.fresh == changes[-1][1].fresh


def test_recovery_actions_of_three_networks_and_of_a_sampler_that_tunes_itself():
    config, changes = changes_of('digits_dual_mcmc')
    for name in ('energy', 'generator', 'inference'):
        assert (
            getattr(changes[2][1].optimizer, name).learning_rate
            == 0.5 * getattr(config.optimizer, name).learning_rate
        )
    assert changes[-1][1].x_chain.num_steps == 4 * config.x_chain.num_steps
    assert (
        changes[-1][1].x_chain.step_size == 0.5 * config.x_chain.step_size
        and changes[-1][1].z_chain == config.z_chain
    )
    assert [name for name, _ in changes_of('cifar10_st_jem')[1]] == [
        'new key',
        *['num steps x 2', 'learning rate x 0.5'] * 2,
    ]


@pytest.fixture(scope='module')
def recovered(tmp_path_factory):
    """A run whose learning rate spoils its first checkpoint, and which finishes from the beginning
    with 1e-10 of it."""
    workdir = tmp_path_factory.mktemp('runs') / 'digits'
    succeed(
        'experiments.digits_jem',
        f'--workdir={workdir}',
        *SMALL,
        '--config.steps=6',
        '--config.checkpoint_every=2',
        '--config.optimizer.learning_rate=1e7',
        '--config.optimizer.warmup=1',
        '--config.guard.actions=("learning_rate","new_key")',
        '--config.guard.learning_rate=1e-10',
        devices='8',
    )
    return workdir


def test_a_run_that_diverges_recovers_by_its_configuration(recovered):
    summary = json.loads((recovered / 'summary.json').read_text())
    assert (
        summary['finished']
        and summary['recoveries'] == 1
        and summary['tries_left'] == 1
        and summary['quarantined_chains'] == 0
    )
    text = (recovered / 'recoveries' / 'log.txt').read_text()
    assert text.startswith('Attempt 1 of 2: the run had diverged at step 3: ')
    assert text.endswith('Back to step 0, with learning rate x 1e-10.\n')
    rows = [json.loads(line) for line in (recovered / 'metrics.jsonl').read_text().splitlines()]
    assert [row['step'] for row in rows if 'loss' in row] == [1, 2, 4, 6]


def test_sharpness_of_a_quadratic_and_of_balanced_weights():
    """The largest eigenvalue, not that of largest magnitude; of a contrast with balanced weights of
    energies theta.a_i, the curvature of log sum exp: the covariance of a_i under the weights."""
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(60, 60)))
    matrix = (axes * np.linspace(-9, 4, 60)) @ axes.T
    point = rng.normal(size=60)
    found = sharpness.largest_eigenvalue(lambda at: matrix @ at, point)
    np.testing.assert_allclose(found, 4, rtol=1e-2)

    positives, negatives = rng.normal(size=(2, 8, 60))
    theta = 0.2 * rng.normal(size=60)

    def contrast(at):
        e_pos, e_neg = positives @ at, negatives @ at
        return sum(objectives.contrast(e_pos, e_neg, objectives.balanced(e_pos, e_neg)))

    with jax.enable_x64():
        gradient = jax.jit(jax.grad(contrast))
        found = sharpness.largest_eigenvalue(lambda at: np.asarray(gradient(at)), theta)
    every = np.concatenate([positives, negatives])
    weights = special.softmax(-every @ theta)
    covariance = np.cov(every.T, aweights=weights, ddof=0)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(covariance)[-1], rtol=2e-2)


def test_sharpness_is_measured_until_a_run_diverges(tmp_path, monkeypatch, capsys):
    """Of the gradient that the training step takes: a rate of 1e6 diverges at the second step."""
    task = systems.task_of('digits')._replace(
        network=SMALL_NETWORK, optimizer=systems.OPTIMIZERS['sgd']
    )
    run = systems.recipe(task, systems.Setting('jem', 1, 0.1, 1.0))
    with across.independent():
        state, batch = init_state(jax.random.key(0), run), run.batch_at(0)
        gradient, at = sharpness.training_gradients(run)(state, batch)
        after, _ = make_local_step(run)(state, batch)
    step = (at - np.asarray(ravel_pytree(after.params)[0])) / 0.1
    np.testing.assert_allclose(gradient(at), step, atol=1e-4)
    monkeypatch.setattr(sharpness, 'task_of', lambda data, network: task)
    alphas, recipe = [], systems.recipe

    def recorded(task, *arguments):
        alphas.append(task.alpha)
        return recipe(task, *arguments)

    monkeypatch.setattr(sharpness, 'recipe', recorded)
    name, there = 'experiments.studies.sharpness', f'--workdir={tmp_path}/sharpness'
    arguments = '--rate=1e6', '--num_steps=1', '--alpha=0.5'
    printed = in_process(monkeypatch, capsys, name, there, *arguments)
    assert set(alphas) == {0.5}
    found = json.loads((tmp_path / 'sharpness' / 'sharpness.json').read_text())
    assert found['limit'] == pytest.approx(3.8e-6)
    for one in found['curves'].values():
        assert one['diverged_at'] and max(one['step']) < one['diverged_at'] <= 30
    assert 'diverged at step' in printed
    assert (tmp_path / 'sharpness' / 'sharpness.png').exists()
    assert_one_sentence(monkeypatch, capsys, '--rate must be above 0', name, there, '--rate=0')


@pytest.mark.slow
def test_a_recovery_that_changes_settings_reads_the_data_once(tmp_path, monkeypatch):
    reads, splits = [], sources.splits
    monkeypatch.setattr(sources, 'splits', lambda name: reads.append(name) or splits(name))
    config = digits_jem.get_config()
    small = [flag.removeprefix('--config.').split('=') for flag in SMALL]
    settings.update(config, {name: ast.literal_eval(value) for name, value in small})
    settings.update(
        config,
        {
            'steps': 4,
            'checkpoint_every': 2,
            'evaluate_every': 0,
            'optimizer.learning_rate': 1e7,
            'optimizer.warmup': 1,
            'guard.actions': ('learning_rate',),
            'guard.learning_rate': 1e-10,
        },
    )
    runs.fit_experiment(tmp_path / 'run', digits_jem, config)
    assert 'learning rate' in (tmp_path / 'run' / 'recoveries' / 'log.txt').read_text()
    assert reads == ['digits']


@pytest.mark.parametrize(
    'flags, says',
    [
        (
            ['--config.guard.actions=("prayer",)'],
            '--config.guard.actions must be one of new_key',
        ),
        (['--config.guard.learning_rate=2.0'], '--config.guard.learning_rate must be in (0, 1]'),
    ],
)
def test_an_invalid_guard_gets_one_sentence(tmp_path, monkeypatch, capsys, flags, says):
    assert_one_sentence(
        monkeypatch, capsys, says, 'experiments.digits_jem', f'--workdir={tmp_path}/run', *flags
    )
    assert not (tmp_path / 'run').exists()


def test_chains_are_observed_while_the_run_trains(recovered, monkeypatch):
    """The last row against the checkpoint of the same step: 32 entries spread over the buffer,
    their energies, its ages."""
    row = [json.loads(line) for line in (recovered / 'metrics.jsonl').read_text().splitlines()][-1]
    assert row['step'] == 6
    monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '8')
    _, experiment, state = runs.restore(recovered)
    buffer = state.chains.buffer
    x, label, age = (
        np.asarray(leaf).reshape(-1, *leaf.shape[2:])
        for leaf in (buffer.position, buffer.label, buffer.age)
    )
    ages = age[age >= 0]
    assert (
        len(ages) > 0
        and [row[f'chains/age_p{q}'] for q in (10, 50, 100)]
        == np.percentile(ages, (10, 50, 100)).tolist()
    )
    some = np.flatnonzero(age >= 0)[np.linspace(0, len(ages) - 1, 32).astype(int)]
    energies = jax.vmap(experiment.model.energy_fn, (None, 0, 0))(
        state.eval_params, x[some], label[some]
    )
    np.testing.assert_allclose(row['chains/energy_at_0'], np.mean(energies), rtol=1e-4)
    assert row['chains/energy_at_2'] < row['chains/energy_at_1'] < row['chains/energy_at_0']
    assert (
        0 < row['chains/acceptance'] <= 1
        and row['chains/drift_to_noise'] > 0
        and row['chains/clipped'] == 0
    )


def test_an_adaptive_sampler_is_observed_at_its_current_scales():
    c = JemChain(step_size=0.1, noise=1e-4, noise_is_temperature=True, adaptive=True)
    tuned = jnp.broadcast_to(jnp.array([0.32, 50.0, 0.9, 0.1]), (8, 4))
    state = SimpleNamespace(chains=SimpleNamespace(sampler=SimpleNamespace(settings=tuned)))
    found = training_chains(c).numbers(state)
    assert found == pytest.approx(
        {'step_size': 0.32, 'noise_scale': 0.8 / 50, 'decay': 0.9, 'momentum': 0.1}, rel=1e-6
    )
    fixed = dataclasses.replace(c, adaptive=False, step_size=0.5, momentum=0.2)
    assert training_chains(fixed).numbers(state) == {
        'step_size': 0.5,
        'noise_scale': 0.01,
        'momentum': 0.2,
    }
    growing = training_chains(dataclasses.replace(c, num_steps=20, extra_step_every=781))
    after_1600 = SimpleNamespace(chains=SimpleNamespace(calls=np.full(8, 1600)))
    assert growing.steps_of(after_1600) == 22


@pytest.mark.slow
def test_chains_are_examined_from_the_command_line(recovered, monkeypatch, capsys):
    monkeypatch.setattr(extractor, 'STEPS', 30)
    arguments = (
        'experiments.chains',
        f'--workdir={recovered}',
        '--steps=20',
        '--num=8',
        '--times=1,3',
        '--samples=40',
    )
    printed = in_process(monkeypatch, capsys, *arguments)
    found = json.loads((recovered / 'summary.json').read_text())['chains']
    assert set(found['frechet_after']) == {'2', '6'} and set(found['mixing']) == {
        'energy',
        'mean',
        'contrast',
    }
    assert (
        0 <= found['acceptance'] <= 1
        and found['drift_to_noise'] > 0
        and found['clipped'] == found['saturated'] == 0
    )
    assert (
        found['age']['p100'] >= found['age']['p50'] >= 0
        and printed.strip() == (recovered / 'chains.txt').read_text().strip()
    )
    for name in ('chains.png', 'samples/after_2_steps.png', 'samples/after_6_steps.png'):
        assert (recovered / name).stat().st_size > 500
    assert_one_sentence(monkeypatch, capsys, '--times', *arguments[:2], '--times=0')


SMALL_NETWORK = per_example(ConvNet(10, (4, 8), (2, 2)))


@pytest.mark.slow
def test_runs_side_by_side_are_the_runs_one_by_one():
    """Ten runs mapped into one program, two a device and six to fill up; three of them against
    their own train steps."""
    task = systems.task_of('digits')._replace(network=SMALL_NETWORK)
    cases = [(1e-3 * (1 + i), 1.0 - 0.05 * i, i % 2) for i in range(10)]
    together, params = stability.train_side_by_side(
        'st_jem', 2, cases, stability.Grid(steps=3, seeds=2), task
    )
    for i in (1, 4, 9):
        rate, size, seed = cases[i]
        setting, here = systems.Setting('st_jem', 2, rate, size), jax.devices()[:2]
        recipe = systems.recipe(task, setting, seed)
        first = systems.recipe(task, setting)  # all runs see the same first batch before training
        state = shard_state(init_state(jax.random.key(seed), first), here)
        step = make_train_step(recipe, devices=here)
        for t in range(3):
            state, metrics = step(state, shard_batch(recipe.batch_at(t), here))
            np.testing.assert_allclose(
                together['s_gap'][t, i], metrics['s_gap'], rtol=2e-3, atol=1e-5
            )
            np.testing.assert_allclose(
                together['s_positives'][t, i], metrics['s_positives'], rtol=2e-3
            )
        own = jax.tree.map(lambda leaf, i=i: leaf[i], params)
        chex.assert_trees_all_close(own, jax.device_get(state.params), rtol=1e-2, atol=2e-3)


def test_survival_is_kaplan_and_meiers_estimate():
    """Six runs of 20 steps, of which four diverge: each time the share falls by the number that
    diverge over that of the runs that are left; Greenwood's variance, by hand."""
    rows = [{'diverged_at': step} for step in (3, 5, 5, None, None, 9)]
    at, (share, low, high) = stability_figures.survival(rows, 20)
    np.testing.assert_array_equal(at[:4], [0, 3, 5, 9])
    np.testing.assert_allclose(share[:4], [1, 5 / 6, 5 / 6 * 3 / 5, 5 / 6 * 3 / 5 * 2 / 3])
    variance = 1 / (6 * 5) + 2 / (5 * 3)
    spread = 1.959964 * variance**0.5 / np.log(0.5)
    np.testing.assert_allclose([low[2], high[2]], 0.5 ** np.exp([-spread, spread]), rtol=1e-5)
    assert at[-1] == 20 and share[-1] == share[3]
    for step, left in ((None, 1), (4, 0)):
        _, (share, *between) = stability_figures.survival([{'diverged_at': step}] * 5, 20)
        assert share[0] == 1 and (share[1:] == left).all() and np.isnan(between).all()


@pytest.mark.parametrize(
    'network, size',
    [
        ('convolutions', 320 + 18496 + 73856 + 5130),
        ('mlp', 64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10),
        ('wide_resnet', 160 + 14432 + 57536 + 229760 + 1290),  # stages of one block
    ],
)
def test_networks_and_mutual_information_of_the_study(network, size):
    """The parameters as counted by hand; with alpha half of the chains follow a class."""
    task = systems.task_of('digits', network)._replace(alpha=1.0)
    recipe = systems.recipe(task, systems.Setting('st_jem', 1, 1e-3, 1.0))
    state = state_shapes(recipe)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == size
    trace_step(recipe, 1, shapes=state)
    params, chains = recipe.method.init(jax.random.key(0), recipe.batch_at(0))
    batch = {**recipe.batch_at(0), 'x': as_float(recipe.batch_at(0)['x'])}
    samples, _ = recipe.method.sample(jax.random.key(1), params, chains, batch)
    assert np.sum(np.asarray(samples.label) == UNCONDITIONAL) == systems.NUM_NEGATIVES / 2
    without = systems.recipe(task._replace(alpha=0.0), systems.Setting('st_jem', 1, 1e-3, 1.0))
    (terms, _), (plain, _) = (
        one.method.loss(params, jax.random.key(2), batch, samples) for one in (recipe, without)
    )
    chex.assert_trees_all_close(terms['classifier'], plain['classifier'])
    assert abs(terms['positives'] - plain['positives']) > 1  # log p(x|y), not log p(x)


@pytest.mark.parametrize('name', sorted(systems.OPTIMIZERS))
def test_optimisers_of_the_study(name):
    """At its first step SGD moves by rate x gradient and Adam by the rate; at the second SGD's
    momentum adds .9 of the first."""
    task = systems.task_of('digits')._replace(optimizer=systems.OPTIMIZERS[name])
    optimizer = systems.recipe(task, systems.Setting('jem', 1, 1e-3, 1.0)).optimizer
    grads = {'w': jnp.array([3.0, -0.5])}
    first, state = optimizer.update(grads, optimizer.init(grads), grads)
    second, _ = optimizer.update(grads, state, grads)
    by_rule = grads['w'] if name == 'sgd' else jnp.sign(grads['w'])
    np.testing.assert_allclose(first['w'], -1e-3 * by_rule, rtol=1e-4)
    times = 1.9 if name == 'sgd' else 1.0
    np.testing.assert_allclose(second['w'], times * first['w'], rtol=1e-4)


def test_gradients_of_the_study_are_clipped():
    """(3, 4) of norm 5 to norm .5, then the step."""
    optimizer = systems.clipped(systems.OPTIMIZERS['sgd'], 0.5)(0.1)
    grads = {'w': jnp.array([3.0, 4.0])}
    step, _ = optimizer.update(grads, optimizer.init(grads), grads)
    np.testing.assert_allclose(step['w'], [-0.03, -0.04], rtol=1e-5)


def test_speech_has_the_network_of_its_experiment(tmp_path):
    with pytest.raises(InputError, match='speech has the convolutions'):
        systems.task_of('frames:FILE.npz', 'mlp')
    with pytest.raises(InputError, match='npz:FILE.*frames:FILE.*fsdd:FILE'):
        systems.task_of('nonsense')
    task = systems.task_of(f'fsdd:{digits_folder(tmp_path, rate=8000)}')
    assert task.train.x.shape[1:] == (32, 40, 1) and task.train.num_classes == 2
    params = task.network.init(jax.random.key(0), jnp.zeros((32, 40, 1)))
    assert task.network.apply(params, jnp.zeros((32, 40, 1))).shape == (2,)


@pytest.mark.slow
def test_the_study_counts_what_diverged_and_continues(tmp_path, monkeypatch, capsys):
    small = systems.task_of('digits')._replace(network=SMALL_NETWORK)
    asked, tasks, runs_of = [], [], stability.runs_of

    def task_of(*given):
        asked.append(given)
        return small

    def seen(system, num_steps, c, task):
        tasks.append(task)
        return runs_of(system, num_steps, c, task)

    monkeypatch.setattr(stability, 'task_of', task_of)
    monkeypatch.setattr(stability, 'runs_of', seen)
    arguments = [
        'experiments.studies.stability',
        f'--workdir={tmp_path}',
        '--config.systems=("jem",)',
        '--config.steps=21',
        '--config.seeds=2',
        '--config.num_steps=(1,)',
        '--config.learning_rates=(1e-2,1e9)',
        '--config.guarded=0',
    ]
    first = in_process(monkeypatch, capsys, *arguments)
    rows = [line.split() for line in first.splitlines()[2:]]
    assert rows[0][:7] == ['jem', '1', '0.01', '1', '0', 'of', '2'] and rows[1][:7] == [
        'jem',
        '1',
        '1e+09',
        '1',
        '2',
        'of',
        '2',
    ]
    found = json.loads((tmp_path / 'stability.json').read_text())['runs']
    assert (
        1 <= found['jem K=1 lr=1e+09 step=1 seed=0']['diverged_at'] <= 5
        and found['jem K=1 lr=0.01 step=1 seed=1']['accuracy'] > 0.2
    )
    for name in ('stability.png', 'survival.png'):
        assert (tmp_path / name).stat().st_size > 500
    assert in_process(monkeypatch, capsys, *arguments) == first
    assert asked[-1] == ('digits', 'convolutions') and len(tasks) == 1
    older = json.loads((tmp_path / 'stability.json').read_text())
    for name in (
        'network',
        'optimizer',
        'clip',
        'alpha',
    ):  # as it was before there were these settings
        del older['config'][name]
    (tmp_path / 'stability.json').write_text(json.dumps(older))
    assert in_process(monkeypatch, capsys, *arguments) == first and len(tasks) == 1
    assert_one_sentence(monkeypatch, capsys, 'another grid', *arguments, '--config.steps=30')
    other = [
        f'--workdir={tmp_path}/other',
        *['--config.network=mlp', '--config.optimizer=sgd', '--config.alpha=.5'],
        *['--config.seeds=1', '--config.steps=1', '--config.learning_rates=(1e-3,)'],
    ]
    in_process(monkeypatch, capsys, *arguments, *other)
    assert asked[-1] == ('digits', 'mlp')
    assert tasks[-1].alpha == 0.5 and tasks[-1].optimizer is systems.OPTIMIZERS['sgd']
    assert_one_sentence(
        monkeypatch, capsys, 'one of jem', *arguments[:2], '--config.systems=("nonsense",)'
    )
    assert_one_sentence(monkeypatch, capsys, 'alpha is of jem', *arguments[:2], '--config.alpha=1.')
    assert stability.share(3, 5) == '3 of 5 [0.23, 0.88]'  # Wilson's interval, by hand
    both = ['experiments.studies.survival', f'--workdir={tmp_path}', f'--workdir={tmp_path}/other']
    drawn = in_process(monkeypatch, capsys, *both, f'--out={tmp_path}/new/both')
    assert drawn == f'2 studies: {tmp_path}/new/both.png\n'
    wide = Image.open(tmp_path / 'new' / 'both.png').width
    assert wide > 1.3 * Image.open(tmp_path / 'survival.png').width
    nothing = [*both[:2], f'--workdir={tmp_path}/new', f'--out={tmp_path}/none']
    assert_one_sentence(monkeypatch, capsys, 'holds no study of stability', *nothing)
    (tmp_path / 'stability.json').write_text(json.dumps({**older, 'runs': {}}))
    assert_one_sentence(monkeypatch, capsys, 'is not finished', *nothing[:2], nothing[-1])
