"""De-noising: what the energy adds to its anchor, and what helps.

    python -m experiments.studies.denoise_tables --workdir=DIR

For each noise and level, after --steps of the chain with anchors of weight --anchors:

  in noise    the anchor that accounts for the noise, and the energy of p(x)
  alone       this anchor without the energy
  untrained   with the energy of the network before training
  given word  with the energy of p(x|y), y as the model recognises it in the noise (words only)
  afterwards  `alone`, and then five steps of the energy with a plain anchor to what it gave
  plain       the anchor |x - x_noisy|^2, and the energy of p(x)

beside the noisy input, spectral gating by noisereduce, and the clean recordings, turned into
features and back; an anchor of 0 is tried for `plain` alone. Measured: the error of the log-mel
spectrogram (dB^2); recognition by the model and by a support vector machine that is fitted to the
training windows; STOI (Taal et al. 2011, by
pystoi) of the sound, over all recordings of a case one after the other. --speakers=unheard takes
recordings of the speakers that training left out. Writes WORKDIR/denoise_SPEAKERS.txt and .json;
rerunning the command continues.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from sklearn.pipeline import Pipeline
from tqdm.auto import tqdm

from ebm_jax import audio
from ebm_jax.data.recordings import Recording
from ebm_jax.data.windows import Frontend
from ebm_jax.errors import InputError
from ebm_jax.evaluate import samples
from ebm_jax.images import as_pixels
from ebm_jax.process import exclusive_lock
from ebm_jax.record import write_json
from ebm_jax.train import init_state
from experiments.common import launch, runs, settings
from experiments.common.experiment import Experiment
from experiments.common.groups import Denoise
from experiments.evaluations.speech_quality import (
    LEVELS,
    NOISES,
    Cases,
    Sequences,
    cases_of,
    check,
    chosen,
    compared,
    denoised,
    gated,
    hits,
    logits_of,
    share,
)
from experiments.studies import arms

KINDS = ('in noise', 'alone', 'untrained', 'given word', 'afterwards', 'plain')
MEASURED = ('mse', 'accuracy', 'machine', 'stoi')
AFTERWARDS = {'num_steps': 5, 'anchor': 0.5, 'percentile': 0.0, 'noise': 0.0}


class Cleaned(NamedTuple):
    """What a way makes of all noisy recordings."""

    sequences: Sequences
    sounds: Sequences


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
    flags.DEFINE_list('steps', ['20', '100'], 'Numbers of steps.', flag_values=values)
    flags.DEFINE_list('anchors', ['0', '0.5', '2'], 'Weights of the anchor.', flag_values=values)
    flags.DEFINE_list(
        'levels',
        [str(level) for level in LEVELS],
        'Signal-to-noise ratios in dB.',
        flag_values=values,
    )
    flags.DEFINE_float(
        'step_size', None, 'Of the chain; default as configured.', 1e-9, flag_values=values
    )
    flags.DEFINE_integer(
        'recordings', None, 'Test recordings; default as configured.', 1, flag_values=values
    )
    flags.DEFINE_list('ways', list(KINDS), 'Which ways of the chain.', flag_values=values)
    flags.DEFINE_enum(
        'speakers', 'heard', ['heard', 'unheard'], 'Whose recordings.', flag_values=values
    )
    flags.mark_flag_as_required('workdir', values)


def stoi(clean: Sequences, sounds: Sequences, rate: int) -> float:
    """Short-time objective intelligibility of sounds, one after the other, each as long as its
    clean one: at most 1."""
    pairs = [(x, np.pad(y[: len(x)], (0, max(0, len(x) - len(y))))) for x, y in zip(clean, sounds)]
    measured, heard = (np.concatenate(part) for part in zip(*pairs))
    return float(audio.package('pystoi').stoi(measured, heard, rate))


def machine_logits(judge: Pipeline, frontend: Frontend, sequences: Sequences) -> list[np.ndarray]:
    """As `recording_logits`, by a support vector machine on windows: [T, C], or their sum [C]."""
    found = [judge.decision_function(as_pixels(frontend.views(x))) for x in sequences]
    if len(judge.classes_) == 2:  # one score, of the second class
        found = [np.stack([-scores, scores], 1) for scores in found]
    return found if frontend.by_frame else [scores.sum(0) for scores in found]


def rows_of(
    experiment: Experiment, params: Any, cleaned: Cleaned, given: Cases, judge: Pipeline
) -> list[dict[str, Any]]:
    """A row for each case: error, recognition by the model and the machine, STOI."""
    frontend, recordings = experiment.model.speech, list(given.recordings) * len(given.cases)
    logits = machine_logits(judge, frontend, cleaned.sequences)
    counts = hits(frontend, logits, recordings)
    results = compared(experiment.model, params, cleaned.sequences, given)
    return [
        {
            'noise': noise,
            'level': level,
            'mse': error,
            'accuracy': accuracy,
            'machine': share(counts[part]),
            'stoi': stoi(given.clean_sounds[part], cleaned.sounds[part], frontend.analysis.rate),
        }
        for (noise, level), (error, accuracy), part in zip(given.cases, results, given.parts())
    ]


def afterwards(c: Denoise) -> Denoise:
    """The last steps of the way `afterwards`."""
    last = settings.copy(c)
    settings.update(last, AFTERWARDS)
    return last


def ways_of(
    experiment: Experiment, params: Any, given: Cases, c: Denoise, kinds: Sequence[str]
) -> dict[str, Callable[[], Cleaned]]:
    """The ways of the chain with the settings c."""
    model, frontend = experiment.model, experiment.model.speech
    found: dict[str, Callable[[], Cleaned]] = {}

    @functools.cache  # `afterwards` begins where it ends
    def alone():
        return denoised(model, params, given.before, c, prior=False)

    def features(kind):
        if kind == 'alone':
            return alone()
        if kind == 'afterwards':
            return denoised(model, params, alone(), afterwards(c))
        own, used, labels = settings.copy(c), params, None
        if kind == 'plain':
            own.percentile = 0.0
        if kind == 'untrained':
            random = dataclasses.replace(experiment.recipe, init_params=None)
            used = init_state(jax.random.key(1), random).params
        if kind == 'given word':
            labels = np.argmax(np.stack(logits_of(model, params, given.before)), 1)
        return denoised(model, used, given.before, own, labels=labels)

    def way(kind):
        after = features(kind)
        return Cleaned(after, [frontend.sound(x) for x in after])

    for kind in kinds:
        if kind == 'given word' and frontend.by_frame:
            continue  # labels are those of frames
        if c.anchor or kind == 'plain':
            found[kind] = functools.partial(way, kind)
    return found


def run(values: Any) -> None:
    """De-noise in every way, write and print."""
    steps = launch.numbers(values, 'steps', int, low=1)
    anchors, levels = launch.numbers(values, 'anchors', low=0), launch.numbers(values, 'levels')
    if unknown := [kind for kind in values.ways if kind not in KINDS]:
        raise InputError(f'--ways={unknown[0]} is not one of {", ".join(KINDS)}')
    _, experiment, state = runs.restore(values.workdir)
    speech, params = experiment.speech, state.eval_params
    if speech is None:
        raise InputError(
            f'{values.workdir} was not trained on recordings: give a run on recordings'
        )
    if experiment.model.classifier is None:
        raise InputError(
            f'{values.workdir} is no classifier, which recognises de-noised sound: give a run '
            'of JEM or ST-JEM'
        )
    audio.package('pystoi')
    pool = speech.test if values.speakers == 'heard' else speech.others
    frontend: Frontend = speech.frontend
    recordings: list[Recording] = chosen(
        frontend, pool, values.recordings or speech.denoise.recordings
    )
    if not recordings:
        raise InputError(
            f'{values.workdir} left no speaker out of training: --speakers=heard, or train with '
            '--config.data.speakers'
        )
    given = cases_of(frontend, pool, recordings, levels)

    def by_gating():
        sounds = gated(given.sounds, frontend.analysis.rate)
        return Cleaned([frontend.sequence(x) for x in sounds], sounds)

    ways: dict[tuple[str, Any, Any], Callable[[], Cleaned]] = {
        ('clean', None, None): lambda: Cleaned(
            given.clean, [frontend.sound(x) for x in given.clean]
        ),
        ('noisy', None, None): lambda: Cleaned(given.before, given.sounds),
        ('gated', None, None): by_gating,
    }
    for anchor, n in itertools.product(anchors, steps):
        c = settings.copy(speech.denoise)
        c.num_steps, c.anchor = n, anchor
        c.step_size = values.step_size or c.step_size
        check(c)
        check(afterwards(c))
        for kind, make in ways_of(experiment, params, given, c, values.ways).items():
            ways[kind, n, anchor] = make
    if len(ways) == 3:
        raise InputError(
            f'nothing to try: --ways={",".join(values.ways)} with --anchors='
            f'{",".join(values.anchors)} leaves no chain'
        )
    judge = functools.cache(lambda: samples.fit_reference_classifier(experiment.train))
    file = pathlib.Path(values.workdir) / f'denoise_{values.speakers}.json'
    asked = {
        'step': int(state.step),
        'recordings': len(recordings),
        'levels': levels,
        'settings': settings.to_dict(speech.denoise),
        'step_size': values.step_size,
    }
    with exclusive_lock(values.workdir):
        found = arms.read(file) or {'asked': asked, 'ways': {}}
        arms.check_same(file, found, {'asked': asked})
        for (kind, n, anchor), make in tqdm(ways.items(), desc='de-noising', unit='way'):
            key = f'{kind}, {n}, {anchor}'
            if key not in found['ways']:
                found['ways'][key] = [
                    {'way': kind, 'steps': n, 'anchor': anchor, **row}
                    for row in rows_of(experiment, params, make(), given, judge())
                ]
                write_json(file, found)
    rows = [
        {**row, **arms.numbers({name: row[name] for name in MEASURED})}
        for way in ways
        for row in found['ways'][', '.join(map(str, way))]
    ]
    lines = table(rows, levels, len(recordings), values.speakers)
    file.with_suffix('.txt').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))


def table(rows: list[dict[str, Any]], levels: list[float], num: int, speakers: str) -> list[str]:
    """One line for each way of each noise: error, recognition by the model and by the machine,
    STOI, at each level."""
    header = ''.join(f'{f"{level:g} dB":>26}' for level in levels)
    lines = [
        f'{num} recordings of {speakers} speakers; error in dB^2 / recognised by the model / by a '
        'support vector machine / STOI',
        f'{"noise":<8}{"way":<12}{"steps":>6}{"anchor":>8}{header}',
    ]
    for noise in NOISES:
        by_way: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in rows:
            if row['noise'] == noise:
                by_way.setdefault((row['way'], row['steps'], row['anchor']), []).append(row)
        for (way, *numbers), found in by_way.items():
            steps, anchor = ('-' if value is None else f'{value:g}' for value in numbers)
            cells = ''.join(
                f'{row["mse"]:>8.1f} / {row["accuracy"]:.2f} / {row["machine"]:.2f} / '
                f'{row["stoi"]:.2f}'
                for row in found
            )
            lines.append(f'{noise:<8}{way:<12}{steps:>6}{anchor:>8}{cells}')
    return lines


if __name__ == '__main__':
    launch.main(run, define, __doc__)
