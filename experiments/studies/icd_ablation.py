"""What the parts of improved contrastive divergence do: E+ - E-, collapse, gradients, samples.

    python -m experiments.studies.icd_ablation --workdir=runs/icd_ablation --steps=250 --seeds=3
    python -m experiments.studies.icd_ablation --workdir=runs/icd_cifar --seeds=3 \\
        --experiment=cifar10_small_icd --data=npz:data/cifar10.npz \\
        --vary= --vary=loss.kl_weight=0 --vary=network.scales=1

A row for each --vary, on top of the experiment's settings and of --set, with every seed. Without
--vary the rows test a claim of the paper: with the KL term all architectures keep E+ - E- near 0,
without it all but the spectrally normalised one (here: every convolution, not the dense layer)
collapse. A run counts as collapsed if a metric is not finite, if |mean E+| exceeds the release's
limit of 10, or if the median of |E+ - E-| over the last fifth of training is above --gap. Distances
are those of 500 fresh samples in the features of a classifier of the data. Writes arms.json (with
every trace), table.md and traces.png; rerunning continues.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from ebm_jax.evaluate import extractor, figures
from ebm_jax.train import TrainState
from experiments.common import launch, settings
from experiments.common.cores import use_all_cores
from experiments.common.experiment import Experiment
from experiments.evaluations.kl_term import gradient_ratio
from experiments.families.icd import IcdSettings
from experiments.studies import arms, asked

SAMPLES = 500
WHOLE = 'the data, which has all classes here'
ELSEWHERE = {**asked.ELSEWHERE, 'steps': '--steps', 'data.label': WHOLE, 'data.leave_out': WHOLE}
POINTS = 100  # of a trace
KL_TERMS = {'with': {}, 'without': {'loss.kl_weight': 0.0}}
PLAIN = {'network.norm': False, 'network.kernel_transform': 'plain', 'network.attention_after': 0}
NETWORKS: dict[str, dict[str, Any]] = {
    'plain': PLAIN,
    '+norm': {**PLAIN, 'network.norm': True, 'network.kernel_transform': 'standardised'},
    '+attention': {**PLAIN, 'network.attention_after': 1},
    '+spectral norm': {**PLAIN, 'network.kernel_transform': 'spectral'},
}
NORMS = ('grad_norm/kl', 'grad_norm/contrast')


def define(values: Any) -> None:
    """The flags."""
    asked.define_study(values, 'digits_icd')
    flags.DEFINE_string(
        'set', '', 'Settings of all rows, as network.width=8 loss.kl_chains=32.', flag_values=values
    )
    flags.DEFINE_float('gap', 0.5, '|E+ - E-| that counts as collapse.', 0, flag_values=values)


def of_icd(config: Any) -> bool:
    """Whether a run is one of improved contrastive divergence."""
    return isinstance(config, IcdSettings)


def claim() -> dict[str, dict[str, Any]]:
    """The rows that test the paper's claim: networks with and without the KL term."""
    return {
        f'{network}, {kl} KL term': {**changes, **term}
        for network, changes in NETWORKS.items()
        for kl, term in KL_TERMS.items()
    }


def last_gap(trace: arms.Trace) -> float:
    """|E+ - E-|, the median of the last fifth of a trace."""
    gaps = np.abs(trace['s_gap'])
    return float(np.median(gaps[-max(1, len(gaps) // 5) :]))


def summary(run: Mapping[str, float], trace: arms.Trace, gap: float) -> dict[str, float]:
    """What the table says of a run: its metrics, and those of its trace."""
    last, norms = last_gap(trace), gradient_ratio(list(zip(*(trace[name] for name in NORMS))))
    found = {**run, 'gap': last, 'collapsed': float(run['survived'] < 1 or not last <= gap)}
    return found if norms is None else {**found, 'ratio': norms[0]}


@figures.styled
def plot(found: Mapping[str, Sequence[arms.Trace]], every: int) -> Figure:
    """E+ - E- over training, one panel for each row."""
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(3.3 * columns, 2.6 * rows))
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axis, (name, traces) in zip(axes.flat, found.items()):
        for trace in traces:
            gaps = -np.array(trace['s_gap'])
            axis.plot(every * (1 + np.arange(len(gaps))), gaps, color=figures.COLOURS[0], alpha=0.7)
        axis.set_title(name, fontsize=8)
        axis.set_yscale('symlog', linthresh=0.01)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel('E+ - E-')
    for axis in axes[-1]:
        axis.set_xlabel('training step')
    return figure


def run(values: Any) -> None:
    """Train what is missing, write and print."""
    module, base = asked.base_of(values, of_icd)
    settings.update(base, asked.changes_of(base, values.set, 'set', ELSEWHERE))
    rows = asked.rows(base, values.vary, ELSEWHERE) if values.vary else claim()
    every = max(1, base.steps // POINTS)
    use_all_cores(*(arms.configured(base, changes) for changes in rows.values()))
    workdir, (whole, datasets) = pathlib.Path(values.workdir), asked.parts(values)

    @functools.cache  # trained once, and only where something is measured
    def judge():
        return extractor.classifier_extractor(whole.train, workdir / 'extractor.npz')

    def measure(experiment: Experiment, state: TrainState) -> dict[str, float]:
        return arms.distances(experiment, state, judge(), SAMPLES)

    metrics = arms.results(
        workdir,
        module,
        base,
        rows,
        values.seeds,
        datasets,
        measure,
        {'part': values.part, 'train': values.train},
        arms.Traced(('s_gap', *NORMS), every),
    )
    traces = arms.traces(workdir, list(rows), values.seeds)
    found = {
        name: [summary(run, trace, values.gap) for run, trace in zip(metrics[name], traces[name])]
        for name in rows
    }
    columns = {
        'collapsed': 'collapsed',
        'gap': 'abs(E+ - E-), last fifth',
        'ratio': 'KL gradient over contrast gradient',
        'distance': 'distance of fresh samples',
        'test': 'of held-out images',
        'survived': 'survived',
    }
    figures.save(plot(traces, every), workdir / 'traces.png', dpi=90)
    arms.show(workdir, arms.table(found, columns, events='collapsed'))


if __name__ == '__main__':
    launch.main(run, define, __doc__)
