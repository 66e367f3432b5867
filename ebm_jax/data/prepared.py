"""Image sets prepared by TensorFlow Datasets, in memory or read from disk as they are needed."""

import functools
import operator
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ebm_jax.data.examples import Examples, check_split, checked, middle
from ebm_jax.errors import InputError

THREADS = min(16, os.cpu_count() or 1)  # that decode images of a batch


class OnDisk:
    """Images that stay on disk: an array [N, H, W, C] of which rows are read when they are indexed.

    Element i is a function of i alone, so batches are those of the same set in memory, bit for bit.

    Args:
      source: random access to encoded examples; read through `grain.MapDataset`.
      decode: example -> uint8 [H, W, C].
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, source: Sequence[Any], decode: Callable[[Any], np.ndarray]) -> None:
        import grain

        self.images = grain.MapDataset.source(source).map(decode)
        self.shape = (len(source), *self.images[0].shape)
        self.pool = ThreadPoolExecutor(THREADS, 'decode')

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """As an array; `rows` along the first axis only: an index, a slice, indices, or a mask."""
        if isinstance(rows, tuple):
            raise IndexError('images on disk are indexed along their first axis alone')
        rows = np.arange(len(self))[rows]
        if rows.ndim == 0:
            return self.images[int(rows)]
        images = list(self.pool.map(self.images.__getitem__, map(int, rows)))
        return np.stack(images) if images else np.zeros((0, *self.shape[1:]), self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def tfds(
    name: str,
    split: str,
    data_dir: str | None = None,
    *,
    size: int | None = None,
    label: str = 'label',
    memory: bool = True,
) -> Examples:
    """A prepared TensorFlow-Datasets image set, read through `tfds.data_source` (no TensorFlow).

    Args:
      data_dir: folder that holds the set, prepared as array_record (default: TFDS's own folder);
        see the README for how to prepare one.
      size: None, or the side length of the images: the largest central square of each is resized to
        it (our reading of "64x64" for CelebA).
      label: name of the label in an example, dots between levels: 'label', 'attributes.Male'.
      memory: decode all images once, into memory; else only the labels, and images as they are
        asked for (`OnDisk`), for sets larger than the memory.
    """
    check_split(split)
    try:
        if memory:
            rows = _progress(_source(name, split, data_dir), f'decoding {name} {split}')
            pairs = [(_image(row, size), _label(row, label)) for row in rows]
            return checked(name, np.stack([x for x, _ in pairs]), _labels(y for _, y in pairs))
        encoded = _source(name, split, data_dir, skip_images=True)
        rows = _progress(encoded, f'reading labels of {name} {split}')
        y = _labels(_label(row, label) for row in rows)
        images = OnDisk(_source(name, split, data_dir), functools.partial(_image, size=size))
        checked(name, images[:1], y[:1])
        return Examples(name, images, y.astype(np.int32))  # type: ignore[arg-type]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError(
            f"TFDS set {name!r} does not hold an 'image' of one size and a {label!r} per example"
            f' ({error}): choose another set, size or label, or convert it to one size as .npz'
        ) from error


def _source(name, split, data_dir, skip_images=False):
    """Random access to the examples of a split; images stay encoded with `skip_images`."""
    import tensorflow_datasets

    decoders = {'image': tensorflow_datasets.decode.SkipDecoding()} if skip_images else None
    try:
        return tensorflow_datasets.data_source(
            name, split=split, data_dir=data_dir, download=False, decoders=decoders
        )
    except Exception as error:  # tfds raises many types where the set is not available as asked
        message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f'TFDS set {name!r} ({split}) cannot be opened in {data_dir or "the default folder"}'
            f' ({message}): prepare it first with file_format="array_record", see the README'
        ) from error


def _progress(source, description):
    return (source[i] for i in tqdm(range(len(source)), description, unit='image', delay=2))


def _image(row, size):
    return row['image'] if size is None else middle(row['image'], size)


def _label(row, label):
    return functools.reduce(operator.getitem, label.split('.'), row)


def _labels(values):
    y = np.array(list(values))
    return y.astype(np.int32) if y.dtype == bool else y
