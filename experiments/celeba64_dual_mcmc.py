"""Dual-MCMC teaching on CelebA at 64x64 with the constants of the authors' release: networks of
19.5, 12.2 and 15.2 M parameters.

    python -m experiments.celeba64_dual_mcmc --workdir=runs/celeba64_dual_mcmc
    python -m experiments.evaluate --workdir=runs/celeba64_dual_mcmc

TFDS must have prepared the data set as array_record (docs/howto/data.md). The central square of
each image is resized to 64x64 (our reading), and the attribute Male serves as the class where
evaluation needs one. Steps in x have size s^2 / 2 = .045 (s = .3), and the generator's loss term on
its chains counts 70 times.

Time: not run (no copy of the data set was available; the loading code is tested on synthetic images
of its shape). Expected, as published: FID 5.15, reconstruction error .0164 after 10 steps in z.

On a laptop, add:

    --config.batch_size=16 --config.loss.num_negatives=16 --config.steps=100 \\
        --config.network.energy_widths='(16,16,16,16,16)' \\
        --config.network.generator_widths='(32,16,16,16,16)' \\
        --config.network.inference_widths='(16,16,16,16)' --config.network.bfloat16=false
"""

from experiments import cifar10_dual_mcmc
from experiments.common import launch
from experiments.families.dual_mcmc import DualSettings, image_dual_mcmc
from experiments.families.networks import DualNetworks

build = image_dual_mcmc


def get_config() -> DualSettings:
    config = cifar10_dual_mcmc.get_config()
    config.steps = 301 * (162_770 // 104)
    config.data.source = 'tfds:celeb_a?size=64&label=attributes.Male'
    config.x_chain.step_size = 0.045
    config.teaching.generator_chain = 70 * 0.09
    config.network = DualNetworks(
        energy_widths=(64, 128, 256, 512, 1024),
        energy_down=(True,) * 5,
        generator_widths=(1024, 512, 256, 128, 64),
        inference_strides=(2, 2, 2, 2),
        bfloat16=True,
    )
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
