"""Compositions of separately trained energies on coloured MNIST: the class AND the stroke weight
AND the slant AND the colour; OR; NOT, as in `digits_compose`.

    python -m experiments.studies.coloured_compose --workdir=runs/coloured_compose

Each grey image of MNIST is given a colour whose hue is uniform over the circle (`data.coloured`;
the set is ours). Trains four classifiers by ST-JEM, of the class and of the thirds of each
attribute, each an ordinary run of mnist_st_jem whose chains begin at a Gaussian of each label;
composes their energies E(x, y) and measures each factor; the colour is the hue of the mean colour
(red, green or blue third). Writes what `digits_compose` writes.
"""

from functools import partial
from typing import Any

from experiments import mnist_st_jem
from experiments.common import launch
from experiments.studies import composing

SOURCE = 'npz:data/mnist.npz?coloured=true'
ATTRIBUTES = 'stroke', 'slant', 'colour'

run = partial(composing.run, mnist_st_jem)


def get_config() -> composing.Settings:
    st_jem = mnist_st_jem.get_config()
    st_jem.steps, st_jem.data.source = 800, SOURCE
    st_jem.buffer.initial = 'class_gaussian'
    config = composing.settings_of(st_jem)
    config.compose.attributes, config.compose.num = ATTRIBUTES, 100
    return config


def define(values: Any) -> None:
    """The flags."""
    launch.define_config(values, get_config())


if __name__ == '__main__':
    launch.main(run, define, __doc__)
