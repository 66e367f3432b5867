"""The types of ebm_jax: protocols of pure functions, and the tuples that are made of them.

Everywhere p(x) ~ exp(-E(x)): low energy means likely. Energies, networks and kernels take ONE
example and one chain, batches come from `jax.vmap` outside; buffers and weight rules take a batch.
A key comes first, or after the parameters.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
ArrayLike = jax.typing.ArrayLike
Key = jax.Array
PyTree = Any
Params = PyTree
Batch = Mapping[str, Any]  # 'x': [N, ...], 'y': int [N]; the leading axis is that of examples
Metrics = dict[str, Array]

UNCONDITIONAL = -1  # the label of a chain that follows p(x) instead of p(x|y)


class EnergyFn(Protocol):
    """E(x) of one example."""

    def __call__(self, x: PyTree, /) -> Array: ...


class ConditionalEnergyFn(Protocol):
    """E(x, y) of one example and a label, or whatever else the chain is conditioned on."""

    def __call__(self, x: PyTree, label: Array, /) -> Array: ...


class ParamEnergyFn(Protocol):
    """E_theta(x, y) of trained parameters; UNCONDITIONAL stands for E_theta(x)."""

    def __call__(self, params: Params, x: PyTree, label: ArrayLike, /) -> Array: ...


class InitialSampler(Protocol):
    """Where a chain of the label begins: a draw of its initial distribution."""

    def __call__(self, key: Key, label: ArrayLike, /) -> PyTree: ...


class ParamInitialSampler(Protocol):
    """As `InitialSampler`, for chains that may begin at samples of a trained generator."""

    def __call__(self, params: Params, key: Key, label: Array, /) -> PyTree: ...


class Transition(Protocol):
    """A random map of one example: data augmentation, or a transition of the chain."""

    def __call__(self, key: Key, x: PyTree, /) -> PyTree: ...


class Network(NamedTuple):
    """A parametrised function of one example."""

    init: Callable[..., Params]  # (key, x, *conditions) -> params
    apply: Callable[..., PyTree]  # (params, x, *conditions) -> y; a condition is a label
    module: Any = None  # the linen or nnx module behind it, where there is one


class Info(NamedTuple):
    """Statistics of one step of a kernel; all scalars, and free where nothing reads them."""

    energy: Array  # E where the gradient was taken: before the step, or after its noise
    grad_norm: Array  # Euclidean norm of grad E there, before any clipping
    acceptance: Array  # probability of accepting the proposal; 1 for kernels without a test
    clipped: Array  # share of gradient entries that grad_clip cut
    saturated: Array  # share of position entries that bounds cut


class KernelInit(Protocol):
    """The state of a kernel at x, with state.position == x."""

    def __call__(self, x: PyTree, energy_fn: EnergyFn, /) -> Any: ...


class KernelStep(Protocol):
    """One transition of a chain."""

    def __call__(self, key: Key, state: Any, energy_fn: EnergyFn, /) -> tuple[Any, Info]: ...


class Kernel(NamedTuple):
    """A Markov transition of one chain."""

    init: KernelInit
    step: KernelStep


class Draw(NamedTuple):
    """Chains taken from a replay buffer; every field has a leading axis of chains."""

    position: PyTree
    label: Array  # int32; UNCONDITIONAL for p(x)
    age: Array  # int32; rounds of sampling since the chain (re)started, 0 for one that starts now
    # int32; the entry of the buffer it came from
    index: Array  # type: ignore[assignment]  # (shadows tuple.index)


class ReplayBuffer(NamedTuple):
    """Where chains wait between training steps."""

    init: Callable[[Key], PyTree]  # key -> state
    draw: Callable[[Key, PyTree, int, Array], Draw]  # (key, state, n, labels) -> n chains
    write: Callable[[Key, PyTree, Draw, PyTree], PyTree]  # (key, state, draw, positions) -> state
    # (key, state, n) -> (past samples [n, ...], bool [n]: which of them are there)
    sample_past: Callable[[Key, PyTree, int], tuple[PyTree, Array]]


class Weights(NamedTuple):
    """How much each energy of the batch is pushed up; without gradient. They sum to 1 over all
    devices' examples (but for `objectives.logistic`).

    Each device holds its examples' weights TIMES the number of devices, so that means over devices
    come out right.
    """

    positives: Array  # [N, ...]
    negatives: Array  # [M, ...]


class WeightRule(Protocol):
    """Weights of a contrast from energies of positives [N, ...] and negatives [M, ...]."""

    def __call__(self, e_pos: Array, e_neg: Array, /) -> Weights: ...


class InitFn(Protocol):
    """(key, batch) -> (params, chains)."""

    def __call__(self, key: Key, batch: Batch, /) -> tuple[Params, PyTree]: ...


class SampleFn(Protocol):
    """The MCMC half of a method: (key, params, chains, batch) -> (samples, chains)."""

    def __call__(
        self, key: Key, params: Params, chains: PyTree, batch: Batch, /
    ) -> tuple[PyTree, PyTree]: ...


class LossFn(Protocol):
    """The learning half: (params, key, batch, samples) -> (loss terms, metrics)."""

    def __call__(
        self, params: Params, key: Key, batch: Batch, samples: PyTree, /
    ) -> tuple[dict[str, Array], Metrics]: ...


class Round(NamedTuple):
    """One round of sampling and learning within a training step; fields as in `Method`."""

    sample: SampleFn
    loss: LossFn
    teaches: tuple[str, ...] | None = None


class Method(NamedTuple):
    """A way to train: how chains are run, and what their samples teach.

    init(key, batch) -> (params, chains); every leaf of `chains` has a leading axis of shards,
      split over devices; () where no chain outlives its step.
    sample(key, params, chains, batch) -> (samples, chains); the MCMC half. No gradient flows out
      of it.
    loss(params, key, batch, samples) -> (terms, metrics); the learning half. `terms` is a dict
      of scalars whose SUM is the loss (so that the gradient of each can be watched); `metrics` a
      dict of scalars.
    gradients_per_step: gradients of the energy along the chains in one training step, over all
      devices; chain_steps: steps of each chain in one training step. Both are for the forecast.
    teaches: the top-level keys of params that the loss is differentiated by and that are updated;
      None: all of params.
    then: further rounds of the same training step on the same batch, under the same keys, each
      with the parameters as the rounds before have left them.
    at: None, or training step -> the Method of that step, where the program changes in the course
      of a run (its state does not). Steps that share a program get the same object. `fit` asks it
      at every step, and so must whoever makes the steps by hand (`Recipe.at`).
    Inside a train step `batch` and `chains` are one device's share; scalars are then averaged over
    the devices.
    Where `chains` has a field `buffer` (a ReplayState), pictures and telemetry show it; `samples`
    has a field x, where the chains ended.
    """

    init: InitFn
    sample: SampleFn
    loss: LossFn
    gradients_per_step: int = 0
    chain_steps: int = 1
    teaches: tuple[str, ...] | None = None
    then: tuple[Round, ...] = ()
    at: Callable[[int], 'Method'] | None = None

    @property
    def rounds(self) -> tuple[Round, ...]:
        """All rounds of a training step."""
        return (Round(self.sample, self.loss, self.teaches), *self.then)
