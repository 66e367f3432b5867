"""The convolution: same values and gradients as XLA's, and no slow layout inside a scan."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ebm_jax import batching, mcmc
from ebm_jax.conv import DIMENSIONS, conv
from ebm_jax.networks import ConvNet, WideResNet, per_example
from ebm_jax.objectives import marginal_energy

CASES = [
    ((8, 8), 8, (3, 3), (1, 1), 'SAME'),
    ((7, 9), 8, (3, 5), (1, 1), 'SAME'),
    ((8, 8), 8, (2, 2), (1, 1), 'VALID'),
    ((9, 8), 8, (3, 3), (2, 2), 'SAME'),
    ((8, 8), 8, (1, 1), (2, 2), 'SAME'),
    ((8, 8), 1, (3, 3), (1, 1), 'SAME'),
    ((8, 8), 8, (3, 3), (2, 1), ((1, 2), (0, 1))),
    ((6, 6), 8, (4, 4), (1, 1), ((2, 1), (0, 3))),
]


@pytest.mark.parametrize('size, channels, window, strides, padding', CASES)
def test_values_and_gradients_equal_xlas(size, channels, window, strides, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*window, channels, 6)), jnp.float32)

    def ours(x, k):
        return conv(x, k, strides, padding, dimension_numbers=DIMENSIONS)

    def theirs(x, k):
        return lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=DIMENSIONS)

    np.testing.assert_allclose(ours(x, kernel), theirs(x, kernel), atol=1e-4)
    weight = jnp.asarray(rng.normal(size=theirs(x, kernel).shape), jnp.float32)

    def scalar(f):
        return lambda x, k: jnp.sum(weight * jnp.tanh(f(x, k)))

    gradients = [jax.grad(scalar(f), (0, 1))(x, kernel) for f in (ours, theirs)]
    chex.assert_trees_all_close(*gradients, rtol=1e-7, atol=1e-4)


def test_second_order_equals_xlas():
    """The gradient, with respect to the weights, of the norm of an input gradient (what ICD's KL
    term needs)."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 6, 6, 8)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 8, 8)), jnp.float32) / 5

    def norm(f):
        def energy(x, k):
            return jnp.sum(jnp.tanh(f(jnp.tanh(f(x, k)), k)))

        return jax.grad(lambda k: jnp.sum(jax.grad(energy)(x, k) ** 2))(kernel)

    ours = norm(lambda x, k: conv(x, k, dimension_numbers=DIMENSIONS))
    theirs = norm(
        lambda x, k: lax.conv_general_dilated(x, k, (1, 1), 'SAME', dimension_numbers=DIMENSIONS)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def slow_layouts(module, shape):
    """Kernel layouts of the convolutions in a compiled, scanned chain that XLA:CPU runs in its
    naive loop."""
    network = per_example(module)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros(shape))

    def chain(params, keys, x):
        return mcmc.run_chains(
            keys,
            mcmc.langevin(0.1, noise_scale=0.1),
            lambda x: marginal_energy(network.apply(params, x)),
            x,
            5,
        )[0]

    text = (
        jax.jit(chain)
        .lower(params, jax.random.split(jax.random.key(0), 4), jnp.zeros((4, *shape)))
        .compile()
        .as_text()
    )
    assert 'while' in text
    layouts = re.findall(r'dim_labels=\w+_(\w+)->', text)
    return [layout for layout in layouts if layout != '01io'] + re.findall(
        r'[lr]hs_dilate=\S+', text
    ), layouts


@pytest.mark.skipif(
    jax.default_backend() != 'cpu', reason='the slow layout is a matter of the CPU backend'
)
@pytest.mark.parametrize(
    'module, shape', [(ConvNet(10), (8, 8, 1)), (WideResNet(10, depth=10, width=1), (16, 16, 3))]
)
def test_a_scanned_chain_has_only_fast_convolutions(module, shape):
    slow, _ = slow_layouts(module, shape)
    assert not slow


@pytest.mark.skipif(
    jax.default_backend() != 'cpu', reason='the slow layout is a matter of the CPU backend'
)
def test_xlas_own_gradient_would_be_found_slow(monkeypatch):
    """The check above can fail: with XLA's rule in place of ours it does."""
    import flax.linen as nn

    from ebm_jax.networks import classifiers

    monkeypatch.setattr(classifiers, 'Conv', nn.Conv)
    slow, layouts = slow_layouts(ConvNet(10), (8, 8, 1))
    assert slow and layouts


def test_the_weight_gradient_of_a_mapped_batch_is_one_convolution():
    """The mean over examples of a loss of one example is a loss of the batch: its gradient must not
    be made for each example (a grouped convolution) and added up."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(5, 6, 6, 8)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 8, 8)), jnp.float32)

    def one(kernel, x):
        return jnp.sum(jnp.tanh(conv(x[None], kernel, dimension_numbers=DIMENSIONS)))

    def mapped(kernel):
        return jnp.sum(jax.vmap(one, (None, 0))(kernel, x))

    def batch(kernel):
        return jnp.sum(jnp.tanh(conv(x, kernel, dimension_numbers=DIMENSIONS)))

    gradient = jax.jit(jax.grad(mapped))
    np.testing.assert_allclose(gradient(kernel), jax.grad(batch)(kernel), rtol=1e-5, atol=1e-5)
    text = gradient.lower(kernel).as_text()
    assert 'convolution' in text
    assert set(re.findall(r'feature_group_count = (\d+)', text)) == {'1'}


def test_forward_mode_and_kernels_of_each_example():
    rng = np.random.default_rng(0)
    x, dx = jnp.asarray(rng.normal(size=(2, 3, 5, 5, 8)), jnp.float32)
    kernels = jnp.asarray(rng.normal(size=(3, 3, 3, 8, 4)), jnp.float32)

    def ours(x, k):
        return conv(x[None], k, dimension_numbers=DIMENSIONS)

    def theirs(x, k):
        return lax.conv_general_dilated(x[None], k, (1, 1), 'SAME', dimension_numbers=DIMENSIONS)

    def along(f):
        return jax.jvp(lambda x: jax.vmap(f)(x, kernels), (x,), (dx,))

    chex.assert_trees_all_close(along(ours), along(theirs), rtol=1e-5, atol=1e-4)


def test_the_gradient_follows_the_platform_that_is_compiled_for():
    """A program for a TPU has XLA's own transposed convolution, also where the CPU is JAX's default
    platform; one for the CPU does not."""

    def energy(x, kernel):
        return jnp.sum(jnp.tanh(conv(x, kernel, dimension_numbers=DIMENSIONS)))

    shapes = jnp.zeros((2, 6, 6, 8)), jnp.zeros((3, 3, 8, 4))
    traced = jax.jit(jax.grad(energy)).trace(*shapes)
    transposed = '[0, 1, o, i]'  # of kernels
    assert transposed in traced.lower(lowering_platforms=('tpu',)).as_text()
    assert transposed not in traced.lower(lowering_platforms=('cpu',)).as_text()


def test_gradients_of_examples_in_batches_over_devices_are_those_of_each():
    """As in sampling, by `batching.for_each`: the gradient of a mapped network, its images split
    over all devices."""
    network = per_example(ConvNet(10, widths=(4, 8), strides=(1, 2)))
    x = np.asarray(jax.random.normal(jax.random.key(1), (19, 8, 8, 3)))
    params = network.init(jax.random.key(0), x[0])

    def gradient(params, key, x):
        return jax.grad(lambda x: marginal_energy(network.apply(params, x)))(x)

    found = batching.for_each(gradient, params, jax.random.key(2), [x], description='gradients')
    expected = [gradient(params, None, jnp.asarray(one)) for one in x]
    assert jax.local_device_count() == 8
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=1e-6)
