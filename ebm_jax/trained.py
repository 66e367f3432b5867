"""A trained model: opened from a run or an exported folder, queried, sampled and exported.

model = ebm_jax.load('runs/demo')
model.class_probs(x)
"""

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import batching, exported, mcmc
from ebm_jax.apply import latent as apply_latent
from ebm_jax.apply import sequences
from ebm_jax.apply.refine import refine
from ebm_jax.apply.sampling import run_compiled
from ebm_jax.checkpoint import Checkpoints
from ebm_jax.errors import InputError
from ebm_jax.model import Model, build
from ebm_jax.record import read_summary
from ebm_jax.shapes import named_leaves
from ebm_jax.spec import ModelSpec
from ebm_jax.types import UNCONDITIONAL, ArrayLike, Key, Network, ParamEnergyFn, Params


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """A model and its evaluation parameters.

    Examples are raw (uint8 images in [0, 255]) or in network units (float images in [-1, 1]; for
    speech features 1 is four standard deviations). Energies are known up to a constant.

    Attributes:
      model: its pure functions of parameters. params: a pytree. step: of training.
      settings: what trained it, where that is known. metrics: of summary.json.
    """

    model: Model
    params: Params
    step: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    # {what: its compiled program}, so that a second call need not compile again
    _programs: dict[tuple[Any, ...], Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def energy_fn(self) -> ParamEnergyFn:
        """(params, x, label) -> E(x, y) of ONE example in network units; UNCONDITIONAL for E(x)."""
        return self.model.energy_fn

    @property
    def num_classes(self) -> int:
        return self.model.spec.num_classes

    def log_prob(self, x: ArrayLike, label: ArrayLike | None = None) -> np.ndarray:
        """log p(x) + log Z, or log p(x|y) + log Z_y: examples [N, ...] -> [N].

        Args: label: of all examples, or of each, int [N]; default p(x).
        Raises: InputError for another shape, an unknown label, or a model without an energy.
        """
        self._check_energy()
        x = self.model.to_units(x)
        if label is None:
            return -self._for_each(
                lambda params, key, x: self.model.marginal_energy_fn(params, x), [x], 'log p(x)'
            )
        labels = self._one_each(label, len(x))
        return -self._for_each(
            lambda params, key, x, label: self.model.energy_fn(params, x, label),
            [x, labels],
            'log p(x|y)',
        )

    def logits(self, x: ArrayLike) -> np.ndarray:
        """f(x), log p(y|x) up to a constant for each example: [N, ...] -> [N, C].

        Raises: InputError where the model is not a classifier.
        """
        classifier = self._classifier()

        def one(params, key, x):
            return classifier.logits(params, x)

        return self._for_each(one, [self.model.to_units(x)], 'logits')

    def class_probs(self, x: ArrayLike) -> np.ndarray:
        """p(y|x): examples [N, ...] -> [N, C].

        Raises: InputError where the model is not a classifier.
        """
        return np.asarray(jax.nn.softmax(jnp.asarray(self.logits(x))))

    def sample(
        self,
        key: Key,
        num: int,
        *,
        label: ArrayLike | None = None,
        num_steps: int | None = None,
    ) -> np.ndarray:
        """New samples, by chains from the initial distribution: [num, ...] in network units.

        Args:
          label: of all samples, or of each, int [num]; default p(x), or the classes in turn where
            the model has only energies of classes.
          num_steps: of each chain, default as configured.
        Raises: InputError for an unknown label, num < 1 or num_steps < 0.
        """
        if num < 1:
            raise InputError(f'num must be at least 1, got {num}')
        labels = self.model.labels(num) if label is None else self._one_each(label, num)
        steps = self._steps(num_steps)
        name = ('fresh samples', steps)
        chain = self._programs.setdefault(name, self.model.compiled_chain(steps))
        return run_compiled(chain, key, self.params, labels, description='fresh samples')

    def reconstruct(
        self, key: Key, x: ArrayLike, labels: ArrayLike | None = None, num_steps: int | None = None
    ) -> np.ndarray:
        """g(z) with z inferred from x, by q and then `num_steps` of the chain in z: [N, ...] ->
        [N, ...], in network units.

        Args: labels: int [N], for conditional networks.
        Raises: InputError without a generator.
        """
        model, spec = self._generator()
        steps = spec.num_steps if num_steps is None else num_steps

        def one(params, key, x, *label):
            return apply_latent.reconstruct(model, params, key, x, *label, steps=steps)

        inputs = [self.model.to_units(x), *self._labels(labels, len(np.asarray(x)))]
        return self._for_each(one, inputs, 'reconstructions', key, static=(steps,))

    def interpolate(
        self,
        key: Key,
        x_a: ArrayLike,
        x_b: ArrayLike,
        num: int = 10,
        labels: ArrayLike | None = None,
        num_steps: int | None = None,
    ) -> np.ndarray:
        """Paths from x_a to x_b through the latent space: [N, ...] each -> [N, num, ...].

        Args: labels: int [N], of both ends, for conditional networks.
        Raises: InputError without a generator.
        """
        model, spec = self._generator()
        steps = spec.num_steps if num_steps is None else num_steps

        def one(params, key, x_a, x_b, *label):
            ends = [*label, *label]
            return apply_latent.interpolate(
                model, params, key, x_a, x_b, *ends, num=num, steps=steps
            )

        inputs = [self.model.to_units(x) for x in (x_a, x_b)]
        inputs += self._labels(labels, len(inputs[0]))
        return self._for_each(one, inputs, 'interpolations', key, static=(num, steps))

    def inpaint(
        self,
        key: Key,
        x: ArrayLike,
        known: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        num_steps: int | None = None,
        z_steps: int | None = None,
        starts: int | None = None,
        fill: ArrayLike = 0.0,
    ) -> np.ndarray:
        """Examples with what is not known filled in: [N, ...] -> [N, ...] in network units, equal
        to x where it is known.

        By a generator where there is one (`apply.latent.inpaint`), else by a chain of the energy
        from its initial distribution (`apply.refine.refine`).

        Args:
          known: bool, broadcast to x.
          labels: of all, or of each, int [N]; conditional networks need them; default p(x).
          num_steps, z_steps: of the chain in x and in z, default as configured.
          starts: chains in z of which the best is taken (`apply.latent.infer`), default as
            configured.
          fill: what the inference model sees in place of what is hidden, broadcast to one example,
            in network units, such as the mean of the training images.
        Raises: InputError for another shape, an unknown label, num_steps < 0 or starts < 1.
        """
        model, x = self.model, self.model.to_units(x)
        given, steps = self._known(known, x), self._steps(num_steps)
        if starts is not None and (starts < 1 or model.latent is None):
            raise InputError(
                f'starts={starts}: it must be at least 1, and is of models with a generator'
            )
        if model.latent is not None:
            generator, spec = self._generator()
            steps_in_z = spec.inpaint_steps if z_steps is None else z_steps
            chains = spec.inpaint_starts if starts is None else starts

            def by_generator(params, key, x, known, fill, *label):
                return apply_latent.inpaint(
                    generator,
                    params,
                    key,
                    x,
                    known,
                    *label,
                    z_steps=steps_in_z,
                    x_kernel=model.kernel(),
                    x_steps=steps,
                    fill=fill,
                    starts=chains,
                )

            fills = np.broadcast_to(np.asarray(fill, np.float32), x.shape)
            inputs = [x, given, fills, *self._labels(labels, len(x))]
            static = steps, steps_in_z, chains
            return self._for_each(by_generator, inputs, 'in-painting', key, static=static)

        def by_energy(params, key, x, known, label):
            initial_key, key = jax.random.split(key)
            begin = jnp.where(known, x, model.initial_sampler(params, initial_key, label))
            energy_fn = partial(model.energy_fn, params, label=label)
            return refine(key, energy_fn, model.kernel(), begin, steps, known)

        inputs = [x, given, self._labels_or_free(labels, len(x))]
        return self._for_each(by_energy, inputs, 'in-painting', key, static=(steps,))

    def refine(
        self,
        key: Key,
        x: ArrayLike,
        labels: ArrayLike | None = None,
        num_steps: int | None = None,
    ) -> np.ndarray:
        """Examples after a chain of the energy that begins at them: [N, ...] -> [N, ...] in network
        units.

        Args:
          labels: of all, or of each, int [N]; default p(x).
          num_steps: of the chain, default as configured.
        Raises: InputError for another shape, an unknown label, num_steps < 0, or a model without an
          energy.
        """
        self._check_energy()
        model, x, steps = self.model, self.model.to_units(x), self._steps(num_steps)

        def one(params, key, x, label):
            energy_fn = partial(model.energy_fn, params, label=label)
            return refine(key, energy_fn, model.kernel(), x, steps)

        inputs = [x, self._labels_or_free(labels, len(x))]
        return self._for_each(one, inputs, 'refining', key, static=(steps,))

    def classify_sound(self, sound: np.ndarray) -> np.ndarray:
        """p(y|x) of a recording, float [n] in [-1, 1] at the model's rate: of each frame [T, C], or
        of the whole [C]; classes as in `model.spec.class_names`.

        Raises: InputError where the model is not one of recordings, or not a classifier.
        """
        frontend = self._frontend()
        (logits,) = sequences.recording_logits(
            self._classifier().logits, self.params, frontend, [frontend.sequence(sound)]
        )
        return np.asarray(jax.nn.softmax(jnp.asarray(logits)))

    def generate_features(
        self, key: Key, frames: int, labels: ArrayLike = UNCONDITIONAL, num_steps: int | None = None
    ) -> np.ndarray:
        """Features of `frames` frames, of one window at least, [T, F, 1] in network units, by a
        chain on the sum of its windows' energies.

        Args: labels: of each frame, int [frames], or one for all.
        Raises: InputError where the model is not one of recordings, and for labels that it does not
          know or that are not as many as frames.
        """
        frontend, labels = self._frontend(), np.asarray(labels)
        if frames < 1 or labels.shape not in ((), (frames,)):
            raise InputError(
                f'give at least one frame, and one label or as many as frames, got {frames} frames '
                f'and labels of shape {list(labels.shape)}'
            )
        self._check_known(labels)
        return sequences.generate_features(
            self.model.chain_energy_fn,
            self.params,
            key,
            self.model.kernel(),
            self.model.initial_sampler,
            frontend,
            np.broadcast_to(labels, (frames,)),
            self.model.num_steps(num_steps),
        )

    def generate_sound(
        self, key: Key, frames: int, labels: ArrayLike = UNCONDITIONAL, num_steps: int | None = None
    ) -> np.ndarray:
        """Sound of `frames` frames, of one window at least, float [n], see `generate_features`."""
        return self._frontend().sound(self.generate_features(key, frames, labels, num_steps))

    def denoise_sound(
        self,
        key: Key,
        sound: np.ndarray,
        *,
        num_steps: int = 100,
        step_size: float = 0.2,
        noise: float = 0.005,
        anchor: float = 2.0,
        percentile: float = 30.0,
    ) -> np.ndarray:
        """A recording with less noise, by a chain from its features: float [n] in [-1, 1] at the
        model's rate -> [n]; see `apply.sequences.denoise_features`.

        Raises: InputError where the model is not one of recordings, or has no energy.
        """
        frontend = self._frontend()
        self._check_energy()
        (features,) = sequences.denoise_features(
            self.model.marginal_energy_fn,
            self.params,
            key,
            mcmc.langevin(step_size, noise_scale=noise),
            frontend,
            [frontend.sequence(sound)],
            num_steps,
            anchor=anchor,
            percentile=percentile,
        )
        return frontend.sound(features)

    def export(self, folder: str | pathlib.Path, commands: str = '') -> str:
        """Write the model to a self-contained folder.

        Args: commands: that made it, for the card.
        Returns: the SHA-256 of the weights.
        Raises: InputError for a folder that holds something else, or cannot be written.
        """
        return exported.write(
            pathlib.Path(folder),
            self.model.spec,
            self.params,
            self.step,
            settings=self.settings,
            metrics=self.metrics,
            commands=commands,
        )

    def check_label(self, label: int | None) -> None:
        """Refuse a label that the energy does not know.

        Raises: InputError.
        """
        if label is None or self.model.class_conditional and 0 <= label < self.num_classes:
            return
        if self.model.class_conditional:
            raise InputError(f'label {label} must lie in 0 to {self.num_classes - 1}, the classes')
        raise InputError(
            f'label {label} cannot be drawn: this model has one energy for all classes, leave the '
            'label out'
        )

    def _check_energy(self):
        if not self.model.has_energy:
            raise InputError('this model has no energy: it has a generator, see sample')

    def _classifier(self):
        if self.model.classifier is None:
            raise InputError('this model is not a classifier: it has log_prob and sample')
        return self.model.classifier

    def _generator(self):
        if self.model.latent is None:
            raise InputError('this model has no generator: it has log_prob and sample')
        return self.model.latent, self.model.spec.latent

    def _frontend(self):
        if self.model.speech is None:
            raise InputError('this model was not trained on recordings: it knows no sound')
        return self.model.speech

    def _labels(self, labels, n):
        """What conditional networks of a generator take. Raises: InputError."""
        if not self.model.spec.conditional:
            if labels is not None:
                raise InputError('the networks of this model take no labels: leave them out')
            return []
        return [self._one_each(labels, n)]

    def _steps(self, num_steps):
        """Steps of a chain in x, as asked for or as configured. Raises: InputError."""
        if num_steps is not None and num_steps < 0:
            raise InputError(f'num_steps must be at least 0, got {num_steps}')
        return self.model.num_steps(num_steps)

    def _one_each(self, label, n):
        """int32 [n] of one label for all, or one for each. Raises: InputError, also for none."""
        if label is None:
            raise InputError(
                f'the networks of this model are conditional: give labels, {n} integers'
            )
        labels = np.asarray(label)
        if labels.shape not in ((), (n,)) or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(
                f'labels must be one integer, or as many as the {n} examples, got '
                f'{labels.dtype} {list(labels.shape)}'
            )
        for one in np.unique(labels):
            self.check_label(int(one))
        return np.broadcast_to(labels, (n,)).astype(np.int32)

    def _labels_or_free(self, labels, n):
        """As `_one_each`; without labels UNCONDITIONAL where the model has such an energy. Raises:
        InputError where it has not."""
        if labels is None and self.model.unconditional:
            return np.full(n, UNCONDITIONAL, np.int32)
        return self._one_each(labels, n)

    def _known(self, known, x):
        """bool like x. Raises: InputError."""
        try:
            return np.broadcast_to(np.asarray(known, bool), x.shape)
        except ValueError as error:
            raise InputError(
                f'known must be a mask that can be broadcast to {list(x.shape)}, got '
                f'{list(np.shape(known))}'
            ) from error

    def _check_known(self, labels):
        """Raises: InputError for a label that the energy does not take: one that is neither a class
        nor UNCONDITIONAL, a class where there is one energy for all, UNCONDITIONAL where there is
        none."""
        labels, last = np.ravel(labels), self.num_classes - 1
        classes = labels[labels != UNCONDITIONAL]
        strange = classes[(classes < 0) | (classes > last)]
        if len(strange):
            raise InputError(f'labels are 0 to {last}, got {strange[0]}')
        if len(classes) and not self.model.class_conditional:
            self.check_label(int(classes[0]))
        if len(classes) < len(labels) and not self.model.unconditional:
            raise InputError(
                'this model has one energy for each class, and none for all: give labels, from 0 '
                f'to {last}'
            )

    def _for_each(self, one, inputs, description, key=None, static=()):
        """`one` of each example; static: whatever else makes it another function."""
        key = jax.random.key(0) if key is None else key
        program = self._programs.setdefault((description, *static), batching.mapped(one))
        run = partial(program, key=key)
        return batching.in_batches(run, self.params, inputs, description=description)


def load(
    path: str | pathlib.Path, *, networks: Mapping[str, Network] | None = None
) -> TrainedModel:
    """Open a trained model: a run (its newest complete checkpoint) or an exported folder.

    Args: networks: those from outside ebm_jax, by their names, such as {'network': mine}.
    Raises: InputError for a folder that is neither, is damaged, or needs such a network.
    """
    path = pathlib.Path(path)
    content = exported.read_config(path)
    if 'model' not in content:
        raise InputError(
            f'{path / exported.CONFIG} does not describe its model: train by '
            'Recipe(description=...), see ebm_jax.spec'
        )
    try:
        model = build(ModelSpec.from_json(content['model']), networks)
    except InputError as error:
        raise InputError(f'{path}: {error}') from error
    if exported.is_export(path):
        return _load_export(path, content, model)
    with Checkpoints(path / 'checkpoints', read_only=True) as checkpoints:
        step, params = checkpoints.restore_eval_params()
    params = exported.matched(path, model, named_leaves(params))
    settings = {name: value for name, value in content.items() if name != 'model'}
    return TrainedModel(
        model=model, params=params, step=step, settings=settings, metrics=read_summary(path)
    )


def _load_export(path, content, model):
    params = exported.matched(path, model, exported.weights(path, content))
    try:
        return TrainedModel(
            model=model,
            params=params,
            step=int(content['step']),
            settings=dict(content['settings']),
            metrics=dict(content['metrics']),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f'{path / exported.CONFIG} lacks a part of an exported model, or holds a wrong one '
            f'({type(error).__name__}: {error}): it is damaged, copy the folder again'
        ) from error
