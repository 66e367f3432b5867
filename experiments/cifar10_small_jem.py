"""JEM on CIFAR-10 with the settings of cifar10_small_st_jem (a tenth of the weight on p(x), where
JEM's own is 1), but uniform weights and no mutual information.

    python -m experiments.cifar10_small_jem --workdir=runs/cifar10_small_jem \\
        --config.data.source=npz:data/cifar10.npz
    python -m experiments.evaluate --workdir=runs/cifar10_small_jem

Time: 48 minutes on one CPU core whose neighbour was busy, 5 of evaluation. Expected: accuracy 78 %,
ECE 8 %, 56 % of fresh samples recognised, Frechet distance 4.3 (ST-JEM 3.1, test images 2.0); no
divergence. On MNIST JEM diverges at ST-JEM's learning rate in two of five runs
(docs/results/evaluation.md).

On a GPU or TPU, where it was not run, add:

    --config.batch_size=512 --config.loss.positives=256 \\
        --config.loss.num_negatives=256 --config.buffer.capacity=20000 --config.steps=20000
"""

from experiments import cifar10_small_st_jem
from experiments.common import launch
from experiments.families.jem import JemSettings, image_jem

build = image_jem


def get_config() -> JemSettings:
    config = cifar10_small_st_jem.get_config()
    config.loss.balanced, config.loss.alpha = False, 0.0
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
