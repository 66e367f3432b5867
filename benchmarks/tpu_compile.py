"""The train step of an experiment, compiled for a TPU on a machine without one.

    pip install -e '.[tpu-compile]'
    python -m benchmarks.tpu_compile --experiment=cifar10_jem --topology=v5e:2x2 \\
        [--config.network.bfloat16=true ...]

It prints floating-point operations and bytes of the step, its memory, how long it took to compile,
what is wrong with the program (`faults`), and the roofline: the time below which no chip of a kind
can make the step. The data are made; nothing runs on a TPU.
"""

import argparse
import json
import math
import os
import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

# libtpu asks the cloud's metadata server where it runs, unless it is told
ENVIRONMENT = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
if __name__ == '__main__':
    os.environ.update(ENVIRONMENT, JAX_PLATFORMS='cpu')

import jax  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec  # noqa: E402

from benchmarks import made  # noqa: E402
from ebm_jax import cost  # noqa: E402
from ebm_jax.compiling import TPU_EFFORT  # noqa: E402
from ebm_jax.devices import AXIS  # noqa: E402
from ebm_jax.errors import InputError  # noqa: E402
from ebm_jax.train import (  # noqa: E402
    GRADIENT,
    Recipe,
    Traced,
    make_train_step,
    state_shapes,
    trace_step,
)

HOST_BOUNDS = {'1x1': [1, 1, 1], '2x2': [2, 2, 1], '2x4': [2, 4, 1]}
COPIES = 0.1  # largest share of a chain's bytes that may be copies and transposes


class Chip(NamedTuple):
    """Peak rates of a chip, from its maker's data sheet."""

    flops: float  # of bfloat16 matrix products, per second
    bandwidth: float  # of its memory, bytes per second
    memory: float  # bytes


CHIPS = {
    # cloud.google.com/tpu/docs/v5e and .../v6e, "System architecture"
    'v5e': Chip(197e12, 819e9, 16e9),
    'v6e': Chip(918e12, 1640e9, 32e9),
    # NVIDIA H200 Tensor Core GPU data sheet, SXM, without sparsity
    'H200': Chip(989e12, 4.8e12, 141e9),
}


class Compiled(NamedTuple):
    """A train step, compiled."""

    text: str  # the optimised program
    peak_bytes: int  # memory of one chip: arguments, results and temporaries
    state_bytes: int  # of the training state on one chip
    aliased: int  # leaves of the state whose memory the new state takes over
    leaves: int  # leaves of the state
    compile_seconds: float
    estimated_seconds: float  # of a run, by the compiler; the body of a loop is counted once


def tpu_devices(topology: str) -> list[jax.Device]:
    """Devices of a TPU slice that is not there.

    Args: topology: as 'v5e:2x2'. Raises: InputError for an unknown one.
    """
    kind, _, bounds_name = topology.partition(':')
    if kind not in ('v5e', 'v6e') or bounds_name not in HOST_BOUNDS:
        raise InputError(
            f'unknown topology {topology!r}: give v5e or v6e, a colon, and one of '
            f'{", ".join(HOST_BOUNDS)}'
        )
    bounds = HOST_BOUNDS[bounds_name]
    description = topologies.get_topology_desc(
        platform='tpu', topology_name=topology, chips_per_host_bounds=bounds
    )
    return list(description.devices)


def compiled_step(
    recipe: Recipe, devices: Sequence[jax.Device], traced: Traced, effort: float = 0.0
) -> Compiled:
    """The recipe's train step, compiled for devices of one host.

    Args: traced: for as many devices. effort: of the compiler, in [-1, 1], as
      jax_exec_time_optimization_effort.
    """
    n, mesh = len(devices), Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (AXIS,)))

    def equal(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)

    def shared(leaf):
        shape = (n, leaf.shape[0] // n, *leaf.shape[1:])
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=split)

    shapes = state_shapes(recipe)
    state = jax.tree.map(equal, shapes.replace(chains=()))
    state = state.replace(chains=jax.tree.map(shared, shapes.chains))
    step = make_train_step(recipe, devices=devices, traced=traced)
    lowered = step.lower(state, jax.tree.map(shared, recipe.batch_at(0)))  # type: ignore[attr-defined]
    begin = time.perf_counter()
    program = lowered.compile(compiler_options={'exec_time_optimization_effort': effort})
    end = time.perf_counter()
    text, memory = program.as_text(), program.memory_analysis()
    chains = cost.num_bytes(shapes.chains) // n
    return Compiled(
        text=text,
        peak_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        state_bytes=cost.num_bytes(shapes.replace(chains=())) + chains,
        aliased=len(aliased_arguments(text) & set(range(len(jax.tree.leaves(state))))),
        leaves=len(jax.tree.leaves(state)),
        compile_seconds=end - begin,
        estimated_seconds=program.cost_analysis().get('optimal_seconds', math.nan),
    )


def aliased_arguments(text: str) -> set[int]:
    """Numbers of the arguments whose memory a result takes over."""
    header = text.partition('\n')[0]
    aliases = re.search(r'input_output_alias={(.*?)}, \w+=', header)
    return {int(n) for n in re.findall(r'\((\d+), {}', aliases.group(1))} if aliases else set()


def faults(step: Compiled, chips: int, memory: float) -> list[str]:
    """What is wrong with a compiled train step, a sentence each; [] where nothing is.

    Args: chips: how many it was compiled for. memory: of a chip, in bytes.
    """
    found, computations = [], computations_of(step.text)
    if step.peak_bytes > memory:
        found.append(f'it needs {step.peak_bytes / 1e9:.2f} GB of {memory / 1e9:.0f} GB')
    if step.aliased < step.leaves:
        found.append(f'{step.leaves - step.aliased} of {step.leaves} leaves are not donated')
    grouped = re.findall(r'(?:feature|batch)_group_count=(?:[2-9]|1\d)\d*', step.text)
    if grouped:
        found.append(f'{len(grouped)} grouped convolutions ({grouped[0]})')
    reductions = re.findall(r' all-reduce(?:-start)?\(', step.text)
    if bool(reductions) != (chips > 1):
        found.append(f'{len(reductions)} all-reduces on {chips} chips')
    bodies = loops(computations)
    for name, origin in bodies.items():
        if re.search(r'gather|scatter', origin):
            found.append(f'a loop made of {origin}')
        if GRADIENT in origin:  # the loop over the terms of the loss, which is no chain
            continue
        # the compiler may overlap what comes before or after the loop with its steps
        inside = [line for line in reachable(computations, name) if '/while/body/' in line]
        communicates = re.search(r' all-(?:reduce|gather)(?:-start)?\(', '\n'.join(inside))
        if communicates:
            found.append(f'communication within the loop {origin}')
        share = copied_share(computations, name)
        if share > COPIES:
            found.append(f'copies and transposes are {share:.0%} of the bytes of {origin}')
    return found


def computations_of(text: str) -> dict[str, list[str]]:
    """{name of a computation: its instructions} of an HLO module."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        header = re.match(r'(?:ENTRY )?%([\w.\-]+) \(.*\{$', line)
        if header:
            instructions = found.setdefault(header.group(1), [])
        elif line.startswith('  '):
            instructions.append(line.strip())
    return found


def loops(computations: dict[str, list[str]]) -> dict[str, str]:
    """{computation of a loop's body: the operation that it came from}."""
    found = {}
    for line in (line for lines in computations.values() for line in lines):
        body = re.search(r' while\(.*body=%([\w.\-]+)', line)
        if body:
            origin = re.search(r'op_name="([^"]*)"', line)
            found[body.group(1)] = origin.group(1) if origin else 'no operation of ours'
    return found


def reachable(computations: dict[str, list[str]], name: str) -> list[str]:
    """The instructions of a computation and of all that it calls."""
    lines, called = list(computations[name]), [name]
    for line in lines:  # grows while it is read
        for other in re.findall(r'%([\w.\-]+)', line):
            if other in computations and other not in called:
                called.append(other)
                lines += computations[other]
    return lines


def copied_share(computations: dict[str, list[str]], name: str) -> float:
    """Share of the bytes written in a computation that are only moved: copies, transposes, and
    fusions of nothing else."""
    moved, written = 0, 0
    for line in computations[name]:
        match = re.match(r'(?:ROOT )?%[\w.\-]+ = (.*?) ([a-z][\w\-]*)\(', line)
        if match is None or match.group(2) in ('parameter', 'tuple', 'get-tuple-element', 'while'):
            continue
        size = _bytes(match.group(1))
        fused = re.search(r'calls=%([\w.\-]+)', line)
        inner = computations[fused.group(1)] if fused else [line]
        operations = {_operation(one) for one in inner} - {'parameter', 'bitcast', 'reshape'}
        written += size
        moved += size if operations and operations <= {'copy', 'transpose'} else 0
    return moved / max(written, 1)


def _operation(line):
    match = re.match(r'(?:ROOT )?%[\w.\-]+ = .*? ([a-z][\w\-]*)\(', line)
    return match.group(1) if match else ''


def _bytes(shape):
    """Bytes of all arrays in the text of an HLO shape."""
    return sum(
        math.prod(int(n) for n in dims.split(',') if n) * int(bits) // 8
        for bits, dims in re.findall(r'(?:f|bf|s|u)(\d+)\[([\d,]*)\]', shape)
    )


def roofline(flops: float, moved: float, chip: Chip, chips: int) -> tuple[float, str]:
    """(seconds below which the step cannot be, 'compute' or 'memory': which of them bounds it)."""
    compute, memory = flops / chips / chip.flops, moved / chips / chip.bandwidth
    return max((compute, 'compute'), (memory, 'memory'))


def report(experiment: str, topology: str, settings: list[str], effort: float) -> dict[str, Any]:
    """Compile, and everything that is to be said about the step."""
    devices = tpu_devices(topology)
    config, built = made.built(experiment, settings)
    recipe = built.recipe
    kind, n = topology.partition(':')[0], len(devices)
    begin = time.perf_counter()
    traced = trace_step(recipe, n, watch_every=config.log_every)
    trace_seconds = time.perf_counter() - begin
    flops, moved = cost.flops_of(traced.program) * n, cost.traffic_of(traced.program) * n
    step = compiled_step(recipe, devices, traced, effort)
    bounds = {name: roofline(flops, moved, chip, n) for name, chip in CHIPS.items()}
    return {
        'experiment': experiment,
        'settings': settings,
        'topology': topology,
        'jax': jax.__version__,
        'parameters': cost.num_parameters(state_shapes(recipe).params),
        'tflop': flops / 1e12,
        'gigabytes': moved / 1e9,
        'state_gb': step.state_bytes / 1e9,
        'peak_gb': step.peak_bytes / 1e9,
        'trace_seconds': trace_seconds,
        'effort': effort,
        'compile_seconds': step.compile_seconds,
        'estimated_ms': step.estimated_seconds * 1e3,
        'roofline_ms': {name: seconds * 1e3 for name, (seconds, _) in bounds.items()},
        'bound_by': {name: what for name, (_, what) in bounds.items()},
        'faults': faults(step, n, CHIPS[kind].memory),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--experiment', required=True, help='as cifar10_jem')
    parser.add_argument('--topology', default='v5e:1x1', help='v5e or v6e : 1x1, 2x2 or 2x4')
    parser.add_argument(
        '--effort', type=float, default=TPU_EFFORT, help='of the compiler for speed, in [-1, 1]'
    )
    parser.add_argument('--out', help='a .jsonl file that gets a line more')
    args, settings = parser.parse_known_args()
    try:
        found = report(args.experiment, args.topology, settings, args.effort)
    except InputError as error:
        parser.exit(2, f'error: {error}\n')
    for name, value in found.items():
        print(f'{name:>16}: {value}')
    if args.out:
        with open(args.out, 'a') as file:
            file.write(json.dumps(found) + '\n')


if __name__ == '__main__':
    main()
