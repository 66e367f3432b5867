"""Speech data: recordings with labels, from folders, the FSDD layout or TFDS, or synthesised;
frames with labels; windows of frames.

A source gives the Recordings of one split; networks see Examples of windows, float32 [N, T, F, 1]
in [-1, 1].
"""

import csv
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

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


def frames(path: str | pathlib.Path) -> tuple[Examples, Examples, tuple[str, ...]]:
    """(train, test, names of the labels) of a .npz of single frames: x float [N, F], y int [N],
    part ('train' or 'test') [N], label_names.

    Each of the F numbers is normalised over the training frames, see `audio.Scale`. Examples are
    [N, 1, F, 1].
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

    return select('train'), select('test'), tuple(map(str, pack['label_names']))


# Windows


def frame_phones(recording: Recording, analysis: audio.Analysis) -> list[str]:
    """The phone at the centre of each frame (frame i: sample i hop_length), '' where none is
    labelled: a list of T strings."""
    centres = analysis.hop_length * np.arange(analysis.frames(len(recording.sound)))
    phones = np.full(len(centres), '', dtype=object)
    for segment in recording.segments:
        phones[(centres >= segment.start) & (centres < segment.end)] = segment.phone
    return phones.tolist()


def phone_windows(
    recordings: Sequence[Recording],
    features: Sequence[np.ndarray],
    analysis: audio.Analysis,
    scale: audio.Scale,
    length: int,
    names: Sequence[str],
    every: int = 1,
    name: str = 'phones',
    avoid: Sequence[str] = (),
) -> Examples:
    """Examples of windows around labelled frames, under the label of the middle frame.

    Args:
      features: [T, F] in decibels, of each recording.
      names: the phones that are labels 0, 1, ...; windows of others are left out.
      every: takes every n-th labelled frame. avoid: phones that no window may contain.
    """
    number, x, y = {phone: i for i, phone in enumerate(names)}, [], []
    for recording, spectrum in zip(recordings, features):
        phones = frame_phones(recording, analysis)
        avoided = np.array([[phone in avoid] for phone in phones])
        spoiled = np.any(audio.windows(avoided, length), axis=(1, 2)).tolist()
        pick = [i for i in range(len(spectrum)) if phones[i] in number and not spoiled[i]][::every]
        x.append(audio.windows(scale.to_units(spectrum), length)[pick])
        y += [number[phones[i]] for i in pick]
    if not y:
        raise InputError(f'{name}: no frame is labelled with any of {", ".join(names)}')
    return Examples(name, np.concatenate(x)[..., None], np.array(y, np.int32))


def cover(spectrum: np.ndarray, length: int, every: int) -> np.ndarray:
    """Windows that cover a whole recording, at even distances of at most `every` frames:
    [T, F] -> [n, length, F].

    A recording shorter than a window is placed in the middle of one, with its edges repeated.
    """
    missing = max(length - len(spectrum), 0)
    padded = np.pad(spectrum, ((missing // 2, missing - missing // 2), (0, 0)), mode='edge')
    last = len(padded) - length
    begins = np.unique(np.round(np.linspace(0, last, -(-last // every) + 1)).astype(int))
    return np.stack([padded[begin : begin + length] for begin in begins])


def word_windows(
    recordings: Sequence[Recording],
    features: Sequence[np.ndarray],
    scale: audio.Scale,
    length: int,
    names: Sequence[str],
    every: int,
    name: str = 'words',
) -> Examples:
    """Examples of windows that `cover` each recording, under its word."""
    number, x, y = {word: i for i, word in enumerate(names)}, [], []
    for recording, spectrum in zip(recordings, features):
        if recording.word in number:
            x.append(cover(scale.to_units(spectrum), length, every))
            y += [number[recording.word]] * len(x[-1])
    if not y:
        raise InputError(f'{name}: no recording says any of {", ".join(names)}')
    return Examples(name, np.concatenate(x)[..., None], np.array(y, np.int32))


class Frontend(NamedTuple):
    """From recordings to what a network sees, and back."""

    analysis: audio.Analysis
    scale: audio.Scale
    names: tuple  # of the labels 0, 1, ...
    by_frame: bool  # labels are the phones of frames; else the words of recordings
    length: int  # of a window, in frames
    # takes every n-th labelled frame; for words: the largest distance of windows, in frames
    every: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        mean, std = (np.asarray(part, np.float64).tolist() for part in self.scale)
        return {
            'analysis': self.analysis._asdict(),
            'scale': {'mean': mean, 'std': std},
            'names': list(self.names),
            'by_frame': self.by_frame,
            'length': self.length,
            'every': self.every,
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> 'Frontend':
        """The inverse of `to_json`."""
        mean, std = (np.asarray(content['scale'][key], np.float32) for key in ('mean', 'std'))
        return Frontend(
            audio.Analysis(**content['analysis']),
            audio.Scale(mean, std),
            tuple(content['names']),
            content['by_frame'],
            content['length'],
            content['every'],
        )

    def spectrum(self, sound: np.ndarray) -> np.ndarray:
        """[n] -> [T, F] in decibels."""
        return audio.log_mel(sound, self.analysis)

    def sequence(self, sound: np.ndarray) -> np.ndarray:
        """[n] -> [T, F, 1] in network units."""
        return self.scale.to_units(self.spectrum(sound))[..., None]

    def sound(self, x: np.ndarray) -> np.ndarray:
        """[T, F, 1], clipped to [-1, 1] -> [(T - 1) hop_length], see `audio.to_sound`.

        Raises: InputError where x is not finite.
        """
        if not np.isfinite(x).all():
            raise InputError(
                'the chain diverged, its features are not finite: take fewer or smaller steps,'
                ' or a weaker anchor'
            )
        return audio.to_sound(
            self.scale.to_decibels(np.clip(np.asarray(x)[..., 0], -1, 1)), self.analysis
        )

    def windows(
        self,
        recordings: Sequence[Recording],
        spectra: Sequence[np.ndarray] | None = None,
        names: Sequence[str] | None = None,
        name: str = 'recordings',
        avoid: Sequence[str] = (),
    ) -> Examples:
        """Examples of recordings.

        Args:
          spectra: of the recordings, where already computed. names: labels, default the Frontend's.
          avoid: phones that no window may contain.
        """
        spectra = [self.spectrum(r.sound) for r in recordings] if spectra is None else spectra
        if self.by_frame:
            return phone_windows(
                recordings,
                spectra,
                self.analysis,
                self.scale,
                self.length,
                names or self.names,
                self.every,
                name,
                avoid,
            )
        return word_windows(
            recordings, spectra, self.scale, self.length, names or self.names, self.every, name
        )

    def views(self, x: np.ndarray) -> np.ndarray:
        """The windows by which a sequence [T, F, 1] is classified, around each frame or those of
        `cover`: [n, L, F, 1]."""
        return (
            audio.windows(x[..., 0], self.length)
            if self.by_frame
            else cover(x[..., 0], self.length, self.every)
        )[..., None]

    def labels(self, recording: Recording) -> np.ndarray:
        """Labels, int: of each frame (-1 where unknown), or [1] of the word."""
        number = {name: i for i, name in enumerate(self.names)}
        said = frame_phones(recording, self.analysis) if self.by_frame else [recording.word]
        return np.array([number.get(name, -1) for name in said])
