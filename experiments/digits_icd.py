"""Improved contrastive divergence on the built-in 8x8 digits."""
from experiments import launch
from experiments.parts_icd import icd_config, image_icd

build = image_icd


def get_config():
    config = icd_config()
    config.steps = config.optimizer.decay_steps = 1500
    config.optimizer.learning_rate = 1e-3
    config.sampler.update(dict(step_size=10.0, noise=0.01, num_steps=20))
    config.fresh.update(dict(step_size=10.0, noise=0.01))
    config.buffer.capacity = 2048
    config.network.update(dict(width=32, stages=(2, 4), scales=2, plain=False))
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
