"""What evaluate measures of runs on single frames of speech: whether their sound is that of the
phoneme they were generated as."""

import pathlib

import jax
import numpy as np

from ebm_jax import audio
from ebm_jax.errors import InputError
from ebm_jax.evaluate import samples
from ebm_jax.train import TrainState
from experiments.common.experiment import Experiment
from experiments.common.section import Section, Shown, share_interval
from experiments.evaluations.speech_quality import SPEECH

EACH = 20  # frames of each phoneme
SHOWN = 2  # of them in a sound file
SECONDS, PAUSE = 0.3, 0.1


def heard(
    scale: audio.Scale,
    rate: int,
    workdir: pathlib.Path,
    experiment: Experiment,
    state: TrainState,
) -> Section:
    """Generated and real test frames as sound (`audio.source_filter`), which is analysed again and
    recognised by a support vector machine fitted to real frames. All frames are brought to the mean
    level of the training frames first, since the loudness of a sound is arbitrary. Writes
    samples/heard_generated.wav and heard_real.wav.

    Args: scale: of the frames, which are natural log-periodograms. rate: samples per second.
    """
    train, test, model = experiment.train, experiment.test, experiment.model
    names = model.spec.class_names

    def spectra(x):
        """Log-periodograms [n, F] of examples [n, 1, F, 1]."""
        return scale.to_decibels(x[:, 0, :, 0]).astype(np.float64)

    level = float(np.mean(loudness(spectra(train.x))))

    def at_level(frames):
        """Examples of frames [n, F] at one level."""
        return scale.to_units(frames - loudness(frames)[:, None] + level)[:, None, :, None]

    judge = samples.fit_reference_classifier(train._replace(x=at_level(spectra(train.x))))
    wanted = np.repeat(np.arange(len(names)), EACH)
    generated = model.sample(
        jax.random.key(7), state.eval_params, wanted, description='frames to be heard'
    )
    order = np.random.default_rng(0).permutation(len(test.y))
    real = [order[test.y[order] == label][:EACH] for label in range(len(names))]
    picked = np.concatenate(real)
    metrics, intervals, lines, shown = {}, {}, [], []
    pause = np.zeros(round(PAUSE * rate), np.float32)
    seconds = max(SECONDS, 4 * train.x.shape[2] / rate)  # at least twice the length of a frame
    for kind, x, y in (
        ('generated', np.asarray(generated), wanted),
        ('real', test.x[picked], test.y[picked]),
    ):
        frames = spectra(x)
        sounds = [
            audio.source_filter(frame, rate, seconds=seconds, seed=i)
            for i, frame in enumerate(frames)
        ]
        again = np.stack([analysed(sound, frames.shape[1]) for sound in sounds])
        share = samples.recognition_accuracy(judge, at_level(again), y)
        before = samples.recognition_accuracy(judge, at_level(frames), y)
        name = f'heard_accuracy_{kind}'
        metrics[name], intervals[name] = share, share_interval(share, len(y))
        lines.append(
            f'{kind + " frames as sound":<32}{100 * share:6.2f} %   of {len(y)} recognised after '
            f'source-filter synthesis and analysis, {100 * before:.1f} % before, all at one level'
        )
        chosen = [i for label in range(len(names)) for i in np.flatnonzero(y == label)[:SHOWN]]
        file = f'samples/heard_{kind}.wav'
        sound = np.concatenate([part for i in chosen for part in (sounds[i], pause)])
        try:
            audio.write(workdir / file, sound, rate)
        except InputError as error:
            lines.append(f'{file} was not written: {error}')
            continue
        caption = (
            f'{SHOWN} {kind} frames each of {", ".join(names)}, held for {seconds:.1f} seconds'
        )
        shown.append(Shown(SPEECH, file, f'{kind} frames'.capitalize(), caption))
    return Section(metrics, lines, shown, intervals)


def analysed(sound: np.ndarray, size: int) -> np.ndarray:
    """The log-periodogram [size] of the middle of a sound."""
    begin = len(sound) // 2 - size
    return audio.log_periodogram(sound[begin : begin + 2 * size])


def loudness(frames: np.ndarray) -> np.ndarray:
    """The logarithm of the power of log-periodograms: [n, F] -> [n]."""
    return np.logaddexp.reduce(frames, axis=1)
