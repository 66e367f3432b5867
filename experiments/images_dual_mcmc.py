"""Dual-MCMC teaching on your own images: a generator corrected by an energy.

    python -m experiments.images_dual_mcmc --workdir=runs/mine_dual \\
        --config.data.source=npz:mine.npz
    python -m experiments.evaluate --workdir=runs/mine_dual

Data as in images_st_jem. The layers of the three networks follow the size of the images, unless
--config.network sets them. The other settings are those of mnist_dual_mcmc: smaller images need
smaller steps (8x8: --config.x_chain.step_size=1 --config.fresh.step_size=1).

Time and metrics depend on your data. Expected on 28x28 images: as for mnist_dual_mcmc.
"""

from experiments import mnist_dual_mcmc
from experiments.common import launch
from experiments.families.dual_mcmc import DualSettings, image_dual_mcmc
from experiments.families.networks import SizedDualNetworks

build = image_dual_mcmc


def get_config() -> DualSettings:
    config = mnist_dual_mcmc.get_config()
    config.data.source = 'digits'
    config.network = SizedDualNetworks()
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
