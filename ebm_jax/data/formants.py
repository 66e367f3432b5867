"""Synthetic speech with known labels: vowels from a source and formant filters, fricatives from
filtered noise.

For tests and for a first look without any download.
Source: formants are the averages of men in Peterson & Barney 1952; the rest is ours.
"""

from collections.abc import Sequence

import numpy as np
from scipy.signal import butter, lfilter, sosfilt

from ebm_jax.data.recordings import Recording, Segment
from ebm_jax.errors import InputError

RATE = 16000
# F1 to F3, Hz
VOWELS = {
    'iy': (270, 2290, 3010),
    'eh': (530, 1840, 2480),
    'aa': (730, 1090, 2440),
    'uw': (300, 870, 2240),
}
# band of the noise, Hz
FRICATIVES = {'s': (5000, 7500), 'sh': (2500, 4500), 'f': (1200, 7500)}
BANDWIDTHS = (60, 90, 150)  # of the formants, Hz
LOUDNESS = {'s': 0.25, 'sh': 0.3, 'f': 0.08}  # of the fricatives; vowels have 1
PHONES = (*VOWELS, *FRICATIVES)
SILENCE = 0.05  # seconds before and after an utterance, without a label
PER_SPLIT = {'train': 160, 'test': 40}


def phone(
    name: str, samples: int, rng: np.random.Generator, pitch: float, tract: float
) -> np.ndarray:
    """One phone, float [samples] with a root mean square of LOUDNESS: a vowel at that pitch in Hz,
    or a fricative.

    Args: tract: factor on all formants and bands, as of a shorter vocal tract.
    """
    if name in VOWELS:
        cycles = np.cumsum(
            pitch * (1 + 0.03 * np.sin(2 * np.pi * 4 * np.arange(samples) / RATE)) / RATE
        )
        sound = np.diff(np.floor(cycles), prepend=0.0) + 0.01 * rng.normal(size=samples)
        for frequency, bandwidth in zip(VOWELS[name], BANDWIDTHS):
            radius, angle = np.exp(-np.pi * bandwidth / RATE), 2 * np.pi * tract * frequency / RATE
            poles = [1, -2 * radius * np.cos(angle), radius**2]
            sound = lfilter([sum(poles)], poles, sound)
    else:
        low, high = np.minimum(tract * np.array(FRICATIVES[name]), 0.49 * RATE)
        sound = sosfilt(
            butter(4, (low, high), 'bandpass', fs=RATE, output='sos'), rng.normal(size=samples)
        )
    return LOUDNESS.get(name, 1.0) * sound / np.sqrt(np.mean(sound**2))


def utterance(seed: int, phones: Sequence[str] | None = None) -> Recording:
    """A Recording of the given phones, or of 4 to 8 at random (no two alike in a row), by a random
    voice; labels exact to the sample."""
    rng = np.random.default_rng(seed)
    if phones is None:
        phones = [PHONES[rng.integers(len(PHONES))]]
        for _ in range(rng.integers(3, 8)):
            others = [name for name in PHONES if name != phones[-1]]
            phones.append(others[rng.integers(len(others))])
    pitch, tract, margin = rng.uniform(90, 240), rng.uniform(0.9, 1.15), round(SILENCE * RATE)
    parts, segments, at = [np.zeros(margin)], [], margin
    for name in phones:
        samples = round(rng.uniform(0.08, 0.2) * RATE)
        parts.append(_edges(phone(name, samples, rng, pitch, tract)))
        segments.append(Segment(at, at + samples, name))
        at += samples
    sound = np.concatenate([*parts, np.zeros(margin)])
    sound = 0.1 * sound / np.sqrt(np.mean(sound**2)) + 1e-3 * rng.normal(size=len(sound))
    return Recording(
        f'synthetic_{seed}', sound.astype(np.float32), RATE, tuple(segments), None, f'voice {seed}'
    )


def _edges(sound, seconds=0.008):
    """Faded in and out."""
    n = round(seconds * RATE)
    fade = np.minimum(np.arange(len(sound)) / n, 1)
    return sound * fade * fade[::-1]


def vowels(split: str) -> list[Recording]:
    """The built-in set: 160 synthetic utterances for training, 40 of other voices for testing; the
    same at every call."""
    if split not in PER_SPLIT:
        raise InputError(f'vowels have the splits {", ".join(PER_SPLIT)}, not {split!r}')
    begin = 0 if split == 'train' else PER_SPLIT['train']
    return [utterance(seed) for seed in range(begin, begin + PER_SPLIT[split])]
