"""The compositions of `coloured_compose` with energies by improved contrastive divergence, each an
ordinary run of mnist_icd.

    python -m experiments.studies.coloured_icd_compose --workdir=runs/coloured_icd_compose

These energies do not make digits, see docs/results/icd.md.
"""

from functools import partial
from typing import Any

from experiments import mnist_icd
from experiments.common import launch
from experiments.studies import composing
from experiments.studies.coloured_compose import of_coloured_digits

run = partial(composing.run, mnist_icd)


def define(values: Any) -> None:
    """The flags."""
    launch.define_config(values, of_coloured_digits(mnist_icd.get_config()))


if __name__ == '__main__':
    launch.main(run, define, __doc__)
