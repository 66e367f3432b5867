"""What evaluate measures of runs on recordings: whole recordings recognised, and how far de-noising brings noisy ones back."""
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from ebm_jax import audio, devices, mcmc
from ebm_jax.apply import speech as apply_speech
from ebm_jax.errors import InputError
from experiments import launch
from experiments.parts import averaged

LEVELS = (0, 5, 10, 20)   # signal-to-noise ratios, dB
NOISES = ('white', 'babble')


def restore(workdir):
    """As `launch.restore`, of a run that was trained on recordings."""
    config, parts, state = launch.restore(workdir)
    if parts.speech is None:
        raise InputError(f'{workdir} was not trained on recordings: give a run on speech (frames alone have no sound)')
    return config, parts, state


def logits_of(parts, params, sequences):
    """Logits of each sequence [T, F, 1]: [T, C] for its frames, or [C] pooled over windows."""
    frontend = parts.speech.frontend
    views = [frontend.views(np.asarray(x)) for x in sequences]
    logits = devices.for_each(lambda params, key, x: parts.network.apply(params, x), params, jax.random.key(0), [np.concatenate(views)],
                              description='windows')
    parted = np.split(logits, np.cumsum([len(view) for view in views])[:-1])
    return parted if frontend.by_frame else [np.asarray(apply_speech.pooled_logits(jnp.asarray(rows))) for rows in parted]


def hits(parts, params, sequences, recordings):
    """Of each recording: how many of its frames (or its word) the largest logit is right about, and how many are labelled. int [N, 2]"""
    found = []
    for logits, recording in zip(logits_of(parts, params, sequences), recordings):
        labels = parts.speech.frontend.labels(recording)
        known, best = labels >= 0, np.argmax(np.atleast_2d(logits), 1)
        found.append((np.sum(best[known] == labels[known]), np.sum(known)))
    return np.array(found)


def share(counts):
    """What is right of all that is labelled. counts: int [N, 2], of `hits`."""
    right, labelled = counts.sum(0)
    return float(right / max(labelled, 1))


def accuracy_of(parts, params, sequences, recordings):
    """Share of labelled frames, or of recordings, that are recognised."""
    return share(hits(parts, params, sequences, recordings))


def whole_recordings(workdir, config, parts, state):
    """Accuracy on whole test recordings (frames, where labels are those of frames), and on speakers that were never heard."""
    frontend, params, figures, lines = parts.speech.frontend, averaged(state), {}, []
    own = 'frame_accuracy' if frontend.by_frame else 'recording_accuracy'
    for name, recordings in ((own, parts.speech.test), ('other_speakers_accuracy', parts.speech.others)):
        recordings = [r for r in recordings if np.any(frontend.labels(r) >= 0)]
        if recordings:
            figures[name] = accuracy_of(parts, params, [frontend.sequence(r.sound) for r in recordings], recordings)
            what = 'their labelled frames' if frontend.by_frame else 'logsumexp over windows'
            lines.append(f'{name.replace("_", " "):<32}{100 * figures[name]:6.2f} %   {len(recordings)} recordings, {what}, no input noise')
    return figures, lines


def inversion(workdir, config, parts, state):
    """What the way from features to sound and back loses: root mean square error in dB, and what is still recognised."""
    frontend, params, recordings = parts.speech.frontend, averaged(state), chosen(parts, config.denoise.recordings)
    before = [frontend.sequence(r.sound) for r in recordings]
    after = [frontend.sequence(frontend.sound(x)) for x in tqdm(before, desc='features to sound', unit='recording', delay=2, leave=False)]
    error = error_of(parts, after, before) ** 0.5
    accuracy = [accuracy_of(parts, params, x, recordings) for x in (before, after)]
    return {'inversion_rms_db': error, 'inversion_accuracy': accuracy[1]}, [
        f'features to sound and back      {error:6.2f} dB root mean square error; {len(recordings)} recordings recognised '
        f'{accuracy[0]:.3f} before, {accuracy[1]:.3f} after']


def in_noise(parts, recordings, noise, level):
    """[(noisy sound, clean sound)] of recordings in noise at a level in dB, see `audio.levelled_in_noise`.

    noise: 'white', or 'babble' of other test recordings.
    """
    pairs = []
    for i, recording in enumerate(recordings):
        others = [r.sound for r in parts.speech.test if r.name != recording.name]
        if noise == 'babble' and not others:
            raise InputError('babble needs at least two test recordings')
        samples = len(recording.sound)
        added = audio.babble(others, samples, i) if noise == 'babble' else audio.white_noise(samples, i)
        pairs.append(audio.levelled_in_noise(recording.sound, added, level))
    return pairs


def denoised(parts, params, sequences, c, *, prior=True, seed=0):
    """Sequences [T, F, 1] after the chain of `apply.speech.denoise` by the settings c. prior: False leaves the energy out.

    The spectrum of the noise is taken to be, in each bin, the c.percentile-th percentile over the frames of the recording.
    """
    if not c.num_steps:
        return sequences
    frontend, scale = parts.speech.frontend, parts.speech.frontend.scale
    every, longest = 1 + frontend.length // 6, max(frontend.length, *map(len, sequences))
    kernel = mcmc.langevin(c.step_size, noise_scale=c.noise)
    padded = np.stack([np.pad(x, ((0, longest - len(x)), (0, 0), (0, 0)), mode='edge') for x in sequences])   # one program for all
    noises = np.stack([np.percentile(scale.to_decibels(x[..., 0]), c.percentile, axis=0) for x in sequences])
    within = np.array([max(len(x), frontend.length) for x in sequences])

    def one(params, key, x, noise, within):
        energy_fn = apply_speech.sequence_energy(partial(parts.energy_fn, params), frontend.length, every, within=within)
        observe = apply_speech.in_noise(noise, scale.mean, audio.SPAN * scale.std) if c.percentile else lambda u: u
        return apply_speech.denoise(key, energy_fn if prior else lambda u: 0.0, kernel, x, c.num_steps, c.anchor, observe)

    inputs = [padded, noises.astype(np.float32), within]
    found = devices.for_each(one, params, jax.random.key(seed), inputs, batch_size=16, description='de-noising')
    return [x[:len(given)] for x, given in zip(found, sequences)]


def error_of(parts, sequences, clean):
    """Mean squared difference of log-mel spectrograms, in dB^2, over all frames."""
    scale = parts.speech.frontend.scale
    squares = [np.square(scale.to_decibels(x[..., 0]) - scale.to_decibels(y[..., 0])) for x, y in zip(sequences, clean)]
    return float(np.mean(np.concatenate(squares)))


def gated(frontend, sounds):
    """Spectral gating of noisereduce, its settings for stationary noise: the baseline."""
    rate, reduced = frontend.analysis.rate, []
    for sound in sounds:
        filled = np.pad(sound, (0, max(0, 2048 - len(sound))))   # it needs two of its transforms, and to smooth over a frame of them
        reduced.append(audio.package('noisereduce').reduce_noise(y=filled, sr=rate, stationary=True, time_mask_smooth_ms=max(
            50, 1 + 256_000 // rate))[:len(sound)])
    return [frontend.sequence(sound.astype(np.float32)) for sound in reduced]


class Cases(NamedTuple):
    """Recordings in every noise at every level, case after case."""
    cases: list        # (noise, level)
    recordings: list   # of one case
    sounds: list       # noisy, of all cases
    before: list       # their sequences
    clean: list        # those of the clean recordings


def cases_of(parts, recordings, levels):
    cases = [(noise, level) for noise in NOISES for level in levels]
    pairs = [pair for noise, level in cases for pair in in_noise(parts, recordings, noise, level)]
    before, clean = ([parts.speech.frontend.sequence(sound) for sound in sounds] for sounds in zip(*pairs))
    return Cases(cases, recordings, [sound for sound, _ in pairs], before, clean)


def compared(parts, params, sequences, given):
    """[(error, accuracy)] of each of given.cases, of one way to clean given.before."""
    n = len(given.recordings)
    counts = hits(parts, params, sequences, given.recordings * len(given.cases))
    return [(error_of(parts, sequences[i:i + n], given.clean[i:i + n]), share(counts[i:i + n])) for i in range(0, len(sequences), n)]


def chosen(parts, num):
    """Test recordings to measure de-noising on, spread over the set."""
    recordings = [r for r in parts.speech.test if np.any(parts.speech.frontend.labels(r) >= 0)]
    return [recordings[i] for i in np.unique(np.linspace(0, len(recordings) - 1, min(num, len(recordings))).astype(int))]


def denoising(workdir, config, parts, state):
    """De-noising at LEVELS of white noise and babble, beside spectral gating."""
    c, params, recordings = config.denoise, averaged(state), chosen(parts, config.denoise.recordings)
    frontend, given = parts.speech.frontend, cases_of(parts, recordings, LEVELS)
    after = denoised(parts, params, given.before, c)
    ways = {'before': given.before, 'after': after, 'anchor_alone': denoised(parts, params, given.before, c, prior=False),
            'gated': gated(frontend, given.sounds)}
    found = {way: compared(parts, params, x, given) for way, x in ways.items()}
    table = {case: {f'{kind}_{way}': rows[i][j] for way, rows in found.items() for j, kind in enumerate(('mse', 'accuracy'))}
             for i, case in enumerate(given.cases)}
    lines = [f'De-noising {len(recordings)} test recordings: {c.num_steps} steps of size {c.step_size:g}, noise {c.noise:g}, anchor '
             f'{c.anchor:g} (percentile {c.percentile:g}); alone: the anchor without the energy; gated: spectral gating by noisereduce.',
             'Error of the log-mel spectrogram in dB^2 / accuracy of the model itself.',
             f'{"noise":<8}{"SNR":>5}' + ''.join(f'{way:>18}' for way in ('noisy', 'after', 'alone', 'gated'))]
    for (noise, level), row in table.items():
        lines.append(f'{noise:<8}{level:>5}' + ''.join(f'{row[f"mse_{way}"]:>10.1f} / {row[f"accuracy_{way}"]:.3f}' for way in (
            'before', 'after', 'anchor_alone', 'gated')))
    shown = given.cases.index(('white', 10)) * len(recordings)
    draw(workdir / 'samples' / 'denoised.png', frontend, {
        'clean': given.clean[shown], 'white noise, 10 dB': given.before[shown], f'after {c.num_steps} steps': after[shown]})
    of = lambda noise: {str(level): table[noise, level] for level in LEVELS}
    return {'denoise': of('white'), 'denoise_babble': of('babble')}, lines


def draw(path, frontend, sequences):
    """Spectrograms below each other: {title: [T, F, 1]} -> PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    spectra = {title: frontend.scale.to_decibels(x[..., 0]) for title, x in sequences.items()}
    low, high = np.percentile(next(iter(spectra.values())), (1, 100))
    figure = Figure(figsize=(9, 2.1 * len(sequences)), layout='tight')
    for axis, (title, spectrum) in zip(figure.subplots(len(sequences), 1, squeeze=False)[:, 0], spectra.items()):
        seconds = len(spectrum) * frontend.analysis.hop
        picture = axis.imshow(spectrum.T, vmin=low, vmax=high, origin='lower', aspect='auto',
                              extent=(0, seconds, 0, frontend.analysis.bins))
        axis.set(title=title, ylabel='mel bin')
        figure.colorbar(picture, ax=axis, label='dB')
    axis.set_xlabel('seconds')
    figure.savefig(path, dpi=90)


def check(c):
    """Refuse settings of de-noising that cannot be. Raises: InputError."""
    for name, fine, must in (('step_size', 0 < c.step_size < math.inf, 'above 0 and finite'),
                             ('noise', 0 <= c.noise < math.inf, 'at least 0'), ('num_steps', c.num_steps >= 0, 'at least 0'),
                             ('percentile', 0 <= c.percentile <= 100, 'in [0, 100]'), ('recordings', c.recordings >= 1, 'at least 1')):
        if not fine:
            raise InputError(f'denoise.{name} must be {must}, got {c[name]}')
    if not 0 <= c.anchor * c.step_size < 1:
        raise InputError(f'the anchor of de-noising must be at least 0 and below 1 / step_size = {1 / c.step_size:g}, beyond which steps '
                         f'overshoot, got {c.anchor}')


FIGURES = (whole_recordings, inversion, denoising)
