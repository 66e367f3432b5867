"""Chains on discrete energies against enumeration."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import initial, kernels

VISIBLE, HIDDEN = 7, 5
W = 0.8 * np.random.default_rng(0).normal(size=(VISIBLE, HIDDEN)).astype(np.float32)
A, B = (np.random.default_rng(n).normal(size=n).astype(np.float32) for n in (VISIBLE, HIDDEN))


def rbm(v):
    """Binary units in {-1, 1}, as 0 and 1."""
    v = (v + 1) / 2
    return -v @ A - jnp.sum(jax.nn.softplus(B + v @ W))


def run(kernel, energy, begin, steps, chains, keep):
    """Statistics keep(x) of all chains at the later half of their steps: [chains, ...] means."""
    keys = jax.random.split(jax.random.key(1), chains)

    def one(key):
        x0 = begin(jax.random.fold_in(key, 7))

        def step(carry, t):
            state, total = carry
            state, _ = kernel.step(jax.random.fold_in(key, t), state, energy)
            late = t >= steps // 2
            total = jax.tree.map(
                lambda s, new: s + jnp.where(late, new, 0.0), total, keep(state.position)
            )
            return (state, total), None

        zero = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, jnp.float32), keep(x0))
        (_, total), _ = jax.lax.scan(step, (kernel.init(x0, energy), zero), jnp.arange(steps))
        return jax.tree.map(lambda s: s / (steps - steps // 2), total)

    return jax.tree.map(lambda leaf: np.asarray(leaf).mean(0), jax.jit(jax.vmap(one))(keys))


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_an_rbm_has_its_marginals_by_enumeration(temperature):
    states = np.array(list(itertools.product([-1.0, 1.0], repeat=VISIBLE)), np.float32)
    p = np.asarray(jax.nn.softmax(-jax.vmap(rbm)(states) / temperature))
    start = initial.bernoulli((VISIBLE,))
    pairs = run(
        kernels.gibbs_with_gradients(temperature=temperature),
        rbm,
        lambda key: start(key, 0),
        2000,
        200,
        lambda v: jnp.outer(v > 0, v > 0).astype(jnp.float32),
    )
    on = states > 0
    exact = np.einsum('s,si,sj->ij', p, on, on)
    np.testing.assert_allclose(pairs, exact, atol=0.01)


def test_categories_and_binary_entries_in_one_pytree():
    """A coupling of one-hot vectors with each other and with binary entries, values 0 and 1."""
    rng = np.random.default_rng(3)
    couple, bias = rng.normal(size=(3, 3)), rng.normal(size=(2, 3))
    link = rng.normal(size=(3, 2))

    def energy(x):
        c, b = x['category'], x['bits']
        return c[0] @ couple @ c[1] + jnp.sum(bias * c) + c[1] @ link @ b

    eye = np.eye(3)
    states = [
        {'category': np.stack([eye[i], eye[j]]), 'bits': np.array(bits, float)}
        for i, j in itertools.product(range(3), repeat=2)
        for bits in itertools.product([0, 1], repeat=2)
    ]
    p = np.asarray(jax.nn.softmax(-jnp.array([energy(state) for state in states])))
    exact = {
        name: sum(weight * state[name] for weight, state in zip(p, states))
        for name in ('category', 'bits')
    }

    def begin(key):
        return {'category': jnp.eye(3)[jnp.array([0, 2])], 'bits': jnp.zeros(2)}

    kernel = kernels.gibbs_with_gradients(
        values=(0.0, 1.0), one_hot={'category': True, 'bits': False}
    )
    found = run(kernel, energy, begin, 2000, 200, lambda x: x)
    chex.assert_trees_all_close(found, exact, atol=0.01)


def test_ising_model_has_its_exact_mean_energy():
    """A ring of n spins at coupling J: Z = (2 cosh J)^n + (2 sinh J)^n."""
    n, coupling = 10, 0.6

    def energy(s):
        return -coupling * jnp.sum(s * jnp.roll(s, 1))

    c, s = np.cosh(coupling), np.sinh(coupling)
    slope = n * (2 * c) ** (n - 1) * 2 * s + n * (2 * s) ** (n - 1) * 2 * c
    exact = -coupling * slope / ((2 * c) ** n + (2 * s) ** n)  # -J d log Z / dJ
    start = initial.bernoulli((n,))
    mean = run(kernels.gibbs_with_gradients(), energy, lambda key: start(key, 0), 2000, 300, energy)
    assert mean == pytest.approx(exact, rel=0.01)


def test_refusals_and_the_initial_distribution():
    with pytest.raises(ValueError, match='temperature'):
        kernels.gibbs_with_gradients(temperature=0.0)
    with pytest.raises(ValueError, match='low < high'):
        kernels.gibbs_with_gradients(values=(1.0, 1.0))
    drawn = initial.bernoulli((4000,), 0.3, (0.0, 5.0))(jax.random.key(0), 0)
    assert set(np.unique(drawn)) == {0.0, 5.0}
    assert np.mean(np.asarray(drawn) > 0) == pytest.approx(0.3, abs=0.03)
