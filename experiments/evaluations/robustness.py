"""What `evaluate --suite=full` measures of a classifier under attack."""

import pathlib
from collections.abc import Mapping, Sequence

import jax

from ebm_jax import data
from ebm_jax.evaluate import attacks, figures
from ebm_jax.images import as_float
from ebm_jax.train import TrainState
from experiments.common.experiment import Experiment
from experiments.common.section import ROBUSTNESS, Section, Shown, share_interval
from experiments.evaluations.standard import write_svg


def robust_accuracy(
    experiment: Experiment,
    state: TrainState,
    norm: str,
    radii: Sequence[float],
    *,
    examples: int,
    steps: int = 100,
    refine: int = 0,
) -> tuple[dict[float, float], int]:
    """({radius: share of test images that are right whatever the attacks do}, how many images);
    radius 0 is there, too. Arguments as in `robustness`, radii for pixels in [0, 1]."""
    model, test = experiment.model, data.subsample(experiment.test, examples)
    assert model.classifier is not None
    classify = model.classifier.logits

    def plain(params, key, x):
        return classify(params, x)

    def refined(straight_through):
        def predict(params, key, x):
            return attacks.refining(
                lambda u: classify(params, u),
                lambda u: model.energy_fn(params, u),
                model.kernel(),
                refine,
                straight_through=straight_through,
            )(key, x)

        return predict

    predict, within = plain, attacks.NORMS[norm]
    chosen = attacks.strongest(within, test.num_classes, steps=steps)
    aims = [plain] * len(chosen)
    if refine:  # the cheapest first, which leave less to the others
        predict = refined(False)
        average = attacks.apgd(within, steps=steps, samples=4)
        chosen, aims = [*chosen, average, average], [*aims, refined(True), predict]
    alive = attacks.survivors(
        jax.random.key(0),
        chosen,
        predict,
        state.eval_params,
        as_float(test.x),
        test.y,
        # a pixel in [0, 1] is half as wide as one in [-1, 1]
        [0.0, *(2 * radius for radius in radii)],
        against=aims,
        draws=16 if refine else 1,
    )
    return {radius / 2: float(mask.mean()) for radius, mask in alive.items()}, len(test.x)


def robustness(
    workdir: pathlib.Path,
    experiment: Experiment,
    state: TrainState,
    radii: Mapping[str, Sequence[float]],
    *,
    examples: int,
    steps: int = 100,
    refine: int = 0,
) -> Section:
    """Accuracy on test images that APGD-CE and APGD-DLR attack, for each norm and radius. A
    classifier that refines its input is attacked by what fools it without refinement, by APGD-CE
    that takes the chain as the identity, and by APGD-CE with the gradient of the whole chain.

    Args:
      workdir: folder for robustness.png. experiment, state: of the run.
      radii: {norm: radii, pixels in [0, 1]}. examples: test images. steps: of each attack.
      refine: Langevin steps on p(x) before the classification, 0 for none; attacks through them
        average their gradient over 4 draws of the chain.
    """
    robust: dict[str, dict[float, float]] = {}
    intervals: dict[str, dict[float, tuple[float, float]]] = {}
    n = 0
    for norm, sizes in radii.items():
        robust[norm], n = robust_accuracy(
            experiment, state, norm, sizes, examples=examples, steps=steps, refine=refine
        )
        intervals[norm] = {
            radius: share_interval(share, n) for radius, share in robust[norm].items()
        }
    how = f'after {refine} Langevin steps' if refine else 'as they are'
    by = 'APGD-CE, then APGD-DLR on what is left'
    if refine:
        by += (
            ', both of the classifier without refinement; then APGD-CE with the chain taken as the '
            'identity, and with its whole gradient'
        )
    lines = [
        f'Accuracy of {n:,} test examples under attack, without input noise, classified {how}: '
        f'{by}, {steps} steps each. Radii are for pixels in [0, 1].',
        f'{"norm":<8}{"radius":>8}{"accuracy":>10}   95 % interval',
    ]
    for norm, shares in robust.items():
        for radius, share in shares.items():
            low, high = (100 * bound for bound in intervals[norm][radius])
            lines.append(f'{norm:<8}{radius:>8.4g}{100 * share:>8.1f} %   [{low:.1f}, {high:.1f}]')
    figure = figures.robustness(robust, intervals)
    name = 'robustness_refined' if refine else 'robustness'
    figures.save(figure, workdir / f'{name}.png')
    shown = Shown(
        ROBUSTNESS,
        write_svg(workdir, figure, name),
        'Accuracy under attack' + (', input refined first' if refine else ''),
        f'{n:,} test examples classified {how}, after {by}, {steps} steps each. At radius 0 '
        'nothing is attacked.',
        wide=True,
    )
    named = {
        norm: {f'{radius:g}': share for radius, share in shares.items() if radius}
        for norm, shares in robust.items()
    }
    metric = 'refined_robust_accuracy' if refine else 'robust_accuracy'
    flat = {
        f'{metric}.{norm}.{radius:g}': interval
        for norm, found in intervals.items()
        for radius, interval in found.items()
        if radius
    }
    return Section({metric: named}, lines, [shown], flat)
