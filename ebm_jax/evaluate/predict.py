"""Logits and scores of a classifier that is an energy-based model, over whole data sets."""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ebm_jax import devices
from ebm_jax.objectives import marginal_energy


class Predictions(NamedTuple):
    """The network's view of N examples. The last three are scores: higher means more familiar."""
    logits: np.ndarray      # [N, C]
    log_px: np.ndarray      # [N]: s(x) = logsumexp_c f(x)[c] = log p(x) + log Z
    max_py: np.ndarray      # [N]: max_y p(y|x)
    grad_norm: np.ndarray   # [N]: -|grad_x log p(x)|


def predictor(network, prepare):
    """A compiled function (params, key, raw examples [n, ...]) -> Predictions of them; `prepare` draws its noise from the key."""
    def one(params, key, x):
        x = prepare(key, x)
        logits, pull = jax.vjp(lambda u: network.apply(params, u), x)
        energy, to_logits = jax.value_and_grad(marginal_energy)(logits)
        grad, = pull(to_logits)
        return Predictions(logits, -energy, jnp.max(jax.nn.softmax(logits)), -jnp.linalg.norm(grad))

    return jax.jit(lambda params, key, x: jax.vmap(one, (None, 0, 0))(params, jax.random.split(key, len(x)), x))


def over(predict, params, examples, *, seed=0, batch_size=256, description='predicting'):
    """Predictions for all examples, in batches, over all local devices.

    Args: predict: from `predictor`. params: on any devices. examples: data.Examples. batch_size: rounded up to a multiple of the
      number of devices.
    """
    split, whole, n = devices.batch_placement()
    batch_size += -batch_size % n
    params = jax.device_put(params, whole)
    parts = []
    starts = range(0, len(examples.x), batch_size)
    for start in tqdm(starts, desc=f'{description} {examples.name}', unit='batch', delay=2, leave=False):
        x = examples.x[start:start + batch_size]
        padded = np.concatenate([x, np.repeat(x[-1:], batch_size - len(x), 0)])
        key = jax.random.fold_in(jax.random.key(seed), start)
        found = jax.device_get(predict(params, key, jax.device_put(padded, split)))
        parts.append(jax.tree.map(lambda leaf, n=len(x): leaf[:n], found))
    return Predictions(*(np.concatenate(leaves) for leaves in zip(*parts)))
