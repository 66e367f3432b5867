"""ST-JEM on real frames of five phonemes (the set of Hastie, Tibshirani, Friedman: log-periodograms
of 32 ms, from TIMIT).

    python -m experiments.phonemes_st_jem --workdir=runs/phonemes \\
        --config.data.source=frames:data/phoneme_esl.npz
    python -m experiments.evaluate --workdir=runs/phonemes

The file is made in docs/howto/data.md; any .npz with x [N, F], y, part and label_names works as
well, with --config.data.periodograms=false where x are no log-periodograms. Convolutions along
frequency (58 thousand parameters).

Time: one minute on one CPU core, as much again for the evaluation. Expected: frame accuracy 92.3 %
(a support vector machine: 92.6 %), 97 % of fresh frames recognised, AUROC of log p(x) 1.00 against
noise.
"""

from experiments.common import launch
from experiments.families.networks import Conv1DNetwork
from experiments.families.speech_jem import SpeechSettings, speech_jem

build = speech_jem


def get_config() -> SpeechSettings:
    config = SpeechSettings(steps=900)
    config.data.source, config.data.noise = 'frames:data/phoneme_esl.npz', 0.06
    config.data.periodograms = True
    config.ood = ('inverted', 'noise', 'mixed')
    config.sampler.num_steps = 5
    config.loss.alpha = 1.0
    config.network = Conv1DNetwork(
        along='frequency', widths=(32, 64, 64), strides=(4, 4, 2), size=9
    )
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
