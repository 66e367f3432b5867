"""Small methods of every kind, and what the tests of methods do with them."""

import functools
import math
import pathlib
import re
from functools import partial

import jax
import jax.numpy as jnp

from ebm_jax import adapt, initial, kernels, mcmc, replay, teaching
from ebm_jax import objectives as obj
from ebm_jax.methods import dual_mcmc
from ebm_jax.methods.dat import dat
from ebm_jax.methods.energy_matching import energy_matching
from ebm_jax.methods.icd import icd
from ebm_jax.methods.jem import jem
from ebm_jax.networks import ConvNet, per_example
from ebm_jax.types import Network

CLASSES, SHAPE = 4, (8, 8, 1)
START = initial.uniform(SHAPE)
KERNEL = mcmc.langevin(0.1, noise_scale=0.01)
NETWORK = per_example(ConvNet(CLASSES, (8, 8), (2, 2)))
BATCH = {
    'x': jax.random.uniform(jax.random.key(8), (16, *SHAPE), minval=-1, maxval=1),
    'y': jax.random.randint(jax.random.key(9), (16,), 0, CLASSES),
}


def make_jem(network=NETWORK, sampler=adapt.fixed(KERNEL), start=START, **options):
    buffer = replay.class_conditional(start, 40, CLASSES, unconditional=0.5, restart=0.1)
    return jem(
        network,
        sampler,
        buffer,
        **{'num_negatives': 16, 'num_steps': 3, 'conditional': 0.5, 'shards': 4, **options},
    )


SCALES = per_example(ConvNet(2, (8, 8), (2, 2)))  # energies of two scales
BY_LABEL = Network(
    lambda key, x, label: NETWORK.init(key, x),
    lambda params, x, label: -NETWORK.apply(params, x)[label],
)
NOISE_FIRST = mcmc.langevin(0.1, noise_scale=0.01, bounds=(-1, 1), noise_first=True)


def make_icd(network=SCALES, kernel=NOISE_FIRST, buffer=None, **options):
    buffer = buffer or replay.first_in_first_out(START, 8, restart=0.1)
    return icd(
        network,
        kernel,
        buffer,
        **{
            'num_negatives': 16,
            'num_steps': 3,
            'kl_chains': 8,
            'population': 8,
            'population_after': 10,
            'shards': 4,
            **options,
        },
    )


LATENT = 3
PIXELS = math.prod(SHAPE)


def dense(inputs, outputs, then):
    """then(W x + b): networks that compile at once."""

    def start(key):
        return {
            'w': 0.3 * jax.random.normal(key, (outputs, inputs)) / inputs**0.5,
            'b': jnp.full(outputs, 0.1),
        }

    return Network(
        lambda key, x, *label: start(key),
        lambda params, x, *label: then(
            params['w'] @ x.reshape(-1) + params['b'] + 0.1 * sum(label)
        ),
    )


ENERGY = dense(PIXELS, 8, lambda h: jnp.sum(jnp.tanh(h)))
GENERATOR = dense(LATENT, PIXELS, lambda h: jnp.tanh(h).reshape(SHAPE))
INFERENCE = dense(PIXELS, 2 * LATENT, lambda h: (h[:LATENT], h[LATENT:]))


def make_dual(settings=teaching.PAPER._replace(x_steps=3, z_steps=3), **options):
    used = teaching.needs(settings).networks
    networks = [
        network if used[name] else None
        for name, network in (
            ('energy', ENERGY),
            ('generator', GENERATOR),
            ('inference', INFERENCE),
        )
    ]
    return dual_mcmc.dual_mcmc(
        *networks,
        settings,
        **{
            'x_kernel': KERNEL,
            'z_kernel': mcmc.langevin(0.005, noise_scale=0.1),
            'latent_dim': LATENT,
            'num_negatives': 16,
            'x_initial_sampler': None if settings.from_generator else START,
            **options,
        },
    )


def make_dat(**options):
    """An adversary that moves each example by one step of the gradient's sign."""

    def adversary(key, logits, x, label):
        return x + 0.1 * jnp.sign(jax.grad(lambda u: -jax.nn.log_softmax(logits(u))[label])(x))

    return dat(
        NETWORK,
        kernels.steepest_descent(0.3),
        replay.persistent(START, 8, restart=0.1),
        **{'adversary': adversary, 'num_negatives': 16, 'num_steps': 3, 'shards': 4, **options},
    )


def make_energy_matching(**options):
    def kernel(begin):
        return kernels.heated_langevin(0.3, temperature=0.01, begin=begin)

    options = {'temperature': 0.01, 'num_steps': 3, 'cd_weight': 0.1, **options}
    return energy_matching(SCALES, initial.normal(SHAPE), kernel, **options)


BINARY = initial.bernoulli(SHAPE)


def make_guide():
    """The method of docs/adding_a_method.md."""
    guide = pathlib.Path(__file__).parent.parent / 'docs' / 'adding_a_method.md'
    names = {}
    exec(re.search(r'```python\n(.*?)```', guide.read_text(), re.DOTALL)[1], names)
    buffer = replay.persistent(START, 8)
    return names['pcd'](SCALES, KERNEL, buffer, num_negatives=16, num_steps=3, shards=4)


METHODS = {
    'jem': make_jem(conditional=0.0),
    'st_jem': make_jem(weights=obj.balanced),
    'st_jem_alpha': make_jem(weights=obj.balanced, alpha=1.0),
    'st_jem_entropy': make_jem(
        weights=partial(obj.balanced, beta=0.5, include_positives=False), entropy_weight=0.3
    ),
    'icd': make_icd(transition=lambda key, x: x[:, ::-1]),
    'icd_two_steps_by_label': make_icd(
        BY_LABEL,
        kl_steps=2,
        conditional=True,
        entropy=obj.kernel_entropy,
        buffer=replay.class_conditional(START, 16, CLASSES, unconditional=0.0),
    ),
    'cd': make_icd(kl_weight=0.0, l2_weight=0.0, from_data=True),
    'pcd': make_icd(kl_weight=0.0, l2_weight=0.0, buffer=replay.persistent(START, 8)),
    'dual_mcmc': make_dual(),
    'dual_mcmc_sequential': make_dual(teaching.RELEASE._replace(x_steps=3, z_steps=3)),
    'divergence_triangle': make_dual(teaching.DIVERGENCE_TRIANGLE),
    'short_run': make_dual(teaching.SHORT_RUN._replace(x_steps=3)),
    'guide': make_guide(),
    'dat': make_dat(),
    'energy_matching': make_energy_matching(),
    'discrete': make_icd(
        kernel=kernels.gibbs_with_gradients(),
        kl_weight=0.0,
        num_steps=20,
        buffer=replay.persistent(BINARY, 8),
    ),
    'st_jem_adaptive': make_jem(
        weights=obj.balanced, sampler=adapt.adaptive(calls=3), extra_step_every=2
    ),
}


@functools.cache
def sampler_of(method):
    return jax.jit(method.sample)


@functools.cache
def prepared(method):
    params, chains = jax.jit(method.init)(jax.random.key(0), BATCH)
    samples, after = sampler_of(method)(jax.random.key(1), params, chains, BATCH)
    return params, chains, samples, after


def total(method, batch=BATCH):
    """(params, samples) -> the loss of all rounds, on the samples of the first."""

    def terms(part, params, samples):
        return part.loss(params, jax.random.key(2), batch, samples)[0].values()

    return lambda params, samples: sum(
        value for part in method.rounds for value in terms(part, params, samples)
    )
