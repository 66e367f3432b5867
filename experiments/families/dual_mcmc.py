"""Dual-MCMC teaching: its settings, and the experiment on data in [-1, 1] that they define."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import model, teaching
from ebm_jax.apply import latent
from ebm_jax.data import Examples
from ebm_jax.evaluate import predict
from ebm_jax.images import Grid, as_float, stacked
from ebm_jax.methods import dual_mcmc as method
from ebm_jax.model import Model
from ebm_jax.spec import LatentSpec, ModelSpec, Part, Sampling, latent_spec
from ebm_jax.train import Pictures, Recipe, TrainState, per_network
from ebm_jax.types import Kernel, Network, Transition
from experiments.common import sources
from experiments.common.building import (
    batches,
    chain_numbers,
    class_name,
    kernel_part,
    make_kernel,
    optimizer_of,
    prepare_images,
    traced_kernel,
)
from experiments.common.experiment import Experiment, TrainingChains
from experiments.common.groups import Chain, ImageData, RunSettings, Schedule
from experiments.common.settings import group, setting
from experiments.common.sources import Datasets, ood_names
from experiments.evaluations.generator import inpainting, reconstruction
from experiments.families.networks import DualNetworks

PRESETS = {
    'paper': teaching.PAPER,
    'release': teaching.RELEASE,
    'coopnets': teaching.COOPNETS,
    'variational_cooperative': teaching.VARIATIONAL_COOPERATIVE,
    'divergence_triangle': teaching.DIVERGENCE_TRIANGLE,
    'alternating_back_propagation': teaching.ALTERNATING_BACK_PROPAGATION,
    'short_run': teaching.SHORT_RUN,
    'vae': teaching.VAE,
}


@dataclass
class NetworkOptimizer:
    """Adam for one network."""

    learning_rate: float = setting(1e-4, 'largest learning rate', above=0)
    weight_decay: float = setting(0.0, "added to the gradient, as PyTorch's Adam has it", low=0)


@dataclass
class Optimizers(Schedule):
    """Adam for each network, on one schedule: linear warm-up, then a cosine or milestones."""

    energy: NetworkOptimizer = group(NetworkOptimizer)
    generator: NetworkOptimizer = group(NetworkOptimizer, learning_rate=3e-4, weight_decay=5e-4)
    inference: NetworkOptimizer = group(NetworkOptimizer, weight_decay=5e-4)


@dataclass
class StepsChain(Chain):
    """A chain that may have no steps. s = .5 of the release is a step size of s^2 / 2."""

    num_steps: int = setting(30, 'steps of the chain; 0: it ends where it begins', low=0)


@dataclass
class LatentChain(StepsChain):
    """The chain in z at test time, without noise by default (our reading: the likeliest z)."""

    momentum: float = setting(0.0, 'of the moving average of gradients', low=0, below=1)
    inpaint_steps: int = setting(200, 'steps to fill in', low=0)
    inpaint_starts: int = setting(
        1, 'chains to fill in, from q and from p(z); the one of the lowest energy is taken', low=1
    )


@dataclass
class Teaching:
    """Which chains are run and the weight of each loss term; None: as the preset has it."""

    from_generator: bool | None = setting(None, 'x-chains begin at g(z), else at noise')
    from_inference: bool | None = setting(None, 'z-chains begin at q(z|x), else at p(z)')
    sigma: float | None = setting(None, 'standard deviation of p(x|z)', above=0)
    contrast: float | None = setting(None, "E: mean E(x) - mean E(x')", low=0)
    generator_data: float | None = setting(None, "g: mean |x - g(z')|^2 / (2 sigma^2)", low=0)
    generator_chain: float | None = setting(None, "g: mean |x' - g(z)|^2 / (2 sigma^2)", low=0)
    inference_data: float | None = setting(None, "q: mean -log q(z'|x)", low=0)
    inference_chain: float | None = setting(None, "q: mean -log q(z|x')", low=0)
    elbo_data: float | None = setting(None, 'g, q: negative ELBO of x', low=0)
    elbo_chain: float | None = setting(None, "g, q: negative ELBO of x'", low=0)
    adversarial: float | None = setting(None, 'g: mean E(g(z)) - log q(z|g(z))', low=0)
    sequential: bool | None = setting(None, 'g and q first, then E, on new chains')


@dataclass
class DualLoss:
    """Draws of the prior, classes, and when a run has diverged."""

    num_negatives: int = setting(64, 'draws M of p(z), over all devices', low=1)
    conditional: bool = setting(False, 'networks take the class (our addition)')
    gap_limit: float = setting(1e4, "|E(x) - E(x')| beyond which the run has diverged", above=0)


@dataclass
class DualSettings(RunSettings):
    """A run of dual-MCMC teaching on images, with the release's constants."""

    preset: str = setting('paper', 'for all that `teaching` leaves unset', choices=tuple(PRESETS))
    latent_dim: int = setting(128, 'dimensions D of z', low=1)
    data: ImageData = group(ImageData, noise=0.0)
    optimizer: Optimizers = group(Optimizers, b1=0.0, b2=0.9, warmup=0)
    x_chain: StepsChain = group(StepsChain, step_size=0.125, noise=0.001)
    z_chain: StepsChain = group(StepsChain, step_size=0.005, noise=0.1, num_steps=10)
    fresh: StepsChain = group(StepsChain, step_size=0.08, noise=0.001, num_steps=70)
    test_z: LatentChain = group(LatentChain, step_size=0.005, noise=0.0, num_steps=10)
    teaching: Teaching = group(Teaching)
    loss: DualLoss = group(DualLoss)
    network: Any = group(DualNetworks)

    def divisors(self) -> tuple[int, ...]:
        return self.batch_size, self.loss.num_negatives

    def actions_without_effect(self) -> tuple[str, ...]:
        own = method_settings(self)
        runs_in_x = own.x_steps and teaching.needs(own).x_chain
        return () if runs_in_x else ('num_steps', 'step_size')

    def recovery_paths(self) -> dict[str, tuple[str, ...]]:
        return {
            'new_key': (),
            'learning_rate': tuple(f'optimizer.{name}.learning_rate' for name in teaching.NETWORKS),
            'num_steps': ('x_chain.num_steps',),
            'step_size': ('x_chain.step_size',),
        }


Config = TypeVar('Config', bound=DualSettings)


def for_small_networks(config: Config, factor: float = 1.0) -> Config:
    """Larger learning rates, times `factor`, and no weight decay, for small networks; a limit of
    the gap beyond which chains have overshot and stay above the energies of the data."""
    for name, rate in (('energy', 5e-4), ('generator', 1e-3), ('inference', 1e-3)):
        optimizer = NetworkOptimizer(learning_rate=factor * rate, weight_decay=0.0)
        setattr(config.optimizer, name, optimizer)
    config.optimizer.b1 = 0.5
    config.loss.gap_limit = 5.0
    return config


def method_settings(config: DualSettings) -> teaching.Settings:
    """The method's Settings: the preset, overridden by what config.teaching sets."""
    preset = PRESETS[config.preset]
    own = {name: value for name, value in asdict(config.teaching).items() if value is not None}
    return preset._replace(
        x_steps=preset.x_steps and config.x_chain.num_steps,
        z_steps=preset.z_steps and config.z_chain.num_steps,
        **own,
    )


def image_dual_mcmc(
    config: DualSettings,
    datasets: Datasets | None = None,
    *,
    networks: dict[str, Network] | None = None,
    kernel: Kernel | None = None,
) -> Experiment:
    """The experiment of a dual-MCMC run on images.

    Args:
      config: settings of the run.
      datasets: default: those that config.data.source names.
      networks: {'energy', 'generator', 'inference'}; default: those of config.network.
      kernel: of the chains in x; default: that of config.x_chain.
    """
    datasets = datasets or sources.datasets_of(config.data.source)
    c = config.data
    return dual_mcmc_experiment(
        config,
        datasets,
        prepare=prepare_images(c.noise, c.crop, c.flip),
        prepare_test=prepare_images(c.noise),
        networks=networks,
        kernel=kernel,
    )


def dual_mcmc_experiment(
    config: DualSettings,
    datasets: Datasets,
    *,
    prepare: Transition,
    prepare_test: Transition,
    networks: dict[str, Network] | None = None,
    kernel: Kernel | None = None,
    initial: Part = Part('uniform'),
    spec_changes: dict[str, Any] | None = None,
    **more: Any,
) -> Experiment:
    """The experiment of a dual-MCMC run on anything in [-1, 1].

    Args:
      config: settings of the run.
      datasets: its data sets.
      prepare, prepare_test: (key, example) -> network input.
      networks: {'energy', 'generator', 'inference'}; default: those of config.network.
      kernel: of the chains in x; default: that of config.x_chain.
      initial: initial distribution of chains in x that do not begin at the generator.
      spec_changes: changes of the model's spec.
      more: further fields of Experiment.
    """
    shape, num_classes = datasets.train.x.shape[1:], datasets.train.num_classes
    conditional, settings = config.loss.conditional, method_settings(config)
    if networks is None:
        classes = num_classes if conditional else 0
        networks = config.network.build(shape, config.latent_dim, classes)
    used = {
        name: networks[name] for name, needed in teaching.needs(settings).networks.items() if needed
    }
    spec = model_spec(config, used, settings, shape, num_classes, initial)
    spec = replace(spec, **(spec_changes or {}))
    trained = model.build(spec, used)
    teacher = method.dual_mcmc(
        used.get('energy'),
        used.get('generator'),
        used.get('inference'),
        settings,
        x_kernel=kernel
        or make_kernel(config.x_chain, kernel_part(config.x_chain, 'x_chain'), 'x_chain'),
        z_kernel=make_kernel(config.z_chain, kernel_part(config.z_chain, 'z_chain'), 'z_chain'),
        latent_dim=config.latent_dim,
        num_negatives=config.loss.num_negatives,
        x_initial_sampler=None
        if settings.from_generator
        else model.INITIAL[initial.name](shape, **initial.arguments),
        conditional=conditional,
    )
    view, scores = trained.view()
    recipe = Recipe(
        method=teacher,
        optimizer=per_network(
            {name: _optimizer(config, getattr(config.optimizer, name)) for name in used}
        ),
        batch_at=batches(datasets.train, config.batch_size, config.seed),
        prepare=prepare,
        ema=config.optimizer.ema,
        limits={'s_gap': config.loss.gap_limit} if settings.contrast else {},
        pictures=pictures_of(trained, datasets.test),
        show=('loss', 's_gap', 'mse/data', 'mse/chain'),
        description=spec.to_json(),
    )
    return Experiment(
        recipe=recipe,
        model=trained,
        datasets=datasets,
        predict=predict.predictor(view, prepare_test),
        scores=scores,
        input_noise=config.data.noise,
        chains=training_chains(config, settings.x_steps, kernel)
        if settings.x_steps and trained.has_energy
        else None,
        ood=ood_names(config.ood),
        stages=stages_of(trained),
        evaluations=(reconstruction, inpainting) if trained.latent else (),
        **more,
    )


def _optimizer(config, optimizer):
    c = config.optimizer
    return optimizer_of(c, optimizer.learning_rate, config.steps, optimizer.weight_decay)


def model_spec(
    config: DualSettings,
    networks: dict[str, Network],
    settings: teaching.Settings,
    shape: tuple[int, ...],
    num_classes: int,
    initial: Part,
) -> ModelSpec:
    """What the trained model is, as plain data."""
    return latent_spec(
        networks,
        shape,
        num_classes,
        LatentSpec(
            latent_dim=config.latent_dim,
            sigma=settings.sigma,
            from_generator=settings.from_generator,
            from_inference=settings.from_inference,
            kernel=kernel_part(config.test_z, 'test_z', momentum=config.test_z.momentum),
            step_size=config.test_z.step_size,
            num_steps=config.test_z.num_steps,
            inpaint_steps=config.test_z.inpaint_steps,
            inpaint_starts=config.test_z.inpaint_starts,
        ),
        Sampling(
            kernel=kernel_part(config.fresh, 'fresh'),
            step_size=config.fresh.step_size,
            num_steps=config.fresh.num_steps,
            initial=initial,
        ),
        conditional=config.loss.conditional,
    )


def training_chains(
    config: DualSettings, num_steps: int, kernel: Kernel | None = None
) -> TrainingChains:
    """The chains in x, of so many steps, as telemetry follows them."""
    chain = config.x_chain
    return TrainingChains(
        num_steps=num_steps,
        steps_of=lambda state: num_steps,
        make_kernel=traced_kernel(kernel_part(chain, 'x_chain'), {}, kernel),
        numbers=lambda state: chain_numbers(chain, kernel),
    )


def stages_of(trained: Model) -> dict[str, int | None]:
    """Stages of fresh samples: from the generator, and after the chains in x."""
    if trained.latent is None or not trained.spec.latent.from_generator:
        return {}
    return {'generator': 0, 'refined': None} if trained.has_energy else {'generator': None}


def pictures_of(trained: Model, test: Examples) -> Callable[[TrainState], Pictures] | None:
    """state -> samples of the generator from fixed draws, and test images above their
    reconstructions; None without a generator."""
    if trained.latent is None:
        return None
    num_classes, conditional = trained.spec.num_classes, trained.spec.conditional
    labels, x = np.arange(100) % num_classes, as_float(test.x[:20])
    conditions = [test.y[:20]] if conditional else []

    @jax.jit
    def draw(params):
        keys = jax.random.split(jax.random.key(0), len(labels))
        return jax.vmap(partial(trained.initial_sampler, params))(keys, labels)

    @jax.jit
    def reconstruct(params):
        key = jax.random.key(0)
        one = partial(latent.reconstruct, trained.latent, params, key, steps=0)
        return jax.vmap(one)(jnp.asarray(x), *conditions)

    def pictures(state):
        params = jax.device_get(state.eval_params)  # to one device, wherever training has them
        said = 'Samples of the generator, from the same draws of z at every step.'
        columns = num_classes if conditional and num_classes <= 20 else 10
        headings: list[str] = []
        if conditional and columns == num_classes:
            said += ' One class per column.'
            headings = [class_name(trained.spec.class_names, y) for y in range(columns)]
        grids = {'generator': Grid(trained.pictures(draw(params)), columns, said, headings)}
        if trained.latent.inference is not None:
            again = np.asarray(reconstruct(params))
            said = (
                f'Test {trained.spec.examples}; below each, what the generator makes of the mean '
                'of q(z|x).'
            )
            rows = [trained.pictures(row) for row in (x, again)]
            grids['reconstruction'] = stacked(rows, caption=said)
        return grids

    return pictures
