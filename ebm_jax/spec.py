"""What a model is made of, as plain data.

A `ModelSpec` names the networks of `ebm_jax.networks`, the kernel, initial distribution and
transition that a model is made of. It is stored as JSON in the config.json of a run, and is all
that is needed to rebuild the `Model`, without the experiment and without its data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from ebm_jax import networks
from ebm_jax.errors import InputError
from ebm_jax.types import Network

CLASSIFIER, ENERGY, LATENT = 'classifier', 'energy', 'latent'
IMAGES, FEATURES = 'images', 'features'


class Part(NamedTuple):
    """A function or class of the library by its name, and its arguments (plain data)."""

    name: str
    arguments: Mapping[str, Any] = {}


class TransitionPart(NamedTuple):
    """A transition that is applied with a probability."""

    name: str
    arguments: Mapping[str, Any] = {}
    probability: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How fresh samples are drawn: new chains after training.

    Attributes:
      kernel: of KERNELS, arguments without the step size. step_size: > 0.
      num_steps: of each chain, >= 0.
      initial: of INITIAL, arguments without the shape; not used where chains begin at a generator.
      transition: of TRANSITIONS, one after another, before each block of `every` steps except in
        the last `plain` steps or more.
    """

    kernel: Part = Part('langevin', {'noise_scale': 0.01})
    step_size: float = 1.0
    num_steps: int = 200
    initial: Part = Part('uniform')
    transition: tuple[TransitionPart, ...] = ()
    every: int = 20
    plain: int = 0

    def __post_init__(self) -> None:
        _check_parts(kernel=self.kernel, initial=self.initial)


def _check_parts(**parts):
    """Raises: TypeError for what is no Part."""
    for name, part in parts.items():
        if not isinstance(part, Part):
            raise TypeError(f"{name} must be a Part, as Part('mala', {{}}), got {part!r}")


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """What a model with a generator has besides its networks.

    Attributes:
      latent_dim: D. sigma: of p(x|z) = N(g(z), sigma^2 I).
      from_generator: samples begin at g(z), else at the initial distribution.
      from_inference: z-chains begin at the mean of q(z|x), else at p(z).
      kernel, step_size, num_steps: of the chain in z at test time. inpaint_steps, inpaint_starts:
        its number of steps for in-painting, and how many are run for each image.
    """

    latent_dim: int
    sigma: float
    from_generator: bool = True
    from_inference: bool = True
    kernel: Part = Part('langevin', {'noise_scale': 0.0})
    step_size: float = 0.005
    num_steps: int = 10
    inpaint_steps: int = 200
    inpaint_starts: int = 1

    def __post_init__(self) -> None:
        _check_parts(kernel=self.kernel)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a model is, as plain data.

    Attributes:
      kind: CLASSIFIER (logits are energies, params those of the one network), ENERGY (the sum over
        the outputs of the one network), or LATENT (params = {'energy', 'generator', 'inference'}).
      networks: {name: Part of networks.NETWORKS, None for one that the library does not have}; the
        name is 'network' for kinds with one.
      shape: of one example. num_classes: of the data it was trained on.
      conditional: energies or generators take a class (a CLASSIFIER has both kinds of energy).
      sampling, latent: see `Sampling` and `LatentSpec`; latent for LATENT only.
      units: IMAGES in [-1, 1], or FEATURES of speech.
      speech: None, or `Frontend.to_json` of a model of recordings.
      class_names: of the labels 0, 1, ..., or empty.
    """

    kind: str
    networks: Mapping[str, Part | None]
    shape: tuple[int, ...]
    num_classes: int
    conditional: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    latent: LatentSpec | None = None
    units: str = IMAGES
    speech: Mapping[str, Any] | None = None
    class_names: tuple[str, ...] = ()

    @property
    def examples(self) -> str:
        """What an example is called: 'images' or, of speech, 'windows'."""
        return 'windows' if self.units == FEATURES else 'images'

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return _to_json(self)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> 'ModelSpec':
        """The inverse of `to_json`.

        Raises: InputError where the content is not a description of a model.
        """
        try:
            found = dict(content)
            networks = {
                name: None if part is None else Part(*part)
                for name, part in found.pop('networks').items()
            }
            sampling = dict(found.pop('sampling'))
            transition = tuple(TransitionPart(*part) for part in sampling.pop('transition'))
            kernel, initial = (Part(*sampling.pop(name)) for name in ('kernel', 'initial'))
            latent = found.pop('latent')
            if latent is not None:
                latent = LatentSpec(**{**latent, 'kernel': Part(*latent['kernel'])})
            return ModelSpec(
                **found
                | {
                    'networks': networks,
                    'shape': tuple(int(size) for size in found['shape']),
                    'class_names': tuple(found['class_names']),
                    'latent': latent,
                    'sampling': Sampling(
                        **sampling, kernel=kernel, initial=initial, transition=transition
                    ),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f'this is not a model description ({type(error).__name__}: {error}): it may be '
                'damaged, or of another version of ebm_jax'
            ) from error


def _to_json(value):
    if hasattr(value, '__dataclass_fields__'):
        return {part.name: _to_json(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {name: _to_json(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_to_json(item) for item in value]
    return value


def describe(network: Network) -> Part | None:
    """The Part of a network, or None for one that the library does not have."""
    described = networks.describe(network.module)
    return None if described is None else Part(*described)


def classifier_spec(
    network: Network, shape: Sequence[int], num_classes: int, sampling: Sampling | None = None
) -> ModelSpec:
    """The spec of a classifier whose logits are energies (JEM, ST-JEM)."""
    return ModelSpec(
        kind=CLASSIFIER,
        networks={'network': describe(network)},
        shape=tuple(shape),
        num_classes=num_classes,
        sampling=sampling or Sampling(),
    )


def energy_spec(
    network: Network,
    shape: Sequence[int],
    num_classes: int,
    sampling: Sampling | None = None,
    *,
    conditional: bool = False,
) -> ModelSpec:
    """The spec of an energy network, of each class where conditional (ICD)."""
    return ModelSpec(
        kind=ENERGY,
        networks={'network': describe(network)},
        shape=tuple(shape),
        num_classes=num_classes,
        sampling=sampling or Sampling(),
        conditional=conditional,
    )


def latent_spec(
    found: Mapping[str, Network | None],
    shape: Sequence[int],
    num_classes: int,
    latent: LatentSpec,
    sampling: Sampling | None = None,
    *,
    conditional: bool = False,
) -> ModelSpec:
    """The spec of an energy, a generator and an inference model, or of some of them (dual-MCMC).

    Args: found: {'energy', 'generator', 'inference'}, None for those that are not used.
    """
    return ModelSpec(
        kind=LATENT,
        networks={name: describe(network) for name, network in found.items() if network},
        shape=tuple(shape),
        num_classes=num_classes,
        sampling=sampling or Sampling(),
        latent=latent,
        conditional=conditional,
    )
