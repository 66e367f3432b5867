"""ST-JEM on CIFAR-10 with a network of 245 thousand parameters, for two CPU cores in forty minutes.

    python -m experiments.cifar10_small_st_jem --workdir=runs/cifar10_small \\
        --config.data.source=npz:data/cifar10.npz
    python -m experiments.evaluate --workdir=runs/cifar10_small \\
        --ood=cifar100=npz:data/cifar100_test.npz --ood=textures=npz:data/dtd32.npz
"""

from experiments.common import launch
from experiments.families.jem import JemSettings, image_jem
from experiments.families.networks import ConvNetwork

build = image_jem


def get_config() -> JemSettings:
    config = JemSettings(steps=3000, batch_size=128, log_every=50)
    config.data.source = 'npz:data/cifar10.npz'
    config.data.crop, config.data.flip = 4, True
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup, config.optimizer.ema = 200, 0.995
    config.sampler.num_steps = 5
    config.buffer.initial, config.buffer.capacity = 'class_gaussian', 4096
    config.loss.alpha = 1.0
    config.loss.positives = config.loss.num_negatives = 32
    config.network = ConvNetwork(widths=(16, 32, 64, 128, 128), strides=(1, 2, 1, 2, 2))
    config.ood = ('interpolation=mixed', 'noise')  # more with evaluate --ood=cifar100=npz:FILE
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
