"""JEM and ST-JEM: their settings, and the experiments on images or other data that they define."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ebm_jax import adapt, data, objectives, replay
from ebm_jax.errors import InputError
from ebm_jax.images import as_float
from ebm_jax.initial import fit_class_gaussians
from ebm_jax.methods.jem import jem
from ebm_jax.model import INITIAL
from ebm_jax.spec import Part, Sampling
from ebm_jax.types import (
    Batch,
    InitialSampler,
    Kernel,
    Network,
    Transition,
    WeightRule,
)
from experiments.common.assembly import classifier_experiment
from experiments.common.building import (
    batches,
    chain_numbers,
    kernel_part,
    make_kernel,
    prepare_images,
    shard_capacity,
    traced_kernel,
)
from experiments.common.experiment import Experiment, TrainingChains
from experiments.common.groups import (
    Buffer,
    Chain,
    Optimizer,
    PersistentRunSettings,
)
from experiments.common.labelled import LabelledData, labelled_splits
from experiments.common.settings import group, setting
from experiments.common.sources import Datasets
from experiments.families.networks import ConvNetwork


@dataclass
class JemData(LabelledData):
    """The data set, what happens to an image before the network sees it, its labels, and how many
    of them are seen."""

    labels_per_class: int = setting(
        0, 'labels of each class that training may see (semi-supervised); 0: all', low=0
    )


@dataclass
class JemBuffer(Buffer):
    """The replay buffer, and where its chains begin."""

    initial: str = setting(
        'uniform',
        'initial distribution: uniform noise, or a Gaussian of each class, fitted to 1,000 of its '
        'training images at `side` pixels',
        choices=('uniform', 'class_gaussian'),
    )
    side: int = setting(8, 'pixels of a side at which these Gaussians are fitted', low=2)
    rank: int = setting(8, 'principal components of each of these Gaussians', low=1)

    @property
    def plain(self) -> Part:
        """The initial distribution without classes."""
        return Part('uniform')

    def part(self, train: data.Examples, labelled: np.ndarray | None = None) -> Part:
        """The initial distribution of chains.

        Args: labelled: the training examples [n] whose labels may be seen; None for all.
        Raises: InputError where the Gaussians cannot be fitted.
        """
        if self.initial != 'class_gaussian':
            return self.plain
        seen = np.arange(len(train.y)) if labelled is None else labelled
        of_classes = [seen[train.y[seen] == label][:1000] for label in range(train.num_classes)]
        some = train.rows(np.sort(np.concatenate(of_classes)))
        try:
            fitted = fit_class_gaussians(
                as_float(some.x), some.y, train.num_classes, side=self.side, rank=self.rank
            )
        except ValueError as error:
            raise InputError(
                f'--config.buffer.initial=class_gaussian with side={self.side} and '
                f'rank={self.rank}: {error}; change them, or use {self.plain.name}'
            ) from error
        return Part(self.initial, {'gaussians': fitted.to_text()})


@dataclass
class JemChain(Chain):
    """The chains of training, one round of K steps each training step."""

    momentum: float = setting(0.0, 'of the moving average of gradients', low=0, below=1)
    extra_step_every: int = setting(0, 'training steps after which K grows by 1; 0: never', low=0)
    adaptive: bool = setting(
        False, 'tune step size, noise, decay and momentum; noise is then a temperature'
    )


@dataclass
class JemLoss:
    """L = L_yx + p_x_weight [(1 - alpha) L_x + alpha L_xy]."""

    balanced: bool = setting(True, 'balanced weights (ST-JEM); else uniform (JEM)')
    beta: float = setting(1.0, 'inverse temperature of balanced weights', low=0)
    include_positives: bool = setting(True, 'balanced weights are over positives, too')
    num_negatives: int = setting(64, 'chains M of a step, over all devices', low=1)
    positives: int = setting(
        0, 'examples of p(x) of a step, without crop and flip; 0: those of the classifier', low=0
    )
    conditional: float = setting(0.5, 'share of the chains on p(x|y)', low=0, high=1)
    p_x_weight: float = setting(1.0, 'weight of the generative part', low=0)
    late_from: int = setting(
        0, 'training step from which that weight is late_p_x_weight; 0: never', low=0
    )
    late_p_x_weight: float = setting(0.01, 'weight of the generative part from then on', low=0)
    alpha: float = setting(0.0, 'weight of the mutual information of the batch', low=0, high=1)
    entropy_weight: float = setting(0.0, 'weight of the entropy form of mutual information', low=0)
    kl_weight: float = setting(0.0, "weight of ICD's KL term, at the last step of a chain", low=0)
    kl_entropy_weight: float = setting(0.3, 'weight of the entropy within the KL term', low=0)


@dataclass
class JemSettings(PersistentRunSettings):
    """A JEM or ST-JEM run on images."""

    data: Any = group(JemData)
    optimizer: Optimizer = group(Optimizer)
    buffer: Any = group(JemBuffer)
    sampler: JemChain = group(JemChain)
    fresh: Chain = group(Chain, num_steps=200)
    loss: JemLoss = group(JemLoss)
    network: Any = group(ConvNetwork)

    def divisors(self) -> tuple[int, ...]:
        # 0 for no examples of p(x) of their own, which any number divides
        return *super().divisors(), self.loss.positives

    def actions_without_effect(self) -> tuple[str, ...]:
        # an adaptive step size is part of the state, not of the settings
        return ('step_size',) if self.sampler.adaptive else ()


def image_jem(
    config: JemSettings,
    datasets: Datasets | None = None,
    *,
    network: Network | None = None,
    kernel: Kernel | None = None,
) -> Experiment:
    """The experiment of a JEM or ST-JEM run on images.

    Args:
      config: settings of the run.
      datasets: default: those that config.data names.
      network: one example -> logits; default: that of config.network.
      kernel: of the chains of training; default: that of config.sampler.
    """
    datasets = datasets or labelled_splits(config.data)
    c, train = config.data, datasets.train
    if c.labels_per_class and not config.loss.positives:
        raise InputError(
            '--config.data.labels_per_class needs --config.loss.positives, the examples of p(x) of '
            'a step, which are drawn from all images'
        )
    labelled = labelled_rows(config, datasets)
    return jem_experiment(
        config,
        datasets,
        network or config.network.build(train.num_classes, train.x.shape[1:]),
        initial=config.buffer.part(train, labelled),
        prepare=prepare_images(c.noise, c.crop, c.flip),
        prepare_test=prepare_images(c.noise),
        kernel=kernel,
        labelled=labelled,
    )


def labelled_rows(config: JemSettings, datasets: Datasets) -> np.ndarray | None:
    """The training examples whose labels may be seen; None for all."""
    few = config.data.labels_per_class
    return data.few_of_each(datasets.train, few, config.seed) if few else None


def jem_experiment(
    config: JemSettings,
    datasets: Datasets,
    network: Network,
    *,
    initial: Part,
    prepare: Transition,
    prepare_test: Transition,
    kernel: Kernel | None = None,
    labelled: np.ndarray | None = None,
    spec_changes: dict[str, Any] | None = None,
    **more: Any,
) -> Experiment:
    """The experiment of a JEM or ST-JEM run on anything.

    Args:
      config: settings of the run.
      datasets: its data sets.
      network: one example -> logits.
      initial: initial distribution of the chains.
      prepare, prepare_test: (key, example) -> network input.
      kernel: of the chains of training; default: that of config.sampler.
      labelled: training examples [n] whose labels may be seen; None for all.
      spec_changes: changes of the model's spec.
      more: further fields of Experiment.
    """
    num_classes, shape = datasets.train.num_classes, datasets.train.x.shape[1:]
    if num_classes < 2:
        raise InputError(
            f'{datasets.train.name} has one class alone, or no labels (y_train): a classifier '
            'needs at least two classes; contrastive divergence and dual-MCMC teaching need none'
        )
    initial_sampler = INITIAL[initial.name](shape, **initial.arguments)
    loss = config.loss
    if loss.late_from >= config.steps:
        raise InputError(
            f'--config.loss.late_from={loss.late_from} must be below the {config.steps} training '
            'steps: else the weight never changes'
        )
    method = jem(
        network,
        sampler_of(config.sampler, kernel),
        buffer_of(config, initial_sampler, num_classes),
        weights=weights_of(loss),
        num_negatives=loss.num_negatives,
        num_steps=config.sampler.num_steps,
        extra_step_every=config.sampler.extra_step_every,
        shards=config.shards,
        conditional=loss.conditional,
        p_x_weight=loss.p_x_weight,
        late_p_x_weight=(loss.late_from, loss.late_p_x_weight) if loss.late_from else None,
        alpha=loss.alpha,
        entropy_weight=loss.entropy_weight,
        separate=loss.positives > 0,
        kl_weight=loss.kl_weight,
        kl_entropy_weight=loss.kl_entropy_weight,
    )
    classified, seen = datasets.train, datasets.train
    if labelled is not None:
        classified = datasets.train.rows(labelled)
        seen = data.labels_hidden(datasets.train, labelled)
    batch_at = batches(classified, config.batch_size, config.seed)
    if loss.positives:
        batch_at = with_positives(batch_at, seen, loss.positives, config.seed)
    return classifier_experiment(
        config,
        datasets,
        network,
        method,
        sampling=Sampling(
            kernel=kernel_part(config.fresh, 'fresh'),
            step_size=config.fresh.step_size,
            num_steps=config.fresh.num_steps,
            initial=initial,
        ),
        prepare=prepare,
        prepare_test=prepare_test,
        prepare_more={'positives': prepare_test} if loss.positives else {},
        batch_at=batch_at,
        chains=training_chains(config.sampler, kernel),
        spec_changes=spec_changes,
        **more,
    )


def with_positives(
    batch_at: Callable[[int], Batch], train: data.Examples, num: int, seed: int
) -> Callable[[int], Batch]:
    """step -> batch with further examples 'positives' and 'positives_y', from permutations of their
    own."""
    own = batches(train, num, seed + 2**20)

    def both(step):
        more = own(step)
        return {**batch_at(step), 'positives': more['x'], 'positives_y': more['y']}

    return both


def sampler_of(c: JemChain, kernel: Kernel | None = None) -> adapt.Sampler:
    """The chains' kernel, fixed or adaptive."""
    if kernel is not None:
        return adapt.fixed(kernel)
    if not c.adaptive:
        part = kernel_part(c, 'sampler', momentum=c.momentum)
        return adapt.fixed(make_kernel(c, part, 'sampler'))
    if c.kernel != 'langevin' or not c.noise_is_temperature or c.noise <= 0:
        raise InputError(
            'the adaptive sampler needs --config.sampler.kernel=langevin, '
            '--config.sampler.noise_is_temperature=true and a noise > 0'
        )
    return adapt.adaptive(c.step_size, c.noise**-0.5, momentum=c.momentum)


def training_chains(c: JemChain, kernel: Kernel | None = None) -> TrainingChains:
    """The chains as telemetry follows them."""

    def numbers(state):
        if not c.adaptive:
            options = {'momentum': c.momentum} if c.momentum else {}
            return chain_numbers(c, kernel, **options)
        tuned = map(float, np.asarray(state.chains.sampler.settings)[0])
        a, divisor, decay, momentum = tuned
        scale = (2 * a) ** 0.5 / divisor
        return {'step_size': a, 'noise_scale': scale, 'decay': decay, 'momentum': momentum}

    def steps_of(state):
        if not c.extra_step_every:
            return c.num_steps
        return c.num_steps + int(np.asarray(state.chains.calls)[0]) // c.extra_step_every

    return TrainingChains(
        num_steps=c.num_steps,
        steps_of=steps_of,
        make_kernel=traced_kernel(kernel_part(c, 'sampler'), {}, kernel),
        numbers=numbers if kernel is None else lambda state: {'step_size': c.step_size},
    )


def buffer_of(
    config: JemSettings, initial_sampler: InitialSampler, num_classes: int
) -> replay.ReplayBuffer:
    """One shard of the buffer: in blocks by class where some chains are conditional."""
    capacity = shard_capacity(config.buffer.capacity, config.shards)
    restart, conditional = config.buffer.restart, config.loss.conditional
    if conditional == 0:
        return replay.persistent(initial_sampler, capacity, restart=restart)
    return replay.class_conditional(
        initial_sampler, capacity, num_classes, unconditional=1 - conditional, restart=restart
    )


def weights_of(loss: JemLoss) -> WeightRule:
    """The rule for the weights of the contrasts."""
    if not loss.balanced:
        return objectives.uniform
    return partial(objectives.balanced, beta=loss.beta, include_positives=loss.include_positives)
