"""Compositions of separately trained energies on the built-in digits: the class AND the stroke
weight AND the slant; OR; NOT. AND and NOT in two ways: by the paper's sums and differences of
energies, and by conditions (`composition.posterior`).

    python -m experiments.studies.digits_compose --workdir=runs/digits_compose

Trains three conditional energies by improved contrastive divergence (WORKDIR/class, /stroke,
/slant: each an ordinary run of digits_icd, which `evaluate` and `compose` accept), composes them,
and measures each factor: the class by a support vector machine, stroke weight and slant directly
from the image (high and low third of the training images). Writes composition.txt,
composition.json, samples/*.png and summary.json. Rerunning the command continues.
"""

from functools import partial
from typing import Any

from experiments import digits_icd
from experiments.common import launch
from experiments.studies import composing

run = partial(composing.run, digits_icd)


def define(values: Any) -> None:
    """The flags."""
    launch.define_config(values, composing.settings_of(digits_icd.get_config()))


if __name__ == '__main__':
    launch.main(run, define, __doc__)
