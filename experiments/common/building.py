"""Builds the parts of a recipe from settings: optimisers, kernels, preparation of examples,
recovery actions, pictures."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ebm_jax import augment, data, mcmc
from ebm_jax.errors import InputError
from ebm_jax.guard import RecoveryAction
from ebm_jax.images import Grid
from ebm_jax.model import KERNELS
from ebm_jax.spec import Part
from ebm_jax.train import Pictures, Recipe, TrainState
from ebm_jax.types import UNCONDITIONAL, Batch, Kernel, PyTree, Transition
from experiments.common import settings
from experiments.common.groups import Chain, Schedule


def learning_rate(schedule: Schedule, rate: float, steps: int) -> optax.Schedule:
    """step -> learning rate. The warm-up takes at most half of the schedule.

    Args:
      schedule: its shape.
      rate: the largest learning rate.
      steps: steps of the run, where the schedule ends unless decay_steps is set.
    Raises: InputError for milestones that change nothing, or lie in the warm-up.
    """
    if schedule.drop != 1 and not schedule.milestones:
        raise InputError(
            f'--config.optimizer.drop={schedule.drop:g} is the factor at '
            '--config.optimizer.milestones, of which there are none: give the training steps'
        )
    if schedule.milestones:
        if schedule.drop == 1:
            raise InputError(
                '--config.optimizer.milestones change nothing at --config.optimizer.drop=1: set '
                'drop, for instance to 0.3'
            )
        if min(schedule.milestones) <= schedule.warmup:
            raise InputError(
                f'--config.optimizer.milestones={schedule.milestones} must lie after the warm-up '
                f'of {schedule.warmup} steps'
            )
        drops = {int(step) - schedule.warmup: schedule.drop for step in schedule.milestones}
        warmup = optax.linear_schedule(0.0, rate, schedule.warmup)
        after = optax.piecewise_constant_schedule(rate, drops)
        return optax.join_schedules([warmup, after], [schedule.warmup])
    end = schedule.decay_steps or steps
    warmup_steps = min(schedule.warmup, end // 2)
    return optax.warmup_cosine_decay_schedule(
        0.0, rate, warmup_steps, end, rate * schedule.decay_to
    )


def optimizer_of(
    schedule: Schedule, rate: float, steps: int, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """The optimiser at that rate; the norm of the gradient is clipped where clip_norm > 0. Weight
    decay is added to the gradient, as PyTorch's Adam has it, except in adamw.
    Raises: InputError as `learning_rate`.
    """
    rates, parts = learning_rate(schedule, rate, steps), []
    if schedule.clip_norm > 0:
        parts.append(optax.clip_by_global_norm(schedule.clip_norm))
    if schedule.kind == 'adamw':
        last = optax.adamw(rates, schedule.b1, schedule.b2, weight_decay=weight_decay)
        return optax.chain(*parts, last)
    if weight_decay > 0:
        parts.append(optax.add_decayed_weights(weight_decay))
    if schedule.kind == 'sgd':
        return optax.chain(*parts, optax.sgd(rates, schedule.b1 or None))
    return optax.chain(*parts, optax.adam(rates, schedule.b1, schedule.b2))


def prepare_images(noise: float, crop: int = 0, flip: bool = False) -> Transition:
    """uint8 image -> network input: [-1, 1], random crop and flip, noise (JEM [code] adds it in
    training and test)."""
    steps: list[Transition] = [augment.scale_pixels]
    if crop:
        steps.append(augment.random_crop(crop))
    if flip:
        steps.append(augment.random_flip)
    return augment.chain(*steps, augment.gaussian_noise(noise))


def batches(examples: data.Examples, batch_size: int, seed: int) -> Callable[[int], Batch]:
    """step -> batch."""
    return lambda step: data.batch_at(examples, step, batch_size, seed)


def noise_scale(chain: Chain) -> float:
    """n of a chain's noise n xi, also where it is given as a temperature."""
    if chain.noise_is_temperature:
        return (2 * chain.step_size * chain.noise) ** 0.5
    return chain.noise


def kernel_part(chain: Chain, name: str, *, momentum: float = 0.0, **options: Any) -> Part:
    """The kernel of a group of settings as plain data, without its step size.

    Args:
      chain: the group.
      name: name of the group, for error messages.
      momentum, options: further arguments of Langevin kernels, see `mcmc.langevin`.

    Raises: InputError where settings are not compatible.
    """
    if momentum:
        if chain.kernel != 'langevin':
            raise InputError(
                f'--config.{name}.momentum is of the kernel langevin, not {chain.kernel}: use 0'
            )
        options['momentum'] = momentum
    if chain.kernel == 'langevin':
        scale = 'temperature' if chain.noise_is_temperature else 'noise_scale'
        part = Part('langevin', {scale: chain.noise, **options})
    else:
        if not chain.noise_is_temperature or chain.noise <= 0:
            raise InputError(
                f'the kernel {chain.kernel} takes a temperature: give '
                f'--config.{name}.noise_is_temperature=true and a noise above 0'
            )
        leapfrog = {'num_leapfrog': chain.num_leapfrog} if chain.kernel == 'hmc' else {}
        part = Part(chain.kernel, {'temperature': chain.noise, **leapfrog})
    make_kernel(chain, part, name)  # refuses what it does not take
    return part


def make_kernel(chain: Chain, part: Part, name: str, **options: Any) -> Kernel:
    """The Kernel of a group of settings. Raises: InputError."""
    try:
        return KERNELS[part.name](chain.step_size, **part.arguments, **options)
    except ValueError as error:
        raise InputError(f'--config.{name}: {error}') from error


def chain_numbers(
    chain: Chain, own_kernel: Kernel | None = None, **options: Any
) -> dict[str, float]:
    """Arguments of the chain's kernel factory that may be traced, see `TrainingChains`."""
    if chain.kernel == 'langevin' and own_kernel is None:
        return {'step_size': chain.step_size, 'noise_scale': noise_scale(chain), **options}
    return {'step_size': chain.step_size}


def traced_kernel(
    part: Part, options: dict[str, Any], own_kernel: Kernel | None = None
) -> Callable[..., Kernel]:
    """(**numbers of `chain_numbers`) -> Kernel."""
    if own_kernel is not None:
        return lambda **numbers: own_kernel
    if part.name == 'langevin':
        return partial(mcmc.langevin, **options)
    return partial(KERNELS[part.name], **part.arguments)


def shard_capacity(capacity: int, shards: int) -> int:
    """Entries of one shard's buffer, so that all together hold at least `capacity`."""
    return -(-capacity // shards)


def recovery_actions(config: Any, rebuild: Callable[[Any], Recipe]) -> list[RecoveryAction]:
    """A RecoveryAction for each of the available actions.

    Args:
      config: the configuration of the run.
      rebuild: configuration -> recipe, without reading the data set again.
    """
    paths = config.recovery_paths()

    def changed(names):
        changes = settings.flatten(config)
        for name in names:
            for path in paths[name]:
                changes[path] *= getattr(config.guard, name)
        result = settings.copy(config)
        settings.update(result, changes)
        return rebuild(result)

    actions, names = [], config.available_actions()
    for i, name in enumerate(names):
        so_far = names[: i + 1]
        title = name.replace('_', ' ')
        if paths[name]:
            title += f' x {getattr(config.guard, name):g}'
        changes_settings = any(paths[earlier] for earlier in so_far)
        actions.append(
            RecoveryAction(title, partial(changed, so_far) if changes_settings else None)
        )
    return actions


class WaitingChains(NamedTuple):
    """The entries of the replay buffers of all shards; a leading axis of entries."""

    position: PyTree
    label: np.ndarray
    age: np.ndarray  # below 0 where the entry is empty or its chain diverged


def waiting_chains(state: TrainState) -> WaitingChains | None:
    """The chains in the replay buffer; None where the method keeps no buffer."""
    buffer = getattr(state.chains, 'buffer', None)
    if buffer is None:
        return None

    def flat(leaf):
        return np.asarray(leaf).reshape(-1, *leaf.shape[2:])

    position = jax.tree.map(flat, buffer.position)
    return WaitingChains(position, flat(buffer.label), flat(buffer.age))


def class_name(names: Sequence[str], label: int) -> str:
    """The name of a class, or its number."""
    return names[label] if label < len(names) else str(label)


def buffer_pictures(
    state: TrainState,
    num_classes: int,
    as_images: Callable[[np.ndarray], np.ndarray] = np.asarray,
    per_class: int = 10,
    names: Sequence[str] = (),
) -> Pictures:
    """{'buffer': grid}: chains of the buffer, a column per class and for p(x), the oldest of each
    first. {} where the method keeps no buffer.

    Args: as_images: positions [N, ...] -> images. names: of the classes.
    """
    waiting = waiting_chains(state)
    if waiting is None:
        return {}
    position, label, age = waiting
    columns, headings = [], []
    for kind in (*range(num_classes), UNCONDITIONAL):
        entries = np.flatnonzero((label == kind) & (age >= 0))
        if len(entries):
            columns.append(entries[np.argsort(-age[entries], kind='stable')])
            headings.append('p(x)' if kind == UNCONDITIONAL else class_name(names, kind))
    what = 'Persistent chains in the replay buffer, the oldest first'
    if len(columns) == 1:
        images = as_images(position[columns[0][: 10 * per_class]])
        return {'buffer': Grid(images, 10, f'{what}.')}
    rows = min(per_class, *map(len, columns))
    chosen = np.stack([entries[:rows] for entries in columns], 1).reshape(-1)
    caption = f'{what} (first row). One class per column; p(x): chains without a class.'
    return {'buffer': Grid(as_images(position[chosen]), len(columns), caption, headings)}
