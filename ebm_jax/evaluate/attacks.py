"""Adversarial attacks on classifiers: PGD and APGD, in an L2 or Linf ball, of one example.

    maximise loss(f(x + d), y)   subject to |d| <= radius, x + d in the box

Inputs, radii and bounds are in the units of the network's input. The literature's radii are for
pixels in [0, 1]: on [-1, 1] they are twice as large. A predictor is (key, x) -> logits, so that it
may draw random numbers, or refine its input by a chain first (`refining`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import batching
from ebm_jax.labels import at_label
from ebm_jax.mcmc import length, run_chain
from ebm_jax.shapes import check_shape
from ebm_jax.types import Array, ArrayLike, EnergyFn, Kernel, Key, Params

RandomLogits = Callable[[Key, Array], Array]  # (key, x) -> logits [C] of one example
Loss = Callable[[Array, Array], Array]  # (logits [C], label) -> what an attack maximises


class Norm(NamedTuple):
    """The geometry of an attack; x and d are one example of any shape."""

    steepest: Callable[[Array], Array]  # gradient -> ascent direction of norm 1
    project: Callable[[Array, ArrayLike], Array]  # (d, radius) -> the nearest d within the ball
    draw: Callable[[Key, Array, ArrayLike], Array]  # (key, d like this, radius) -> uniform there
    size: Callable[[Array], Array]  # d -> |d|


def _length(d):
    return jnp.sqrt(jnp.sum(jnp.square(d)))


def _draw_l2(key, d, radius):
    """Uniform in the L2 ball: a direction, and a radius r with r^D uniform."""
    direction_key, length_key = jax.random.split(key)
    direction = jax.random.normal(direction_key, d.shape, d.dtype)
    length = jax.random.uniform(length_key) ** (1 / d.size)
    return radius * length * direction / _length(direction)


L2 = Norm(
    steepest=lambda g: g / length(g),
    project=lambda d, radius: d * jnp.minimum(1.0, radius / jnp.maximum(_length(d), 1e-12)),
    draw=_draw_l2,
    size=_length,
)
LINF = Norm(
    steepest=jnp.sign,
    project=lambda d, radius: jnp.clip(d, -jnp.asarray(radius), radius),
    draw=lambda key, d, radius: (
        jax.random.uniform(key, d.shape, d.dtype, minval=-1.0, maxval=1.0) * radius
    ),
    size=lambda d: jnp.max(jnp.abs(d)),
)
NORMS = {'l2': L2, 'linf': LINF}


def cross_entropy(logits: Array, label: Array) -> Array:
    """-log p(y|x). logits [C], label in [0, C) -> scalar."""
    return jax.nn.logsumexp(logits) - at_label(logits, label)


def logit_ratio(logits: Array, label: Array) -> Array:
    """Difference of logits ratio, which does not change when logits are shifted or scaled:

        -(z_y - max_{c != y} z_c) / (z_(1) - z_(3)),   z_(1) >= z_(2) >= ... sorted

    Above 0 where the example is misclassified. logits [C] with C >= 3 -> scalar.
    Raises: ValueError for fewer than 3 classes.
    Source: Croce & Hein 2020, eq. 6 (DLR).
    """
    if logits.shape[-1] < 3:
        raise ValueError(f'the logit ratio needs at least 3 classes, got {logits.shape[-1]}')
    others = jnp.where(jnp.arange(logits.shape[-1]) == label, -jnp.inf, logits)
    ordered = jnp.sort(logits)
    return (jnp.max(others) - at_label(logits, label)) / (ordered[-1] - ordered[-3] + 1e-12)


class Attacked(NamedTuple):
    """What an attack has found for one example."""

    x: Array  # in the ball and in the box; misclassified where the attack succeeded
    loss: Array  # there
    fooled: Array  # bool: whether x is misclassified


class Attack(NamedTuple):
    """An attack as a function: (key, predictor, x, label, radius) -> Attacked, of one example.

    The radius, >= 0, may be traced: one program serves all radii.
    """

    name: str
    run: Callable[[Key, RandomLogits, Array, Array, ArrayLike], Attacked]


def deterministic(logits_fn: Callable[[Array], Array]) -> RandomLogits:
    """x -> logits as a predictor that draws no random numbers."""
    return lambda key, x: logits_fn(x)


def refining(
    logits_fn: Callable[[Array], Array],
    energy_fn: EnergyFn,
    kernel: Kernel,
    num_steps: int,
    *,
    straight_through: bool = False,
) -> RandomLogits:
    """A predictor that runs a chain from its input and classifies where the chain ends.

    Args:
      logits_fn: x -> [C]. energy_fn, kernel, num_steps: of the chain.
      straight_through: an attack's gradient takes the chain as the identity (backward-pass
        differentiable approximation, Athalye et al. 2018); else it is that of the whole chain.
    Source: Grathwohl et al. 2020, section 5.4 (refinement before classification).
    """

    def predict(key, x):
        end, _ = run_chain(key, kernel, energy_fn, x, num_steps)
        if straight_through:
            end = x + jax.lax.stop_gradient(end - x)
        return logits_fn(end)

    return predict


def _better(new, old):
    """The point that is misclassified, or else that of the larger loss."""
    wins = (new.fooled & ~old.fooled) | ((new.fooled == old.fooled) & (new.loss > old.loss))
    return jax.tree.map(partial(jnp.where, wins), new, old)


class _At(NamedTuple):
    """A point of the ascent and the gradient there."""

    point: Attacked
    grad: Array


class _Objective(NamedTuple):
    """What an attack ascends, at one example."""

    predict: RandomLogits
    label: Array
    loss: Loss
    samples: int

    def __call__(self, key, x):
        """The point and the gradient there, in expectation over `samples` draws."""

        def mean_loss(x):
            logits = jax.vmap(self.predict, (0, None))(jax.random.split(key, self.samples), x)
            losses = jax.vmap(self.loss, (0, None))(logits, self.label)
            return jnp.mean(losses), jnp.mean(jax.nn.log_softmax(logits), 0)

        (loss, log_p), grad = jax.value_and_grad(mean_loss, has_aux=True)(x)
        return _At(Attacked(x, loss, jnp.argmax(log_p) != self.label), grad)


def _with_restarts(name, restarts, one):
    """An Attack that runs `one` several times and keeps the best."""
    if restarts < 1:
        raise ValueError(f'restarts must be at least 1, got {restarts}')

    def run(key, predict, x, label, radius):
        keys = jax.random.split(key, restarts)
        found = jax.lax.map(lambda key: one(key, predict, x, label, radius), keys)
        leaves, structure = jax.tree.flatten(found)
        first, *rest = (jax.tree.unflatten(structure, each) for each in zip(*leaves))
        for other in rest:
            first = _better(other, first)
        return first

    return Attack(name, run)


def _check(steps, samples, bounds):
    if steps < 1 or samples < 1:
        raise ValueError(f'steps and samples must be at least 1, got {steps} and {samples}')
    if not bounds[0] < bounds[1]:
        raise ValueError(f'bounds must be (low, high) with low < high, got {tuple(bounds)}')


def _projection(norm, x, radius, bounds):
    """P: a point near x -> the nearest one in the ball around x, then in the box."""
    return lambda there: jnp.clip(x + norm.project(there - x, radius), *bounds)


def pgd(
    norm: Norm,
    *,
    steps: int = 40,
    relative_step: float | None = None,
    random_start: bool = True,
    restarts: int = 1,
    loss: Loss = cross_entropy,
    samples: int = 1,
    bounds: Sequence[float] = (-1.0, 1.0),
) -> Attack:
    """Projected gradient ascent.

        d <- P(d + a steepest(grad loss(f(x + d), y))),   P: onto the ball, then into the box

    Args:
      steps: >= 1. relative_step: a / radius > 0, default 2.5 / steps.
      random_start: d_0 is uniform in the ball, else 0. restarts: independent runs, the best counts.
      samples: draws of the predictor that a gradient is averaged over (expectation over
        transformation); more than 1 for predictors that draw random numbers.
      bounds: the box.
    Returns: Attack.
    Raises: ValueError when a number is out of range.
    Source: Madry et al. 2018; the step size theirs; samples: Athalye et al. 2018.
    """
    _check(steps, samples, bounds)
    relative = 2.5 / steps if relative_step is None else relative_step
    if not relative > 0:
        raise ValueError(f'relative_step must be above 0, got {relative_step}')

    def one(key, predict, x, label, radius):
        a = relative * radius
        start_key, key = jax.random.split(key)
        objective = _Objective(predict, label, loss, samples)

        inside = _projection(norm, x, radius, bounds)

        def step(carry, t):
            best, here, grad = carry
            there = inside(here + a * norm.steepest(grad))
            point, grad = objective(jax.random.fold_in(key, t), there)
            return (_better(point, best), there, grad), None

        start = inside(x + norm.draw(start_key, x, radius)) if random_start else x
        point, grad = objective(jax.random.fold_in(key, steps), start)
        (best, _, _), _ = jax.lax.scan(step, (point, start, grad), jnp.arange(steps))
        return best

    return _with_restarts('pgd', restarts, one)


def checkpoints(steps: int) -> list[int]:
    """The steps at which APGD may halve its step size.

        w_j = ceil(p_j N),  p_0 = 0, p_1 = .22, p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06)

    Source: Croce & Hein 2020, section 3.1.
    """
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    # rounded first: the sums are exact in decimal numbers only
    return sorted({int(np.ceil(round(share * steps, 9))) for share in shares if share <= 1})


def apgd(
    norm: Norm,
    *,
    steps: int = 100,
    restarts: int = 1,
    loss: Loss = cross_entropy,
    samples: int = 1,
    bounds: Sequence[float] = (-1.0, 1.0),
) -> Attack:
    """Auto-PGD: ascent with momentum whose step size follows the progress, without a parameter.

        z = P(x_k + a steepest(g_k))
        x_{k+1} = P(x_k + .75 (z - x_k) + .25 (x_k - x_{k-1})),   a = 2 radius at first

    At each checkpoint a is halved, and the best point so far taken up again, if fewer than .75 of
    the steps since the last one raised the loss, or if neither a nor the best loss has changed
    since.

    Args: as `pgd`; loss: `cross_entropy` (APGD-CE) or `logit_ratio` (APGD-DLR).
    Returns: Attack. Raises: ValueError when a number is out of range.
    Source: Croce & Hein 2020, algorithm 1.
    """
    _check(steps, samples, bounds)
    marks = np.array(checkpoints(steps)[1:])  # a mark w is reached after w steps
    is_mark, window = np.zeros(steps, bool), np.zeros(steps, np.float32)
    is_mark[marks - 1], window[marks - 1] = True, np.diff(marks, prepend=0)

    def one(key, predict, x, label, radius):
        start_key, key = jax.random.split(key)
        objective = _Objective(predict, label, loss, samples)

        inside = _projection(norm, x, radius, bounds)

        def step(carry, schedule):
            t, at_mark, window = schedule
            best, top, here, before, a, raised, shrunk, last = carry
            z = inside(here.point.x + a * norm.steepest(here.grad))
            momentum = jnp.where(t == 0, 0.0, 0.25)  # the first step has none
            there = inside(
                here.point.x
                + (1 - momentum) * (z - here.point.x)
                + momentum * (here.point.x - before)
            )
            new = objective(jax.random.fold_in(key, t), there)
            raised = raised + (new.point.loss > here.point.loss)
            higher = new.point.loss > top.point.loss
            top = jax.tree.map(partial(jnp.where, higher), new, top)
            stalled = ~shrunk & (top.point.loss <= last)
            halve = at_mark & ((raised < 0.75 * window) | stalled)
            at = jax.tree.map(partial(jnp.where, halve), top, new)
            return (
                _better(new.point, best),
                top,
                at,
                here.point.x,
                jnp.where(halve, a / 2, a),
                jnp.where(at_mark, 0, raised),
                jnp.where(at_mark, halve, shrunk),
                jnp.where(at_mark, top.point.loss, last),
            ), None

        start = inside(x + norm.draw(start_key, x, radius))
        first = objective(jax.random.fold_in(key, steps), start)
        begin = (
            first.point,
            first,
            first,
            start,
            jnp.asarray(2.0 * radius, x.dtype),
            jnp.zeros((), jnp.int32),
            jnp.asarray(True),  # the first window is judged by its rises alone
            first.point.loss,
        )
        schedule = (jnp.arange(steps), jnp.asarray(is_mark), jnp.asarray(window, x.dtype))
        (best, *_), _ = jax.lax.scan(step, begin, schedule)
        return best

    name = 'apgd-dlr' if loss is logit_ratio else 'apgd-ce'
    return _with_restarts(name, restarts, one)


def strongest(norm: Norm, classes: int, **options: Any) -> list[Attack]:
    """APGD-CE and, with 3 classes or more, APGD-DLR: the white-box part of AutoAttack without its
    targeted versions (Croce & Hein 2020). options: of `apgd`."""
    attacks = [apgd(norm, **options)]
    if classes >= 3:
        attacks.append(apgd(norm, loss=logit_ratio, **options))
    return attacks


def survivors(
    key: Key,
    attacks: Sequence[Attack],
    predict: Callable[[Params, Key, Array], Array],
    params: Params,
    x: np.ndarray,
    labels: np.ndarray,
    radii: Sequence[float],
    *,
    against: Sequence[Callable[[Params, Key, Array], Array]] | None = None,
    draws: int = 1,
    batch_size: int = 128,
) -> dict[float, np.ndarray]:
    """Which examples are classified correctly whatever the attacks do, for each radius.

    Each attack runs on those that the smaller radii and the attacks before it have left. The mean
    of a mask is the robust accuracy.

    Args:
      predict: (params, key, x) -> logits of one example.
      x: [N, ...], in the box. labels: int [N].
      radii: >= 0; 0 stands for no attack.
      against: what each attack takes its gradient of, where that is not `predict` itself: what it
        finds is then transferred to `predict`, which may hide its own gradient.
      draws: of a predictor that draws random numbers: what it says is the largest mean of log
        p(y|x) over so many new draws, before and after the attacks.
      batch_size: examples that are attacked at once.
    Returns: {radius: bool [N]}, by increasing radius.
    Raises: ValueError for another number of labels than of examples, or of `against` than of
      attacks, or a radius out of range.
    """
    check_shape('labels', labels, (len(x),), '[N], one for each example')
    if not all(0 <= radius < float('inf') for radius in radii):
        raise ValueError(f'radii must be at least 0 and finite, got {tuple(radii)}')
    x, labels = np.asarray(x, np.float32), np.asarray(labels, np.int32)

    def right(params, key, x, label):
        """Whether x is classified correctly, by draws of its own."""
        logits = jax.vmap(predict, (None, 0, None))(params, jax.random.split(key, draws), x)
        return jnp.argmax(jnp.mean(jax.nn.log_softmax(logits), 0)) == label

    aims = [predict] * len(attacks) if against is None else against
    programs = [
        _compiled(i, attack, aim, right)
        for i, (attack, aim) in enumerate(zip(attacks, aims, strict=True))
    ]
    batch_size += -batch_size % jax.local_device_count()
    alive = batching.for_each(right, params, key, [x, labels], description='no attack')
    found = {}
    for radius in sorted(radii):
        for attack, program in zip(attacks, programs):
            left = np.flatnonzero(alive)
            if not len(left) or radius == 0:
                continue
            # filled up, so that every call has the same shape
            rows = np.resize(left, max(len(left), batch_size))
            fooled = batching.in_batches(
                partial(program, key, jnp.float32(radius)),
                params,
                [x[rows], labels[rows]],
                batch_size=batch_size,
                description=f'{attack.name} at {radius:g}',
            )
            alive[left] = ~fooled[: len(left)]
        found[radius] = alive.copy()
    return found


def _compiled(i, attack, aim, right):
    """(key, radius, params, begin, x, labels) -> fooled [n]; i: the attack's place, so that each
    draws its own random numbers."""

    @jax.jit
    def program(key, radius, params, begin, x, labels):
        def one(key, x, label):
            attack_key, key = jax.random.split(key)
            found = attack.run(attack_key, partial(aim, params), x, label, radius)
            return ~right(params, key, found.x, label)

        key = jax.random.fold_in(jax.random.fold_in(key, i), begin)
        return jax.vmap(one)(jax.random.split(key, len(x)), x, labels)

    return program
