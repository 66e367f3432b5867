"""Plain JEM on the phoneme frames, at the settings of phonemes_st_jem.

    python -m experiments.phonemes_jem --workdir=runs/phonemes_jem \\
        --config.data.source=frames:data/phoneme_esl.npz

Time: one minute on one CPU core. Expected: frame accuracy 91.1 % (ST-JEM 92.3 %), ECE 4.1 %
(1.6 %), 99 % of fresh frames recognised.
"""

from experiments import phonemes_st_jem
from experiments.common import launch
from experiments.families.speech_jem import SpeechSettings, speech_jem

build = speech_jem


def get_config() -> SpeechSettings:
    config = phonemes_st_jem.get_config()
    config.loss.balanced, config.loss.alpha = False, 0.0
    return config


if __name__ == '__main__':
    launch.train(__spec__.name)
