"""The train step: one compiled, donated, sharded function from state and batch to state and metrics.

The only file that says pmap. Parameters, optimiser and key are the same on every device; the chains and the batch carry a leading
device axis. Whatever couples the batch goes through `ebm_jax.devices`, so that one device equals N.
"""
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ebm_jax import devices as across
from ebm_jax.types import Array, PyTree


@struct.dataclass
class TrainState:
    """Everything an exact resume needs."""
    step: Array
    params: PyTree
    opt_state: PyTree
    ema_params: PyTree   # moving average of params; () without one
    chains: PyTree       # leaves [shards, ...]; [devices, shards per device, ...] inside `shard_state`
    key: Array
    quarantined: Array   # int32: chains so far that went astray and left the loss, over all steps
    attempt: Array       # int32: the try of a guarded run that made this state


# The axes of devices in a state from `shard_state`.
AXES = TrainState(step=None, params=None, opt_state=None, ema_params=None, chains=0, key=None, quarantined=None, attempt=None)


def init_state(key, method, optimizer, prepare, batch, *, ema=0.0):
    """The state before the first step.

    Args: batch: any batch of the run, as the source gives it; prepare: (key, example) -> example, the network's input.
    Returns: TrainState on one device, chains with their leading axis of shards.
    """
    key, init_key, prepare_key = jax.random.split(key, 3)

    def make():
        params, chains = method.init(init_key, prepare_batch(prepare, prepare_key, batch))
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), jax.tree.map(jnp.copy, params) if ema else (),
                          chains, key, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    return jax.jit(make)()


def prepare_batch(prepare, key, batch):
    """Prepare each example under its own key; the same whatever the number of devices."""
    return {**batch, 'x': jax.vmap(prepare)(across.keys(key, len(batch['x'])), batch['x'])}


LIMITS = {'loss': 1e8}   # JEM [code]


def make_local_step(method, optimizer, prepare, *, ema=0.0, limits=LIMITS, watch_every=0):
    """One device's share of a training step, (TrainState, batch) -> (TrainState, metrics), for any mapper that binds the axis.

        samples <- chains on E_theta;  theta <- optimiser(theta, mean over devices of grad L);  ema <- ema ema + (1 - ema) theta

    A method of several rounds does the first two for each in turn.

    Args:
      prepare: (key, x) -> x of one example, on the device. ema: in [0, 1), 0 keeps none.
      watch_every: at every so manieth step the gradient norm of each addend is computed too ('grad_norm/NAME'; -1 at other steps).
    Metrics: 'loss', 'grad_norm', 'param_norm', 'loss/NAME' of each addend, those of the method, and 'healthy': False where the loss, an
      addend, a metric (energies among them), the gradient or the parameters are not finite, or beyond their entry in `limits`,
      {metric: largest size}.
    """
    def local_step(state, batch):
        prepare_key, sample_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        batch = prepare_batch(prepare, prepare_key, batch)
        params, opt_state, chains = state.params, state.opt_state, state.chains
        losses, all_grads, metrics, watched, astray = {}, [], {}, {}, 0.0
        for part in method.rounds:
            samples, chains = part.sample(sample_key, params, chains, batch)
            addends_of, taught = _lesson(part, params, loss_key, batch, jax.lax.stop_gradient(samples))

            def total(taught, addends_of=addends_of):
                addends, metrics = addends_of(taught)
                return sum(addends.values()), (addends, metrics)

            grads, (addends, found) = jax.grad(total, has_aux=True)(taught)
            grads = across.mean(grads)
            if watch_every:
                watched |= _watch((state.step + 1) % watch_every == 0, addends_of, taught, tuple(addends))
            updates, opt_state = optimizer.update(grads, opt_state, taught)
            taught = optax.apply_updates(taught, updates)
            params = taught if part.teaches is None else {**params, **taught}
            losses, metrics, all_grads = losses | addends, metrics | found, [*all_grads, grads]
            astray += across.mean(found.get('quarantined', 0.0))
        metrics = across.mean({'loss': sum(losses.values()), **{f'loss/{name}': value for name, value in losses.items()}, **metrics})
        metrics['grad_norm'], metrics['param_norm'] = optax.tree.norm(all_grads), optax.tree.norm(params)
        healthy = jnp.all(jnp.isfinite(jnp.stack([jnp.asarray(m, jnp.float32) for m in metrics.values()])))
        for name, limit in limits.items():
            healthy &= jnp.abs(metrics[name]) <= limit
        metrics['healthy'] = healthy
        ema_params = optax.incremental_update(params, state.ema_params, 1 - ema) if ema else ()
        metrics |= {'quarantined': astray} if 'quarantined' in metrics else {}   # of all rounds
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema_params=ema_params, chains=chains,
                             quarantined=state.quarantined + jnp.round(astray).astype(jnp.int32)), metrics | watched

    return local_step


def _lesson(part, params, key, batch, samples):
    """(taught parameters -> (addends, metrics), the parameters that this Round teaches)."""
    if part.teaches is None:
        return lambda taught: part.loss(taught, key, batch, samples), params
    return (lambda taught: part.loss({**params, **taught}, key, batch, samples)), {name: params[name] for name in part.teaches}


def per_network(optimizers):
    """An optimiser for params = {name: parameters of one network}: each network has its own.

    Networks that get no gradient (those that a Round does not teach) keep their parameters and their optimiser's state. optax.partition,
    otherwise the same, takes a gradient for every network only.

    Args: optimizers: {name: optax optimiser}. Returns: optax.GradientTransformation. Raises: ValueError for a network without an optimiser.
    """
    def init(params):
        if set(params) != set(optimizers):
            raise ValueError(f'there must be one optimiser for each network, got {sorted(optimizers)} for {sorted(params)}')
        return {name: optimizers[name].init(params[name]) for name in params}

    def update(grads, state, params=None):
        of = lambda name: optimizers[name].update(grads[name], state[name], None if params is None else params[name])
        found = {name: of(name) for name in grads}
        return {name: updates for name, (updates, _) in found.items()}, state | {name: new for name, (_, new) in found.items()}

    return optax.GradientTransformation(init, update)


def _watch(now, addends_of, params, names):
    """The norm of each addend's gradient where `now`, else -1."""
    def norms(params):
        values, pull, _ = jax.vjp(addends_of, params, has_aux=True)
        one = lambda name: {other: jnp.full_like(value, other == name) for other, value in values.items()}
        return {name: optax.tree.norm(across.mean(pull(one(name))[0])) for name in names}

    norms = jax.lax.cond(now, norms, lambda params: {name: -jnp.ones(()) for name in names}, params)
    return {f'grad_norm/{name}': value for name, value in norms.items()}


def make_train_step(method, optimizer, prepare, *, devices=None, ema=0.0, limits=LIMITS, watch_every=0):
    """`make_local_step` over devices (default: all local ones), compiled once, the state donated.

    Takes a state from `shard_state` and a batch with leaves [devices, N / devices, ...]. Returns the new state and metrics.
    """
    local_step = make_local_step(method, optimizer, prepare, ema=ema, limits=limits, watch_every=watch_every)
    return jax.pmap(local_step, axis_name=across.AXIS, in_axes=(AXES, 0), out_axes=(AXES, None), devices=devices,
                    donate_argnums=0)


def trace_step(local_step, state, batch, n):
    """The program of a local step as n devices run it, traced and not compiled: finds early what does not fit, and counts.

    state: shapes, as of one device. Returns: as `jax.make_jaxpr`, of all n devices.
    """
    split = lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((n, leaf.shape[0] // n, *leaf.shape[1:]), leaf.dtype), tree)
    mapped = jax.vmap(local_step, in_axes=(AXES, 0), axis_name=across.AXIS)
    return jax.make_jaxpr(mapped)(state.replace(chains=split(state.chains)), split(batch))


def shard_state(state, devices):
    """Place a whole state for the train step: chains split over devices, the rest on each.

    devices: of all processes; each process places what its own devices hold, from the same whole state.
    Raises: ValueError when the shards cannot be split evenly.
    """
    n, shards = len(devices), num_shards(state)
    if shards is not None and shards % n:
        raise ValueError(f'{shards} shards of chains cannot be split over {n} devices: choose shards divisible by {n}')
    mesh = Mesh(_here(devices), (across.AXIS,), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, PartitionSpec(across.AXIS)), NamedSharding(mesh, PartitionSpec())
    place = lambda leaf: jax.device_put(_of_here(leaf.reshape(n, shards // n, *leaf.shape[1:]), devices), split)
    rest = jax.device_put(state.replace(chains=()), whole)
    return rest.replace(chains=jax.tree.map(place, state.chains))


def num_shards(state):
    """The shards of a state's chains, None where it has no chains."""
    leaves = jax.tree.leaves(state.chains)
    return leaves[0].shape[0] if leaves else None


def unshard_state(state, devices):
    """The inverse of `shard_state`: chains with one leading axis of shards again, as arrays over the devices of all processes."""
    mesh = Mesh(devices, (across.AXIS,), axis_types=(AxisType.Auto,))

    def joined(leaf):
        parts = [part.data[0] for part in sorted(leaf.addressable_shards, key=lambda part: part.index[0].start)]
        shape = (len(devices) * len(parts[0]), *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, PartitionSpec(across.AXIS)), parts)

    def same(leaf):
        parts = [part.data for part in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, NamedSharding(mesh, PartitionSpec()), parts)

    return jax.tree.map(same, state.replace(chains=())).replace(chains=jax.tree.map(joined, state.chains))


def shard_batch(batch, devices):
    """[N, ...] of all processes -> [devices of this process, N / devices, ...]. Raises: ValueError when N does not divide."""
    n = len(devices)
    size = len(batch['x'])
    if size % n:
        raise ValueError(f'a batch of {size} cannot be split over {n} devices: choose a batch size divisible by {n}')
    return jax.tree.map(lambda leaf: _of_here(leaf.reshape(n, size // n, *leaf.shape[1:]), devices), batch)


def _here(devices):
    """Those of this process."""
    return [device for device in devices if device.process_index == jax.process_index()]


def _of_here(leaf, devices):
    """The rows [devices, ...] of this process's devices; they stand next to each other."""
    first = devices.index(_here(devices)[0])
    return leaf[first:first + len(_here(devices))]
