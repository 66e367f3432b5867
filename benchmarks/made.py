"""Made data in the shape of a data set, for what is timed, compiled or traced without it."""

import importlib
from types import ModuleType
from typing import Any

import numpy as np

from ebm_jax.data import Examples
from experiments.common import launch
from experiments.common.experiment import Experiment
from experiments.common.runs import build
from experiments.common.sources import Datasets

SHAPES = {  # beginning of an experiment's name: (shape of an image, classes)
    'cifar10': ((32, 32, 3), 10),
    'cifar100': ((32, 32, 3), 100),
    'celeba64': ((64, 64, 3), 2),
    'celeba128': ((128, 128, 3), 2),
    'celebahq256': ((256, 256, 3), 1),
    'imagenet32': ((32, 32, 3), 1),
    'lsun64': ((64, 64, 3), 1),
    'lsun128': ((128, 128, 3), 1),
    'mnist': ((28, 28, 1), 10),
    'images': ((32, 32, 3), 10),
}


def datasets(experiment: str, size: int = 512, seed: int = 0) -> Datasets | None:
    """Random images in the place of the experiment's data; None where its data is built in."""
    found = SHAPES.get(experiment.split('_')[0])
    if found is None:
        return None
    (shape, num_classes), rng = found, np.random.default_rng(seed)

    def examples(n):
        x = rng.integers(0, 256, (n, *shape), np.uint8)
        return Examples('made', x, np.arange(n, dtype=np.int32) % num_classes)

    return Datasets(train=examples(size), test=examples(size // 2))


def configured(experiment: str, arguments: list[str]) -> tuple[ModuleType, Any]:
    """(module, configuration) of an experiment by name.

    Args: arguments: `--config.KEY=VALUE`, as on the command line of the experiment.
    Raises: InputError for an unknown experiment or setting.
    """
    module = importlib.import_module(f'experiments.{experiment}')
    return module, launch.parsed_settings(module.get_config(), arguments)


def built(experiment: str, arguments: list[str]) -> tuple[Any, Experiment]:
    """(configuration, Experiment) on made data; arguments as in `configured`."""
    module, config = configured(experiment, arguments)
    return config, build(module, config, datasets(experiment))
