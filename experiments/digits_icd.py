"""Improved contrastive divergence on the built-in 8x8 digits.

    python -m experiments.digits_icd --workdir=runs/digits_icd
    python -m experiments.evaluate --workdir=runs/digits_icd
"""
from experiments import launch
from experiments.parts_icd import icd_config, image_icd

build = image_icd


def get_config():
    config = icd_config()
    config.steps = config.optimizer.decay_steps = 900
    config.optimizer.update(dict(learning_rate=1e-3, decay_to=0.05))
    config.sampler.update(dict(step_size=2.0, noise=0.02, num_steps=20))
    config.fresh.update(dict(step_size=2.0, noise=0.01))
    config.buffer.update(dict(capacity=2048, restart=0.02))
    config.transition.affine = 0.5
    config.loss.kl_chains = 16
    config.network.update(dict(width=16, stages=(2, 4), scales=2, plain=False))
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
