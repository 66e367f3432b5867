"""ST-JEM on real frames of five phonemes (the set of Hastie, Tibshirani, Friedman: log-periodograms of 32 ms, from TIMIT).

    python ../shared/data/unpack.py data phoneme_esl     # or any .npz of x [N, F], y, part, label_names
    python -m experiments.phonemes_st_jem --workdir=runs/phonemes --config.data.source=frames:data/phoneme_esl.npz
    python -m experiments.evaluate --workdir=runs/phonemes
Convolutions along frequency (58 thousand parameters). Time: one minute on one CPU core, as much again for the evaluation. Expected: frame
accuracy 92.3 % (a support vector machine: 92.6 %), 97 % of fresh frames recognised, AUROC of log p(x) 1.00 against noise.
"""
from functools import partial

from ml_collections import ConfigDict

from ebm_jax.networks import LineNet
from experiments import launch
from experiments.parts_speech import speech_config, speech_jem


def get_config():
    config = speech_config()
    config.steps = config.optimizer.decay_steps = 900
    config.data.source = 'frames:data/phoneme_esl.npz'
    config.data.noise = 0.06
    config.ood = ConfigDict(dict(inverted='inverted', noise='noise', mixed='mixed'))
    config.sampler.num_steps = 5
    config.loss.alpha = 1.0
    config.network = ConfigDict(dict(along='frequency', widths=(32, 64, 64), strides=(4, 4, 2), size=9))
    return config


def build(config):
    return speech_jem(config, partial(LineNet, **config.network))


if __name__ == '__main__':
    launch.train(__spec__.name)
