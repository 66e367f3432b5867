"""Windows of speech features: from recordings to what networks see, and back.

Networks see Examples of windows, float32 [N, T, F, 1] in [-1, 1].
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ebm_jax import audio
from ebm_jax.data.examples import Examples
from ebm_jax.data.recordings import Recording
from ebm_jax.errors import InputError


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
