"""Energies, weights and losses as functions of a batch's energies or logits.

Logits f(x) in R^C give all of JEM's energies (Grathwohl et al. 2020):

    E(x, y) = -f(x)[y],   E(x) = -logsumexp_c f(x)[c],   p(y|x) = softmax f(x).

Quantities that couple the batch are computed over ALL devices: a function here returns one device's
share, such that the MEAN over devices of the shares (and of their gradients) is the value over the
whole batch. On one device that is the value itself.
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.nn import log_softmax, logsumexp

from ebm_jax import devices
from ebm_jax.labels import at_label
from ebm_jax.shapes import check_same_shape, check_shape
from ebm_jax.types import UNCONDITIONAL, Array, ArrayLike, Weights
from ebm_jax.validity import EXCLUDED, masked_mean


def joint_energy(logits: Array, label: ArrayLike) -> Array:
    """E(x, y) = -f(x)[y]. logits [C], label in [0, C) -> scalar.

    Source: Grathwohl et al. 2020, section 3.
    """
    check_shape('logits', logits, (None,), '[C], of one example')
    return -at_label(logits, label)


def marginal_energy(logits: Array) -> Array:
    """E(x) = -logsumexp_c f(x)[c]. logits [C] -> scalar. Grathwohl et al. 2020, section 3."""
    check_shape('logits', logits, (None,), '[C], of one example')
    return -logsumexp(logits)


def energy_of(logits: Array, label: ArrayLike) -> Array:
    """E(x, y), or E(x) where the label is UNCONDITIONAL. logits [C], label int -> scalar."""
    return jnp.where(label == UNCONDITIONAL, marginal_energy(logits), joint_energy(logits, label))


def labelled_mean(values: Array, labels: Array) -> Array:
    """This device's share of the mean over the examples of all devices that have a label; 0 where
    none has. values [N], labels [N] with UNCONDITIONAL for no label -> scalar."""
    check_same_shape('values and labels', values, labels)
    known = labels != UNCONDITIONAL
    count = devices.mean(jnp.sum(known).astype(values.dtype))
    return jnp.sum(jnp.where(known, values, 0.0)) / jnp.where(count > 0, count, 1.0)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """-mean_i log softmax f(x_i)[y_i] over the examples that have a label.

    logits [N, C], labels [N] with UNCONDITIONAL for no label -> scalar, this device's share; not a
    number where a label is neither that nor in [0, C).
    """
    _check_logits(logits, labels)
    known = (labels >= UNCONDITIONAL) & (labels < logits.shape[-1])
    log_p = jnp.where(known, at_label(log_softmax(logits), labels), jnp.nan)
    return -labelled_mean(log_p, labels)


def uniform(e_pos: Array, e_neg: Array) -> Weights:
    """Contrastive divergence: w = 1/M on each of M negatives, 0 on the positives and on negatives
    whose energy is EXCLUDED.

    [N, ...], [M, ...] -> Weights of these shapes.
    """
    _check_energies(e_pos, e_neg)
    counts = (e_neg < EXCLUDED).astype(e_neg.dtype)
    return Weights(jnp.zeros_like(e_pos), counts / devices.mean(jnp.sum(counts, 0)))


def balanced(
    e_pos: Array, e_neg: Array, *, beta: float = 1.0, include_positives: bool = True
) -> Weights:
    """Softmax over the batch, along the leading axis.

        w_k = exp(-beta E_k) / sum_{j in S} exp(-beta E_j)

    S contains the negatives and, by default, the positives. The coefficients of the contrast then
    sum to zero, and negatives that are far above the positives in energy teach nothing. beta = 0 is
    `uniform` when positives are excluded, and `uniform`'s gradient times M / (N + M) when they are
    included. A negative whose energy is EXCLUDED is not in S.

    Args: e_pos: [N, ...] and e_neg: [M, ...] energies; beta: inverse temperature, >= 0.
    Returns: Weights.
    Raises: ValueError for beta < 0.
    Source: our reading of ST-JEM (arXiv 2303.04187), consistent with its author's public code.
    """
    if beta < 0:
        raise ValueError(f'beta must be at least 0, got {beta}')
    _check_energies(e_pos, e_neg)
    log_pos, log_neg = stop_gradient(
        (-beta * e_pos, jnp.where(e_neg < EXCLUDED, -beta * e_neg, -jnp.inf))
    )
    everyone = devices.gather(jnp.concatenate([log_pos, log_neg]) if include_positives else log_neg)
    total = logsumexp(everyone, axis=0)

    def share(log_w):
        return jnp.exp(log_w - total) * devices.count()

    return Weights(share(log_pos) if include_positives else jnp.zeros_like(e_pos), share(log_neg))


def logistic(e_pos: Array, e_neg: Array) -> Weights:
    """The weights by which `contrast` has the gradient of binary cross-entropy between positives
    and negatives, with sigmoid(-E) as the probability of being a positive:

        L = -mean log sigmoid(-E(x+)) - mean log(1 - sigmoid(-E(x-)))

    Positives are pulled by 1 - sigmoid(-E), negatives pushed by sigmoid(-E): an example that is on
    its side of E = 0 teaches little, so the loss has a lower bound and energies an absolute scale.
    Unlike those of other rules these weights need not sum to 1. A negative whose energy is EXCLUDED
    has weight 0.

    [N, ...], [M, ...] -> Weights of these shapes.
    Source: Yin et al. 2022; dual adversarial training.
    """
    _check_energies(e_pos, e_neg)
    counts = (e_neg < EXCLUDED).astype(e_neg.dtype)
    return Weights(
        jax.nn.sigmoid(-e_pos) / len(e_pos),
        jax.nn.sigmoid(-e_neg) * counts / devices.mean(jnp.sum(counts, 0)),
    )


def contrast(e_pos: Array, e_neg: Array, weights: Weights) -> tuple[Array, Array]:
    """The two terms of mean E(x+) - sum_{k in S} w_k E(x_k): (positives, negatives), to be
    summed.

    Args:
      e_pos, e_neg: energies [N] and [M], with gradient.
      weights: Weights of the same shapes, taken without gradient.
    Returns: (mean E(x+), -sum w E), scalars. With `uniform`: Grathwohl et al. 2020, section 2; with
      `balanced`: the gradient of L_x = -(1/N) sum_i [s(x_i) - logsumexp_S s], s = -E (our reading
      of ST-JEM).
    """
    check_shape('e_pos', e_pos, (None,), '[N], one energy for each example')
    check_shape('e_neg', e_neg, (None,), '[M], one energy for each negative')
    check_same_shape('weights.positives and e_pos', weights.positives, e_pos)
    check_same_shape('weights.negatives and e_neg', weights.negatives, e_neg)
    weights = stop_gradient(weights)
    return jnp.mean(e_pos), -jnp.sum(weights.positives * e_pos) - jnp.sum(weights.negatives * e_neg)


def scores(e_pos: Array, e_neg: Array, keep: Array) -> dict[str, Array]:
    """What is logged of a batch's energies, as s(x) = -E(x): means of positives, of negatives that
    are kept, and their difference."""
    positives, negatives = -jnp.mean(e_pos), -masked_mean(e_neg, keep)
    return {'s_positives': positives, 's_negatives': negatives, 's_gap': positives - negatives}


def class_contrast(
    logits_pos: Array, labels: Array, logits_neg: Array, weights: Weights
) -> tuple[Array, Array]:
    """The contrast of log p(x|y): as `contrast`, on joint energies, with a set of weights for each
    class.

        mean_i E(x_i, y_i) - sum_c (n_c / N) sum_{k in S} w_kc E(x_k, c)

    with n_c the number of examples of class c in the batch. With weights from `balanced` its
    gradient is that of

        L_xy = (1/N) [sum_c n_c logsumexp_S f[c] - sum_i f(x_i)[y_i]]

    Examples without a label (UNCONDITIONAL) are in S alone; N counts the others.

    Args:
      logits_pos, labels, logits_neg: [N, C], [N], [M, C].
      weights: rule(-logits_pos, -logits_neg), taken without gradient.
    Returns: (positives, negatives), scalars.
    Source: our reading of ST-JEM.
    """
    _check_logits(logits_pos, labels, logits_neg)
    check_same_shape('weights.positives and logits_pos', weights.positives, logits_pos)
    check_same_shape('weights.negatives and logits_neg', weights.negatives, logits_neg)
    weights = stop_gradient(weights)
    share = class_shares(labels, logits_pos.shape[-1])
    pushed = jnp.sum(weights.positives * logits_pos, 0) + jnp.sum(weights.negatives * logits_neg, 0)
    return -labelled_mean(at_label(logits_pos, labels), labels), share @ pushed


def class_shares(labels: Array, num_classes: int) -> Array:
    """n_c / N over the examples of all devices that have a label: labels [N] -> [C]."""
    ones = jax.nn.one_hot(labels, num_classes)
    return devices.mean(jax.vmap(labelled_mean, (1, None))(ones, labels))


def batch_information(logits_pos: Array, labels: Array, logits_neg: Array) -> Array:
    """Mutual information of the batch.

        I = (1/N) sum_i log[q(x_i, y_i) / (q(x_i) q(y_i))] = L_x - L_xy
        q(x, y) = exp f(x)[y] / sum_{x' in S, c} exp f(x')[c],   S = positives and negatives

    A value to be logged, without gradient; the gradient that ST-JEM takes of it is `contrast` minus
    `class_contrast`. Examples without a label (UNCONDITIONAL) are in S alone.

    Args: logits_pos [N, C], labels [N], logits_neg [M, C].
    Returns: scalar in nats, the same on every device.
    Source: our reading of ST-JEM.
    """
    _check_logits(logits_pos, labels, logits_neg)
    logits_pos, labels, logits_neg = devices.gather((logits_pos, labels, logits_neg))
    everyone = jnp.concatenate([logits_pos, logits_neg])
    total = logsumexp(everyone)
    log_xy = at_label(logits_pos, labels) - total
    log_x = logsumexp(logits_pos, 1) - total
    log_y = at_label(logsumexp(everyone, 0) - total, labels)
    known = labels != UNCONDITIONAL  # of all devices
    ratio = jnp.where(known, log_xy - log_x - log_y, 0.0)
    return jnp.sum(ratio) / jnp.maximum(jnp.sum(known), 1)


def entropy_information(logits: Array) -> Array:
    """Mutual information in entropy form, with gradient.

        I = H(mean_i p(y|x_i)) - mean_i H(p(y|x_i))

    Args: logits [N, C] of this device.
    Returns: scalar; its mean over devices is I in nats, in [0, log C].
    Source: Bridle et al. 1991; as another reading of ST-JEM's regulariser, ours.
    """
    check_shape('logits', logits, (None, None), '[N, C]')
    p, log_p = jax.nn.softmax(logits), log_softmax(logits)
    mine = jnp.mean(p, 0)
    # d H(q) = -log q . dq, so log q of the whole batch may be held constant.
    marginal = devices.mean(mine)
    # p log p -> 0 where p underflows
    log_marginal = stop_gradient(jnp.log(jnp.maximum(marginal, jnp.finfo(marginal.dtype).tiny)))
    return -mine @ log_marginal + jnp.mean(jnp.sum(p * log_p, 1))


def effective_sample_size(weights: Weights) -> Array:
    """(sum_k w_k)^2 / sum_k w_k^2 over all devices: 1 (one example takes all) to N + M (uniform).

    Weights [N, ...], [M, ...] -> [...].
    """
    own = [w / devices.count() for w in weights]
    total = devices.total(sum(jnp.sum(w, 0) for w in own))
    return total**2 / devices.total(sum(jnp.sum(jnp.square(w), 0) for w in own))


def gaussian_nll(value: Array, mean: Array, log_variance: Array) -> Array:
    """-log N(value; mean, diag exp(log_variance)) in nats. All [D] -> scalar."""
    check_same_shape('value, mean and log_variance', value, mean, log_variance)
    return 0.5 * jnp.sum(
        jnp.square(value - mean) * jnp.exp(-log_variance) + log_variance + jnp.log(2 * jnp.pi)
    )


def gaussian_kl(mean: Array, log_variance: Array) -> Array:
    """KL(N(mean, diag exp(log_variance)) || N(0, I)) in nats. [D], [D] -> scalar."""
    check_same_shape('mean and log_variance', mean, log_variance)
    return 0.5 * jnp.sum(jnp.exp(log_variance) + jnp.square(mean) - 1 - log_variance)


def reparametrised(noise: Array, mean: Array, log_variance: Array) -> Array:
    """mean + exp(log_variance / 2) noise: a sample of N(mean, diag exp(log_variance)) where noise
    is one of N(0, I). All [D] -> [D]."""
    check_same_shape('noise, mean and log_variance', noise, mean, log_variance)
    return mean + jnp.exp(0.5 * log_variance) * noise


def reconstruction_nll(x: Array, mean: Array, sigma: ArrayLike, mask: ArrayLike = 1.0) -> Array:
    """-log N(x; mean, sigma^2 I) up to a constant, over the pixels where mask is 1.

        |mask (x - mean)|^2 / (2 sigma^2)

    [...] -> scalar.
    """
    check_same_shape('x and mean', x, mean)
    return jnp.sum(mask * jnp.square(x - mean)) / (2 * sigma**2)


def latent_energy(
    z: Array, x: Array, mean: Array, sigma: ArrayLike, mask: ArrayLike = 1.0
) -> Array:
    """-log p(z|x) up to a constant, for p(z) = N(0, I) and p(x|z) = N(mean, sigma^2 I).

        |z|^2 / 2 + reconstruction_nll

    Args:
      z: [D]. x, mean: of one shape; mean is a generator's g(z). sigma: > 0.
      mask: of that shape, 1 where x is known and 0 elsewhere.
    Source: Han et al. 2017; Cui & Han 2023, section 3.2.
    """
    check_shape('z', z, (None,), '[D]')
    return 0.5 * jnp.sum(jnp.square(z)) + reconstruction_nll(x, mean, sigma, mask)


def energy_square(e_pos: Array, e_neg: Array, keep: Array) -> Array:
    """mean E(x+)^2 + mean E(x-)^2 over negatives that are kept: keeps energies, known only up to a
    shift, near zero. Du & Mordatch 2019.

    e_pos [N, ...], e_neg [M, ...], keep bool [M] -> scalar.
    """
    check_shape('keep', keep, (len(e_neg),), '[M], one for each of e_neg')
    return jnp.mean(jnp.square(e_pos)) + masked_mean(jnp.square(e_neg), keep)


def nearest_neighbour_entropy(x: Array, population: Array, present: Array) -> Array:
    """Entropy of x by nearest neighbours, up to scale and constant: the mean over i of
    log min_b |x_i - b|_2, gradient in x.

        H(q) = D mean_i log r_i + log P + log V_D + gamma
        V_D = pi^(D/2) / Gamma(D/2 + 1),   gamma = .5772...

    is the estimate for P past samples of the same distribution (Kozachenko & Leonenko 1987); only
    mean log r has a gradient, and D goes into its weight. A distance of zero counts as the smallest
    float.

    Args:
      x: [n, ...]. population: [P, ...], without gradient.
      present: bool [P], which entries count; at least one.
    Returns: [n], the terms of that mean.
    Source: Du et al. 2021, eq. 12.
    """
    _check_population(x, population, present)
    x, population = x.reshape(len(x), -1), stop_gradient(population.reshape(len(population), -1))
    nearest = population[
        jnp.argmin(jnp.where(present, _squared_distances(stop_gradient(x), population), jnp.inf), 1)
    ]
    # recomputed exactly: the products above cancel where two points are close
    squared = jnp.sum(jnp.square(x - nearest), 1)
    return 0.5 * jnp.log(jnp.maximum(squared, jnp.finfo(squared.dtype).tiny))


def kernel_entropy(x: Array, population: Array, present: Array) -> Array:
    """Entropy of x by a Gaussian kernel, up to a constant: the mean over i of

        -log mean_b exp(-|x_i - b|^2 / (2 h^2))

    with gradient in x. Pairwise repulsion in place of `nearest_neighbour_entropy`: every past
    sample pushes, near ones more. h^2 is the mean squared distance of x (on all devices) to the
    population over 2 D, without gradient. Adding (D / 2) log(2 pi h^2) makes it an entropy.

    Args and returns: as in `nearest_neighbour_entropy`.
    Source: our reading; the paper names the nearest neighbour only.
    """
    _check_population(x, population, present)
    x, population = x.reshape(len(x), -1), stop_gradient(population.reshape(len(population), -1))
    squared = _squared_distances(x, population)
    # finite even where nothing is present
    share = jnp.where(jnp.any(present), present, True) / jnp.maximum(jnp.sum(present), 1)
    width = stop_gradient(devices.mean(jnp.mean(squared @ share)) / (2 * x.shape[1]))
    return -logsumexp(
        -squared / (2 * jnp.maximum(width, jnp.finfo(width.dtype).tiny)), axis=1, b=share
    )


def _squared_distances(x, population):
    """[n, D], [P, D] -> [n, P], by products: n P D operations and no array of that size."""
    return jnp.maximum(
        jnp.sum(x * x, 1)[:, None] - 2 * x @ population.T + jnp.sum(population * population, 1), 0.0
    )


def _check_energies(e_pos, e_neg):
    """[N, ...] and [M, ...]."""
    check_shape('e_pos', e_pos, (None, ...), '[N, ...], with a leading axis of examples')
    check_shape('e_neg', e_neg, (None, *e_pos.shape[1:]), '[M, ...], as e_pos but for its length')


def _check_logits(logits, labels, logits_neg=None):
    """[N, C], [N] and, where given, [M, C]."""
    check_shape('logits', logits, (None, None), '[N, C]')
    check_shape('labels', labels, (len(logits),), '[N], one for each row of the logits [N, C]')
    if logits_neg is not None:
        classes = logits.shape[1]
        check_shape('logits_neg', logits_neg, (None, classes), '[M, C], as the positives')


def _check_population(x, population, present):
    """[n, ...], [P, ...] and [P]."""
    check_shape('x', x, (None, None, ...), '[n, ...]')
    check_shape('population', population, (None, *x.shape[1:]), '[P, ...], as x but for its length')
    check_shape('present', present, (len(population),), '[P], one for each of the population')
