"""ST-JEM on CIFAR-100 with the constants of CIFAR-10 (`cifar10_st_jem`); our reading, the paper
names no other set of images.

    python -m experiments.cifar100_st_jem --workdir=runs/cifar100_st_jem \\
        --config.data.source=tfds:cifar100
    python -m experiments.evaluate --workdir=runs/cifar100_st_jem

Data: tfds:cifar100, prepared once (docs/howto/data.md), or an .npz with 100 classes. The buffer
holds 20,000 chains, 176 of each class.

Time: 20,306 steps; not run. Expected: we know of no published result for this configuration.

On a laptop, add:

    --config.network.depth=10 --config.network.width=1 --config.steps=300 \\
        --config.optimizer.warmup=50 --config.network.bfloat16=false
"""

from experiments import cifar10_st_jem
from experiments.common import launch
from experiments.families.jem import JemSettings, image_jem

build = image_jem


def get_config() -> JemSettings:
    config = cifar10_st_jem.get_config()
    config.data.source = 'tfds:cifar100'
    config.buffer.capacity = 20_000
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
