"""Chains that diverge leave the loss; runs that diverge go back, change something, and go on."""

import dataclasses
import json
import signal
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from methods_under_test import (
    BATCH,
    KERNEL,
    NOISE_FIRST,
    START,
    make_dual,
    make_icd,
    make_jem,
    prepared,
    sampler_of,
)

from ebm_jax import adapt, devices, kl, mcmc, replay, teaching, validity
from ebm_jax import objectives as obj
from ebm_jax.checkpoint import Checkpoints
from ebm_jax.errors import Diverged, InputError, Stopped
from ebm_jax.fit import fit
from ebm_jax.guard import Guard, RecoveryAction
from ebm_jax.sharding import shard_batch, shard_state
from ebm_jax.train import Recipe, init_state, make_train_step
from ebm_jax.types import UNCONDITIONAL, Kernel, Method


def faulty(kernel, put, share=0.12):
    """The kernel, but for a share of the chains that `put` makes diverge at some step."""

    def step(key, state, energy_fn):
        bad_one = jax.random.uniform(jax.random.fold_in(key, 1)) < share
        state, info = kernel.step(key, state, energy_fn)
        bad = jax.tree.map(lambda x: jnp.where(bad_one, put, x), state.position)
        return state._replace(position=bad), info

    return Kernel(kernel.init, step)


def valid_only(negatives, keep):
    """The negatives that are kept."""
    return negatives.replace(
        x=negatives.x[keep],
        label=negatives.label[keep],
        age=negatives.age[keep],
        valid=negatives.valid[keep],
    )


def subset(samples, keep):
    """The samples of the chains that are kept."""
    return jax.tree.map(lambda leaf: leaf[keep], samples)


@pytest.mark.parametrize(
    'put, options',
    [
        (jnp.nan, dict()),
        (jnp.inf, dict(weights=obj.balanced)),
        (-1e6, dict(weights=obj.balanced, alpha=1.0)),
        (jnp.nan, dict(weights=partial(obj.balanced, beta=0.0, include_positives=False))),
    ],
)
def test_the_loss_of_jem_is_that_of_the_valid_chains(put, options):
    method = make_jem(sampler=adapt.fixed(faulty(KERNEL, put)), **options)
    params, _, samples, after = prepared(method)
    keep = np.asarray(samples.valid)
    assert 4 <= keep.sum() < 16
    compare(method, params, samples, valid_only(samples, keep))
    assert method.loss(params, None, BATCH, samples)[1]['quarantined'] == 16 - keep.sum()
    ages = np.asarray(after.buffer.age)
    assert (ages == validity.QUARANTINED).sum() == 16 - keep.sum()
    chex.assert_tree_all_finite(after.buffer.position)


def compare(method, params, samples, honest, batch=BATCH, only=None):
    """Equal terms, equal gradients, and all of it finite."""

    @jax.jit
    def losses(samples, batch):
        def terms(params):
            return {
                name: value
                for name, value in method.loss(params, jax.random.key(2), batch, samples)[0].items()
                if only is None or name in only
            }

        return terms(params), jax.grad(lambda params: sum(terms(params).values()))(params)

    found = losses(samples, BATCH)
    chex.assert_tree_all_finite(found)
    chex.assert_trees_all_close(found, losses(honest, batch), rtol=2e-4, atol=1e-5)


@pytest.mark.slow
def test_the_loss_of_icd_is_that_of_the_valid_chains():
    method = make_icd(kernel=faulty(NOISE_FIRST, jnp.nan), kl_steps=2, num_steps=3, kl_chains=16)
    # past samples for the entropy
    params, _, _, chains = prepared(make_icd(kernel=NOISE_FIRST))
    samples, after = sampler_of(method)(jax.random.key(1), params, chains, BATCH)
    found = samples.negatives
    keep = np.asarray(found.valid)
    assert 2 <= keep.sum() < 16 and samples.ready
    honest = samples.replace(negatives=valid_only(found, keep), tail=subset(samples.tail, keep))
    compare(method, params, samples, honest)
    chex.assert_tree_all_finite(after.buffer.position)
    assert (np.asarray(after.buffer.age) == validity.QUARANTINED).sum() >= 16 - keep.sum()


@pytest.mark.parametrize('entropy', [obj.nearest_neighbour_entropy, obj.kernel_entropy])
def test_a_device_whose_chains_have_all_diverged_leaves_the_kl_term_of_the_others(entropy):
    kernel = mcmc.langevin(0.1, noise_scale=0.01)
    term = kl.KlTerm(
        energies=lambda params, x, label: (params * jnp.sum(x**2))[None],
        kernel=kernel,
        num_negatives=4,
        num_steps=2,
        weight=1.0,
        shards=2,
        population=4,
        population_after=1,
        entropy=entropy,
    )
    past = jax.random.normal(jax.random.key(1), (4, 3))

    def one(x, valid, keys):
        states = jax.vmap(lambda x: kernel.init(x, None))(x)
        tail = kl.Tail(states, keys, jnp.full(2, UNCONDITIONAL), valid)
        samples = kl.Samples(None, tail, past, jnp.ones(4, bool), jnp.asarray(True))
        found = jax.value_and_grad(lambda params: term.value(params, samples)[0])(jnp.float32(1.0))
        return jax.tree.map(devices.mean, found)

    keys = jax.random.split(jax.random.key(0), (2, 2))
    x, valid = jnp.ones((2, 2, 3)).at[0].set(jnp.nan), jnp.array([[False] * 2, [True] * 2])
    value, gradient = jax.pmap(one, axis_name=devices.AXIS, devices=jax.devices()[:2])(
        x, valid, keys
    )
    assert np.isfinite(value).all() and np.isfinite(gradient).all() and np.all(gradient != 0)


def test_the_loss_of_dual_mcmc_is_that_of_the_valid_chains():
    settings = teaching.PAPER._replace(x_steps=2, z_steps=2)
    method = make_dual(
        settings,
        x_kernel=faulty(KERNEL, jnp.nan),
        z_kernel=faulty(mcmc.langevin(0.005, noise_scale=0.1), jnp.inf),
    )
    params, _, samples, _ = prepared(method)
    in_x, in_z = np.asarray(samples.valid_x), np.asarray(samples.valid_z)
    assert 4 <= in_x.sum() < 16 and 4 <= in_z.sum() < 16
    of_x = samples.replace(z=samples.z[in_x], x=samples.x[in_x], valid_x=samples.valid_x[in_x])
    compare(method, params, samples, of_x, only=('contrast', 'generator_chain', 'inference_chain'))
    of_z = samples.replace(z_end=samples.z_end[in_z], valid_z=samples.valid_z[in_z])
    compare(
        method,
        params,
        samples,
        of_z,
        subset(BATCH, in_z),
        only=('generator_data', 'inference_data'),
    )
    assert (
        method.loss(params, jax.random.key(2), BATCH, samples)[1]['quarantined']
        == 32 - in_x.sum() - in_z.sum()
    )


@pytest.mark.parametrize('kind', [replay.persistent, replay.first_in_first_out])
def test_a_quarantined_chain_restarts_from_noise(kind):
    """In a buffer of 12 of which 4 are drawn each time: the entry is soon drawn again, and then the
    chain restarts."""
    buffer, labels = kind(START, 12, restart=0.0), jnp.full(4, UNCONDITIONAL)
    state, key = buffer.init(jax.random.key(0)), jax.random.key(1)
    for i in range(6):  # all entries hold samples
        draw = buffer.draw(jax.random.fold_in(key, i), state, 4, labels)
        state = buffer.write(jax.random.fold_in(key, 100 + i), state, draw, draw.position)
    draw = buffer.draw(key, state, 4, labels)
    kept, ended, valid = validity.quarantine(draw, draw.position.at[2].set(jnp.nan))
    np.testing.assert_array_equal(valid, [True, True, False, True])
    state = buffer.write(jax.random.key(2), state, ended, kept)
    where = int(np.flatnonzero(np.asarray(state.age) == validity.QUARANTINED)[0])
    for i in range(30):
        again = buffer.draw(jax.random.key(10 + i), state, 4, labels)
        if where in np.asarray(again.index):
            break
    bad = list(np.asarray(again.index)).index(where)
    assert (
        again.age[bad] == 0
        and np.abs(again.position[bad] - kept[2]).max() > 0.1
        and np.abs(again.position[bad]).max() <= 1
    )


def test_stuck_chains_are_counted():
    still = Kernel(KERNEL.init, lambda key, state, energy_fn: (state, None))
    for kernel, dead in ((still, 1.0), (KERNEL, 0.0)):
        method = make_jem(sampler=adapt.fixed(kernel))
        params, _, samples, _ = prepared(method)
        assert method.loss(params, None, BATCH, samples)[1]['stuck_chains'] == dead


@pytest.mark.slow
def test_quarantine_on_several_devices_is_that_on_one_and_a_run_counts_it():
    method = make_jem(sampler=adapt.fixed(faulty(KERNEL, jnp.nan)), weights=obj.uniform)
    recipe = Recipe(
        method=method,
        optimizer=optax.sgd(0.1),
        prepare=lambda key, x: x,
        batch_at=lambda step: BATCH,
    )

    def two_steps(devices):
        state = shard_state(init_state(jax.random.key(0), recipe), devices)
        step, found = make_train_step(recipe, devices=devices), []
        for _ in range(2):
            state, metrics = step(state, shard_batch(BATCH, devices))
            found.append(jax.device_get(metrics))
        assert all(metrics['healthy'] for metrics in found)
        assert int(state.quarantined) == sum(metrics['quarantined'] for metrics in found) > 2
        return [metrics['quarantined'] for metrics in found], found[-1]['loss']

    one, four = two_steps(jax.devices()[:1]), two_steps(jax.devices()[:4])
    assert one[0] == four[0]
    np.testing.assert_allclose(one[1], four[1], rtol=1e-5)


def entry(diverged_at, back_to):
    return {'diverged_at': diverged_at, 'back_to': back_to}


@pytest.mark.parametrize(
    'log, step, ring, target',
    [
        ([], 560, [500, 400, 300], 500),
        # saved too shortly before
        ([], 540, [500, 400, 300], 400),
        ([], 40, [], 0),
        ([], 60, [0], 0),
        # no further than before: one further back
        ([entry(560, 500)], 555, [500, 400, 300], 400),
        ([entry(560, 500)], 560, [500, 400, 300], 400),
        # 500 was written again on the way
        ([entry(560, 500), entry(520, 400)], 555, [500, 400, 300], 300),
        # nothing older is left: all of them may be unhealthy
        ([entry(560, 500), entry(520, 300)], 555, [500, 400, 300], 0),
        ([entry(560, 500), entry(520, 0)], 555, [500, 400, 300], 0),
        # it got past the first divergence
        ([entry(560, 500)], 760, [700, 600, 500], 700),
        ([entry(560, 0)], 90, [], 0),
    ],
)
def test_where_a_run_goes_back_to(tmp_path, log, step, ring, target):
    guard = Guard(tmp_path, ())
    guard.log.extend(log)
    assert guard.target(step, ring, 50) == target


def test_the_last_attempt_begins_at_step_0_where_the_one_before_ended_soon(tmp_path):
    for step, left, target in ((690, 1, 0), (700, 1, 0), (760, 1, 700), (690, 2, 600)):
        guard = Guard(tmp_path, ())
        guard.log.append(entry(560, 500))
        guard.actions = (RecoveryAction('a'),) * (1 + left)
        assert guard.target(step, [700, 600, 500], 50) == target


def fragile():
    """One parameter, pushed down by the loss at each step; a loss beyond the limit counts as
    diverged. Its only random number is logged."""

    def loss(params, key, batch, samples):
        return {'line': params[0] * jnp.mean(batch['x'])}, {
            'random': jax.random.uniform(key),
            'batch': jnp.mean(batch['x']),
        }

    method = Method(
        lambda key, batch: (jnp.zeros(1), {'none': jnp.zeros(2)}),
        lambda key, params, chains, batch: (jnp.zeros(()), chains),
        loss,
    )
    return method


def batch_at(step):
    return {'x': np.full((4, 1), 1.0, np.float32)}


def recipe(limit=9.5, rate=1.0, batch_at=batch_at):
    return Recipe(
        method=fragile(),
        optimizer=optax.sgd(rate),
        limits={'loss': limit},
        batch_at=batch_at,
        prepare=lambda key, x: x,
    )


EVERY = dict(log_every=1, checkpoint_every=4, picture_every=100, echo=lambda line: None)


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def run(workdir, steps, actions, batch_at=batch_at, limit=9.5):
    return fit(
        recipe(limit, batch_at=batch_at),
        workdir=workdir,
        steps=steps,
        devices=jax.devices()[:1],
        recovery_actions=actions(batch_at, limit) if callable(actions) else actions,
        **EVERY,
    )


def test_a_run_that_diverges_goes_back_changes_and_finishes(tmp_path):
    """The loss is 0, -1, -2, ...: beyond 9.5 at step 11. The first change does not help, the
    second, a tenth of the rate, does."""

    state = run(
        tmp_path,
        20,
        [
            RecoveryAction('other random numbers'),
            RecoveryAction('learning rate x 0.1', lambda: recipe(rate=0.1)),
            RecoveryAction('not used'),
        ],
    )
    log = json.loads((tmp_path / 'recoveries' / 'log.json').read_text())
    assert [(e['diverged_at'], e['back_to'], e['change']) for e in log] == [
        (11, 4, 'other random numbers'),
        (11, 0, 'learning rate x 0.1'),
    ]
    assert int(state.step) == 20
    np.testing.assert_allclose(state.params, -20 * 0.1, rtol=1e-5)
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert (
        summary['finished']
        and summary['recoveries'] == 2
        and summary['tries_left'] == 1
        and summary['quarantined_chains'] == 0
    )
    text = (tmp_path / 'recoveries' / 'log.txt').read_text().splitlines()
    assert (
        text[1]
        == 'Attempt 2 of 3: the run had diverged at step 11: loss = -10 (beyond its limit of 9.5). '
        'Back to step 0, with learning rate x 0.1.'
    )
    kept = rows(tmp_path / 'metrics.jsonl')
    first, second = (
        rows(tmp_path / 'recoveries' / f'abandoned_{number}.jsonl') for number in (1, 2)
    )
    assert [row['step'] for row in kept] == list(range(1, 21))
    assert [row['step'] for row in first] == list(range(5, 12)) and [
        row['step'] for row in second
    ] == list(range(1, 12))
    # of step 5, in three attempts
    assert len({rows_of[at]['random'] for rows_of, at in ((first, 0), (second, 4), (kept, 4))}) == 3
    assert first[-1]['loss'] == second[-1]['loss'] == -10


@pytest.mark.parametrize('pieces', [(12,), (2, 4, 12)])
def test_a_dead_network_counts_as_diverged_where_that_is_asked_for(tmp_path, pieces):
    """The loss stays what it is from step 4 on, which five logged steps show at step 8; the run
    goes back to before it, also where it is interrupted on the way."""
    rates = optax.piecewise_constant_schedule(1.0, {3: 0.0})
    slow = optax.constant_schedule(0.1)
    dying, mended = (
        dataclasses.replace(recipe(limit=100.0), optimizer=optax.sgd(rate))
        for rate in (rates, slow)
    )
    again = RecoveryAction('learning rate 0.1', lambda: mended)
    options = dict(devices=jax.devices()[:1], recovery_actions=[again])
    options |= EVERY | {'checkpoint_every': 2}
    fit(dying, workdir=tmp_path / 'warned', steps=12, **options)
    for steps in pieces:
        state = fit(dying, workdir=tmp_path / 'ended', steps=steps, end_dead=True, **options)
    warned, ended = (
        json.loads((tmp_path / name / 'summary.json').read_text()) for name in ('warned', 'ended')
    )
    assert not warned['healthy'] and warned['recoveries'] == 0
    assert ended['healthy'] and ended['recoveries'] == 1
    (entry,) = json.loads((tmp_path / 'ended' / 'recoveries' / 'log.json').read_text())
    assert entry['back_to'] < 4 and entry['diverged_at'] == 4
    assert entry['made'] == 8  # whose batches are not used again
    assert Guard(tmp_path / 'ended', [again]).skipped == 8 - entry['back_to']
    np.testing.assert_allclose(
        state.params, -entry['back_to'] - 0.1 * (12 - entry['back_to']), rtol=1e-5
    )


def test_when_no_attempt_is_left_the_end_says_what_was_tried_and_what_is_kept(tmp_path):
    with pytest.raises(Diverged) as caught:
        run(tmp_path, 20, [RecoveryAction('a'), RecoveryAction('b')])
    account = caught.value.account
    assert (
        'diverged at step 11' in account
        and 'All 2 attempts are used' in account
        and 'log.txt' in account
    )
    assert f'step {Checkpoints(tmp_path / "checkpoints").latest()} is kept' in account
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert (
        summary['diverged']
        and not summary['finished']
        and summary['tries_left'] == 0
        and summary['recoveries'] == 2
    )


def test_a_batch_that_is_not_finite_is_left_behind(tmp_path):
    """Batch 9 is not finite: the next attempt continues after the batches already seen, from step 4
    with batch 10."""

    def poisoned(step):
        return {'x': np.full((4, 1), np.nan if step == 9 else 1 + step / 1000, np.float32)}

    state = run(
        tmp_path, 14, [RecoveryAction('other random numbers')], batch_at=poisoned, limit=1e9
    )
    log = json.loads((tmp_path / 'recoveries' / 'log.json').read_text())
    assert (
        len(log) == 1
        and log[0]['diverged_at'] == 10
        and 'its batch holds values that are not finite' in log[0]['why']
    )
    seen = [row['batch'] for row in rows(tmp_path / 'metrics.jsonl')]
    np.testing.assert_allclose(seen, 1 + np.array([0, 1, 2, 3, *range(10, 20)]) / 1000, rtol=1e-6)
    assert int(state.step) == 14


def test_a_gradient_that_is_not_finite_counts(tmp_path):
    """The loss is finite, sqrt has no gradient at 0."""

    def loss(params, key, batch, samples):
        return ({'root': jnp.sqrt(params[0] * 0)}, {})

    with pytest.raises(Diverged, match='grad_norm = nan'):
        fit(
            dataclasses.replace(recipe(1e9), method=fragile()._replace(loss=loss)),
            workdir=tmp_path,
            steps=5,
            devices=jax.devices()[:1],
            **EVERY,
        )


class Killed(BaseException):
    """As if the process had ended."""


def two_actions(batch_at, limit):
    """The recipe of a later attempt is whole: it has the run's own batches and limit."""
    return [
        RecoveryAction('other random numbers'),
        RecoveryAction('rate', lambda: recipe(limit, 0.1, batch_at)),
    ]


def numbered(step):
    return {'x': np.full((4, 1), 1 + step / 1e6, np.float32)}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('whole')
    return workdir, run(workdir, 20, two_actions, numbered)


def assert_same_run(whole, state, workdir):
    whole_dir, whole = whole
    np.testing.assert_array_equal(whole.params, state.params)
    np.testing.assert_array_equal(jax.random.key_data(whole.key), jax.random.key_data(state.key))
    for file in (
        'metrics.jsonl',
        'recoveries/log.txt',
        'recoveries/abandoned_1.jsonl',
        'recoveries/abandoned_2.jsonl',
    ):

        def without_time(workdir, file=file):
            return (
                (workdir / file).read_text()
                if file.endswith('txt')
                else [{**row, 'steps_per_second': 0} for row in rows(workdir / file)]
            )

        assert without_time(whole_dir) == without_time(workdir), file


@pytest.mark.parametrize('moment', [10, 19, 30])
def test_a_run_killed_while_it_recovers_ends_as_one_that_is_not(whole, tmp_path, moment):
    """Killed at the moment-th batch that it asks for: before, between and after two recoveries."""
    asked = []

    def until(step):
        asked.append(step)
        if len(asked) == moment + 2:
            raise Killed
        return numbered(step)

    with pytest.raises(Killed):
        run(tmp_path / 'killed', 20, two_actions, until)
    resumed = run(tmp_path / 'killed', 20, two_actions, numbered)
    assert_same_run(whole, resumed, tmp_path / 'killed')


@pytest.mark.parametrize(
    'where', ['before the log is written', 'after it', 'while states are dropped']
)
def test_a_run_killed_in_the_midst_of_a_recovery_ends_as_one_that_is_not(
    whole, tmp_path, monkeypatch, where
):
    """In its second, which goes further back than the first."""
    number = 2
    write, drop, calls = Guard._write, Checkpoints.drop_after, []

    def killed_write(self, *args):
        calls.append('write')
        if len(calls) == number and where.startswith('after'):
            write(self, *args)
        if len(calls) == number and not where.startswith('while'):
            raise Killed
        write(self, *args)

    def killed_drop(self, step):
        if len(calls) == number and where.startswith('while'):
            raise Killed
        drop(self, step)

    monkeypatch.setattr(Guard, '_write', killed_write)
    monkeypatch.setattr(Checkpoints, 'drop_after', killed_drop)
    with pytest.raises(Killed):
        run(tmp_path, 20, two_actions, numbered)
    monkeypatch.undo()
    assert_same_run(whole, run(tmp_path, 20, two_actions, numbered), tmp_path)


def test_a_signal_at_the_beginning_of_an_attempt_changes_nothing(tmp_path, monkeypatch):
    """It comes with the divergence, so that the next attempt stops before its first step; both
    attempts begin at step 0."""
    go_back, options = Guard.go_back, dict(limit=3.5)
    whole = tmp_path / 'whole', run(tmp_path / 'whole', 20, two_actions, numbered, **options)

    def signalled(self, *args):
        go_back(self, *args)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Guard, 'go_back', signalled)
    for _ in range(2):
        with pytest.raises(Stopped):
            run(tmp_path / 'stopped', 20, two_actions, numbered, **options)
    monkeypatch.undo()
    assert_same_run(
        whole,
        run(tmp_path / 'stopped', 20, two_actions, numbered, **options),
        tmp_path / 'stopped',
    )


def test_the_recovery_actions_that_were_used_cannot_be_taken_back(whole):
    with pytest.raises(
        InputError, match='already gone back 2 times, with other random numbers, rate: keep these'
    ):
        run(whole[0], 30, [RecoveryAction('other random numbers')], numbered)
    Guard(whole[0], [*two_actions(numbered, 9.5), RecoveryAction('one more')])
