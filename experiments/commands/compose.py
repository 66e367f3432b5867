"""Compose the energies of separately trained runs and sample.

    python -m experiments.compose --all=RUN:LABEL --all=RUN:LABEL --out=FILE

    E(x) = sum over --all of w E(x)
           - (1/s) log sum over --any of w exp(-s E(x))
           - a sum over --none of w E(x)
           - sum over --given of w log p(labels | x)

Each term is WORKDIR, WORKDIR:LABEL (one class of a run with a conditional energy), or either
followed by *WEIGHT. --given=WORKDIR:LABEL,LABEL is a condition, p(one of these labels | x) by the
energies of that run: for several attributes of one data set it does better than their product, and
with all labels but one it is a NOT. Runs may be of any experiment, as long as their images have the
same size.
Chains begin and move like those of the first run's fresh samples, with the step size divided by the
number of factors (conditions count as none). Writes FILE.png and FILE.npz (float32 images in
[-1, 1]).
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from ebm_jax import composition
from ebm_jax.apply.sampling import sample
from ebm_jax.composition import Composition
from ebm_jax.errors import InputError
from ebm_jax.images import Grid, save_grid
from ebm_jax.model import Model
from ebm_jax.record import with_ending
from ebm_jax.trained import TrainedModel
from ebm_jax.types import UNCONDITIONAL, ArrayLike, EnergyFn, Key, Params
from experiments.common import launch, runs
from experiments.common.cores import use_all_cores

KINDS = ('all', 'any', 'none', 'given')


class Term(NamedTuple):
    """One term of a composition."""

    kind: str  # all, any, none, given
    workdir: str
    labels: tuple[int, ...]  # several for `given` only
    weight: float

    def needed(self, num_classes: int) -> tuple[int, ...]:
        """The labels whose energies it takes; for `given` all, the wanted ones first."""
        if self.kind != 'given':
            return self.labels
        return (*self.labels, *(y for y in range(num_classes) if y not in self.labels))


def define(values: Any) -> None:
    """The flags."""
    for kind, meaning in (('all', 'AND'), ('any', 'OR'), ('none', 'NOT')):
        flags.DEFINE_multi_string(
            kind, [], f'WORKDIR[:LABEL][*WEIGHT], a term of {meaning}.', flag_values=values
        )
    flags.DEFINE_multi_string(
        'given',
        [],
        'WORKDIR:LABEL[,LABEL][*WEIGHT], a condition: p(one of the labels | x).',
        flag_values=values,
    )
    flags.DEFINE_float('sharpness', 1.0, 's of OR.', flag_values=values)
    flags.DEFINE_float('not_weight', 0.01, 'a of NOT.', flag_values=values)
    flags.DEFINE_integer('num', 100, 'How many samples.', 1, flag_values=values)
    flags.DEFINE_integer(
        'steps',
        None,
        'Steps of each chain; default as the first run is configured.',
        1,
        flag_values=values,
    )
    flags.DEFINE_integer('seed', 0, 'Seed of the chains.', flag_values=values)
    flags.DEFINE_string('out', None, 'File name without ending.', flag_values=values)
    flags.mark_flag_as_required('out', values)


def run(values: Any) -> None:
    """Compose, sample and write."""
    terms = [parse(kind, text) for kind in KINDS for text in values[kind].value]
    if not any(term.kind in ('all', 'any') for term in terms):
        raise InputError('there is nothing to compose: give at least one --all=RUN or --any=RUN')
    use_all_cores()
    opened = {name: runs.open_model(name) for name in dict.fromkeys(term.workdir for term in terms)}
    models = [opened[term.workdir] for term in terms]
    for term, model in zip(terms, models):
        check(term, model, models[0])
    needed = [term.needed(model.num_classes) for term, model in zip(terms, models)]
    counts = [len(labels) for labels in needed]
    of_terms = [model for model, n in zip(models, counts) for _ in range(n)]
    combine = partial(combined, terms, counts, values.sharpness, values.not_weight)
    try:
        composed, params = joined(combine, [(one.model, one.params) for one in of_terms])
    except ValueError as error:
        raise InputError(str(error)) from error
    labels = np.tile(np.concatenate(needed), (values.num, 1))
    key = jax.random.key(values.seed)
    images = draw(key, composed, params, labels, models[0].model, values.steps)
    picture, numbers = with_ending(values.out, '.png'), with_ending(values.out, '.npz')
    save_grid(picture, Grid(models[0].model.pictures(images)))
    np.savez(numbers, x=images)
    print(f'{values.num} samples: {picture} and {numbers}')


def parse(kind: str, text: str) -> Term:
    """'WORKDIR[:LABEL[,LABEL]][*WEIGHT]' -> Term. Raises: InputError."""
    pattern = r'(.*?)(?::(\d+(?:,\d+)*))?(?:\*([\d.eE+-]+))?'
    workdir, labels, weight = re.fullmatch(pattern, text).groups()
    known = tuple(map(int, labels.split(','))) if labels else (UNCONDITIONAL,)
    if kind != 'given' and len(known) > 1:
        raise InputError(f'--{kind}={text}: only --given takes several labels')
    if len(set(known)) < len(known):
        raise InputError(f'--{kind}={text}: a label is given twice')
    try:
        return Term(kind, workdir, known, 1.0 if weight is None else float(weight))
    except ValueError as error:
        raise InputError(f'--{kind}={text}: the weight after * must be a number') from error


def check(term: Term, opened: TrainedModel, first: TrainedModel) -> None:
    """Raises: InputError for a term that cannot be composed with the first."""
    model, classes = opened.model, opened.num_classes
    if not model.has_energy:
        raise InputError(f'{term.workdir} has no energy: it cannot be composed')
    conditional, nameless = term.kind == 'given', term.labels == (UNCONDITIONAL,)
    if conditional and nameless:
        raise InputError(f'--given={term.workdir} names no label: give one, as {term.workdir}:0')
    if nameless and not model.unconditional:
        raise InputError(
            f'{term.workdir} has one energy for each of its {classes} classes: name one, as '
            f'{term.workdir}:0'
        )
    unknown = [y for y in term.labels if not (model.class_conditional and y < classes)]
    if unknown and not nameless:
        which = 'it has one energy for everything'
        if model.class_conditional:
            which = f'its classes are 0 to {classes - 1}'
        raise InputError(f'{term.workdir} has no energy of class {unknown[0]}: {which}')
    if conditional and len(term.labels) == classes:
        raise InputError(
            f'--given={term.workdir} names all {classes} labels, which is no condition: leave one '
            'out'
        )
    if units_of(model) != units_of(first.model):
        raise InputError(
            f'{term.workdir} has examples in other units than the first run: only energies of '
            'images, or of speech by the same features, can be composed'
        )
    if model.spec.shape != first.model.spec.shape:
        raise InputError(
            f'{term.workdir} has images of {list(model.spec.shape)}, the first run of '
            f'{list(first.model.spec.shape)}: only energies of one size can be composed'
        )


def units_of(model: Model) -> Any:
    """What decides what the numbers of an example mean."""
    return model.spec.units, model.spec.speech


def combined(
    terms: Sequence[Term],
    counts: Sequence[int],
    sharpness: float,
    not_weight: float,
    *energies: EnergyFn,
) -> Composition:
    """The composition of energy functions. counts: how many of them each term has, in order."""
    left = iter(energies)
    own: list[EnergyFn] = []
    for term, count in zip(terms, counts):
        found = [next(left) for _ in range(count)]
        if term.kind == 'given':
            n = len(term.labels)
            own.append(composition.posterior(found[:n], found[n:]))
        else:
            own.append(found[0])

    def terms_of_kind(*kinds):
        chosen = [(e, term.weight) for e, term in zip(own, terms) if term.kind in kinds]
        return [energy for energy, _ in chosen], [weight for _, weight in chosen]

    wanted = []
    factors, weights = terms_of_kind('all', 'given')
    if factors:
        wanted.append(composition.all_of(*factors, weights=weights))
    factors, weights = terms_of_kind('any')
    if factors:
        wanted.append(composition.any_of(*factors, weights=weights, sharpness=sharpness))
    whole = composition.all_of(*wanted)
    for energy, weight in zip(*terms_of_kind('none')):
        whole = composition.without(whole, energy, not_weight * weight)
    return whole


def joined(
    combine: Callable[..., Composition], of_terms: Sequence[tuple[Model, Params]]
) -> tuple[Composition, list[Params]]:
    """(the composition of trained energies, the parameters that it takes); what several terms share
    is given, and evaluated, once.

    Args: combine: energies -> Composition. of_terms: the model and the parameters of each term.
    Raises: ValueError as `combine`.
    """
    distinct = {(model, id(params)): params for model, params in of_terms}
    order = list(distinct)
    composed = composition.over_models(
        combine,
        *(model.energy_fn for model, _ in order),
        terms=[order.index((model, id(params))) for model, params in of_terms],
    )
    return composed, list(distinct.values())


def draw(
    key: Key,
    composed: Composition,
    params: Sequence[Params],
    labels: ArrayLike,
    model: Model,
    steps: int | None = None,
) -> np.ndarray:
    """Fresh samples of a composition (`composition.over_models`), drawn as `model` draws its own
    but with the divided step size.

    Args:
      key: key of the chains.
      composed: the composition.
      params: those that it takes, as `joined` gives them.
      labels: labels of the terms, [N, T].
      model: the model whose initial sampler, kernel and transition the chains use.
      steps: steps of each chain; default as configured.
    """

    def initial_sampler(params, key, labels):
        return model.initial_sampler(params[0], key, labels[0])

    return sample(
        key,
        composed.energy_fn,
        params,
        composition.divided(composed, model.kernel, model.spec.sampling.step_size),
        initial_sampler,
        labels,
        model.num_steps(steps),
        **model.transition_plan(),
        description='composed samples',
    )


if __name__ == '__main__':
    launch.main(run, define, __doc__)
