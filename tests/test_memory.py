"""Runs that do not fit into memory end in one sentence."""

import dataclasses
import re
import sys

import jax
import jax.numpy as jnp
import pytest
from short_run import recipe
from test_interruptions import start

from ebm_jax import cost, fit, memory
from ebm_jax.errors import InputError
from experiments.common import launch


def test_the_largest_array_of_a_program():
    """That of the outer product, inside a loop."""

    def program(x):
        return jax.lax.fori_loop(0, 3, lambda i, c: c + jnp.sum(x[:, None] * x), 0.0)

    assert cost.largest_array(jax.make_jaxpr(program)(jnp.ones(100))) == 4 * 100**2


def test_an_array_larger_than_the_memory_is_refused_unmade():
    """The outer product of a walk of 2^20 with itself, 4 TiB."""
    base = recipe(10)

    def loss(params, key, batch, walk):
        wide = jnp.broadcast_to(walk[0], (2**20,))
        return {'outer': jnp.mean(wide[:, None] * wide) + jnp.sum(params)}, {}

    method = base.method._replace(loss=loss)
    with pytest.raises(InputError, match=r'largest array of a step 4,096.0 GiB'):
        fit.check(dataclasses.replace(base, method=method), jax.devices()[:1])


def test_memory_that_runs_out_ends_the_command_in_one_sentence(monkeypatch, capsys):
    """By a real allocation that fails."""

    def run(values):
        jnp.zeros(2**44, jnp.uint8).block_until_ready()

    monkeypatch.setattr(sys, 'argv', ['own'])
    with pytest.raises(SystemExit) as ended:
        launch.main(run, lambda values: None, '')
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 1 and len(said) == 1
    assert said[0].startswith('error: memory is exhausted') and 'lower the batch size' in said[0]


def test_a_state_larger_than_the_memory_is_refused_unmade():
    with pytest.raises(InputError, match=r'needs [\d,.]+ GiB .* buffer.s capacity'):
        fit.check(recipe(2**36), jax.devices()[:1])
    fit.check(recipe(10), jax.devices()[:1])


def test_the_limits_of_control_groups_are_known(tmp_path):
    """Of both versions, those of the groups above, and a container's, whose root is its group."""
    version2, version1 = tmp_path / 'version2', tmp_path / 'version1'
    (version2 / 'batch' / 'job').mkdir(parents=True)
    (version2 / 'batch' / 'memory.max').write_text('3000\n')
    (version2 / 'batch' / 'job' / 'memory.max').write_text('max\n')
    (version1 / 'memory').mkdir(parents=True)
    (version1 / 'memory' / 'memory.limit_in_bytes').write_text('2000\n')
    groups = tmp_path / 'cgroup'
    groups.write_text('0::/batch/job\n')
    assert memory.group_limits(groups, version2) == [3000]
    groups.write_text('5:cpu:/x\n4:memory,hugetlb:/docker/of:me\n0::/\n')
    assert set(memory.group_limits(groups, version1)) == {2000}
    assert memory.group_limits(tmp_path / 'none', version1) == []


def test_a_control_group_limits_what_is_left(monkeypatch):
    monkeypatch.setattr(memory, 'group_limits', lambda: [2**40, 2**33])
    assert 0 < memory.left() < 2**33
    monkeypatch.setattr(memory, 'group_limits', lambda: [1000])
    assert memory.left() == 0


@pytest.mark.slow
def test_a_limit_on_the_address_space_is_the_memory(tmp_path):
    """3 GB, of which Python and JAX have taken a part; the state of 200 million numbers with Adam's
    needs 2.4 GB twice. A real process."""
    limited = 'sh', '-c', 'ulimit -v 3000000 && exec "$@"', 'sh'
    process = start(tmp_path / 'run', '--numbers=200000000', before=limited)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2 and not (tmp_path / 'run').exists()
    said = re.findall('error: this run needs (.*) GiB of memory and (.*) GiB are left', err)
    assert len(said) == 1 and float(said[0][0]) > float(said[0][1]), err


def test_what_cannot_be_allocated_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as found:  # JAX's own, of a real allocation
        jnp.zeros(2**44, jnp.uint8).block_until_ready()
    assert memory.is_exhausted(found.value) and memory.is_exhausted(MemoryError())
    assert not memory.is_exhausted(RuntimeError('INVALID_ARGUMENT')), 'another error'
