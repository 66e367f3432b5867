"""Train steps compiled for TPUs, on a machine without one. Needs libtpu: pip install -e
'.[tpu-compile]'."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import tpu_compile
from benchmarks.tpu_compile import Chip, roofline

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason="compiling for a TPU needs libtpu: pip install -e '.[tpu-compile]'",
)
STEPS = {  # families at their smallest
    'digits_st_jem v5e:2x2': ['network.widths=(8,8)', 'network.strides=(1,2)'],
    'digits_icd v5e:2x2': [
        'network.width=8',
        'network.stages=(2,)',
        'network.scales=1',
        'network.bfloat16=true',
    ],
    'digits_dual_mcmc v5e:1x1': [
        'network.energy_widths=(8,)',
        'network.energy_down=(True,)',
        'network.generator_widths=(8,8)',
        'network.inference_widths=(8,)',
        'network.inference_strides=(2,)',
    ],
}


def in_its_own_process(*arguments):
    """Output of benchmarks.tpu_compile, without the flags that this suite gives XLA for the CPU."""
    environment = {**os.environ, 'XLA_FLAGS': ''}
    return subprocess.run(
        [sys.executable, '-m', 'benchmarks.tpu_compile', *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize('case', STEPS)
def test_a_train_step_compiles_for_a_tpu_without_a_fault(case, tmp_path):
    experiment, topology = case.split()
    found = in_its_own_process(
        f'--experiment={experiment}',
        f'--topology={topology}',
        f'--out={tmp_path}/found.jsonl',
        *(f'--config.{setting}' for setting in STEPS[case]),
    )
    assert found.returncode == 0, found.stderr
    step = json.loads((tmp_path / 'found.jsonl').read_text())
    assert step['faults'] == []
    assert 0 < step['state_gb'] < step['peak_gb'] < 0.1
    assert step['tflop'] > 0 and step['roofline_ms']['v5e'] > step['roofline_ms']['v6e'] > 0


FAULTY = """
import jax, jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from benchmarks.tpu_compile import Compiled, faults, tpu_devices
chips = tpu_devices('v5e:2x2')

def text(fn, *shapes, n=1):
    mesh = Mesh(chips[:n], ('devices',), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec('devices'))
    shapes = [jax.ShapeDtypeStruct((n, *shape), dtype, sharding=split) for shape, dtype in shapes]
    mapped = jax.pmap(fn, 'devices', devices=chips[:n])
    return mapped.lower(*shapes).compile().as_text()

def told(text, n=1, aliased=1, peak=0):
    return faults(Compiled(text, peak, 0, aliased, 1, 0.0, 0.0), n, 16e9)

x = (16, 8, 8, 8), jnp.float32
chain = lambda one: lambda x: lax.scan(lambda x, _: (one(x), None), x, length=5)[0]
crop = lambda x, i: lax.dynamic_slice(x, (i, i, 0), (32, 32, 3))
fine = text(chain(jnp.sin), x)
print(told(fine))
print(told(fine, aliased=0))
print(told(fine, peak=17e9))
print(told(fine, n=4))
print(told(fine + '%c = f32[1] convolution(%a, %b), feature_group_count=128'))
print(told(text(lambda x: chain(jnp.sin)(lax.psum(x, 'devices')), x, n=4), n=4))
print(told(text(chain(lambda x: jnp.sin(lax.pmean(x, 'devices'))), x, n=4), n=4))
print(told(text(jax.vmap(crop), ((64, 40, 40, 3), jnp.float32), ((64,), jnp.int32))))
"""


def test_every_fault_is_found():
    """Programs that have exactly one of them."""
    environment = {**os.environ, **tpu_compile.ENVIRONMENT, 'XLA_FLAGS': ''}
    found = subprocess.run(
        [sys.executable, '-c', FAULTY],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    told = [eval(line) for line in found.stdout.splitlines()]
    assert told[0] == told[5] == []
    expected = {
        1: '1 of 1 leaves are not donated',
        2: 'it needs 17.00 GB of 16 GB',
        3: '0 all-reduces on 4 chips',
        4: 'grouped convolutions',
        6: 'communication within the loop',
        7: 'a loop made of',
    }
    for i, sentence in expected.items():
        assert any(sentence in one for one in told[i]), (i, told[i])


def test_copies_are_counted_by_their_bytes():
    computations = tpu_compile.computations_of(
        'HloModule m, is_scheduled=true\n\n'
        '%fused (p: f32[4]) -> f32[4] {\n'
        '  %p = f32[4]{0} parameter(0)\n'
        '  ROOT %c = f32[4]{0} copy(%p)\n'
        '}\n\n'
        '%body (s: f32[4]) -> f32[4] {\n'
        '  %s = f32[4]{0} parameter(0)\n'
        '  %a = bf16[8,4]{1,0} convert(%s)\n'
        '  %b = bf16[8,4]{0,1} transpose(%a), dimensions={1,0}\n'
        '  %d = f32[4]{0} fusion(%s), kind=kLoop, calls=%fused\n'
        '  ROOT %e = f32[4]{0} add(%d, %s)\n'
        '}\n'
    )
    # written: 64 + 64 + 16 + 16 bytes; only moved: the transpose and the fusion of a copy
    assert tpu_compile.copied_share(computations, 'body') == 80 / 160


def test_the_roofline_is_the_larger_of_two_bounds():
    chip = Chip(flops=100.0, bandwidth=10.0, memory=1.0)
    assert roofline(1000.0, 50.0, chip, chips=2) == (5.0, 'compute')
    assert roofline(100.0, 50.0, chip, chips=1) == (5.0, 'memory')


def test_traffic_counts_operands_and_results_of_products_in_loops():
    from ebm_jax import cost

    def loop(x, w):
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ w), None), x, length=3)[0]

    program = jax.make_jaxpr(loop)(jnp.ones((4, 8)), jnp.ones((8, 8)))
    assert cost.traffic_of(program) == 3 * 4 * (4 * 8 + 8 * 8 + 4 * 8)


def test_an_unknown_topology_gets_a_sentence():
    found = in_its_own_process('--experiment=digits_st_jem', '--topology=v5e:7x7')
    assert found.returncode == 2 and 'v5e:7x7' in found.stderr and '1x1' in found.stderr
