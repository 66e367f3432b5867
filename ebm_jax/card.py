"""The model card of an exported model."""

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from ebm_jax.spec import CLASSIFIER, ENERGY, LATENT, ModelSpec

WHAT = {
    CLASSIFIER: 'A classifier that is also an energy-based model',
    ENERGY: 'An energy-based model',
}
# metrics of the machine and the run, which say nothing about the model
OF_THE_RUN = (
    'compile_seconds',
    'evaluation_seconds',
    'seconds_per_step',
    'steps_per_second',
    'tries_left',
)


def _what(spec):
    """What kind of model it is, as a sentence begins."""
    if spec.kind != LATENT:
        return WHAT[spec.kind]
    called = {'generator': 'a generator', 'inference': 'an inference model'}
    others = ' and '.join(words for name, words in called.items() if name in spec.networks)
    if 'energy' not in spec.networks:
        return others.capitalize()
    return f'An energy with {others}' if others else 'An energy'


def card(
    spec: ModelSpec,
    *,
    name: str,
    metrics: Mapping[str, Any],
    parameters: int,
    step: int,
    digest: str,
    commands: str = '',
) -> str:
    """The model card, Markdown.

    Args:
      name: of the experiment. metrics: of summary.json, of which numbers are shown.
      parameters: how many there are. step: of training. digest: SHA-256 of the weights.
      commands: that made it; default: `fit` from Python.
    """
    rows = flatten_dict(dict(metrics), sep='.')
    shown = {
        name: f'{value:.4g}' if isinstance(value, float) else str(value)
        for name, value in sorted(rows.items())
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in OF_THE_RUN
    }
    use = ['images = model.sample(jax.random.key(0), 16)  # in [-1, 1]']
    if spec.speech is not None:
        labels = ', labels=0' if spec.kind == CLASSIFIER or spec.conditional else ''
        use = [f'sound = model.generate_sound(jax.random.key(0), 100{labels})  # 100 frames']
    elif spec.kind == CLASSIFIER:
        use.append('probabilities = model.class_probs(images)')
    elif 'generator' in spec.networks:
        labels = f', labels=jax.numpy.arange(16) % {spec.num_classes}' if spec.conditional else ''
        use.append(f'again = model.reconstruct(jax.random.key(1), images{labels})')
    classes = f': {", ".join(spec.class_names)}' if spec.class_names else ''
    lines = [
        '---',
        'library_name: ebm_jax',
        'tags: [energy-based-model, jax]',
        '---',
        f'# {name}',
        '',
        f'{_what(spec)}, of examples {list(spec.shape)} in {spec.num_classes} '
        f'classes{classes}; {parameters:,} parameters, trained for {step:,} steps with ebm_jax.',
        '',
        '```python',
        'import ebm_jax',
        'import jax',
        '',
        "model = ebm_jax.load('FOLDER')  # this one",
        *use,
        '```',
        '',
        '## Metrics',
        '',
        'By `evaluate`, whose flags `--ood` and `--suite` add to the defaults (`chains.*`: by '
        '`experiments.chains`); names: docs/howto/evaluate.md.',
        '',
        '| metric | value |',
        '|---|---|',
        *(f'| {name} | {value} |' for name, value in shown.items()),
        '',
        '## Made by',
        '',
        '```',
        *(commands or 'ebm_jax.fit.fit').splitlines(),
        '```',
        '',
        f'SHA-256 of the weights: `{digest}`',
        '',
    ]
    return '\n'.join(lines)
