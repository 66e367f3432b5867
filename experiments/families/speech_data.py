"""Speech as the families of experiments use it: windows of features of recordings, or frames."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ebm_jax import audio, augment
from ebm_jax.data import Examples, formants, recordings
from ebm_jax.data.recordings import Recording
from ebm_jax.data.windows import Frontend, cover, frame_phones
from ebm_jax.errors import InputError
from ebm_jax.spec import FEATURES, Part
from experiments.common.experiment import SpeechRun
from experiments.common.groups import Denoise
from experiments.common.settings import group, setting
from experiments.common.sources import Datasets, tfds_parts
from experiments.evaluations import speech_quality

SOURCES = (
    'vowels, recordings:FOLDER, fsdd:FOLDER, fsdd:FILE.npz, tfds:NAME[@FOLDER] or frames:FILE.npz'
)
# noise of the standard deviation of the features
NORMAL = Part('normal', {'scale': 1 / audio.SPAN})


@dataclass
class SpeechData:
    """Recordings or frames, windows of them, and what happens to a window in training."""

    source: str = setting('vowels', SOURCES)
    noise: float = setting(
        0.1, 'noise in training and test; features have standard deviation 1/4', low=0
    )
    window: int = setting(21, 'frames of a window', low=1)
    every: int = setting(1, 'every n-th labelled frame; of words: frames between windows', low=1)
    time_mask: int = setting(0, 'widest mask in frames; 0: none', low=0)
    frequency_mask: int = setting(0, 'widest mask in bins; 0: none', low=0)
    leave_out: tuple[str, ...] = setting((), 'names of classes that training never sees')
    speakers: tuple[str, ...] = setting((), 'speakers that training never hears')
    periodograms: bool = setting(
        False,
        'frames are natural log-periodograms up to half of features.rate: evaluate makes sound',
        resume=True,
    )


@dataclass
class Features:
    """Log-mel features of sound."""

    rate: int = setting(16000, 'samples per second', low=1000)
    bins: int = setting(80, 'mel bins', low=2)
    window: float = setting(0.025, 'length of a frame in seconds', above=0)
    hop: float = setting(0.010, 'seconds between frames', above=0)
    preemphasis: float = setting(0.97, 'coefficient of the pre-emphasis', low=0, below=1)


@dataclass
class OnSpeech:
    """Groups of every run on speech."""

    data: Any = group(SpeechData)
    features: Features = group(Features)
    denoise: Denoise = group(Denoise)
    ood: tuple[str, ...] = setting(
        ('inverted', 'noise'),
        "out-of-distribution sets for evaluate, in addition to the run's own",
        resume=True,
    )


def parts_of(c: SpeechData, run: Any) -> dict[str, Any]:
    """What every experiment on speech is given: preparation (masks in training, noise in training
    and test), changes of the model's spec, and recordings.

    Args: run: `Datasets.extra` of `load_speech`.
    """
    masks = [
        augment.mask(axis, width)
        for axis, width in enumerate((c.time_mask, c.frequency_mask))
        if width
    ]
    noise = augment.gaussian_noise(c.noise)
    changes: dict[str, Any] = {'units': FEATURES}
    recorded = run if isinstance(run, SpeechRun) else None
    if recorded is not None:
        changes |= {
            'speech': recorded.frontend.to_json(),
            'class_names': recorded.frontend.names,
        }
    elif run is not None:
        changes['class_names'] = run.names
    return {
        'prepare': augment.chain(*masks, noise),
        'prepare_test': augment.chain(noise),
        'spec_changes': changes,
        'speech': recorded,
    }


def load_speech(config: OnSpeech) -> Datasets:
    """The windows of a source of recordings, or of frames. Raises: InputError."""
    speech_quality.check(config.denoise)
    kind, _, where = config.data.source.partition(':')
    if kind == 'frames' and where:
        for name in ('leave_out', 'speakers'):
            if getattr(config.data, name):
                raise InputError(
                    f'--config.data.{name} is for recordings: frames have no speakers, and all '
                    'their classes are learned'
                )
        frames = recordings.frames(where)
        return Datasets(train=frames.train, test=frames.test, extra=frames)
    train, test, run = prepared(config)
    return Datasets(train=train, test=test, extra_ood=extra_ood(run, config.data), extra=run)


def load(source: str, split: str) -> tuple[list[Recording], bool]:
    """(recordings, whether labels are those of frames) of a source by its name.

    tfds: options are label=speaker_id, rate=16000, train=train_clean100[:90%] and test=SPLIT.
    Raises: InputError for an unknown source.
    """
    kind, _, where = source.partition(':')
    if kind == 'vowels' and not where:
        return formants.vowels(split), True
    if kind == 'recordings' and where:
        return recordings.folder(where, split), True
    if kind == 'fsdd' and where:
        return recordings.fsdd(where, split), False
    if kind == 'tfds' and where:
        name, folder, options = tfds_parts(source, ('label', 'rate', 'train', 'test'))
        rate = options.get('rate', '16000')
        if not rate.isdecimal():
            raise InputError(f'{source!r}: the rate must be a whole number, got {rate!r}')
        found = recordings.tfds(
            name,
            options.get(split, split),
            folder,
            label=options.get('label', 'label'),
            rate=int(rate),
        )
        return found, False
    raise InputError(f'unknown speech {source!r}: give {SOURCES}')


def prepared(config: OnSpeech) -> tuple[Examples, Examples, SpeechRun]:
    """(training windows, test windows, what a run on recordings knows besides). Raises:
    InputError."""
    c, analysis = config.data, audio.Analysis(**asdict(config.features))
    audio.check(analysis)
    (train, by_frame), (test, _) = load(c.source, 'train'), load(c.source, 'test')
    for recording in (*train, *test):
        if recording.rate != analysis.rate:
            raise InputError(
                f'{recording.name} has {recording.rate} samples per second: set '
                f'--config.features.rate={recording.rate}, or resample the recordings'
            )
    train, test = (
        [r._replace(sound=audio.levelled(r.sound)) for r in split] for split in (train, test)
    )
    known = {r.word for r in train}
    if by_frame:
        known = {segment.phone for r in train for segment in r.segments}
    for name, given, there in (
        ('leave_out', c.leave_out, known),
        ('speakers', c.speakers, {r.speaker for r in train}),
    ):
        if not set(given) <= there or set(given) == there:
            raise InputError(
                f'--config.data.{name} must name some, not all, of {", ".join(sorted(there))}, got '
                f'{", ".join(given)}'
            )
    names = tuple(sorted(known - set(c.leave_out)))
    ours = [r for r in train if r.speaker not in c.speakers and (by_frame or r.word in names)]
    others = [r for r in (*train, *test) if r.speaker in c.speakers]
    test = [r for r in test if r.speaker not in c.speakers]
    spectra = [
        audio.log_mel(r.sound, analysis)
        for r in tqdm(ours, desc='features', unit='recording', delay=2, leave=False)
    ]
    heard = []
    for recording, spectrum in zip(ours, spectra):
        phones = frame_phones(recording, analysis)
        heard.append(spectrum[[phone not in c.leave_out for phone in phones]])
    frontend = Frontend(analysis, audio.scale_of(heard), names, by_frame, c.window, c.every)
    windows = frontend.windows(ours, spectra, name=c.source, avoid=c.leave_out)
    without = [name for i, name in enumerate(names) if i not in set(windows.y)]
    if without:
        raise InputError(
            f'{c.source}: no training window is labelled {", ".join(without)}: leave these out by '
            '--config.data.leave_out'
        )
    test_windows = frontend.windows(test, name=f'{c.source}, test')
    return windows, test_windows, SpeechRun(frontend, test, others, config.denoise)


def extra_ood(run: SpeechRun, c: SpeechData) -> dict[str, Any]:
    """{name: () -> Examples}: white noise, and babble of speakers that were left out (else of the
    test set), as long and as loud as test recordings; classes and speakers that were left out.
    """
    frontend, sounds = run.frontend, [r.sound for r in run.test]
    voices = [r.sound for r in run.others or run.test]

    def made(name, noise):
        windows = []
        for i, sound in enumerate(sounds):
            x = frontend.sequence(audio.levelled(noise(len(sound), i)))
            windows.append(cover(x[..., 0], frontend.length, frontend.length))
        x = np.concatenate(windows)
        return Examples(name, x[..., None], np.zeros(len(x), np.int32))

    sets = {
        'white': partial(made, 'white noise', audio.white_noise),
        'babble': partial(made, 'babble', partial(audio.babble, voices)),
    }
    if c.leave_out:
        sets['held_out'] = partial(frontend.windows, run.test, names=c.leave_out, name='held out')
    if run.others:
        sets['other_speakers'] = partial(frontend.windows, run.others, name='other speakers')
    return sets
