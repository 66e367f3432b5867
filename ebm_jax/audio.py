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
# coefficients of linear prediction: a pole pair for each kHz at 16 kHz, and one more
ORDER = 18


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


def source_filter(
    log_power: np.ndarray,
    rate: int,
    *,
    seconds: float = 0.4,
    pitch: float = 120.0,
    order: int = ORDER,
    seed: int = 0,
) -> np.ndarray:
    """The sound of one spectrum, held: [F] -> [seconds * rate], by linear prediction.

        r = inverse Fourier transform of exp(L)
        sum_j r_|i - j| a_j = r_i,   i = 1, ..., p
        s[n] = e[n] + sum_j a_j s[n - j]

    L is the natural logarithm of a periodogram at the frequencies (1, ..., F) rate / 2F. Only its
    envelope is kept: the excitation e has pulses at `pitch` Hz, falling by a tenth, where most of
    the power lies below 1 kHz (voiced), else white noise of `seed` (our reading).

    Args: rate: samples per second. order: p, in [1, F).
    Returns: sound of root mean square .1, faded in and out over 10 ms.
    Raises: ValueError for another shape, an order out of range, or what is not finite.
    Source: Atal & Hanauer 1971 for linear prediction; r_0 is raised by 1e-4 against ill
    conditioning.
    """
    from scipy import linalg, signal  # not needed where nothing is made to be heard

    log_power = np.asarray(log_power, np.float64)
    if log_power.ndim != 1 or not 1 <= order < len(log_power):
        raise ValueError(
            f'a log-periodogram [F] and an order in [1, F) are needed, got {list(log_power.shape)} '
            f'and {order}'
        )
    if not np.isfinite(log_power).all():
        raise ValueError('a log-periodogram must be finite')
    power = np.exp(log_power - log_power.max())
    r = np.fft.irfft(np.concatenate([power[:1], power]))
    r[0] *= 1 + 1e-4
    a = linalg.solve_toeplitz(r[:order], r[1 : order + 1])
    n = round(seconds * rate)
    frequency = np.arange(1, len(power) + 1) * rate / (2 * len(power))
    if power[frequency < 1000].sum() > power.sum() / 2:
        turns = np.cumsum(pitch * np.linspace(1.05, 0.95, n)) / rate
        excitation = np.diff(np.floor(turns), prepend=0.0)
    else:
        excitation = np.random.default_rng(seed).normal(size=n)
    sound = signal.lfilter([1.0], np.concatenate([[1.0], -a]), excitation)
    fade = np.clip(np.minimum(np.arange(n), np.arange(n)[::-1]) / (0.01 * rate), 0, 1)
    return levelled((fade * sound).astype(np.float32))


def log_periodogram(sound: np.ndarray) -> np.ndarray:
    """log |Fourier transform|^2 of 2 F samples, without that of frequency 0: [2 F] -> [F]."""
    power = np.abs(np.fft.rfft(sound)[1:]) ** 2
    return np.log(np.maximum(power, 1e-10 * power.max() + 1e-30))


class Scale(NamedTuple):
    """Mean and standard deviation of each bin over the training frames; converts between decibels
    (or whatever the frames are in) and the network's units."""

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
