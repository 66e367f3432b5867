"""Dual-MCMC teaching on CIFAR-10 with the constants of the authors' release: networks of 16.8, 16.0
and 15.2 M parameters.

    python -m experiments.cifar10_dual_mcmc --workdir=runs/cifar10_dual_mcmc \\
        --config.data.source=tfds:cifar10
    python -m experiments.evaluate --workdir=runs/cifar10_dual_mcmc \\
        --ood=cifar100=npz:data/cifar100_test.npz

x: 30 steps of s^2 / 2 = .125 with noise .001 from g(z); z: 10 steps of .005 with noise .1;
generator and inference first, then the energy on newly drawn chains; Adam with betas 0 and .9, 301
epochs. Ours: batches of 104, which split over 8 devices, instead of 100
(`cifar10_dual_mcmc_published`), bfloat16, a cosine from 1 to .55 of the rates instead of x .998 per
epoch, group norm instead of batch norm, a stateless spectral normalisation, and a moving average of
all networks.

Time: not yet run in full (docs/results.md). Expected, as published: FID 9.26, reconstruction error
.0072 after 10 steps in z.

On a laptop, add:

    --config.batch_size=16 --config.loss.num_negatives=16 --config.steps=100 \\
        --config.network.energy_widths='(16,16,16,16)' \\
        --config.network.generator_widths='(32,16,16,16)' \\
        --config.network.inference_widths='(16,16,32,32)' --config.network.bfloat16=false
"""

from experiments.common import launch
from experiments.families.dual_mcmc import DualSettings, image_dual_mcmc

build = image_dual_mcmc


def get_config() -> DualSettings:
    config = DualSettings(preset='release', steps=301 * (50_000 // 104), batch_size=104)
    config.log_every, config.checkpoint_every, config.picture_every = 100, 1000, 1000
    config.evaluate_every = 0
    config.loss.num_negatives = 104
    config.network.bfloat16 = True
    config.data.source = 'tfds:cifar10'
    config.optimizer.decay_to, config.optimizer.ema = 0.55, 0.999
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
