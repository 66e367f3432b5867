"""How healthy the chains of a run are: python -m experiments.chains --workdir=DIR [--steps=1000] [--num=64]

Long fresh chains, without the run's transitions: their energy along the way, drift against noise, what a Metropolis test would
accept, ages in the buffer, effective sample size and split R-hat; and whether samples stay near the data after 1, 10 and 100 times
the steps of training.
Writes WORKDIR/chains.txt, chains.png and samples/after_N_steps.png; figures in summary.json under 'chains'.
"""
import pathlib

import jax
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from ebm_jax import devices
from ebm_jax.errors import InputError
from ebm_jax.evaluate import chains, distance, extractor
from ebm_jax.record import image_grid, save_grid, update_summary
from experiments import launch
from experiments.parts import averaged, noise_scale_of
from experiments.telemetry import age_figures, ages_of, chain_settings, labels_of


def define(values):
    flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
    flags.DEFINE_integer('steps', 1000, 'Steps of the long chains.', 16, flag_values=values)
    flags.DEFINE_integer('num', 64, 'How many there are.', 4, flag_values=values)
    flags.DEFINE_list('times', ['1', '10', '100'], 'Multiples of the steps of training after which samples are compared with the data.',
                      flag_values=values)
    flags.DEFINE_integer('samples', 500, 'How many samples that takes.', 10, flag_values=values)
    flags.DEFINE_integer('seed', 0, 'Seed of the chains.', flag_values=values)
    flags.mark_flag_as_required('workdir', values)


def run(values):
    if not values.times or not all(time.isdecimal() and int(time) > 0 for time in values.times):
        raise InputError(f'--times must be whole numbers above 0, got {",".join(values.times)}')
    config, parts, state = launch.restore(values.workdir)
    if parts.energy_fn is None:
        raise InputError(f'{values.workdir} has no energy, so no chains: give a run of a method with one')
    workdir, params, key = pathlib.Path(values.workdir), averaged(state), jax.random.key(values.seed)
    traces = long_chains(parts, params, key, values)
    found = {name: float(np.median(traces[name])) for name in ('drift_to_noise', 'acceptance', 'clipped', 'saturated')}
    found['mixing'] = chains.mixing({name: traces[name] for name in chains.STATISTICS})
    steps = chain_settings(config).num_steps
    found['frechet_after'] = drift(workdir, parts, params, key, [int(time) * steps for time in values.times], values.samples)
    ages = ages_of(state)
    if ages is not None:
        found['age'] = age_figures(ages)
    plot(workdir / 'chains.png', traces, ages)
    update_summary(workdir, {'chains': found})
    lines = report(found, values, steps)
    (workdir / 'chains.txt').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))


def long_chains(parts, params, key, values):
    labels, c = labels_of(parts, values.num), parts.fresh
    start_key, key = jax.random.split(key)
    starts = devices.for_each(parts.start, params, start_key, [labels], description='starts')
    noise = noise_scale_of(c)
    if noise <= 0:
        raise InputError('the chains of this run have no noise (config.fresh.noise is 0): there is nothing to diagnose')
    return chains.walk(key, parts.energy_fn, params, parts.kernel_at(c.step_size), starts, labels, values.steps, step_size=c.step_size,
                       noise=noise)


def drift(workdir, parts, params, key, lengths, n):
    """{steps: Frechet distance of samples after so many}; their grids in samples/."""
    by = extractor.of_classifier(parts.train, workdir / 'extractor.npz')
    reference, _ = distance.reference_and_known_cases(parts.train, parts.test, n)
    measure, found = distance.distances_to(by.features(reference), halves=20), {}
    for steps in lengths:
        images = parts.draw(key, params, labels_of(parts, n), steps)
        save_grid(workdir / 'samples' / f'after_{steps}_steps.png', image_grid(parts.picture(images[:100]), 10))
        found[str(steps)] = measure(by.features(images))['frechet']['value']
    return found


def plot(path, traces, ages):
    names = {'energy': 'E(x)', 'drift_to_noise': 'drift / noise', 'acceptance': 'acceptance of a Metropolis test'}
    figure = Figure(figsize=(13, 3), layout='tight')
    axes = figure.subplots(1, len(names) + (ages is not None))
    for axis, (name, title) in zip(axes, names.items()):
        low, middle, high = np.percentile(traces[name], (10, 50, 90), axis=0)
        axis.fill_between(np.arange(len(middle)), low, high, alpha=0.3)
        axis.plot(middle)
        axis.set(title=title, xlabel='step')
    if ages is not None:
        axes[-1].hist(ages, bins=40)
        axes[-1].set(title='ages in the buffer', xlabel='rounds', yscale='log')
    figure.savefig(path, dpi=90)


def report(found, values, steps):
    lines = [f'{values.num} fresh chains of {values.steps} steps (training: {steps}); medians over chains and steps',
             f'drift / noise {found["drift_to_noise"]:.3g}, a Metropolis test would accept {found["acceptance"]:.1%}, clipped '
             f'{found["clipped"]:.1%}, at the bounds {found["saturated"]:.1%}',
             f'{"statistic, later half":<24}{"effective samples":>18}{"split R-hat":>13}   of {values.num * -(-values.steps // 2):,}']
    lines += [f'{name:<24}{row["ess"]:>18.1f}{row["r_hat"]:>13.3f}' for name, row in found['mixing'].items()]
    if 'age' in found:
        lines.append('ages in the buffer, rounds: ' + ', '.join(f'{name} {age:.0f}' for name, age in found['age'].items()))
    lines.append('Frechet distance to the data after ' + ', '.join(f'{n} steps: {d:.3g}' for n, d in found['frechet_after'].items()))
    return lines


if __name__ == '__main__':
    launch.main(run, define, __doc__)
