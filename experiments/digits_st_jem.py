"""ST-JEM on the built-in 8x8 digits: the first look, and `make demo`.

    python -m experiments.digits_st_jem --workdir=runs/digits_st_jem
    python -m experiments.evaluate --workdir=runs/digits_st_jem
"""
from experiments import launch
from experiments.parts import image_jem, jem_config
from ebm_jax.networks import ConvNet


def get_config():
    return jem_config()


def build(config):
    return image_jem(config, ConvNet)


if __name__ == '__main__':
    launch.train(__spec__.name)
