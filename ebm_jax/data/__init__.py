"""Data: images and their labels (`examples` and `prepared`, whose functions are here), speech
(`recordings`, `windows`), and a synthetic speech set (`formants`)."""

from ebm_jax.data.examples import (
    Examples,
    batch_at,
    coloured,
    digits,
    divided,
    few_of_each,
    folder,
    in_chunks,
    inverted,
    labels_hidden,
    matched,
    middle,
    mixed,
    npz,
    open_npz,
    random_rows,
    rotated,
    select_classes,
    subsample,
    uniform_noise,
)
from ebm_jax.data.letters import letters
from ebm_jax.data.prepared import OnDisk, tfds

__all__ = [
    'Examples',
    'OnDisk',
    'batch_at',
    'coloured',
    'digits',
    'divided',
    'few_of_each',
    'folder',
    'in_chunks',
    'inverted',
    'labels_hidden',
    'letters',
    'matched',
    'middle',
    'mixed',
    'npz',
    'open_npz',
    'random_rows',
    'rotated',
    'select_classes',
    'subsample',
    'tfds',
    'uniform_noise',
]
