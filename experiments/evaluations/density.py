"""What `evaluate --suite=full` measures of an energy as a density: its normalising constant, bits
per dimension, and whether long chains stay valid."""

import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from ebm_jax import batching, data, kernels
from ebm_jax.errors import ChainsDiverged
from ebm_jax.evaluate import mixing, partition, samples
from ebm_jax.images import as_float
from ebm_jax.spec import Sampling
from ebm_jax.train import TrainState
from ebm_jax.types import Array, Kernel, Params
from experiments.common.experiment import Experiment
from experiments.common.section import Section


def grey_levels(examples: data.Examples) -> int:
    """How many equally spaced grey values the images have, at most 256."""
    found = np.unique(np.asarray(data.subsample(examples, 2000).x))
    steps = np.diff(np.round(found / 255 * (len(found) - 1)))
    even = len(found) > 1 and found[0] == 0 and found[-1] == 255 and (steps == 1).all()
    return len(found) if even else 256


def dequantised(examples: data.Examples, levels: int, seed: int = 0) -> np.ndarray:
    """2 (k + u) / levels - 1 with u uniform, k the grey level: [N, ...] in [-1, 1]."""
    k = np.round(np.asarray(examples.x) / 255 * (levels - 1))
    u = np.random.default_rng(seed).uniform(size=k.shape)
    return (2 * (k + u) / levels - 1).astype(np.float32)


class Rivals(NamedTuple):
    """Densities of scikit-learn that an energy is compared with."""

    mixtures: tuple[tuple[int, str], ...]  # components, kind of covariance
    small_dimensions: int  # up to which kinds but 'diag' are tried: beyond, they take hours
    bandwidths: tuple[float, ...]


RIVALS = Rivals(
    ((10, 'diag'), (50, 'diag'), (10, 'full'), (30, 'tied'), (60, 'tied')),
    500,
    (0.05, 0.1, 0.15, 0.2, 0.3, 0.35, 0.4, 0.5),
)


class Space(NamedTuple):
    """Where a density lives, and how its normalising constant is found there."""

    name: str
    base: partition.Base
    energy: Callable[[Params, Array], Array]
    kernel: Callable[[Array], Kernel] | None  # None: the default of annealed importance sampling
    train: np.ndarray
    test: np.ndarray
    levels: int  # of grey; 0 for binary images


def space_of(experiment: Experiment) -> Space:
    """[-1, 1]^D with dequantised images, or the binary images of a discrete energy."""
    model, train = experiment.model, data.subsample(experiment.train, 5000)
    size, test = int(np.prod(model.spec.shape)), data.subsample(experiment.test, 2000)
    x = as_float(train.x)
    sampling = model.spec.sampling
    if sampling.kernel.name == 'gibbs_with_gradients':
        p = np.clip((x > 0).mean(0), 0.02, 0.98)
        return Space(
            f'{{-1, 1}}^{size}',
            partition.bernoulli_base(p),
            model.marginal_energy_fn,
            lambda step_size: kernels.gibbs_with_gradients(),
            x,
            as_float(test.x),
            0,
        )

    def energy(params, x):
        return partition.confined(lambda u: model.marginal_energy_fn(params, u))(x)

    levels = grey_levels(train)
    return Space(
        f'[-1, 1]^{size}, dequantised from {levels} grey levels',
        partition.truncated_gaussian_base(x.mean(0), np.maximum(x.std(0), 0.1)),
        energy,
        None,
        dequantised(train, levels, 1),
        dequantised(test, levels),
        levels,
    )


def noised_space_of(experiment: Experiment) -> Space:
    """R^D with images to which the noise of training is added: what the energy was fitted to."""
    model, train = experiment.model, data.subsample(experiment.train, 5000)
    noise, rng = experiment.input_noise, np.random.default_rng(2)

    def noised(examples):
        x = as_float(examples.x)
        return (x + noise * rng.standard_normal(x.shape)).astype(np.float32)

    x = noised(train)
    return Space(
        f'R^{int(np.prod(model.spec.shape))}, images with noise of {noise:g}',
        partition.gaussian_base(x.mean(0), x.std(0)),
        model.marginal_energy_fn,
        None,
        x,
        noised(data.subsample(experiment.test, 2000)),
        0,
    )


def log_likelihood(
    workdir: pathlib.Path,
    experiment: Experiment,
    state: TrainState,
    *,
    chains: int = 128,
    bridges: int = 1000,
    noised: bool = False,
    rivals: Rivals = RIVALS,
) -> Section:
    """log Z of exp(-E(x)), and log p(x) of test images, beside densities of scikit-learn.

    Args:
      chains, bridges: of annealed importance sampling.
      noised: all images have the noise of training, and metrics are named noised_NAME; else bits
        per dimension are there, too.
      rivals: the densities that are tried.
    """
    del workdir
    params, size = state.eval_params, int(np.prod(experiment.model.spec.shape))
    space = noised_space_of(experiment) if noised else space_of(experiment)
    options: dict[str, Any] = {'bridges': bridges, 'kernel': space.kernel}
    lower = partition.annealed_importance_sampling(
        jax.random.key(0), space.energy, params, space.base, chains=chains, **options
    )
    upper = partition.annealed_importance_sampling(
        jax.random.key(1),
        space.energy,
        params,
        space.base,
        starts=lower.x,
        description='its reverse',
        **options,
    )
    energies = batching.for_each(
        lambda params, key, x: space.energy(params, x),
        params,
        jax.random.key(0),
        [space.test],
        description='test energies',
    )
    log_px = -energies - lower.log_z
    others: dict[str, float] = {}
    if noised or space.levels:
        others = densities_of_others(space.train, space.test, rivals)
    name = 'noised_' if noised else ''
    metrics: dict[str, Any] = {
        f'{name}log_z': lower.log_z,
        f'{name}log_z_upper': upper.log_z,
        f'{name}log_z_effective_sample_size': lower.effective_sample_size,
        f'{name}log_likelihood': float(np.mean(log_px)),
        f'{name}log_likelihood_of_others': others,
    }
    intervals = {f'{name}log_z': lower.interval}
    (low, high), sampling = lower.interval, experiment.model.spec.sampling
    said = ''.join(f', {other} {value:.2f}' for other, value in others.items())
    lines = [
        f'Density exp(-E(x)) / Z on {space.name}; {temperature_of(sampling)}',
        f'log Z           {lower.log_z:10.2f}   [{low:.2f}, {high:.2f}], annealed importance '
        f'sampling of {chains} chains over {bridges} bridges, effective sample size '
        f'{lower.effective_sample_size:.1f}',
        f'log Z, reverse  {upper.log_z:10.2f}   from where these chains ended (above log Z in '
        'expectation if they are samples of exp(-E)); a gap means too few bridges, or chains that '
        'stick',
        f'log p(x)        {float(np.mean(log_px)):10.2f}   nats, mean of {len(log_px):,} test '
        f'images, too high where log Z is too low{said}',
    ]
    if not noised:
        bits: np.ndarray = -log_px / (size * np.log(2))
        if space.levels:
            bits = partition.bits_per_dimension(log_px, size, space.levels)
        # over test images and over the chains that estimate log Z
        wide = (high - low) / 2 / (size * np.log(2))
        error = float(np.hypot(1.96 * np.std(bits) / len(bits) ** 0.5, wide))
        mean_bits = float(np.mean(bits))
        metrics['bits_per_dim'] = mean_bits
        intervals['bits_per_dim'] = (mean_bits - error, mean_bits + error)
        lines.append(f'bits per dim    {mean_bits:10.3f}   +- {error:.3f} over images and chains')
    return Section(metrics, lines, intervals=intervals)


def temperature(sampling: Sampling) -> float:
    """T of the run's fresh chains, which follow exp(-E / T); 0 without noise."""
    if sampling.kernel.name == 'steepest_descent':
        return 0.0
    numbers = sampling.kernel.arguments
    if numbers.get('noise_scale') is not None:
        return numbers['noise_scale'] ** 2 / (2 * sampling.step_size)
    given = numbers.get('temperature')
    return 1.0 if given is None else given


def at_temperature_one(sampling: Sampling) -> bool:
    """Whether the run's fresh chains follow exp(-E) itself."""
    return math.isclose(temperature(sampling), 1, rel_tol=1e-6)


def temperature_of(sampling: Sampling) -> str:
    """What the chains of the run say about this density."""
    found = temperature(sampling)
    if found == 0:
        return 'its chains have no noise, so training never sampled this density.'
    if at_temperature_one(sampling):
        return 'its chains run at temperature 1, that of this density.'
    return (
        f'its chains run at temperature {found:.2g}, so training never sampled this density: '
        'take log Z as a property of E, not as the fit of the samples.'
    )


def densities_of_others(
    train: np.ndarray, test: np.ndarray, rivals: Rivals = RIVALS
) -> dict[str, float]:
    """{'Gaussian mixture', 'kernel density'}: mean log p(x) of test images in nats, on the same
    data; components, kind of covariance and bandwidth are those that are best on a fifth of the
    training images, and are then fitted to all of these."""
    train, test = train.reshape(len(train), -1), test.reshape(len(test), -1)
    order, cut = np.random.default_rng(0).permutation(len(train)), len(train) * 4 // 5
    fitting, held = train[order[:cut]], train[order[cut:]]
    kinds = [
        (n, kind)
        for n, kind in rivals.mixtures
        if kind == 'diag' or train.shape[1] <= rivals.small_dimensions
    ]
    candidates: dict[str, list[Any]] = {
        'Gaussian mixture': [
            GaussianMixture(
                min(n, len(fitting)), covariance_type=kind, random_state=0, reg_covar=1e-3
            )
            for n, kind in kinds
        ],
        'kernel density': [KernelDensity(bandwidth=width) for width in rivals.bandwidths],
    }
    return {
        name: best_on(models, fitting, held).fit(train).score_samples(test).mean().item()
        for name, models in candidates.items()
    }


def best_on(models: list[Any], fitting: np.ndarray, held: np.ndarray) -> Any:
    """The density of scikit-learn that, fitted to one part, has the highest log p(x) on another."""
    return max(models, key=lambda model: model.fit(fitting).score_samples(held).mean())


def long_chains(
    workdir: pathlib.Path,
    experiment: Experiment,
    state: TrainState,
    *,
    num: int = 32,
    times: int = 100,
) -> Section:
    """Chains `times` as long as those of training: split R-hat, acceptance, and whether they still
    show the classes that were asked for."""
    del workdir
    model, chains = experiment.model, experiment.chains
    assert chains is not None
    steps = max(times * chains.num_steps, 16)  # split R-hat needs as many
    labels = model.labels(num)
    key, initial_key = jax.random.split(jax.random.key(5))
    begin = batching.for_each(
        model.initial_sampler,
        state.eval_params,
        initial_key,
        [labels],
        description='initial positions',
    )
    numbers = chains.numbers(state)
    noise = numbers.get('noise_scale')
    traces = mixing.walk(
        key,
        model.energy_fn,
        state.eval_params,
        chains.make_kernel(**numbers),
        begin,
        labels,
        steps,
        step_size=numbers['step_size'],
        noise=noise or None,
    )
    found = mixing.mixing({name: traces[name] for name in ('energy', 'contrast')})
    worst = max(row['r_hat'] for row in found.values())
    metrics = {'r_hat': worst}
    lines = [
        f'{num} chains of {steps:,} steps, {times} times those of training, from the initial '
        'distribution, by the kernel of training:',
        f'split R-hat     {worst:10.3f}   the larger of energy and contrast, later half; near 1 '
        'the chains forget where they began',
    ]
    if 'acceptance' in traces:
        acceptance = float(np.mean(traces['acceptance'][:, steps // 2 :]))
        metrics['long_chain_acceptance'] = acceptance
        lines.append(
            f'acceptance      {acceptance:10.3f}   of a Metropolis test, mean of the later half'
        )
    if model.class_conditional:
        classes = experiment.train.num_classes
        labels = np.arange(-(-100 // classes) * classes) % classes
        key, title = jax.random.key(6), 'long chains, samples'
        try:
            ends = model.sample(key, state.eval_params, labels, steps, description=title)
        except ChainsDiverged as error:
            lines.append(f'recognised      not measured: {error}')
            return Section(metrics, lines)
        classifier = samples.fit_reference_classifier(experiment.train)
        share = samples.recognition_accuracy(classifier, ends, labels)
        metrics['long_chain_accuracy'] = share
        lines.append(
            f'recognised      {100 * share:8.1f} %   of {len(labels)} fresh samples after as many '
            'steps, asked for in equal numbers, by a classifier fitted on real images'
        )
    return Section(metrics, lines)
