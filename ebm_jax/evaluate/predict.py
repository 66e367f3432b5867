"""What a model says of examples, over whole data sets: logits, and scores by which familiar ones are told from others."""
import jax
import jax.numpy as jnp

from ebm_jax import devices
from ebm_jax.objectives import marginal_energy

CLASSIFIER_SCORES = {'log_px': 'log p(x) + log Z = logsumexp_c f(x)[c]', 'max_py': 'max_y p(y|x)', 'grad_norm': '-|grad_x log p(x)|'}
ENERGY_SCORES = {'energy': '-E(x) = log p(x) + log Z', 'grad_norm': '-|grad_x log p(x)|'}


def classifier_view(network):
    """(params, x) -> logits [C] and CLASSIFIER_SCORES of a network whose logits are energies; higher scores mean more familiar."""
    def view(params, x):
        logits, pull = jax.vjp(lambda u: network.apply(params, u), x)
        energy, to_logits = jax.value_and_grad(marginal_energy)(logits)
        grad, = pull(to_logits)
        return {'logits': logits, 'log_px': -energy, 'max_py': jnp.max(jax.nn.softmax(logits)), 'grad_norm': -jnp.linalg.norm(grad)}
    return view


def energy_view(energy_fn):
    """(params, x) -> ENERGY_SCORES of an energy (params, x) -> scalar; higher scores mean more familiar."""
    def view(params, x):
        energy, grad = jax.value_and_grad(energy_fn, 1)(params, x)
        return {'energy': -energy, 'grad_norm': -jnp.linalg.norm(grad)}
    return view


def predictor(view, prepare):
    """A compiled function (params, key, raw examples [n, ...]) -> {name: [n, ...]}.

    Args: view: (params, x) -> {name: value} of one example. prepare: (key, raw x) -> x, draws its noise from the key.
    """
    def one(params, key, x):
        return view(params, prepare(key, x))

    return jax.jit(lambda params, key, x: jax.vmap(one, (None, 0, 0))(params, jax.random.split(key, len(x)), x))


def over(predict, params, examples, *, seed=0, batch_size=256, description='predicting'):
    """{name: [N, ...]} for all examples, in batches, over all local devices.

    Args: predict: from `predictor`. params: on any devices. examples: data.Examples. batch_size: rounded up to a multiple of the
      number of devices.
    """
    one_batch = lambda params, begin, x: predict(params, jax.random.fold_in(jax.random.key(seed), begin), x)
    return devices.in_batches(one_batch, params, [examples.x], batch_size=batch_size, description=f'{description} {examples.name}')
