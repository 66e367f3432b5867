"""Networks: their size, one example at a time, and what bfloat16 touches."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.cost import count_flops, num_parameters
from ebm_jax.networks import ConvNet, WideResNet, per_example


def test_wide_resnet_28_10_has_the_published_size():
    """36.5 M; by hand: stem 448, blocks of 3x3 and 1x1 weights with biases, dense 6,410."""
    def block(i, o):
        return 9 * i * o + o + 9 * o * o + o + (i * o + o if i != o else 0)
    expected = 9 * 3 * 16 + 16 + 640 * 10 + 10
    for i, o in ((16, 160), (160, 320), (320, 640)):
        expected += block(i, o) + 3 * block(o, o)
    network = per_example(WideResNet(10))
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((32, 32, 3))))
    assert num_parameters(shapes) == expected and round(expected / 1e6, 1) == 36.5


@pytest.mark.parametrize('module, shape', [(ConvNet(10), (8, 8, 1)), (WideResNet(7, depth=10, width=2), (16, 16, 3))])
def test_one_example_is_a_batch_of_one(module, shape):
    network = per_example(module)
    x = jax.random.normal(jax.random.key(1), (3, *shape))
    params = jax.jit(network.init)(jax.random.key(0), x[0])
    whole = jax.jit(module.apply)({'params': params}, x)
    np.testing.assert_allclose(jax.jit(jax.vmap(network.apply, (None, 0)))(params, x), whole, atol=1e-5)
    assert np.std(whole, 0).min() > 0


@pytest.mark.parametrize('make', [lambda dtype: ConvNet(10, dtype=dtype), lambda dtype: WideResNet(10, depth=10, width=1, dtype=dtype)])
def test_bfloat16_keeps_parameters_outputs_and_chain_gradients_in_float32(make):
    x = jax.random.normal(jax.random.key(1), (8, 8, 1))
    half, full = per_example(make(jnp.bfloat16)), per_example(make(jnp.float32))
    params = jax.jit(half.init)(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    out = jax.jit(half.apply)(params, x)
    assert out.dtype == jnp.float32 and jax.eval_shape(jax.grad(lambda x: half.apply(params, x).sum()), x).dtype == jnp.float32
    exact = jax.jit(full.apply)(params, x)
    assert not np.array_equal(out, exact)   # bfloat16 was really used
    np.testing.assert_allclose(out, exact, atol=0.05)


def test_a_depth_that_makes_no_network_is_refused():
    with pytest.raises(ValueError, match='6 n'):
        per_example(WideResNet(10, depth=27)).init(jax.random.key(0), jnp.zeros((8, 8, 3)))


def test_flops_of_a_scan_are_counted_at_its_length():
    w = jnp.ones((16, 32))
    once = count_flops(lambda x: x @ w, jnp.ones((4, 16)))
    assert once == 2 * 4 * 16 * 32
    loop = lambda x: jax.lax.scan(lambda c, _: (c, (c @ w).sum()), x, length=7)[1]
    assert count_flops(jax.jit(loop), jnp.ones((4, 16))) == 7 * once


def test_a_loop_of_unknown_length_counts_as_told():
    w = jnp.ones((16, 16))
    loop = lambda x, n: jax.lax.fori_loop(0, n, lambda t, x: x @ w, x)
    assert count_flops(loop, jnp.ones((4, 16)), 5, loop_length=5) == 5 * 2 * 4 * 16 * 16


def test_energy_and_input_gradient_cost_twice_the_forward_pass():
    network = per_example(ConvNet(10))
    x = jnp.zeros((8, 8, 1))
    params = network.init(jax.random.key(0), x)
    forward = count_flops(network.apply, params, x)
    both = count_flops(lambda p, x: jax.value_and_grad(lambda u: network.apply(p, u).sum())(x), params, x)
    np.testing.assert_allclose(both / forward, 2, rtol=0.01)
