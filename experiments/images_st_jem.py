"""ST-JEM on images of your own: a classifier that knows what it does not know, and generates.

    python -m experiments.images_st_jem --workdir=runs/mine --config.data.source=npz:mine.npz
    python -m experiments.evaluate --workdir=runs/mine

Data: npz:FILE (x_train, y_train, x_test, y_test), folder:FOLDER (SPLIT/CLASS/*.png) or tfds:NAME;
the default is the built-in digits. The layers of the network follow the size of the images, unless
--config.network.widths sets them. The other settings are those of mnist_st_jem.

Time and metrics depend on your data. Expected on 28x28 images: as for mnist_st_jem.
"""

from experiments import mnist_st_jem
from experiments.common import launch
from experiments.families.jem import JemSettings, image_jem
from experiments.families.networks import SizedConvNetwork

build = image_jem


def get_config() -> JemSettings:
    config = mnist_st_jem.get_config()
    config.data.source = 'digits'
    config.network = SizedConvNetwork()
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
