"""An energy of binary images, by persistent contrastive divergence with Gibbs with gradients.

    python -m experiments.digits_discrete --workdir=runs/digits_discrete
    python -m experiments.evaluate --workdir=runs/digits_discrete

The built-in 8x8 digits, a pixel set where it is above the middle grey value. Each step of a chain
changes one pixel, or none.

Time: four minutes on 2 CPU cores that were also busy with other work. Expected: the persistent
chains show digits; fresh ones, which begin at independent pixels, do not get there in 1,000 steps
(Frechet distance 21, test images 0.7). AUROC of -E 1.00 against rotated, inverted and noise
images, .65 against mixtures of two digits.
"""

import dataclasses
from functools import partial

import jax.numpy as jnp

from ebm_jax import kernels
from ebm_jax.data import Examples
from ebm_jax.errors import InputError
from ebm_jax.spec import Part, Sampling
from experiments.common import launch, settings
from experiments.common.experiment import Experiment
from experiments.common.labelled import labelled_splits
from experiments.common.sources import Datasets
from experiments.families.icd import IcdSettings, image_icd
from experiments.families.networks import EnergyNetwork

# what binary images and chains that flip one pixel have no use for
WITHOUT_EFFECT = ('data.noise', 'transition.', 'sampler.', 'fresh.')
WITH_EFFECT = (
    'sampler.noise',
    'sampler.num_steps',
    'fresh.num_steps',
    'fresh.every',
    'fresh.plain',
)


@dataclasses.dataclass
class DiscreteSettings(IcdSettings):
    """A run of contrastive divergence on binary images, whose chains have no step size."""

    def actions_without_effect(self) -> tuple[str, ...]:
        return ('step_size',)


def get_config() -> DiscreteSettings:
    config = DiscreteSettings(steps=800)
    config.data.noise = 0.0
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_to, config.optimizer.b1 = 0.05, 0.9
    # a temperature; the step size of these chains is one pixel
    config.sampler.noise, config.sampler.noise_is_temperature = 1.0, True
    config.sampler.num_steps, config.fresh.num_steps = 30, 1000
    config.buffer.kind, config.buffer.capacity, config.buffer.restart = 'persistent', 2048, 0.01
    config.loss.kl_weight, config.loss.l2_weight, config.loss.energy_limit = 0.0, 1e-3, 1e3
    config.network = EnergyNetwork(
        width=8, stages=(2, 4), scales=1, plain=False, norm=False, kernel_transform='plain'
    )
    return config


def binary(examples: Examples) -> Examples:
    """Pixels above 127 become 255, others 0: 1 and -1 in network units."""
    return examples._replace(
        name=f'{examples.name}, binary', x=((examples.x > 127) * 255).astype('uint8')
    )


def _binary_of(make):
    return binary(make())


def build(config: DiscreteSettings, datasets: Datasets | None = None) -> Experiment:
    usual = settings.flatten(get_config())
    for name, value in settings.flatten(config).items():
        ignored = name.startswith(WITHOUT_EFFECT) and name not in WITH_EFFECT
        if ignored and value != usual[name]:
            raise InputError(
                f'--config.{name}={value} has no effect on binary images, whose chains flip one '
                f'pixel at a time: leave it at {usual[name]}'
            )
    given = datasets or labelled_splits(config.data)
    found = dataclasses.replace(
        given,
        train=binary(given.train),
        test=binary(given.test),
        extra_ood={name: partial(_binary_of, make) for name, make in given.extra_ood.items()},
    )
    temperature = config.sampler.noise
    return image_icd(
        config,
        found,
        kernel=kernels.gibbs_with_gradients(temperature=temperature),
        sampling=Sampling(
            kernel=Part('gibbs_with_gradients', {'temperature': temperature}),
            num_steps=config.fresh.num_steps,
            initial=Part('bernoulli'),
        ),
        # other sets become binary, too
        prepare_test=lambda key, x: jnp.where(x > 127, 1.0, -1.0),
    )


if __name__ == '__main__':
    launch.train(__spec__.name)
