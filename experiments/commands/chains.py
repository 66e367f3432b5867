"""How healthy the chains of a run are.

    python -m experiments.chains --workdir=DIR [--steps=1000] [--num=64]

Long fresh chains, without the run's transitions: their energy along the way, drift against noise,
what a Metropolis test would accept, ages in the buffer, effective sample size and split R-hat; and
whether samples stay near the data after 1, 10 and 100 times the steps of training.

Writes WORKDIR/chains.txt, chains.png and samples/after_N_steps.png; metrics in summary.json under
'chains'.
"""

import pathlib
from typing import Any

import jax
import numpy as np
from absl import flags
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from ebm_jax import batching
from ebm_jax.errors import ChainsDiverged, InputError
from ebm_jax.evaluate import distance, extractor, figures, mixing
from ebm_jax.images import Grid, save_grid
from ebm_jax.record import update_summary
from ebm_jax.types import Key, Params
from experiments.common import launch, runs
from experiments.common.experiment import Experiment
from experiments.common.telemetry import age_percentiles, buffer_ages


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
    flags.DEFINE_integer('steps', 1000, 'Steps of the long chains.', 16, flag_values=values)
    flags.DEFINE_integer('num', 64, 'How many there are.', 4, flag_values=values)
    flags.DEFINE_list(
        'times',
        ['1', '10', '100'],
        'Multiples of the steps of training after which samples are compared with the data.',
        flag_values=values,
    )
    flags.DEFINE_integer('samples', 500, 'How many samples that takes.', 10, flag_values=values)
    flags.DEFINE_integer('seed', 0, 'Seed of the chains.', flag_values=values)
    flags.mark_flag_as_required('workdir', values)


def run(values: Any) -> None:
    """Run long chains, write and print."""
    times = launch.numbers(values, 'times', int, low=1)
    _, experiment, state = runs.restore(values.workdir)
    if experiment.chains is None:
        raise InputError(
            f'{values.workdir} has no chains in x that training keeps: give a run of a method with '
            'them'
        )
    workdir, params = pathlib.Path(values.workdir), state.eval_params
    key, steps = jax.random.key(values.seed), experiment.chains.num_steps
    traces = long_chains(experiment, params, key, values.num, values.steps)
    names = ('drift_to_noise', 'acceptance', 'clipped', 'saturated')
    found: dict[str, Any] = {
        name: float(np.median(traces[name])) for name in names if name in traces
    }
    found['mixing'] = mixing.mixing({name: traces[name] for name in mixing.STATISTICS})
    ages = buffer_ages(state)
    if ages is not None:
        found['age'] = age_percentiles(ages)
    figures.save(plot(traces, ages), workdir / 'chains.png', dpi=90)
    lengths = [time * steps for time in times]
    found['frechet_after'] = drift(workdir, experiment, params, key, lengths, values.samples)
    update_summary(workdir, {'chains': found}, without=('chains',))
    lines = report(found, values.num, values.steps, steps)
    (workdir / 'chains.txt').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))


def long_chains(
    experiment: Experiment, params: Params, key: Key, num: int, steps: int
) -> dict[str, np.ndarray]:
    """Traces of fresh chains, see `evaluate.mixing.observe`. Raises: InputError without noise."""
    model, sampling = experiment.model, experiment.model.spec.sampling
    labels = model.labels(num)
    initial_key, key = jax.random.split(key)
    x = batching.for_each(
        model.initial_sampler, params, initial_key, [labels], description='initial positions'
    )
    if sampling.kernel.name == 'steepest_descent':
        raise InputError('fresh chains of this run have no noise: there is nothing to diagnose')
    noise = None  # of kernels with a Metropolis test of their own
    if sampling.kernel.name == 'langevin':
        numbers = sampling.kernel.arguments
        noise = numbers.get('noise_scale')
        if noise is None:
            noise = (2 * sampling.step_size * numbers['temperature']) ** 0.5
        if noise <= 0:
            raise InputError(
                'fresh chains of this run have no noise (the noise of their kernel is 0): there is '
                'nothing to diagnose'
            )
    return mixing.walk(
        key,
        model.energy_fn,
        params,
        model.kernel(),
        x,
        labels,
        steps,
        step_size=sampling.step_size,
        noise=noise,
    )


def drift(
    workdir: pathlib.Path,
    experiment: Experiment,
    params: Params,
    key: Key,
    lengths: list[int],
    n: int,
) -> dict[str, float]:
    """{steps: Frechet distance of samples after that many}, without those whose chains diverge;
    writes their grids to samples/."""
    model = experiment.model
    features = extractor.classifier_extractor(experiment.train, workdir / 'extractor.npz').features
    reference, _ = distance.reference_points(experiment.train, experiment.test, n)
    measure, found = distance.distances_to(features(reference), halves=20), {}
    for steps in lengths:
        try:
            x = model.sample(key, params, model.labels(n), steps)
        except ChainsDiverged as error:
            tqdm.write(f'no distance after {steps} steps: {error}')
            continue
        caption = (
            f'Fresh chains after {steps:,} steps; training runs {experiment.chains.num_steps}.'
        )
        grid = Grid(model.pictures(x[:100]), 10, caption)
        save_grid(workdir / 'samples' / f'after_{steps}_steps.png', grid)
        found[str(steps)] = measure(features(x))['frechet']['value']
    return found


@figures.styled
def plot(traces: dict[str, np.ndarray], ages: np.ndarray | None) -> Figure:
    """Energy, drift over noise and acceptance along the chains, and ages in the buffer."""
    titles = {
        'energy': 'E(x)',
        'drift_to_noise': 'drift / noise',
        'acceptance': 'acceptance of a Metropolis test',
    }
    titles = {name: title for name, title in titles.items() if name in traces}
    figure = Figure(figsize=(13, 3))
    axes = figure.subplots(1, len(titles) + (ages is not None))
    for axis, (name, title) in zip(axes, titles.items()):
        low, middle, high = np.percentile(traces[name], (10, 50, 90), axis=0)
        axis.fill_between(np.arange(len(middle)), low, high, alpha=0.3)
        axis.plot(middle)
        axis.set(title=f'{title}: median, 10 to 90 %', xlabel='step of the chain')
    if ages is not None:
        axes[-1].hist(ages, bins=40)
        axes[-1].set(
            title='ages in the buffer', xlabel='rounds of K steps', ylabel='chains', yscale='log'
        )
    return figure


def report(found: dict[str, Any], num: int, steps: int, training_steps: int) -> list[str]:
    """What is printed."""
    drift_text = accepted = ''
    if 'acceptance' in found:
        accepted = f'a Metropolis test would accept {found["acceptance"]:.1%}, '
    if 'drift_to_noise' in found:
        drift_text = f'drift / noise {found["drift_to_noise"]:.3g}, '
    lines = [
        f'{num} fresh chains of {steps} steps (training: {training_steps}); medians over chains '
        'and steps',
        f'{drift_text}{accepted}clipped {found["clipped"]:.1%}, at the bounds '
        f'{found["saturated"]:.1%}',
        f'{"statistic, later half":<24}{"effective samples":>18}{"split R-hat":>13}   of '
        f'{num * -(-steps // 2):,}',
    ]
    for name, row in found['mixing'].items():
        lines.append(f'{name:<24}{row["ess"]:>18.1f}{row["r_hat"]:>13.3f}')
    if 'age' in found:
        ages = ', '.join(f'{name} {age:.0f}' for name, age in found['age'].items())
        lines.append(f'ages in the buffer, rounds: {ages}')
    after = ', '.join(f'{n} steps: {d:.3g}' for n, d in found['frechet_after'].items())
    after = after or 'any number of steps asked for: none, the chains diverge'
    lines.append(f'Frechet distance to the data after {after}')
    return lines


if __name__ == '__main__':
    launch.main(run, define, __doc__)
