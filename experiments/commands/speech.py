"""Put a run on speech to use: python -m experiments.speech --workdir=DIR --task=TASK
[--input=FILE.wav] [--out=NAME]

  classify  what is said in --input: phones with their times, or the word, with probabilities; all
            logits (negative energies) as numbers
  generate  sound: a word (--word), a phoneme sequence (--phones=s,iy, --seconds for each), or
            unconditional (--seconds in total)
  denoise   --input (or a test recording with --snr of white noise) after --steps of the chain from
            its features, with weight --anchor on the distance to them

classify needs a classifier (JEM, ST-JEM), denoise an energy. --workdir is a run or, for tasks that
need no test recording, an exported model. Without --input, classify and denoise take test recording
--index. Writes OUT.wav (not classify), OUT.png (spectrograms, before and after) and OUT.npz
(features in decibels, what was found). Sound is reconstructed from log-mel features by Griffin-Lim:
phases are lost.
"""

import math
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from ebm_jax import audio
from ebm_jax.apply import sequences
from ebm_jax.data.windows import Frontend
from ebm_jax.errors import InputError
from ebm_jax.trained import TrainedModel
from ebm_jax.types import UNCONDITIONAL
from experiments.common import launch, runs, settings
from experiments.common.cores import use_all_cores
from experiments.common.groups import Denoise
from experiments.evaluations.speech_quality import check, denoised, spectral_error, spectrograms


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
    flags.DEFINE_enum('task', None, list(TASKS), 'What to do.', flag_values=values)
    flags.DEFINE_string(
        'input',
        None,
        'A mono wav or flac file at the sampling rate of the run.',
        flag_values=values,
    )
    flags.DEFINE_integer(
        'index', 0, 'Which test recording, without --input.', 0, flag_values=values
    )
    flags.DEFINE_list('phones', [], 'generate: phones one after the other.', flag_values=values)
    flags.DEFINE_string('word', None, 'generate: the word.', flag_values=values)
    flags.DEFINE_float(
        'seconds',
        None,
        'generate: seconds of each phone (default .15), or in total (default one window).',
        0.01,
        flag_values=values,
    )
    flags.DEFINE_integer(
        'steps', None, 'Steps of the chain; default as configured.', 0, flag_values=values
    )
    flags.DEFINE_float(
        'anchor',
        None,
        'denoise: weight of |x - x_noisy|^2; default as configured.',
        0.0,
        flag_values=values,
    )
    flags.DEFINE_float(
        'snr',
        None,
        'denoise: first add white noise at this signal-to-noise ratio in dB.',
        flag_values=values,
    )
    flags.DEFINE_integer('seed', 0, 'Seed of chains and noise.', 0, flag_values=values)
    flags.DEFINE_string(
        'out', None, 'File name without ending; default WORKDIR/samples/TASK.', flag_values=values
    )
    flags.mark_flag_as_required('workdir', values)
    flags.mark_flag_as_required('task', values)


class Inputs(NamedTuple):
    """What a task works on."""

    opened: TrainedModel
    frontend: Frontend
    denoise: Denoise
    name: str  # of the recording
    sound: np.ndarray | None  # float32 [n], at one level


class Result(NamedTuple):
    """What a task found."""

    pictures: dict[str, np.ndarray]  # {title: sequence [T, F, 1]}
    numbers: dict[str, Any]
    sound: np.ndarray | None
    lines: list[str]


def run(values: Any) -> None:
    """Do the task, write, and print."""
    for name in ('seconds', 'snr', 'anchor'):
        if values[name].value is not None and not math.isfinite(values[name].value):
            raise InputError(f'--{name} must be finite, got {values[name].value}')
    inputs = prepare(values)
    out = pathlib.Path(values.out or pathlib.Path(values.workdir) / 'samples' / values.task)
    out = out.with_suffix('') if out.suffix == '.wav' else out
    result = TASKS[values.task](values, inputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    written = [out.with_name(out.name + ending) for ending in ('.png', '.npz')]
    spectrograms(written[0], inputs.frontend, result.pictures)
    np.savez(written[1], **result.numbers)
    if result.sound is not None:
        written.insert(0, out.with_name(out.name + '.wav'))
        audio.write(written[0], result.sound, inputs.frontend.analysis.rate)
    print(*result.lines, ' and '.join(map(str, written)), sep='\n')


def prepare(values: Any) -> Inputs:
    """The model, and the recording that the task is about. Raises: InputError."""
    needs_recording = values.task != 'generate' and not values.input
    if needs_recording:
        config, module = runs.read_run(pathlib.Path(values.workdir))
        use_all_cores(config)
    else:
        use_all_cores()
    opened = runs.open_model(values.workdir)
    frontend = opened.model.speech
    if frontend is None:
        raise InputError(
            f'{values.workdir} was not trained on recordings: give a run on recordings'
        )
    if values.task == 'classify' and opened.model.classifier is None:
        raise InputError('this model is not a classifier, and recognises nothing: use another run')
    if values.task == 'denoise' and not opened.model.has_energy:
        raise InputError('this model has no energy, and removes no noise: it has the task generate')
    name, sound = '', None
    if needs_recording:
        test = runs.build(module, config).speech.test
        if values.index >= len(test):
            raise InputError(
                f'--index={values.index} is too large: there are {len(test)} test recordings'
            )
        name, sound = test[values.index].name, test[values.index].sound
    elif values.input:
        sound, _ = audio.read(values.input, frontend.analysis.rate)
        name, sound = values.input, audio.levelled(sound)
    config = opened.settings.get('config', {})
    denoise = Denoise()
    settings.update(denoise, config.get('denoise', {}))
    return Inputs(opened, frontend, denoise, name, sound)


def classify(values: Any, inputs: Inputs) -> Result:
    """What is said."""
    frontend, opened = inputs.frontend, inputs.opened
    x = frontend.sequence(inputs.sound)
    (found,) = sequences.recording_logits(
        opened.model.classifier.logits, opened.params, frontend, [x]
    )
    logits = np.atleast_2d(found)
    probability = np.asarray(jax.nn.softmax(logits))
    if frontend.by_frame:
        lines = phones_said(inputs.name, frontend, probability)
    else:
        order = np.argsort(-probability[0])[:3]
        words = [f'{frontend.names[i]} {probability[0, i]:.3f}' for i in order]
        lines = [f'{inputs.name}: {", ".join(words)}']
    return Result({inputs.name: x}, {'logits': logits, 'names': frontend.names}, None, lines)


def phones_said(name: str, frontend: Frontend, probability: np.ndarray) -> list[str]:
    """A line for each phone, with its times."""
    best, hop = probability.argmax(1), frontend.analysis.hop
    edges = np.flatnonzero(np.diff(best, prepend=-1, append=-1))
    lines = [f'{name}: start, end, phone, mean probability']
    for begin, end in zip(edges, edges[1:]):
        phone = best[begin]
        lines.append(
            f'{begin * hop:.2f} {end * hop:.2f} {frontend.names[phone]} '
            f'{probability[begin:end, phone].mean():.3f}'
        )
    return lines


def generate(values: Any, inputs: Inputs) -> Result:
    """Sound of a word, of phones, or unconditional."""
    frontend, model = inputs.frontend, inputs.opened.model
    hop = frontend.analysis.hop
    wanted = [*values.phones, *([values.word] if values.word else [])]
    unknown = [name for name in wanted if name not in frontend.names]
    wrong_kind = values.word if frontend.by_frame else values.phones
    kind, flag = ('phones', 'phones') if frontend.by_frame else ('words', 'word')
    if unknown or wrong_kind:
        raise InputError(
            f'this run knows the {kind} {", ".join(frontend.names)}: give them by --{flag}'
        )
    if not (wanted or model.unconditional):
        raise InputError(
            f'this model has one energy for each of {", ".join(frontend.names)}, and none for all: '
            f'give --{flag}'
        )
    if wanted and not model.class_conditional:
        raise InputError(f'this model has one energy for all {kind}: leave --{flag} out')
    numbers = [frontend.names.index(name) for name in values.phones or wanted] or [UNCONDITIONAL]
    default = 0.15 if values.phones else frontend.length * hop
    each = max(1, round((values.seconds or default) / hop))
    phones, steps = np.repeat(numbers, each), model.num_steps(values.steps)
    key = jax.random.key(values.seed)
    x = inputs.opened.generate_features(key, len(phones), phones, steps)
    said = ','.join(values.phones) or values.word or 'unconditional sound'
    line = f'{len(x) * hop:.2f} s of {said} after {steps} steps'
    features = frontend.scale.to_decibels(x[..., 0])
    labels = np.pad(phones, (0, len(x) - len(phones)), mode='edge')
    return Result({line: x}, {'features': features, 'labels': labels}, frontend.sound(x), [line])


def denoise(values: Any, inputs: Inputs) -> Result:
    """A recording after the chain from its features."""
    frontend, sound, clean = inputs.frontend, inputs.sound, None
    if values.snr is not None:
        noise = audio.white_noise(len(sound), values.seed)
        sound, clean_sound = audio.levelled_in_noise(sound, noise, values.snr)
        clean = frontend.sequence(clean_sound)
    c = settings.copy(inputs.denoise)
    c.num_steps = c.num_steps if values.steps is None else values.steps
    c.anchor = c.anchor if values.anchor is None else values.anchor
    check(c)
    before = frontend.sequence(sound)
    model, params = inputs.opened.model, inputs.opened.params
    (after,) = denoised(model, params, [before], c, seed=values.seed)
    lines = [
        f'{inputs.name} after {c.num_steps} steps of size {c.step_size:g}, anchor {c.anchor:g}'
    ]
    pictures = {'before': before, 'after': after}
    if clean is not None:
        errors = [spectral_error(frontend, [x], [clean]) for x in (before, after)]
        lines.append(
            f'error of the log-mel spectrogram {errors[0]:.1f} dB^2 before, {errors[1]:.1f} after'
        )
        pictures = {'clean': clean, **pictures}
    numbers = {
        name: frontend.scale.to_decibels(x[..., 0])
        for name, x in (('before', before), ('after', after))
    }
    return Result(pictures, numbers, frontend.sound(after), lines)


TASKS = {'classify': classify, 'generate': generate, 'denoise': denoise}

if __name__ == '__main__':
    launch.main(run, define, __doc__)
