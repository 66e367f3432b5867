"""Compositions of separately trained energies on coloured MNIST: the class AND the stroke weight
AND the slant AND the colour; OR; NOT, as in `digits_compose`.

    python -m experiments.studies.coloured_compose --workdir=runs/coloured_compose

Each grey image of MNIST is given a colour whose hue is uniform over the circle (`data.coloured`;
the set is ours). Trains four conditional energies by improved contrastive divergence, each an
ordinary run of mnist_icd, composes them and measures each factor; the colour is the hue of the mean
colour (red, green or blue third). Writes what `digits_compose` writes.
"""

from functools import partial
from typing import Any

from experiments import mnist_icd
from experiments.common import launch
from experiments.studies import composing

run = partial(composing.run, mnist_icd)


def get_config() -> composing.Settings:
    icd = mnist_icd.get_config()
    icd.data.source = 'npz:data/mnist.npz?coloured=true'
    config = composing.settings_of(icd)
    config.compose.attributes, config.compose.num = ('stroke', 'slant', 'colour'), 100
    return config


def define(values: Any) -> None:
    """The flags."""
    launch.define_config(values, get_config())


if __name__ == '__main__':
    launch.main(run, define, __doc__)
