"""Data sources: the built-in digits, .npz files, image folders, TFDS.

Images are uint8 [N, H, W, C], labels int32 [N]; features of speech (see `windows`) take the
place of images as float32 [N, T, F, 1] in [-1, 1].

A batch is a function of the step (`batch_at`), so a resumed run sees what an uninterrupted one
would have seen. Scaling and augmentation happen on the device, in `augment`.
"""

import contextlib
import functools
import pathlib
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from ebm_jax import memory
from ebm_jax.errors import InputError
from ebm_jax.types import UNCONDITIONAL


class Examples(NamedTuple):
    """One split of a data set."""

    name: str
    x: np.ndarray  # uint8 [N, H, W, C], or float32 in [-1, 1]; or `prepared.OnDisk`
    y: np.ndarray  # int32 [N]

    @property
    def num_classes(self) -> int:
        return int(self.y.max()) + 1

    def rows(self, rows: np.ndarray) -> 'Examples':
        """Those of these indices, or where this mask is True."""
        return self._replace(x=self.x[rows], y=self.y[rows])


def checked(name: str, x: Any, y: Any) -> Examples:
    """What a loader found, as Examples. Raises: InputError."""
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.dtype != np.uint8 or not len(x):
        cure = ''
        if np.issubdtype(x.dtype, np.floating) and x.size:
            scale = 'x' if x.max() > 1.5 else '255 * x'
            cure = f'; make bytes of floats by ({scale}).round().astype(np.uint8)'
        raise InputError(
            f'{name}: images must be uint8 of shape [N, H, W] or [N, H, W, C] with N > 0, got'
            f' {x.dtype} {list(x.shape)}{cure}'
        )
    if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        cure = ''
        if y.shape == x.shape[:1]:
            cure = '; make numbers of labels by names, y = np.unique(labels, return_inverse=True)'
        raise InputError(
            f'{name}: labels must be {len(x)} integers >= 0, one per image, got {y.dtype}'
            f' {list(y.shape)}{cure}'
        )
    return Examples(name, x, y.astype(np.int32))


def check_split(split: str) -> None:
    """Raises: InputError for another split than 'train' and 'test'."""
    if split not in ('train', 'test'):
        raise InputError(f"the split must be 'train' or 'test', got {split!r}")


def digits(split: str) -> Examples:
    """The 1,797 handwritten 8x8 digits that scikit-learn ships: 1,437 for training, 360 held out
    (stratified, seed 0)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    check_split(split)
    x, y = load_digits(return_X_y=True)
    x = np.round(x.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=360, random_state=0, stratify=y
    )
    return checked('digits', *((x_train, y_train) if split == 'train' else (x_test, y_test)))


@contextlib.contextmanager
def open_npz(path: str | pathlib.Path) -> Iterator[Any]:
    """The arrays of a .npz file, as a context manager.

    Raises: InputError where the file is missing or damaged.
    """
    if not pathlib.Path(path).is_file():
        raise InputError(f'no data file at {path}: check the path')
    try:
        _check_size(path)
        with np.load(path, allow_pickle=False) as pack:
            yield pack
    except InputError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        TypeError,
        EOFError,
        OSError,
        MemoryError,
    ) as error:
        raise InputError(
            f'{path} cannot be read as .npz ({error}): it may be damaged or only partly written'
        ) from error


def _check_size(path):
    """Refuse, before it is read, a file that would not fit into the memory of this machine.
    Raises: InputError."""
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    left = memory.left()
    if size > left:
        raise InputError(
            f'{path} unpacks to {size / 2**30:.1f} GiB, more than the {left / 2**30:.1f} GiB of '
            'memory that are left: it may be damaged or made to do harm; else bring it to TFDS and '
            'read it from disk (memory=false)'
        )


def npz(path: str | pathlib.Path, split: str) -> Examples:
    """Arrays x_SPLIT and y_SPLIT (or x and y, as either split) of a .npz file. Without labels:
    unlabelled, of the one class 0. Raises: InputError."""
    check_split(split)
    with open_npz(path) as pack:
        suffix = f'_{split}' if f'x_{split}' in pack.files else ''
        if f'x{suffix}' not in pack.files:
            raise InputError(
                f'{path} holds {sorted(pack.files)}, but needs x_{split} and y_{split} (or x and y)'
            )
        x = pack[f'x{suffix}']
        y = pack[f'y{suffix}'] if f'y{suffix}' in pack.files else np.zeros(len(x), np.int32)
    return checked(pathlib.Path(path).stem, x, y)


def folder(path: str | pathlib.Path, split: str, size: int | None = None) -> Examples:
    """A folder of images, one sub-folder per class: PATH/SPLIT/CLASS/*.png|jpg, or PATH/CLASS/* as
    either split. Without classes, PATH/SPLIT/* or PATH/*: unlabelled, of the one class 0.

    Classes are numbered in alphabetical order; all images must have one size.
    Args: size: None, or the side of the squares that images are cut and resized to (`middle`).
    Raises: InputError where there are no images, or not of one size.
    """
    from PIL import Image, UnidentifiedImageError

    check_split(split)
    top = pathlib.Path(path)
    root = top / split if (top / split).is_dir() else top
    # both splits share their numbering
    places = [top / name if (top / name).is_dir() else top for name in ('train', 'test')]

    def of_classes(place):
        files = _images(place, '*/*', top)
        return [file for file in files if file.parent not in (top / 'train', top / 'test')]

    names = sorted({file.parent.name for place in places for file in of_classes(place)})
    classes = {name: i for i, name in enumerate(names)}
    files = of_classes(root)
    if not files:
        files, classes = _images(root, '*', top), {root.name: 0}
    if not files:
        raise InputError(
            f'no images at {root}/CLASS/*.png or {root}/*.png (or jpg, bmp): make one sub-folder '
            'per class, or put unlabelled images there'
        )
    images = []
    for file in tqdm(files, desc=f'reading {root}', unit='image', delay=2):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('error', Image.DecompressionBombWarning)
                with Image.open(file) as image:
                    grey = image.mode in ('1', 'L', 'LA')
                    pixels = np.asarray(image.convert('L' if grey else 'RGB'))
        except (
            UnidentifiedImageError,
            OSError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            raise InputError(
                f'{file} cannot be read as an image ({str(error)[:100]}): remove or replace it'
            ) from error
        if size is not None:
            pixels = middle(pixels.reshape(*pixels.shape[:2], -1), size)
        images.append(pixels)
        if pixels.shape != images[0].shape:
            raise InputError(
                f'{file} is {list(pixels.shape)}, but the first image is {list(images[0].shape)}: '
                f'bring all to one size, for instance by folder:{path}?size=64'
            )
    labels = np.array([classes[file.parent.name] for file in files])
    return checked(top.name, np.stack(images), labels)


def _images(place, pattern, top):
    """Files of images, without links that lead out of the folder `top`."""
    inside = top.resolve()
    return [
        file
        for file in sorted(place.glob(pattern))
        if file.suffix.lower() in ('.png', '.jpg', '.jpeg', '.bmp')
        and file.resolve().is_relative_to(inside)
    ]


def middle(image: np.ndarray, size: int) -> np.ndarray:
    """The largest central square of an image, resized to size x size (Pillow's cubic filter, which
    averages). uint8 [H, W, C]."""
    from PIL import Image

    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    return np.asarray(
        Image.fromarray(square.squeeze(-1) if square.shape[-1] == 1 else square).resize(
            (size, size), Image.Resampling.BICUBIC
        )
    ).reshape(size, size, -1)


def matched(examples: Examples, shape: Sequence[int]) -> Examples:
    """Images brought to the size and the number of channels of others, by fixed rules.

    Channels: three become one by luma, .299 R + .587 G + .114 B; one becomes three by repeating it.
    Size: the largest central square, resized by Pillow's cubic filter, which averages (`middle`);
    images of that size stay as they are.

    Args: shape: (H, W, C) with H = W, unless the size is that already.
    Raises: InputError where there is no rule.
    """
    own, shape = examples.x.shape[1:], tuple(shape)
    if own == shape:
        return examples
    fits = own[:2] == shape[:2]
    if examples.x.dtype != np.uint8 or not (fits or shape[0] == shape[1]):
        raise InputError(
            f'{examples.name} has examples of shape {list(own)}, and there is no rule to bring '
            f'them to {list(shape)}: bring them to that shape first'
        )
    if (own[2], shape[2]) not in ((1, 1), (3, 3), (1, 3), (3, 1)):
        raise InputError(
            f'{examples.name} has {own[2]} channels, wanted are {shape[2]}: only 1 and 3 are '
            'converted into each other'
        )
    x = np.asarray(examples.x)
    if (own[2], shape[2]) == (3, 1):
        x = np.round(x @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
    if not fits:
        bar = tqdm(x, desc=f'resizing {examples.name}', unit='image', delay=2, leave=False)
        x = np.stack([middle(image, shape[0]) for image in bar])
    return examples._replace(x=np.repeat(x, 3, -1) if x.shape[-1] < shape[2] else x)


def divided(examples: Examples, share: float, split: str, seed: int = 0) -> Examples:
    """One split of examples that come as one set: `share` of each class is the test split.

    Raises: InputError for a share outside (0, 1), or one that leaves a split without examples.
    """
    from sklearn.model_selection import train_test_split

    check_split(split)
    if not 0 < share < 1:
        raise InputError(f'the share of the test split must lie in (0, 1), got {share:g}')
    try:
        train, test = train_test_split(
            np.arange(len(examples.y)), test_size=share, random_state=seed, stratify=examples.y
        )
    except ValueError as error:
        raise InputError(
            f'{examples.name}: a share of {share:g} cannot be cut off for tests ({error})'
        ) from error
    pick = np.sort(train if split == 'train' else test)
    return examples.rows(pick)


@functools.lru_cache(maxsize=4)
def _order(n, seed, epoch):
    return np.random.default_rng([seed, epoch]).permutation(n)


def batch_at(
    examples: Examples, step: int, batch_size: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """The batch of a step: epochs are independent permutations; the rest of an epoch that fills no
    batch is left out.

    Args: step: int >= 0. batch_size: in [1, N].
    Returns: {'x': uint8 [batch_size, H, W, C], 'y': int32 [batch_size]}.
    Raises: InputError when the batch is empty, or larger than the data set.
    """
    if batch_size < 1:
        raise InputError(f'the size of a batch must be at least 1, got {batch_size}')
    per_epoch = len(examples.x) // batch_size
    if not per_epoch:
        raise InputError(
            f'a batch of {batch_size} is larger than {examples.name} with its {len(examples.x)}'
            ' examples'
        )
    epoch, position = divmod(step, per_epoch)
    pick = _order(len(examples.x), seed, epoch)[position * batch_size : (position + 1) * batch_size]
    return {'x': examples.x[pick], 'y': examples.y[pick]}


def rotated(examples: Examples) -> Examples:
    """Every image turned by 90 degrees: out-of-distribution, with the same grey values."""
    return examples._replace(
        name=f'{examples.name} rotated', x=np.rot90(examples.x, axes=(1, 2)).copy()
    )


def inverted(examples: Examples) -> Examples:
    """255 - x; for features, -x."""
    return examples._replace(
        name=f'{examples.name} inverted',
        x=255 - np.asarray(examples.x) if examples.x.dtype == np.uint8 else -examples.x,
    )


def coloured(examples: Examples, seed: int = 0) -> Examples:
    """Grey images in a colour each: the channels are multiplied by a fully saturated colour whose
    hue is uniform over the circle, so that it says nothing about the class.

    Args: examples: uint8 [N, H, W, 1].
    Returns: the examples as RGB.
    Raises: InputError where they are not grey images.
    Source: ours, as coloured versions of MNIST are made.
    """
    from matplotlib.colors import hsv_to_rgb

    if examples.x.shape[-1] != 1 or examples.x.dtype != np.uint8:
        raise InputError(
            f'{examples.name} cannot be coloured: it must be grey images, uint8 [N, H, W, 1], and '
            f'is {examples.x.dtype} {list(examples.x.shape)}'
        )
    turns = np.random.default_rng(seed).random(len(examples.x))
    colours = hsv_to_rgb(np.stack([turns, *np.ones((2, len(turns)))], 1)).astype(np.float32)
    grey = np.asarray(examples.x)[..., 0]
    x = np.empty((*grey.shape, 3), np.uint8)
    for channel in range(3):
        x[..., channel] = np.round(grey * colours[:, channel, None, None])
    return examples._replace(name=f'{examples.name} coloured', x=x)


def uniform_noise(examples: Examples, seed: int = 0) -> Examples:
    """The same number of images of independent uniform pixels; for features, uniform in [-1, 1]."""
    rng, shape = np.random.default_rng(seed), examples.x.shape
    x = (
        rng.integers(0, 256, shape, dtype=np.uint8)
        if examples.x.dtype == np.uint8
        else rng.uniform(-1, 1, shape).astype(np.float32)
    )
    return examples._replace(name='uniform noise', x=x)


def mixed(examples: Examples, seed: int = 0) -> Examples:
    """Each image averaged with another one, (x_i + x_j) / 2: the 'interpolation' set of the
    literature."""
    order = np.random.default_rng(seed).permutation(len(examples.x))
    other = np.roll(order, 1)
    pair = examples.x[order], examples.x[other]
    x = (
        ((pair[0].astype(np.uint16) + pair[1]) // 2).astype(np.uint8)
        if examples.x.dtype == np.uint8
        else (pair[0] + pair[1]) / 2
    )
    return examples._replace(name=f'{examples.name} mixed', x=x, y=examples.y[order])


def select_classes(examples: Examples, classes: Sequence[int], keep: bool = True) -> Examples:
    """The examples of these classes, or with keep=False of all others.

    Raises: InputError when none is left.
    """
    pick = np.isin(examples.y, classes) == keep
    if not pick.any():
        raise InputError(
            f'{examples.name} has no example {"of" if keep else "outside"} the classes'
            f' {sorted(classes)}: its classes are 0 to {examples.num_classes - 1}'
        )
    name = f'{examples.name} {"of" if keep else "without"} {",".join(map(str, sorted(classes)))}'
    return examples._replace(name=name, x=examples.x[pick], y=examples.y[pick])


def few_of_each(examples: Examples, per_class: int, seed: int = 0) -> np.ndarray:
    """Indices of `per_class` examples of each class, drawn without replacement, in order.

    Raises: InputError where a class has fewer.
    """
    rng, chosen = np.random.default_rng(seed), []
    for label in range(examples.num_classes):
        rows = np.flatnonzero(examples.y == label)
        if len(rows) < per_class:
            raise InputError(
                f'{examples.name} has {len(rows)} examples of the class {label}, fewer than the '
                f'{per_class} asked for'
            )
        chosen.append(rng.permutation(rows)[:per_class])
    return np.sort(np.concatenate(chosen))


def labels_hidden(examples: Examples, known: np.ndarray) -> Examples:
    """All examples, with the label UNCONDITIONAL where they are not among the indices `known`."""
    y = np.full_like(examples.y, UNCONDITIONAL)
    y[known] = examples.y[known]
    return examples._replace(y=y)


def subsample(examples: Examples, n: int, seed: int = 0) -> Examples:
    """At most n examples, drawn without replacement: the first n of a source that is sorted by
    class would be of one class."""
    return examples.rows(random_rows(len(examples.x), n, seed))


def in_chunks(x: Any, size: int = 10_000) -> Iterator[np.ndarray]:
    """The rows of an array, or of images on disk, so many at once: they may not fit into memory
    together."""
    for begin in range(0, len(x), size):
        yield x[begin : begin + size]


def random_rows(total: int, n: int, seed: int = 0) -> np.ndarray:
    """Indices of at most n of `total` examples, drawn without replacement, in order."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:n])
