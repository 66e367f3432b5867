"""The sharded step: one device equals eight, pmap equals shard_map, one compilation, terms, what
is not finite."""

import dataclasses
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec
from methods_under_test import make_dual
from trees import as_data

from ebm_jax import adapt, augment, devices, initial, mcmc, replay, teaching, versions
from ebm_jax import objectives as obj
from ebm_jax.methods.icd import icd
from ebm_jax.methods.jem import jem
from ebm_jax.networks import ConvNet, per_example
from ebm_jax.sharding import shard_batch, shard_state, unshard_state
from ebm_jax.train import (
    Recipe,
    TrainState,
    init_state,
    make_local_step,
    make_train_step,
    per_network,
    prepare_batch,
    trace_step,
)
from ebm_jax.types import Method

SHAPE = (8, 8, 1)
NETWORK = per_example(ConvNet(4, (8, 8), (2, 2)))
PREPARE = augment.chain(augment.scale_pixels, augment.random_crop(1), augment.gaussian_noise(0.03))
RNG = np.random.default_rng(0)
BATCHES = [
    {
        'x': RNG.integers(0, 256, (16, *SHAPE), dtype=np.uint8),
        'y': RNG.integers(0, 4, 16).astype(np.int32),
    }
    for _ in range(3)
]
OPTIMIZER = optax.sgd(0.05)  # Adam would hide a gradient that is N times too large


def make_method(**options):
    buffer = replay.class_conditional(initial.uniform(SHAPE), 20, 4, unconditional=0.5)
    return jem(
        NETWORK,
        adapt.adaptive(calls=3),
        buffer,
        num_negatives=16,
        num_steps=3,
        conditional=0.5,
        shards=8,
        weights=obj.balanced,
        alpha=0.5,
        entropy_weight=0.2,
        **options,
    )


METHOD = make_method()


ICD = icd(
    per_example(ConvNet(2, (8, 8), (2, 2))),
    mcmc.langevin(0.1, noise_scale=0.01, bounds=(-1, 1), noise_first=True),
    replay.first_in_first_out(initial.uniform(SHAPE), 4),
    num_negatives=16,
    num_steps=3,
    kl_chains=8,
    population=8,
    population_after=10,
    transition=augment.random_flip,
    shards=8,
)


def recipe(method=METHOD, **options):
    return Recipe(
        **{
            'method': method,
            'optimizer': OPTIMIZER,
            'prepare': PREPARE,
            'batch_at': lambda step: BATCHES[step],
            **options,
        }
    )


def run(train_step, devs, steps=3, **options):
    state = shard_state(init_state(jax.random.key(0), recipe(ema=0.9, **options)), devs)
    seen = []
    for batch in BATCHES[:steps]:
        state, metrics = train_step(state, shard_batch(batch, devs))
        seen.append(jax.device_get(metrics))
    return jax.device_get(unshard_state(state, devs)), seen


@pytest.fixture(scope='module')
def on_one_device():
    devs = jax.devices()[:1]
    return run(make_train_step(recipe(ema=0.9), devices=devs, watch_every=2), devs)


def assert_equal_runs(run_a, run_b):
    (state_a, seen_a), (state_b, seen_b) = run_a, run_b

    chex.assert_trees_all_close(as_data(state_a), as_data(state_b), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(seen_a, seen_b, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize('n', [pytest.param(2, marks=pytest.mark.slow), 8])
def test_one_device_equals_many(on_one_device, n):
    devs = jax.devices()[:n]
    assert len(devs) == n
    train_step = make_train_step(recipe(ema=0.9), devices=devs, watch_every=2)
    assert_equal_runs(run(train_step, devs), on_one_device)


@pytest.mark.slow
def test_one_device_equals_four_with_a_population_of_past_samples():
    def step(devs):
        return make_train_step(recipe(ICD, ema=0.9), devices=devs)

    one, four = (
        run(step(devs), devs, method=ICD) for devs in (jax.devices()[:1], jax.devices()[:4])
    )
    assert_equal_runs(four, one)
    # 16 past samples after the first step
    assert [metrics['kl_entropy'] != 0 for metrics in one[1]] == [False, True, True]


@pytest.mark.parametrize('sequential', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_one_device_equals_four_with_three_networks(sequential):
    method = make_dual(
        teaching.PAPER._replace(x_steps=2, z_steps=2, elbo_data=0.1, sequential=sequential),
        num_negatives=24,
        conditional=True,
    )
    optimizer = per_network(
        {name: optax.sgd(1e-3) for name in ('energy', 'generator', 'inference')}
    )

    def step(devs):
        return make_train_step(
            recipe(method, optimizer=optimizer, ema=0.9), devices=devs, watch_every=2
        )

    one, four = (
        run(step(devs), devs, method=method, optimizer=optimizer)
        for devs in (jax.devices()[:1], jax.devices()[:4])
    )
    assert_equal_runs(four, one)
    assert one[1][1]['grad_norm/contrast'] > 0 and one[1][1]['grad_norm/inference_chain'] > 0


def test_networks_that_a_round_does_not_teach_stay_as_they_are():
    """Adam with momentum would move them without a gradient."""
    optimizer = per_network({'a': optax.adam(0.1), 'b': optax.sgd(1.0)})
    params = {'a': jnp.ones(2), 'b': jnp.ones(3)}
    state = optimizer.init(params)
    _, state = optimizer.update({'a': jnp.ones(2), 'b': jnp.ones(3)}, state, params)
    updates, after = optimizer.update({'b': jnp.full(3, 2.0)}, state, params)
    assert set(updates) == {'b'} and np.all(updates['b'] == -2)
    chex.assert_trees_all_equal(after['a'], state['a'])
    with pytest.raises(ValueError, match='one optimiser for each network'):
        optimizer.init({'a': jnp.ones(2)})


@pytest.mark.skipif(
    not versions.PMAP_IS_SHARD_MAP, reason='see versions.py: JAX 0.7 cannot map its convolution so'
)
def test_pmap_equals_shard_map(on_one_device):
    devs = jax.devices()[:4]
    local = make_local_step(recipe(ema=0.9), watch_every=2)
    mesh = Mesh(devs, (devices.AXIS,), axis_types=(AxisType.Auto,))
    split = PartitionSpec(devices.AXIS)
    specs = TrainState(*[PartitionSpec()] * 4, split, *[PartitionSpec()] * 3)

    def drop(tree):
        # shard_map keeps the device axis, of size 1
        return jax.tree.map(lambda leaf: leaf[0], tree)

    def step(state, batch):
        state, metrics = local(state.replace(chains=drop(state.chains)), drop(batch))
        return state.replace(chains=jax.tree.map(lambda leaf: leaf[None], state.chains)), metrics

    mapped = jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(specs, split),
            out_specs=(specs, PartitionSpec()),
            check_vma=False,
        )
    )
    assert_equal_runs(run(mapped, devs), on_one_device)


@pytest.mark.parametrize('mapped', ['pmap', 'shard_map'])
def test_an_axis_of_another_name_is_refused(mapped):
    """Inside, the mean over devices would silently be that of one device."""
    two = jax.devices()[:2]
    x = jnp.array([[1.0], [3.0]])

    def means(axis):
        if mapped == 'pmap':
            return jax.pmap(devices.mean, axis_name=axis, devices=two)(x)
        mesh, rows = Mesh(two, (axis,)), PartitionSpec(axis)
        share = jax.shard_map(devices.mean, mesh=mesh, in_specs=rows, out_specs=rows)
        return jax.jit(share)(x)

    np.testing.assert_array_equal(means(devices.AXIS), [[2.0], [2.0]])
    if mapped == 'pmap' and not versions.PMAP_IS_SHARD_MAP:
        pytest.skip('see versions.mapped_axes: the older pmap cannot be told from a vmap')
    with pytest.raises(RuntimeError, match="without the axis 'devices'"):
        means('batch')
    with devices.independent():  # each copy is a run of its own
        np.testing.assert_array_equal(means('batch'), x)
    # examples and chains are no devices
    np.testing.assert_array_equal(jax.vmap(devices.mean, axis_name='batch')(x), x)


def linear_method(loss):
    """No chains to speak of: loss(params, batch) -> terms."""
    return Method(
        lambda key, batch: (jnp.array([1.0, 2.0]), {'moved': jnp.zeros(8)}),
        lambda key, params, chains, batch: (jnp.zeros(()), {'moved': chains['moved'] + 1}),
        lambda params, key, batch, samples: (loss(params, batch), {}),
    )


def one_step(method, n=2, watch_every=0, **options):
    devs = jax.devices()[:n]
    run = recipe(method, prepare=lambda key, x: x, **options)
    state = shard_state(init_state(jax.random.key(0), run), devs)
    train_step = make_train_step(run, devices=devs, watch_every=watch_every)
    return train_step(state, shard_batch(BATCHES[0], devs))


def test_the_step_is_compiled_once():
    devs = jax.devices()[:2]
    method = linear_method(lambda p, batch: {'a': p[0]})
    train_step = make_train_step(recipe(method, ema=0.9), devices=devs)
    compilations = []

    def listener(event, seconds, **_):
        return compilations.append(event) if 'jaxpr_to_mlir' in event else None

    state = shard_state(init_state(jax.random.key(0), recipe(method, ema=0.9)), devs)
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        state, _ = train_step(state, shard_batch(BATCHES[0], devs))
        assert compilations
        compilations.clear()
        for batch in BATCHES[1:]:
            state, _ = train_step(state, shard_batch(batch, devs))
        assert not compilations
    finally:
        jax.monitoring.clear_event_listeners()


def test_the_state_is_donated():
    devs = jax.devices()[:2]
    method = linear_method(lambda p, batch: {'a': p[0]})
    state = shard_state(init_state(jax.random.key(0), recipe(method)), devs)
    make_train_step(recipe(method), devices=devs)(state, shard_batch(BATCHES[0], devs))
    assert state.chains['moved'].is_deleted() and state.params.is_deleted()


def test_shard_and_unshard_are_inverse():
    state = init_state(jax.random.key(0), recipe())
    back = unshard_state(shard_state(state, jax.devices()[:4]), jax.devices()[:4])
    np.testing.assert_array_equal(state.chains.buffer.position, back.chains.buffer.position)


def test_gradient_norms_of_the_loss_terms():
    method = linear_method(lambda p, batch: {'a': 3 * p[0] + 4 * p[1], 'b': -3 * p[0]})
    state, metrics = one_step(method, watch_every=1)
    np.testing.assert_allclose(
        [metrics['grad_norm/a'], metrics['grad_norm/b'], metrics['grad_norm']], [5, 3, 4], rtol=1e-6
    )
    np.testing.assert_allclose(metrics['loss'], 8.0)
    np.testing.assert_allclose(state.params, [1.0, 2.0 - 0.05 * 4], rtol=1e-6)


def test_the_gradient_is_the_mean_over_the_whole_batch():
    method = linear_method(
        lambda p, batch: {'a': p[0] * jnp.mean(batch['y'].astype(jnp.float32) ** 2)}
    )
    state, _ = one_step(method, n=8)
    np.testing.assert_allclose(
        state.params[0], 1.0 - 0.05 * np.mean(BATCHES[0]['y'].astype(float) ** 2), rtol=1e-6
    )


def test_moving_average_of_the_parameters():
    state, _ = one_step(linear_method(lambda p, batch: {'a': p[0]}), ema=0.9)
    np.testing.assert_allclose(state.ema_params[0], 0.9 * 1.0 + 0.1 * 0.95, rtol=1e-6)


@pytest.mark.parametrize(
    'bad',
    [lambda p: p[0] * jnp.nan, lambda p: jnp.sqrt(p[0] - 1.0), lambda p: jnp.exp(p[1] * 1000)],
    ids=['loss', 'gradient only', 'overflow'],
)
def test_what_is_not_finite_is_flagged(bad):
    _, metrics = one_step(linear_method(lambda p, batch: {'a': bad(p)}))
    assert not metrics['healthy']
    _, metrics = one_step(linear_method(lambda p, batch: {'a': p[0]}))
    assert metrics['healthy']


def test_a_loss_beyond_the_limit_is_flagged():
    steep = linear_method(lambda p, batch: {'a': -300 * p[0]})
    assert (
        not one_step(steep, limits={'loss': 100.0})[1]['healthy'] and one_step(steep)[1]['healthy']
    )


def test_a_limit_on_what_is_not_measured_is_refused():
    with pytest.raises(ValueError, match="no metric 'gap' to limit: there are .*loss"):
        one_step(linear_method(lambda p, batch: {'a': p[0]}), limits={'gap': 1.0})


def test_a_chain_that_blew_up_is_flagged():
    explosive = jem(
        NETWORK,
        adapt.fixed(mcmc.langevin(1e30, noise_scale=0.0)),
        replay.persistent(initial.uniform(SHAPE), 2),
        num_negatives=8,
        num_steps=4,
        shards=8,
        weights=partial(obj.balanced, beta=0.0),
    )
    devs = jax.devices()[:2]
    state = shard_state(init_state(jax.random.key(0), recipe(explosive)), devs)
    train_step = make_train_step(recipe(explosive), devices=devs)
    _, metrics = train_step(state, shard_batch(BATCHES[0], devs))
    assert not metrics['healthy']


def test_what_does_not_divide_is_refused():
    state = init_state(jax.random.key(0), recipe())
    with pytest.raises(ValueError, match='8 shards .* 3 devices'):
        shard_state(state, jax.devices()[:3])
    with pytest.raises(ValueError, match='batch of 16 .* 3 devices'):
        shard_batch(BATCHES[0], jax.devices()[:3])


def test_a_traced_step_is_the_step():
    """Traced beforehand, as `fit` does, it makes the same bits as traced at its first call."""
    devs, run = jax.devices()[:2], recipe(ema=0.9)
    results = []
    for traced in (None, trace_step(run, 2, watch_every=2)):
        state = shard_state(init_state(jax.random.key(0), run), devs)
        step = make_train_step(run, devices=devs, watch_every=2, traced=traced)
        for batch in BATCHES[:2]:
            state, metrics = step(state, shard_batch(batch, devs))
        results.append((state.params, metrics))
    chex.assert_trees_all_equal(*results)
    assert results[0][1]['grad_norm/negatives'] > 0


def test_further_entries_of_a_batch_are_prepared_under_keys_of_their_own():
    run = dataclasses.replace(recipe(), prepare_more={'more': augment.gaussian_noise(1.0)})
    noise = augment.gaussian_noise(1.0)
    zeros = np.zeros((300, 4), np.float32)
    prepared = prepare_batch(
        {**run.preparations, 'x': noise}, jax.random.key(0), {'x': zeros, 'more': zeros, 'y': 0}
    )
    x, more = prepared['x'].reshape(-1), prepared['more'].reshape(-1)
    assert abs(np.corrcoef(x, more)[0, 1]) < 0.1 and len(np.unique(np.append(x, more))) == 2400
    alone = prepare_batch({'x': noise}, jax.random.key(0), {'x': zeros})
    np.testing.assert_array_equal(alone['x'], prepared['x'])
