"""Predictions of a model over whole data sets: logits, and scores that tell familiar examples from
others."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import batching
from ebm_jax.apply import latent
from ebm_jax.data import Examples
from ebm_jax.objectives import marginal_energy
from ebm_jax.types import Array, Key, Params, Transition

View = Callable[[Params, Array], dict[str, Array]]  # (params, x) -> {name: value} of one example
Predictor = Callable[[Params, Key, Array], dict[str, Array]]  # of a batch of raw examples

CLASSIFIER_SCORES = {
    'log_px': 'log p(x) + log Z = logsumexp_c f(x)[c]',
    'max_py': 'max_y p(y|x)',
    'grad_norm': '-|grad_x log p(x)|',
}
ENERGY_SCORES = {'energy': '-E(x) = log p(x) + log Z', 'grad_norm': '-|grad_x log p(x)|'}


def classifier_view(logits_fn: Callable[[Params, Array], Array]) -> View:
    """(params, x) -> logits [C] and CLASSIFIER_SCORES of a network whose logits are energies;
    higher scores mean more familiar. logits_fn: (params, x) -> [C]."""

    def view(params, x):
        logits, pull = jax.vjp(lambda u: logits_fn(params, u), x)
        energy, to_logits = jax.value_and_grad(marginal_energy)(logits)
        (grad,) = pull(to_logits)
        return {
            'logits': logits,
            'log_px': -energy,
            'max_py': jnp.max(jax.nn.softmax(logits)),
            'grad_norm': -jnp.linalg.norm(grad),
        }

    return view


def energy_view(energy_fn: Callable[[Params, Array], Array]) -> View:
    """(params, x) -> ENERGY_SCORES of an energy (params, x) -> scalar; higher scores mean more
    familiar."""

    def view(params, x):
        energy, grad = jax.value_and_grad(energy_fn, 1)(params, x)
        return {'energy': -energy, 'grad_norm': -jnp.linalg.norm(grad)}

    return view


def joint_view(model: latent.LatentModel, labels: Iterable[int] | None) -> View:
    """(params, x) -> {'joint': `latent.joint_score`}, the largest over labels where there are
    any."""
    conditions = [()] if labels is None else [(label,) for label in labels]

    def view(params, x):
        scores = [latent.joint_score(model, params, x, *label) for label in conditions]
        return {'joint': jnp.max(jnp.stack(scores))}

    return view


def merged(views: Iterable[View]) -> View:
    """One view with the values of all views."""
    views = tuple(views)

    def view(params, x):
        return {name: value for one in views for name, value in one(params, x).items()}

    return view


def predictor(view: View, prepare: Transition) -> Predictor:
    """A compiled function (params, key, raw examples [n, ...]) -> {name: [n, ...]}.

    Args:
      view: (params, x) -> {name: value} of one example.
      prepare: (key, raw x) -> x, draws its noise from the key.
    """

    def one(params, key, x):
        return view(params, prepare(key, x))

    return jax.jit(
        lambda params, key, x: jax.vmap(one, (None, 0, 0))(params, jax.random.split(key, len(x)), x)
    )


def predict_dataset(
    predict: Predictor,
    params: Params,
    examples: Examples,
    *,
    seed: int = 0,
    batch_size: int = 256,
    description: str = 'predicting',
) -> dict[str, np.ndarray]:
    """{name: [N, ...]} for all examples, in batches, over all local devices.

    Args:
      predict: from `predictor`. params: on any devices. seed: of the noise that `prepare` adds.
      batch_size: rounded up to a multiple of the number of devices.
    """

    def one_batch(params, begin, x):
        return predict(params, jax.random.fold_in(jax.random.key(seed), begin), x)

    return batching.in_batches(
        one_batch,
        params,
        [examples.x],
        batch_size=batch_size,
        description=f'{description} {examples.name}',
    )
