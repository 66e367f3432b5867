"""How long the first training step of each experiment takes, and what of it is compilation.

    python -m benchmarks.compile_time [--experiments=digits_st_jem,cifar10_icd] [--root=CLONE] \\
        [--out=FILE.jsonl]

Each experiment in a process of its own, on all cores, without kept programs; those for accelerators
with the settings that their files name for a laptop, on made data. --root: the code of another
clone, for a comparison (which must have this file).
"""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from typing import Any

EXPERIMENTS = (
    'digits_st_jem',
    'digits_jem',
    'digits_icd',
    'digits_dual_mcmc',
    'vowels_st_jem',
    'mnist_st_jem',
    'mnist_icd',
    'mnist_dual_mcmc',
    'cifar10_jem',
    'cifar10_st_jem',
    'cifar10_st_jem_fast',
    'cifar10_icd',
    'cifar10_dual_mcmc',
)


def laptop_settings(docstring: str) -> list[str]:
    """The arguments behind 'On a laptop, add:' in an experiment's docstring."""
    found = re.search(r'On a laptop, add:\n\n((?: {4}.*\n)+)', docstring)
    return shlex.split(found.group(1).replace('\\\n', ' ')) if found else []


def measure(experiment: str) -> dict[str, Any]:
    """Seconds of each part of the first step, in this process, and of a later one."""
    import jax

    from benchmarks import made
    from ebm_jax import cost
    from ebm_jax.compiling import compile_quickly_on_cpu
    from ebm_jax.sharding import shard_batch, shard_state
    from ebm_jax.train import init_state, make_train_step, trace_step
    from experiments.common import runs
    from experiments.common.cores import use_all_cores

    compile_quickly_on_cpu()  # as an experiment does
    module, config = made.configured(experiment, [])
    settings = laptop_settings(module.__doc__ or '')
    module, config = made.configured(experiment, settings)
    use_all_cores(config)
    recipe = runs.build(module, config, made.datasets(experiment)).recipe
    devices, clock = jax.devices(), [time.perf_counter()]

    def lap():
        clock.append(time.perf_counter())
        return clock[-1] - clock[-2]

    state = shard_state(jax.block_until_ready(init_state(jax.random.key(0), recipe)), devices)
    found: dict[str, Any] = {'experiment': experiment, 'settings': settings, 'init': lap()}
    traced = trace_step(recipe.at(0), len(devices), watch_every=config.log_every)
    found['trace'] = lap()
    step = make_train_step(recipe, devices=devices, traced=traced)
    batch = shard_batch(recipe.batch_at(0), devices)
    state, metrics = jax.block_until_ready(step(state, batch))
    found['first_step'], seconds = lap(), []
    for _ in range(7):
        state, metrics = jax.block_until_ready(step(state, batch))
        seconds.append(lap())
    return found | {
        'step': statistics.median(seconds),
        'operations': cost.num_operations(traced.program),
        'devices': len(devices),
        'jax': jax.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--experiments', default=','.join(EXPERIMENTS))
    parser.add_argument('--root', default='.', help='a clone')
    parser.add_argument('--out', help='a .jsonl file that gets a line for each')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args.worker)))
        return
    print(f'{"":>24}{"init":>8}{"trace":>8}{"first step":>12}{"a step":>9}{"operations":>12}')
    for experiment in args.experiments.split(','):
        ran = subprocess.run(
            [sys.executable, '-m', 'benchmarks.compile_time', f'--worker={experiment}'],
            cwd=args.root,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, 'JAX_ENABLE_COMPILATION_CACHE': 'false', 'PYTHONPATH': '.'},
        )
        found = json.loads(ran.stdout.splitlines()[-1])
        print(
            f'{experiment:>24}{found["init"]:>8.1f}{found["trace"]:>8.1f}'
            f'{found["first_step"]:>12.1f}{found["step"]:>9.3f}{found["operations"]:>12}',
            flush=True,
        )
        if args.out:
            with open(args.out, 'a') as file:
                file.write(json.dumps(found) + '\n')


if __name__ == '__main__':
    main()
