"""Dual-MCMC teaching on LSUN churches at 64x64 with the constants of `celeba64_dual_mcmc`.

    python -m experiments.lsun64_dual_mcmc --workdir=runs/lsun64_dual_mcmc \\
        --config.data.source='folder:data/lsun_church?size=64&test=.01'
    python -m experiments.evaluate --workdir=runs/lsun64_dual_mcmc

Data: the outdoor churches of LSUN (github.com/fyu/lsun), unpacked into a folder. The release has no
constants for this set; these are our reading.

Time: not run. Expected, as published: FID 4.56.

On a laptop, add:

    --config.batch_size=16 --config.loss.num_negatives=16 --config.steps=100 \\
        --config.network.energy_widths='(16,16,16,16,16)' \\
        --config.network.generator_widths='(32,16,16,16,16)' \\
        --config.network.inference_widths='(16,16,16,16)' --config.network.bfloat16=false
"""

from experiments import celeba64_dual_mcmc
from experiments.common import launch
from experiments.families.dual_mcmc import DualSettings, image_dual_mcmc

build = image_dual_mcmc


def get_config() -> DualSettings:
    config = celeba64_dual_mcmc.get_config()
    config.steps = 301 * (126_227 // 104)
    config.data.source = 'folder:data/lsun_church?size=64&test=.01'
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
