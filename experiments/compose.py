"""Compose the energies of separately trained runs and sample: python -m experiments.compose --all=RUN:LABEL --all=RUN:LABEL --out=FILE

    E(x) = sum over --all of w E(x)  -  (1/s) log sum over --any of w exp(-s E(x))  -  a sum over --none of w E(x)

Each term is WORKDIR, WORKDIR:LABEL (one class of a run whose energy knows classes), or either with *WEIGHT behind it. Runs may be of any
experiment, as long as their images have one size. Chains begin and move as the first run's fresh samples do, with the step divided by
the number of factors. Writes FILE.png and FILE.npz (float32 images in [-1, 1]).
"""
import pathlib
import re
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from ebm_jax import compose
from ebm_jax.apply.sample import sample
from ebm_jax.errors import InputError
from ebm_jax.record import image_grid, save_grid
from ebm_jax.types import UNLABELLED
from experiments import launch
from experiments.parts import averaged


class Term(NamedTuple):
    kind: str        # all, any, none
    workdir: str
    label: int
    weight: float


def define(values):
    for kind, meaning in (('all', 'AND'), ('any', 'OR'), ('none', 'NOT')):
        flags.DEFINE_multi_string(kind, [], f'WORKDIR[:LABEL][*WEIGHT], a term of {meaning}.', flag_values=values)
    flags.DEFINE_float('sharpness', 1.0, 's of OR.', flag_values=values)
    flags.DEFINE_float('not_weight', 0.01, 'a of NOT.', flag_values=values)
    flags.DEFINE_integer('num', 100, 'How many samples.', 1, flag_values=values)
    flags.DEFINE_integer('steps', None, 'Steps of each chain; default as the first run is configured.', 1, flag_values=values)
    flags.DEFINE_integer('seed', 0, 'Seed of the chains.', flag_values=values)
    flags.DEFINE_string('out', None, 'File name without ending.', flag_values=values)
    flags.mark_flag_as_required('out', values)


def run(values):
    terms = [parse(kind, text) for kind in ('all', 'any', 'none') for text in values[kind].value]
    if not any(term.kind != 'none' for term in terms):
        raise InputError('there is nothing to compose: give at least one --all=RUN or --any=RUN')
    workdirs = list(dict.fromkeys(term.workdir for term in terms))
    runs = dict(zip(workdirs, launch.restore_all(workdirs)))
    for term in terms:
        check(term, runs[term.workdir][1], runs[terms[0].workdir][1])
    parts = [runs[term.workdir][1] for term in terms]
    params = [averaged(runs[term.workdir][2]) for term in terms]
    try:
        composition = compose.over_runs(partial(combined, terms, values.sharpness, values.not_weight), *(p.energy_fn for p in parts))
    except ValueError as error:
        raise InputError(str(error)) from error
    labels = np.tile([term.label for term in terms], (values.num, 1))
    images = draw(jax.random.key(values.seed), composition, params, labels, parts[0], values.steps)
    out = pathlib.Path(values.out)
    save_grid(out.with_suffix('.png'), image_grid(images))
    np.savez(out.with_suffix('.npz'), x=images)
    print(f'{values.num} samples: {out.with_suffix(".png")} and {out.with_suffix(".npz")}')


def parse(kind, text):
    """'WORKDIR[:LABEL][*WEIGHT]' -> Term."""
    workdir, label, weight = re.fullmatch(r'(.*?)(?::(\d+))?(?:\*([\d.eE+-]+))?', text).groups()
    try:
        return Term(kind, workdir, UNLABELLED if label is None else int(label), 1.0 if weight is None else float(weight))
    except ValueError as error:
        raise InputError(f'--{kind}={text}: the weight behind * must be a number') from error


def check(term, parts, first):
    classes = parts.train.num_classes
    if parts.energy_fn is None:
        raise InputError(f'{term.workdir} has no energy: it cannot be composed')
    if term.label == UNLABELLED and not parts.unlabelled:
        raise InputError(f'{term.workdir} has one energy for each of its {classes} classes: name one, as {term.workdir}:0')
    if term.label != UNLABELLED and not (parts.by_class and term.label < classes):
        raise InputError(f'{term.workdir} has no energy of class {term.label}: ' + (
            f'its classes are 0 to {classes - 1}' if parts.by_class else 'it has one energy for everything'))
    if parts.train.x.shape[1:] != first.train.x.shape[1:]:
        raise InputError(f'{term.workdir} has images of {list(parts.train.x.shape[1:])}, the first run of {list(first.train.x.shape[1:])}: '
                         'only energies of one size can be composed')


def combined(terms, sharpness, not_weight, *energies):
    """The composition of energy functions, one for each term."""
    of = {kind: [(e, t.weight) for e, t in zip(energies, terms) if t.kind == kind] for kind in ('all', 'any', 'none')}
    split = lambda kind: ([e for e, _ in of[kind]], [w for _, w in of[kind]])
    wanted = []
    if of['all']:
        factors, weights = split('all')
        wanted.append(compose.all_of(*factors, weights=weights))
    if of['any']:
        factors, weights = split('any')
        wanted.append(compose.any_of(*factors, weights=weights, sharpness=sharpness))
    whole = compose.all_of(*wanted)
    for energy, weight in of['none']:
        whole = compose.without(whole, energy, not_weight * weight)
    return whole


def draw(key, composition, params, labels, parts, steps=None):
    """Fresh samples of a composition (`compose.over_runs`), as the run of `parts` draws its own but with the divided step.

    Args: params: of each term. labels: [N, T].
    """
    kernel = compose.divided(composition, parts.kernel_at, parts.fresh.step_size)
    start = lambda params, key, labels: parts.start(params[0], key, labels[0])
    return sample(key, composition.energy_fn, params, kernel, start, labels, parts.steps(steps), **parts.plan(),
                  description='composed samples')


if __name__ == '__main__':
    launch.main(run, define, __doc__)
