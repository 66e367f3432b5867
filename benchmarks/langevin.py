"""Langevin steps per second: ebm_jax against PyTorch with the same network, weights, batch and
number of steps.

    python -m venv /tmp/torch
    /tmp/torch/bin/pip install torch==2.13.0 torchebm==0.8.9 numpy  # the CPU build of torch
    python -m benchmarks.langevin --torch=/tmp/torch/bin/python [--rounds=7] \\
        [--cases=digits,mnist,...]

Two processes stay alive and alternate (A B A B ...), so that both see the machine in the same
state. It prints the median milliseconds per Langevin step of all chains and the median of the
paired ratios, time of PyTorch / time of ebm_jax: above 1 we are faster. Their energies at the
initial positions are compared first. The JAX variants: as shipped (scan, several host devices),
scan on one device, fully unrolled on one device (which scan must not lose against), and the scan on
one device with XLA's own convolution gradient in place of ours.
"""

import argparse
import os
import statistics
import sys
import tempfile
from functools import partial

import numpy as np

from benchmarks import turns

CASES = {  # name: (module, image shape, chains, steps of each chain)
    'digits': ('ConvNet(10)', (8, 8, 1), 64, 20),
    'mnist': ('ConvNet(10, (32, 64, 128, 128), (2, 1, 2, 2))', (28, 28, 1), 64, 10),
    'residual 32x32': ('WideResNet(10, depth=10, width=4)', (32, 32, 3), 16, 5),
    'narrow WRN': ('WideResNet(10, depth=28, width=1)', (32, 32, 3), 16, 5),
}
JAX_VARIANTS = ('shipped', 'one device', 'unrolled', "XLA's gradient")
TORCH_VARIANTS = ('eager', 'channels last', 'compiled', 'torchebm')
STEP, NOISE = 0.01, 0.01


def jax_worker(folder):
    """Answers each [case, variant] on standard input with the seconds that one run of the chains
    took."""
    import flax.linen as nn
    import jax
    from flax.traverse_util import flatten_dict

    cores = len(os.sched_getaffinity(0))
    jax.config.update('jax_num_cpu_devices', cores)
    from ebm_jax import mcmc, networks, objectives
    from ebm_jax.networks import classifiers

    devices = jax.devices()
    runs = {}

    def with_xlas_gradient(scanned, *args):  # while it is traced
        ours, classifiers.Conv = classifiers.Conv, nn.Conv
        try:
            return scanned(*args)
        finally:
            classifiers.Conv = ours

    kernel = mcmc.langevin(STEP, noise_scale=NOISE)
    for case, (source, shape, chains, steps) in CASES.items():
        network = networks.per_example(eval(source, vars(networks)))
        x = jax.random.normal(jax.random.key(1), (chains, *shape))
        params = network.init(jax.random.key(0), x[0])

        def energy(params, x, network=network):
            return objectives.marginal_energy(network.apply(params, x))

        np.savez(
            f'{folder}/{case}.npz',
            x=x,
            energy=jax.vmap(energy, (None, 0))(params, x),
            **flatten_dict(params, sep='/'),
        )
        keys = jax.random.split(jax.random.key(2), chains)

        def scanned(params, keys, x, energy=energy, steps=steps):
            return mcmc.run_chains(keys, kernel, lambda u: energy(params, u), x, steps)[0]

        def unrolled(params, keys, x, energy=energy, steps=steps):
            def one(key, x):
                state = kernel.init(x, None)
                for t in range(steps):
                    state, _ = kernel.step(
                        jax.random.fold_in(key, t), state, lambda u: energy(params, u)
                    )
                return state.position

            return jax.vmap(one)(keys, x)

        def split(leaf):
            return leaf.reshape(cores, -1, *leaf.shape[1:])

        runs[case, 'shipped'] = (
            jax.pmap(scanned, in_axes=(None, 0, 0), devices=devices),
            params,
            split(keys),
            split(x),
        )
        runs[case, 'one device'] = (jax.jit(scanned), params, keys, x)
        runs[case, 'unrolled'] = (jax.jit(unrolled), params, keys, x)
        runs[case, "XLA's gradient"] = (
            jax.jit(lambda *args, scanned=scanned: with_xlas_gradient(scanned, *args)),
            params,
            keys,
            x,
        )
    turns.serve(
        lambda case, variant: jax.block_until_ready(
            runs[case, variant][0](*runs[case, variant][1:])
        ),
        jax.__version__,
    )


def torch_worker(folder):
    import torch
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    from benchmarks.torch_net import Net, chain

    torch.manual_seed(0)

    class Model(BaseModel):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x, **kwargs):
            return self.net(x)

    runs = {}

    for case, (source, _, _, steps) in CASES.items():
        arrays = dict(np.load(f'{folder}/{case}.npz'))
        x = torch.from_numpy(arrays.pop('x').transpose(0, 3, 1, 2).copy())
        expected = arrays.pop('energy')
        net, last = Net(source, arrays), Net(source, arrays).to(memory_format=torch.channels_last)
        np.testing.assert_allclose(net(x).numpy(), expected, rtol=1e-3, atol=1e-3)
        x_last = x.to(memory_format=torch.channels_last)
        compiled = torch.compile(last)
        sampler = LangevinDynamics(Model(net), step_size=STEP, noise_scale=NOISE)
        runs[case, 'eager'] = lambda net=net, steps=steps, x=x: chain(net, steps, x, STEP, NOISE)
        runs[case, 'channels last'] = lambda net=last, steps=steps, x=x_last: chain(
            net, steps, x, STEP, NOISE
        )
        runs[case, 'compiled'] = lambda net=compiled, steps=steps, x=x_last: chain(
            net, steps, x, STEP, NOISE
        )
        runs[case, 'torchebm'] = lambda sampler=sampler, steps=steps, x=x: sampler.sample(
            x=x, n_steps=steps
        )
    turns.serve(lambda case, variant: runs[case, variant](), torch.__version__)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--torch', help='a Python with torch and torchebm')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--cases', default=','.join(CASES))
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    parser.add_argument('--folder', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not (args.torch or args.worker):
        parser.error('give --torch=PYTHON, one with torch and torchebm')
    for case in set(CASES) - set(args.cases.split(',')):
        del CASES[case]
    if args.worker:
        return {'jax': jax_worker, 'torch': torch_worker}[args.worker](args.folder)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, 'PYTHONPATH': os.getcwd()}
        try:
            ours, theirs = (
                turns.Worker(
                    [python, __file__, f'--worker={kind}', f'--folder={folder}']
                    + [f'--cases={args.cases}'],
                    environment,
                )
                for python, kind in ((sys.executable, 'jax'), (args.torch, 'torch'))
            )
        except RuntimeError as error:
            sys.exit(f'a worker did not start: {error}')
        print(
            f'JAX {ours.version}, PyTorch {theirs.version}, {len(os.sched_getaffinity(0))} cores,'
            f' {args.rounds} rounds; ms per step of all chains, ratio = time / time of ebm_jax as'
            ' shipped (median of paired ratios)'
        )
        for case, (_, _, chains, steps) in CASES.items():
            variants = {
                name: partial(worker.time, case, name)
                for worker, names in ((ours, JAX_VARIANTS), (theirs, TORCH_VARIANTS))
                for name in names
            }
            rounds = turns.in_turn(variants, args.rounds)
            print(f'\n{case} ({chains} chains)')
            for name in variants:
                ms = statistics.median(each[name] for each in rounds) / steps * 1e3
                ratio = turns.ratio(rounds, name, 'shipped')
                print(f'  {name:<14}{ms:>9.2f} ms{ratio:>8.2f}', flush=True)
            print(
                '  scan / unrolled on one device:'
                f' {turns.ratio(rounds, "one device", "unrolled"):.2f}',
                flush=True,
            )


if __name__ == '__main__':
    main()
