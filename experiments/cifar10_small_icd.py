"""Improved contrastive divergence on CIFAR-10 with a small network, for two CPU cores.

    python -m experiments.cifar10_small_icd --workdir=runs/cifar10_small_icd \\
        --config.data.source=npz:data/cifar10.npz
    python -m experiments.evaluate --workdir=runs/cifar10_small_icd \\
        --ood=cifar100=npz:data/cifar100_test.npz --ood=textures=npz:data/dtd32.npz

F = 16, two scales, a first convolution of stride 2, K = 20; the chains' transition has the paper's
crops, flips, colours and greys. Ours, otherwise.

Time: 24 minutes on one CPU core whose neighbour was busy, 6 of evaluation. Expected: coloured
shapes on grounds with the grid of the first convolution's stride over them; Frechet distance 20
(test images 2.0, noise 53), class coverage .64, AUROC of -E .75 against textures, .55 against
CIFAR-100, and a KL gradient of .40 of the contrast's (paper: .4 to .5).

On a GPU or TPU, where it was not run, add:

    --config.batch_size=256 --config.loss.num_negatives=256 --config.loss.kl_chains=256 \\
        --config.steps=10000
"""

from experiments import mnist_icd
from experiments.common import launch
from experiments.families.icd import IcdSettings, image_icd

build = image_icd


def get_config() -> IcdSettings:
    config = mnist_icd.get_config()
    config.steps = 1500
    config.data.source = 'npz:data/cifar10.npz'
    config.transition.affine = 0.0
    config.transition.resized_crop = config.transition.flip = True
    config.transition.jitter, config.transition.grayscale = 0.8, 0.2
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
