"""Does the KL term keep training stable? Architectures x KL term on and off x seeds, on the built-in digits.

    python -m experiments.icd_stability --workdir=runs/icd_stability

The paper's claim: with the KL term all architectures hold E+ - E- near 0, without it all but the spectrally normalised one (here: every
convolution, not the dense layer) collapse. A run
counts as collapsed where a figure is not finite, |mean E+| exceeds the release's limit of 10, or |E+ - E-| is above `study.gap` in the
median of its last fifth. Writes stability.txt, stability.json (every trace) and traces.png; rerunning the command continues.
"""
import json
import pathlib

import jax
import numpy as np
from absl import flags
from matplotlib.figure import Figure
from ml_collections import ConfigDict, config_flags
from tqdm import tqdm

from ebm_jax.errors import InputError
from ebm_jax.record import update_summary, write_json
from ebm_jax.train import init_state, make_train_step, shard_batch, shard_state
from experiments import digits_icd, launch

PLAIN = dict(norm=False, reweight='plain', attention_after=0)
VARIANTS = {'plain': PLAIN, 'norm': dict(norm=True, reweight='standardised', attention_after=0),
            'attention': {**PLAIN, 'attention_after': 1}, 'spectral norm': {**PLAIN, 'reweight': 'spectral'}}


def get_config():
    """icd: settings of every run but for the network and the KL weight. study: seeds, steps, the gap that counts as collapse."""
    config = ConfigDict()
    config.icd = digits_icd.get_config()
    config.icd.sampler.num_steps = 10
    config.icd.transition.affine = 0.0
    config.icd.loss.update(dict(num_negatives=32, kl_chains=32))
    config.icd.batch_size = 32
    config.icd.network.width = 8
    config.study = ConfigDict(dict(seeds=3, steps=400, log_every=4, gap=1.0))
    return config


def settings_of(config, variant, kl):
    settings = ConfigDict(config.icd.to_dict())
    settings.network.update(VARIANTS[variant])
    settings.loss.kl_weight = config.icd.loss.kl_weight if kl else 0.0
    return settings


def trace(parts, train_step, seed, c, say):
    """{'gap': E+ - E- at every logged step, 'positives': E+}, up to where a figure is not finite or beyond its limit."""
    devices, found = jax.local_devices(), {'gap': [], 'positives': []}
    pieces = [parts.fit[name] for name in ('method', 'optimizer', 'prepare')]
    state = shard_state(init_state(jax.random.key(seed), *pieces, parts.fit['batch_at'](0), ema=parts.fit['ema']), devices)
    for step in tqdm(range(c.steps), desc=say, unit='step', leave=False):
        state, metrics = train_step(state, shard_batch(parts.fit['batch_at'](step), devices))
        if step % c.log_every == 0 or not metrics['healthy']:
            found['gap'].append(-float(metrics['s_gap']))
            found['positives'].append(-float(metrics['s_positives']))
        if not metrics['healthy']:
            break
    return {**found, 'steps': step + 1, 'healthy': bool(metrics['healthy'])}


def collapsed(run, c):
    """Whether a trace counts as collapsed, see above."""
    return not run['healthy'] or float(np.median(np.abs(run['gap'][-max(1, len(run['gap']) // 5):]))) > c.gap


def table(found, c):
    lines = [f'{"network":<16}{"KL term":<9}{"collapsed":>10}  {"|E+ - E-|, last fifth":<24}largest |E+ - E-|   {c.steps} steps']
    for variant in VARIANTS:
        for kl in (True, False):
            runs = [run for name, run in found.items() if name.startswith(f'{variant}/{"with" if kl else "without"}/')]
            last = [np.median(np.abs(run['gap'][-max(1, len(run['gap']) // 5):])) for run in runs]
            largest = [np.max(np.abs(run['gap'])) for run in runs]
            lines.append(f'{variant:<16}{"with" if kl else "without":<9}{sum(collapsed(run, c) for run in runs):>6} of {len(runs)}  '
                         f'{np.min(last):.2g} to {np.max(last):<16.2g}{np.min(largest):.2g} to {np.max(largest):.2g}')
    return lines


def plot(path, found, c):
    figure = Figure(figsize=(13, 3.2), layout='tight')
    for axis, variant in zip(figure.subplots(1, len(VARIANTS), sharey=True, squeeze=False)[0], VARIANTS):
        for name, run in found.items():
            if name.startswith(f'{variant}/'):
                kl = '/with/' in name
                axis.plot(c.log_every * np.arange(len(run['gap'])), run['gap'], color='tab:blue' if kl else 'tab:orange', alpha=0.8,
                          label=('with KL' if kl else 'without KL') if name.endswith('/0') else None)
        axis.set(title=variant, xlabel='step')
        axis.set_yscale('symlog', linthresh=0.01)
        axis.legend()
    figure.axes[0].set_ylabel('E+ - E-')
    figure.savefig(path, dpi=90)


def define(values):
    flags.DEFINE_string('workdir', None, 'Folder of the study; the same command continues it.', flag_values=values)
    config_flags.DEFINE_config_dict('config', get_config(), 'Settings.', flag_values=values)
    flags.mark_flag_as_required('workdir', values)


def run(values):
    workdir, config, c = pathlib.Path(values.workdir), values.config, values.config.study
    file, settings = workdir / 'stability.json', json.loads(config.to_json())
    there = json.loads(file.read_text()) if file.exists() else {'config': settings, 'runs': {}}
    if launch.flatten(there['config']) != launch.flatten(settings):
        raise InputError(f'{workdir} holds a study with other settings: use those, or another --workdir')
    for name in ('seeds', 'steps', 'log_every'):
        if c[name] < 1:
            raise InputError(f'--config.study.{name} must be at least 1, got {c[name]}')
    launch.use_all_cores(config.icd)
    for variant in VARIANTS:
        for kl in (True, False):
            names = [f'{variant}/{"with" if kl else "without"}/{seed}' for seed in range(c.seeds)]
            if all(name in there['runs'] for name in names):
                continue
            parts = launch.build(digits_icd, settings_of(config, variant, kl))
            workdir.mkdir(parents=True, exist_ok=True)
            train_step = make_train_step(*(parts.fit[name] for name in ('method', 'optimizer', 'prepare')), ema=parts.fit['ema'],
                                         limits=parts.fit['limits'])
            for seed, name in enumerate(names):
                there['runs'][name] = trace(parts, train_step, seed, c, name)
                write_json(file, there)
    lines = table(there['runs'], c)
    plot(workdir / 'traces.png', there['runs'], c)
    (workdir / 'stability.txt').write_text('\n'.join(lines) + '\n')
    update_summary(workdir, {'collapsed': {name: collapsed(run, c) for name, run in there['runs'].items()}, 'finished': True})
    print('\n'.join(lines))


if __name__ == '__main__':
    launch.main(run, define, __doc__)
