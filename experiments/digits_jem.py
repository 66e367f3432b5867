"""Plain JEM on the built-in 8x8 digits: uniform weights, no mutual information; else as digits_st_jem, but for the lower rate and longer
chains that it needs to stay finite.

    python -m experiments.digits_jem --workdir=runs/digits_jem
    python -m experiments.evaluate --workdir=runs/digits_jem
"""
from experiments import digits_st_jem, launch

build = digits_st_jem.build


def get_config():
    config = digits_st_jem.get_config()
    config.optimizer.learning_rate = 1e-3
    config.sampler.num_steps = 20
    config.loss.update(dict(balanced=False, alpha=0.0))
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
