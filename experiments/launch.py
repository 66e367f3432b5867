"""Flags, and nothing else: `python -m experiments.NAME --workdir=DIR [--config.key=value]`.

What the user gave wrong ends in one sentence and exit code 2, a run that diverged in its account and exit code 1.
"""
import atexit
import contextlib
import importlib
import json
import logging
import math
import os
import pathlib
import subprocess
import sys
import traceback
from functools import partial

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from ebm_jax.errors import Diverged, InputError, NotSaved, Stopped

HEARTBEAT = 20   # seconds without a sign of life after which the other processes of a run give up
WATCHES = []     # the children of say_if_this_process_dies
FREE_ON_RESUME = {'steps', 'log_every', 'checkpoint_every', 'picture_every', 'evaluate_every', 'guard.remedies'}


def main(run, define_flags, description):
    """Parse flags and call `run(flag values)`; turn the user's mistakes into one sentence."""
    for name in ('absl', 'asyncio'):   # orbax logs the traceback of what it also raises
        logging.getLogger(name).setLevel(logging.CRITICAL)
    values = flags.FlagValues()
    try:
        define_flags(values)
        if any(argument in ('-h', '--help', '-help', '--helpfull') for argument in sys.argv[1:]):
            print(f'{description}\n{values.get_help()}')
            sys.exit(0)
        extra = values(sys.argv)[1:]
        if extra:
            raise InputError(f'unknown arguments {" ".join(extra)}: settings look like --config.key=value')
    except (flags.Error, InputError, AttributeError, KeyError, TypeError, ValueError) as error:
        end(f'{str(error).strip().splitlines()[0]} (--help shows the flags)')
    try:
        run(values)
    except InputError as error:
        end(str(error))
    except Diverged as error:
        end(error.account, code=1)
    except NotSaved as error:
        end(str(error), code=1)
    except Stopped as stopped:
        print(stopped)
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        leave(1)


def end(sentence, code=2):
    print(f'error: {sentence}', file=sys.stderr)
    if jax.distributed.is_initialized():
        for child in WATCHES:
            child.communicate(b'in order')
        leave(code)
    sys.exit(code)


def leave(code):
    """End one of several processes at once: the usual way out would wait for the others, which may wait for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def train(module_name):
    """The main program of an experiment: its `get_config()` makes the flags, its `build(config)` the parts, `fit` trains."""
    module = importlib.import_module(module_name)

    def define(values):
        flags.DEFINE_string('workdir', None, 'Folder of the run; the same command continues it.', flag_values=values)
        config_flags.DEFINE_config_dict('config', module.get_config(), 'Settings.', flag_values=values)
        flags.mark_flag_as_required('workdir', values)
        define_processes(values)

    def run(values):
        workdir, config = pathlib.Path(values.workdir), values.config
        join_processes(values)
        use_all_cores(config)
        fit_in(workdir, module, config)
        if jax.process_index() == 0:
            print(f'Trained: {workdir}. Next: python -m experiments.evaluate --workdir={workdir}')

    listed = '\n'.join(f'  {key} = {value}' for key, value in flatten(module.get_config()).items())
    main(run, define, f'{module.__doc__}\nSettings, each changed by --config.KEY=VALUE:\n{listed}\n')


def define_processes(values):
    flags.DEFINE_bool('distributed', False, 'One of several processes that share a run, on a TPU pod, Slurm, Kubernetes or MPI, which JAX '
                      'recognises by itself; elsewhere also give the next three.', flag_values=values)
    flags.DEFINE_string('coordinator', None, 'HOST:PORT of the first process.', flag_values=values)
    flags.DEFINE_integer('processes', None, 'How many there are.', 1, flag_values=values)
    flags.DEFINE_integer('process', None, 'Which of them this is, from 0.', 0, flag_values=values)


def join_processes(values):
    """Begin as one of several processes, where the flags say so; must come before JAX's first computation."""
    given = [values.coordinator, values.processes, values.process]
    if not values.distributed and all(value is None for value in given):
        return
    if any(value is None for value in given) and not all(value is None for value in given):
        raise InputError('give --coordinator=HOST:PORT, --processes=N and --process=I together, or none of them and --distributed')
    if values.process is not None and values.process >= values.processes:
        raise InputError(f'--process counts from 0 and must be below --processes={values.processes}, got {values.process}')
    try:
        jax.distributed.initialize(*given, heartbeat_timeout_seconds=HEARTBEAT)
    except (ValueError, RuntimeError) as error:
        raise InputError(f'the processes of this run do not find each other ({str(error).splitlines()[0]}): give --coordinator=HOST:PORT, '
                         '--processes=N and --process=I to each') from error
    say_if_this_process_dies()


def say_if_this_process_dies():
    """When one process of a run dies, JAX ends the others from C++, where no exception can be caught: a child says what to do then."""
    watch = ('import sys\n'
             'if not sys.stdin.read():\n'
             '    print("error: this process of the run ended early, most likely because another one did: start all of them again by the '
             'same commands, they continue from the newest complete checkpoint", file=sys.stderr)')
    child = subprocess.Popen([sys.executable, '-c', watch], stdin=subprocess.PIPE, start_new_session=True)
    WATCHES.append(child)
    atexit.register(child.communicate, b'in order')


def fit_in(workdir, module, config):
    """Train the experiment in a workdir, or continue it there."""
    settings = {'experiment': module.__name__, 'config': json.loads(config.to_json())}
    check_same_run(workdir, settings)
    parts = build(module, config)
    from ebm_jax.fit import fit
    from experiments.parts import remedies_of
    remedies = remedies_of(config, partial(build, module))
    return parts, fit(**parts.fit, workdir=workdir, settings=settings, remedies=remedies)


def build(module, config):
    """The experiment's parts; a number that a factory refuses is the user's to mend."""
    from experiments.telemetry import watching_chains
    try:
        return watching_chains(module.build(config), config)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f'the configuration of {module.__name__} cannot be built: {error}') from error


def use_all_cores(*configs):
    """Several CPU devices use the cores better than one, with the same result; must come before JAX's first computation.

    Takes the largest number of devices, up to the cores, that divides every batch, the chains and their shards. Has no effect where
    an accelerator does the work, or where the user chose (XLA_FLAGS, JAX_NUM_CPU_DEVICES).
    """
    chosen = 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', '') or 'JAX_NUM_CPU_DEVICES' in os.environ
    if not chosen and not jax.distributed.is_initialized():
        common = math.gcd(*(number for config in configs
                            for number in (config.batch_size, config.get('shards', 0), config.loss.num_negatives))) or 1
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
        jax.config.update('jax_num_cpu_devices', max(n for n in range(1, max(cores, 1) + 1) if n == 1 or common % n == 0))


def check_same_run(workdir, settings):
    """Refuse to continue a run under other settings. A workdir without checkpoints holds no run yet."""
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f'--workdir={workdir} is a file: choose a folder')
    if not any((workdir / 'checkpoints').glob('[0-9]*')):
        return
    there, _ = read_config(workdir)
    if there['experiment'] != settings['experiment']:
        raise InputError(f'{workdir} holds a run of {there["experiment"]}: choose another --workdir for {settings["experiment"]}')
    old, new = flatten(there['config']), flatten(settings['config'])
    changed = sorted(key for key in old.keys() | new.keys()
                     if old.get(key) != new.get(key) and key not in FREE_ON_RESUME and not key.startswith('ood.'))
    if changed:
        listed = ', '.join(f'{key} ({old.get(key)} there, {new.get(key)} now)' for key in changed)
        raise InputError(f'{workdir} holds a run with other settings: {listed}; use those, or another --workdir')


def read_config(workdir):
    """(content of config.json, the experiment's module) of a run."""
    path = pathlib.Path(workdir) / 'config.json'
    if not path.exists():
        raise InputError(f'no run in {workdir} (config.json is missing): give the --workdir of a training run')
    try:
        content = json.loads(path.read_text())
        return {'experiment': content['experiment'], 'config': dict(content['config'])}, importlib.import_module(content['experiment'])
    except (KeyError, TypeError, ValueError, ModuleNotFoundError) as error:
        raise InputError(f'{path} cannot be used ({error}): it is damaged, or its experiment is not on the Python path') from error


def restore(workdir):
    """(config, parts, TrainState) of the newest checkpoint of a run. To be called before any JAX computation."""
    return restore_all([workdir])[0]


def restore_all(workdirs):
    """As `restore`, for several runs at once."""
    found = [read_run(workdir) for workdir in workdirs]
    use_all_cores(*(config for config, _ in found))
    return [_restore(workdir, *run) for workdir, run in zip(workdirs, found)]


def read_run(workdir):
    """(config, the experiment's module) of a run, whose settings must be those that the experiment has now."""
    content, module = read_config(workdir)
    config = ConfigDict(content['config'])
    settings = lambda tree: {key for key in flatten(tree) if not key.startswith('ood.')}
    odd = sorted(settings(module.get_config()) ^ settings(config))
    if odd:
        raise InputError(f'{workdir}/config.json was written by another version of {content["experiment"]} (differing: {", ".join(odd)}): '
                         'use that version, or train again')
    return config, module


def _restore(workdir, config, module):
    parts = build(module, config)
    from ebm_jax.checkpoint import Checkpoints
    with contextlib.closing(Checkpoints(pathlib.Path(workdir) / 'checkpoints', read_only=True)) as checkpoints:
        return config, parts, checkpoints.restore(parts.state_shapes())


def flatten(tree, prefix=''):
    """{'a': {'b': 1}} -> {'a.b': 1}"""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, (dict, ConfigDict)):
            flat.update(flatten(value, f'{prefix}{key}.'))
        else:
            flat[prefix + key] = value
    return flat
