"""JEM on CIFAR-10 with the published constants (Grathwohl et al. 2020 and its code): Wide-ResNet-28-10, 200 epochs.

    python -m experiments.cifar10_jem --workdir=runs/cifar10_jem --config.data.source=tfds:cifar10
    python -m experiments.evaluate --workdir=runs/cifar10_jem

Time: 156,200 steps; not yet run in full (docs/results.md). Expected (published): accuracy 92.9 %, AUROC of max p(y|x) .87 against
CIFAR-100. Its users report that the loss explodes after 2 to 27 epochs; cifar10_st_jem is the stable relative.
On a laptop: --config.network.depth=10 --config.network.width=1 --config.steps=300 --config.optimizer.warmup=50
"""
from functools import partial

import jax.numpy as jnp
from ml_collections import ConfigDict

from ebm_jax.networks import WideResNet
from experiments import launch
from experiments.parts_jem import image_jem, jem_config

EPOCH = 50_000 // 64


def get_config():
    config = jem_config()
    config.steps = 200 * EPOCH
    config.data.update(dict(source='tfds:cifar10', noise=0.03, crop=4, flip=True))
    config.ood = dict(interpolation='mixed', noise='noise')   # more with evaluate --ood=cifar100=npz:FILE
    config.network = ConfigDict(dict(depth=28, width=10, bfloat16=False))
    config.optimizer.update(dict(learning_rate=1e-4, warmup=1000, milestones=(160 * EPOCH, 180 * EPOCH), drop=0.3, ema=0.0))
    config.buffer.capacity = 10_000
    config.loss.update(dict(balanced=False, conditional=0.0))
    config.log_every, config.checkpoint_every, config.picture_every, config.evaluate_every = 100, EPOCH, EPOCH, EPOCH
    return config


def build(config):
    c = config.network
    return image_jem(config, partial(WideResNet, depth=c.depth, width=c.width, dtype=jnp.bfloat16 if c.bfloat16 else jnp.float32))


if __name__ == '__main__':
    launch.train(__spec__.name)
