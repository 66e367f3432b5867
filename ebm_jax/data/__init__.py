"""Data: images and their labels (`examples`, whose functions are here), speech (`recordings`,
`windows`), and a synthetic speech set (`formants`)."""

from ebm_jax.data.examples import (
    Examples,
    batch_at,
    digits,
    folder,
    inverted,
    middle,
    mixed,
    npz,
    open_npz,
    rotated,
    select_classes,
    subsample,
    tfds,
    uniform_noise,
)

__all__ = [
    'Examples',
    'batch_at',
    'digits',
    'folder',
    'inverted',
    'middle',
    'mixed',
    'npz',
    'open_npz',
    'rotated',
    'select_classes',
    'subsample',
    'tfds',
    'uniform_noise',
]
