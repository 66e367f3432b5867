"""JEM on CIFAR-10 with the published constants (Grathwohl et al. 2020 and its code):
Wide-ResNet-28-10, 200 epochs; in bfloat16 (ours).

    python -m experiments.cifar10_jem --workdir=runs/cifar10_jem --config.data.source=tfds:cifar10
    python -m experiments.evaluate --workdir=runs/cifar10_jem

Time: 156,200 steps; not yet run in full (docs/results.md). Expected (published): accuracy 92.9 %,
AUROC of max p(y|x) .87 against CIFAR-100. Its users report that the loss explodes after 2 to 27
epochs; cifar10_st_jem is the stable variant.

On a laptop, add:

    --config.network.depth=10 --config.network.width=1 --config.steps=300 \\
        --config.optimizer.warmup=50 --config.network.bfloat16=false
"""

from experiments.common import launch
from experiments.families.jem import JemSettings, image_jem
from experiments.families.networks import WideResNetwork

EPOCH = 50_000 // 64

build = image_jem


def get_config() -> JemSettings:
    config = JemSettings(steps=200 * EPOCH, log_every=100)
    config.checkpoint_every = config.picture_every = config.evaluate_every = EPOCH
    config.data.source = 'tfds:cifar10'
    config.data.crop, config.data.flip = 4, True
    config.ood = ('interpolation=mixed', 'noise')  # more with evaluate --ood=cifar100=npz:FILE
    config.network = WideResNetwork(bfloat16=True)
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup, config.optimizer.ema = 1000, 0.0
    config.optimizer.milestones, config.optimizer.drop = (160 * EPOCH, 180 * EPOCH), 0.3
    config.buffer.capacity = 10_000
    config.loss.balanced, config.loss.conditional = False, 0.0
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
