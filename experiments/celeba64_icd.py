"""Improved contrastive divergence on CelebA at 64x64, conditional on an attribute: one of the
energies that are composed.

    python -m experiments.celeba64_icd --workdir=runs/celeba64_male
    python -m experiments.celeba64_icd --workdir=runs/celeba64_smiling \\
        --config.data.source='tfds:celeb_a?size=64&label=attributes.Smiling'
    python -m experiments.compose --all=runs/celeba64_male:1 --all=runs/celeba64_smiling:1 \\
        --out=runs/male_and_smiling

Data: TFDS must have prepared celeb_a (docs/howto/data.md). Constants of the release for faces: step
size 500 on [0, 1] (2,000 here), half-strength colour jitter and blur as transitions of the chain.
Ours: the probabilities of jitter and greyscale as on CIFAR-10, one network for both values of an
attribute, bfloat16.

Time: not run. Expected: the paper shows compositions of attributes and gives no figure for them.

On a laptop, add:

    --config.network.width=8 --config.network.scales=1 --config.sampler.num_steps=10 \\
        --config.batch_size=16 --config.loss.num_negatives=16 --config.loss.kl_chains=16 \\
        --config.steps=300 --config.network.bfloat16=false
"""

from experiments import cifar10_icd
from experiments.common import launch
from experiments.families.icd import IcdSettings, image_icd

build = image_icd


def get_config() -> IcdSettings:
    config = cifar10_icd.get_config()
    config.data.source = 'tfds:celeb_a?size=64&label=attributes.Male'
    config.loss.conditional = True
    config.sampler.step_size = config.fresh.step_size = 2000.0
    config.transition.jitter_strength, config.transition.blur = 0.5, 0.5
    config.network.attention_after = 3  # at 8x8
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
