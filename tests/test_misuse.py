"""Parts that do not fit, put together in Python: one sentence of ours that says what to do."""

import types

import chex
import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax import nnx
from methods_under_test import BATCH, SHAPE, START, make_dual, make_icd

from ebm_jax import adapt, initial, kernels, mcmc, replay
from ebm_jax.errors import InputError
from ebm_jax.evaluate import attacks
from ebm_jax.fit import check
from ebm_jax.methods.dat import dat
from ebm_jax.methods.energy_matching import energy_matching
from ebm_jax.methods.icd import icd
from ebm_jax.methods.jem import jem
from ebm_jax.networks import ConvNet, per_example
from ebm_jax.spec import Sampling
from ebm_jax.teaching import VAE
from ebm_jax.train import Recipe, init_state, make_local_step
from experiments import digits_st_jem
from experiments.common import runs

GOOD, KERNEL = per_example(ConvNet(4, (8, 8), (2, 2))), mcmc.langevin(0.1, noise_scale=0.01)


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=False)(x.reshape(len(x), -1))
        return nn.Dense(4)(x)


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=False)(x.reshape(len(x), -1))
        return nn.Dense(4)(x)


class OfNnx(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(64, 4, rngs=rngs)


def build(network=GOOD, sampler=None, start=START, batch=BATCH):
    """Checked as before a run."""
    method = jem(
        network,
        sampler or adapt.fixed(KERNEL),
        replay.persistent(start, 40),
        num_negatives=16,
        num_steps=2,
        shards=4,
    )
    check(recipe_of(method, batch), jax.devices()[:1])


SIXTEEN = dict(num_negatives=16, shards=4)


def recipe_of(method, batch):
    return Recipe(
        method=method,
        optimizer=optax.sgd(0.1),
        batch_at=lambda step: batch,
        prepare=lambda key, x: x,
    )


def build_others(method, network=GOOD, kernel=KERNEL):
    if method == 'icd':
        return icd(network, kernel, replay.persistent(START, 40), num_steps=2, **SIXTEEN)
    if method == 'dat':
        adversary = lambda key, logits, x, label: x  # noqa: E731
        return dat(network, kernel, replay.persistent(START, 40), adversary=adversary, **SIXTEEN)
    return energy_matching(network, initial.normal(SHAPE), of_time, temperature=0.01)


def of_time(begin):
    return kernels.heated_langevin(0.3, temperature=0.01, begin=begin)


def own_experiment(built):
    module = types.SimpleNamespace(
        get_config=digits_st_jem.get_config, build=lambda c, d=None: built, __name__='own'
    )
    runs.build(module, module.get_config())


MISUSES = {
    'BatchNorm': (lambda: build(per_example(Normalised())), 'batch_stats.* would couple chains'),
    'Dropout': (lambda: build(per_example(Dropped())), 'draws random numbers'),
    'an nnx module': (lambda: per_example(OfNnx(nnx.Rngs(0))), 'nnx_per_example'),
    'a module that is not wrapped': (lambda: build(ConvNet(4)), r'per_example\(linen module\)'),
    'a function': (lambda: build(lambda params, x: x), r'Network\(init, apply\)'),
    'a kernel in the place of a sampler': (
        lambda: build(sampler=KERNEL),
        r'adapt.fixed\(kernel\)',
    ),
    'chains of another shape': (
        lambda: build(start=initial.uniform((9, 8, 1))),
        r'chains begin in the shape \(9, 8, 1\), and examples have \(8, 8, 1\)',
    ),
    'chains of no shape': (lambda: build(start=initial.uniform(())), 'chains begin in the shape'),
    'a tuple for a batch': (lambda: build(batch=tuple(BATCH.values())), 'must give a dict'),
    'a batch without x': (lambda: build(batch={'y': np.zeros(16)}), "with an entry 'x'"),
    'a dict for an experiment': (lambda: own_experiment({}), 'must return an Experiment'),
    'icd: a module': (lambda: build_others('icd', network=ConvNet(4)), 'must be a Network'),
    'icd: a sampler': (
        lambda: build_others('icd', kernel=adapt.fixed(KERNEL)),
        'kernel must be a Kernel',
    ),
    'dat: a module': (lambda: build_others('dat', network=ConvNet(4)), 'must be a Network'),
    'dat: a sampler': (
        lambda: build_others('dat', kernel=adapt.fixed(KERNEL)),
        'kernel must be a Kernel',
    ),
    'labels beyond the outputs': (
        lambda: build(batch={**BATCH, 'y': np.full(16, 4)}),
        'labels must be in 0 to 3, .* or -1 for none, got 4',
    ),
    'no labels': (lambda: build(batch={'x': BATCH['x']}), "needs an entry 'y' in the batch, got x"),
    'a distribution in the place of a buffer': (
        lambda: icd(GOOD, KERNEL, START, num_negatives=16),
        r'buffer must be a ReplayBuffer, as replay.persistent',
    ),
    'an attack in the place of its function': (
        lambda: dat(
            GOOD,
            KERNEL,
            replay.persistent(START, 40),
            adversary=attacks.pgd(attacks.L2),
            **SIXTEEN,
        ),
        'adversary must be a function .* got Attack',
    ),
    'a word for a part of a spec': (
        lambda: Sampling(kernel='mala'),
        r"kernel must be a Part, as Part\('mala', {}\), got 'mala'",
    ),
    'energy matching: a kernel in the place of its function': (
        lambda: energy_matching(GOOD, initial.normal(SHAPE), KERNEL, temperature=0.01),
        'kernel must be a function, .* got a Kernel',
    ),
    'energy matching: noise of another shape': (
        lambda: check(
            recipe_of(
                energy_matching(GOOD, initial.normal((8, 8, 3)), of_time, temperature=0.01), BATCH
            ),
            jax.devices()[:1],
        ),
        r'noise gives the shape \(8, 8, 3\), and examples have \(8, 8, 1\)',
    ),
    'vae: a posterior of other dimensions': (
        lambda: check(recipe_of(make_dual(VAE, latent_dim=5), BATCH), jax.devices()[:1]),
        'noise, mean and log_variance must have the same shape',
    ),
    'energy matching: a module': (
        lambda: build_others('energy_matching', network=ConvNet(4)),
        'must be a Network',
    ),
}


@pytest.mark.parametrize('name', MISUSES)
def test_misuse_gets_one_sentence(name):
    misuse, says = MISUSES[name]
    with pytest.raises((InputError, TypeError), match=says) as found:
        misuse()
    assert len(str(found.value).splitlines()) == 1


def test_what_is_right_is_accepted():
    build()
    build(batch={**BATCH, 'y': np.full(16, -1)})  # without labels
    for method in ('icd', 'dat', 'energy_matching'):
        build_others(method)


def test_the_attack_of_the_docstring_fits():
    attack = attacks.pgd(attacks.L2, steps=2)

    def adversary(key, logits, x, label):
        return attack.run(key, attacks.deterministic(logits), x, label, 0.5).x

    buffer = replay.persistent(START, 40)
    method = dat(GOOD, mcmc.langevin(0.1, noise_scale=0.0), buffer, adversary=adversary, **SIXTEEN)
    check(recipe_of(method, BATCH), jax.devices()[:1])


@pytest.mark.parametrize('name', ['icd', 'dual_mcmc'])
def test_methods_that_use_no_labels_need_none(name):
    """Their first step is the same with and without labels in the batch."""
    make = make_icd if name == 'icd' else make_dual

    def first_step(batch):
        state = init_state(jax.random.key(0), recipe_of(make(), batch))
        return jax.jit(make_local_step(recipe_of(make(), batch)))(state, batch)[0].params

    chex.assert_trees_all_equal(first_step(BATCH), first_step({'x': BATCH['x']}))
