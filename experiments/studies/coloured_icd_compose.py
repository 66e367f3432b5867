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
from experiments.studies.coloured_compose import ATTRIBUTES, SOURCE

run = partial(composing.run, mnist_icd)


def get_config() -> composing.Settings:
    icd = mnist_icd.get_config()
    icd.data.source = SOURCE
    config = composing.settings_of(icd)
    config.compose.attributes, config.compose.num = ATTRIBUTES, 100
    return config


def define(values: Any) -> None:
    """The flags."""
    launch.define_config(values, get_config())


if __name__ == '__main__':
    launch.main(run, define, __doc__)
