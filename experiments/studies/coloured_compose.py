"""Compositions of separately trained energies on coloured MNIST: the class AND the thickness of
strokes AND the slant AND the colour; OR; NOT, as in `digits_compose`.

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
from experiments.families.icd import IcdSettings
from experiments.families.jem import JemSettings
from experiments.studies import composing

run = partial(composing.run, mnist_st_jem)


def of_coloured_digits(each: IcdSettings | JemSettings) -> composing.Settings:
    """The study on coloured MNIST of energies with these settings."""
    each.data.source = 'npz:data/mnist.npz?coloured=true'
    config = composing.settings_of(each)
    config.compose.attributes, config.compose.num = ('thickness', 'slant', 'colour'), 100
    return config


def define(values: Any) -> None:
    """The flags."""
    st_jem = mnist_st_jem.get_config()
    st_jem.steps, st_jem.buffer.initial = 800, 'class_gaussian'
    launch.define_config(values, of_coloured_digits(st_jem))


if __name__ == '__main__':
    launch.main(run, define, __doc__)
