"""Does the KL term keep training stable? Architectures x KL term on and off x seeds, on the
built-in digits.

    python -m experiments.studies.icd_stability --workdir=runs/icd_stability

The paper's claim: with the KL term all architectures keep E+ - E- near 0, without it all but the
spectrally normalised one (here: every convolution, not the dense layer) collapse. A run counts as
collapsed if a metric is not finite, if |mean E+| exceeds the release's limit of 10, or if the
median of |E+ - E-| over the last fifth of training is above `study.gap`. Writes stability.txt,
stability.json (every trace) and traces.png; rerunning the command continues.
"""

import json
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from ebm_jax.errors import InputError
from ebm_jax.evaluate import figures
from ebm_jax.record import update_summary, write_json
from ebm_jax.sharding import shard_batch, shard_state
from ebm_jax.train import Recipe, init_state, make_train_step
from experiments import digits_icd
from experiments.common import launch, runs, settings
from experiments.common.cores import use_all_cores
from experiments.common.settings import group, setting
from experiments.families.icd import IcdSettings

PLAIN = {'norm': False, 'kernel_transform': 'plain', 'attention_after': 0}
VARIANTS = {
    'plain': PLAIN,
    'norm': {'norm': True, 'kernel_transform': 'standardised', 'attention_after': 0},
    'attention': {**PLAIN, 'attention_after': 1},
    'spectral norm': {**PLAIN, 'kernel_transform': 'spectral'},
}
Trace = dict[str, Any]  # 'gap' and 'positives' at every logged step, 'steps', 'healthy'


@dataclass
class StudySettings:
    """How many runs, how long, and what counts as collapse."""

    seeds: int = setting(3, 'runs of each network, with and without the KL term', low=1)
    steps: int = setting(400, 'training steps of a run', low=1)
    log_every: int = setting(4, 'steps between points of a trace', low=1)
    gap: float = setting(1.0, '|E+ - E-| that counts as collapse', above=0)


@dataclass
class Settings:
    """The runs (but for the network and the KL weight), and the study."""

    icd: Any = group(IcdSettings)
    study: StudySettings = group(StudySettings)

    def divisors(self) -> tuple[int, ...]:
        return self.icd.divisors()


def get_config() -> Settings:
    config = Settings(icd=digits_icd.get_config())
    config.icd.sampler.num_steps = 10
    config.icd.transition.affine = 0.0
    config.icd.loss.num_negatives = config.icd.loss.kl_chains = config.icd.batch_size = 32
    config.icd.network.width = 8
    return config


def settings_of(config: Settings, variant: str, kl: bool) -> IcdSettings:
    """The run of a network, with or without the KL term."""
    found = settings.copy(config.icd)
    settings.update(found, {f'network.{name}': value for name, value in VARIANTS[variant].items()})
    found.loss.kl_weight = config.icd.loss.kl_weight if kl else 0.0
    return found


def trace(
    recipe: Recipe, train_step: Callable[..., Any], seed: int, c: StudySettings, title: str
) -> Trace:
    """{'gap': E+ - E- at every logged step, 'positives': E+}, up to where a metric is not finite or
    beyond its limit."""
    devices = jax.local_devices()
    found: dict[str, list[float]] = {'gap': [], 'positives': []}
    state = shard_state(init_state(jax.random.key(seed), recipe), devices)
    step, healthy = 0, True
    for step in tqdm(range(c.steps), desc=title, unit='step', leave=False):
        state, metrics = train_step(state, shard_batch(recipe.batch_at(step), devices))
        healthy = bool(metrics['healthy'])
        if step % c.log_every == 0 or not healthy:
            found['gap'].append(-float(metrics['s_gap']))
            found['positives'].append(-float(metrics['s_positives']))
        if not healthy:
            break
    return {**found, 'steps': step + 1, 'healthy': healthy}


def last_gap(run: Trace) -> float:
    """|E+ - E-|, the median of the last fifth of a trace."""
    return float(np.median(np.abs(run['gap'][-max(1, len(run['gap']) // 5) :])))


def collapsed(run: Trace, c: StudySettings) -> bool:
    """Whether a trace counts as collapsed, see above."""
    return not run['healthy'] or last_gap(run) > c.gap


def table(found: dict[str, Trace], c: StudySettings) -> list[str]:
    """A line for each network, with and without the KL term."""
    lines = [
        f'{"network":<16}{"KL term":<9}{"collapsed":>10}  {"|E+ - E-|, last fifth":<24}'
        f'largest |E+ - E-|   {c.steps} steps'
    ]
    for variant in VARIANTS:
        for kl in ('with', 'without'):
            name = f'{variant}/{kl}/'
            chosen = [run for key, run in found.items() if key.startswith(name)]
            last = [last_gap(run) for run in chosen]
            largest = [np.max(np.abs(run['gap'])) for run in chosen]
            count = sum(collapsed(run, c) for run in chosen)
            lines.append(
                f'{variant:<16}{kl:<9}{count:>6} of {len(chosen)}  '
                f'{np.min(last):.2g} to {np.max(last):<16.2g}'
                f'{np.min(largest):.2g} to {np.max(largest):.2g}'
            )
    return lines


@figures.styled
def plot(found: dict[str, Trace], c: StudySettings) -> Figure:
    """E+ - E- over training, one panel for each network."""
    figure = Figure(figsize=(13, 3.2))
    for axis, variant in zip(
        figure.subplots(1, len(VARIANTS), sharey=True, squeeze=False)[0], VARIANTS
    ):
        for name, run in found.items():
            if name.startswith(f'{variant}/'):
                kl = '/with/' in name
                axis.plot(
                    c.log_every * np.arange(len(run['gap'])),
                    run['gap'],
                    color=figures.COLOURS[0 if kl else 1],
                    alpha=0.8,
                    label=('with KL' if kl else 'without KL') if name.endswith('/0') else None,
                )
        axis.set(title=f'{variant}: level is good', xlabel='training step')
        axis.set_yscale('symlog', linthresh=0.01)
        axis.legend()
    figure.axes[0].set_ylabel('E+ - E-')
    return figure


def define(values: Any) -> None:
    """The flags."""
    launch.define_config(values, get_config())


def run(values: Any) -> None:
    """Train what is missing, write and print."""
    workdir, config, c = pathlib.Path(values.workdir), values.config, values.config.study
    settings.check(config)
    file, given = workdir / 'stability.json', settings.to_dict(config)
    found = json.loads(file.read_text()) if file.exists() else {'config': given, 'runs': {}}
    if found['config'] != given:
        raise InputError(
            f'{workdir} holds a study with other settings: use those, or another --workdir'
        )
    use_all_cores(config)
    for variant in VARIANTS:
        for kl in (True, False):
            names = [f'{variant}/{"with" if kl else "without"}/{seed}' for seed in range(c.seeds)]
            if all(name in found['runs'] for name in names):
                continue
            recipe = runs.build(digits_icd, settings_of(config, variant, kl)).recipe
            workdir.mkdir(parents=True, exist_ok=True)
            train_step = make_train_step(recipe)
            for seed, name in enumerate(names):
                found['runs'][name] = trace(recipe, train_step, seed, c, name)
                write_json(file, found)
    lines = table(found['runs'], c)
    figures.save(plot(found['runs'], c), workdir / 'traces.png', dpi=90)
    (workdir / 'stability.txt').write_text('\n'.join(lines) + '\n')
    which = {name: collapsed(run, c) for name, run in found['runs'].items()}
    update_summary(workdir, {'collapsed': which, 'finished': True})
    print('\n'.join(lines))


if __name__ == '__main__':
    launch.main(run, define, __doc__)
