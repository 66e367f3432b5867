"""ST-JEM on CIFAR-10 with the chains of its first author's public code; else as cifar10_st_jem.

    python -m experiments.cifar10_st_jem_published --workdir=runs/cifar10_st_jem_published \\
        --config.data.source=tfds:cifar10
    python -m experiments.evaluate --workdir=runs/cifar10_st_jem_published

6 negatives for 64 positives, 20 steps and one more each epoch. Six chains leave an accelerator
idle, and their 6 shards run on 1 or 2 devices.

Time: 20,306 steps; not yet run in full (docs/results.md). Expected: we know of no published result
for exactly this configuration.

On a laptop, add:

    --config.network.depth=10 --config.network.width=1 --config.steps=300 \\
        --config.optimizer.warmup=50 --config.network.bfloat16=false
"""

from experiments import cifar10_st_jem
from experiments.cifar10_jem import EPOCH
from experiments.common import launch
from experiments.families.jem import JemSettings, image_jem

build = image_jem


def get_config() -> JemSettings:
    config = cifar10_st_jem.get_config()
    config.shards = config.loss.num_negatives = 6
    config.sampler.num_steps, config.sampler.extra_step_every = 20, EPOCH
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
