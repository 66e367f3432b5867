"""Forms of NOT on the built-in digits: weights, scales, temperatures and orders of the terms.

    python -m experiments.studies.forms_of_not --workdir=runs/digits_compose

Takes the energies of the class, of the stroke weight and of the slant that `digits_compose` trains
in the same workdir, or trains them; samples a class without the high and without the low third of
each attribute; measures how often the unwanted third is shown and whether the class is right.
Writes forms_of_not.json and forms_of_not.md; rerunning the command continues.
"""

import itertools
import math
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from ebm_jax import composition, mcmc
from ebm_jax.apply import sampling
from ebm_jax.composition import Composition
from ebm_jax.errors import InputError
from ebm_jax.evaluate.attributes import LEVELS
from ebm_jax.images import as_float
from ebm_jax.process import exclusive_lock
from ebm_jax.record import write_json
from ebm_jax.types import EnergyFn
from experiments import digits_icd
from experiments.commands.compose import joined
from experiments.common import launch
from experiments.common.section import share_interval
from experiments.families.icd import ChainTransition
from experiments.studies import arms, composing
from experiments.studies.composing import Runs

FILE = 'forms_of_not.json'
Combine = Callable[..., Composition]  # of E(class), E(unwanted), E(of the other levels)...


def scaled(energy: EnergyFn, factor: float) -> EnergyFn:
    """b E(x): the energy at temperature 1 / b."""
    return lambda x: factor * energy(x)


def alone(wanted: EnergyFn, *levels: EnergyFn) -> Composition:
    """The class without NOT."""
    return composition.all_of(wanted)


def difference(
    wanted: EnergyFn, unwanted: EnergyFn, *others: EnergyFn, weight: float
) -> Composition:
    """E(class) - a E(unwanted), the paper's."""
    return composition.without(wanted, unwanted, weight)


def condition(
    wanted: EnergyFn, unwanted: EnergyFn, *others: EnergyFn, temperature: float = 1.0
) -> Composition:
    """E(class) - log p(another level | x), with p(level | x) ~ exp(-E(level) / T)."""
    colder = [scaled(energy, 1 / temperature) for energy in (unwanted, *others)]
    return composition.all_of(wanted, composition.posterior(colder[1:], colder[:1]))


class Form(NamedTuple):
    """A form of NOT.

    Attributes:
      combine: what the chain descends.
      first: what it descends in the first half of its steps; None for the same.
      temperature: of the chain, times that of the samples of a run.
      in_units: the unwanted energy is in units of its standard deviation over the class's.
    """

    combine: Combine
    first: Combine | None = None
    temperature: float = 1.0
    in_units: bool = False


HALF = partial(difference, weight=0.5)
FORMS = {
    'the class alone': Form(alone),
    **{f'difference, weight {a}': Form(partial(difference, weight=a)) for a in (0.01, 0.1, 0.25)},
    'difference, weight 0.5': Form(HALF),
    'difference, weight 0.5, energies of one scale': Form(HALF, in_units=True),
    'difference, weight 0.5, chain at temperature x 10': Form(HALF, temperature=10),
    'difference, weight 0.5, chain at temperature x 100': Form(HALF, temperature=100),
    'the class, then difference of weight 0.5': Form(HALF, alone),
    'difference of weight 0.5, then the class': Form(alone, HALF),
    'condition': Form(condition),
    **{
        f'condition at temperature {t}': Form(partial(condition, temperature=t))
        for t in (0.25, 0.5, 2, 4)
    },
    'condition, chain at temperature x 10': Form(condition, temperature=10),
    'condition, chain at temperature x 100': Form(condition, temperature=100),
    'the class, then condition': Form(condition, alone),
    'condition, then the class': Form(alone, condition),
}


def spread(runs: Runs, label: str) -> float:
    """Standard deviation of E(x, y) over the training images, of their own labels y."""
    experiment, params = runs[label]
    energy = partial(experiment.model.energy_fn, params)
    x, y = as_float(experiment.train.x), experiment.train.y
    return float(jnp.std(jax.jit(jax.vmap(energy))(x, y)))


def sample(runs: Runs, form: Form, label: str, labels: np.ndarray, scale: float) -> np.ndarray:
    """Fresh samples of a form of NOT.

    Args:
      label: the attribute. labels: of the terms, int [N, T]: class, unwanted, the other levels.
      scale: factor of the unwanted energy where the form takes energies of one scale.
    """
    terms = [(runs[name][0].model, runs[name][1]) for name in ('class', label, label, label)]
    model = terms[0][0]
    factor = scale if form.in_units else 1.0

    def made(combine: Combine) -> tuple[Composition, Sequence[Any], Any]:
        def of_scale(wanted, *levels):
            return combine(wanted, *(scaled(energy, factor) for energy in levels))

        composed, params = joined(of_scale, terms)
        given = model.spec.sampling.kernel.arguments
        noise = given['noise_scale'] * math.sqrt(form.temperature)
        kernel = partial(mcmc.langevin, **{**given, 'noise_scale': noise})
        step_size = model.spec.sampling.step_size
        return composed, params, composition.divided(composed, kernel, step_size)

    composed, params, kernel = made(form.combine)
    steps = model.num_steps()

    def initial_sampler(params, key, labels):
        begin_key, first_key = jax.random.split(key)
        x = model.initial_sampler(params[0], begin_key, labels[0])
        if form.first is None:
            return x
        first, _, first_kernel = made(form.first)
        x, _ = mcmc.run_chain(
            first_key, first_kernel, lambda x: first(params, x, labels), x, steps // 2
        )
        return x

    left = steps if form.first is None else steps - steps // 2
    return sampling.sample(
        jax.random.key(0), composed.energy_fn, params, kernel, initial_sampler, labels, left
    )


def define(values: Any) -> None:
    """The flags."""
    config = composing.settings_of(digits_icd.get_config())
    config.compose = composing.Asked(num=100)
    launch.define_config(values, config)


def run(values: Any) -> None:
    """Train what is missing, sample, measure, write and print."""
    workdir, config = pathlib.Path(values.workdir), values.config
    composing.check(config)
    if config.run.fresh.kernel != 'langevin' or config.run.fresh.noise_is_temperature:
        raise InputError(
            '--config.run.fresh.kernel must be langevin, with a noise scale, which the study varies'
        )
    if config.run.transition != ChainTransition():
        raise InputError('--config.run.transition: the chains of this study have no transition')
    runs = composing.train(digits_icd, workdir, config)
    attributes, num = config.compose.attributes, config.compose.num
    probe = composing.AttributeProbe(runs['class'][0].train, attributes)
    with exclusive_lock(workdir):
        found = sampled(workdir / FILE, runs, probe, attributes, num)
    words = [LEVELS[label][unwanted] for label in attributes for unwanted in (2, 0)]
    lines = [
        '| form: share that shows the unwanted (class right), % | ' + ' | '.join(words) + ' |',
        '|---' * (1 + len(words)) + '|',
    ]
    for name in FORMS:
        rows = [found['forms'][f'{name} / {word}'] for word in words]
        cells = [
            f'{100 * row["unwanted"]:.0f} [{100 * row["interval"][0]:.0f}, '
            f'{100 * row["interval"][1]:.0f}] ({100 * row["class"]:.0f})'
            for row in rows
        ]
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    spreads = ', '.join(f'{label} {value:.3g}' for label, value in found['spread'].items())
    lines += ['', f'Standard deviation of E(x, y) over training images: {spreads}']
    (workdir / 'forms_of_not.md').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))


def sampled(
    file: pathlib.Path,
    runs: Runs,
    probe: composing.AttributeProbe,
    attributes: Sequence[str],
    num: int,
) -> dict[str, Any]:
    """What a file of this study holds, after the forms that were missing are sampled and measured.

    Raises: InputError where it is of other energies or another number of samples.
    """
    spreads = {label: spread(runs, label) for label in runs}
    given = {'num': num, 'attributes': list(attributes)}
    found = arms.read(file) or {**given, 'spread': spreads, 'forms': {}}
    arms.check_same(file, found, given)
    for label, value in spreads.items():
        if not math.isclose(found['spread'][label], value, rel_tol=1e-3):
            raise InputError(f'{file} is of other energies than those of {label} now: move it away')
    classes = np.arange(num) % composing.classes_of(runs)
    for name, form in tqdm(FORMS.items(), desc='forms', unit='form'):
        for label, unwanted in itertools.product(attributes, (2, 0)):
            key = f'{name} / {LEVELS[label][unwanted]}'
            if key in found['forms']:
                continue
            levels = composing.conditions(label, np.full(num, unwanted)).labels
            labels = np.concatenate([classes[:, None], levels], 1)
            images = sample(runs, form, label, labels, spreads['class'] / spreads[label])
            shown = probe(images)
            found['forms'][key] = {
                'unwanted': float((shown[label] == unwanted).mean()),
                'class': float((shown['class'] == classes).mean()),
            }
            found['forms'][key]['interval'] = share_interval(found['forms'][key]['unwanted'], num)
            write_json(file, found)
    return found


if __name__ == '__main__':
    launch.main(run, define, __doc__)
