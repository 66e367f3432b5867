"""Buffers: what is drawn, what is written back, and how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from ebm_jax import initial, replay, versions
from ebm_jax.types import UNCONDITIONAL


def NONE(n):
    return jnp.full(n, UNCONDITIONAL, jnp.int32)


STARTS = initial.uniform((2,))
BUFFERS = {
    'persistent': replay.persistent(STARTS, 40, restart=0.0),
    'fifo': replay.first_in_first_out(STARTS, 40, restart=0.0),
    'reservoir': replay.reservoir(STARTS, 40, restart=0.0),
    'class_conditional': replay.class_conditional(STARTS, 40, 3, unconditional=0.25, restart=0.0),
}


def filled(buffer, rounds=30, n=8):
    """A buffer after some rounds, the position of the t-th chain ever written being (t, t)."""

    def one_round(state, t):
        draw = buffer.draw(jax.random.key(2 * t), state, n, NONE(n))
        x = jnp.broadcast_to((t * n + jnp.arange(n))[:, None], (n, 2)).astype(jnp.float32)
        return buffer.write(jax.random.key(2 * t + 1), state, draw, x), None

    return jax.jit(lambda state: jax.lax.scan(one_round, state, jnp.arange(rounds))[0])(
        buffer.init(jax.random.key(9))
    )


@pytest.mark.parametrize('name', BUFFERS)
def test_draws_are_without_replacement(name):
    buffer = BUFFERS[name]
    state = filled(buffer)
    n = 10
    draws = jax.vmap(lambda key: buffer.draw(key, state, n, NONE(n)).index)(
        jax.random.split(jax.random.key(0), 200)
    )
    assert all(len(set(row)) == n for row in np.asarray(draws))


@pytest.mark.parametrize('name', ['persistent', 'fifo', 'reservoir'])
def test_draws_are_uniform(name):
    buffer = BUFFERS[name]
    state = filled(buffer)
    draws = jax.vmap(lambda key: buffer.draw(key, state, 8, NONE(8)).index)(
        jax.random.split(jax.random.key(1), 4000)
    )
    assert chisquare(np.bincount(np.asarray(draws).ravel(), minlength=40)).pvalue > 1e-3


@pytest.mark.parametrize('name', ['persistent', 'class_conditional'])
def test_draw_then_write_changes_nothing_but_the_age(name):
    buffer = BUFFERS[name]
    state = filled(buffer, rounds=3)
    draw = buffer.draw(jax.random.key(5), state, 8, NONE(8))
    after = buffer.write(jax.random.key(6), state, draw, draw.position)
    np.testing.assert_array_equal(after.position, state.position)
    np.testing.assert_array_equal(after.label, state.label)
    expected = np.array(state.age)
    expected[np.asarray(draw.index)] += 1
    np.testing.assert_array_equal(after.age, expected)


def test_written_positions_come_back_from_their_entries():
    buffer = BUFFERS['persistent']
    state = buffer.init(jax.random.key(0))
    draw = buffer.draw(jax.random.key(1), state, 5, NONE(5))
    state = buffer.write(jax.random.key(2), state, draw, draw.position + 100)
    np.testing.assert_allclose(state.position[draw.index], draw.position + 100)
    assert np.sum(np.asarray(state.position) > 50) == 10


@pytest.mark.parametrize('name', BUFFERS)
def test_restarts_come_at_their_rate_with_age_zero(name):
    make = {
        'persistent': replay.persistent,
        'fifo': replay.first_in_first_out,
        'reservoir': replay.reservoir,
        'class_conditional': lambda *a, **k: replay.class_conditional(
            *a, 3, unconditional=0.25, **k
        ),
    }[name]
    buffer = make(STARTS, 40, restart=0.3)
    state = filled(buffer)
    state = state.replace(position=state.position + 1000, age=state.age + 5)
    draw = jax.vmap(lambda key: buffer.draw(key, state, 8, NONE(8)))(
        jax.random.split(jax.random.key(3), 1000)
    )
    restarted = np.all(np.abs(np.asarray(draw.position)) <= 1, -1)
    np.testing.assert_allclose(restarted.mean(), 0.3, atol=0.03)  # sd 0.005
    assert np.all((np.asarray(draw.age) == 0) == restarted)


def test_class_blocks_keep_their_labels_and_shares():
    buffer = BUFFERS['class_conditional']
    state = buffer.init(jax.random.key(0))
    np.testing.assert_array_equal(np.bincount(np.asarray(state.label) + 1), [10, 10, 10, 10])
    wanted = jnp.array([2, 0, UNCONDITIONAL, 2, 1, 2, UNCONDITIONAL, 0])
    for seed in range(50):
        draw = buffer.draw(jax.random.key(seed), state, 8, wanted)
        np.testing.assert_array_equal(state.label[draw.index], wanted)
        assert len(set(np.asarray(draw.index))) == 8
        state = buffer.write(jax.random.key(seed), state, draw, draw.position)
    np.testing.assert_array_equal(np.bincount(np.asarray(state.label) + 1), [10, 10, 10, 10])


def test_draws_are_uniform_within_a_class():
    buffer = BUFFERS['class_conditional']
    state = buffer.init(jax.random.key(0))
    wanted = jnp.ones(4, jnp.int32)
    draws = jax.vmap(lambda key: buffer.draw(key, state, 4, wanted).index)(
        jax.random.split(jax.random.key(1), 4000)
    )
    counts = np.bincount(np.asarray(draws).ravel(), minlength=40)
    assert chisquare(counts[20:30]).pvalue > 1e-3 and counts.sum() == counts[20:30].sum()


def test_without_a_block_for_them_unconditional_chains_restart():
    buffer = replay.class_conditional(STARTS, 40, 3, unconditional=0.0, restart=0.0)
    state = buffer.init(jax.random.key(0)).replace(age=jnp.full(40, 7, jnp.int32))
    draw = buffer.draw(
        jax.random.key(1), state, 6, jnp.array([UNCONDITIONAL, 0, 0, UNCONDITIONAL, 1, 2])
    )
    np.testing.assert_array_equal(draw.age, [0, 7, 7, 0, 7, 7])
    after = buffer.write(jax.random.key(2), state, draw, draw.position + 100)
    assert np.sum(np.asarray(after.position[:, 0]) > 50) == 4 and np.all(after.label == state.label)


def test_a_tiny_share_still_has_its_block():
    state = replay.class_conditional(STARTS, 256, 10, unconditional=0.001).init(jax.random.key(0))
    assert np.sum((np.asarray(state.label) == UNCONDITIONAL) & (np.asarray(state.age) >= 0)) == 1


def test_first_in_first_out_holds_the_newest():
    state = filled(BUFFERS['fifo'], rounds=30, n=8)
    np.testing.assert_array_equal(np.sort(state.position[:, 0]), np.arange(200, 240))


def test_reservoir_occupancy_is_uniform_over_all_ever_written():
    buffer = replay.reservoir(STARTS, 20, restart=0.0)

    def occupied(key):
        def one_round(state, t):
            draw = buffer.draw(key, state, 5, NONE(5))
            x = jnp.broadcast_to((t * 5 + jnp.arange(5))[:, None], (5, 2)).astype(jnp.float32)
            return buffer.write(jax.random.fold_in(key, t), state, draw, x), None

        return jax.lax.scan(one_round, buffer.init(key), jnp.arange(16))[0].position[:, 0]

    kept = np.asarray(
        jax.jit(jax.vmap(occupied))(jax.random.split(jax.random.key(0), 3000))
    ).astype(int)
    counts = np.bincount(kept.ravel(), minlength=80)
    # Each of 80 samples is kept with probability 1/4: the counts are negatively correlated, so
    # chi-square errs on the safe side.
    np.testing.assert_allclose(counts / 3000, 0.25, atol=0.035)
    assert all(len(set(row)) == 20 for row in kept)


def test_chains_restart_in_empty_entries_and_filled_ones_come_first():
    buffer = BUFFERS['fifo']
    state = filled(buffer, rounds=1, n=8)
    draw = buffer.draw(jax.random.key(0), state, 12, NONE(12))
    assert np.sum(np.asarray(draw.age) > 0) == 8 and np.sum(np.asarray(draw.age) == 0) == 4
    assert set(range(8)) <= set(np.asarray(draw.index))


def test_fresh_chains_have_no_memory():
    buffer = replay.fresh(STARTS)
    state = buffer.init(jax.random.key(0))
    a, b = (buffer.draw(jax.random.key(k), state, 6, NONE(6)) for k in (1, 2))
    assert np.all(np.asarray(a.age) == 0) and not np.any(np.isin(a.position, b.position))


RNG = np.random.default_rng(0)
GAUSSIANS = initial.ClassGaussians(
    RNG.uniform(-0.2, 0.2, (2, 2, 2, 1)),
    RNG.normal(0, 0.1, (2, 3, 2, 2, 1)),
    np.array([0.05, 0.02]),
)


@pytest.mark.parametrize(
    'start',
    [
        initial.uniform((2, 2, 1)),
        initial.normal((2, 2, 1)),
        initial.bernoulli((2, 2, 1)),
        initial.class_gaussian((2, 2, 1), GAUSSIANS),
    ],
)
def test_initial_positions_are_float32_under_x64_too(start):
    with versions.enable_x64(True):
        assert start(jax.random.key(0), jnp.int32(1)).dtype == jnp.float32


def test_gaussian_initial_sampler_has_the_moments_of_its_class():
    means, factors, _ = GAUSSIANS
    start = initial.class_gaussian((2, 2, 1), GAUSSIANS.to_text())
    keys = jax.random.split(jax.random.key(0), 20_000)
    x = np.asarray(jax.vmap(lambda key: start(key, jnp.int32(1)))(keys)).reshape(-1, 4)
    np.testing.assert_allclose(x.mean(0), means[1].ravel(), atol=0.005)
    rows = factors[1].reshape(3, 4)
    np.testing.assert_allclose(np.cov(x.T), rows.T @ rows + 0.02**2 * np.eye(4), atol=0.002)
    either = jax.vmap(lambda key: start(key, jnp.int32(UNCONDITIONAL)))(keys)
    np.testing.assert_allclose(either.mean(0), means.mean(0), atol=0.01)


def test_fitted_gaussians_are_those_of_scikit_learn():
    """Class by class: scikit-learn's PCA has the same model (its get_covariance); sizes are kept,
    a larger grid is reached by linear interpolation, and the text loses nothing."""
    decomposition = pytest.importorskip('sklearn.decomposition')
    rng = np.random.default_rng(1)
    y = np.arange(400) % 2
    mixing = rng.normal(size=(2, 16, 16)) * np.linspace(0.02, 0.3, 16)
    x = np.einsum('nd,nde->ne', rng.normal(size=(400, 16)), mixing[y]).reshape(400, 4, 4, 1)
    found = initial.fit_class_gaussians(x, y, 2, side=4, rank=5)
    for label in range(2):
        own = x[y == label].reshape(-1, 16)
        oracle = decomposition.PCA(5).fit(own)
        rows = found.factors[label].reshape(5, 16)
        covariance = rows.T @ rows + found.noise[label] ** 2 * np.eye(16)
        # scikit-learn divides by n - 1
        np.testing.assert_allclose(
            covariance, oracle.get_covariance() * (len(own) - 1) / len(own), atol=5e-4
        )
        np.testing.assert_allclose(found.means[label].ravel(), oracle.mean_, atol=6e-5)
    for same, part in zip(initial.ClassGaussians.from_text(found.to_text()), found, strict=True):
        np.testing.assert_array_equal(same, part)
    still = found._replace(factors=0 * found.factors, noise=0 * found.noise)
    larger = initial.class_gaussian((8, 8, 1), still)(jax.random.key(0), jnp.int32(1))
    expected = jax.image.resize(found.means[1], (8, 8, 1), 'linear')
    np.testing.assert_allclose(larger, expected, atol=1e-6)


@pytest.mark.parametrize(
    'make, said',
    [
        (
            lambda: initial.fit_class_gaussians(np.zeros((3, 4, 4, 1)), [0, 0, 1], 2),
            'class 1 has 1',
        ),
        (lambda: initial.fit_class_gaussians(np.zeros((3, 2, 2, 1)), [0, 0, 0], 1, rank=4), 'rank'),
        (lambda: initial.fit_class_gaussians(np.zeros((3, 4)), [0, 0, 0], 1), 'x must be'),
        (lambda: initial.class_gaussian((2, 2, 1), 'bm8='), 'not the text of ClassGaussians'),
        (lambda: initial.class_gaussian((32, 32, 3), GAUSSIANS), r'\(2, 2, 1\) do not fit'),
        (
            lambda: initial.class_gaussian((2, 2, 1), GAUSSIANS._replace(noise=np.ones(3))),
            'do not agree',
        ),
    ],
)
def test_gaussians_that_cannot_be_fitted_or_read_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    'make',
    [
        lambda: replay.persistent(STARTS, 0),
        lambda: replay.persistent(STARTS, 10, restart=1.5),
        lambda: replay.class_conditional(STARTS, 10, 20),
        lambda: replay.class_conditional(STARTS, 10, 2, unconditional=1.0),
        lambda: BUFFERS['persistent'].draw(
            jax.random.key(0), BUFFERS['persistent'].init(jax.random.key(0)), 41, NONE(41)
        ),
        lambda: BUFFERS['class_conditional'].draw(
            jax.random.key(0), BUFFERS['class_conditional'].init(jax.random.key(0)), 11, NONE(11)
        ),
    ],
)
def test_what_cannot_work_is_refused(make):
    with pytest.raises(ValueError):
        make()


# --- past samples ---


@pytest.mark.parametrize('name', BUFFERS)
def test_past_samples_come_from_chains_and_not_from_the_initial_sampler(name):
    """After one round of 8 in a buffer of 40: at most those 8 are present, each once; before any
    round none is, whatever the initial positions."""
    buffer = BUFFERS[name]
    _, present = buffer.sample_past(jax.random.key(0), buffer.init(jax.random.key(9)), 20)
    assert not present.any()
    state = filled(buffer, rounds=1)
    positions, present = buffer.sample_past(jax.random.key(0), state, 20)
    seen = np.asarray(positions)[np.asarray(present)]
    assert sorted(seen[:, 0].tolist()) == list(range(8)) and np.all(seen[:, 0] == seen[:, 1])
    fewer = [
        np.asarray(buffer.sample_past(jax.random.key(k), state, 4)[0])[:, 0] for k in range(200)
    ]
    # uniformly among the eight
    assert chisquare(np.bincount(np.concatenate(fewer).astype(int), minlength=8)).pvalue > 1e-3


def test_pools_are_their_shards_one_by_one():
    buffer, pool = BUFFERS['fifo'], replay.sharded(BUFFERS['fifo'])
    keys, state = jax.random.split(jax.random.key(1), 3), pool.init(jax.random.key(0), 3)
    draw = pool.draw(keys, state, jnp.full((3, 4), UNCONDITIONAL))

    def one(i):
        return jax.tree.map(lambda leaf: leaf[i], state)

    for i in range(3):
        alone = buffer.draw(keys[i], one(i), 4, NONE(4))
        np.testing.assert_array_equal(draw.position[4 * i : 4 * i + 4], alone.position)
    x = jnp.arange(24.0).reshape(12, 2)
    state = pool.write(keys, state, draw, x)
    np.testing.assert_array_equal(np.sort(state.position[1, :, 0])[-4:], x[4:8, 0])
    assert pool.num_past(state) == 12
    positions, present = pool.sample_past(keys, state, 5)
    assert positions.shape == (15, 2) and present.sum() == 12
