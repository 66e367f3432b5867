"""Compositions of separately trained energies on the built-in digits: the class AND the stroke weight AND the slant; OR; NOT.

    python -m experiments.digits_compose --workdir=runs/digits_compose

Trains three conditional energies by improved contrastive divergence (WORKDIR/class, /stroke, /slant: each an ordinary run of
digits_icd, that `evaluate` and `compose` take), composes them, and measures each factor: the class by a support vector machine, stroke
weight and slant by computing them from the image (high and low third of the training images). Writes composition.txt,
composition.json, samples/*.png and summary.json. Rerunning the command continues.
"""
import itertools
import math
import pathlib
from functools import partial

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from ebm_jax import compose
from ebm_jax.errors import InputError
from ebm_jax.evaluate import samples
from ebm_jax.evaluate.attributes import ATTRIBUTES, LEVELS, level, thirds
from ebm_jax.record import image_grid, save_grid, update_summary, write_json
from experiments import digits_icd, launch
from experiments.compose import draw
from experiments.parts import averaged

LABELS = ('class', 'stroke', 'slant')
PAIRS = ((3, 8), (0, 1), (4, 7))   # of classes, for OR


def get_config():
    """icd: settings of the three runs. compose: chains of each question, weight of NOT (the paper's 0.001 to 0.01 are for energies
    of another scale, and do nothing here), sharpness of OR.
    """
    config = ConfigDict()
    config.icd = digits_icd.get_config()
    config.icd.loss.conditional = True
    config.icd.transition.affine = 0.0   # it would change the slant that a chain was asked for
    config.compose = ConfigDict(dict(num=200, not_weight=0.5, sharpness=1.0))
    return config


def train(workdir, config):
    """{label: (parts, params)} of the three runs, trained where they are not yet."""
    launch.use_all_cores(config.icd)
    runs = {}
    for label in LABELS:
        settings = ConfigDict(config.icd.to_dict())
        settings.data.label = label
        parts, state = launch.fit_in(workdir / label, digits_icd, settings)
        runs[label] = parts, averaged(state)
    return runs


class Ruler:
    """Measures what an image shows: its class, stroke level and slant level."""

    def __init__(self, train):
        self.judge = samples.independent_judge(train)
        self.edges = {name: thirds(of(train.x)) for name, of in ATTRIBUTES.items()}

    def __call__(self, images):
        shown = {name: level(of(images), self.edges[name]) for name, of in ATTRIBUTES.items()}
        return {'class': self.judge.predict(samples.as_pixels(images)), **shown}


def sample(runs, labels, combine, wanted, seed=0):
    """Samples of a composition. labels: the run of each term. wanted: int [N, T]."""
    parts = [runs[label][0] for label in labels]
    composition = compose.over_runs(combine, *(p.energy_fn for p in parts))
    return draw(jax.random.key(seed), composition, [runs[label][1] for label in labels], wanted, parts[0])


def wanted_of_and(num):
    """{label: int [num]}: what every question wants of each factor; of the attributes the low or the high third."""
    extremes = np.random.default_rng(0).choice([0, 2], (num, len(LABELS)))
    return {label: np.arange(num) % 10 if label == 'class' else extremes[:, i] for i, label in enumerate(LABELS)}


def measure_and(runs, ruler, config, folder):
    """Success of each factor, and of all together, for each factor alone and for every product."""
    wanted = wanted_of_and(config.compose.num)
    rows, lines = {}, [f'{"energy":<28}' + ''.join(f'{label:>8}' for label in LABELS) + f'{"all asked":>11}   share of '
                       f'{config.compose.num} samples that show what was wanted; * = asked for']
    rows['real images'] = real = chance(ruler, runs['class'][0].test, wanted)
    cells = ''.join(f'{100 * real[label]:>6.0f}  ' for label in LABELS)
    lines.append(f'{"(real test images)":<28}{cells}{100 * real["asked"]:>10.1f} %')
    for labels in (chosen for size in range(1, len(LABELS) + 1) for chosen in itertools.combinations(LABELS, size)):
        name = ' AND '.join(labels)
        images = sample(runs, labels, compose.all_of, np.stack([wanted[label] for label in labels], 1))
        shown = ruler(images)
        hit = {label: shown[label] == wanted[label] for label in LABELS}
        every = np.all([hit[label] for label in labels], 0)
        rows[name] = {**{label: float(hit[label].mean()) for label in LABELS}, 'asked': float(every.mean())}
        cells = ''.join(f'{100 * hit[label].mean():>6.0f}{"*" if label in labels else " "} ' for label in LABELS)
        lines.append(f'{name:<28}{cells}{100 * every.mean():>10.1f} %')
        save_grid(folder / f'{name.replace(" ", "_").lower()}.png', image_grid(images[:100], 10))
    return {'and': rows}, lines


def chance(ruler, test, wanted):
    """How often real test images, drawn at random, show what was wanted: what an energy that does not know of it would reach."""
    shown = ruler(test.x)
    hit = {label: (shown[label][:, None] == wanted[label]) for label in LABELS}
    return {**{label: float(hits.mean()) for label, hits in hit.items()}, 'asked': float(np.all(list(hit.values()), 0).mean())}


def measure_or(runs, ruler, config, folder):
    """Mixtures of two classes: how many samples show either, and how the two share them."""
    rows, lines, num = {}, [''], config.compose.num
    combine = partial(compose.any_of, sharpness=config.compose.sharpness)
    drawn = sample(runs, ('class', 'class'), combine, np.repeat(PAIRS, num, 0))
    drawn = drawn.reshape(len(PAIRS), num, *drawn.shape[1:])
    for (a, b), images in zip(PAIRS, drawn):
        shown = ruler(images)['class']
        rows[f'{a} OR {b}'] = {'either': float(np.isin(shown, (a, b)).mean()), 'first': float((shown == a).mean())}
        lines.append(f'{f"class {a} OR class {b}":<28}{100 * np.isin(shown, (a, b)).mean():>6.1f} % show either, '
                     f'{100 * (shown == a).mean():.1f} % the {a}')
        save_grid(folder / f'{a}_or_{b}.png', image_grid(images[:100], 10))
    return {'or': rows}, lines


def measure_not(runs, ruler, config, folder):
    """A class without the high or low third of an attribute, beside the same chains with a weight of 0 on what is not wanted."""
    rows, lines, classes = {}, [''], np.arange(config.compose.num) % 10
    for label, unwanted in itertools.product(LABELS[1:], (2, 0)):
        word, asked = LEVELS[label][unwanted], np.stack([classes, np.full_like(classes, unwanted)], 1)
        images, free = (sample(runs, ('class', label), partial(compose.without, weight=weight), asked)
                        for weight in (config.compose.not_weight, 0.0))
        shown, before = ruler(images), ruler(free)
        row = {'unwanted': float((shown[label] == unwanted).mean()), 'unwanted_without_not': float((before[label] == unwanted).mean()),
               'class': float((shown['class'] == classes).mean())}
        rows[f'NOT {word}'] = row
        lines.append(f'{f"class NOT {word}":<28}{100 * row["unwanted"]:>6.1f} % are {word} (at weight 0: '
                     f'{100 * row["unwanted_without_not"]:.1f} %), class right in {100 * row["class"]:.1f} %')
        save_grid(folder / f'not_{word}.png', image_grid(images[:100], 10))
    return {'not': rows}, lines


def define(values):
    flags.DEFINE_string('workdir', None, 'Folder of the runs; the same command continues them.', flag_values=values)
    config_flags.DEFINE_config_dict('config', get_config(), 'Settings.', flag_values=values)
    flags.mark_flag_as_required('workdir', values)


def check(config):
    """Refuse, before any training, what the questions cannot be asked of."""
    c = config.compose
    for name, fine, must in (('compose.num', c.num >= 1, 'at least 1'),
                             ('compose.not_weight', 0 <= c.not_weight < math.inf, 'at least 0'),
                             ('compose.sharpness', c.sharpness > 0, 'above 0'),
                             ('icd.loss.conditional', config.icd.loss.conditional, 'true'),
                             ('icd.data.leave_out', not config.icd.data.leave_out, '(): the questions name all ten classes')):
        if not fine:
            raise InputError(f'--config.{name} must be {must}, got {launch.flatten(config)[name]}')


def run(values):
    workdir, config = pathlib.Path(values.workdir), values.config
    check(config)
    runs = train(workdir, config)
    ruler, folder = Ruler(runs['class'][0].train), workdir / 'samples'
    found, lines = {}, []
    for part in (measure_and, measure_or, measure_not):
        figures, text = part(runs, ruler, config, folder)
        found |= figures
        lines += text
    write_json(workdir / 'composition.json', found)
    (workdir / 'composition.txt').write_text('\n'.join(lines) + '\n')
    update_summary(workdir, {'composition': found, 'finished': True})
    print('\n'.join(lines))


if __name__ == '__main__':
    launch.main(run, define, __doc__)
