"""Energies made of energies: AND, OR, NOT, conditions.

A term is an energy function x -> scalar of any origin (another run, another method, a formula) in
the same units of x. A composition is an energy function too, so compositions nest; it knows how
many factors it was made of, by which `divided` divides the step.
Energies are known only up to a constant. AND and NOT do not depend on it; OR does, since the
constants weight its terms (equal constants are assumed).
Source: Du, Li & Mordatch 2020, "Compositional visual generation with energy based models"; Hinton
  2002 for products of experts.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from ebm_jax.types import Array, EnergyFn, Kernel, ParamEnergyFn


class Composition(NamedTuple):
    """An energy function of several factors."""

    energy_fn: Callable[..., Array]
    # what a step is divided by, to be no longer than one factor's; 0 for conditions alone
    factors: int

    def __call__(self, *args: Any) -> Array:
        return self.energy_fn(*args)


def factors(energy_fn: EnergyFn) -> int:
    """How many factors an energy has: 1 unless it is a Composition."""
    return getattr(energy_fn, 'factors', 1)


def _weights(terms, weights):
    weights = (1.0,) * len(terms) if weights is None else tuple(weights)
    if not terms or len(weights) != len(terms) or any(not w > 0 for w in weights):
        raise ValueError(
            f'a composition needs at least one term and one weight > 0 for each, got {len(terms)}'
            f' terms and weights {weights}'
        )
    return weights


def all_of(*terms: EnergyFn, weights: Sequence[float] | None = None) -> Composition:
    """AND, the product of densities: E(x) = sum_i w_i E_i(x).

    Args: weights: one > 0 for each term, default 1.
    Returns: Composition.
    Raises: ValueError otherwise.
    """
    weights = _weights(terms, weights)
    return Composition(
        lambda x: sum(w * term(x) for w, term in zip(weights, terms)), sum(map(factors, terms))
    )


def any_of(
    *terms: EnergyFn, weights: Sequence[float] | None = None, sharpness: float = 1.0
) -> Composition:
    """OR, the mixture of densities: E(x) = -(1 / s) log sum_i w_i exp(-s E_i(x)).

    With s = 1 and terms of equal normalising constant it is exactly the mixture with shares
    w_i / sum w; s -> infinity is the smallest energy. The gradient is a mean of the terms'
    gradients, so the factors are those of the largest term (our reading; the paper divides by the
    number of terms).

    Args:
      weights: as in `all_of`.
      sharpness: s > 0; the release multiplies by 100 without dividing again.
    Returns: Composition.
    Raises: ValueError otherwise.
    """
    term_weights = jnp.array(_weights(terms, weights))
    if not sharpness > 0:
        raise ValueError(f'sharpness must be above 0, got {sharpness}')
    return Composition(
        lambda x: (
            -logsumexp(jnp.stack([-sharpness * term(x) for term in terms]), b=term_weights)
            / sharpness
        ),
        max(map(factors, terms)),
    )


def without(term: EnergyFn, unwanted: EnergyFn, weight: float = 0.01) -> Composition:
    """NOT: E(x) = E_term(x) - a E_unwanted(x), low where `term` is low and `unwanted` is high.

    Args:
      weight: a >= 0 (paper: 0.001 to 0.01); where a E_unwanted grows faster than E_term, the
        density cannot be normalised.
    Returns: Composition.
    Raises: ValueError for a negative weight.
    """
    if not weight >= 0:
        raise ValueError(f'the weight of the unwanted energy must be at least 0, got {weight}')
    return Composition(lambda x: term(x) - weight * unwanted(x), factors(term) + factors(unwanted))


def posterior(wanted: Sequence[EnergyFn], others: Sequence[EnergyFn]) -> Composition:
    """A condition, -log p(y in wanted | x) of the classifier that the energies of labels define:

    E(x) = E_wanted(x) - E_all(x), each the OR of its labels, >= 0.

    AND contains p(x), which all images of the data share, once for every factor. With one energy
    p(x) or p(x|c) and conditions it is there once: p(x | c, d) ~ p(x | c) p(d | x), for labels c
    and d that are independent given x. NOT d is the condition on the other labels; unlike
    `without`, it is bounded below. Labels with equal constants and equal shares of the data are
    assumed. A condition adds no factor.

    Args:
      wanted: the energies of the labels that are asked for, at least one.
      others: those of all other labels of the same model, at least one.
    Returns: Composition.
    Raises: ValueError where one of them is empty.
    Source: our reading; Bayes' rule on the paper's product.
    """
    if not wanted or not others:
        raise ValueError('a condition needs a wanted label and another one')
    chosen, everything = any_of(*wanted), any_of(*wanted, *others)
    return Composition(lambda x: chosen(x) - everything(x), 0)


def over_models(
    combine: Callable[..., Composition],
    *energy_fns: ParamEnergyFn,
    terms: Sequence[int] | None = None,
) -> Composition:
    """The composition of trained energies, for `apply.sampling.sample`.

    Args:
      combine: (terms x -> scalar) -> Composition, such as `all_of`.
      terms: [T], which of the energies each term is, with a label of its own; default one term of
        each, in order. Several labels of one classifier are one evaluation of its network.
    Returns: Composition whose energy_fn is (params of each energy, x, a label for each term [T]) ->
      scalar.
    Raises: ValueError where `terms` leaves an energy out, and what `combine` raises.
    """
    terms = tuple(range(len(energy_fns)) if terms is None else terms)
    if set(terms) != set(range(len(energy_fns))):
        raise ValueError(f'{len(energy_fns)} energies have terms, got {terms}')

    def energy_fn(params, x, labels):
        if len(params) != len(energy_fns) or len(labels) != len(terms):
            raise ValueError(
                f'{len(energy_fns)} parameters and {len(terms)} labels are needed, got '
                f'{len(params)} and {len(labels)}'
            )
        own: list[Any] = [None] * len(terms)
        for i, energy in enumerate(energy_fns):
            places = [place for place, term in enumerate(terms) if term == i]
            shared = _of_labels(energy, params[i], [labels[place] for place in places])
            for j, place in enumerate(places):
                own[place] = partial(_entry, shared, j)
        return combine(*own)(x)

    return Composition(energy_fn, combine(*(_zero for _ in terms)).factors)


def _of_labels(energy_fn, params, labels):
    """x -> [energies of the labels], computed once for each x."""
    known: list[Any] = []

    def energies(x):
        if not known or known[0] is not x:
            if len(labels) == 1:
                found = [energy_fn(params, x, labels[0])]
            else:
                found = jax.vmap(partial(energy_fn, params, x))(jnp.stack(labels))
            known[:] = x, found
        return known[1]

    return energies


def _entry(energies, i, x):
    return energies(x)[i]


def _zero(x):
    return 0.0


def divided(energy_fn: EnergyFn, kernel_at: Callable[[float], Kernel], step_size: float) -> Kernel:
    """The kernel for a composition: kernel_at(step_size / number of factors), whatever their
    weights, or the whole step where there are only conditions.

    Args: kernel_at: step size -> Kernel, such as `partial(mcmc.langevin, noise_scale=0.01)`.
    Source: [code] of Du et al. 2020.
    """
    return kernel_at(step_size / max(1, factors(energy_fn)))
