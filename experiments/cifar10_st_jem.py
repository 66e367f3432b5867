"""ST-JEM on CIFAR-10 with the constants of its first author's public code: Wide-ResNet-28-10, 26 epochs.

    python -m experiments.cifar10_st_jem --workdir=runs/cifar10_st_jem --config.data.source=tfds:cifar10
    python -m experiments.evaluate --workdir=runs/cifar10_st_jem

6 negatives for 64 positives, 10 % of the chains on p(x) and 90 % on p(x|y), 20 steps and one more each epoch, adaptive sampler from
x += a/2 g + sqrt(a)/100 N(0, I) with a = 0.2 (step size 0.1 and temperature 1e-4 here), Adam 7e-5 with x0.6 every 3 epochs from epoch 5.
The loss is L_yx + L_xy (alpha = 1). Shards are 6, so it splits over 1 or 2 devices; on 8: --config.shards=8 --config.loss.num_negatives=8.

Time: 20,306 steps; not yet run in full (docs/results.md). Expected: no published figure of this very configuration is known to us.
On a laptop: --config.network.depth=10 --config.network.width=1 --config.steps=300 --config.optimizer.warmup=50
"""
from experiments import cifar10_jem, launch
from experiments.cifar10_jem import EPOCH

build = cifar10_jem.build


def get_config():
    config = cifar10_jem.get_config()
    config.steps = 26 * EPOCH
    config.shards = 6
    config.optimizer.update(dict(learning_rate=7e-5, milestones=tuple(epoch * EPOCH for epoch in range(5, 26, 3)), drop=0.6, ema=0.0))
    config.sampler.update(dict(step_size=0.1, noise=1e-4, noise_is_temperature=True, momentum=0.1, extra_step_every=EPOCH, adaptive=True))
    config.fresh.update(dict(step_size=0.1, noise=1e-4, noise_is_temperature=True))
    config.loss.update(dict(balanced=True, alpha=1.0, num_negatives=6, conditional=0.9))
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
