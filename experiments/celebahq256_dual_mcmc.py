"""Dual-MCMC teaching on CelebA-HQ at 256x256.

    python -m experiments.celebahq256_dual_mcmc --workdir=runs/celebahq256_dual_mcmc \\
        --config.data.source='folder:data/celeba_hq?size=256&test=.03'
    python -m experiments.sample --workdir=runs/celebahq256_dual_mcmc --num=16

Data: the 30,000 images of CelebA-HQ, in a folder. The release has no constants for this set: two
more blocks on each side than at 64x64 and batches of 32 are our reading.

Time: not run. Expected, as published: FID 15.89.

On a laptop, add:

    --config.batch_size=8 --config.loss.num_negatives=8 --config.steps=100 \\
        --config.network.energy_widths='(8,8,16,16,16,16,16)' \\
        --config.network.generator_widths='(32,16,16,16,16,8,8)' \\
        --config.network.inference_widths='(8,8,16,16,16,16)' --config.network.bfloat16=false
"""

from experiments import celeba64_dual_mcmc
from experiments.common import launch
from experiments.families.dual_mcmc import DualSettings, image_dual_mcmc
from experiments.families.networks import DualNetworks

build = image_dual_mcmc


def get_config() -> DualSettings:
    config = celeba64_dual_mcmc.get_config()
    config.batch_size = config.loss.num_negatives = 32
    config.steps = 301 * (29_100 // 32)
    config.data.source = 'folder:data/celeba_hq?size=256&test=.03'
    config.network = DualNetworks(
        energy_widths=(32, 64, 128, 256, 512, 1024, 1024),
        energy_down=(True,) * 7,
        generator_widths=(1024, 512, 512, 256, 128, 64, 32),
        inference_widths=(32, 64, 128, 256, 512, 1024),
        inference_strides=(2,) * 6,
        bfloat16=True,
    )
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
