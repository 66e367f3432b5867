"""ST-JEM on CIFAR-10, Wide-ResNet-28-10, 26 epochs: the constants of its author's public code, with
short chains that fill an accelerator.

    python -m experiments.cifar10_st_jem --workdir=runs/cifar10_st_jem \\
        --config.data.source=tfds:cifar10
    python -m experiments.evaluate --workdir=runs/cifar10_st_jem

64 negatives for 64 positives, 2 steps and one more every 11 epochs: as many gradients of the energy
per training step as the 6 chains of 20 steps and one more each epoch of that code
(`cifar10_st_jem_published`), which leave an accelerator idle and do not split over 8 devices. 10 %
of the chains are on p(x) and 90 % on p(x|y), adaptive sampler starting from
x += a/2 g + sqrt(a)/100 N(0, I) with a = 0.2 (step size 0.1 and temperature 1e-4 here), Adam 7e-5
with x0.6 every 3 epochs from epoch 5, bfloat16. The loss is L_yx + L_xy (alpha = 1).

Time: 20,306 steps; not yet run in full (docs/results.md). Expected: we know of no published result
for exactly this configuration.

On a laptop, add:

    --config.network.depth=10 --config.network.width=1 --config.steps=300 \\
        --config.optimizer.warmup=50 --config.network.bfloat16=false
"""

from experiments import cifar10_jem
from experiments.cifar10_jem import EPOCH
from experiments.common import launch
from experiments.families.jem import JemSettings, image_jem

build = image_jem


def get_config() -> JemSettings:
    config = cifar10_jem.get_config()
    config.steps = 26 * EPOCH
    config.optimizer.learning_rate = 7e-5
    config.optimizer.milestones = tuple(epoch * EPOCH for epoch in range(5, 26, 3))
    config.optimizer.drop = 0.6
    for chain in (config.sampler, config.fresh):
        chain.step_size, chain.noise, chain.noise_is_temperature = 0.1, 1e-4, True
    config.sampler.momentum, config.sampler.adaptive = 0.1, True
    config.sampler.num_steps, config.sampler.extra_step_every = 2, 11 * EPOCH
    config.loss.balanced, config.loss.alpha = True, 1.0
    config.loss.conditional = 0.9
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
