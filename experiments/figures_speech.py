"""What evaluate measures of runs on recordings: whole recordings recognised, and how far de-noising brings noisy ones back."""
from functools import partial

import jax
import jax.numpy as jnp
import noisereduce
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from ebm_jax import audio, devices, mcmc
from ebm_jax.apply import speech as apply_speech
from ebm_jax.types import UNLABELLED
from experiments.parts import averaged

LEVELS = (0, 5, 10, 20)   # signal-to-noise ratios, dB
NOISES = ('white', 'babble')


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
        known, best = labels >= 0, np.argmax(np.atleast_2d(logits), 1)[:len(labels)]   # a short sequence was filled up
        found.append((np.sum(best[known] == labels[known]), np.sum(known)))
    return np.array(found)


def accuracy_of(parts, params, sequences, recordings):
    """Share of labelled frames, or of recordings, that are recognised."""
    right, labelled = hits(parts, params, sequences, recordings).sum(0)
    return float(right / max(labelled, 1))


def whole_recordings(workdir, config, parts, state):
    """Accuracy on whole test recordings (frames, where labels are those of frames), and on speakers that were never heard."""
    frontend, params, figures, lines = parts.speech.frontend, averaged(state), {}, []
    for name, recordings in (('recording_accuracy', parts.speech.test), ('other_speakers_accuracy', parts.speech.others)):
        recordings = [r for r in recordings if np.any(frontend.labels(r) >= 0)]
        if recordings:
            figures[name] = accuracy_of(parts, params, [frontend.sequence(r.sound) for r in recordings], recordings)
            what = 'their labelled frames' if frontend.by_frame else 'logsumexp over windows'
            lines.append(f'{name.replace("_", " "):<32}{100 * figures[name]:6.2f} %   {len(recordings)} recordings, {what}')
    return figures, lines


def inversion(workdir, config, parts, state):
    """What the way from features to sound and back loses: root mean square error in dB, and what is still recognised."""
    frontend, params, recordings = parts.speech.frontend, averaged(state), chosen(parts, config.denoise.recordings)
    before = [frontend.sequence(r.sound) for r in recordings]
    after = [frontend.sequence(frontend.sound(x)) for x in tqdm(before, desc='features to sound', unit='recording', delay=2, leave=False)]
    pairs = [(x[:len(y)], y[:len(x)]) for x, y in zip(before, after)]
    error = error_of(parts, *zip(*pairs)) ** 0.5
    accuracy = [accuracy_of(parts, params, x, recordings) for x in (before, after)]
    return {'inversion_rms_db': error, 'inversion_accuracy': accuracy[1]}, [
        f'features to sound and back      {error:6.2f} dB root mean square error; {len(recordings)} recordings recognised '
        f'{accuracy[0]:.3f} before, {accuracy[1]:.3f} after']


def noisy(parts, recordings, noise, level):
    """The recordings with noise at a level in dB: a list of sounds. noise: 'white', or 'babble' of the other test recordings."""
    voices = [r.sound for r in parts.speech.test]
    make = {'white': audio.white_noise, 'babble': lambda samples, seed: audio.babble(voices, samples, seed)}[noise]
    return [audio.add_noise(r.sound, make(len(r.sound), i), level) for i, r in enumerate(recordings)]


def denoised(parts, params, sequences, c, *, prior=True, seed=0):
    """Sequences [T, F, 1] after the chain of `apply.speech.denoise` by the settings c. prior: False leaves the energy out.

    The spectrum of the noise is taken to be, in each bin, the c.percentile-th percentile over the frames of the recording.
    """
    if not c.num_steps:
        return sequences
    frontend, longest = parts.speech.frontend, max(map(len, sequences))
    every = 1 + frontend.length // 6
    kernel = mcmc.langevin(c.step_size, noise_scale=c.noise)
    padded = np.stack([np.pad(x, ((0, longest - len(x)), (0, 0), (0, 0)), mode='edge') for x in sequences])   # one program for all
    scale = frontend.scale
    noises = np.stack([np.percentile(scale.to_decibels(x[..., 0]), c.percentile, axis=0) for x in sequences])

    def one(params, key, x, noise):
        energy_fn = apply_speech.sequence_energy(partial(parts.energy_fn, params), frontend.length, every, UNLABELLED)
        observe = apply_speech.in_noise(noise, scale.mean, audio.SPAN * scale.std) if c.percentile else lambda u: u
        return apply_speech.denoise(key, energy_fn if prior else lambda u: 0.0, kernel, x, c.num_steps, c.anchor, observe)

    inputs = [padded, noises.astype(np.float32)]
    found = devices.for_each(one, params, jax.random.key(seed), inputs, batch_size=16, description='de-noising')
    return [x[:len(given)] for x, given in zip(found, sequences)]


def error_of(parts, sequences, clean):
    """Mean squared difference of log-mel spectrograms, in dB^2, over all frames."""
    scale = parts.speech.frontend.scale
    squares = [np.square(scale.to_decibels(x[..., 0]) - scale.to_decibels(y[..., 0])) for x, y in zip(sequences, clean)]
    return float(np.mean(np.concatenate(squares)))


def gated(frontend, sounds):
    """Spectral gating of noisereduce, its defaults for stationary noise: the baseline."""
    reduced = [noisereduce.reduce_noise(y=sound, sr=frontend.analysis.rate, stationary=True) for sound in sounds]
    return [frontend.sequence(sound.astype(np.float32)) for sound in reduced]


def in_cases(parts, recordings, levels):
    """(cases, sounds): the recordings in every noise at every level, case after case."""
    cases = [(noise, level) for noise in NOISES for level in levels]
    return cases, [sound for noise, level in cases for sound in noisy(parts, recordings, noise, level)]


def compared(parts, params, sequences, recordings):
    """[(error, accuracy)] of each case; the sequences are those of the recordings, case after case."""
    clean, n = [parts.speech.frontend.sequence(r.sound) for r in recordings], len(recordings)
    counts = hits(parts, params, sequences, recordings * (len(sequences) // n))
    share = lambda right, labelled: float(right / max(labelled, 1))
    return [(error_of(parts, sequences[i:i + n], clean), share(*counts[i:i + n].sum(0))) for i in range(0, len(sequences), n)]


def chosen(parts, num):
    """Test recordings to measure de-noising on, spread over the set."""
    recordings = [r for r in parts.speech.test if np.any(parts.speech.frontend.labels(r) >= 0)]
    return [recordings[i] for i in np.unique(np.linspace(0, len(recordings) - 1, min(num, len(recordings))).astype(int))]


def denoising(workdir, config, parts, state):
    """De-noising at LEVELS of white noise and babble, beside spectral gating."""
    c, params, recordings = config.denoise, averaged(state), chosen(parts, config.denoise.recordings)
    frontend, (cases, sounds) = parts.speech.frontend, in_cases(parts, recordings, LEVELS)
    before = [frontend.sequence(sound) for sound in sounds]
    after = denoised(parts, params, before, c)
    ways = {'before': before, 'after': after, 'anchor_alone': denoised(parts, params, before, c, prior=False),
            'gated': gated(frontend, sounds)}
    found = {way: compared(parts, params, x, recordings) for way, x in ways.items()}
    table = {case: {f'{kind}_{way}': rows[i][j] for way, rows in found.items() for j, kind in enumerate(('mse', 'accuracy'))}
             for i, case in enumerate(cases)}
    lines = [f'De-noising {len(recordings)} test recordings: {c.num_steps} steps of size {c.step_size:g}, anchor {c.anchor:g}, noise at '
             f'percentile {c.percentile:g}; alone: the anchor without the energy; gated: spectral gating by noisereduce.',
             'Error of the log-mel spectrogram in dB^2 / accuracy of the model itself.',
             f'{"noise":<8}{"SNR":>5}' + ''.join(f'{way:>18}' for way in ('noisy', 'after', 'alone', 'gated'))]
    for (noise, level), row in table.items():
        lines.append(f'{noise:<8}{level:>5}' + ''.join(f'{row[f"mse_{way}"]:>10.1f} / {row[f"accuracy_{way}"]:.3f}' for way in (
            'before', 'after', 'anchor_alone', 'gated')))
    shown = cases.index(('white', 10)) * len(recordings)
    draw(workdir / 'samples' / 'denoised.png', frontend, {
        'clean': frontend.sequence(recordings[0].sound), 'white noise, 10 dB': before[shown], f'after {c.num_steps} steps': after[shown]})
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


FIGURES = (whole_recordings, inversion, denoising)
