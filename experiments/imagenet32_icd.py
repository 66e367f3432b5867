"""Improved contrastive divergence on ImageNet at 32x32 with the constants of CIFAR-10.

    python -m experiments.imagenet32_icd --workdir=runs/imagenet32_icd \\
        --config.data.source=folder:data/imagenet32
    python -m experiments.evaluate --workdir=runs/imagenet32_icd

Data: the images of image-net.org at 32x32, unpacked into the folders train and test. 1.28 million
of them take 4 GB of memory.

Time: not run. Expected, as published: FID 32.48.

On a laptop, add:

    --config.network.width=8 --config.network.scales=1 --config.sampler.num_steps=10 \\
        --config.batch_size=32 --config.loss.num_negatives=32 --config.loss.kl_chains=32 \\
        --config.steps=300 --config.network.bfloat16=false
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
