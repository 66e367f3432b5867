"""Dual-MCMC teaching on CIFAR-10 with small networks, for two CPU cores.

    python -m experiments.cifar10_small_dual_mcmc --workdir=runs/cifar10_small_dual \\
        --config.data.source=npz:data/cifar10.npz
    python -m experiments.evaluate --workdir=runs/cifar10_small_dual

Layers by the size of the images, 64 latent dimensions, K = 20 in x and 10 in z; sigma and, in
training, the steps in z are those of `mnist_dual_mcmc` (at test time .055, there .03). Ours.

Time: 34 minutes on one CPU core whose neighbour was busy, 5 of evaluation. Expected: coloured
shapes on plain grounds, which cannot be named; Frechet distance 10.8 from the generator and 10.7
after the chain in x (test images 2.0, noise 53), class coverage .88, reconstruction error .053 by q
and .039 after 10 steps in z, hidden halves filled in with squared error .198 (mean image .246,
nearest neighbour .219).

On a GPU or TPU, where it was not run, add:

    --config.batch_size=256 --config.loss.num_negatives=256 --config.steps=20000
"""

from experiments.common import launch
from experiments.families.dual_mcmc import (
    DualSettings,
    for_small_networks,
    image_dual_mcmc,
)
from experiments.families.networks import SizedDualNetworks

build = image_dual_mcmc


def get_config() -> DualSettings:
    config = for_small_networks(DualSettings(steps=2000, batch_size=32, latent_dim=64), factor=2)
    config.data.source = 'npz:data/cifar10.npz'
    config.loss.num_negatives = 32
    config.teaching.sigma = 0.5
    # in proportion to sigma^2 and sigma
    config.z_chain.step_size, config.z_chain.noise = 0.014, 0.167
    config.x_chain.step_size, config.x_chain.num_steps = 2.0, 20
    config.fresh.step_size, config.fresh.num_steps = 2.0, 20
    config.test_z.step_size, config.test_z.momentum = 0.055, 0.7
    config.network = SizedDualNetworks()
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
