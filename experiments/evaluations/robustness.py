"""What `evaluate --suite=full` measures of a classifier under attack."""

import pathlib
from collections.abc import Mapping, Sequence

import jax

from ebm_jax import data
from ebm_jax.evaluate import attacks, figures
from ebm_jax.images import as_float
from ebm_jax.train import TrainState
from experiments.common.experiment import Experiment
from experiments.common.section import Section, Shown, share_interval
from experiments.evaluations.standard import write_svg

ROBUSTNESS = 'Adversarial robustness'  # the heading in the report


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
    """Accuracy on test images that APGD-CE and APGD-DLR attack, for each norm and radius.

    Args:
      workdir: folder for robustness.png. experiment, state: of the run.
      radii: {norm: radii, pixels in [0, 1]}. examples: test images. steps: of each attack.
      refine: Langevin steps on p(x) before the classification, 0 for none; the attack then has the
        gradient of the whole chain, averaged over 4 draws of it.
    """
    model, test = experiment.model, data.subsample(experiment.test, examples)
    assert model.classifier is not None
    classify, x = model.classifier.logits, as_float(test.x)
    samples = 4 if refine else 1

    def predict(params, key, x):
        if not refine:
            return classify(params, x)
        refined = attacks.refining(
            lambda u: classify(params, u),
            lambda u: model.energy_fn(params, u),
            model.kernel(),
            refine,
        )
        return refined(key, x)

    robust: dict[str, dict[float, float]] = {}
    intervals: dict[str, dict[float, tuple[float, float]]] = {}
    how = f'after {refine} Langevin steps' if refine else 'as they are'
    lines = [
        f'Accuracy of {len(x):,} test examples under attack, without input noise, classified {how}:'
        f' APGD-CE, then APGD-DLR on what is left, {steps} steps each. Radii are for pixels in '
        '[0, 1].',
        f'{"norm":<8}{"radius":>8}{"accuracy":>10}   95 % interval',
    ]
    for norm, sizes in radii.items():
        chosen = attacks.strongest(
            attacks.NORMS[norm], test.num_classes, steps=steps, samples=samples
        )
        # a pixel in [0, 1] is half as wide as one in [-1, 1]
        alive = attacks.survivors(
            jax.random.key(0),
            chosen,
            predict,
            state.eval_params,
            x,
            test.y,
            [0.0, *(2 * size for size in sizes)],
        )
        robust[norm] = {radius / 2: float(mask.mean()) for radius, mask in alive.items()}
        intervals[norm] = {
            radius: share_interval(share, len(x)) for radius, share in robust[norm].items()
        }
        for radius, share in robust[norm].items():
            low, high = (100 * bound for bound in intervals[norm][radius])
            lines.append(f'{norm:<8}{radius:>8.4g}{100 * share:>8.1f} %   [{low:.1f}, {high:.1f}]')
    figure = figures.robustness(robust, intervals)
    figures.save(figure, workdir / 'robustness.png')
    shown = Shown(
        ROBUSTNESS,
        write_svg(workdir, figure, 'robustness'),
        'Accuracy under attack',
        f'{len(x):,} test examples, the worst of two attacks (APGD-CE and APGD-DLR, {steps} steps).'
        ' At radius 0 nothing is attacked.',
        wide=True,
    )
    named = {
        norm: {f'{radius:g}': share for radius, share in shares.items() if radius}
        for norm, shares in robust.items()
    }
    flat = {
        f'robust_accuracy.{norm}.{radius:g}': interval
        for norm, found in intervals.items()
        for radius, interval in found.items()
        if radius
    }
    return Section({'robust_accuracy': named}, lines, [shown], flat)
