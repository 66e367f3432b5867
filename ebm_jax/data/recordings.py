"""Speech data: recordings with labels, from folders, the FSDD layout or TFDS; frames with labels.

A source gives the Recordings of one split; networks see `windows` of them.
"""

import csv
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from ebm_jax import audio
from ebm_jax.data import examples
from ebm_jax.data.examples import Examples
from ebm_jax.errors import InputError


class Segment(NamedTuple):
    """A stretch of a recording: samples start, ..., end - 1."""

    start: int
    end: int
    phone: str


class Recording(NamedTuple):
    """Speech of one voice."""

    name: str
    sound: np.ndarray  # float32 [n]
    rate: int
    segments: tuple = ()  # of Segment, in order of time, where phones are known
    word: str | None = None  # what is said, where the whole recording has one label
    speaker: str = ''


# Sources


def folder(path: str | pathlib.Path, split: str) -> list[Recording]:
    """Sound files with a label file of the same name beside each: FOLDER/SPLIT/**/NAME.wav and
    NAME.TextGrid, .lab (HTK) or .csv.

    TextGrid: the interval tier called phones, phonemes or segments, else the only one.
    .lab: start, end in units of 100 ns, phone.
    .csv: start, end in seconds, phone.
    Intervals without a name are not labelled. The folder that holds a file names the speaker.

    Raises: InputError for a folder, sound or label file that cannot be used.
    """
    root = pathlib.Path(path) / _checked(split)
    files = sorted(file for file in root.rglob('*') if file.suffix.lower() in ('.wav', '.flac'))
    if not files:
        raise InputError(
            f'no sound files in {root}: put NAME.wav with NAME.TextGrid, NAME.lab or NAME.csv in'
            f' {path}/train and {path}/test'
        )
    return [
        _annotated(file, root) for file in tqdm(files, desc=f'reading {root}', unit='file', delay=2)
    ]


def _checked(split):
    if split not in ('train', 'test'):
        raise InputError(f"the split must be 'train' or 'test', got {split!r}")
    return split


def _annotated(file, root):
    sound, rate = audio.read(file)
    labels = [file.with_suffix(ending) for ending in READERS if file.with_suffix(ending).is_file()]
    if len(labels) != 1:
        raise InputError(
            f'{file} needs one label file beside it ({", ".join(READERS)}), found {len(labels)}'
        )
    try:
        rows = [
            (float(start), float(end), phone)
            for start, end, phone in READERS[labels[0].suffix](labels[0])
        ]
        if not np.isfinite([time for row in rows for time in row[:2]]).all():
            raise ValueError('a time is not finite')
    except (ValueError, KeyError, IndexError, UnicodeDecodeError, csv.Error) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f'{labels[0]} cannot be read as labels ({why}): fix it, or remove it with its sound'
        ) from error
    speaker = '' if file.parent == root else file.parent.name
    return Recording(
        file.stem, sound, rate, checked_segments(rows, rate, len(sound), labels[0]), None, speaker
    )


def _textgrid(file):
    textgrid, refused = (
        audio.package('praatio.textgrid'),
        audio.package('praatio.utilities.errors').PraatioException,
    )
    try:
        grid = textgrid.openTextgrid(str(file), includeEmptyIntervals=False)
    except refused as error:
        raise ValueError(error) from error
    tiers = [tier for tier in grid.tiers if isinstance(tier, textgrid.IntervalTier)]
    named = [
        tier
        for tier in tiers
        if tier.name.lower() in ('phones', 'phonemes', 'segments', 'phone', 'phoneme')
    ] or tiers
    if len(named) != 1:
        raise ValueError(
            f'it has {len(named)} interval tiers that may hold phones: name one of them phones'
        )
    return named[0].entries


def _lab(file):
    with file.open(newline='') as lines:
        rows = [row for row in csv.reader(lines, delimiter=' ', skipinitialspace=True) if row]
    return [(int(row[0]) * 1e-7, int(row[1]) * 1e-7, row[2]) for row in rows]


def _csv(file):
    with file.open(newline='') as lines:
        rows = list(csv.reader(lines, skipinitialspace=True))
    header = bool(rows) and rows[0][:3] == ['start', 'end', 'phone']
    return [row[:3] for row in rows[header:] if row]


READERS = {'.TextGrid': _textgrid, '.lab': _lab, '.csv': _csv}


def checked_segments(
    rows: Iterable[tuple[float, float, str]], rate: int, samples: int, name: str | pathlib.Path
) -> tuple[Segment, ...]:
    """(start, end, phone) in seconds -> Segments; those without a name are left out.

    Raises: InputError where segments overlap, are empty, or lie beyond the recording.
    """
    segments = tuple(
        Segment(round(start * rate), round(end * rate), phone.strip())
        for start, end, phone in rows
        if phone.strip()
    )
    last = 0
    for segment in segments:
        # label files round their times
        if not last <= segment.start < segment.end <= samples + rate // 100:
            raise InputError(
                f'{name}: {segment.phone!r} from {segment.start / rate:.3f} to'
                f' {segment.end / rate:.3f} s overlaps the one before, is empty, or lies beyond the'
                f' {samples / rate:.3f} s of the recording'
            )
        last = segment.end
    if not segments:
        raise InputError(f'{name} labels nothing')
    return segments


FSDD_NAME = re.compile(r'(\w+)_([^_]+)_(\d+)')


def fsdd(path: str | pathlib.Path, split: str) -> list[Recording]:
    """Spoken digits in the layout of the Free Spoken Digit Dataset: FOLDER/WORD_SPEAKER_INDEX.wav,
    index 0 to 4 for testing.

    Args:
      path: such a folder (or the one above `recordings`), or a .npz of audio int16 [n], offsets
        [N + 1], y, speaker, index, speaker_names, sample_rate.
    Source: the split is the set's own.
    """
    _checked(split)
    path = pathlib.Path(path)
    wanted = (lambda index: index < 5) if split == 'test' else (lambda index: index >= 5)
    if path.suffix == '.npz':
        return _fsdd_pack(path, wanted)
    root = path / 'recordings' if (path / 'recordings').is_dir() else path
    found = [(file, FSDD_NAME.fullmatch(file.stem)) for file in sorted(root.glob('*.wav'))]
    files = [(file, match.groups()) for file, match in found if match and wanted(int(match[3]))]
    if not files:
        raise InputError(
            f'no {split} recordings WORD_SPEAKER_INDEX.wav in {root}: check the path (index 0 to 4'
            ' are for testing)'
        )
    return [
        Recording(file.stem, *audio.read(file), (), word, speaker)
        for file, (word, speaker, _) in tqdm(files, desc=f'reading {root}', unit='file', delay=2)
    ]


def _fsdd_pack(path, wanted):
    pack = _arrays(
        path, ('audio', 'offsets', 'y', 'speaker', 'index', 'speaker_names', 'sample_rate')
    )
    ends, rate, recordings = pack['offsets'], int(pack['sample_rate']), []
    if len(ends) != len(pack['y']) + 1 or ends[-1] > len(pack['audio']):
        raise InputError(
            f'{path}: offsets must have one more entry than y and end within the audio'
        )
    known = set(range(len(pack['speaker_names'])))
    if (
        not len(pack['speaker']) == len(pack['index']) == len(pack['y'])
        or not set(pack['speaker']) <= known
    ):
        raise InputError(
            f'{path}: speaker and index must be as long as y, and speakers index speaker_names'
        )
    for i in np.flatnonzero([wanted(index) for index in pack['index']]):
        word, speaker = str(pack['y'][i]), str(pack['speaker_names'][pack['speaker'][i]])
        name = f'{word}_{speaker}_{pack["index"][i]}'
        sound = audio.checked(
            pack['audio'][ends[i] : ends[i + 1]] / np.float32(32768), rate, f'{path}: {name}'
        )
        recordings.append(Recording(name, sound, rate, (), word, speaker))
    if not recordings:
        raise InputError(
            f'{path} has no recordings of this split: index 0 to 4 are for testing, the others for'
            ' training'
        )
    return recordings


def _arrays(path, needed):
    with examples.open_npz(path) as pack:
        missing = [name for name in needed if name not in pack.files]
        if missing:
            raise InputError(
                f'{path} holds {sorted(pack.files)}, but needs {", ".join(missing)}, too'
            )
        return {name: pack[name] for name in needed}


def tfds(
    name: str, split: str, data_dir: str | None = None, *, label: str = 'label', rate: int = 16000
) -> list[Recording]:
    """A prepared TFDS set of recordings (speech_commands, librispeech): 'audio' or 'speech' as
    integers, and a label for each.

    A set with TFDS's own Audio feature cannot be opened without TensorFlow, even where nothing is
    decoded.

    Args:
      split: as TFDS has it ('train', 'test_clean', 'train_clean100[:90%]').
      label: name of the label in an example ('label', 'speaker_id').
      rate: of the set, which its examples do not hold.
    """
    import tensorflow_datasets

    try:
        source = tensorflow_datasets.data_source(
            name, split=split, data_dir=data_dir, download=False
        )
        rows = [
            source[i]
            for i in tqdm(
                range(len(source)), desc=f'decoding {name} {split}', unit='recording', delay=2
            )
        ]
        field = next(key for key in ('audio', 'speech') if key in rows[0])
        names = [f'{name}_{split}_{i}' for i in range(len(rows))]
        sounds = [
            audio.checked(np.asarray(row[field]) / np.float32(32768), rate, name)
            for row, name in zip(rows, names)
        ]
        return [
            Recording(name, sound, rate, (), str(row[label]))
            for row, name, sound in zip(rows, names, sounds)
        ]
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f'TFDS set {name!r} cannot be opened without {error.name}: pip install -e ".[prepare]"'
        ) from error
    except StopIteration as error:
        raise InputError(
            f"TFDS set {name!r} holds no 'audio' or 'speech', but {sorted(rows[0])}"
        ) from error
    except Exception as error:  # tfds raises many types where the set is not available as asked
        message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f'TFDS set {name!r} ({split}) cannot be read as recordings from'
            f' {data_dir or "the default folder"} ({message}): prepare it first with'
            ' file_format="array_record", see the README'
        ) from error


class Frames(NamedTuple):
    """Single frames of speech; examples are [N, 1, F, 1]."""

    train: Examples
    test: Examples
    names: tuple[str, ...]  # of the labels
    scale: audio.Scale  # of the F numbers, over the training frames


def frames(path: str | pathlib.Path) -> Frames:
    """Those of a .npz: x float [N, F], y int [N], part ('train' or 'test') [N], label_names.

    Each of the F numbers is normalised over the training frames, see `audio.Scale`.
    """
    pack = _arrays(path, ('x', 'y', 'part', 'label_names'))
    x, y, part = pack['x'], pack['y'], pack['part']
    if (
        x.ndim != 2
        or not x.size
        or not np.issubdtype(x.dtype, np.floating)
        or not np.isfinite(x).all()
    ):
        raise InputError(f'{path}: x must be finite floats [N, F], got {x.dtype} {list(x.shape)}')
    classes = len(pack['label_names'])
    if (
        y.shape != x.shape[:1]
        or part.shape != y.shape
        or not np.issubdtype(y.dtype, np.integer)
        or not 0 <= y.min() <= y.max() < classes
    ):
        raise InputError(
            f'{path}: y must be {len(x)} integers from 0 to {classes - 1}, part {len(x)} strings'
        )
    if set(y[part == 'train']) != set(range(classes)) or not (part == 'test').any():
        raise InputError(
            f"{path}: part must hold 'train' and 'test', and every label a training frame"
        )
    scale = audio.scale_of([x[part == 'train']])
    units = scale.to_units(x)[:, None, :, None]

    def select(name):
        return Examples(
            pathlib.Path(path).stem, units[part == name], y[part == name].astype(np.int32)
        )

    return Frames(select('train'), select('test'), tuple(map(str, pack['label_names'])), scale)
