"""ST-JEM on the built-in 8x8 digits: the first look, and `make demo`.

    python -m experiments.digits_st_jem --workdir=runs/digits_st_jem
    python -m experiments.evaluate --workdir=runs/digits_st_jem
"""
from ebm_jax.networks import ConvNet
from experiments import launch
from experiments.parts import image_jem, jem_config


def get_config():
    config = jem_config()
    config.steps = 1200
    config.optimizer.learning_rate = 5e-3
    config.sampler.num_steps = 5
    config.loss.alpha = 1.0
    return config


def build(config):
    return image_jem(config, ConvNet)


if __name__ == '__main__':
    launch.train(__spec__.name)
