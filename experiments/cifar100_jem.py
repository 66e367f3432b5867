"""JEM on CIFAR-100 with the constants of CIFAR-10 (`cifar10_jem`), as the paper has it.

    python -m experiments.cifar100_jem --workdir=runs/cifar100_jem \\
        --config.data.source=tfds:cifar100
    python -m experiments.evaluate --workdir=runs/cifar100_jem

Data: tfds:cifar100, prepared once (docs/howto/data.md), or an .npz with 100 classes.

Time: 156,200 steps; not run. Expected, as published: ECE 4.87 % (20 bins; the plain classifier
22.32 %).

On a laptop, add:

    --config.network.depth=10 --config.network.width=1 --config.steps=300 \\
        --config.optimizer.warmup=50 --config.network.bfloat16=false
"""

from experiments import cifar10_jem
from experiments.common import launch
from experiments.families.jem import JemSettings, image_jem

build = image_jem


def get_config() -> JemSettings:
    config = cifar10_jem.get_config()
    config.data.source = 'tfds:cifar100'
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
