"""What a training step costs on n devices: work counted from the program, bytes sent from the
shapes, times from rates that you give.

    python -m benchmarks.scaling --experiment=cifar10_st_jem --rate=2e14 --bandwidth=50e9 \\
        [--latency=5e-6] [--config.KEY=VALUE]

Every device keeps the experiment's batch and chains (weak scaling), so n devices train on n times
as many. The data are made. Calculation:

    compute       FLOPs of a step / rate
    all-reduce    of the gradients, by a ring,
                  2 (n - 1) / n * bytes / bandwidth + 2 (n - 1) * latency,
                  or by a tree where that is less, 2 bytes / bandwidth + 2 log2(n) latency
    gathers       of what couples the batch (energies, labels), n times a device's share

rate: FLOP/s that one device reaches; without it a matrix product is measured here and 40 % of its
rate assumed. bandwidth: bytes/s that a device sends, latency: s of one hop, both of the slowest
link between the devices.
"""

import argparse
import math

import numpy as np

from benchmarks import made
from ebm_jax import cost
from ebm_jax.train import make_local_step, state_shapes


def step_seconds(n, seconds, gradient_bytes, gathered_bytes, bandwidth, latency):
    """(all of a step, what the devices wait for each other) on n devices."""
    if n == 1:
        return seconds, 0.0
    ring = 2 * (n - 1) / n * gradient_bytes / bandwidth + 2 * (n - 1) * latency
    tree = 2 * gradient_bytes / bandwidth + 2 * math.log2(n) * latency
    wait = min(ring, tree) + n * gathered_bytes / bandwidth
    return seconds + wait, wait


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--experiment', default='cifar10_st_jem')
    parser.add_argument('--rate', type=float)
    parser.add_argument('--bandwidth', type=float, default=50e9)
    parser.add_argument('--latency', type=float, default=5e-6)
    options, settings = parser.parse_known_args()
    _, experiment = made.built(options.experiment, settings)
    recipe = experiment.recipe
    state, batch = state_shapes(recipe), recipe.batch_at(0)
    flops = cost.count_flops(make_local_step(recipe), state, batch)
    rate = options.rate or cost.EFFICIENCY * cost.matmul_rate()
    gradient = cost.num_bytes(state.params)
    chains = experiment.chains.num if experiment.chains else 0
    rows = len(batch['x']) + chains
    numbers = experiment.train.num_classes if experiment.model.class_conditional else 1
    gathered = 4 * rows * numbers
    origin = 'given' if options.rate else 'measured here'
    print(
        f'{options.experiment}: {flops / 1e12:.3g} TFLOP a step and device at {rate / 1e12:.3g}'
        f' TFLOP/s ({origin}), gradients {gradient / 1e6:.1f} MB, gathered {gathered / 1e3:.1f} kB;'
        f' {options.bandwidth / 1e9:g} GB/s, {options.latency * 1e6:g} us'
    )
    print(f'{"devices":>8}{"examples":>10}{"s/step":>10}{"waiting":>10}{"efficiency":>12}')
    for n in 2 ** np.arange(0, 13, 2):
        seconds, wait = step_seconds(
            int(n), flops / rate, gradient, gathered, options.bandwidth, options.latency
        )
        examples, efficiency = n * len(batch['x']), flops / rate / seconds
        print(f'{n:>8,}{examples:>10,}{seconds:>10.4g}{wait:>10.2g}{efficiency:>12.1%}')


if __name__ == '__main__':
    main()
