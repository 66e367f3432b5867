"""Improved contrastive divergence on ImageNet at 32x32 with the constants of CIFAR-10.

    python -m experiments.imagenet32_icd --workdir=runs/imagenet32_icd \\
        --config.data.source=folder:data/imagenet32
    python -m experiments.evaluate --workdir=runs/imagenet32_icd

Data: the images of image-net.org at 32x32, unpacked into the folders train and test. 1.28 million
of them take 4 GB of memory.

Time: not run. Expected, as published: FID 32.48.
"""

from experiments import cifar10_icd
from experiments.common import launch
from experiments.families.icd import IcdSettings, image_icd

build = image_icd


def get_config() -> IcdSettings:
    config = cifar10_icd.get_config()
    config.data.source = 'folder:data/imagenet32'
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
