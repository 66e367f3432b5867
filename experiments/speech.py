"""Put a run on speech to use: python -m experiments.speech --workdir=DIR --task=TASK [--input=FILE.wav] [--out=NAME]

  classify  what is said in --input: phones with their times, or the word, with probabilities; every energy of it as numbers
  generate  sound: a word (--word), a phoneme sequence (--phones=s,iy, --seconds for each), or whatever comes (--seconds in all)
  denoise   --input (or a test recording with --snr of white noise) after --steps of the chain from its features, held by --anchor

Without --input, classify and denoise take test recording --index. Writes OUT.wav (not classify), OUT.png (spectrograms, before and after)
and OUT.npz (features in decibels, what was found). Sound comes back from log-mel features by Griffin-Lim: phases are lost.
"""
import math
import pathlib
from functools import partial

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from ebm_jax import audio, devices
from ebm_jax.apply import speech as apply_speech
from ebm_jax.errors import InputError
from ebm_jax.types import UNLABELLED
from experiments import launch
from experiments.figures_speech import check, denoised, draw, error_of, logits_of, restore
from experiments.parts import averaged


def define(values):
    flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
    flags.DEFINE_enum('task', None, list(TASKS), 'What to do.', flag_values=values)
    flags.DEFINE_string('input', None, 'A wav or flac file of one channel at the rate of the run.', flag_values=values)
    flags.DEFINE_integer('index', 0, 'Which test recording, without --input.', 0, flag_values=values)
    flags.DEFINE_list('phones', [], 'generate: phones one after the other.', flag_values=values)
    flags.DEFINE_string('word', None, 'generate: the word.', flag_values=values)
    flags.DEFINE_float('seconds', None, 'generate: of each phone (default .15), or in all (default one window).', 0.01, flag_values=values)
    flags.DEFINE_integer('steps', None, 'Steps of the chain; default as configured.', 0, flag_values=values)
    flags.DEFINE_float('anchor', None, 'denoise: weight of |x - x_noisy|^2; default as configured.', 0.0, flag_values=values)
    flags.DEFINE_float('snr', None, 'denoise: add white noise so many decibels below the recording first.', flag_values=values)
    flags.DEFINE_integer('seed', 0, 'Seed of chains and noise.', 0, flag_values=values)
    flags.DEFINE_string('out', None, 'File name without ending; default WORKDIR/samples/TASK.', flag_values=values)
    flags.mark_flag_as_required('workdir', values)
    flags.mark_flag_as_required('task', values)


def run(values):
    for name in ('seconds', 'snr', 'anchor'):
        if values[name].value is not None and not math.isfinite(values[name].value):
            raise InputError(f'--{name} must be finite, got {values[name].value}')
    config, parts, state = restore(values.workdir)
    out = pathlib.Path(values.out or pathlib.Path(values.workdir) / 'samples' / values.task)
    out = out.with_suffix('') if out.suffix == '.wav' else out
    pictures, numbers, sound, said = TASKS[values.task](values, config, parts, averaged(state))
    out.parent.mkdir(parents=True, exist_ok=True)
    name = lambda ending: out.with_name(out.name + ending)
    written = [name('.png'), name('.npz')]
    draw(name('.png'), parts.speech.frontend, pictures)
    np.savez(name('.npz'), **numbers)
    if sound is not None:
        audio.write(name('.wav'), sound, parts.speech.frontend.analysis.rate)
        written.insert(0, name('.wav'))
    print(*said, ' and '.join(map(str, written)), sep='\n')


def given(values, parts):
    """(name, sound) that the task is about."""
    if values.input:
        return values.input, audio.levelled(audio.read(values.input, parts.speech.frontend.analysis.rate)[0])
    if values.index >= len(parts.speech.test):
        raise InputError(f'--index={values.index} is too large: there are {len(parts.speech.test)} test recordings')
    recording = parts.speech.test[values.index]
    return recording.name, recording.sound


def classify(values, config, parts, params):
    frontend, (name, sound) = parts.speech.frontend, given(values, parts)
    x = frontend.sequence(sound)
    logits = np.atleast_2d(logits_of(parts, params, [x])[0])
    probability = np.asarray(jax.nn.softmax(logits))
    best = probability.argmax(1)
    if frontend.by_frame:
        edges = np.flatnonzero(np.diff(best, prepend=-1, append=-1))
        said = [f'{name}: start, end, phone, mean probability'] + [
            f'{begin * frontend.analysis.hop:.2f} {end * frontend.analysis.hop:.2f} {frontend.names[best[begin]]} '
            f'{probability[begin:end, best[begin]].mean():.3f}' for begin, end in zip(edges, edges[1:])]
    else:
        order = np.argsort(-probability[0])[:3]
        said = [f'{name}: ' + ', '.join(f'{frontend.names[i]} {probability[0, i]:.3f}' for i in order)]
    return {name: x}, dict(logits=logits, names=frontend.names), None, said


def generate(values, config, parts, params):
    frontend, hop = parts.speech.frontend, parts.speech.frontend.analysis.hop
    unknown = [name for name in (*values.phones, *([values.word] if values.word else [])) if name not in frontend.names]
    if unknown or values.phones and not frontend.by_frame or values.word and frontend.by_frame:
        raise InputError(f'this run knows the {"phones" if frontend.by_frame else "words"} {", ".join(frontend.names)}: give them by '
                         f'--{"phones" if frontend.by_frame else "word"}')
    numbers = [frontend.names.index(name) for name in values.phones or ([values.word] if values.word else [])] or [UNLABELLED]
    default = 0.15 if values.phones else frontend.length * hop
    each = max(1, round((values.seconds or default) / hop))
    phones = np.repeat(numbers, each)
    phones = np.pad(phones, (0, max(0, frontend.length - len(phones))), mode='edge')
    labels = apply_speech.labels_along(phones, len(phones), frontend.length, 1)
    x = generated(parts, params, labels, len(phones), parts.steps(values.steps), values.seed)
    said = [f'{len(x) * hop:.2f} s of {",".join(values.phones) or values.word or "whatever comes"} after {parts.steps(values.steps)} steps']
    return {said[0]: x}, dict(features=frontend.scale.to_decibels(x[..., 0]), labels=phones), frontend.sound(x), said


def generated(parts, params, labels, frames, steps, seed):
    """A sequence [frames, F, 1] from N(0, I / SPAN^2), the labels of its windows given; see `apply.speech.generate`."""
    frontend, kernel = parts.speech.frontend, parts.kernel_at(parts.fresh.step_size)

    def one(params, key, labels):
        start_key, key = jax.random.split(key)
        start = jax.random.normal(start_key, (frames, frontend.analysis.bins, 1)) / audio.SPAN
        return apply_speech.generate(key, partial(parts.energy_fn, params), kernel, start, steps, frontend.length, labels)

    return devices.for_each(one, params, jax.random.key(seed), [np.asarray(labels)[None]], description='generating')[0]


def denoise(values, config, parts, params):
    frontend, (name, sound) = parts.speech.frontend, given(values, parts)
    clean = None
    if values.snr is not None:
        sound, clean = audio.levelled_in_noise(sound, audio.white_noise(len(sound), values.seed), values.snr)
        clean = frontend.sequence(clean)
    c = ConfigDict(config.denoise)
    c.num_steps = c.num_steps if values.steps is None else values.steps
    c.anchor = c.anchor if values.anchor is None else values.anchor
    check(c)
    before = frontend.sequence(sound)
    after, = denoised(parts, params, [before], c, seed=values.seed)
    said = [f'{name} after {c.num_steps} steps of size {c.step_size:g}, anchor {c.anchor:g}']
    pictures = {'before': before, 'after': after}
    if clean is not None:
        said.append(f'error of the log-mel spectrogram {error_of(parts, [before], [clean]):.1f} dB^2 before, '
                    f'{error_of(parts, [after], [clean]):.1f} after')
        pictures = {'clean': clean, **pictures}
    of = lambda x: frontend.scale.to_decibels(x[..., 0])
    return pictures, dict(before=of(before), after=of(after)), frontend.sound(after), said


TASKS = {'classify': classify, 'generate': generate, 'denoise': denoise}

if __name__ == '__main__':
    launch.main(run, define, __doc__)
