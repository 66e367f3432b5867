"""Groups of settings that several families share; each family adds its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.common.settings import group, setting


@dataclass
class ImageData:
    """The data set, and what happens to an image before the network sees it."""

    source: str = setting(
        'digits',
        'digits, npz:FILE, folder:FOLDER or '
        'tfds:NAME[@FOLDER][?size=64&label=attributes.Male&memory=false]',
    )
    noise: float = setting(
        0.03, 'standard deviation of Gaussian noise, in training and test (JEM)', low=0, high=10
    )
    crop: int = setting(0, 'pixels of reflection padding before a random crop in training', low=0)
    flip: bool = setting(False, 'random horizontal flips in training')


@dataclass
class Schedule:
    """The optimiser, with linear warm-up, then a cosine; or, with milestones, a factor at each of
    them."""

    kind: str = setting(
        'adam',
        'adam (weight decay is part of the gradient), adamw (it is not), or sgd',
        choices=('adam', 'adamw', 'sgd'),
    )
    warmup: int = setting(50, 'steps of linear warm-up', low=0)
    decay_steps: int = setting(0, 'step at which the cosine ends; 0: the last of the run', low=0)
    decay_to: float = setting(0.05, 'share of the learning rate at its end', low=0, high=1)
    milestones: tuple[int, ...] = setting(
        (),
        'training steps, later than the warm-up, at which the rate is multiplied by drop; (): a '
        'cosine',
        low=1,
    )
    drop: float = setting(1.0, 'factor at each milestone', above=0)
    b1: float = setting(0.9, 'first beta of Adam; momentum of sgd', low=0, below=1)
    b2: float = setting(0.999, 'second beta of Adam', low=0, below=1)
    clip_norm: float = setting(0.0, 'largest norm of the gradient; 0: not clipped', low=0)
    ema: float = setting(0.99, 'decay of the moving average of parameters; 0: none', low=0, below=1)


@dataclass
class Optimizer(Schedule):
    """The optimiser, with linear warm-up, then a cosine; or, with milestones, a factor at each of
    them."""

    learning_rate: float = setting(1e-3, 'largest learning rate', above=0)
    weight_decay: float = setting(0.0, 'weight decay', low=0, high=10)


@dataclass
class Buffer:
    """The replay buffer."""

    capacity: int = setting(2048, 'chains that it holds, over all shards', low=1)
    restart: float = setting(0.05, 'probability that a drawn chain restarts', low=0, high=1)


@dataclass
class Chain:
    """A Markov chain: x <- x - step_size grad E(x) + noise."""

    kernel: str = setting('langevin', 'the Markov kernel', choices=('langevin', 'mala', 'hmc'))
    step_size: float = setting(1.0, 'step size a of x <- x - a grad E + n xi', above=0)
    noise: float = setting(0.01, 'noise scale n, or a temperature (noise_is_temperature)', low=0)
    noise_is_temperature: bool = setting(
        False, 'noise is a temperature T, n = sqrt(2 a T); mala and hmc need one'
    )
    num_leapfrog: int = setting(5, 'leapfrog steps of hmc', low=1)
    num_steps: int = setting(20, 'steps K of the chain', low=1)


@dataclass
class Guard:
    """What changes each time the run diverges and goes back to a checkpoint."""

    actions: tuple[str, ...] = setting(
        ('new_key', 'num_steps', 'learning_rate', 'num_steps', 'learning_rate', 'step_size'),
        'recovery actions in order, each on top of the earlier ones; () ends the run at once',
        choices=('new_key', 'num_steps', 'learning_rate', 'step_size'),
        resume=True,
    )
    learning_rate: float = setting(0.5, 'factor of the action learning_rate', above=0, high=1)
    num_steps: int = setting(2, 'factor of the action num_steps', low=1)
    step_size: float = setting(0.5, 'factor of the action step_size', above=0, high=1)
    dead: bool = setting(
        False, 'a dead network counts as diverged, instead of a warning alone', resume=True
    )


@dataclass
class Denoise:
    """The chain that de-noises speech, see apply.sequences.denoise."""

    step_size: float = setting(0.2, 'step size', above=0)
    noise: float = setting(0.005, 'noise scale', low=0)
    num_steps: int = setting(100, 'steps', low=0)
    anchor: float = setting(2.0, 'weight of the distance to the noisy features', low=0)
    percentile: float = setting(
        30.0, 'percentile over frames taken as the noise; 0: plain anchor', low=0, high=100
    )
    recordings: int = setting(60, 'test recordings that evaluate measures', low=1)


@dataclass
class RunSettings:
    """Length, batch and intervals."""

    seed: int = setting(0, 'seed of all random numbers', low=0)
    steps: int = setting(
        1000, 'training steps; by default also the length of the schedule', low=1, resume=True
    )
    batch_size: int = setting(64, 'examples per step, over all devices', low=1)
    log_every: int = setting(50, 'steps between rows of metrics.jsonl', low=1, resume=True)
    checkpoint_every: int = setting(500, 'steps between checkpoints', low=1, resume=True)
    picture_every: int = setting(500, 'steps between pictures', low=1, resume=True)
    evaluate_every: int = setting(500, 'steps between evaluations; 0: never', low=0, resume=True)
    ood: tuple[str, ...] = setting(
        ('rotated', 'inverted', 'noise', 'mixed'),
        'out-of-distribution sets for evaluate: NAME=DATA, or the name of a change of the test set',
        resume=True,
    )
    init_from: str = setting(
        '', 'run or exported model whose parameters training begins with; empty: random ones'
    )
    guard: Guard = group(Guard)

    def divisors(self) -> tuple[int, ...]:
        """Numbers that the number of devices must divide."""
        return (self.batch_size,)

    def recovery_paths(self) -> dict[str, tuple[str, ...]]:
        """{recovery action: the settings that it multiplies}."""
        return {'new_key': (), 'num_steps': (), 'learning_rate': (), 'step_size': ()}

    def available_actions(self) -> tuple[str, ...]:
        """The recovery actions that can be taken."""
        without = self.actions_without_effect()
        return tuple(name for name in self.guard.actions if name not in without)

    def actions_without_effect(self) -> tuple[str, ...]:
        """The recovery actions that would change nothing in this run."""
        return ()

    def fix_schedule(self, saved: Mapping[str, Any]) -> None:
        """Give a schedule as long as the run (decay_steps = 0) its length, in place.

        Args: saved: settings of the run that is continued, as `settings.flatten`; its length is
          taken, else `steps`.
        """
        schedule = getattr(self, 'optimizer', None)
        if schedule is not None and not schedule.decay_steps:
            schedule.decay_steps = saved.get('optimizer.decay_steps', self.steps)


@dataclass
class PersistentRunSettings(RunSettings):
    """Settings of methods whose chains wait in a replay buffer between steps."""

    shards: int = setting(8, 'shards of the chains; a multiple of the devices', low=1)

    if TYPE_CHECKING:  # each family has its own group
        loss: Any = None

    def divisors(self) -> tuple[int, ...]:
        return self.batch_size, self.shards, self.loss.num_negatives

    def recovery_paths(self) -> dict[str, tuple[str, ...]]:
        return {
            'new_key': (),
            'learning_rate': ('optimizer.learning_rate',),
            'num_steps': ('sampler.num_steps',),
            'step_size': ('sampler.step_size',),
        }
