"""Energy matching: a scalar potential that carries noise to the data, and is their energy there.

    L_flow = E |grad E(x_t) + x_1 - x_0|^2 / D,   x_t = (1 - t) x_0 + t x_1,   t ~ U(0, 1)
    L_cd = (mean E(x+) - mean E(x-)) / temperature
    L = L_flow + cd_weight L_cd

x_1 is an example, x_0 noise, paired at random. First L_flow alone (a warm-up), which makes -grad E
the velocity of straight paths; then contrastive divergence is added, whose chains begin in part at
noise and in part at data, by a kernel whose temperature is switched on near the data
(`kernels.heated_langevin`). Samples are drawn by that kernel from noise.
Source: Balcerak et al. 2025 (arXiv 2504.10612). L_flow is a mean over entries here, and x_0 and x_1
are coupled at random (the paper solves an assignment in each batch): our reading.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import struct

from ebm_jax import devices, validity
from ebm_jax import objectives as obj
from ebm_jax.mcmc import run_chain
from ebm_jax.shapes import check_function, check_initial, check_network
from ebm_jax.types import (
    UNCONDITIONAL,
    Array,
    ArrayLike,
    InitialSampler,
    Kernel,
    Method,
    Network,
    PyTree,
)


@struct.dataclass
class Samples:
    """Where the chains of one step ended."""

    x: PyTree  # [M, ...]
    valid: Array  # bool [M]
    stuck: Array  # share of chains that did not move


def energy_matching(
    network: Network,
    noise: InitialSampler,
    kernel: Callable[[ArrayLike], Kernel],
    *,
    temperature: float,
    num_steps: int = 40,
    cd_weight: float = 1e-3,
    warmup: int = 0,
    clip: float | None = None,
) -> Method:
    """Energy matching.

    Args:
      network: one example -> scalar, or energies that are summed.
      noise: the distribution of x_0.
      kernel: (time at which a chain begins: 0 at noise, 1 at data) -> its Kernel. There are as many
        chains as examples in the batch; every other begins at noise, the rest at an example.
      temperature: > 0, that of the kernel near the data.
      num_steps: K, steps of each chain.
      cd_weight: of L_cd. warmup: training steps of L_flow alone.
      clip: None, or c > 0: a difference mean E(x+) - mean E(x-) below -c teaches nothing, which
        bounds L_cd ([paper]: a clamp on the contrastive loss).
    Returns: Method, without chains that outlive a step. Its loss terms: 'flow' and, after the
      warm-up, 'contrast'.
    Raises: TypeError for a part of another kind;
      ValueError when a number is out of range.
    """
    check_network('network', network)
    check_function('noise', noise, 'initial.normal(shape)')
    check_function('kernel', kernel, 'lambda begin: kernels.heated_langevin(..., begin=begin)')
    if not temperature > 0 or num_steps < 1 or warmup < 0 or not cd_weight >= 0:
        raise ValueError(
            'temperature must be > 0, num_steps >= 1, warmup and cd_weight >= 0, got '
            f'{temperature}, {num_steps}, {warmup} and {cd_weight}'
        )
    if clip is not None and not clip > 0:
        raise ValueError(f'clip must be above 0, got {clip}')
    return _EnergyMatching(
        network=network,
        noise=noise,
        kernel=kernel,
        temperature=temperature,
        num_steps=num_steps,
        cd_weight=cd_weight,
        warmup=warmup,
        clip=clip,
        contrasts=True,
    ).method()


@dataclass(frozen=True, kw_only=True, eq=False)
class _EnergyMatching:
    """The three functions of the method; fields as in `energy_matching`."""

    network: Network
    noise: InitialSampler
    kernel: Callable[[ArrayLike], Kernel]
    temperature: float
    num_steps: int
    cd_weight: float
    warmup: int
    clip: float | None
    contrasts: bool  # False during the warm-up

    def method(self) -> Method:
        """The Method of the warm-up, or of the steps after it."""
        return Method(
            init=self.init,
            sample=self.sample,
            loss=self.loss,
            chain_steps=self.num_steps,
            at=self.at if self.warmup else None,
        )

    def at(self, step: int) -> Method:
        """The Method of a training step, from 0."""
        return _phase(self, step >= self.warmup)

    def energy(self, params, x):
        """E of one example."""
        return jnp.sum(self.network.apply(params, x))

    def init(self, key, batch):
        check_initial('noise', self.noise, batch['x'])
        return self.network.init(key, batch['x'][0]), ()

    def draw_noise(self, key, n):
        """[n, ...], the same for any number of devices."""
        keys = devices.keys(key, n)
        return jax.vmap(self.noise)(keys, jnp.full(n, UNCONDITIONAL))

    def sample(self, key, params, chains, batch):
        x, n = batch['x'], len(batch['x'])
        noise_key, chain_key = jax.random.split(key)
        begin = self.draw_noise(noise_key, n)
        if not self.contrasts:
            none = Samples(begin, jnp.ones(n, bool), jnp.zeros(()))
            return jax.lax.stop_gradient(none), chains
        at_noise = devices.positions(n) % 2 == 0
        starts = validity.select(at_noise, begin, x)

        def one(key, x, begin):
            kernel = self.kernel(begin)
            return run_chain(key, kernel, lambda u: self.energy(params, u), x, self.num_steps)[0]

        times = jnp.where(at_noise, 0.0, 1.0)
        ends = jax.vmap(one)(devices.keys(chain_key, n), starts, times)
        valid = validity.is_valid(ends)
        kept = validity.select(valid, ends, starts)
        samples = Samples(kept, valid, validity.stuck_fraction(starts, ends))
        return jax.lax.stop_gradient(samples), chains

    def flow(self, params, key, x):
        """L_flow over the batch."""
        noise_key, time_key = jax.random.split(key)
        start = self.draw_noise(noise_key, len(x))
        times = jax.vmap(jax.random.uniform)(devices.keys(time_key, len(x)))

        def one(x_0, x_1, t):
            velocity = -jax.grad(self.energy, 1)(params, (1 - t) * x_0 + t * x_1)
            return jnp.mean(jnp.square(velocity - (x_1 - x_0)))

        return jnp.mean(jax.vmap(one)(start, x, times))

    def loss(self, params, key, batch, samples):
        terms = {'flow': self.flow(params, key, batch['x'])}
        batched = jax.vmap(self.energy, (None, 0))
        e_pos, e_neg = batched(params, batch['x']), batched(params, samples.x)
        metrics = {
            **obj.scores(e_pos, e_neg, samples.valid),
            **validity.chain_metrics(samples.valid, samples.stuck),
        }
        if self.contrasts and self.cd_weight:
            difference = jnp.mean(e_pos) - validity.masked_mean(e_neg, samples.valid)
            if self.clip is not None:
                whole = devices.mean(difference)
                difference = jnp.where(whole > -self.clip, difference, 0.0)
            terms['contrast'] = self.cd_weight * difference / self.temperature
        return terms, metrics


@functools.lru_cache(maxsize=64)
def _phase(parts, contrasts):
    """The same object for the same arguments, so that `Method.at` says when to compile again."""
    return replace(parts, contrasts=contrasts).method()
