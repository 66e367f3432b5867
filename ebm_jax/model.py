"""A model without its parameters: its capabilities as pure functions of parameters, built from a
`ModelSpec`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import augment, initial, kernels, mcmc, networks, objectives
from ebm_jax.apply.latent import LatentModel
from ebm_jax.apply.sampling import compiled_chain, run_compiled
from ebm_jax.composition import any_of
from ebm_jax.data.windows import Frontend
from ebm_jax.errors import InputError
from ebm_jax.evaluate import predict
from ebm_jax.images import as_float, spectrogram_images
from ebm_jax.spec import (
    CLASSIFIER,
    ENERGY,
    FEATURES,
    LATENT,
    ModelSpec,
    Part,
    TransitionPart,
)
from ebm_jax.types import (
    UNCONDITIONAL,
    Array,
    ArrayLike,
    InitialSampler,
    Kernel,
    Key,
    Network,
    Params,
    PyTree,
    Transition,
)

UNSCALED = 16.0  # from it on, images are taken for pixels that were not brought to [-1, 1]
KERNELS: dict[str, Callable[..., Kernel]] = {
    'langevin': mcmc.langevin,
    'mala': mcmc.mala,
    'hmc': mcmc.hmc,
    'heated_langevin': kernels.heated_langevin,
    'steepest_descent': kernels.steepest_descent,
    # it has no step size
    'gibbs_with_gradients': lambda step_size, **more: kernels.gibbs_with_gradients(**more),
}
INITIAL: dict[str, Callable[..., InitialSampler]] = {
    'uniform': initial.uniform,
    'normal': initial.normal,
    'bernoulli': initial.bernoulli,
    'class_gaussian': initial.class_gaussian,
}
TRANSITIONS: dict[str, Callable[..., Transition]] = {
    'affine': augment.random_affine,
    'elastic': augment.elastic,
    'resized_crop': augment.random_resized_crop,
    'colour_jitter': augment.colour_jitter,
    'grayscale': lambda: augment.grayscale,
    'blur': augment.gaussian_blur,
    'flip': lambda: augment.random_flip,
}


class Classifier(NamedTuple):
    """The additional functions of a model that is a classifier."""

    logits: Callable[[Params, Array], Array]  # (params, x) -> [C]


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """The capabilities of a model, as pure functions of parameters and ONE example.

    Attributes:
      spec: what it is. networks: its networks, by the names in the spec.
      classifier, latent, speech: capabilities of some models only, else None.
    """

    spec: ModelSpec
    networks: Mapping[str, Network]
    classifier: Classifier | None = None
    latent: LatentModel | None = None
    speech: Frontend | None = None

    @property
    def has_energy(self) -> bool:
        return self.spec.kind != LATENT or 'energy' in self.networks

    @property
    def class_conditional(self) -> bool:
        """Whether `energy_fn` takes classes."""
        return self.classifier is not None or self.spec.conditional

    @property
    def unconditional(self) -> bool:
        """Whether `energy_fn` takes UNCONDITIONAL."""
        return not self.spec.conditional

    def conditions(self, label: ArrayLike) -> list[ArrayLike]:
        """What the networks take besides their input: the label, where they are conditional."""
        return [label] if self.spec.conditional else []

    def energy_fn(self, params: Params, x: Array, label: ArrayLike = UNCONDITIONAL) -> Array:
        """E(x, y), or E(x) for UNCONDITIONAL, up to a constant: one example -> scalar."""
        if self.classifier is not None:
            return objectives.energy_of(self.classifier.logits(params, x), label)
        name, own = 'network', params
        if self.spec.kind == LATENT:
            name, own = 'energy', params['energy']
        return self.networks[name].apply(own, x, *self.conditions(label)).sum()

    def chain_energy_fn(self, params: Params, x: Array, label: ArrayLike = UNCONDITIONAL) -> Array:
        """`energy_fn`; 0 of a model without an energy, whose chains stay where they begin."""
        return self.energy_fn(params, x, label) if self.has_energy else jnp.zeros(())

    def marginal_energy_fn(self, params: Params, x: Array) -> Array:
        """E(x); where only energies of classes are known, -log sum_c exp(-E(x, c)), with equal
        weights and constants for all classes (our reading: ICD's OR)."""
        if self.unconditional:
            return self.energy_fn(params, x)
        labels = range(self.spec.num_classes)
        return any_of(*(partial(self.energy_fn, params, label=label) for label in labels))(x)

    def initial_sampler(self, params: Params, key: Key, label: ArrayLike) -> Array:
        """Where a new chain begins: g(z), or the initial distribution."""
        if self.latent is not None and self.latent.from_generator:
            z = jax.random.normal(key, (self.latent.latent_dim,), jnp.float32)
            generator = self.latent.generator
            return generator.apply(params['generator'], z, *self.conditions(label))
        part = self.spec.sampling.initial
        return INITIAL[part.name](self.spec.shape, **part.arguments)(key, label)

    def kernel(self, step_size: float | None = None) -> Kernel:
        """The kernel of new chains; step_size: default the spec's."""
        part = self.spec.sampling.kernel
        return KERNELS[part.name](step_size or self.spec.sampling.step_size, **part.arguments)

    @property
    def transition(self) -> Transition | None:
        """The transition of new chains, see `Sampling`."""
        return transition_of(self.spec.sampling.transition)

    def num_steps(self, wanted: int | None = None) -> int:
        """The number of steps of new chains: `wanted`, else the spec's; 0 without an energy."""
        if not self.has_energy:
            return 0
        return self.spec.sampling.num_steps if wanted is None else wanted

    def labels(self, n: int) -> np.ndarray:
        """Labels of n new chains of any class: UNCONDITIONAL where possible, else all in turn."""
        if self.unconditional:
            return np.full(n, UNCONDITIONAL)
        return np.arange(n) % self.spec.num_classes

    def compiled_chain(self, num_steps: int | None = None, **options: Any) -> Callable[..., PyTree]:
        """A new chain of this model; options: see `apply.sampling.compiled_chain`."""
        return compiled_chain(
            self.chain_energy_fn,
            self.kernel(),
            self.initial_sampler,
            self.num_steps(num_steps),
            **{**self.transition_plan(), **options},
        )

    def sample(
        self,
        key: Key,
        params: Params,
        labels: ArrayLike,
        num_steps: int | None = None,
        *,
        batch_size: int = 256,
        description: str = 'fresh samples',
        **options: Any,
    ) -> Any:
        """New samples, one for each label, `batch_size` at once; options: see `compiled_chain`."""
        chain = self.compiled_chain(num_steps, **options)
        return run_compiled(
            chain, key, params, labels, batch_size=batch_size, description=description
        )

    def transition_plan(self) -> dict[str, Any]:
        """When the transition is applied to new chains: arguments of
        `apply.sampling.compiled_chain`."""
        if not self.spec.sampling.transition:
            return {}
        settings = self.spec.sampling
        return {'transition': self.transition, 'every': settings.every, 'plain': settings.plain}

    def view(self) -> tuple[predict.View, dict[str, str]]:
        """((params, x) -> {score: value}, {score: what it means}); the first score is the main one.
        Higher means more familiar."""
        if self.classifier is not None:
            return predict.classifier_view(self.classifier.logits), dict(predict.CLASSIFIER_SCORES)
        views: list[predict.View] = []
        scores: dict[str, str] = {}
        if self.has_energy:
            views.append(predict.energy_view(self.marginal_energy_fn))
            scores |= predict.ENERGY_SCORES
        if self.latent is not None and self.latent.inference is not None:
            labels = range(self.spec.num_classes) if self.spec.conditional else None
            views.append(predict.joint_view(self.latent, labels))
            largest = ', the largest over classes' if self.spec.conditional else ''
            scores['joint'] = f'log p(z) + log p(x|z) at the mean of q(z|x){largest}'
        return predict.merged(views), scores

    def pictures(self, x: ArrayLike) -> np.ndarray:
        """Network units [N, ...] -> images [N, H, W, C] in [-1, 1] for grids."""
        return spectrogram_images(x) if self.spec.units == FEATURES else np.asarray(x)

    def to_units(self, x: ArrayLike) -> np.ndarray:
        """Raw examples -> network units: uint8 in [0, 255] -> [-1, 1]; floats stay as they are.

        Raises: InputError for another shape than the model's, and for images that are neither
        uint8 nor near [-1, 1].
        """
        x = np.asarray(x)
        if x.shape[1:] != tuple(self.spec.shape):
            raise InputError(
                f'this model takes examples [N, {", ".join(map(str, self.spec.shape))}], got '
                f'{list(x.shape)}'
            )
        if x.dtype == np.uint8:
            return as_float(x)
        integers = np.issubdtype(x.dtype, np.integer)
        unscaled = x.size and np.nanmax(np.abs(x)) >= UNSCALED
        if self.spec.units != FEATURES and (integers or unscaled):
            raise InputError(
                f'this model takes images of uint8 in [0, 255] or floats in [-1, 1], got {x.dtype} '
                f'up to {np.nanmax(np.abs(x), initial=0):g}: pixels need images.astype(numpy.uint8)'
            )
        return x.astype(np.float32)


def transition_of(parts: Sequence[TransitionPart]) -> Transition | None:
    """The transition that applies `parts` one after another, or None for none."""
    steps = []
    for name, arguments, probability in parts:
        step = _make(TRANSITIONS, Part(name, arguments))
        steps.append(step if probability == 1 else augment.sometimes(probability, step))
    return augment.chain(*steps) if steps else None


def build(spec: ModelSpec, own_networks: Mapping[str, Network] | None = None) -> Model:
    """The Model of a spec.

    Args: own_networks: those that the spec has no Part for, by their names.
    Raises: InputError where a network is missing or a part is unknown.
    """
    _check(spec)
    own_networks = own_networks or {}
    found = {}
    for name, part in spec.networks.items():
        if name in own_networks:
            found[name] = own_networks[name]
        elif part is None:
            raise InputError(
                f"the network {name!r} of this model is not one of ebm_jax's: give it as "
                f'networks={{{name!r}: Network(init, apply)}}'
            )
        else:
            found[name] = networks.build(part.name, part.arguments)
    return Model(
        spec=spec,
        networks=found,
        classifier=Classifier(found['network'].apply) if spec.kind == CLASSIFIER else None,
        latent=_latent_model(spec, found),
        speech=None if spec.speech is None else _frontend(spec.speech),
    )


def _frontend(content):
    try:
        return Frontend.from_json(content)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f'the description of the speech features is damaged ({type(error).__name__}: {error})'
        ) from error


def _check(spec):
    """Refuse what cannot be built, before parameters are read. Raises: InputError."""
    names, sampling = set(spec.networks), spec.sampling
    if spec.kind not in (CLASSIFIER, ENERGY, LATENT):
        raise InputError(f'there is no kind of model {spec.kind!r}: is it of another version?')
    if spec.kind == LATENT and (not names or names - {'energy', 'generator', 'inference'}):
        raise InputError(f'{sorted(names)} are not networks of a {LATENT} model')
    if spec.kind == LATENT and spec.latent is None:
        raise InputError(f'the description of a {LATENT} model needs `latent`')
    if spec.kind != LATENT and names != {'network'}:
        raise InputError(f"a {spec.kind} model has one network, 'network', got {sorted(names)}")
    _make(KERNELS, sampling.kernel, sampling.step_size)
    _make(INITIAL, sampling.initial, spec.shape)
    transition_of(sampling.transition)


def _make(table, part, *values):
    """What the library has under the name of a part. Raises: InputError."""
    if part.name not in table:
        raise InputError(f'there is no {part.name!r}: it is one of {", ".join(table)}')
    try:
        return table[part.name](*values, **part.arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f'{part.name} cannot be made: {error}') from error


def _latent_model(spec, found):
    if spec.kind != LATENT or 'generator' not in found:
        return None
    energy_fn = None
    if 'energy' in found:

        def energy_fn(params, x, *label):
            return found['energy'].apply(params['energy'], x, *label)

    latent = spec.latent
    kernel = _make(KERNELS, latent.kernel, latent.step_size)
    return LatentModel(
        generator=found['generator'],
        inference=found.get('inference'),
        energy_fn=energy_fn,
        z_kernel=kernel,
        sigma=latent.sigma,
        from_generator=latent.from_generator,
        latent_dim=latent.latent_dim,
        from_inference=latent.from_inference,
    )
