"""Improved contrastive divergence on CelebA at 128x128, conditional on an attribute; F = 128.

    python -m experiments.celeba128_icd --workdir=runs/celeba128_male
    python -m experiments.sample --workdir=runs/celeba128_male --label=0,1

Data: TFDS must have prepared celeb_a (docs/howto/data.md). As `celeba64_icd`, with the release's
width for faces of 128 pixels; one more stage than at 64 (our reading), so that the last grid is the
same; 32 chains in the KL term.

Time: not run. Expected: the paper shows samples and gives no figure for them.

On a laptop, add:

    --config.network.width=8 --config.network.scales=1 --config.sampler.num_steps=10 \\
        --config.batch_size=8 --config.loss.num_negatives=8 --config.loss.kl_chains=8 \\
        --config.steps=150 --config.network.bfloat16=false
"""

from experiments import celeba64_icd
from experiments.common import launch
from experiments.families.icd import IcdSettings, image_icd

build = image_icd


def get_config() -> IcdSettings:
    config = celeba64_icd.get_config()
    config.data.source = 'tfds:celeb_a?size=128&label=attributes.Male'
    config.batch_size = config.loss.num_negatives = 32
    config.loss.kl_chains = 32
    config.network.width, config.network.stages = 128, (1, 1, 2, 2, 4)
    config.network.attention_after = 4  # at 8x8
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
