"""Why a learning rate is too high for JEM or ST-JEM: the sharpness of their losses in training.

    python -m experiments.studies.sharpness --workdir=runs/sharpness --rate=.1

On a quadratic of curvature c, gradient descent with momentum m and rate r is stable where

    c < 2 (1 + m) / r

The sharpness is the largest eigenvalue of the Jacobian of the training gradient, of one batch and
its negatives as they are, by Lanczos's method with central differences of the gradient. Balanced
weights belong to it: they follow the energies. JEM and ST-JEM as in `stability`, by stochastic
gradient descent with momentum .9. Writes sharpness.json, sharpness.txt and sharpness.png; a run
that diverges ends its curve.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from tqdm.auto import tqdm

from ebm_jax import devices as across
from ebm_jax.errors import InputError
from ebm_jax.evaluate import figures
from ebm_jax.record import write_json
from ebm_jax.train import (
    Recipe,
    TrainState,
    init_state,
    make_local_step,
    prepare_batch,
    step_keys,
)
from ebm_jax.types import PyTree
from experiments.common import launch
from experiments.studies.systems import (
    ADJUSTABLE,
    CLASSIFIERS,
    MOMENTUM,
    OPTIMIZERS,
    Setting,
    clipped,
    recipe,
    task_of,
)

WIDTH = 1e-2  # of the central differences
Gradient = Callable[[np.ndarray], np.ndarray]  # of parameters [n]


def define(values: Any) -> None:
    """The flags."""
    flags.DEFINE_string('workdir', None, 'Folder of the study.', flag_values=values)
    flags.DEFINE_string('data', 'digits', 'As in stability.', flag_values=values)
    flags.DEFINE_enum(
        'network', 'convolutions', list(CLASSIFIERS), 'As in stability.', flag_values=values
    )
    flags.DEFINE_float('rate', 0.1, 'Learning rate.', flag_values=values)
    flags.DEFINE_float('clip', 0.0, 'Largest norm of a gradient; 0: any.', 0, flag_values=values)
    flags.DEFINE_float(
        'alpha', 0.0, 'Weight of mutual information, as in stability.', 0, 1, flag_values=values
    )
    flags.DEFINE_integer('num_steps', 20, 'Steps K of the chains.', 1, flag_values=values)
    flags.DEFINE_integer('steps', 30, 'Training steps.', 1, flag_values=values)
    flags.DEFINE_integer('every', 2, 'Steps between measurements.', 1, flag_values=values)
    flags.DEFINE_integer('seed', 0, 'Of parameters, batches and chains.', 0, flag_values=values)
    flags.mark_flag_as_required('workdir', values)


def largest_eigenvalue(gradient: Gradient, at: np.ndarray) -> float:
    """The largest eigenvalue of the symmetric Jacobian of `gradient`: R^n -> R^n at a point [n];
    nan where the gradient is not finite, or where Lanczos's method does not converge."""

    def times(direction):
        direction = direction.reshape(-1).astype(at.dtype)
        length = np.linalg.norm(direction)
        step = WIDTH * direction / length
        return length * (gradient(at + step) - gradient(at - step)) / (2 * WIDTH)

    n = len(at)
    jacobian = LinearOperator((n, n), matvec=times, dtype=np.float64)
    begin = np.random.default_rng(0).normal(size=n)
    try:
        found = eigsh(
            jacobian, 1, which='LA', tol=1e-2, v0=begin, maxiter=300, return_eigenvectors=False
        )
    except ArpackError:
        return float('nan')
    return float(found[0])


def training_gradients(run: Recipe) -> Callable[[TrainState, PyTree], tuple[Gradient, np.ndarray]]:
    """(state, raw batch) -> (parameters [n] -> gradient [n] of the next step's loss for its batch
    and the samples that the parameters give now, these parameters)."""

    @jax.jit
    def drawn(state, raw):
        prepare_key, sample_key, loss_key = step_keys(state)
        batch = prepare_batch(run.preparations, prepare_key, raw)
        samples, _ = run.method.sample(sample_key, state.params, state.chains, batch)
        return loss_key, batch, samples

    @jax.jit
    def gradient(flat, params, *given):
        def loss(flat):
            terms, _ = run.method.loss(ravel_pytree(params)[1](flat), *given)
            return sum(terms.values())

        return jax.grad(loss)(flat)

    def at(state, raw):
        given = drawn(state, raw)
        return (
            lambda flat: np.asarray(gradient(flat, state.params, *given)),
            np.asarray(ravel_pytree(state.params)[0]),
        )

    return at


def curve(run: Recipe, seed: int, steps: int, every: int, title: str) -> dict[str, Any]:
    """Sharpness over training: {'step', 'sharpness', 'gap': of the steps that were measured,
    'diverged_at'}."""
    found: dict[str, Any] = {'step': [], 'sharpness': [], 'gap': [], 'diverged_at': None}
    with across.independent():
        state, gradient_at = init_state(jax.random.key(seed), run), training_gradients(run)
        step = jax.jit(make_local_step(run))
        for i in tqdm(range(steps), desc=title, unit='step', leave=False):
            raw = jax.tree.map(jax.numpy.asarray, run.batch_at(i))
            if i % every == 0:
                found['step'].append(i)
                found['sharpness'].append(largest_eigenvalue(*gradient_at(state, raw)))
            state, metrics = step(state, raw)
            if i % every == 0:
                found['gap'].append(float(metrics['s_gap']))
            if not metrics['healthy']:
                return found | {'diverged_at': i + 1}
    return found


@figures.styled
def picture(curves: dict[str, dict[str, Any]], limit: float) -> Figure:
    """The curves, and what is stable."""
    figure = Figure(figsize=(6, 3.2), layout='constrained')
    axes = figure.subplots()
    for name, one in curves.items():
        axes.plot(one['step'], one['sharpness'], marker='o', label=name.upper().replace('_', '-'))
    axes.axhline(limit, color='black', linestyle='--', label='2 (1 + m) / r')
    axes.set(xlabel='step', ylabel='sharpness', yscale='symlog')
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def run(values: Any) -> None:
    """Train, measure, write and print."""
    if values.rate <= 0:
        raise InputError(f'--rate must be above 0, got {values.rate}')
    workdir = pathlib.Path(values.workdir)
    optimizer = clipped(OPTIMIZERS['sgd'], values.clip)
    task = task_of(values.data, values.network)._replace(optimizer=optimizer, alpha=values.alpha)
    limit = 2 * (1 + MOMENTUM) / values.rate
    workdir.mkdir(parents=True, exist_ok=True)
    lines = [
        f'{values.data}, {values.network}, rate {values.rate:g}, alpha {values.alpha:g}: stable '
        f'below {limit:.1f}'
    ]
    curves: dict[str, dict[str, Any]] = {}
    names = ('data', 'network', 'rate', 'alpha', 'clip', 'num_steps', 'steps', 'every', 'seed')
    asked = {name: values[name].value for name in names}
    for system in ADJUSTABLE:
        one = recipe(task, Setting(system, values.num_steps, values.rate, 1.0), values.seed)
        found = curves[system] = curve(one, values.seed, values.steps, values.every, system)
        write_json(workdir / 'sharpness.json', {**asked, 'limit': limit, 'curves': curves})
        lines.append(f'{system:<8}{"step":>6}{"sharpness":>12}{"E- - E+":>10}')
        lines += [
            f'{"":<8}{step:>6}{sharp:>12.1f}{gap:>10.2f}'
            for step, sharp, gap in zip(found['step'], found['sharpness'], found['gap'])
        ]
        if found['diverged_at']:
            lines.append(f'{"":<8}diverged at step {found["diverged_at"]}')
    (workdir / 'sharpness.txt').write_text('\n'.join(lines) + '\n')
    figures.save(picture(curves, limit), workdir / 'sharpness.png', dpi=90)
    print('\n'.join(lines))


if __name__ == '__main__':
    launch.main(run, define, __doc__)
