"""Sources: real files on disk, what is damaged or does not fit, and that a batch is a function of
the step."""

import itertools
import subprocess
import sys

import jax
import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv
from PIL import Image
from scipy import stats
from tfds_sets import png, prepare

from ebm_jax import data
from ebm_jax.data import examples as source_files
from ebm_jax.errors import InputError
from ebm_jax.train import make_local_step, state_shapes
from experiments import celeba64_dual_mcmc
from experiments.common import sources
from experiments.common.sources import load

X = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])


def test_digits_are_scikit_learns():
    train, test = data.digits('train'), data.digits('test')
    assert (
        train.x.shape == (1437, 8, 8, 1)
        and test.x.shape == (360, 8, 8, 1)
        and train.num_classes == 10
    )
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    known = {
        (image.tobytes(), label)
        for image, label in zip(np.round(images * 255 / 16).astype(np.uint8), labels)
    }
    ours = [
        (image.tobytes(), label)
        for split in (train, test)
        for image, label in zip(split.x.reshape(-1, 64), split.y)
    ]
    assert set(ours) == known
    assert not {i.tobytes() for i in train.x} & {i.tobytes() for i in test.x}


def test_npz_round_trip(tmp_path):
    np.savez(tmp_path / 'set.npz', x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2])
    train, test = (data.npz(tmp_path / 'set.npz', split) for split in ('train', 'test'))
    np.testing.assert_array_equal(train.x, X)
    np.testing.assert_array_equal(train.y, Y)
    assert len(test.x) == 2 and train.name == 'set'
    np.savez(tmp_path / 'grey.npz', x=X[..., 0])
    grey = data.npz(tmp_path / 'grey.npz', 'test')
    assert grey.x.shape == (6, 5, 4, 1) and grey.num_classes == 1  # without labels


def test_folder_of_images(tmp_path):
    for i, (image, label) in enumerate(zip(X, Y)):
        place = tmp_path / 'train' / f'class{label}'
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f'{i}.png')
    found = data.folder(tmp_path, 'train')
    order = np.argsort(Y, kind='stable')
    np.testing.assert_array_equal(found.x, X[order])
    np.testing.assert_array_equal(found.y, Y[order])


def test_a_folder_of_unlabelled_images_and_one_of_many_sizes(tmp_path):
    """Without classes all are of class 0; ?size= cuts and resizes, as for TFDS."""
    for i, image in enumerate(X):
        Image.fromarray(image).save(tmp_path / f'{i}.png')
    found = sources.load(f'folder:{tmp_path}', 'test')
    np.testing.assert_array_equal(found.x, X)
    assert set(found.y) == {0}
    Image.fromarray(np.full((9, 7, 3), 50, np.uint8)).save(tmp_path / '9.png')
    with pytest.raises(InputError, match=r'\?size=64'):
        sources.load(f'folder:{tmp_path}', 'test')
    (tmp_path / 'other' / 'train').mkdir(parents=True)
    Image.fromarray(X[0]).save(tmp_path / 'other' / 'train' / '0.png')
    with pytest.raises(InputError, match='no images at'):
        data.folder(tmp_path / 'other', 'test')
    resized = sources.load(f'folder:{tmp_path}?size=4', 'test').x
    assert resized.shape == (len(X) + 1, 4, 4, 3) and (resized[-1] == 50).all()
    np.testing.assert_array_equal(resized[0], data.middle(X[0], 4))


def test_a_test_split_is_cut_off_by_seed(tmp_path):
    """A share of each class, the same at every call; the two splits are all of it."""
    y = np.repeat([0, 1], [30, 10])
    x = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
    np.savez(tmp_path / 'whole.npz', x_train=x, y_train=y)
    source = f'npz:{tmp_path}/whole.npz?test=.2'
    train, test = sources.splits(source)
    assert sorted([*train.x.ravel(), *test.x.ravel()]) == list(range(40))
    assert np.bincount(train.y).tolist() == [24, 8] and np.bincount(test.y).tolist() == [6, 2]
    np.testing.assert_array_equal(test.x, sources.load(source, 'test').x)
    np.testing.assert_array_equal(test.y, y[test.x.ravel()])
    for bad in ('1', 'x', '.0001'):
        with pytest.raises(InputError, match='test'):
            sources.splits(f'npz:{tmp_path}/whole.npz?test={bad}')
    np.savez(tmp_path / 'one.npz', x=x, y=y)
    with pytest.raises(InputError, match=r'one\.npz\?test=\.1'):
        sources.splits(f'npz:{tmp_path}/one.npz')


@pytest.mark.parametrize('share', [0.0, 1.0, 100])
def test_a_share_is_no_count(share):
    with pytest.raises(InputError, match=r'in \(0, 1\)'):
        data.divided(data.digits('train'), share, 'test')


def test_messages_say_the_cure(tmp_path):
    with pytest.raises(InputError, match=r'\(255 \* x\)\.round\(\)\.astype\(np\.uint8\)'):
        source_files.checked('mine', np.full((3, 2, 2), 0.5), np.zeros(3, int))
    with pytest.raises(InputError, match=r'by \(x\)\.round'):
        source_files.checked('mine', np.full((3, 2, 2), 200.0), np.zeros(3, int))
    with pytest.raises(InputError, match='return_inverse=True'):
        source_files.checked('mine', np.zeros((3, 2, 2), np.uint8), np.array(['a', 'b', 'a']))


def test_both_splits_of_a_folder_share_their_numbering(tmp_path):
    for split, names in (('train', 'abc'), ('test', 'ac')):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(X[0]).save(tmp_path / split / name / '0.png')
    assert list(data.folder(tmp_path, 'train').y) == [0, 1, 2] and list(
        data.folder(tmp_path, 'test').y
    ) == [0, 2]
    for name in 'abd':
        (tmp_path / 'one' / name).mkdir(parents=True)
        Image.fromarray(X[0]).save(tmp_path / 'one' / name / '0.png')
    (tmp_path / 'one' / 'test' / 'b').mkdir(parents=True)
    Image.fromarray(X[0]).save(tmp_path / 'one' / 'test' / 'b' / '0.png')
    numbers = [list(data.folder(tmp_path / 'one', split).y) for split in ('train', 'test')]
    assert numbers[1] == [numbers[0][1]]  # b is the second of a, b, d


def test_palette_images_are_read_as_colours(tmp_path):
    (tmp_path / 'a').mkdir()
    Image.new('RGB', (4, 5), (204, 0, 102)).convert('P').save(tmp_path / 'a' / '0.png')
    assert np.abs(data.folder(tmp_path, 'test').x[0].astype(int) - [204, 0, 102]).max() == 0


def test_some_examples_are_not_the_first_ones():
    examples = data.Examples(
        'sorted', np.zeros((1000, 2, 2, 1), np.uint8), np.repeat(np.arange(10, dtype=np.int32), 100)
    )
    assert (
        len(set(data.subsample(examples, 100).y)) == 10
        and len(data.subsample(examples, 5000).y) == 1000
    )


def test_tfds_without_tensorflow(tmp_path):
    import tensorflow_datasets as tfds

    rows = [{'image': png(image), 'label': int(label)} for image, label in zip(X, Y)]
    prepare(
        tmp_path,
        'Made',
        {
            'image': tfds.features.Image(shape=(5, 4, 3)),
            'label': tfds.features.ClassLabel(num_classes=3),
        },
        {'train': rows, 'test': rows[:2]},
    )
    found = data.tfds('made:1.0.0', 'train', str(tmp_path))
    by_image = {image.tobytes(): label for image, label in zip(X, Y)}
    assert sorted(image.tobytes() for image in found.x) == sorted(by_image)
    assert all(by_image[image.tobytes()] == label for image, label in zip(found.x, found.y))
    assert len(data.tfds('made:1.0.0', 'test', str(tmp_path)).x) == 2


@pytest.mark.slow
def test_celeba_is_read_as_squares_with_an_attribute_for_a_label(tmp_path):
    """Images of CelebA's shape, prepared by TFDS itself; then the experiment is built on them and
    its step fits together."""
    import tensorflow_datasets as tfds

    image = np.zeros((218, 178, 3), np.uint8)
    # the middle square is half orange, half black
    image[20:198, :89], image[:20], image[198:] = (200, 100, 50), 255, 255
    rows = [
        {'image': png(image), 'attributes': {'Male': i % 4 == 0, 'Young': True}} for i in range(8)
    ]
    prepare(
        tmp_path,
        'Faces',
        {
            'image': tfds.features.Image(shape=(218, 178, 3)),
            'attributes': {'Male': np.bool_, 'Young': np.bool_},
        },
        {'train': rows, 'test': rows[:4]},
    )
    found = load(f'tfds:faces:1.0.0@{tmp_path}?size=64&label=attributes.Male', 'train')
    assert found.x.shape == (8, 64, 64, 3) and sorted(found.y) == [0] * 6 + [1] * 2
    np.testing.assert_array_equal(found.x[0, :, :28], np.broadcast_to([200, 100, 50], (64, 28, 3)))
    np.testing.assert_array_equal(found.x[0, :, 36:], 0)
    with pytest.raises(InputError, match='attributes.Smiling'):
        load(f'tfds:faces:1.0.0@{tmp_path}?size=64&label=attributes.Smiling', 'train')
    with pytest.raises(InputError, match='whole number of pixels'):
        load('tfds:celeb_a?size=big', 'train')
    config = celeba64_dual_mcmc.get_config()
    config.data.source = config.data.source.replace('celeb_a', f'faces:1.0.0@{tmp_path}')
    config.batch_size = config.loss.num_negatives = 8
    config.network.energy_widths = config.network.generator_widths = (4,) * 5
    config.network.inference_widths = (4,) * 4
    recipe = celeba64_dual_mcmc.build(config).recipe
    step = make_local_step(recipe)
    _, metrics = jax.eval_shape(step, state_shapes(recipe), recipe.batch_at(0))
    assert 'loss/contrast' in metrics and 'loss/inference_chain' in metrics


def make_bad(tmp_path, kind):
    path = tmp_path / 'bad.npz'
    if kind == 'truncated':
        np.savez(path, x_train=X, y_train=Y)
        path.write_bytes(path.read_bytes()[:200])
    elif kind == 'not an archive':
        path.write_bytes(b'hello')
    elif kind == 'npy':
        with path.open('wb') as file:
            np.save(file, X)
    elif kind == 'floats':
        np.savez(path, x_train=X / 255, y_train=Y)
    elif kind == 'labels short':
        np.savez(path, x_train=X, y_train=Y[:3])
    elif kind == 'negative labels':
        np.savez(path, x_train=X, y_train=Y - 1)
    elif kind == 'other names':
        np.savez(path, images=X, labels=Y)
    return path


@pytest.mark.parametrize(
    'kind',
    [
        'missing',
        'truncated',
        'not an archive',
        'npy',
        'floats',
        'labels short',
        'negative labels',
        'other names',
    ],
)
def test_bad_files_get_one_sentence(tmp_path, kind):
    with pytest.raises(InputError) as caught:
        data.npz(make_bad(tmp_path, kind), 'train')
    assert 'bad' in str(caught.value) and '\n' not in str(caught.value)


def test_bad_folders_get_one_sentence(tmp_path):
    with pytest.raises(InputError, match='sub-folder per class'):
        data.folder(tmp_path, 'train')
    (tmp_path / 'a').mkdir()
    Image.fromarray(X[0]).save(tmp_path / 'a' / '0.png')
    Image.fromarray(X[1][:3]).save(tmp_path / 'a' / '1.png')
    with pytest.raises(InputError, match='one size'):
        data.folder(tmp_path, 'train')
    (tmp_path / 'a' / '1.png').write_bytes(b'no image')
    with pytest.raises(InputError, match='cannot be read as an image'):
        data.folder(tmp_path, 'train')


def test_a_tfds_set_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match='prepare it first'):
        data.tfds('mnist', 'train', str(tmp_path))


def test_a_batch_is_a_function_of_the_step_and_an_epoch_sees_each_example_once():
    examples = data.digits('train')
    a, b = data.batch_at(examples, 17, 64, seed=3), data.batch_at(examples, 17, 64, seed=3)
    np.testing.assert_array_equal(a['x'], b['x'])
    numbered = examples._replace(y=np.arange(len(examples.x), dtype=np.int32))
    per_epoch = 1437 // 64
    first, second = (
        np.concatenate(
            [data.batch_at(numbered, e * per_epoch + i, 64)['y'] for i in range(per_epoch)]
        )
        for e in (0, 1)
    )
    assert len(set(first)) == len(first) == per_epoch * 64 and not np.array_equal(first, second)
    np.testing.assert_array_equal(numbered.x[first[:64]], data.batch_at(numbered, 0, 64)['x'])
    assert not np.array_equal(data.batch_at(numbered, 0, 64, seed=1)['y'], first[:64])
    with pytest.raises(InputError, match='larger than'):
        data.batch_at(examples, 0, 2000)


def test_changed_sets():
    examples = data.Examples('set', X[:, :4], Y)
    np.testing.assert_array_equal(data.rotated(examples).x[0, 0, 0], examples.x[0, 0, 3])
    np.testing.assert_array_equal(data.inverted(examples).x.astype(int) + examples.x, 255)
    assert 100 < data.uniform_noise(examples).x.mean() < 155
    mixed = data.mixed(examples)
    halves = {
        ((a.astype(int) + b) // 2).astype(np.uint8).tobytes()
        for a, b in itertools.permutations(examples.x, 2)
    }
    assert all(image.tobytes() in halves for image in mixed.x)


def test_coloured_images_have_one_saturated_colour_each(tmp_path):
    """The brightest channel is the grey image, the darkest is 0; hues are uniform."""
    grey = data.digits('train')
    x = data.coloured(grey).x
    assert x.shape == (*grey.x.shape[:3], 3) and x.dtype == np.uint8
    np.testing.assert_array_equal(x.max(-1, keepdims=True), grey.x)
    np.testing.assert_array_equal(x.min(-1), 0)
    turns = rgb_to_hsv(x.sum((1, 2)) / x.sum((1, 2)).max())[:, 0]
    assert stats.kstest(turns, 'uniform').pvalue > 0.01
    np.savez(tmp_path / 'grey.npz', x=grey.x, y=grey.y)
    source = f'npz:{tmp_path}/grey.npz?coloured=true'
    np.testing.assert_array_equal(load(source, 'train').x, x)
    np.testing.assert_array_equal(load(source, 'test').x, data.coloured(grey, seed=1).x)
    assert load(f'{source}&test=.1', 'test').x.shape[1:] == (8, 8, 3)
    with pytest.raises(InputError, match='coloured must be true or false'):
        load(source.replace('true', '1'), 'train')
    np.savez(tmp_path / 'grey.npz', x=x, y=grey.y)
    with pytest.raises(InputError, match=r'grey images.*3\]'):
        load(source, 'train')


def test_images_on_disk_are_those_in_memory(tmp_path):
    """Batches read from disk are the same bits, in the same order."""
    import tensorflow_datasets as tfds

    rows = [{'image': png(image), 'label': int(label)} for image, label in zip(X, Y)]
    features = {
        'image': tfds.features.Image(shape=(5, 4, 3)),
        'label': tfds.features.ClassLabel(num_classes=3),
    }
    prepare(tmp_path, 'MadeOnDisk', features, {'train': rows, 'test': rows[:2]})
    source = f'tfds:made_on_disk:1.0.0@{tmp_path}'
    memory, disk = load(source, 'train'), load(f'{source}?memory=false', 'train')
    assert isinstance(disk.x, data.OnDisk) and disk.num_classes == memory.num_classes
    assert disk.x.shape == memory.x.shape and disk.x.dtype == memory.x.dtype
    for step in range(4):
        a, b = (data.batch_at(examples, step, 2, seed=1) for examples in (memory, disk))
        np.testing.assert_array_equal(a['x'], b['x'])
        np.testing.assert_array_equal(a['y'], b['y'])
    np.testing.assert_array_equal(disk.x[1], memory.x[1])
    np.testing.assert_array_equal(disk.x[:2], memory.x[:2])
    np.testing.assert_array_equal(disk.x[memory.y == 0], memory.x[memory.y == 0])
    np.testing.assert_array_equal(np.asarray(disk.x), memory.x)
    np.testing.assert_array_equal(data.inverted(disk).x, data.inverted(memory).x)
    with pytest.raises(IndexError, match='first axis'):
        disk.x[..., 0]
    assert isinstance(load(f'{source}?memory=false', 'test').x, np.ndarray)
    with pytest.raises(InputError, match='memory must be true or false'):
        load(f'{source}?memory=no', 'train')


READ_ALL = r"""
import pathlib, re, sys
import numpy as np
from ebm_jax import data
from experiments.common.sources import load

def held():  # bytes of this process's own memory, without mapped files
    status = pathlib.Path('/proc/self/status').read_text()
    return 1024 * int(re.search(r'RssAnon:\s+(\d+)', status).group(1))

import grain
load(sys.argv[1], 'test')
before = most = held()
train, total = load(sys.argv[1], 'train'), 0
for step in range(len(train.x) // 20):
    total += int(data.batch_at(train, step, 20)['x'].sum())
    most = max(most, held())
print(total, most - before, np.prod(train.x.shape))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads the memory of a process as Linux has it')
def test_a_set_larger_than_the_memory_is_read_within_it(tmp_path):
    """An epoch over 88 MB of images takes less than 44 MB; held in memory they take all of them."""
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 270, 270, 3), np.uint8)
    rows = [{'image': png(images[i % 4]), 'label': i % 2} for i in range(400)]
    features = {
        'image': tfds.features.Image(shape=(270, 270, 3)),
        'label': tfds.features.ClassLabel(num_classes=2),
    }
    prepare(tmp_path, 'Large', features, {'train': rows, 'test': rows[:2]})
    totals = set()
    for memory in ('false', 'true'):
        source = f'tfds:large:1.0.0@{tmp_path}?memory={memory}'
        run = subprocess.run(
            [sys.executable, '-c', READ_ALL, source], capture_output=True, text=True, check=True
        )
        total, used, size = map(int, run.stdout.split())
        totals.add(total)
        assert used < size / 2 if memory == 'false' else used > 0.9 * size
    assert len(totals) == 1
