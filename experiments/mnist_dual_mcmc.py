"""Dual-MCMC teaching on MNIST, for two CPU cores.

    python -m experiments.mnist_dual_mcmc --workdir=runs/mnist_dual_mcmc \\
        --config.data.source=npz:data/mnist.npz
    python -m experiments.evaluate --workdir=runs/mnist_dual_mcmc \\
        --ood=fashion=npz:data/fashion_mnist_test.npz

267 thousand parameters, the paper's equal weights, joint update, K = 20 in x and 10 in z, sigma .5
(ours; the steps in z and their noise are in proportion to its square and to it).

Time: 60 minutes on one CPU core whose neighbour was busy, 5 of evaluation. Expected: samples at
Frechet distance 2.2 from the generator alone and 2.1 after the chain in x (test images 1.1, noise
86), class coverage 1.00, reconstruction error .036 by q and .014 after 10 steps in z, hidden halves
of digits filled in with squared error .20 (mean image .28, nearest neighbour .27). With
--config.loss.conditional=true --config.steps=3000 (22 minutes) samples are as near as test images,
at 1.2. With sigma .3 and step size 4 in x the chains overshoot from step 1,600 on (10: from 950),
and gap_limit ends the run.

On a GPU or TPU, where it was not run, add:

    --config.batch_size=256 --config.loss.num_negatives=256 --config.steps=20000
"""

from experiments.common import launch
from experiments.families.dual_mcmc import (
    DualSettings,
    for_small_networks,
    image_dual_mcmc,
)
from experiments.families.networks import small_dual_networks

build = image_dual_mcmc


def get_config() -> DualSettings:
    config = for_small_networks(DualSettings(steps=8000, batch_size=32, latent_dim=32), factor=2)
    config.data.source = 'npz:data/mnist.npz'
    config.teaching.sigma = 0.5
    # in proportion to sigma^2 and sigma
    config.z_chain.step_size, config.z_chain.noise = 0.014, 0.167
    config.loss.num_negatives = 32
    config.x_chain.step_size, config.x_chain.num_steps = 2.0, 20
    config.fresh.step_size, config.fresh.num_steps = 2.0, 20
    config.test_z.step_size, config.test_z.momentum = 0.03, 0.7
    config.network = small_dual_networks()
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
