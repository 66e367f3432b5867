"""The parts of a JEM or ST-JEM run on speech: windows of features take the place of images, everything else is that of parts_jem."""
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from ebm_jax import audio, augment, data, formants, replay, speech
from ebm_jax.errors import InputError
from experiments import figures_speech, parts_jem
from experiments.parts_jem import jem_config, jem_parts


class Speech(NamedTuple):
    """What a run on recordings knows beside its windows."""
    frontend: speech.Frontend
    test: list      # speech.Recording
    others: list    # of the speakers that were left out of training


def speech_config():
    """Settings that every run on speech has; an experiment file sets its own numbers on top of these."""
    config = jem_config()
    a = audio.Analysis()
    config.features = ConfigDict(dict(rate=a.rate, bins=a.bins, window=a.window, hop=a.hop, preemphasis=a.preemphasis))
    # window: frames of one, and so many frames between windows (every); masks: widest, in frames and bins, 0 for none. noise is in
    # network units, as step sizes are: one standard deviation of a bin is 1/4. leave_out: names of classes, speakers: of speakers.
    config.data = ConfigDict(dict(source='vowels', noise=0.1, window=21, every=1, time_mask=0, frequency_mask=0, leave_out=(), speakers=()))
    config.ood = ConfigDict(dict(inverted='inverted', noise='noise'))   # beside own_sets
    # Of the chain that de-noises, see apply.speech.denoise. percentile: over the frames of a recording, at which its noise is taken to lie
    # (0: the plain anchor, which knows nothing of noise). recordings: of the test set that evaluate measures it on.
    config.denoise = ConfigDict(dict(step_size=0.2, noise=0.005, num_steps=100, anchor=2.0, percentile=30.0, recordings=60))
    return config


def load(source, split):
    """(recordings, whether labels are those of frames) by name: vowels, recordings:FOLDER, fsdd:FOLDER, fsdd:FILE.npz,
    tfds:NAME[@FOLDER][?label=speaker_id&rate=16000&train=train_clean100[:90%]&test=train_clean100[90%:]].
    """
    kind, _, where = source.partition(':')
    if kind == 'vowels' and not where:
        return formants.vowels(split), True
    if kind == 'recordings' and where:
        return speech.folder(where, split), True
    if kind == 'fsdd' and where:
        return speech.fsdd(where, split), False
    if kind == 'tfds' and where:
        place, _, query = where.partition('?')
        name, _, folder = place.partition('@')
        options = dict(part.partition('=')[::2] for part in query.split('&') if part)
        if set(options) - {'label', 'rate', 'train', 'test'} or '' in options.values() or not options.get('rate', '1').isdecimal():
            raise InputError(f'{source!r}: what follows ? must look like label=speaker_id&rate=16000&train=SPLIT&test=SPLIT, any of these')
        return speech.tfds(name, options.get(split, split), folder or None, label=options.get('label', 'label'),
                           rate=int(options.get('rate', 16000))), False
    raise InputError(f'unknown speech {source!r}: give vowels, recordings:FOLDER, fsdd:FOLDER, fsdd:FILE.npz, tfds:NAME[@FOLDER] or '
                     'frames:FILE.npz')


def check(config):
    parts_jem.check(config)
    c = config.data
    for name, fine, must in (('window', c.window >= 1, 1), ('every', c.every >= 1, 1), ('time_mask', c.time_mask >= 0, 0),
                             ('frequency_mask', c.frequency_mask >= 0, 0)):
        if not fine:
            raise InputError(f'--config.data.{name} must be at least {must}, got {c[name]}')
    figures_speech.check(config.denoise)


def speech_jem(config, module_of):
    """The parts of a JEM or ST-JEM run on speech. module_of: number of classes -> linen module on [N, T, F, 1]."""
    check(config)
    kind, _, where = config.data.source.partition(':')
    if kind == 'frames' and where:
        train, test, _ = speech.frames(where)
        more = dict(own_figures=(), own_sets={})
    else:
        train, test, of = prepared(config)
        more = dict(own_figures=figures_speech.FIGURES, own_sets=own_sets(of, config), speech=of)
    prepare = lambda training: augment.chain(*(masks(config) if training else []), augment.gaussian_noise(config.data.noise))
    return jem_parts(config, module_of(train.num_classes), train, test, replay.normal_start(train.x.shape[1:], 1 / audio.SPAN), prepare,
                     picture=picture, **more)


def masks(config):
    widest = config.data.time_mask, config.data.frequency_mask
    return [augment.mask(axis, width) for axis, width in enumerate(widest) if width]


def prepared(config):
    """(training windows, test windows, Speech) of a source of recordings."""
    c, analysis = config.data, audio.Analysis(**config.features)
    audio.check(analysis)
    (train, by_frame), (test, _) = load(c.source, 'train'), load(c.source, 'test')
    for recording in (*train, *test):
        if recording.rate != analysis.rate:
            raise InputError(f'{recording.name} has {recording.rate} samples per second: set --config.features.rate={recording.rate}, or '
                             'resample the recordings')
    train, test = ([r._replace(sound=audio.levelled(r.sound)) for r in recordings] for recordings in (train, test))
    known = {segment.phone for r in train for segment in r.segments} if by_frame else {r.word for r in train}
    left_out, speakers = tuple(map(str, c.leave_out)), tuple(map(str, c.speakers))
    for what, given, there in (('leave_out', left_out, known), ('speakers', speakers, {r.speaker for r in train})):
        if not set(given) <= there or set(given) == there:
            raise InputError(f'--config.data.{what} must name some, not all, of {", ".join(sorted(there))}, got {", ".join(given)}')
    names = tuple(sorted(known - set(left_out)))
    ours = [r for r in train if r.speaker not in speakers and (by_frame or r.word in names)]
    others = [r for r in (*train, *test) if r.speaker in speakers]
    test = [r for r in test if r.speaker not in speakers]
    spectra = [audio.log_mel(r.sound, analysis) for r in tqdm(ours, desc='features', unit='recording', delay=2, leave=False)]
    heard = [spectrum[[phone not in left_out for phone in speech.frame_phones(r, analysis)]] for r, spectrum in zip(ours, spectra)]
    of = speech.Frontend(analysis, audio.scale_of(heard), names, by_frame, c.window, c.every)
    windows = of.windows(ours, spectra, name=c.source, avoid=left_out)
    without = [name for i, name in enumerate(names) if i not in set(windows.y)]
    if without:
        raise InputError(f'{c.source}: no training window is labelled {", ".join(without)}: leave these out by --config.data.leave_out')
    return windows, of.windows(test, name=f'{c.source}, test'), Speech(of, test, others)


def own_sets(of, config):
    """{name: () -> Examples}: white noise, and babble of speakers that were left out (else of the test set), as long and as loud as test
    recordings; classes and speakers that were left out.
    """
    frontend, sounds, voices = of.frontend, [r.sound for r in of.test], [r.sound for r in of.others or of.test]

    def made(name, noise):
        sequences = [frontend.sequence(audio.levelled(noise(len(sound), i))) for i, sound in enumerate(sounds)]
        x = np.concatenate([speech.cover(x[..., 0], frontend.length, frontend.length) for x in sequences])
        return data.Examples(name, x[..., None], np.zeros(len(x), np.int32))

    sets = {'white': lambda: made('white noise', audio.white_noise),
            'babble': lambda: made('babble', lambda samples, seed: audio.babble(voices, samples, seed))}
    if config.data.leave_out:
        sets['held_out'] = lambda: frontend.windows(of.test, names=tuple(map(str, config.data.leave_out)), name='held out')
    if of.others:
        sets['other_speakers'] = lambda: frontend.windows(of.others, name='other speakers')
    return sets


def picture(x, height=48):
    """Windows [N, T, F, 1] in network units -> images for grids: time to the right, frequency upwards; single frames as silhouettes."""
    x = np.asarray(x)
    if x.shape[1] > 1:
        return x.swapaxes(1, 2)[:, ::-1]
    line = x[:, 0, :, 0]
    step = max(1, line.shape[1] // 128)
    line = line[:, :line.shape[1] // step * step].reshape(len(x), -1, step).mean(2)
    levels = 1 - 2 * (np.arange(height) + 0.5) / height
    return np.where(line[:, None, :] >= levels[:, None], 1.0, -1.0)[..., None]
