"""ST-JEM on MNIST."""
from functools import partial

from ebm_jax.networks import ConvNet
from experiments import launch
from experiments.parts import image_jem, jem_config


def get_config():
    config = jem_config()
    config.steps = config.optimizer.decay_steps = 4500
    config.data.source = 'npz:data/mnist.npz'
    config.data.noise = 0.05
    config.optimizer.update(dict(learning_rate=2e-3, warmup=200, ema=0.995))
    config.sampler.update(dict(num_steps=10))
    config.buffer.capacity = 8192
    config.loss.alpha = 1.0
    config.ood = dict(fashion='npz:data/fashion_mnist_test.npz', rotated='rotated', inverted='inverted', noise='noise', mixed='mixed')
    config.log_every, config.checkpoint_every, config.picture_every, config.evaluate_every = 100, 500, 500, 500
    return config


def build(config):
    return image_jem(config, partial(ConvNet, widths=(32, 64, 128, 128), strides=(2, 1, 2, 2)))


if __name__ == '__main__':
    launch.train(__spec__.name)
