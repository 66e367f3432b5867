"""Networks: their size, one example at a time, and what bfloat16 touches."""

import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import versions
from ebm_jax.cost import count_flops, num_parameters
from ebm_jax.networks import (
    Conv1DNet,
    ConvNet,
    Generator,
    InferenceNet,
    MultiScaleEnergy,
    ResidualEnergy,
    SelfAttention,
    SpectralEnergy,
    WideResNet,
    avg_pool_2x,
    per_example,
    spectral,
    standardised,
)
from experiments.common import runs


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


@pytest.mark.parametrize(
    'module, shape', [(ConvNet(10), (8, 8, 1)), (WideResNet(7, depth=10, width=2), (16, 16, 3))]
)
def test_one_example_is_a_batch_of_one(module, shape):
    network = per_example(module)
    x = jax.random.normal(jax.random.key(1), (3, *shape))
    params = jax.jit(network.init)(jax.random.key(0), x[0])
    whole = jax.jit(module.apply)({'params': params}, x)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(network.apply, (None, 0)))(params, x), whole, atol=1e-5
    )
    assert np.std(whole, 0).min() > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    'make',
    [
        lambda dtype: ConvNet(10, dtype=dtype),
        lambda dtype: WideResNet(10, depth=10, width=1, dtype=dtype),
        lambda dtype: MultiScaleEnergy(
            8, (1, 2), 2, attention_after=1, num_classes=10, dtype=dtype
        ),
        lambda dtype: SpectralEnergy((8, 8), (True, False), num_classes=10, dtype=dtype),
        lambda dtype: Generator((8, 8, 1), (8, 8), dtype=dtype),
        lambda dtype: InferenceNet(16, (8, 8), (1, 2), dtype=dtype),
    ],
)
def test_bfloat16_keeps_parameters_outputs_and_chain_gradients_in_float32(make):
    """Energies of all families within .05 of those in float32."""
    module = make(jnp.bfloat16)
    shape = (16,) if isinstance(module, Generator) else (8, 8, 1)
    x = jax.random.normal(jax.random.key(1), shape)
    label = [jnp.int32(3)] if getattr(module, 'num_classes', 0) and 'Energy' in str(module) else []
    half, full = per_example(module), per_example(make(jnp.float32))
    params = jax.jit(half.init)(jax.random.key(0), x, *label)
    # gamma, gain and biases are 0 at first
    params = jax.tree.map(lambda leaf: leaf + 0.01 * (not leaf.any()), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('float32')}

    def total(x):
        return sum(leaf.sum() for leaf in jax.tree.leaves(half.apply(params, x, *label)))

    out, exact = (jax.jit(network.apply)(params, x, *label) for network in (half, full))
    assert jax.eval_shape(jax.grad(total), x).dtype == jnp.float32
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(exact)):
        assert a.dtype == jnp.float32
        assert not np.array_equal(a, b)  # bfloat16 was really used
        np.testing.assert_allclose(a, b, atol=0.05 * max(1, np.abs(b).max()))


def test_a_line_of_convolutions_runs_along_its_axis():
    """One layer by numpy's correlation of the padded line; the other axis, turned, is the same
    network."""
    x = np.random.default_rng(0).normal(size=(2, 9, 3, 1)).astype(np.float32)
    module = Conv1DNet(4, 'time', (5,), (2,), 3)
    params = jax.jit(module.init)(jax.random.key(0), x)['params']
    kernel, bias = params['Conv_0']['kernel'], params['Conv_0']['bias']
    padded = np.pad(x[..., 0], ((0, 0), (1, 1), (0, 0)))
    line = sum(padded[:, a : a + 9 : 2] @ kernel[a, 0] for a in range(3)) + bias
    head = params['Dense_0']
    by_hand = (line / (1 + np.exp(-line))).reshape(2, -1) @ head['kernel'] + head['bias']
    np.testing.assert_allclose(
        jax.jit(module.apply)({'params': params}, x), by_hand, rtol=1e-4, atol=1e-5
    )
    turned = Conv1DNet(4, 'frequency', (5,), (2,), 3)
    np.testing.assert_allclose(
        jax.jit(turned.apply)({'params': params}, x.swapaxes(1, 2)), by_hand, rtol=1e-4, atol=1e-5
    )
    for wrong in (Conv1DNet(4, 'depth'), Conv1DNet(4, widths=(5, 5), strides=(1,))):
        with pytest.raises(ValueError, match='time or frequency'):
            wrong.init(jax.random.key(0), x)


def test_a_depth_that_makes_no_network_is_refused():
    with pytest.raises(ValueError, match='6 n'):
        per_example(WideResNet(10, depth=27)).init(jax.random.key(0), jnp.zeros((8, 8, 3)))


def test_flops_of_a_scan_are_counted_at_its_length():
    w = jnp.ones((16, 32))
    once = count_flops(lambda x: x @ w, jnp.ones((4, 16)))
    assert once == 2 * 4 * 16 * 32

    def loop(x):
        return jax.lax.scan(lambda c, _: (c, (c @ w).sum()), x, length=7)[1]

    assert count_flops(jax.jit(loop), jnp.ones((4, 16))) == 7 * once


def test_a_loop_of_unknown_length_counts_once_and_what_nothing_depends_on_not_at_all():
    w = jnp.ones((16, 16))

    def loop(x, n):
        x @ w @ w
        return jax.lax.fori_loop(0, n, lambda t, x: x @ w, x)

    assert count_flops(loop, jnp.ones((4, 16)), 5) == 2 * 4 * 16 * 16


def test_energy_and_input_gradient_cost_twice_the_forward_pass():
    network = per_example(ConvNet(10))
    x = jnp.zeros((8, 8, 1))
    params = network.init(jax.random.key(0), x)
    forward = count_flops(network.apply, params, x)
    both = count_flops(
        lambda p, x: jax.value_and_grad(lambda u: network.apply(p, u).sum())(x), params, x
    )
    np.testing.assert_allclose(both / forward, 2, rtol=0.01)


# --- residual energies ---


def sizes(module, shape):
    network = per_example(module)
    shapes = jax.eval_shape(
        lambda: network.init(
            jax.random.key(0), jnp.zeros(shape), *([0] if module.num_classes else [])
        )
    )
    return {name: num_parameters(part) for name, part in shapes.items()}


def test_multi_scale_energy_has_the_releases_size():
    """4.86 + 1.30 + 0.41 = 6.56 M at F = 64; the half scale by hand."""

    def block(f, down=None):
        # two convolutions, two norms, way down
        return 2 * (9 * f * f + f) + 2 * 2 * f + (9 * f * down + down if down else 0)

    found = sizes(MultiScaleEnergy(), (32, 32, 3))
    half = (
        27 * 64
        + 64
        + 2 * block(64)
        + 9 * 64 * 64
        + 64
        + 9 * 64 * 128
        + 128
        + 2 * block(64)
        + block(128)
        + block(128, 256)
        + 256
        + 1
    )
    assert found['ResidualEnergy_1'] == half
    assert [round(n / 1e6, 2) for n in found.values()] == [4.86, 1.30, 0.41] and round(
        sum(found.values()) / 1e6, 2
    ) == 6.56


def test_class_gain_and_bias_add_two_numbers_per_channel_norm_and_class():
    small = dict(width=8, stages=(2,), scales=1, plain=False, attention_after=None)
    plain, class_conditional = (
        sum(sizes(MultiScaleEnergy(**small, num_classes=n), (8, 8, 1)).values()) for n in (0, 5)
    )
    assert class_conditional - plain == 2 * 2 * 8 * 5


SMALL = dict(width=8, stages=(2, 2), attention_after=1)
ENERGIES = {
    'plain': dict(
        scales=1, norm=False, kernel_transform=lambda kernel: kernel, attention_after=None
    ),
    'norm': dict(scales=2),
    'spectral': dict(scales=1, norm=False, kernel_transform=spectral),
    'by class': dict(scales=1, num_classes=3, attention_after=None),
}


@pytest.mark.parametrize('name', ENERGIES)
def test_residual_energies_treat_one_example_as_a_batch_of_one(name):
    module = MultiScaleEnergy(**{**SMALL, **ENERGIES[name]})
    network, x = per_example(module), jax.random.normal(jax.random.key(1), (3, 8, 8, 2))
    labels = [jnp.arange(3)] if module.num_classes else []
    params = jax.jit(network.init)(jax.random.key(0), x[0], *(label[0] for label in labels))
    # gains and gamma too
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(2), leaf.shape), params
    )
    whole = jax.jit(module.apply)({'params': params}, x, *labels)
    assert whole.shape == (3, module.scales) and np.std(whole, 0).min() > 1e-4
    np.testing.assert_allclose(
        jax.jit(jax.vmap(network.apply, (None, 0, *[0] * len(labels))))(params, x, *labels),
        whole,
        atol=1e-4,
    )
    if labels:
        other = jax.jit(module.apply)({'params': params}, x, (labels[0] + 1) % 3)
        assert np.abs(other - whole).min() > 1e-5


def test_attention_starts_as_the_identity_and_has_input_gradients():
    """The author says that attention gives poor input gradients: they must at least be there, and
    right (finite differences)."""
    with versions.enable_x64(True):
        x = jax.random.normal(jax.random.key(1), (1, 4, 4, 16))
        module = SelfAttention()
        params = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64), module.init(jax.random.key(0), x)
        )
        np.testing.assert_array_equal(module.apply(params, x), x)
        params['params']['gamma'] = jnp.array(0.7)
        f = jax.jit(lambda x: jnp.sum(jnp.sin(module.apply(params, x))))
        direction = jax.random.normal(jax.random.key(2), x.shape)
        numeric = (f(x + 1e-5 * direction) - f(x - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose(jnp.vdot(jax.grad(f)(x), direction), numeric, rtol=1e-6)


def test_standardised_kernels_have_mean_zero_and_unit_deviation():
    kernel = standardised(jax.random.normal(jax.random.key(0), (3, 3, 5, 7)) * 3 + 1)
    np.testing.assert_allclose(kernel.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(kernel.std((0, 1, 2)), 1, rtol=1e-4)


def test_spectral_kernels_have_norm_one():
    """Against numpy's singular values; gradient as that of W / |W|_2."""
    for channels in (16, 64, 128):  # without a gap between the singular values
        found = np.asarray(
            jax.jit(spectral)(jax.random.normal(jax.random.key(1), (3, 3, channels, channels)))
        )
        np.testing.assert_allclose(
            np.linalg.svd(found.reshape(-1, channels), compute_uv=False)[0], 1, rtol=0.01
        )
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 5, 7)).at[..., 0].multiply(3.0)
    found = np.asarray(jax.jit(spectral)(kernel))
    np.testing.assert_allclose(
        found, kernel / np.linalg.svd(np.reshape(kernel, (-1, 7)), compute_uv=False)[0], rtol=1e-3
    )
    np.testing.assert_allclose(jax.jit(spectral)(1e-7 * kernel), found, rtol=1e-4)
    probe = jax.random.normal(jax.random.key(1), kernel.shape)
    exact = jax.grad(lambda w: jnp.vdot(probe, w / jnp.linalg.norm(w.reshape(-1, 7), 2)))(kernel)
    np.testing.assert_allclose(
        jax.grad(lambda w: jnp.vdot(probe, spectral(w)))(kernel), exact, atol=2e-3
    )


@pytest.mark.parametrize('n', [7, 8])
def test_halved_is_the_average_pool(n):
    x = np.random.default_rng(0).normal(size=(2, n, n, 3)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    m = (n + 1) // 2
    expected = [
        [padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].sum((1, 2)) / 9 for j in range(m)]
        for i in range(m)
    ]
    np.testing.assert_allclose(jax.jit(avg_pool_2x)(x), np.moveaxis(expected, 2, 0), atol=1e-5)


@pytest.mark.parametrize(
    'module, says',
    [
        (MultiScaleEnergy(scales=5), '1 to 4'),
        (ResidualEnergy(width=8, stages=(1,), attention_after=2), 'attention_after'),
        (ResidualEnergy(width=4, stages=(1,), attention_after=1), '8 channels'),
        (ResidualEnergy(width=8, stages=(1, 1, 1, 1)), '1x1'),
        (ResidualEnergy(width=8, stages=(1,), num_classes=2), 'label'),
    ],
)
def test_residual_energies_that_cannot_be_are_refused(module, says):
    with pytest.raises(ValueError, match=says):
        jax.eval_shape(lambda: per_example(module).init(jax.random.key(0), jnp.zeros((4, 4, 1))))


@pytest.mark.parametrize(
    'module, x, millions',
    [
        (Generator((32, 32, 3)), (128,), 16.0),
        (SpectralEnergy(), (32, 32, 3), 16.8),
        (InferenceNet(), (32, 32, 3), 15.2),
        (Generator((64, 64, 3), (1024, 512, 256, 128, 64)), (128,), 12.2),
        (SpectralEnergy((64, 128, 256, 512, 1024), (True,) * 5), (64, 64, 3), 19.5),
        (InferenceNet(strides=(2, 2, 2, 2)), (64, 64, 3), 15.2),
    ],
)
def test_the_networks_of_dual_mcmc_have_the_releases_sizes(module, x, millions):
    network = per_example(module)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros(x)))
    assert round(num_parameters(shapes) / 1e6, 1) == millions


@pytest.mark.slow
@pytest.mark.parametrize('shape, widths', [((8, 8, 1), (8, 4)), ((64, 64, 3), (4, 4, 4, 4, 4))])
def test_generators_make_images_of_their_size_in_range(shape, widths):
    network = per_example(Generator(shape, widths, num_classes=3))
    params = network.init(jax.random.key(0), jnp.zeros(5), 0)
    large = jax.tree.map(lambda leaf: 5 * leaf, params)
    images = jax.vmap(lambda z: network.apply(large, z, 1))(
        jax.random.normal(jax.random.key(1), (3, 5))
    )
    assert (
        images.shape == (3, *shape)
        and np.abs(images).max() <= 1
        and np.abs(images[0] - images[1]).max() > 0.01
    )
    # the label counts
    assert (
        np.abs(network.apply(params, jnp.ones(5), 0) - network.apply(params, jnp.ones(5), 2)).max()
        > 1e-4
    )


def test_the_inference_model_gives_mean_and_log_variance_of_one_example():
    network = per_example(InferenceNet(6, (4, 8), (1, 2), num_classes=2))
    x = jax.random.uniform(jax.random.key(0), (8, 8, 1))
    params = network.init(jax.random.key(0), x, 0)
    mean, log_variance = network.apply(params, x, 0)
    assert mean.shape == log_variance.shape == (6,) and np.abs(mean - log_variance).max() > 1e-3
    assert np.abs(mean - network.apply(params, x, 1)[0]).max() > 1e-4


def test_the_spectral_energy_is_as_smooth_as_its_blocks_allow():
    """Every kernel has norm 1 as a matrix; scaling any of them changes nothing, and the label picks
    its own energy."""
    network = per_example(SpectralEnergy((4, 8), (True, False), num_classes=3))
    x = jax.random.uniform(jax.random.key(0), (8, 8, 1))
    params = network.init(jax.random.key(0), x, 0)
    energies = np.array([network.apply(params, x, label) for label in range(3)])
    assert len(set(energies.round(6))) == 3
    scaled = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if 'bias' in jax.tree_util.keystr(path) else 7 * leaf, params
    )
    np.testing.assert_allclose(
        [network.apply(scaled, x, label) for label in range(3)], energies, rtol=1e-4
    )


@pytest.mark.parametrize(
    'module, inputs, message',
    [
        (Generator((10, 8, 1), (4, 4, 4)), (np.zeros(3),), 'multiples of 4'),
        (InferenceNet(3, (4,), (1, 2)), (np.zeros((8, 8, 1)),), 'equally many'),
        (SpectralEnergy((4,), (True, False)), (np.zeros((8, 8, 1)),), 'equally many'),
        (SpectralEnergy((4, 4), (True, True)), (np.zeros((6, 6, 1)),), 'cannot be halved'),
        (SpectralEnergy((4,), (True,), 3), (np.zeros((8, 8, 1)),), 'call it with a label'),
        (Generator((8, 8, 1), (4, 4), 3), (np.zeros(3),), 'call it with a label'),
    ],
)
def test_networks_that_do_not_fit_their_input(module, inputs, message):
    with pytest.raises(ValueError, match=message):
        per_example(module).init(jax.random.key(0), *inputs)


def test_a_convnet_has_as_many_layers_as_widths():
    """Strides 1, 2, 2 and then 1 where none are given: 16x16 -> 4x4 for three layers and more."""
    x = jnp.zeros((16, 16, 1))
    sizes = []
    for widths in ((4,), (4, 5, 6), (4, 5, 6, 7, 8)):
        network = per_example(ConvNet(3, widths))
        params = network.init(jax.random.key(0), x)
        assert [params[f'Conv_{i}']['kernel'].shape[-1] for i in range(len(widths))] == list(widths)
        sizes.append(params['Dense_0']['kernel'].shape[0] // widths[-1])
    assert sizes == [16 * 16, 4 * 4, 4 * 4]


def test_a_network_with_dropout_is_refused_in_one_sentence():
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.Dropout(0.5, deterministic=False)(x).reshape(len(x), -1))

    network, x = per_example(Dropped()), jnp.ones((2, 2, 1))
    params = network.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match='Dropped draws random numbers'):
        network.apply(params, x)


@pytest.mark.parametrize(
    'name',
    [
        pytest.param('digits_dual_mcmc', marks=pytest.mark.slow),
        'digits_energy_matching',
        'digits_discrete',
    ],
)
def test_an_energy_whose_constant_nothing_teaches_has_none(name):
    """Moving any parameter changes more than the constant of the energy. digits_discrete: where it
    has squared energies, the bias is there, and taught."""
    module = importlib.import_module(f'experiments.{name}')
    config = module.get_config()
    for l2_weight in (0.0, 1e-3) if name == 'digits_discrete' else (None,):
        if l2_weight is not None:
            config.loss.l2_weight = l2_weight
        experiment = runs.build(module, config)
        params = experiment.recipe.method.init(
            jax.random.key(0), {'x': jnp.zeros((2, 8, 8, 1)), 'y': jnp.zeros(2, jnp.int32)}
        )[0]
        params = params.get('energy', params)
        network = experiment.model.networks.get('energy') or experiment.model.networks['network']
        images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))

        def differences(params, network=network, images=images):
            energies = jax.vmap(lambda x: jnp.sum(network.apply(params, x)))(images)
            return energies[1:] - energies[0]

        moved = jax.jit(jax.jacobian(differences))(params)
        constants = [
            jax.tree_util.keystr(path)
            for path, leaf in jax.tree_util.tree_leaves_with_path(moved)
            if not np.any(leaf)
        ]
        assert [path[-8:] for path in constants] == (["['bias']"] if l2_weight else [])
