"""The nouns of ebm_jax: bundles of pure functions, and what one Langevin step reports.

Everywhere p(x) ~ exp(-E(x)): low energy means likely. Functions take ONE example and one chain; batches come from
`jax.vmap` outside. Keys are always the first argument.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
PyTree = Any
Key = jax.Array
EnergyFn = Callable[[PyTree], Array]   # x -> scalar

UNLABELLED = -1   # the label of a chain that follows p(x) and no p(x|y)


class Network(NamedTuple):
    """A parametrised function of one example."""
    init: Callable[..., PyTree]    # (key, x, *conditions) -> params
    apply: Callable[..., PyTree]   # (params, x, *conditions) -> y; a condition is a label, for networks that take one


class Info(NamedTuple):
    """What one step of a kernel saw; all scalars, and free where nothing reads them."""
    energy: Array       # E where the gradient was taken: at the start of the step, or after its noise where that comes first
    grad_norm: Array    # Euclidean norm of grad E there, before any clipping
    acceptance: Array   # probability with which the proposal was accepted; 1 for kernels without a test
    clipped: Array      # share of gradient entries that grad_clip cut
    saturated: Array    # share of position entries that bounds cut


class Kernel(NamedTuple):
    """A Markov transition of one chain."""
    init: Callable[[PyTree, EnergyFn], Any]                      # (x, energy_fn) -> state, with state.position == x
    step: Callable[[Key, Any, EnergyFn], tuple[Any, Info]]       # (key, state, energy_fn) -> (state, info)


class Draw(NamedTuple):
    """Chains taken from a replay buffer; every field has a leading axis of chains."""
    position: PyTree
    label: Array        # int32; UNLABELLED for p(x)
    age: Array          # int32; rounds of sampling since the chain (re)started, 0 for a chain that starts now
    index: Array        # int32; the entry of the buffer it came from


class ReplayBuffer(NamedTuple):
    """Where chains wait between training steps."""
    init: Callable[[Key], PyTree]                                # key -> state
    draw: Callable[[Key, PyTree, int, Array], Draw]              # (key, state, n, labels) -> Draw of n chains
    write: Callable[[Key, PyTree, Draw, PyTree], PyTree]         # (key, state, draw, positions) -> state
    peek: Callable[[Key, PyTree, int], tuple[PyTree, Array]]     # (key, state, n) -> (past samples [n, ...], which of them are there [n])


class Round(NamedTuple):
    """One round of sampling and learning within a training step; fields as in `Method`."""
    sample: Callable
    loss: Callable
    teaches: tuple[str, ...] | None = None


class Method(NamedTuple):
    """A way to train: how chains are run, and what their samples teach.

    init(key, batch) -> (params, chains); every leaf of `chains` has a leading axis of shards, split over devices; () where no chain
      outlives its step.
    sample(key, params, chains, batch) -> (samples, chains); the MCMC half. No gradient flows out of it.
    loss(params, key, batch, samples) -> (addends, metrics); the learning half. `addends` is a dict of scalars whose SUM is
      the loss (so that the gradient of each can be watched); `metrics` a dict of scalars.
    teaches: the top-level keys of params that the loss is differentiated by and that are updated; None: all of params.
    then: further rounds of the same training step on the same batch, under the same keys, each with the parameters as the rounds before
      have left them.
    Inside a train step `batch` and `chains` are one device's share; scalars are then averaged over the devices.
    """
    init: Callable
    sample: Callable
    loss: Callable
    gradients_per_step: int = 0   # gradients of the energy along the chains in one training step, over all devices
    chain_steps: int = 1          # steps of each chain in one training step; both are for the forecast
    teaches: tuple[str, ...] | None = None
    then: tuple[Round, ...] = ()

    @property
    def rounds(self):
        """All Rounds of a training step."""
        return (Round(self.sample, self.loss, self.teaches), *self.then)
