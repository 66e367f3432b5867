"""Conversions of images, and grids of them as pictures."""

import io
import math
import pathlib
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont


def as_float(images: ArrayLike) -> np.ndarray:
    """uint8 images, or floats in [-1, 1] (clipped to it) -> float32 in [-1, 1], of the same shape.

    Raises: ValueError for NaN, and for integers of another type.
    """
    images = np.asarray(images)
    _check_type(images)
    if np.isnan(images).any():
        with_nan = np.isnan(images).reshape(len(images), -1).any(1).sum()
        raise ValueError(f'{with_nan} of {len(images)} images hold NaN')
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(127.5) - 1
    return np.clip(images, -1, 1).astype(np.float32)


def as_uint8(images: ArrayLike) -> np.ndarray:
    """Floats in [-1, 1] (clipped to it; NaN to -1) -> uint8 in [0, 255], of the same shape; uint8
    images stay as they are.

    Raises: ValueError for integers of another type.
    """
    images = np.asarray(images)
    _check_type(images)
    if images.dtype == np.uint8:
        return images
    clipped = np.nan_to_num(np.clip(images, -1, 1), nan=-1.0)
    return np.round((clipped + 1) * 127.5).astype(np.uint8)


def _check_type(images):
    """Integers may be pixels or numbers in [-1, 1]."""
    if np.issubdtype(images.dtype, np.integer) and images.dtype != np.uint8:
        raise ValueError(
            f'images must be uint8 in [0, 255] or floats in [-1, 1], got {images.dtype}'
        )


def as_pixels(images: ArrayLike) -> np.ndarray:
    """As `as_float`, as float64 [N, D]."""
    images = as_float(images)
    return images.reshape(len(images), -1).astype(np.float64)


def as_unit(images: ArrayLike) -> np.ndarray:
    """As `as_pixels`, in [0, 1]."""
    return (as_pixels(images) + 1) / 2


class Grid(NamedTuple):
    """Images for a picture.

    Attributes:
      images: [N, H, W, C] in [-1, 1], row by row. columns: default about as many as rows.
      caption: what is to be seen, written below. headings: of the columns.
    """

    images: np.ndarray
    columns: int | None = None
    caption: str = ''
    headings: Sequence[str] = ()

    def picture(self, side: int = 640, gap: int = 1) -> Image.Image:
        """Enlarged by an integer factor to about `side` pixels so that small images can be seen,
        with headings and caption. gap: pixels between images."""
        return _with_words(_enlarged(self, side, gap), self)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        content = io.BytesIO()
        self.picture().save(content, 'png')
        return content.getvalue()


def stacked(rows: Sequence[np.ndarray], columns: int = 10, caption: str = '') -> Grid:
    """Corresponding images of several series of equal length below each other, filled up with
    grey."""
    columns = min(columns, len(rows[0]))
    missing = -len(rows[0]) % columns
    filled = [np.concatenate([row, np.zeros((missing, *row.shape[1:]), row.dtype)]) for row in rows]
    begins = range(0, len(rows[0]), columns)
    lines = [row[begin : begin + columns] for begin in begins for row in filled]
    return Grid(np.concatenate(lines), columns, caption)


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


def save_grid(path: str | pathlib.Path, grid: Grid, side: int = 640, gap: int = 1) -> None:
    """Save the picture of a grid as PNG; its folder is made."""
    grid.picture(side, gap).save(_in_its_folder(path))


def save_frames(
    path: str | pathlib.Path, frames: Sequence[Grid], side: int = 480, milliseconds: int = 160
) -> None:
    """Save grids of one size as a moving picture (GIF); the last one stays for a while."""
    path = _in_its_folder(path)
    pictures = [_enlarged(grid, side).convert('RGB') for grid in frames]
    durations = [milliseconds] * (len(pictures) - 1) + [8 * milliseconds]
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, disposal=1
    )


def save_strip(path: str | pathlib.Path, frames: Sequence[Grid], side: int = 480) -> None:
    """Save grids of one size below each other, as PNG."""
    pictures = [np.asarray(_enlarged(grid, side)) for grid in frames]
    Image.fromarray(np.concatenate(pictures)).save(_in_its_folder(path))


def _in_its_folder(path):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _enlarged(grid, side, gap=1):
    pixels = image_grid(grid.images, grid.columns, gap)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    factor = max(1, round(side / max(image.size)))
    size = image.width * factor, image.height * factor
    return image.resize(size, Image.Resampling.NEAREST)


def _with_words(image, grid):
    """The picture with headings above its columns and the caption below."""
    if not (grid.caption or grid.headings):
        return image
    font, margin, line = ImageFont.load_default(14), 6, 18
    words = textwrap.wrap(grid.caption, max(20, int(image.width / font.getlength('n'))))
    above = line + margin if grid.headings else 0
    below = len(words) * line + 2 * margin if words else 0
    page = Image.new('RGB', (image.width, above + image.height + below), 'white')
    page.paste(image, (0, above))
    draw = ImageDraw.Draw(page)
    for i, heading in enumerate(grid.headings):
        middle = (i + 0.5) * image.width / len(grid.headings)
        draw.text((middle, above - margin / 2), heading, 'black', font, 'mb')
    for i, text in enumerate(words):
        draw.text((margin, above + image.height + margin + i * line), text, 'black', font)
    return page


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
