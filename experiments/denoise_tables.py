"""De-noising against the number of steps and the anchor: python -m experiments.denoise_tables --workdir=DIR

For each noise and level, the error of the log-mel spectrogram (dB^2) and the model's own accuracy after --steps of the chain, held by
--anchors: the one that knows of noise ('in noise'), the plain one |x - x_noisy|^2, and the first without the energy ('alone'); beside
what went in and spectral gating. Writes WORKDIR/denoise.txt and denoise.json.
"""
import itertools
import math
import pathlib
from functools import partial

from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from ebm_jax.errors import InputError
from ebm_jax.record import write_json
from experiments import launch
from experiments.figures_speech import LEVELS, NOISES, accuracy_of, cases_of, check, chosen, compared, denoised, gated, restore
from experiments.parts import averaged

KINDS = ('in noise', 'plain', 'alone')


def define(values):
    flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
    flags.DEFINE_list('steps', ['20', '100'], 'Numbers of steps.', flag_values=values)
    flags.DEFINE_list('anchors', ['0', '0.5', '2'], 'Weights of |x - x_noisy|^2.', flag_values=values)
    flags.DEFINE_list('levels', [str(level) for level in LEVELS], 'Signal-to-noise ratios in dB.', flag_values=values)
    flags.DEFINE_float('step_size', None, 'Of the chain; default as configured.', 1e-9, flag_values=values)
    flags.DEFINE_integer('recordings', None, 'Test recordings; default as configured.', 1, flag_values=values)
    flags.mark_flag_as_required('workdir', values)


def numbers(values, name, kind, low):
    try:
        found = [kind(text) for text in values[name].value]
    except ValueError as error:
        raise InputError(f'--{name} must be numbers, got {",".join(values[name].value)}') from error
    if not found or not all(map(math.isfinite, found)) or low is not None and min(found) < low:
        raise InputError(f'--{name} must be numbers{"" if low is None else f" of at least {low}"}, got {",".join(values[name].value)}')
    return found


def run(values):
    steps, anchors, levels = numbers(values, 'steps', int, 1), numbers(values, 'anchors', float, 0), numbers(values, 'levels', float, None)
    config, parts, state = restore(values.workdir)
    params, recordings = averaged(state), chosen(parts, values.recordings or config.denoise.recordings)
    frontend, given = parts.speech.frontend, cases_of(parts, recordings, levels)
    ways = {('noisy', None, None): lambda: given.before, ('gated', None, None): lambda: gated(frontend, given.sounds)}
    for kind, anchor, n in itertools.product(KINDS, anchors, steps):
        if anchor or kind == 'plain':   # without an anchor all kinds are one
            c = ConfigDict({**config.denoise, 'num_steps': n, 'anchor': anchor})
            c.step_size = values.step_size or c.step_size
            c.percentile = 0.0 if kind == 'plain' else c.percentile
            check(c)
            ways[kind, n, anchor] = partial(denoised, parts, params, given.before, c, prior=kind != 'alone')
    rows = []
    for (kind, n, anchor), make in tqdm(ways.items(), desc='de-noising', unit='way'):
        rows += [{'noise': noise, 'level': level, 'way': kind, 'steps': n, 'anchor': anchor, 'mse': error, 'accuracy': accuracy}
                 for (noise, level), (error, accuracy) in zip(given.cases, compared(parts, params, make(), given))]
    workdir = pathlib.Path(values.workdir)
    write_json(workdir / 'denoise.json', rows)
    lines = table(rows, levels, len(recordings), accuracy_of(parts, params, [frontend.sequence(r.sound) for r in recordings], recordings))
    (workdir / 'denoise.txt').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))


def table(rows, levels, num, clean):
    """One line for each way of each noise, error / accuracy at each level."""
    lines = [f'{num} test recordings; error in dB^2 / accuracy (clean: {clean:.3f})',
             f'{"noise":<8}{"way":<10}{"steps":>6}{"anchor":>8}' + ''.join(f'{level:>14g} dB' for level in levels)]
    for noise in NOISES:
        of_noise = [row for row in rows if row['noise'] == noise]
        named = lambda row: (row['way'], row['steps'], row['anchor'])
        for way in dict.fromkeys(map(named, of_noise)):
            cells = [row for row in of_noise if named(row) == way]
            steps, anchor = ('-' if value is None else f'{value:g}' for value in way[1:])
            lines.append(f'{noise:<8}{way[0]:<10}{steps:>6}{anchor:>8}'
                         + ''.join(f'{row["mse"]:>9.1f} / {row["accuracy"]:.3f}' for row in cells))
    return lines


if __name__ == '__main__':
    launch.main(run, define, __doc__)
