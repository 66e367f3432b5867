"""Applications of an energy of windows: long sequences, whole recordings, cleaner speech. All our
reading; functions take ONE example.

A window is [L, F, 1], a long sequence [T, F, 1] with T >= L; its window t begins at frame
t * every.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import audio, batching
from ebm_jax.apply.refine import refine
from ebm_jax.data.windows import Frontend
from ebm_jax.mcmc import run_chain
from ebm_jax.types import (
    UNCONDITIONAL,
    Array,
    ArrayLike,
    ConditionalEnergyFn,
    EnergyFn,
    Kernel,
    Key,
    ParamEnergyFn,
    ParamInitialSampler,
    Params,
)


def begins(
    frames: int, length: int, every: int, within: ArrayLike | None = None
) -> tuple[Array, Array]:
    """Where the windows over `frames` frames begin: one every `every` frames, and a last one that
    ends with the sequence.

    Args:
      within: None, or the number of frames that belong to the sequence (may be traced); the rest is
        filling.
    Returns: (int [n], bool [n]: False for windows that are left over where the sequence is shorter
      than `frames`).
    Raises: ValueError when none fits.
    """
    if not 1 <= length <= frames or every < 1:
        raise ValueError(
            f'windows of {length} frames, one every {every}, do not fit a sequence of {frames}'
        )
    first = every * jnp.arange(-(-(frames - length) // every) + 1)
    last = (frames if within is None else within) - length
    return jnp.minimum(first, last), first < last + every


def coverage(frames: int, length: int, every: int, within: ArrayLike | None = None) -> Array:
    """How many windows see each frame: int [frames]. Arguments as in `begins`."""
    starts, there = begins(frames, length, every, within)
    at = jnp.arange(frames)
    return jnp.sum((at >= starts[:, None]) & (at < starts[:, None] + length) & there[:, None], 0)


def sequence_energy(
    window_energy: ConditionalEnergyFn,
    length: int,
    every: int = 1,
    labels: ArrayLike = UNCONDITIONAL,
    shared: bool = True,
    within: ArrayLike | None = None,
) -> EnergyFn:
    """The energy of a long sequence: x [T, F, 1] -> scalar.

        E(x) = sum_t E_window(x[t, ..., t + L - 1], y_t)

    Args:
      window_energy: (window, label) -> scalar.
      labels: int [n], one for each window of `begins`, or one for all.
      shared: divide each frame's row of the gradient by the number of windows that cover it; the
        value stays the sum. A frame then moves as far as a frame of a single window does, wherever
        it is.
      within: None, or the number of frames that belong to the sequence, at least L; the others are
        left out.
    """

    def energy(x):
        starts, there = begins(len(x), length, every, within)
        if shared:
            share = (
                1
                / jnp.maximum(coverage(len(x), length, every, within), 1).astype(x.dtype)[
                    :, None, None
                ]
            )
            fixed = jax.lax.stop_gradient(x)
            x = fixed + share * (x - fixed)
        windows = jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(x, start, length))(starts)
        return jnp.sum(
            jnp.where(
                there,
                jax.vmap(window_energy)(
                    windows, jnp.broadcast_to(jnp.asarray(labels), starts.shape)
                ),
                0.0,
            )
        )

    return energy


def generate(
    key: Key,
    window_energy: ConditionalEnergyFn,
    kernel: Kernel,
    x: Array,
    num_steps: int,
    length: int,
    labels: ArrayLike = UNCONDITIONAL,
) -> Array:
    """A long sequence, by a chain from x [T, F, 1] on the sum of its windows' energies, one window
    at each frame. labels: as in `sequence_energy`."""
    return run_chain(key, kernel, sequence_energy(window_energy, length, 1, labels), x, num_steps)[
        0
    ]


def pooled_logits(logits: Array) -> Array:
    """Logits of a whole recording from those of its windows: logsumexp_w f(x_w)[c] - log n.

    [n, C] -> [C].
    """
    return jax.nn.logsumexp(logits, 0) - jnp.log(len(logits))


def labels_along(phones: ArrayLike, frames: int, length: int, every: int) -> Array:
    """The label of each window of a sequence of phones: that of its middle frame. int [T] ->
    [n]."""
    return jnp.asarray(phones)[begins(frames, length, every)[0] + length // 2]


def denoise(
    key: Key,
    energy_fn: EnergyFn,
    kernel: Kernel,
    x: Array,
    num_steps: int,
    anchor: float = 0.0,
    observe: Callable[[Array], Array] = lambda u: u,
) -> Array:
    """A few Langevin steps from noisy features: x_0 = x, on E(u) + anchor |observe(u) - x|^2.

    Args:
      energy_fn: x -> scalar, of one sequence (`sequence_energy`). anchor: lambda >= 0.
      observe: clean features -> noisy features (`in_noise`); the default is the identity, for the
        plain anchor |u - x|^2.
    Returns: an array like x.
    Source: the abstract of Sustek et al. 2023 names de-noising by a few SGLD steps; the anchors are
      our reading.
    """
    return refine(
        key, lambda u: energy_fn(u) + anchor * jnp.sum((observe(u) - x) ** 2), kernel, x, num_steps
    )


def in_noise(noise: Array, mean: ArrayLike, std: ArrayLike) -> Callable[[Array], Array]:
    """The effect of stationary noise whose power adds to that of the features: a function of
    [T, F, 1] in units of (dB - mean) / std.

        dB(observed) = 10 log10(10^(dB(u) / 10) + 10^(noise / 10))

    A bin that the noise drowns may take any value below it; the energy decides which.

    Args: noise: [F] in dB. mean, std: [F], of the units.
    Source: our reading; powers add, phases are left out.
    """

    def observe(u):
        decibels = jnp.logaddexp(
            (u[..., 0] * std + mean) * (jnp.log(10) / 10), noise * (jnp.log(10) / 10)
        ) * (10 / jnp.log(10))
        return ((decibels - mean) / std)[..., None]

    return observe


def recording_logits(
    logits_fn: Callable[[Params, Array], Array],
    params: Params,
    frontend: Frontend,
    sequences: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Logits of each sequence [T, F, 1]: [T, C] for its frames, or [C] pooled over windows.

    Args: logits_fn: (params, window) -> [C].
    """
    views = [frontend.views(np.asarray(x)) for x in sequences]

    def one(params, key, x):
        return logits_fn(params, x)

    windows = [np.concatenate(views)]
    logits = batching.for_each(one, params, jax.random.key(0), windows, description='windows')
    parted = np.split(logits, np.cumsum([len(view) for view in views])[:-1])
    if frontend.by_frame:
        return parted
    return [np.asarray(pooled_logits(jnp.asarray(rows))) for rows in parted]


def generate_features(
    energy_fn: ParamEnergyFn,
    params: Params,
    key: Key,
    kernel: Kernel,
    initial_sampler: ParamInitialSampler,
    frontend: Frontend,
    frame_labels: ArrayLike,
    num_steps: int,
) -> np.ndarray:
    """A sequence [T, F, 1] with the given frame labels, int [T], at least one window long; its
    chain begins at windows of the initial distribution side by side, each of the label of its
    middle frame, see `generate`."""
    said, length = np.asarray(frame_labels), frontend.length
    said = np.pad(said, (0, max(0, length - len(said))), mode='edge')
    labels = labels_along(said, len(said), length, 1)
    middles = length * np.arange(-(-len(said) // length)) + length // 2
    begun = said[np.minimum(middles, len(said) - 1)]

    def one(params, key, labels):
        initial_key, key = jax.random.split(key)
        keys = jax.random.split(initial_key, len(begun))
        windows = jax.vmap(initial_sampler, (None, 0, 0))(params, keys, jnp.asarray(begun))
        x = windows.reshape(-1, *windows.shape[2:])[: len(said)]
        window_energy = partial(energy_fn, params)
        return generate(key, window_energy, kernel, x, num_steps, frontend.length, labels)

    inputs = [np.asarray(labels)[None]]
    return batching.for_each(one, params, key, inputs, description='generating')[0]


def denoise_features(
    energy_fn: Callable[..., Array],
    params: Params,
    key: Key,
    kernel: Kernel,
    frontend: Frontend,
    sequences: Sequence[np.ndarray],
    num_steps: int,
    *,
    anchor: float,
    percentile: float,
    labels: ArrayLike | None = None,
) -> list[np.ndarray]:
    """Each sequence [T, F, 1] after `denoise` on the sum of its windows' energies.

    Args:
      energy_fn: (params, window, label) -> scalar; without labels (params, window) -> scalar.
      anchor: lambda >= 0.
      percentile: in [0, 100], over the frames of a sequence: the estimated level of the noise of
        each bin (our reading); 0: the plain anchor.
      labels: int [N], of the sequences: the chain is one of p(x|y); default: of p(x).
    """
    if not num_steps:
        return list(sequences)
    free = labels is None
    given = np.full(len(sequences), UNCONDITIONAL) if free else np.asarray(labels)
    scale, length = frontend.scale, frontend.length
    every, longest = 1 + length // 6, max(length, *map(len, sequences))
    # one program for all
    padded = [np.pad(x, ((0, longest - len(x)), (0, 0), (0, 0)), mode='edge') for x in sequences]
    noises = [np.percentile(scale.to_decibels(x[..., 0]), percentile, axis=0) for x in sequences]
    within = np.array([max(len(x), length) for x in sequences])

    def one(params, key, x, noise, within, label):
        def window_energy(x, label):
            return energy_fn(params, x) if free else energy_fn(params, x, label)

        energy = sequence_energy(window_energy, length, every, label, within=within)
        if not percentile:
            return denoise(key, energy, kernel, x, num_steps, anchor)
        observe = in_noise(noise, scale.mean, audio.SPAN * scale.std)
        return denoise(key, energy, kernel, x, num_steps, anchor, observe)

    inputs = [np.stack(padded), np.stack(noises).astype(np.float32), within, given]
    found = batching.for_each(one, params, key, inputs, batch_size=16, description='de-noising')
    return [x[: len(before)] for x, before in zip(found, sequences)]
