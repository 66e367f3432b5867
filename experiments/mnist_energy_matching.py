"""Energy matching on MNIST, for two CPU cores.

    python -m experiments.mnist_energy_matching --workdir=runs/mnist_matching \\
        --config.data.source=npz:data/mnist.npz
    python -m experiments.evaluate --workdir=runs/mnist_matching \\
        --ood=fashion=npz:data/fashion_mnist_test.npz

Flow matching on the gradient of one scalar energy for three quarters of the steps, then with
contrastive divergence beside it. Samples go from noise to a digit in 40 steps.

Expected: Frechet distance 81 after 122 steps, 25 after 746 (five minutes; test images 1.1); a whole
run has not been measured.
"""

from experiments.common import launch
from experiments.families.energy_matching import EnergyMatchingSettings, image_energy_matching
from experiments.families.networks import EnergyNetwork

build = image_energy_matching


def get_config() -> EnergyMatchingSettings:
    config = EnergyMatchingSettings(steps=2000)
    config.data.source = 'npz:data/mnist.npz'
    config.optimizer.learning_rate = 1e-3
    config.loss.warmup = 1500
    config.network = EnergyNetwork(
        width=16, stages=(2, 4, 8), scales=1, plain=True, norm=False, kernel_transform='plain'
    )
    config.network.stem_stride = 2
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
