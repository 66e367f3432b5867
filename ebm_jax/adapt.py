"""Samplers: Langevin kernels, fixed or tuning their own settings during training."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import struct

from ebm_jax.mcmc import check_number, langevin
from ebm_jax.types import Array, Kernel, PyTree


class Sampler(NamedTuple):
    """A kernel that may depend on a state kept between training steps."""

    init: Callable[[], PyTree]  # () -> state
    kernel: Callable[[PyTree], Kernel]  # state -> the kernel of this call
    # (state, score of this call's samples) -> state
    update: Callable[[PyTree, Array], PyTree]
    tunes: bool = True  # False: the score is not read


def fixed(kernel: Kernel) -> Sampler:
    """The same kernel at every call."""
    return Sampler(lambda: (), lambda state: kernel, lambda state, score: state, tunes=False)


@struct.dataclass
class Tuning:
    settings: Array  # [4]: step size, noise divisor, decay of the step, momentum
    knob: Array  # int32: which of them is being tried
    call: Array  # int32: calls since this trial began
    scores: Array  # [3]: sums of the scores of x m, x 1 and x 1/m


FACTORS = (0.9, 0.9, 0.995, 0.95)


def adaptive(
    step_size: float = 0.1,
    noise_divisor: float = 100.0,
    decay: float = 1.0,
    momentum: float = 0.1,
    *,
    factors: Sequence[float] = FACTORS,
    calls: int = 33,
    **langevin_options: Any,
) -> Sampler:
    """Tune one setting of a Langevin kernel at a time, by the mean s(x) = -E(x) of its samples.

    Call t of a trial multiplies the setting by m, 1 or 1/m in turn. After `calls` calls the value
    with the highest mean score is kept, and the next of (step size, noise divisor, decay, momentum)
    is tried. Decay and momentum are kept within (0, 1] and [0, 0.999]. The noise is
    sqrt(2 a) / divisor, a temperature of 1 / divisor^2.

    Args:
      step_size, noise_divisor, decay, momentum: initial values; > 0, > 0, in (0, 1], in [0, 1).
      factors: m of each setting, in (0, 1). calls: >= 3.
      langevin_options: passed on to `mcmc.langevin` (grad_clip, bounds, noise_first).
    Raises: ValueError when out of range.
    Source: [code] of ST-JEM's first author (factors and the 33 calls; x += a/2 g + sqrt(a)/100 xi
      with a = 0.2 is step size 0.1 here); taking the three values in turn, and the bounds, are our
      reading.
    """
    if calls < 3 or not all(0 < m < 1 for m in factors) or len(factors) != 4:
        raise ValueError(
            f'adaptive needs calls >= 3 and four factors in (0, 1), got {calls} and {factors}'
        )
    check_number('noise_divisor', noise_divisor, 0, open_low=True)
    # checks the other settings
    langevin(
        step_size,
        temperature=1 / noise_divisor**2,
        momentum=momentum,
        decay=decay,
        **langevin_options,
    )
    multipliers = jnp.array(factors, jnp.float32)
    highest = jnp.array([jnp.inf, jnp.inf, 1.0, 0.999], jnp.float32)

    def tried(state, choice):
        scale = multipliers[state.knob] ** (1 - choice)  # choice 0, 1, 2: m, 1, 1/m
        return jnp.minimum(state.settings.at[state.knob].multiply(scale), highest)

    def init():
        return Tuning(
            jnp.array([step_size, noise_divisor, decay, momentum], jnp.float32),
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.int32),
            jnp.zeros(3, jnp.float32),
        )

    def kernel(state):
        a, divisor, decay, momentum = tried(state, state.call % 3)
        return langevin(
            a, temperature=1 / divisor**2, decay=decay, momentum=momentum, **langevin_options
        )

    def update(state, score):
        scores = state.scores.at[state.call % 3].add(score)
        done = state.call + 1 == calls
        counts = (calls - jnp.arange(3) + 2) // 3
        best = tried(state, jnp.argmax(scores / counts))
        return Tuning(
            jnp.where(done, best, state.settings),
            jnp.where(done, (state.knob + 1) % 4, state.knob),
            jnp.where(done, 0, state.call + 1),
            jnp.where(done, 0.0, scores),
        )

    return Sampler(init, kernel, update)
