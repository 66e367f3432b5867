"""Improved contrastive divergence on MNIST, for two CPU cores.

    python -m experiments.mnist_icd --workdir=runs/mnist_icd --config.data.source=npz:data/mnist.npz
    python -m experiments.evaluate --workdir=runs/mnist_icd \\
        --ood=fashion=npz:data/fashion_mnist_test.npz

F = 16, two scales and a first convolution of stride 2, where the release has F = 64, one scale and
stride 1. Chains have an affine transition (our reading: the paper has none).

Time: about seven minutes. Expected: fresh samples at Frechet distance 7.8 (test images 1.1, shifted
13, noise 86), class coverage .91, AUROC of -E 1.00 against Fashion-MNIST, .96 against mixtures; the
KL term costs 11 % of a step.

On a GPU or TPU, where it was not run, add:

    --config.network.width=64 --config.network.scales=1 --config.network.stem_stride=1 \\
        --config.batch_size=128 --config.loss.num_negatives=128 --config.loss.kl_chains=128 \\
        --config.buffer.capacity=10000 --config.steps=10000
"""

from experiments.common import launch
from experiments.families.icd import IcdSettings, image_icd
from experiments.families.networks import EnergyNetwork

build = image_icd


def get_config() -> IcdSettings:
    config = IcdSettings(steps=600)
    config.data.source = 'npz:data/mnist.npz'
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_to = 0.05
    config.sampler.step_size, config.sampler.noise, config.sampler.num_steps = 50.0, 0.02, 20
    config.fresh.step_size, config.fresh.noise = 50.0, 0.02
    config.buffer.capacity, config.buffer.restart = 4096, 0.01
    config.transition.affine = 0.5
    config.loss.kl_chains = 16
    config.network = EnergyNetwork(width=16, stages=(2, 4, 8), scales=2, plain=False, stem_stride=2)
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
