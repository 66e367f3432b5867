"""A run of `fit` that takes a few seconds, for tests that end it: python tests/short_run.py
--workdir=DIR [--steps=N] [--numbers=N]
[--clock=SECONDS]"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from ebm_jax import devices
from ebm_jax.fit import fit
from ebm_jax.train import Recipe
from ebm_jax.types import Method
from experiments.common import launch, processes


def define(values):
    flags.DEFINE_string('workdir', None, 'Folder.', flag_values=values)
    flags.DEFINE_integer('steps', 40, 'Steps, of at least .05 s each.', flag_values=values)
    flags.DEFINE_integer('numbers', 10, 'Size of the state.', flag_values=values)
    flags.DEFINE_float('clock', 0, 'Seconds by which the clock is wrong.', flag_values=values)
    processes.define(values)


def recipe(numbers):
    """A state of as many numbers and a walk; a step takes at least .05 s."""

    def init(key, batch):
        return jax.random.normal(key, (numbers,)), {'walk': jnp.zeros((4, 1))}

    def sample(key, params, chains, batch):
        walk = chains['walk'] + jax.vmap(lambda key: jax.random.normal(key, (1,)))(
            devices.keys(key, len(chains['walk']))
        )
        return walk, {'walk': walk}

    def loss(params, key, batch, walk):
        return {'square': jnp.mean((params - jnp.mean(batch['x']) - jnp.mean(walk)) ** 2)}, {}

    def batch_at(step):
        time.sleep(0.05 if step else 0)
        return {'x': np.full((4, 1), step / 7, np.float32)}

    return Recipe(
        method=Method(init, sample, loss),
        batch_at=batch_at,
        optimizer=optax.adam(0.1),
        prepare=lambda key, x: x,
    )


def run(values):
    right = time.time
    time.time = lambda: right() + values.clock
    processes.join(values)
    fit(
        recipe(values.numbers),
        workdir=values.workdir,
        steps=values.steps,
        log_every=1,
        checkpoint_every=5,
        picture_every=1000,
    )
    print('finished', file=sys.stderr)


if __name__ == '__main__':
    launch.main(run, define, __doc__)
