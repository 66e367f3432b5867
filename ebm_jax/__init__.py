"""Energy-based models trained by Langevin sampling: `load` opens a trained one."""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ebm_jax.trained import TrainedModel
    from ebm_jax.types import Network

__version__ = '0.1.0'
__all__ = ['__version__', 'load']


def load(
    path: str | pathlib.Path, *, networks: 'Mapping[str, Network] | None' = None
) -> 'TrainedModel':
    """Open a trained model, a run's workdir or an exported folder: see `ebm_jax.trained.load`."""
    from ebm_jax import trained  # not at import: everything imports this package

    return trained.load(path, networks=networks)
