"""Improved contrastive divergence on images of your own: an energy that generates and composes.

    python -m experiments.images_icd --workdir=runs/mine_icd --config.data.source=npz:mine.npz
    python -m experiments.evaluate --workdir=runs/mine_icd

Data as in images_st_jem. The stages of the network follow the size of the images, unless
--config.network.stages sets them. The other settings are those of mnist_icd: smaller images need
smaller steps (8x8: --config.sampler.step_size=2 --config.fresh.step_size=2).

Time and metrics depend on your data. Expected on 28x28 images: as for mnist_icd.
"""

from experiments import mnist_icd
from experiments.common import launch
from experiments.families.icd import IcdSettings, image_icd
from experiments.families.networks import SizedEnergyNetwork

build = image_icd


def get_config() -> IcdSettings:
    config = mnist_icd.get_config()
    config.data.source = 'digits'
    config.network = SizedEnergyNetwork(width=16, scales=2, plain=False)
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
