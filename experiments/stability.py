"""How often training diverges: whole runs side by side, over seeds, learning rates, chain lengths and step sizes, on the built-in digits.

    python -m experiments.stability --workdir=runs/stability [--config.systems=jem,st_jem] [--config.seeds=5]
    python -m experiments.stability --workdir=runs/of_phonemes --config.data=frames:data/phoneme_esl.npz --config.systems=jem,st_jem

All runs of one system and one K are one program: mapped by `vmap`, on the CPU one after the other (`lax.map`), which is twice as fast
there, since convolutions are slow where each run has kernels of its own. A run counts as diverged at the first step that is not healthy: a
figure, gradient or parameter that is not finite, or the system's own limit (JEM [code]: a loss beyond 1e8; contrastive divergence,
ICD [code]: |mean E+| beyond 10; dual-MCMC, ours: a gap beyond 100). Those that did are then trained again with the guard on, `guarded`
of each setting, one by one. Intervals are Wilson's, 95 %. Writes stability.txt, stability.json and heat maps; rerunning continues.
JEM: three layers of 32, 64, 128 channels, batch 64, 64 negatives, Adam, buffer 2,000, noise .01, no clamp; on frames of speech the
network of `phonemes_st_jem`, chains from its normal start.
"""
import json
import math
import pathlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from jax.sharding import AxisType, Mesh, PartitionSpec
from matplotlib.figure import Figure
from ml_collections import ConfigDict, config_flags
from scipy.stats import binomtest
from tqdm import tqdm

from ebm_jax import adapt, augment, data, mcmc, objectives, replay
from ebm_jax.errors import Diverged, InputError
from ebm_jax.evaluate.samples import as_float
from ebm_jax.fit import fit
from ebm_jax.guard import Remedy
from ebm_jax.methods import dual_mcmc
from ebm_jax.methods.icd import icd
from ebm_jax.methods.jem import jem
from ebm_jax.networks import ConvNet, Generator, Inference, LineNet, per_example
from ebm_jax.record import update_summary, write_json
from ebm_jax.train import LIMITS, init_state, make_local_step, per_network
from ebm_jax.types import Network
from experiments import launch

BATCH = 64
ENERGY = per_example(ConvNet(1, (16, 32), (1, 2)))
CHUNK = 20   # steps of all runs in one call


class Setting(NamedTuple):
    """What is varied."""
    system: str
    num_steps: int
    learning_rate: float
    step_size: float   # in units of the system's own


class Task(NamedTuple):
    """What is learned."""
    train: data.Examples
    test: data.Examples
    network: Network     # of JEM and ST-JEM
    start: Callable      # (key, label) -> x
    prepare: Callable    # (key, example) -> x


def task_of(source):
    """The built-in digits, or frames of speech."""
    if source == 'digits':
        return Task(data.digits('train'), data.digits('test'), per_example(ConvNet(10)), replay.uniform_start((8, 8, 1)),
                    augment.chain(augment.scale_pixels, augment.gaussian_noise(0.03)))
    kind, _, file = source.partition(':')
    if kind != 'frames' or not file:
        raise InputError(f'--config.data must be digits or frames:FILE.npz, got {source}')
    from ebm_jax import audio, speech
    from experiments import phonemes_st_jem
    c = phonemes_st_jem.get_config()
    train, test, names = speech.frames(file)
    return Task(train, test, per_example(LineNet(len(names), **c.network)), replay.normal_start(train.x.shape[1:], 1 / audio.SPAN),
                augment.gaussian_noise(c.data.noise))


def of_jem(weights, task, setting):
    kernel = mcmc.langevin(setting.step_size, noise_scale=0.01)
    buffer = replay.persistent(task.start, 250)
    method = jem(task.network, adapt.fixed(kernel), buffer, num_negatives=64, num_steps=setting.num_steps, weights=weights, shards=8)
    return method, optax.adam(setting.learning_rate), LIMITS


def of_icd(kl_weight, task, setting):
    kernel = mcmc.langevin(2.0 * setting.step_size, noise_scale=0.02, bounds=(-1, 1), noise_first=True)
    buffer = replay.first_in_first_out(replay.uniform_start(task.train.x.shape[1:], 0.0, 1.0), 250, restart=0.02)
    method = icd(ENERGY, kernel, buffer, num_negatives=64, num_steps=setting.num_steps, kl_weight=kl_weight, kl_chains=16,
                 l2_weight=float(kl_weight > 0))
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(setting.learning_rate, 0.0, 0.9))
    return method, optimizer, {'s_positives': 10.0}


def of_dual(task, setting):
    generator, inference = per_example(Generator(task.train.x.shape[1:], (64, 32))), per_example(Inference(16, (32, 64), (1, 2)))
    energy = ENERGY._replace(apply=lambda params, x: ENERGY.apply(params, x)[0])
    method = dual_mcmc.dual_mcmc(energy, generator, inference, dual_mcmc.PAPER._replace(x_steps=setting.num_steps, z_steps=10),
                                 x_kernel=mcmc.langevin(setting.step_size, noise_scale=0.001),
                                 z_kernel=mcmc.langevin(0.005, noise_scale=0.1), latent=16, num_negatives=64)
    rates = {'energy': 1.0, 'generator': 3.0, 'inference': 1.0}
    return method, per_network({name: optax.adam(rate * setting.learning_rate, 0.5, 0.9) for name, rate in rates.items()}), {'s_gap': 100.0}


SYSTEMS = {   # name: (Task, Setting) -> (method, optimizer, limits)
    'jem': partial(of_jem, objectives.uniform), 'st_jem': partial(of_jem, objectives.balanced),
    'cd': partial(of_icd, 0.0), 'icd': partial(of_icd, 1.0), 'dual_mcmc': of_dual}


def get_config():
    """The grid, and how many of the runs that diverged are trained again with the guard on, of each setting."""
    return ConfigDict(dict(data='digits', systems='jem,st_jem,cd,icd,dual_mcmc', seeds=5, steps=600, num_steps=(1, 2, 5),
                           learning_rates=(1e-3, 5e-3, 1e-2), step_sizes=(1.0,), guarded=2))


def one_step(task, setting, state, batch):
    """A training step of one run, whose learning rate and step size may be traced."""
    method, optimizer, limits = SYSTEMS[setting.system](task, setting)
    state, metrics = make_local_step(method, optimizer, task.prepare, limits=limits)(state, batch)
    return state, {name: metrics[name] for name in ('healthy', 's_positives', 's_gap')}


def train_side_by_side(system, num_steps, cases, c, task):
    """All cases (learning rate, step size, seed) of one system and one K. Returns {figure: array [steps, cases]}, and final params."""
    devices = jax.local_devices()
    filled = cases + cases[-1:] * (-len(cases) % len(devices))
    rates, sizes, seeds = (jnp.asarray(column) for column in zip(*filled))
    batches = lambda steps: jax.tree.map(lambda *leaves: np.stack(leaves), *[   # [steps][runs]
        jax.tree.map(lambda *leaves: np.stack(leaves)[np.asarray(seeds)], *[data.batch_at(task.train, step, BATCH, seed)
                                                                            for seed in range(c.seeds)]) for step in steps])
    method, optimizer, _ = SYSTEMS[system](task, Setting(system, num_steps, *cases[0][:2]))
    first = data.batch_at(task.train, 0, BATCH)
    state = jax.vmap(lambda seed: init_state(jax.random.key(seed), method, optimizer, task.prepare, first))(seeds)
    split = PartitionSpec('runs')
    mesh = Mesh(devices, ('runs',), axis_types=(AxisType.Auto,))

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=(split, split, split, PartitionSpec(None, 'runs')),
             out_specs=(split, PartitionSpec(None, 'runs')), check_vma=False)
    def advance(state, rates, sizes, batches):
        one = lambda case: one_step(task, Setting(system, num_steps, *case[:2]), *case[2:])
        each = partial(jax.lax.map, one) if devices[0].platform == 'cpu' else jax.vmap(one)
        return jax.lax.scan(lambda state, batch: each((rates, sizes, state, batch)), state, batches)

    found = []
    for begin in tqdm(range(0, c.steps, CHUNK), desc=f'{system}, K = {num_steps}, {len(cases)} runs', unit='chunk'):
        state, figures = advance(state, rates, sizes, batches(range(begin, min(begin + CHUNK, c.steps))))
        found.append(jax.device_get(figures))
    figures = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:, :len(cases)], *found)
    return figures, jax.tree.map(lambda leaf: leaf[:len(cases)], state.params)


def accuracy(params, task):
    logits = jax.jit(jax.vmap(task.network.apply, (None, 0)))(params, as_float(task.test.x))
    return float(np.mean(np.argmax(logits, 1) == task.test.y))


def runs_of(system, num_steps, c, task):
    """{name: what is kept of a run} of one system and one K, without the guard."""
    cases = [(rate, size, seed) for rate in c.learning_rates for size in c.step_sizes for seed in range(c.seeds)]
    figures, params = train_side_by_side(system, num_steps, cases, c, task)
    found = {}
    for i, (rate, size, seed) in enumerate(cases):
        bad = np.flatnonzero(~figures['healthy'][:, i])
        trace = figures['s_gap'][:, i][::10]
        found[name_of(Setting(system, num_steps, rate, size), seed)] = {
            'diverged_at': int(bad[0]) + 1 if len(bad) else None,
            'accuracy': accuracy(jax.tree.map(lambda leaf, i=i: leaf[i], params), task) if 'jem' in system else None,
            'gap': float(np.median(np.abs(trace[-len(trace) // 5:]))) if not len(bad) else None}
    return found


def name_of(setting, seed):
    return f'{setting.system} K={setting.num_steps} lr={setting.learning_rate:g} step={setting.step_size:g} seed={seed}'


def guarded_run(workdir, setting, seed, c, task):
    """The same run by `fit`, with the guard on."""
    changes = [('other random numbers', setting)]
    for name in ('K x 2', 'learning rate x 0.5') * 2:   # as the experiments have it, but for their last, smaller steps
        then = changes[-1][1]
        changes.append((name, then._replace(num_steps=2 * then.num_steps) if name == 'K x 2' else
                        then._replace(learning_rate=then.learning_rate / 2)))
    parts = lambda setting: dict(zip(('method', 'optimizer', 'limits'), SYSTEMS[setting.system](task, setting)))
    try:
        state = fit(**parts(setting), batch_at=lambda step: data.batch_at(task.train, step, BATCH, seed), prepare=task.prepare,
                    workdir=workdir, steps=c.steps, seed=seed, log_every=50, checkpoint_every=50, picture_every=c.steps + 1,
                    remedies=[Remedy(name, partial(parts, then)) for name, then in changes], say=lambda line: None)
    except Diverged:
        state = None
    log = json.loads((workdir / 'recoveries' / 'log.json').read_text()) if (workdir / 'recoveries').exists() else []
    return {'finished': state is not None, 'recoveries': len(log),
            'accuracy': accuracy(state.params, task) if state is not None and 'jem' in setting.system else None}


def share(k, n):
    """'3 of 5 [.23, .88]'"""
    interval = binomtest(k, n).proportion_ci(method='wilson')
    return f'{k} of {n} [{interval.low:.2f}, {interval.high:.2f}]'


def settings_of(system, c):
    return [Setting(system, k, rate, size) for k in c.num_steps for rate in c.learning_rates for size in c.step_sizes]


def table(found, c):
    lines = [f'{c.data}, {c.steps} steps, {c.seeds} seeds each; without the guard | with it, at most {c.guarded} of the diverged',
             f'{"system":<10}{"K":>3}{"rate":>8}{"step":>6}  {"diverged":<22}{"at step":>9}{"accuracy, rest":>16}{"|gap|, rest":>13}  |  '
             f'{"finish":<8}{"recoveries":>11}{"accuracy":>10}']
    for setting in [setting for system in c.systems.split(',') for setting in settings_of(system, c)]:
        runs = [found['runs'][name_of(setting, seed)] for seed in range(c.seeds)]
        guarded = [found['guarded'][name_of(setting, seed)] for seed in range(c.seeds) if name_of(setting, seed) in found['guarded']]
        bad, good = ([run for run in runs if (run['diverged_at'] is not None) == flag] for flag in (True, False))
        finished = [run for run in guarded if run['finished']]
        lines.append(f'{setting.system:<10}{setting.num_steps:>3}{setting.learning_rate:>8g}{setting.step_size:>6g}  '
                     f'{share(len(bad), len(runs)):<22}{median(bad, "diverged_at", ".0f"):>9}{median(good, "accuracy", ".3f"):>16}'
                     f'{median(good, "gap", ".2g"):>13}  |  {f"{len(finished)} of {len(guarded)}" if guarded else "-":<8}'
                     f'{median(guarded, "recoveries", ".1f"):>11}{median(finished, "accuracy", ".3f"):>10}')
    return lines


def median(rows, key, form):
    values = [row[key] for row in rows if row[key] is not None]
    return f'{np.median(values):{form}}' if values else '-'


def heat_maps(path, found, c):
    """Share of runs that diverged, learning rate across and K down, one map for each system."""
    systems = c.systems.split(',')
    figure = Figure(figsize=(3.2 * len(systems), 3), layout='tight')
    for axis, system in zip(figure.subplots(1, len(systems), squeeze=False)[0], systems):
        diverged = lambda setting: np.mean([found['runs'][name_of(setting, seed)]['diverged_at'] is not None for seed in range(c.seeds)])
        shares = np.array([[np.mean([diverged(Setting(system, k, rate, size)) for size in c.step_sizes]) for rate in c.learning_rates]
                           for k in c.num_steps])
        axis.imshow(shares, vmin=0, vmax=1, cmap='Reds')
        for (row, column), value in np.ndenumerate(shares):
            axis.text(column, row, f'{value:.0%}', ha='center', va='center', color='white' if value > 0.6 else 'black')
        axis.set(title=f'{system}: diverged', xlabel='learning rate', ylabel='K', xticks=range(len(c.learning_rates)),
                 yticks=range(len(c.num_steps)))
        axis.set_xticklabels([f'{rate:g}' for rate in c.learning_rates])
        axis.set_yticklabels(c.num_steps)
    figure.savefig(path, dpi=90)


def check(c):
    unknown = set(c.systems.split(',')) - set(SYSTEMS)
    if unknown:
        raise InputError(f'--config.systems: {", ".join(sorted(unknown))} unknown; give some of {",".join(SYSTEMS)}')
    for name in ('seeds', 'steps'):
        if c[name] < 1:
            raise InputError(f'--config.{name} must be at least 1, got {c[name]}')
    for name, low in (('num_steps', 1), ('learning_rates', 0), ('step_sizes', 0)):
        if not c[name] or not all(low <= value < math.inf and value for value in c[name]):
            raise InputError(f'--config.{name} must be numbers {"of at least 1" if low else "above 0"}, got {tuple(c[name])}')


def define(values):
    flags.DEFINE_string('workdir', None, 'Folder of the study; the same command continues it.', flag_values=values)
    config_flags.DEFINE_config_dict('config', get_config(), 'The grid.', flag_values=values)
    flags.mark_flag_as_required('workdir', values)


def run(values):
    workdir, c = pathlib.Path(values.workdir), values.config
    check(c)
    launch.use_all_cores(ConfigDict(dict(batch_size=BATCH, shards=8, loss=dict(num_negatives=64))))
    file, settings = workdir / 'stability.json', json.loads(c.to_json())
    found = json.loads(file.read_text()) if file.exists() else {'config': settings, 'runs': {}, 'guarded': {}}
    free = {'systems', 'guarded'}
    if any(({'data': 'digits'} | found['config'])[name] != settings[name] for name in settings if name not in free):
        raise InputError(f'{workdir} holds a study of another grid ({found["config"]}): use that, or another --workdir')
    workdir.mkdir(parents=True, exist_ok=True)
    task = task_of(c.data)
    if c.data != 'digits' and not set(c.systems.split(',')) <= {'jem', 'st_jem'}:
        raise InputError(f'--config.systems={c.systems}: on frames of speech only jem and st_jem are set up')
    settings = [setting for system in c.systems.split(',') for setting in settings_of(system, c)]
    for setting in settings:
        if name_of(setting, 0) not in found['runs']:
            found['runs'] |= runs_of(setting.system, setting.num_steps, c, task)
            write_json(file, found)
    for setting in settings:
        diverged = [seed for seed in range(c.seeds) if found['runs'][name_of(setting, seed)]['diverged_at'] is not None]
        for seed in diverged[:c.guarded]:
            name = name_of(setting, seed)
            if name not in found['guarded']:
                found['guarded'][name] = guarded_run(workdir / 'guarded' / name.replace(' ', '_'), setting, seed, c, task)
                write_json(file, found)
    lines = table(found, c)
    heat_maps(workdir / 'stability.png', found, c)
    (workdir / 'stability.txt').write_text('\n'.join(lines) + '\n')
    update_summary(workdir, {'finished': True, 'diverged': sum(run['diverged_at'] is not None for run in found['runs'].values()),
                             'runs': len(found['runs']), 'guarded': len(found['guarded']),
                             'guarded_finished': sum(run['finished'] for run in found['guarded'].values())})
    print('\n'.join(lines))


if __name__ == '__main__':
    launch.main(run, define, __doc__)
