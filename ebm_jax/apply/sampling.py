"""Draw samples from a trained energy."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import batching
from ebm_jax.errors import ChainsDiverged
from ebm_jax.mcmc import advance, run_chain
from ebm_jax.types import (
    ArrayLike,
    Kernel,
    Key,
    ParamEnergyFn,
    ParamInitialSampler,
    Params,
    PyTree,
    Transition,
)


def sample(
    key: Key,
    energy_fn: ParamEnergyFn,
    params: Params,
    kernel: Kernel,
    initial_sampler: ParamInitialSampler,
    labels: ArrayLike,
    num_steps: int,
    *,
    batch_size: int = 256,
    description: str = 'sampling',
    **options: Any,
) -> Any:
    """Run new chains, one per label, from their initial positions; compiles at every call.

    Args:
      energy_fn, kernel, initial_sampler, num_steps, options: see `compiled_chain`.
      labels, batch_size, description: see `run_compiled`.
    Returns: as `run_compiled`.
    Raises: ValueError and ChainsDiverged, as these.
    """
    chain = compiled_chain(energy_fn, kernel, initial_sampler, num_steps, **options)
    return run_compiled(chain, key, params, labels, batch_size=batch_size, description=description)


def compiled_chain(
    energy_fn: ParamEnergyFn,
    kernel: Kernel,
    initial_sampler: ParamInitialSampler,
    num_steps: int,
    *,
    transition: Transition | None = None,
    every: int = 20,
    plain: int = 0,
    trajectory: int = 0,
) -> Callable[..., PyTree]:
    """A chain from its initial position, compiled at its first use by `run_compiled`.

    Args:
      energy_fn: (params, x, label) -> scalar. num_steps: int >= 0.
      transition: None, or (key, x) -> x, applied before each block of `every` steps; the last
        `plain` steps or more have none (Du et al. 2021 [code]: augmentation every 20 steps, none in
        the last rounds).
      trajectory: 0, or the number of parts into which the steps without transition are cut; then
        the initial position and the end of each block and part are kept.
    Raises: ValueError for num_steps < 0, every < 1, plain < 0 or trajectory < 0.
    """
    if num_steps < 0 or every < 1 or plain < 0 or trajectory < 0:
        raise ValueError(
            'every must be at least 1, num_steps, plain and trajectory at least 0, got '
            f'{every}, {num_steps}, {plain} and {trajectory}'
        )
    blocks = max(num_steps - plain, 0) // every if transition else 0
    chain = _Chain(
        energy_fn=energy_fn,
        kernel=kernel,
        initial_sampler=initial_sampler,
        transition=transition or _identity,
        blocks=blocks,
        every=every,
        parts=max(trajectory, 1),
        last_steps=num_steps - blocks * every,
        keep=trajectory > 0,
    )
    return batching.mapped(chain.run)


def run_compiled(
    chain: Callable[..., PyTree],
    key: Key,
    params: Params,
    labels: ArrayLike,
    *,
    batch_size: int = 256,
    description: str = 'sampling',
) -> Any:
    """The chains of `compiled_chain`, one per label.

    Args:
      labels: int [N], UNCONDITIONAL for p(x); or [N, ...], whatever energy_fn takes.
      batch_size: chains at once. description: on the progress bar.
    Returns: numpy [N, ...], in the network's units; with a trajectory (that, [N, frames, ...]).
    Raises: ChainsDiverged where chains end at values that are not finite.
    """
    labels = np.asarray(labels)
    if np.issubdtype(labels.dtype, np.integer):
        labels = labels.astype(np.int32)
    found = batching.in_batches(
        partial(chain, key=key), params, [labels], batch_size=batch_size, description=description
    )
    ends = np.asarray(found[0] if isinstance(found, tuple) else found)
    lost = int(np.sum(~np.isfinite(ends.reshape(len(ends), -1)).all(1)))
    if lost:
        raise ChainsDiverged(
            f'{lost} of {len(ends)} chains end at values that are not finite: take fewer or '
            'smaller steps'
        )
    return found


def _identity(key, x):
    return x


@dataclass(frozen=True, kw_only=True, eq=False)
class _Chain:
    """A chain: `blocks` blocks of `every` steps, each after the transition, then `last_steps` steps
    in `parts` parts. `keep`: return the position after each block and part, too."""

    energy_fn: ParamEnergyFn
    kernel: Kernel
    initial_sampler: ParamInitialSampler
    transition: Transition  # where blocks > 0
    blocks: int
    every: int
    parts: int
    last_steps: int
    keep: bool

    def run(self, params, key, label):
        """The end of the chain; with `keep` (that, [frames, ...])."""
        initial_key, chain_key = jax.random.split(key)
        kernel, keep = self.kernel, self.keep

        def energy(x):
            return self.energy_fn(params, x, label)

        def block(x, i):
            move_key, key = jax.random.split(jax.random.fold_in(chain_key, i))
            x, _ = run_chain(key, kernel, energy, self.transition(move_key, x), self.every)
            return x, x if keep else None

        x = self.initial_sampler(params, initial_key, label)
        frames = [x[None]]
        if self.blocks:
            x, after = jax.lax.scan(block, x, jnp.arange(self.blocks))
            frames.append(after)
            chain_key = jax.random.fold_in(chain_key, self.blocks)  # distinct from the blocks' keys
        each = self.last_steps // self.parts  # steps of a part; the last one takes the rest, too

        def part(state, i):
            state, _ = advance(chain_key, kernel, energy, state, each, first=i * each)
            return state, state.position if keep else None

        state = kernel.init(x, energy)
        if self.parts > 1:
            state, after = jax.lax.scan(part, state, jnp.arange(self.parts - 1))
            frames.append(after)
        first = (self.parts - 1) * each
        state, _ = advance(chain_key, kernel, energy, state, self.last_steps - first, first=first)
        if not keep:
            return state.position
        return state.position, jnp.concatenate([*frames, state.position[None]])
