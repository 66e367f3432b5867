"""Sound and its features: wav files, log-mel spectrograms and their inversion, windows of frames,
noise at a given level.

Needs the extra `speech` (librosa, soundfile). Sound is float32 [n] in [-1, 1], features are float32
[T, F] in decibels. Constants [code]: 80 bins, 25 ms every 10 ms, pre-emphasis .97, each bin
normalised; everything else is our reading.
"""

import functools
import importlib
import math
import pathlib
import warnings
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

from ebm_jax.errors import InputError

# features this many standard deviations from the mean become -1 or 1, the range of images
SPAN = 4.0
# dynamic range of a spectrogram, in decibels below the loudest value of a recording (our reading)
RANGE = 80.0


def package(name: str) -> ModuleType:
    """Import a module of the extra `speech` where it is needed.

    Raises: InputError where it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f'speech needs more packages ({error.name} is missing): pip install -e ".[speech]"'
        ) from error


class Analysis(NamedTuple):
    """How sound becomes frames."""

    rate: int = 16000  # samples per second
    bins: int = 80
    window: float = 0.025  # seconds
    hop: float = 0.010
    preemphasis: float = 0.97

    @property
    def window_length(self) -> int:
        return round(self.window * self.rate)

    @property
    def hop_length(self) -> int:
        return round(self.hop * self.rate)

    @property
    def fft(self) -> int:
        """Points of the transform: the smallest power of two that holds a window and leaves no mel
        bin empty."""
        return _fft(self.rate, self.bins, self.window_length)

    def frames(self, samples: int) -> int:
        """Number of frames of a sound: 1 + samples // hop_length. The centre of frame i is sample
        i hop_length."""
        return 1 + samples // self.hop_length


@functools.lru_cache
def _filters(rate, points, bins):
    return package('librosa').filters.mel(sr=rate, n_fft=points, n_mels=bins)


@functools.lru_cache
def _fft(rate, bins, window_length):
    points = 2 ** math.ceil(math.log2(window_length))
    with warnings.catch_warnings():
        # librosa warns of empty bins, which this loop looks for
        warnings.simplefilter('ignore')
        while points <= 16 * window_length and not _filters(rate, points, bins).any(1).all():
            points *= 2
        if points > 16 * window_length:
            raise InputError(
                f'{bins} mel bins are too many for {rate} samples per second: take fewer'
            )
    return points


def check(analysis: Analysis) -> int:
    """Refuse settings that give no features.

    Raises: InputError.
    """
    a = analysis
    if not (
        a.rate >= 1000
        and a.bins >= 2
        and math.isfinite(a.window)
        and 0 < a.hop <= a.window
        and 0 <= a.preemphasis < 1
        and a.hop_length >= 1
        and a.window_length >= 2
    ):
        raise InputError(
            'features need a rate of at least 1000, at least 2 bins, a hop of at least one sample'
            f' and at most the window, and a pre-emphasis in [0, 1), got {a}'
        )
    return analysis.fft


def read(path: str | pathlib.Path, rate: int | None = None) -> tuple[np.ndarray, int]:
    """(sound, rate) of a wav or flac file.

    Raises: InputError for a file that is not sound of one channel, or has another rate than asked.
    """
    path, soundfile = pathlib.Path(path), package('soundfile')
    if not path.is_file():
        raise InputError(f'no sound file at {path}: check the path')
    try:
        sound, found = soundfile.read(path, dtype='float32', always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise InputError(
            f'{path} cannot be read as sound ({error}): it may be damaged or only partly written'
        ) from error
    if sound.shape[1] != 1:
        raise InputError(f'{path} has {sound.shape[1]} channels: mix it down to one')
    return checked(sound[:, 0], found, path, rate), found


def checked(
    sound: np.ndarray, found: int, name: str | pathlib.Path, rate: int | None = None
) -> np.ndarray:
    """Sound as float32, checked.

    Raises: InputError where it is empty or not finite, or has another rate than asked.
    """
    sound = np.asarray(sound, np.float32)
    if not len(sound):
        raise InputError(f'{name} holds no sound: remove it')
    if not np.isfinite(sound).all():
        raise InputError(
            f'{name} holds {np.sum(~np.isfinite(sound))} samples that are not finite: remove or'
            ' replace it'
        )
    if rate and found != rate:
        raise InputError(
            f'{name} has {found} samples per second, but {rate} are needed: resample it'
        )
    return sound


def gain(sound: np.ndarray, level: float = 0.1) -> np.float32:
    """The factor that brings sound to a root mean square of `level`; 1 for silence."""
    loudness = np.sqrt(np.mean(np.square(sound, dtype=np.float64)))
    return np.float32(level / loudness if loudness else 1.0)


def levelled(sound: np.ndarray, level: float = 0.1) -> np.ndarray:
    """Sound at a root mean square of `level`, so that loudness carries no information (our
    reading)."""
    return gain(sound, level) * sound


def write(path: str | pathlib.Path, sound: np.ndarray, rate: int) -> None:
    """Sound as a 16-bit wav file; scaled down where it would clip."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    package('soundfile').write(
        path, sound / max(1.0, float(np.abs(sound).max(initial=0.0))), rate, subtype='PCM_16'
    )


def log_mel(sound: np.ndarray, analysis: Analysis) -> np.ndarray:
    """Sound [n] -> log-mel spectrogram [T, F] in decibels, T = 1 + n // hop_length.

        y[n] = x[n] - preemphasis x[n - 1]
        10 log10 of the power of y in each mel band, at most RANGE below the loudest

    Frame i is centred on sample i hop_length; beyond its ends the sound counts as 0. By librosa.
    """
    librosa = package('librosa')
    emphasised = librosa.effects.preemphasis(
        sound, coef=analysis.preemphasis, zi=np.zeros(1, np.float32)
    )
    spectrum = librosa.stft(
        emphasised,
        n_fft=analysis.fft,
        hop_length=analysis.hop_length,
        win_length=analysis.window_length,
    )
    power = _filters(analysis.rate, analysis.fft, analysis.bins) @ np.abs(spectrum) ** 2
    return librosa.power_to_db(power, top_db=RANGE).T.astype(np.float32)


def to_sound(features: np.ndarray, analysis: Analysis, iterations: int = 64) -> np.ndarray:
    """Log-mel spectrogram [T, F] in decibels -> sound [(T - 1) hop_length].

    Non-negative least squares to the linear spectrum, then Griffin-Lim for the phase (fast,
    momentum .99, from random phases of seed 0), then the inverse of the pre-emphasis. By librosa.

    The phase, fine structure within a mel band and everything beyond RANGE are lost.
    docs/results.md has the measured error.
    """
    librosa = package('librosa')
    power = librosa.db_to_power(np.asarray(features, np.float64).T)
    magnitude = librosa.feature.inverse.mel_to_stft(power, sr=analysis.rate, n_fft=analysis.fft)
    sound = librosa.griffinlim(
        magnitude,
        n_iter=iterations,
        hop_length=analysis.hop_length,
        win_length=analysis.window_length,
        n_fft=analysis.fft,
        random_state=0,
    )
    return librosa.effects.deemphasis(sound, coef=analysis.preemphasis, zi=np.zeros(1)).astype(
        np.float32
    )


class Scale(NamedTuple):
    """Mean and standard deviation of each bin over the training frames; converts between decibels
    and the network's units."""

    mean: np.ndarray  # [F]
    std: np.ndarray  # [F]

    def to_units(self, features: np.ndarray) -> np.ndarray:
        """[..., F] in decibels -> [-1, 1]: (x - mean) / (SPAN std), clipped. One standard deviation
        is 1 / SPAN."""
        return np.clip((features - self.mean) / (SPAN * self.std), -1, 1).astype(np.float32)

    def to_decibels(self, x: np.ndarray) -> np.ndarray:
        """The inverse of `to_units`, except for the clipping."""
        return np.asarray(x) * (SPAN * self.std) + self.mean


def scale_of(features: Iterable[np.ndarray]) -> Scale:
    """The Scale of a list of features [T, F]."""
    frames = np.concatenate(list(features)).astype(np.float64)
    return Scale(frames.mean(0).astype(np.float32), (frames.std(0) + 1e-3).astype(np.float32))


def windows(features: np.ndarray, length: int) -> np.ndarray:
    """One window around each frame, the edges repeated: [T, F] -> [T, length, F]; frame i is row
    length // 2 of window i."""
    half = length // 2
    padded = np.pad(features, ((half, length - 1 - half), (0, 0)), mode='edge')
    return np.lib.stride_tricks.sliding_window_view(padded, length, axis=0).transpose(0, 2, 1)


def add_noise(sound: np.ndarray, noise: np.ndarray, decibels: float) -> np.ndarray:
    """sound + g noise, with g such that the sound's power is `decibels` above the noise's; the
    noise is repeated or cut to the length of the sound."""
    noise = np.resize(noise, len(sound))

    def power(x):
        return np.mean(np.square(x, dtype=np.float64))

    if power(noise) == 0:
        raise InputError('silent noise cannot be brought to a level: give other noise')
    gain = np.sqrt(power(sound) / power(noise) / 10 ** (decibels / 10))
    return (sound + gain * noise).astype(np.float32)


def levelled_in_noise(
    sound: np.ndarray, noise: np.ndarray, decibels: float
) -> tuple[np.ndarray, np.ndarray]:
    """(noisy, clean): the sound with `add_noise` and without, both scaled by the gain that levels
    the noisy one."""
    noisy = add_noise(sound, noise, decibels)
    factor = gain(noisy)
    return factor * noisy, factor * sound


def white_noise(samples: int, seed: int) -> np.ndarray:
    """N(0, 1), [samples]."""
    return np.random.default_rng(seed).normal(size=samples).astype(np.float32)


def babble(sounds: Sequence[np.ndarray], samples: int, seed: int, voices: int = 6) -> np.ndarray:
    """`voices` voices at once, [samples]: each a random stretch of random recordings one after the
    other, all at the same power, added."""
    rng, mixed = np.random.default_rng(seed), np.zeros(samples, np.float32)
    for _ in range(voices):
        voice = np.zeros(0, np.float32)
        while len(voice) < 2 * samples:
            voice = np.concatenate([voice, sounds[int(rng.integers(len(sounds)))]])
        begin = rng.integers(len(voice) - samples + 1)
        part = voice[begin : begin + samples]
        mixed += part / (np.sqrt(np.mean(part**2)) + 1e-6)
    return mixed
