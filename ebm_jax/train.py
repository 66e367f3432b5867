"""What a run is (`Recipe`), and its train step: one compiled, donated, sharded function from state
and batch to state and metrics.

The only file that uses pmap. Whatever couples the batch goes through `ebm_jax.devices`, so that the
result does not depend on the number of devices.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.extend.core import jaxpr_as_fun

from ebm_jax import devices as across
from ebm_jax.errors import InputError
from ebm_jax.images import Grid
from ebm_jax.shapes import first_difference, named_leaves
from ebm_jax.types import (
    Array,
    ArrayLike,
    Batch,
    Key,
    Method,
    Metrics,
    Params,
    PyTree,
    Round,
    Transition,
)

LIMITS = {'loss': 1e8}  # JEM [code]
GRADIENT = 'gradient'  # name of the loop over gradients in the compiled program
Pictures = dict[str, Grid]


@struct.dataclass
class TrainState:
    """Everything an exact resume needs."""

    step: Array
    params: Params
    opt_state: PyTree
    ema_params: Params  # moving average of params; () without one
    chains: PyTree  # leaves [shards, ...]; [devices, shards per device, ...] when sharded
    key: Key
    quarantined: Array  # int32: chains so far that diverged and left the loss, over all steps
    attempt: Array  # int32: the attempt of a guarded run that made this state

    if TYPE_CHECKING:  # struct.dataclass makes it

        def replace(self, **changes: Any) -> 'TrainState': ...

    @property
    def eval_params(self) -> Params:
        """The parameters to evaluate: their moving average where one is kept."""
        return self.ema_params if jax.tree.leaves(self.ema_params) else self.params


# The axes of devices in a sharded state.
_EVERYWHERE_EQUAL: Any = None
AXES = TrainState(
    step=_EVERYWHERE_EQUAL,
    params=_EVERYWHERE_EQUAL,
    opt_state=_EVERYWHERE_EQUAL,
    ema_params=_EVERYWHERE_EQUAL,
    chains=0,
    key=_EVERYWHERE_EQUAL,
    quarantined=_EVERYWHERE_EQUAL,
    attempt=_EVERYWHERE_EQUAL,
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a run is: how it trains, and what it shows while it does.

    Attributes:
      method: what is sampled and learned. optimizer: of all parameters, see `per_network`.
      batch_at: step -> batch, a dict of arrays [N, ...] as the source gives them; a function of the
        step alone, so that a resumed run sees what an uninterrupted one would have seen.
      prepare: (key, example) -> the network's input, on the device; of the batch's 'x'.
      ema: decay of the moving average of parameters, in [0, 1); 0 keeps none.
      limits: {metric: largest size}; beyond it the run has diverged.
      pictures: None, or TrainState -> {name: images.Grid}.
      evaluate: None, or TrainState -> {name: float}. Both get chains as [shards, ...].
      show: metrics on the progress bar.
      prepare_more: {name: as `prepare`} of further entries of the batch.
      description: None, or what `ebm_jax.load` needs to rebuild the model
        (`spec.ModelSpec.to_json`); it is written into the run's config.json.
      init_params: None for random ones, or () -> the parameters that training begins with, such as
        lambda: ebm_jax.load(FOLDER).params; called wherever a run is at step 0 (its start, a rerun
        before its first checkpoint, a recovery that goes back to the beginning), each time to give
        the same.
    """

    method: Method
    optimizer: optax.GradientTransformation
    batch_at: Callable[[int], Batch]
    prepare: Transition
    ema: float = 0.0
    limits: Mapping[str, float] = field(default_factory=lambda: dict(LIMITS))
    pictures: Callable[[TrainState], Pictures] | None = None
    evaluate: Callable[[TrainState], dict[str, float]] | None = None
    show: tuple[str, ...] = ('loss', 'accuracy', 's_gap', 'effective_sample_size')
    prepare_more: Mapping[str, Transition] = field(default_factory=dict)
    description: Mapping[str, Any] | None = None
    init_params: Callable[[], Params] | None = None

    @property
    def preparations(self) -> dict[str, Transition]:
        """{entry of the batch: how its examples are prepared}."""
        return {'x': self.prepare, **self.prepare_more}

    def at(self, step: int) -> 'Recipe':
        """The recipe of a training step, from 0: that of another method where `Method.at` says."""
        at = self.method.at
        return self if at is None else dataclasses.replace(self, method=at(step))


def init_state(key: Key, recipe: Recipe) -> TrainState:
    """The state before the first step, on one device, chains with their leading axis of shards.

    Raises: InputError where the recipe's `init_params` are not those of the method's networks.
    """
    return _first_state(key, recipe, initial_params(recipe))


def initial_params(recipe: Recipe) -> Params | None:
    """The parameters that training begins with; None for random ones.

    Raises: InputError where the recipe's `init_params` are not those of the method's networks.
    """
    if recipe.init_params is None:
        return None
    given, wanted = named_leaves(recipe.init_params()), state_shapes(recipe).params
    needed = named_leaves(wanted)
    differing = first_difference(given, needed)
    if differing:
        name, there, here = differing
        raise InputError(
            f'the parameters to begin with are those of other networks: {name} is '
            f'{there or "missing"} there and {here or "missing"} here; give the run the networks '
            'and classes that they come from'
        )
    leaves = [jnp.asarray(given[name], leaf.dtype) for name, leaf in needed.items()]
    return jax.tree.unflatten(jax.tree.structure(wanted), leaves)


def state_shapes(recipe: Recipe) -> TrainState:
    """The shapes of `init_state`, without computing it."""
    return jax.eval_shape(lambda: _first_state(jax.random.key(0), recipe, None))


def _first_state(key, recipe, given):
    """The state before the first step. given: its parameters; None for random ones."""
    key, init_key, prepare_key = jax.random.split(key, 3)
    batch = recipe.batch_at(0)

    def make(given):
        prepared = prepare_batch(recipe.preparations, prepare_key, batch)
        params, chains = recipe.method.init(init_key, prepared)
        if given is not None:
            params = jax.tree.map(jnp.copy, given)  # training donates its own
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=recipe.optimizer.init(params),
            ema_params=jax.tree.map(jnp.copy, params) if recipe.ema else (),
            chains=chains,
            key=key,
            quarantined=jnp.zeros((), jnp.int32),
            attempt=jnp.zeros((), jnp.int32),
        )

    return jax.jit(make)(given)


def prepare_batch(preparations: Mapping[str, Transition], key: Key, batch: Batch) -> Batch:
    """Prepare each example under its own key; the same whatever the number of devices.

    Args: preparations: {entry of the batch: (key, example) -> the network's input}.
    """
    prepared = dict(batch)
    for i, (name, prepare) in enumerate(preparations.items()):
        # from the far end: the examples' own keys are folded from 0 upwards
        own = key if i == 0 else jax.random.fold_in(key, 2**32 - i)
        examples = batch[name]
        prepared[name] = jax.vmap(prepare)(across.keys(own, len(examples)), examples)
    return prepared


def step_keys(state: TrainState) -> Key:
    """The keys of the next step, [3]: of the preparations, of the chains, and of the loss."""
    return jax.random.split(jax.random.fold_in(state.key, state.step), 3)


def make_local_step(
    recipe: Recipe, *, watch_every: int = 0
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """One device's share of a training step, for any mapper that binds the axis.

        samples <- chains on E_theta
        theta   <- optimiser(theta, mean over devices of grad L)
        ema     <- d ema + (1 - d) theta

    A method of several rounds does the first two for each in turn.

    Args:
      watch_every: at every n-th step the gradient norm of each loss term is computed too
        ('grad_norm/NAME'; -1 at other steps).
    Returns: (TrainState, batch) -> (TrainState, metrics): 'loss', 'grad_norm', 'param_norm',
      'loss/NAME' of each loss term, those of the method, and 'healthy': False where the loss, a
      loss term, a metric (energies among them), the gradient or the parameters are not finite, or
      beyond their entry in the recipe's `limits`.
    """

    def local_step(state, batch):
        prepare_key, sample_key, loss_key = step_keys(state)
        batch = prepare_batch(recipe.preparations, prepare_key, batch)
        params, opt_state, chains = state.params, state.opt_state, state.chains
        losses: Metrics = {}
        metrics: Metrics = {}
        watched: Metrics = {}
        all_grads: list[PyTree] = []
        quarantined: ArrayLike = 0.0
        for part in recipe.method.rounds:
            samples, chains = part.sample(sample_key, params, chains, batch)
            loss_terms, taught = _round_loss(
                part, params, loss_key, batch, jax.lax.stop_gradient(samples)
            )
            terms, pull_back, found = jax.vjp(loss_terms, taught, has_aux=True)
            watch = (state.step + 1) % watch_every == 0 if watch_every else None
            grads, norms = _gradient(pull_back, terms, taught, watch)
            watched |= norms
            updates, opt_state = recipe.optimizer.update(grads, opt_state, taught)
            taught = optax.apply_updates(taught, updates)
            params = taught if part.teaches is None else {**params, **taught}
            losses |= terms
            metrics |= found
            all_grads.append(grads)
            quarantined += across.mean(found.get('quarantined', 0.0))
        metrics |= {'loss': jnp.asarray(sum(losses.values()))}
        metrics |= {f'loss/{name}': value for name, value in losses.items()}
        metrics = across.mean(metrics)
        metrics['grad_norm'] = jnp.asarray(optax.tree.norm(all_grads))
        metrics['param_norm'] = jnp.asarray(optax.tree.norm(params))
        metrics['healthy'] = _healthy(metrics, recipe.limits)
        if 'quarantined' in metrics:
            metrics['quarantined'] = jnp.asarray(quarantined)  # of all rounds
        ema_params = ()
        if recipe.ema:
            ema_params = optax.incremental_update(params, state.ema_params, 1 - recipe.ema)
        state = state.replace(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema_params=ema_params,
            chains=chains,
            quarantined=state.quarantined + jnp.round(quarantined).astype(jnp.int32),
        )
        return state, metrics | watched

    return local_step


def _healthy(metrics, limits):
    """Whether every metric is finite and within its limit."""
    values = jnp.stack([jnp.asarray(value, jnp.float32) for value in metrics.values()])
    healthy = jnp.all(jnp.isfinite(values))
    for name, limit in limits.items():
        if name not in metrics:
            raise ValueError(f'no metric {name!r} to limit: there are {", ".join(sorted(metrics))}')
        healthy &= jnp.abs(metrics[name]) <= limit
    return healthy


def _round_loss(part: Round, params, key, batch, samples):
    """(taught parameters -> (loss terms, metrics), the parameters that this Round teaches)."""
    if part.teaches is None:
        return lambda taught: part.loss(taught, key, batch, samples), params
    taught = {name: params[name] for name in part.teaches}
    return lambda taught: part.loss({**params, **taught}, key, batch, samples), taught


def _gradient(pull_back, terms, params, watch):
    """(gradient of the sum of the loss terms, {'grad_norm/NAME': norm of each term's gradient}).

    The sum and, at steps where `watch`, each term alone are pulled back by one loop, so that there
    is one backward pass to compile. The norms are -1 at other steps; {} where `watch` is None.
    """

    def pulled_back(weights):
        cotangents = {
            name: weights[i].astype(value.dtype) for i, (name, value) in enumerate(terms.items())
        }
        return across.mean(pull_back(cotangents)[0])

    n = len(terms)
    if watch is None:
        return pulled_back(jnp.ones(n)), {}
    weights = jnp.concatenate([jnp.ones((1, n)), jnp.eye(n)])

    def body(i, carry):
        total, norms = carry
        grads = pulled_back(weights[i])
        total = jax.tree.map(partial(jnp.where, i == 0), grads, total)
        return total, norms.at[i].set(optax.tree.norm(grads).astype(norms.dtype))

    start = jax.tree.map(jnp.zeros_like, params), -jnp.ones(1 + n, jnp.float32)
    with jax.named_scope(GRADIENT):
        total, norms = jax.lax.fori_loop(0, jnp.where(watch, 1 + n, 1), body, start)
    return total, {f'grad_norm/{name}': norms[1 + i] for i, name in enumerate(terms)}


def per_network(
    optimizers: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformation:
    """An optimiser for params = {name: parameters of one network}: each network has its own.

    Networks that get no gradient (those that a Round does not teach) keep their parameters and
    their optimiser's state. optax.partition is otherwise the same, but needs a gradient for every
    network.

    Args: optimizers: {name: optax optimiser}.
    Raises: ValueError for a network without an optimiser.
    """

    def init(params):
        if set(params) != set(optimizers):
            raise ValueError(
                f'there must be one optimiser for each network, got {sorted(optimizers)} for '
                f'{sorted(params)}'
            )
        return {name: optimizers[name].init(params[name]) for name in params}

    def update(grads, state, params=None):
        updates, states = {}, dict(state)
        for name, grad in grads.items():
            network_params = None if params is None else params[name]
            updates[name], states[name] = optimizers[name].update(grad, state[name], network_params)
        return updates, states

    return optax.GradientTransformation(init, update)


@dataclass(frozen=True, eq=False)
class Traced:
    """A local step, traced for one of n devices."""

    program: Any  # ClosedJaxpr: (state, batch) -> (state, metrics), flat
    out_tree: Any
    n: int

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One device's share of a training step, as `make_local_step`."""
        flat = jax.tree.leaves((state, batch))
        return jax.tree.unflatten(self.out_tree, jaxpr_as_fun(self.program)(*flat))


def trace_step(
    recipe: Recipe, n: int, *, watch_every: int = 0, shapes: TrainState | None = None
) -> Traced:
    """The program of a training step as each of n devices runs it, traced and not compiled: to find
    early what does not fit, to count operations, and to be compiled by `make_train_step`.

    Args: shapes: of the state, where `state_shapes` has found them already.
    Raises: ValueError where the parts of the recipe do not fit together.
    """

    def share(leaf):
        return jax.ShapeDtypeStruct((leaf.shape[0] // n, *leaf.shape[1:]), leaf.dtype)

    state = shapes or state_shapes(recipe)
    state = state.replace(chains=jax.tree.map(share, state.chains))
    batch = jax.tree.map(share, recipe.batch_at(0))
    step = make_local_step(recipe, watch_every=watch_every)
    program, out = jax.make_jaxpr(step, axis_env=[(across.AXIS, n)], return_shape=True)(
        state, batch
    )
    return Traced(program, jax.tree.structure(out), n)


def make_train_step(
    recipe: Recipe,
    *,
    devices: Sequence[jax.Device] | None = None,
    watch_every: int = 0,
    traced: Traced | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`make_local_step` over devices (default: all local ones), compiled once, the state donated.

    Takes a state from `sharding.shard_state` and a batch with leaves [devices, N / devices, ...].
    Args: traced: the step, where `trace_step` has traced it already; default: traced at its first
      call.
    Returns the new state and metrics.
    """
    return jax.pmap(
        traced or make_local_step(recipe, watch_every=watch_every),
        axis_name=across.AXIS,
        in_axes=(AXES, 0),
        out_axes=(AXES, None),
        devices=devices,
        donate_argnums=0,
    )
