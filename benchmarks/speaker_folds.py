"""Frames of speech, cross-validated over speakers: settings of `phonemes_st_jem` against
scikit-learn's classifiers on the same folds.

    python -m benchmarks.speaker_folds --frames=data/phoneme_esl.npz \\
        [as-shipped "batch_size=128 data.noise=.03" ...]

Five folds of the training speakers; the test frames are not used, so that a setting can be chosen
by what is printed. At the end the first setting is trained on all training frames and compared with
a support vector machine on the test frames, frame by frame (McNemar's exact test: of the frames
that only one of the two gets right, does each get half?).
"""

import argparse
import ast
import pathlib
import tempfile

import numpy as np
from scipy.stats import binomtest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ebm_jax import data
from ebm_jax.errors import InputError
from ebm_jax.evaluate import predict
from ebm_jax.fit import fit
from experiments import phonemes_st_jem
from experiments.common import settings
from experiments.families.speech_jem import SpeechSettings

SHIPPED = 'as-shipped'
REFERENCE = 'support vector machine, C = 3'
OTHERS = {
    'support vector machine, C = 1': SVC(C=1),
    REFERENCE: SVC(C=3),
    'logistic regression, C = .01': LogisticRegression(C=0.01, max_iter=2000),
    'linear discriminants': LinearDiscriminantAnalysis(),
}
OTHERS = {name: make_pipeline(StandardScaler(), classifier) for name, classifier in OTHERS.items()}


def configured(changes: str) -> SpeechSettings:
    """The configuration of 'KEY=VALUE KEY=VALUE', or as shipped. Raises: InputError."""
    config = phonemes_st_jem.get_config()
    pairs = [] if changes == SHIPPED else [pair.partition('=')[::2] for pair in changes.split()]
    try:
        settings.update(config, {name: ast.literal_eval(value) for name, value in pairs})
        settings.check(config)
    except (KeyError, TypeError, ValueError, SyntaxError) as error:
        raise InputError(
            f'{changes!r} is not a setting ({error}): give {SHIPPED}, or KEY=VALUE of the '
            'configuration'
        ) from error
    return config


def trained(config: SpeechSettings, frames: str | pathlib.Path) -> np.ndarray:
    """Which test frames of a .npz are recognised after training on the others: bool [N]."""
    config.data.source = f'frames:{frames}'
    experiment = phonemes_st_jem.build(config)
    test = experiment.test
    with tempfile.TemporaryDirectory() as workdir:
        state = fit(experiment.recipe, workdir=workdir, steps=config.steps, echo=lambda line: None)
    found = predict.predict_dataset(experiment.predict, state.eval_params, test)
    return found['logits'].argmax(1) == test.y


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--frames',
        required=True,
        help='.npz as for `phonemes_st_jem`, with an additional array speaker [N]',
    )
    parser.add_argument(
        'settings',
        nargs='*',
        default=[SHIPPED],
        help=f'{SHIPPED}, or KEY=VALUE of the configuration, separated by spaces',
    )
    options = parser.parse_args()
    try:
        configs = {setting: configured(setting) for setting in options.settings}
    except InputError as error:
        parser.error(str(error))
    with data.open_npz(options.frames) as pack:
        x, y, part, speaker, label_names = (
            pack[name] for name in ('x', 'y', 'part', 'speaker', 'label_names')
        )
    training = part == 'train'
    x_train, y_train, speakers = x[training], y[training], speaker[training]
    right = {name: [] for name in (*OTHERS, *configs)}
    with tempfile.TemporaryDirectory() as folder:
        fold = pathlib.Path(folder) / 'fold.npz'
        for kept, held_out in GroupKFold(5).split(x_train, y_train, speakers):
            for name, classifier in OTHERS.items():
                right[name].append(
                    classifier.fit(x_train[kept], y_train[kept]).score(
                        x_train[held_out], y_train[held_out]
                    )
                )
            parts = np.where(np.isin(np.arange(len(x_train)), held_out), 'test', 'train')
            np.savez(fold, x=x_train, y=y_train, part=parts, label_names=label_names)
            for setting, config in configs.items():
                right[setting].append(trained(config, fold).mean())
    for name, shares in right.items():
        print(
            f'{100 * np.mean(shares):.2f} % '
            f' ({", ".join(f"{100 * share:.1f}" for share in shares)})  {name}'
        )

    ours = trained(configs[options.settings[0]], options.frames)
    svm = OTHERS[REFERENCE].fit(x_train, y_train).predict(x[~training]) == y[~training]
    only = int((ours & ~svm).sum()), int((svm & ~ours).sum())
    print(
        f'test: {100 * ours.mean():.2f} % {options.settings[0]}, {100 * svm.mean():.2f} %'
        f' {REFERENCE}; only one of them right in {only[0]} and {only[1]} of {len(ours)} frames, p'
        f' = {binomtest(only[0], sum(only)).pvalue:.2f}'
    )


if __name__ == '__main__':
    main()
