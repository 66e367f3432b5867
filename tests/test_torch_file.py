"""Files of `torch.save`: two that PyTorch 2.13 wrote (tests/files), and some that it refuses."""

import collections
import io
import os
import pathlib
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from ebm_jax.errors import InputError
from ebm_jax.evaluate import extractor, torch_file

FILES = pathlib.Path(__file__).parent / 'files'
WHOLE = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
EXPECTED = {
    'conv.weight': WHOLE.transpose(2, 0, 1),  # saved as a view with other strides
    'conv.bias': np.float32([1.5, -2.0]),  # a Parameter
    'bn.num_batches_tracked': np.array(7),
    'half': np.float16([0.5, 3.0]),
    'part': WHOLE[1],  # shares the numbers of conv.weight
}


@pytest.mark.parametrize('kind', ['zip', 'legacy'])
def test_both_formats_hold_what_was_saved(kind):
    found = torch_file.read(FILES / f'torch_{kind}.pth')
    assert found.keys() == EXPECTED.keys()
    for name, value in EXPECTED.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def rewritten(path, change):
    """The file of tests/files with another data.pkl."""
    with zipfile.ZipFile(FILES / 'torch_zip.pth') as pack, zipfile.ZipFile(path, 'w') as out:
        for name in pack.namelist():
            content = pack.read(name)
            out.writestr(name, change(content) if name.endswith('data.pkl') else content)
    return path


class Command:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_nothing_that_a_file_holds_is_run(tmp_path):
    made = tmp_path / 'made'
    evil = {'conv.weight': Command(made)}
    path = rewritten(tmp_path / 'evil.pth', lambda _: pickle.dumps(evil, protocol=2))
    legacy = tmp_path / 'legacy.pth'
    legacy.write_bytes(
        b''.join(pickle.dumps(part, protocol=2) for part in (torch_file.MAGIC, 1001, {}, evil))
    )
    for file in (path, legacy):
        with pytest.raises(InputError, match='mkdir, and only arrays are read'):
            torch_file.read(file)
    assert not made.exists()
    pickle.loads(pickle.dumps(evil))  # as it would have been
    assert made.exists()


class Saved(pickle.Pickler):
    """Storages and tensors as PyTorch writes them."""

    def persistent_id(self, value):
        return value.pid if isinstance(value, Numbers) else None

    def reducer_override(self, value):
        if isinstance(value, View):
            return rebuild, (Numbers(), *value)
        return NotImplemented


class Numbers:
    """The 24 floats of conv.weight."""

    @property
    def pid(self):
        return 'storage', FloatStorage, '0', 'cpu', 24


View = collections.namedtuple('View', 'offset shape strides grad hooks')


class FloatStorage:
    pass


def rebuild(*_):
    pass


FloatStorage.__module__, FloatStorage.__qualname__ = 'torch', 'FloatStorage'
rebuild.__module__, rebuild.__qualname__ = 'torch._utils', '_rebuild_tensor_v2'


@pytest.fixture
def as_torch(monkeypatch):
    """Modules in which pickle finds the two names."""
    torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
    torch.FloatStorage, utils._rebuild_tensor_v2, torch._utils = FloatStorage, rebuild, utils
    monkeypatch.setitem(sys.modules, 'torch', torch)
    monkeypatch.setitem(sys.modules, 'torch._utils', utils)


@pytest.mark.parametrize(
    'offset, shape, strides, right',
    [
        (0, (4, 6), (6, 1), True),
        (20, (2, 2), (2, 1), True),
        (20, (2, 3), (3, 1), False),  # two numbers too many
        (-1, (2,), (1,), False),
        (3, (2,), (-1,), False),
        (0, (10**9,), (0,), False),  # four gigabytes of one number
        (0, (-2, -2), (1, 1), False),
        (0, (2, 2), (1,), False),
    ],
)
def test_views_lie_within_their_numbers(offset, shape, strides, right, as_torch, tmp_path):
    stream = io.BytesIO()
    Saved(stream, protocol=2).dump({'x': View(offset, shape, strides, False, None)})
    path = rewritten(tmp_path / 'view.pth', lambda _: stream.getvalue())
    if right:
        found = torch_file.read(path)['x']
        flat = WHOLE.ravel()[offset:]
        np.testing.assert_array_equal(found.ravel(), flat[: found.size])
    else:
        with pytest.raises(InputError, match='size than is said|outside its numbers'):
            torch_file.read(path)


@pytest.mark.parametrize('kind', ['zip', 'legacy'])
def test_a_damaged_file_gets_a_sentence(kind, tmp_path):
    """Cut off anywhere, it is read as it was or refused."""
    whole = (FILES / f'torch_{kind}.pth').read_bytes()
    for size in range(0, len(whole), 7):
        (tmp_path / 'cut.pth').write_bytes(whole[:size])
        with pytest.raises(InputError, match='cannot be read as weights of PyTorch'):
            torch_file.read(tmp_path / 'cut.pth')
    with pytest.raises(InputError, match='no.pth cannot be read'):
        extractor.inception_extractor(tmp_path / 'no.pth')
    with pytest.raises(InputError, match='lacks the array'):
        extractor.inception_extractor(FILES / f'torch_{kind}.pth')
