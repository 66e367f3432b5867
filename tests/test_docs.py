"""The code in the documents runs as it stands there."""
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
from methods_under_test import BATCH, KERNEL, NETWORK, START

from ebm_jax import replay

ROOT = pathlib.Path(__file__).parent.parent


def code_of(path):
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / path).read_text(), re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


def test_the_method_of_the_guide_is_one():
    names = {}
    exec(code_of('docs/adding_a_method.md'), names)
    method = names['pcd'](NETWORK, KERNEL, replay.persistent(START, 4), num_negatives=8, num_steps=2, shards=4)

    @jax.jit
    def step(key):
        params, chains = method.init(key, BATCH)
        samples, after = method.sample(key, params, chains, BATCH)
        return samples, chains, after, method.loss(params, key, BATCH, samples)

    samples, chains, after, (addends, metrics) = step(jax.random.key(0))
    assert samples.shape == (8, 8, 8, 1) and int(jnp.sum(after.age > 0)) == 8 and not np.array_equal(chains.position, after.position)
    np.testing.assert_allclose(addends['positives'] + addends['negatives'], -metrics['s_gap'], atol=1e-5)


def test_the_program_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    program = code_of('README.md')
    assert 'steps=600' in program and len(program.splitlines()) < 20
    monkeypatch.chdir(tmp_path)
    exec(program.replace('steps=600', 'steps=2'), {})
    assert 'accuracy' in capsys.readouterr().out and (tmp_path / 'runs/mine/summary.json').exists()
