"""Arrays from files that `torch.save` wrote, without PyTorch and without running what they hold.

Such a file is a pickle of a dictionary of tensors beside their raw numbers. A pickle can call any
function; here it can name those that make tensors and ordered dictionaries, and nothing else is
called (what PyTorch calls weights_only).
"""

import collections
import io
import math
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from ebm_jax.errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C  # of the format before PyTorch 1.6
STORAGES = {
    'FloatStorage': np.dtype('<f4'),
    'DoubleStorage': np.dtype('<f8'),
    'HalfStorage': np.dtype('<f2'),
    'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
    'LongStorage': np.dtype('<i8'),
    'IntStorage': np.dtype('<i4'),
    'ShortStorage': np.dtype('<i2'),
    'CharStorage': np.dtype('i1'),
    'ByteStorage': np.dtype('u1'),
    'BoolStorage': np.dtype('?'),
}


@dataclass(frozen=True)
class _Storage:
    """The numbers of one or several tensors."""

    key: str
    dtype: np.dtype
    size: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage, offset, shape, strides, *_) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _parameter(data, *_) -> _Tensor:
    return data


ALLOWED = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor_v2'): _tensor,
    ('torch._utils', '_rebuild_parameter'): _parameter,
    **{('torch', name): dtype for name, dtype in STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Knows ALLOWED, and storages by their key, which it keeps."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise InputError(f'it holds {module}.{name}, and only arrays are read')
        return ALLOWED[module, name]

    def persistent_load(self, pid):
        kind, dtype, key, _, size, *view = pid
        if kind != 'storage' or not isinstance(dtype, np.dtype) or any(view):
            raise InputError(f'it holds a {kind} of another kind than whole arrays')
        storage = self.storages[str(key)] = _Storage(str(key), dtype, int(size))
        return storage


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """{name: array} of a state dict, of either format of `torch.save`; entries that are not tensors
    are left out, and one level of 'state_dict' is opened.

    Raises: InputError when the file is missing or damaged, or holds something else than arrays.
    """
    try:
        with open(path, 'rb') as file:
            found, numbers = (_zip if zipfile.is_zipfile(file) else _legacy)(file)
            if not isinstance(found, Mapping):
                raise InputError('it holds no dictionary of arrays')
            if isinstance(found.get('state_dict'), Mapping):
                found = found['state_dict']
            return {
                str(name): _array(value, numbers)
                for name, value in found.items()
                if isinstance(value, _Tensor)
            }
    except (
        *(OSError, EOFError, InputError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error),
        *(AttributeError, IndexError, KeyError, MemoryError, TypeError, ValueError, OverflowError),
    ) as error:
        raise InputError(f'{path} cannot be read as weights of PyTorch ({error})') from error


def _zip(file: BinaryIO) -> tuple[Any, dict[str, bytes]]:
    """(what was saved, bytes of each storage), since PyTorch 1.6."""
    with zipfile.ZipFile(file) as pack:
        (listing,) = (name for name in pack.namelist() if name.endswith('/data.pkl'))
        folder = listing.removesuffix('data.pkl')
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in pack.infolist()):
            raise InputError('its entries are compressed')
        order = f'{folder}byteorder'
        if order in pack.namelist() and pack.read(order) != b'little':
            raise InputError('its numbers are big-endian')
        found = _Unpickler(io.BytesIO(pack.read(listing))).load()
        data = [name for name in pack.namelist() if name.startswith(f'{folder}data/')]
        return found, {name.rpartition('/')[2]: pack.read(name) for name in data}


def _legacy(file: BinaryIO) -> tuple[Any, dict[str, bytes]]:
    """The same of the format before PyTorch 1.6: pickles one after another, then the numbers."""
    file.seek(0)

    def next_pickle():
        return _Unpickler(file).load()

    if next_pickle() != MAGIC:
        raise InputError('it does not begin as such a file')
    next_pickle()  # version of the protocol
    if not next_pickle().get('little_endian', True):
        raise InputError('its numbers are big-endian')
    unpickler = _Unpickler(file)
    found, numbers = unpickler.load(), {}
    for key in next_pickle():
        (count,) = struct.unpack('<q', file.read(8))
        storage = unpickler.storages[key]
        if count != storage.size:
            raise InputError('an array has another size than is said')
        numbers[key] = _rest(file, count * storage.dtype.itemsize)
    return found, numbers


def _rest(file: BinaryIO, size: int) -> bytes:
    """So many bytes, which the file must have."""
    here = file.tell()
    if not 0 <= size <= file.seek(0, io.SEEK_END) - here:
        raise EOFError('it ends too early')
    file.seek(here)
    return file.read(size)


def _array(tensor: _Tensor, numbers: Mapping[str, bytes]) -> np.ndarray:
    """A copy of the view, which must lie within its storage and be no larger."""
    shape, strides, dtype = tensor.shape, tensor.strides, tensor.storage.dtype
    flat = np.frombuffer(numbers[tensor.storage.key], dtype)
    if len(flat) != tensor.storage.size or len(shape) != len(strides):
        raise InputError('an array has another size than is said')
    count = math.prod(shape)
    if not count:
        return np.zeros(shape, dtype)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, strides))
    positive = min((tensor.offset, *strides, *shape)) >= 0
    if not (positive and last < len(flat) and count <= len(flat)):
        raise InputError('an array lies outside its numbers')
    steps = [dtype.itemsize * step for step in strides]
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], shape, steps).copy()
