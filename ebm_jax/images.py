"""Conversions of images, and grids of them as pictures."""

import math
import pathlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image


def as_float(images: ArrayLike) -> np.ndarray:
    """uint8 images, or floats in [-1, 1] (clipped to it) -> float32 in [-1, 1], of the same shape.

    Raises: ValueError for NaN.
    """
    images = np.asarray(images)
    if np.isnan(images).any():
        with_nan = np.isnan(images).reshape(len(images), -1).any(1).sum()
        raise ValueError(f'{with_nan} of {len(images)} images hold NaN')
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(127.5) - 1
    return np.clip(images, -1, 1).astype(np.float32)


def as_uint8(images: ArrayLike) -> np.ndarray:
    """Floats in [-1, 1] (clipped to it) -> uint8 in [0, 255], of the same shape."""
    return np.round((np.clip(np.asarray(images), -1, 1) + 1) * 127.5).astype(np.uint8)


def as_pixels(images: ArrayLike) -> np.ndarray:
    """As `as_float`, as float64 [N, D]."""
    images = as_float(images)
    return images.reshape(len(images), -1).astype(np.float64)


def as_unit(images: ArrayLike) -> np.ndarray:
    """As `as_pixels`, in [0, 1]."""
    return (as_pixels(images) + 1) / 2


def stacked(rows: Sequence[np.ndarray], columns: int = 10) -> tuple[np.ndarray, int]:
    """(images, columns) for `image_grid`: corresponding images of several series of equal length
    below each other, filled up with grey."""
    columns = min(columns, len(rows[0]))
    missing = -len(rows[0]) % columns
    filled = [np.concatenate([row, np.zeros((missing, *row.shape[1:]), row.dtype)]) for row in rows]
    begins = range(0, len(rows[0]), columns)
    lines = [row[begin : begin + columns] for begin in begins for row in filled]
    return np.concatenate(lines), columns


def image_grid(images: ArrayLike, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """Images [N, H, W, C] in [-1, 1], row by row -> one uint8 picture [.., .., C]."""
    images = as_uint8(images)
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    shape = rows * (height + gap) + gap, columns * (width + gap) + gap, channels
    grid = np.full(shape, 128, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


def save_grid(path: str | pathlib.Path, grid: np.ndarray, side: int = 640) -> None:
    """Save a picture as PNG, enlarged by an integer factor to about `side` pixels so that small
    images can be seen."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(grid[..., 0] if grid.shape[-1] == 1 else grid)
    factor = max(1, round(side / max(image.size)))
    image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST).save(path)


def spectrogram_images(x: ArrayLike, height: int = 48) -> np.ndarray:
    """Windows of features [N, T, F, 1] in network units -> images for grids: time to the right,
    frequency upwards; single frames as filled curves."""
    x = np.asarray(x)
    if x.shape[1] > 1:
        return x.swapaxes(1, 2)[:, ::-1]
    line = x[:, 0, :, 0]
    step = max(1, line.shape[1] // 128)
    line = line[:, : line.shape[1] // step * step].reshape(len(x), -1, step).mean(2)
    levels = 1 - 2 * (np.arange(height) + 0.5) / height
    return np.where(line[:, None, :] >= levels[:, None], 1.0, -1.0)[..., None]
