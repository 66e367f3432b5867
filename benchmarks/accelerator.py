"""What ebm_jax reaches on one GPU or TPU, in minutes.

    python -m benchmarks.accelerator --out=runs/accelerator [--minutes=9] [--torch=python]

In order of importance, each part in a process of its own and written to OUT/accelerator.json as
soon as it is done, so that an early end loses nothing:

  a. rate: matrix products (bfloat16, float32) and copies: the ceilings of this very card
  b. chain: a Langevin step of WRN-28-10 for 16, 64, 256 chains, float32 and bfloat16, unrolled by
     1, 2, 5, with and without command buffers (GPU)
  c. step: the whole train step of cifar10_jem, cifar10_st_jem, cifar10_icd, cifar10_dual_mcmc
  d. torch: the same chain in PyTorch, where it is installed, and ours, in turn
  e. data: whether a step waits for its batch

It ends with a table for docs/results.md. On a CPU the same parts run with small networks. The data
are made; it needs JAX, flax, optax, orbax, chex and absl, and dm-pix for cifar10_icd.
"""

import argparse
import functools
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks import turns

STEPS = 10  # of a chain that is timed
ROUNDS = 5  # of ours and PyTorch's in turn
SHORTEST = 5  # seconds that a part is worth starting for
CHAIN_STEP, CHAIN_NOISE = 0.01, 0.01
EXPERIMENTS = ('cifar10_jem', 'cifar10_st_jem', 'cifar10_icd', 'cifar10_dual_mcmc')
SMALL = {  # settings of the experiments on a CPU
    'cifar10_icd': {
        'network.width': 8,
        'network.stages': (1, 2),
        'network.scales': 1,
        'network.attention_after': 0,
        'sampler.num_steps': 2,
        'batch_size': 8,
        'loss.num_negatives': 8,
        'loss.kl_chains': 8,
    },
    'cifar10_dual_mcmc': {
        'batch_size': 8,
        'loss.num_negatives': 8,
        'x_chain.num_steps': 2,
        'z_chain.num_steps': 2,
        'network.energy_widths': (8, 8, 8, 8),
        'network.generator_widths': (8, 8, 8, 8),
        'network.inference_widths': (8, 8, 8, 8),
    },
    'cifar10_jem': {
        'network.depth': 10,
        'network.width': 1,
        'sampler.num_steps': 2,
        'batch_size': 8,
        'loss.num_negatives': 8,
    },
}
SMALL['cifar10_st_jem'] = SMALL['cifar10_jem']


def cases(small: bool, gpu: bool) -> list[tuple[str, dict[str, Any], str]]:
    """[(part, its arguments, XLA flags)] in order of importance."""
    chains, buffers = (8,) if small else (64, 16, 256), ('',)
    if gpu:
        buffers = ('', '--xla_gpu_enable_command_buffer=')
    found: list[tuple[str, dict[str, Any], str]] = [('rate', {}, '')]
    best = {'chains': chains[0], 'dtype': 'bfloat16', 'unroll': 1}
    found += [('chain', best, '')]
    found += [('step', {'experiment': name}, '') for name in EXPERIMENTS]
    found += [('torch', {'chains': chains[0]}, ''), ('data', {}, '')]
    rest = itertools.product(chains, ('bfloat16', 'float32'), (1, 2, 5), buffers)
    found += [
        ('chain', {'chains': n, 'dtype': dtype, 'unroll': unroll}, flags)
        for n, dtype, unroll, flags in rest
        if (unroll == 1 or n == chains[0])
        and ({'chains': n, 'dtype': dtype, 'unroll': unroll}, flags) != (best, '')
    ]
    return found


def timed(run: Any, repeats: int = 5) -> dict[str, float]:
    """{'seconds': median of a call, 'first': seconds of the first one, which compiles}.

    run: () -> arrays.
    """
    import jax

    first, *later = (
        turns.seconds(lambda: jax.block_until_ready(run())) for _ in range(1 + repeats)
    )
    return {'seconds': statistics.median(later), 'first': first}


def rate() -> dict[str, Any]:
    """Part a."""
    import jax
    import jax.numpy as jnp

    from ebm_jax import cost

    device = jax.devices()[0]
    x = jnp.ones((2**26 if device.platform == 'cpu' else 2**29,), jnp.float32)
    copied = timed(lambda copy=jax.jit(lambda x: x + 1): copy(x))['seconds']
    return {
        'device': device.device_kind,
        'jax': jax.__version__,
        'bfloat16_tflops': cost.matmul_rate(dtype=jnp.bfloat16) / 1e12,
        'float32_tflops': cost.matmul_rate(dtype=jnp.float32) / 1e12,
        'copy_gb_per_second': 2 * x.nbytes / copied / 1e9,
    }


def built_chain(small: bool, chains: int, dtype: str, unroll: int) -> dict[str, Any]:
    """{'run': () -> positions, 'flops': of a run, 'arrays': () -> weights, positions, energies}."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax.traverse_util import flatten_dict

    from ebm_jax import cost, mcmc, objectives
    from ebm_jax.networks import WideResNet, per_example

    depth, width = (10, 1) if small else (28, 10)
    network = per_example(WideResNet(10, depth, width, getattr(jnp, dtype)))
    x = jax.random.normal(jax.random.key(1), (chains, 32, 32, 3))
    params = jax.jit(network.init)(jax.random.key(0), x[0])
    kernel = mcmc.langevin(CHAIN_STEP, noise_scale=CHAIN_NOISE)

    def energy(params, x):
        return objectives.marginal_energy(network.apply(params, x))

    def one(params, key, x):
        def block(state, first):
            for t in range(unroll):
                state, _ = mcmc.advance(
                    key, kernel, lambda u: energy(params, u), state, 1, first=first + t
                )
            return state, None

        start = kernel.init(x, lambda u: energy(params, u))
        return jax.lax.scan(block, start, jnp.arange(0, STEPS, unroll))[0].position

    run = jax.jit(jax.vmap(one, (None, 0, 0)))
    keys = jax.random.split(jax.random.key(2), chains)

    def arrays():
        energies = jax.jit(jax.vmap(energy, (None, 0)))(params, x)
        weights = flatten_dict(params, sep='/')
        return jax.tree.map(np.asarray, {'energy': energies, 'x': x, **weights})

    return {
        'run': lambda: run(params, keys, x),
        'flops': cost.count_flops(jax.vmap(one, (None, 0, 0)), params, keys, x),
        'arrays': arrays,
    }


def chain(small: bool, chains: int, dtype: str, unroll: int) -> dict[str, Any]:
    """Part b."""
    built = built_chain(small, chains, dtype, unroll)
    found = timed(built['run'])
    return {
        'ms_per_step': found['seconds'] / STEPS * 1e3,
        'tflops': built['flops'] / found['seconds'] / 1e12,
        'compile_seconds': found['first'] - found['seconds'],
    }


def torch_chain(out: pathlib.Path, small: bool, chains: int, python: str) -> dict[str, Any]:
    """Part d: ms per step, and the median ratios of rounds in which each had its turn (above 1,
    ours is faster)."""
    import jax
    import numpy as np

    built = built_chain(small, chains, 'bfloat16', 1)
    np.savez(out / 'weights.npz', **built['arrays']())
    command = [python, '-m', 'benchmarks.accelerator', f'--out={out}', '--worker=torch_worker']
    theirs = turns.Worker([*command, f'--arguments={json.dumps({"small": small})}'])

    def ours():
        return turns.seconds(lambda: jax.block_until_ready(built['run']()))

    try:
        variants = {name: functools.partial(theirs.time, name) for name in theirs.variants}
        rounds = turns.in_turn({'ebm_jax, bfloat16': ours, **variants}, ROUNDS)
    finally:
        theirs.close()
    medians = {
        name: statistics.median(each[name] for each in rounds) / STEPS * 1e3 for name in rounds[0]
    }
    ratios = {f'{name} / ours': turns.ratio(rounds, name, 'ebm_jax, bfloat16') for name in variants}
    return {'torch': theirs.version, **medians, **ratios, 'best ratio': min(ratios.values())}


def torch_worker(out: pathlib.Path, small: bool) -> None:
    """The PyTorch half of part d, in a Python that has torch."""
    import numpy as np
    import torch

    from benchmarks.torch_net import Net
    from benchmarks.torch_net import chain as run_chain

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    arrays = dict(np.load(out / 'weights.npz'))
    x = torch.from_numpy(arrays.pop('x').transpose(0, 3, 1, 2).copy()).to(device)
    expected, source = arrays.pop('energy'), f'WideResNet(10, {10 if small else 28})'
    net = Net(source, arrays).to(device)
    np.testing.assert_allclose(net(x).cpu().numpy(), expected, rtol=3e-2, atol=3e-2)
    last = Net(source, arrays).to(device, memory_format=torch.channels_last)
    x_last = x.to(memory_format=torch.channels_last)

    def in_bfloat16(net):
        def energy(x):
            with torch.autocast(device, torch.bfloat16):
                return net(x)

        return energy

    compiled = torch.compile(in_bfloat16(last))
    graphed = torch.compile(in_bfloat16(last), mode='reduce-overhead')  # CUDA graphs
    variants = {
        'eager': (net, x),
        'channels last': (last, x_last),
        'bfloat16': (in_bfloat16(last), x_last),
        'bfloat16, compiled': (compiled, x_last),
    }
    if device == 'cuda':
        variants['bfloat16, CUDA graph'] = (graphed, x_last)

    def run(name):
        energy, start = variants[name]
        run_chain(energy, STEPS, start, CHAIN_STEP, CHAIN_NOISE)
        if device == 'cuda':
            torch.cuda.synchronize()

    turns.serve(run, torch.__version__, list(variants))


def built(experiment: str, small: bool) -> Any:
    """The experiment on made data, small on a CPU."""
    import importlib

    from benchmarks import made
    from experiments.common import runs, settings

    module = importlib.import_module(f'experiments.{experiment}')
    config = module.get_config()
    settings.update(config, SMALL[experiment] if small else {})
    return runs.build(module, config, made.datasets(experiment))


def prepared_step(experiment: str, small: bool) -> Any:
    """(step: () -> metrics, which goes on from step to step; recipe, devices)."""
    import jax

    from ebm_jax.sharding import shard_batch, shard_state
    from ebm_jax.train import init_state, make_train_step

    recipe, devices = built(experiment, small).recipe, jax.devices()[:1]
    state = shard_state(init_state(jax.random.key(0), recipe), devices)
    train_step = make_train_step(recipe, devices=devices, watch_every=50)
    batch, current = shard_batch(recipe.batch_at(0), devices), [state]

    def step(batch=batch):
        current[0], metrics = train_step(current[0], batch)
        return metrics

    return step, recipe, devices


def step(small: bool, experiment: str) -> dict[str, Any]:
    """Part c."""
    from ebm_jax import cost
    from ebm_jax.train import trace_step

    run, recipe, devices = prepared_step(experiment, small)
    found = timed(run)
    flops = cost.flops_of(trace_step(recipe, 1).program)
    memory = devices[0].memory_stats() or {}
    return {
        'ms': found['seconds'] * 1e3,
        'tflop': flops / 1e12,
        'tflops': flops / found['seconds'] / 1e12,
        'compile_seconds': found['first'] - found['seconds'],
        'peak_gb': memory.get('peak_bytes_in_use', 0) / 1e9 or None,
    }


def data(small: bool) -> dict[str, Any]:
    """Part e: a step on one batch that stays on the device, and on new ones made ahead."""
    import jax

    from ebm_jax.prefetch import prefetched
    from ebm_jax.sharding import shard_batch

    run, recipe, devices = prepared_step('cifar10_jem', small)
    resident, n = timed(run)['seconds'], 10
    batches = prefetched(lambda i: shard_batch(recipe.batch_at(i), devices), range(n))
    begin = time.perf_counter()
    for batch in batches:
        metrics = run(batch)
    jax.block_until_ready(metrics)
    fresh = (time.perf_counter() - begin) / n
    return {'resident_ms': resident * 1e3, 'fresh_ms': fresh * 1e3, 'ratio': fresh / resident}


def worker(part: str, out: pathlib.Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run one part in this process."""
    if part == 'torch':
        return torch_chain(out, **arguments)
    if part == 'rate':
        return rate()
    return {'chain': chain, 'step': step, 'data': data}[part](**arguments)


def table(found: list[dict[str, Any]]) -> str:
    """Markdown, for docs/results.md."""
    rates = next((row['result'] for row in found if row['part'] == 'rate' and row['result']), {})
    ceiling = rates.get('bfloat16_tflops')
    rows = [
        '| part | ms | TFLOP/s | of the bfloat16 rate | compile s | |',
        '|---|---|---|---|---|---|',
    ]
    for row in found:
        result = row['result']
        name = ' '.join([row['part'], *map(str, row['arguments'].values()), row['flags']]).strip()
        if result is None:
            rows.append(f'| {name} | {row["problem"]} | | | | |')
            continue
        ms, tflops = result.get('ms_per_step', result.get('ms')), result.get('tflops')
        share = f'{tflops / ceiling:.0%}' if tflops and ceiling else ''
        known = {'ms_per_step', 'ms', 'tflops', 'compile_seconds'}
        rest = ', '.join(
            f'{key} {value:.4g}' if isinstance(value, float) else f'{key} {value}'
            for key, value in result.items()
            if key not in known and value is not None
        )
        cells = [
            name,
            f'{ms:.3g}' if ms else '',
            f'{tflops:.3g}' if tflops else '',
            share,
            f'{result["compile_seconds"]:.0f}' if 'compile_seconds' in result else '',
            rest,
        ]
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows)


def run_all(out: pathlib.Path, minutes: float, torch: str | None) -> list[dict[str, Any]]:
    """All parts that fit into the time; see the top of the file."""
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    probe = subprocess.run(
        [sys.executable, '-c', 'import jax; print(jax.devices()[0].platform)'],
        capture_output=True,
        text=True,
        check=True,
    )
    platform = probe.stdout.split()[-1]
    small, found = platform == 'cpu', []
    for part, arguments, flags in cases(small, platform == 'gpu'):
        left = end - time.monotonic()
        result, problem = None, 'no time left'
        if left > SHORTEST:
            own = {} if part == 'rate' else {'small': small, **arguments}
            if part == 'torch':
                own['python'] = torch or sys.executable
            print(f'{part} {arguments} {flags} ({left:.0f} s left)', flush=True)
            command = [sys.executable, '-m', 'benchmarks.accelerator', f'--out={out}']
            environment = {
                **os.environ,
                'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {flags}'.strip(),
                'PYTHONPATH': os.getcwd(),
            }
            if part == 'torch':  # which shares the card with PyTorch
                environment['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
            try:
                ran = subprocess.run(
                    [*command, f'--worker={part}', f'--arguments={json.dumps(own)}'],
                    capture_output=True,
                    text=True,
                    env=environment,
                    timeout=left,
                )
                lines = (ran.stdout if ran.returncode == 0 else ran.stderr).strip().splitlines()
                last = lines[-1] if lines else f'exit code {ran.returncode}'
                result, problem = (json.loads(last), '') if ran.returncode == 0 else (None, last)
            except subprocess.TimeoutExpired:
                problem = 'no time left'
        row = {'part': part, 'arguments': arguments, 'flags': flags}
        found.append({**row, 'result': result, 'problem': problem})
        beside = out / 'accelerator.json.part'
        beside.write_text(json.dumps(found, indent=1))
        beside.replace(out / 'accelerator.json')
        (out / 'table.md').write_text(table(found) + '\n')
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=pathlib.Path, required=True, help='folder of the results')
    parser.add_argument('--minutes', type=float, default=9, help='when to stop')
    parser.add_argument('--torch', help='a Python with torch; default: this one')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    parser.add_argument('--arguments', type=json.loads, default={}, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker == 'torch_worker':
        torch_worker(args.out, **args.arguments)
        return
    if args.worker:
        print(json.dumps(worker(args.worker, args.out, args.arguments)))
        return
    print(table(run_all(args.out, args.minutes, args.torch)))


if __name__ == '__main__':
    main()
