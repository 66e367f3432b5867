"""What evaluate measures of runs on recordings: whole recordings recognised, and how far de-noising
brings noisy ones back."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from ebm_jax import audio, mcmc
from ebm_jax.apply import sequences as apply_sequences
from ebm_jax.data.recordings import Recording
from ebm_jax.data.windows import Frontend
from ebm_jax.errors import InputError
from ebm_jax.evaluate import figures
from ebm_jax.model import Model
from ebm_jax.train import TrainState
from ebm_jax.types import Params
from experiments.common import settings
from experiments.common.experiment import Experiment
from experiments.common.groups import Denoise
from experiments.common.section import SPEECH, Section, Shown

LEVELS = (0, 5, 10, 20)  # signal-to-noise ratios, dB
NOISES = ('white', 'babble')
Sequences = Sequence[np.ndarray]  # each [T, F, 1], in network units


def hits(
    frontend: Frontend, all_logits: Sequence[np.ndarray], recordings: Sequence[Recording]
) -> np.ndarray:
    """int [N, 2], of each recording: how many of its labelled frames (or its word) are recognised,
    and how many there are.

    Args: all_logits: of each recording, as `apply.sequences.recording_logits` has them.
    """
    found = []
    for logits, recording in zip(all_logits, recordings):
        labels = frontend.labels(recording)
        known, best = labels >= 0, np.argmax(np.atleast_2d(logits), 1)
        found.append((np.sum(best[known] == labels[known]), np.sum(known)))
    return np.array(found)


def logits_of(model: Model, params: Params, sequences: Sequences) -> list[np.ndarray]:
    """The model's logits of sequences."""
    return apply_sequences.recording_logits(
        model.classifier.logits, params, model.speech, sequences
    )


def share(counts: np.ndarray) -> float:
    """The recognised share of everything labelled. counts: int [N, 2], from `hits`."""
    right, labelled = counts.sum(0)
    return float(right / max(labelled, 1))


def recognised(
    model: Model, params: Params, sequences: Sequences, recordings: Sequence[Recording]
) -> float:
    """Share of labelled frames, or of recordings, that are recognised."""
    return share(hits(model.speech, logits_of(model, params, sequences), recordings))


def whole_recordings(workdir: pathlib.Path, experiment: Experiment, state: TrainState) -> Section:
    """Accuracy on whole test recordings (frames, where labels are those of frames), and on speakers
    that were never heard."""
    run, model, metrics, lines = experiment.speech, experiment.model, {}, []
    own = 'frame_accuracy' if run.frontend.by_frame else 'recording_accuracy'
    what = 'their labelled frames' if run.frontend.by_frame else 'logsumexp over windows'
    for name, recordings in ((own, run.test), ('other_speakers_accuracy', run.others)):
        recordings = [r for r in recordings if np.any(run.frontend.labels(r) >= 0)]
        if recordings:
            x = [run.frontend.sequence(r.sound) for r in recordings]
            metrics[name] = recognised(model, state.eval_params, x, recordings)
            lines.append(
                f'{name.replace("_", " "):<32}{100 * metrics[name]:6.2f} %   '
                f'{len(recordings)} recordings, {what}, no input noise'
            )
    return Section(metrics, lines)


def inversion(workdir: pathlib.Path, experiment: Experiment, state: TrainState) -> Section:
    """What is lost from features to sound and back: root mean square error in dB, and how much is
    still recognised."""
    run = experiment.speech
    frontend = run.frontend
    recordings = chosen(frontend, run.test, run.denoise.recordings)
    before = [frontend.sequence(r.sound) for r in recordings]
    bar = tqdm(before, desc='features to sound', unit='recording', delay=2, leave=False)
    after = [frontend.sequence(frontend.sound(x)) for x in bar]
    error = spectral_error(frontend, after, before) ** 0.5
    accuracy = [
        recognised(experiment.model, state.eval_params, x, recordings) for x in (before, after)
    ]
    metrics = {'inversion_rms_db': error, 'inversion_accuracy': accuracy[1]}
    line = (
        f'features to sound and back      {error:6.2f} dB root mean square error; '
        f'{len(recordings)} recordings recognised {accuracy[0]:.3f} before, {accuracy[1]:.3f} after'
    )
    return Section(metrics, [line])


def in_noise(
    test: Sequence[Recording], recordings: Sequence[Recording], noise: str, level: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """[(noisy sound, clean sound)] of recordings in noise at a level in dB, see
    `audio.levelled_in_noise`.

    Args:
      test: the recordings that babble is made of.
      recordings: those that get noise.
      noise: 'white', or 'babble' of others of these.
      level: signal-to-noise ratio in dB.
    """
    pairs = []
    for i, recording in enumerate(recordings):
        others = [r.sound for r in test if r is not recording]
        samples = len(recording.sound)
        if noise == 'babble':
            added = audio.babble(others, samples, i)
        else:
            added = audio.white_noise(samples, i)
        pairs.append(audio.levelled_in_noise(recording.sound, added, level))
    return pairs


def denoised(
    model: Model,
    params: Params,
    sequences: Sequences,
    c: Denoise,
    *,
    prior: bool = True,
    labels: np.ndarray | None = None,
    seed: int = 0,
) -> Sequences:
    """Sequences [T, F, 1] after `apply.sequences.denoise_features` with the settings c.

    Args:
      model: a model on speech.
      params: its parameters.
      sequences: the noisy sequences.
      c: settings of the chain.
      prior: False leaves the energy out.
      labels: of the sequences, int [N]: the energy is that of p(x|y); default: that of p(x).
      seed: seed of the chains.
    """
    energy_fn = model.marginal_energy_fn if labels is None else model.energy_fn
    return apply_sequences.denoise_features(
        energy_fn if prior else _no_energy,
        params,
        jax.random.key(seed),
        mcmc.langevin(c.step_size, noise_scale=c.noise),
        model.speech,
        sequences,
        c.num_steps,
        anchor=c.anchor,
        percentile=c.percentile,
        labels=labels,
    )


def _no_energy(params, x, label=None):
    return 0.0


def spectral_error(frontend: Frontend, sequences: Sequences, clean: Sequences) -> float:
    """Mean squared difference of log-mel spectrograms, in dB^2, over all frames."""
    decibels = frontend.scale.to_decibels
    squares = [
        np.square(decibels(x[..., 0]) - decibels(y[..., 0])) for x, y in zip(sequences, clean)
    ]
    return float(np.mean(np.concatenate(squares)))


def gated(sounds: Sequences, rate: int) -> list[np.ndarray]:
    """The baseline: sounds after spectral gating by noisereduce, with its settings for stationary
    noise."""
    reduced = []
    noisereduce = audio.package('noisereduce')
    for sound in sounds:
        # noisereduce needs sound for two transforms, and smoothing over one frame at least
        padded = np.pad(sound, (0, max(0, 2048 - len(sound))))
        smooth = max(50, 1 + 256_000 // rate)
        clean = noisereduce.reduce_noise(
            y=padded, sr=rate, stationary=True, time_mask_smooth_ms=smooth
        )
        reduced.append(clean[: len(sound)].astype(np.float32))
    return reduced


class Cases(NamedTuple):
    """Recordings in every noise at every level, case after case."""

    cases: list[tuple[str, float]]  # (noise, level)
    recordings: Sequence[Recording]  # of one case
    sounds: Sequences  # noisy, of all cases
    before: Sequences  # their sequences
    clean_sounds: Sequences
    clean: Sequences  # their sequences

    def parts(self) -> list[slice]:
        """Which of all sequences are those of each case."""
        n = len(self.recordings)
        return [slice(i * n, (i + 1) * n) for i in range(len(self.cases))]


def cases_of(
    frontend: Frontend,
    all_recordings: Sequence[Recording],
    recordings: Sequence[Recording],
    levels: Sequence[float],
) -> Cases:
    """Every noise of NOISES at every level; no babble where there is one recording alone.

    Args: all_recordings: those that babble is made of, `recordings` among them.
    """
    noises = [noise for noise in NOISES if noise != 'babble' or len(all_recordings) > 1]
    cases = [(noise, level) for noise in noises for level in levels]
    pairs = [
        pair
        for noise, level in cases
        for pair in in_noise(all_recordings, recordings, noise, level)
    ]
    noisy, clean = (list(part) for part in zip(*pairs))
    before, wanted = ([frontend.sequence(sound) for sound in part] for part in (noisy, clean))
    return Cases(cases, recordings, noisy, before, clean, wanted)


def compared(
    model: Model, params: Params, sequences: Sequences, given: Cases
) -> list[tuple[float, float]]:
    """[(error, accuracy)] of each of given.cases, of one way to clean given.before."""
    recordings = list(given.recordings) * len(given.cases)
    counts = hits(model.speech, logits_of(model, params, sequences), recordings)
    return [
        (spectral_error(model.speech, sequences[part], given.clean[part]), share(counts[part]))
        for part in given.parts()
    ]


def chosen(frontend: Frontend, all_recordings: Sequence[Recording], num: int) -> list[Recording]:
    """Recordings to measure de-noising on, spread over the set."""
    recordings = [r for r in all_recordings if np.any(frontend.labels(r) >= 0)]
    places = np.linspace(0, len(recordings) - 1, min(num, len(recordings))).astype(int)
    return [recordings[i] for i in np.unique(places)]


def denoising(workdir: pathlib.Path, experiment: Experiment, state: TrainState) -> Section:
    """De-noising at LEVELS of white noise and babble, compared with spectral gating."""
    run, model, params = experiment.speech, experiment.model, state.eval_params
    c, frontend = run.denoise, run.frontend
    recordings = chosen(frontend, run.test, c.recordings)
    given = cases_of(frontend, run.test, recordings, LEVELS)
    after = denoised(model, params, given.before, c)
    ways = {
        'before': given.before,
        'after': after,
        'anchor_alone': denoised(model, params, given.before, c, prior=False),
        'gated': [frontend.sequence(x) for x in gated(given.sounds, frontend.analysis.rate)],
    }
    found = {way: compared(model, params, x, given) for way, x in ways.items()}
    table = {
        case: {
            f'{kind}_{way}': rows[i][j]
            for way, rows in found.items()
            for j, kind in enumerate(('mse', 'accuracy'))
        }
        for i, case in enumerate(given.cases)
    }
    header = ''.join(f'{way:>18}' for way in ('noisy', 'after', 'alone', 'gated'))
    lines = [
        f'De-noising {len(recordings)} test recordings: {c.num_steps} steps of size '
        f'{c.step_size:g}, noise {c.noise:g}, anchor {c.anchor:g} (percentile {c.percentile:g}); '
        'alone: the anchor without the energy; gated: spectral gating by noisereduce.',
        'Error of the log-mel spectrogram in dB^2 / accuracy of the model itself.',
        f'{"noise":<8}{"SNR":>5}{header}',
    ]
    for (noise, level), row in table.items():
        cells = ''.join(
            f'{row[f"mse_{way}"]:>10.1f} / {row[f"accuracy_{way}"]:.3f}' for way in ways
        )
        lines.append(f'{noise:<8}{level:>5}{cells}')
    first = given.cases.index(('white', 10)) * len(recordings)
    spectrograms(
        workdir / 'samples' / 'denoised.png',
        frontend,
        {
            'clean': given.clean[first],
            'white noise, 10 dB': given.before[first],
            f'after {c.num_steps} steps': after[first],
        },
    )
    name, rate = recordings[0].name, frontend.analysis.rate
    sounds = {
        'clean': ('Clean', recordings[0].sound),
        'noisy': ('With white noise, 10 dB', given.sounds[first]),
        'denoised': (f'De-noised, {c.num_steps} steps', frontend.sound(after[first])),
    }
    caption = f'Test recording {name}: log-mel spectrograms, clean, noisy and de-noised.'
    shown = [Shown(SPEECH, 'samples/denoised.png', 'De-noising', caption)]
    for file, (title, sound) in sounds.items():
        audio.write(workdir / 'samples' / f'{file}.wav', sound, rate)
        shown.append(Shown(SPEECH, f'samples/{file}.wav', title, f'Test recording {name}.'))

    def rows_of(noise):
        return {str(level): table[noise, level] for level in LEVELS if (noise, level) in table}

    metrics = {'denoise': rows_of('white'), 'denoise_babble': rows_of('babble')}
    return Section(metrics, lines, shown)


def spectrograms(
    path: pathlib.Path, frontend: Frontend, sequences: Mapping[str, np.ndarray]
) -> None:
    """Spectrograms below each other: {title: [T, F, 1]} -> PNG."""
    figures.save(_spectrograms(frontend, sequences), path, dpi=90)


@figures.styled
def _spectrograms(frontend, sequences):
    spectra = {title: frontend.scale.to_decibels(x[..., 0]) for title, x in sequences.items()}
    low, high = np.percentile(next(iter(spectra.values())), (1, 100))
    figure = Figure(figsize=(9, 2.1 * len(sequences)))
    axes = figure.subplots(len(sequences), 1, squeeze=False)[:, 0]
    for axis, (title, spectrum) in zip(axes, spectra.items()):
        seconds = len(spectrum) * frontend.analysis.hop
        picture = axis.imshow(
            spectrum.T,
            vmin=low,
            vmax=high,
            origin='lower',
            aspect='auto',
            extent=(0, seconds, 0, frontend.analysis.bins),
        )
        axis.set(title=title, ylabel='mel bin')
        figure.colorbar(picture, ax=axis, label='dB')
        axis.grid(False)
    axes[-1].set_xlabel('seconds')
    return figure


def check(c: Denoise) -> None:
    """Refuse invalid settings of de-noising. Raises: InputError."""
    settings.check(c, 'denoise.')
    if c.anchor * c.step_size >= 1:
        raise InputError(
            'the anchor of de-noising must be at least 0 and below 1 / step_size = '
            f'{1 / c.step_size:g}, beyond which steps overshoot, got {c.anchor}'
        )


EVALUATIONS = (whole_recordings, inversion, denoising)
