"""De-noising against the number of steps and the anchor.

    python -m experiments.studies.denoise_tables --workdir=DIR

For each noise and level, the error of the log-mel spectrogram (dB^2) and the model's own accuracy
after --steps of the chain with anchors of weight --anchors: the anchor that accounts for the noise
('in noise'), the plain one |x - x_noisy|^2 ('plain'), and the first one without the energy
('alone'); compared with the noisy input and with spectral gating. Writes WORKDIR/denoise.txt and
denoise.json.
"""

import itertools
import math
import pathlib
from functools import partial
from typing import Any

from absl import flags
from tqdm.auto import tqdm

from ebm_jax.errors import InputError
from ebm_jax.record import write_json
from experiments.common import launch, runs, settings
from experiments.evaluations.speech_quality import (
    LEVELS,
    NOISES,
    cases_of,
    check,
    chosen,
    compared,
    denoised,
    gated,
    recognised,
)

KINDS = ('in noise', 'plain', 'alone')


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
    flags.DEFINE_list('steps', ['20', '100'], 'Numbers of steps.', flag_values=values)
    flags.DEFINE_list(
        'anchors', ['0', '0.5', '2'], 'Weights of |x - x_noisy|^2.', flag_values=values
    )
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
    flags.mark_flag_as_required('workdir', values)


def numbers(values: Any, name: str, kind: type, low: float | None) -> list[float]:
    """The numbers of a flag, of at least `low`. Raises: InputError."""
    given, least = ','.join(values[name].value), '' if low is None else f' of at least {low}'
    try:
        found = [kind(text) for text in values[name].value]
    except ValueError as error:
        raise InputError(f'--{name} must be numbers, got {given}') from error
    if not found or not all(map(math.isfinite, found)) or low is not None and min(found) < low:
        raise InputError(f'--{name} must be numbers{least}, got {given}')
    return found


def run(values: Any) -> None:
    """De-noise in every way, write and print."""
    steps = numbers(values, 'steps', int, 1)
    anchors, levels = numbers(values, 'anchors', float, 0), numbers(values, 'levels', float, None)
    _, experiment, state = runs.restore(values.workdir)
    speech, model, params = experiment.speech, experiment.model, state.eval_params
    if speech is None:
        raise InputError(
            f'{values.workdir} was not trained on recordings: give a run on recordings'
        )
    recordings = chosen(speech, values.recordings or speech.denoise.recordings)
    given = cases_of(experiment, recordings, levels)
    ways: dict[tuple[str, Any, Any], Any] = {
        ('noisy', None, None): lambda: given.before,
        ('gated', None, None): lambda: gated(speech.frontend, given.sounds),
    }
    for kind, anchor, n in itertools.product(KINDS, anchors, steps):
        if anchor or kind == 'plain':  # without an anchor all kinds are one
            c = settings.copy(speech.denoise)
            c.num_steps, c.anchor = n, anchor
            c.step_size = values.step_size or c.step_size
            c.percentile = 0.0 if kind == 'plain' else c.percentile
            check(c)
            prior = kind != 'alone'
            ways[kind, n, anchor] = partial(denoised, model, params, given.before, c, prior=prior)
    rows = []
    for (kind, n, anchor), make in tqdm(ways.items(), desc='de-noising', unit='way'):
        results = compared(model, params, make(), given)
        for (noise, level), (error, accuracy) in zip(given.cases, results):
            row = {'noise': noise, 'level': level, 'way': kind, 'steps': n, 'anchor': anchor}
            rows.append(row | {'mse': error, 'accuracy': accuracy})
    workdir = pathlib.Path(values.workdir)
    write_json(workdir / 'denoise.json', rows)
    clean = [speech.frontend.sequence(r.sound) for r in recordings]
    accuracy = recognised(model, params, clean, recordings)
    lines = table(rows, levels, len(recordings), accuracy)
    (workdir / 'denoise.txt').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))


def table(rows: list[dict[str, Any]], levels: list[float], num: int, clean: float) -> list[str]:
    """One line for each way of each noise, error / accuracy at each level."""
    header = ''.join(f'{level:>14g} dB' for level in levels)
    lines = [
        f'{num} test recordings; error in dB^2 / accuracy (clean: {clean:.3f})',
        f'{"noise":<8}{"way":<10}{"steps":>6}{"anchor":>8}{header}',
    ]
    for noise in NOISES:
        by_way: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in rows:
            if row['noise'] == noise:
                by_way.setdefault((row['way'], row['steps'], row['anchor']), []).append(row)
        for (way, *numbers), found in by_way.items():
            steps, anchor = ('-' if value is None else f'{value:g}' for value in numbers)
            cells = ''.join(f'{row["mse"]:>9.1f} / {row["accuracy"]:.3f}' for row in found)
            lines.append(f'{noise:<8}{way:<10}{steps:>6}{anchor:>8}{cells}')
    return lines


if __name__ == '__main__':
    launch.main(run, define, __doc__)
