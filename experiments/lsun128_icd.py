"""Improved contrastive divergence on LSUN rooms at 128x128.

    python -m experiments.lsun128_icd --workdir=runs/lsun128_icd \\
        --config.data.source='folder:data/lsun_bedroom?size=128&test=.01'
    python -m experiments.sample --workdir=runs/lsun128_icd --num=64

Data: the images of a class of LSUN (github.com/fyu/lsun), unpacked into a folder. Step size 1,000
on [0, 1] (4,000 here) and the transitions of faces and rooms, as released; the network is that of
`celeba128_icd` without classes (our reading).

Time: not run. Expected: the paper shows samples and gives no figure for them.

On a laptop, add:

    --config.network.width=8 --config.network.scales=1 --config.sampler.num_steps=10 \\
        --config.batch_size=8 --config.loss.num_negatives=8 --config.loss.kl_chains=8 \\
        --config.steps=150 --config.network.bfloat16=false
"""

from experiments import celeba128_icd
from experiments.common import launch
from experiments.families.icd import IcdSettings, image_icd

build = image_icd


def get_config() -> IcdSettings:
    config = celeba128_icd.get_config()
    config.data.source = 'folder:data/lsun_bedroom?size=128&test=.01'
    config.loss.conditional = False
    config.sampler.step_size = config.fresh.step_size = 4000.0
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
