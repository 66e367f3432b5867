"""The metrics of a run that its report and `compare` show first: their names for people, and what
they mean."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict


class Headline(NamedTuple):
    """How a metric is shown."""

    title: str
    meaning: str
    percent: bool = False

    def text(self, value: float | str) -> str:
        """The value, rounded; one that is not finite is a string in JSON."""
        if isinstance(value, str):
            return value
        return f'{100 * value:.1f}\N{NO-BREAK SPACE}%' if self.percent else f'{value:.3g}'


OOD = 'ood_auroc.'
HEADLINES: dict[str, Headline] = {
    'test_accuracy': Headline(
        'accuracy', 'share of test examples whose most probable class is their own', True
    ),
    'ece': Headline(
        'calibration error',
        'mean distance of confidence from accuracy (ECE, 20 bins); 0 is calibrated',
        True,
    ),
    'frame_accuracy': Headline(
        'frame accuracy', 'share of labelled frames of test recordings that are recognised', True
    ),
    'recording_accuracy': Headline(
        'recording accuracy', 'share of whole test recordings that are recognised', True
    ),
    'other_speakers_accuracy': Headline(
        'unheard speakers', 'the same of speakers left out of training', True
    ),
    'conditional_sample_accuracy': Headline(
        'samples recognised',
        'share of samples of p(x|y) that a classifier fitted on real images gives the class y',
        True,
    ),
    'conditional_sample_diversity': Headline(
        'diversity', 'mean distance between samples of a class, over that of real images; 1 is best'
    ),
    'sample_distance.frechet': Headline(
        'distance of samples',
        'Frechet distance to training images in the features of a small classifier trained on them '
        '(not an FID); compare with test images in the table below',
    ),
    'sample_distance.generator.frechet': Headline(
        'distance, generator', 'the same of what the generator makes'
    ),
    'sample_distance.refined.frechet': Headline(
        'distance, refined', 'the same after the chain of the energy'
    ),
    'fid.frechet': Headline('FID', 'Frechet distance in Inception features'),
    'fid.inception_score': Headline(
        'Inception Score', 'exp of the mean KL divergence between p(y|x) and p(y) by Inception'
    ),
    'class_coverage': Headline(
        'class coverage',
        'exp(entropy) of the classes among samples, over that of the data; best 1',
    ),
    'reconstruction_mse.q': Headline(
        'reconstruction, q', 'mean squared error on [-1, 1] by the inference model alone'
    ),
    'reconstruction_mse.q_refined': Headline(
        'reconstruction, refined', 'the same after the chain in z'
    ),
    'inpainting_mse': Headline(
        'in-painting', 'mean squared error of the hidden half of test images, on [-1, 1]'
    ),
    'inversion_rms_db': Headline(
        'features to sound', 'root mean square error of features made sound and back, dB'
    ),
    'kl_gradient_ratio': Headline(
        'KL term', 'median norm of its gradient over that of the contrast'
    ),
    'kl_cost_percent': Headline('cost of the KL term', 'per cent of a training step'),
}
RUN_FACTS: dict[str, Headline] = {
    'seconds_per_step': Headline('seconds a step', 'median over the run'),
    'recoveries': Headline('recoveries', 'how often the run went back from a divergence'),
    'quarantined_chains': Headline(
        'chains set aside', 'chains that diverged during training, left the loss and restarted'
    ),
}
MAIN_SCORES = ('.energy', '.log_px', '.joint')


def auroc(name: str) -> Headline:
    """Of an entry OOD + 'SET.SCORE' of a flat summary."""
    which, _, score = name.removeprefix(OOD).rpartition('.')
    return Headline(
        f'AUROC {which}, {score}',
        'probability that a test example looks more familiar than one of that set; .5 is chance',
    )


def headlines_of(summary: Mapping[str, Any]) -> dict[str, tuple[Headline, float]]:
    """{flat name: (how it is shown, value)} of the main metrics that a summary has."""
    flat = flatten_dict(dict(summary), sep='.')
    scores = sorted(name for name in flat if name.startswith(OOD) and name.endswith(MAIN_SCORES))
    known = HEADLINES | {name: auroc(name) for name in scores} | RUN_FACTS
    return {
        name: (headline, flat[name])
        for name, headline in known.items()
        if isinstance(flat.get(name), int | float)
    }
