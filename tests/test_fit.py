"""The loop: exact resume, a stop that says why, checkpoints that are damaged or foreign, what is
left in the workdir."""

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from trees import as_data

from ebm_jax import adapt, augment, cost, data, initial, monitor, replay
from ebm_jax import fit as fit_module
from ebm_jax import objectives as obj
from ebm_jax.checkpoint import Checkpoints
from ebm_jax.errors import Diverged, InputError
from ebm_jax.fit import fit
from ebm_jax.images import Grid, image_grid, save_grid
from ebm_jax.methods.jem import jem
from ebm_jax.networks import ConvNet, per_example
from ebm_jax.record import Recorder, update_summary, with_ending
from ebm_jax.train import Recipe, init_state, state_shapes
from ebm_jax.types import Method

TRAIN = data.digits('train')
SHAPE = (8, 8, 1)


def make_method(widths=(8, 8), **options):
    buffer = replay.class_conditional(initial.uniform(SHAPE), 40, 10, unconditional=0.5)
    return jem(
        per_example(ConvNet(10, widths, (2, 2))),
        adapt.adaptive(calls=3),
        buffer,
        num_negatives=8,
        num_steps=2,
        conditional=0.5,
        shards=4,
        weights=obj.balanced,
        **options,
    )


METHOD = make_method()
EVERY = dict(log_every=1, checkpoint_every=3, picture_every=3, echo=lambda line: None)


def recipe(method=METHOD, **options):
    return Recipe(
        **{
            'method': method,
            'batch_at': lambda step: data.batch_at(TRAIN, step, 16),
            'optimizer': optax.adam(1e-3),
            'prepare': augment.chain(augment.scale_pixels, augment.gaussian_noise(0.03)),
            'ema': 0.9,
            **options,
        }
    )


def train(workdir, steps, run=None, devices=None, **options):
    return fit(
        run or recipe(),
        workdir=workdir,
        steps=steps,
        devices=devices or jax.devices()[:2],
        **{**EVERY, **options},
    )


def metrics(workdir):
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if name != 'steps_per_second'} for row in rows
    ]


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('whole')

    def pictures(state):
        return {'first': Grid(state.chains.buffer.position[:, 0])}

    def evaluate(state):
        return {'age': float(state.chains.buffer.age.mean())}

    run = recipe(pictures=pictures, evaluate=evaluate)
    told = []
    state = train(workdir, 6, run, evaluate_every=6, on_log=lambda *given: told.append(given))
    (workdir / 'told.json').write_text(json.dumps(told, default=float))
    return workdir, state


def test_other_loggers_get_what_is_logged(uninterrupted):
    """The rows of metrics.jsonl, without those of evaluations."""
    workdir, _ = uninterrupted
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    rows = [row for row in rows if 'loss' in row]
    told = json.loads((workdir / 'told.json').read_text())
    assert [step for step, _ in told] == [row['step'] for row in rows] and len(told) > 1
    for (_, found), row in zip(told, rows):
        assert found == pytest.approx({name: row[name] for name in found}, rel=1e-5)


def test_resume_equals_uninterrupted_bit_for_bit(uninterrupted, tmp_path):
    whole_dir, whole = uninterrupted
    train(tmp_path, 3)
    resumed = train(tmp_path, 6)
    assert int(resumed.step) == 6
    chex.assert_trees_all_equal(as_data(whole), as_data(resumed))
    assert [row for row in metrics(whole_dir) if 'age' not in row] == metrics(tmp_path)


def test_resume_after_a_crash_takes_back_what_was_logged_past_the_checkpoint(
    uninterrupted, tmp_path
):
    """A run killed at step 5 has a checkpoint of step 3 and metrics up to 5, the last line cut
    short."""
    whole_dir, whole = uninterrupted
    train(tmp_path, 5, checkpoint_every=3)
    shutil.rmtree(tmp_path / 'checkpoints' / '5')
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 5, "lo')
    resumed = train(tmp_path, 6)
    chex.assert_trees_all_equal(as_data(whole), as_data(resumed))
    assert [row['step'] for row in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_resume_on_another_number_of_devices(uninterrupted, tmp_path):
    _, whole = uninterrupted
    train(tmp_path, 3)
    resumed = train(tmp_path, 6, devices=jax.devices()[:4])
    chex.assert_trees_all_close(as_data(whole), as_data(resumed), rtol=1e-3, atol=1e-4)


def test_what_a_run_leaves(uninterrupted):
    workdir, state = uninterrupted
    summary = json.loads((workdir / 'summary.json').read_text())
    assert (
        summary['finished']
        and not summary['diverged']
        and summary['step'] == 6
        and summary['steps_per_second'] > 0
    )
    assert summary['parameters'] == cost.num_parameters(state.params)
    assert Image.open(workdir / 'samples' / 'first_000006.png').width > 600
    assert list((workdir / 'tensorboard').iterdir())
    assert {path.name for path in (workdir / 'checkpoints').iterdir()} == {'3', '6'}
    rows = metrics(workdir)
    logged = {
        's_gap',
        'grad_norm/positives',
        'grad_norm/negatives',
        'effective_sample_size',
        'chain_age_mean',
    }
    assert rows[-1]['age'] > 0 and logged <= set(rows[0])


def test_a_finished_run_is_left_alone(uninterrupted):
    workdir, state = uninterrupted
    before = (workdir / 'metrics.jsonl').read_text()
    said = []
    again = train(workdir, 6, echo=said.append)
    assert 'nothing to do' in said[0] and (workdir / 'metrics.jsonl').read_text() == before
    chex.assert_trees_all_equal(as_data(again), as_data(state))


def test_the_forecast_counts_what_the_step_does(tmp_path):
    said = []
    train(tmp_path, 1, echo=said.append)
    text = said[0]
    network = per_example(ConvNet(10, (8, 8), (2, 2)))
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(SHAPE))
    forward = cost.count_flops(network.apply, params, jnp.zeros(SHAPE))
    # 8 chains x 2 steps x (energy + input gradient = 2), the score of 8 samples, a batch of 24
    # forward and back (3, but the first layer needs no input gradient: 4 x 4 positions, 3 x 3
    # window, 8 channels).
    gflop = float(text.split(' GFLOP in all')[0].split()[-1])
    np.testing.assert_allclose(
        gflop * 1e9, forward * (8 * 2 * 2 + 8 + 24 * 3) - 24 * 2 * 16 * 9 * 8, rtol=0.005
    )
    assert (
        f'{cost.num_parameters(params):,} parameters' in text
        and '16 energy gradients' in text
        and 'about' in text
    )


def line(poison_from=None):
    """One parameter, loss = x . p, no chains; batches are poisoned from a step on."""
    method = Method(
        lambda key, batch: (jnp.ones(1), {'empty': jnp.zeros(8)}),
        lambda key, params, chains, batch: (jnp.zeros(()), chains),
        lambda params, key, batch, samples: ({'line': params[0] * jnp.mean(batch['x'])}, {}),
    )

    def batch_at(step):
        return {
            'x': np.full(
                (8, 1),
                np.inf if poison_from is not None and step >= poison_from else 1.0,
                np.float32,
            )
        }

    return dict(method=method, batch_at=batch_at, prepare=lambda key, x: x, ema=0.0)


def test_a_step_that_is_not_finite_stops_the_run_with_an_account(tmp_path):
    run = recipe(**line(poison_from=4), optimizer=optax.sgd(0.1))
    with pytest.raises(Diverged) as caught:
        train(tmp_path, 20, run, checkpoint_every=2)
    assert caught.value.step == 5
    assert all(
        words in caught.value.account
        for words in ('diverged at step 5', 'loss = inf', 'step 4 is kept')
    )
    assert Checkpoints(tmp_path / 'checkpoints').latest() == 4
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert summary['diverged'] and not summary['finished'] and summary['step'] == 5
    assert metrics(tmp_path)[-1]['loss'] == 'inf'  # on record, not masked


def test_a_loss_beyond_the_limit_stops_the_run(tmp_path):
    run = recipe(**line(), optimizer=optax.sgd(1.0), limits={'loss': 5.0})
    with pytest.raises(Diverged, match='beyond its limit of 5'):
        train(tmp_path, 200, run)


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match='choose 3 or 6'):
        train(tmp_path / 'run', 3, devices=jax.devices()[:3])
    with pytest.raises(InputError, match='shards of 4 .* 8 devices'):
        train(tmp_path / 'run', 3, devices=jax.devices()[:8])
    with pytest.raises(InputError, match='at least 1'):
        train(tmp_path / 'run', 0)
    with pytest.raises(InputError, match='ema'):
        train(tmp_path / 'run', 3, recipe(ema=1.0))
    assert not (tmp_path / 'run').exists()


def truncate(checkpoint):
    for file in checkpoint.rglob('*'):
        if file.is_file() and file.stat().st_size > 200:
            file.write_bytes(file.read_bytes()[:100])


def test_where_the_newest_checkpoint_is_damaged_the_one_before_is_used(uninterrupted, tmp_path):
    whole_dir, whole = uninterrupted
    train(tmp_path, 6)
    truncate(tmp_path / 'checkpoints' / '6')
    said = []
    resumed = train(tmp_path, 6, echo=said.append)
    assert (
        'checkpoints/6 cannot be restored' in said[0]
        and 'the one of step 3 is used' in said[0]
        and 'from step 3' in said[1]
    )
    chex.assert_trees_all_equal(as_data(whole), as_data(resumed))
    assert [row for row in metrics(whole_dir) if 'age' not in row] == metrics(tmp_path)
    assert (
        len(list((tmp_path / 'damaged_checkpoints').iterdir())) == 1
        and Checkpoints(tmp_path / 'checkpoints').latest() == 6
    )


def test_the_ring_of_checkpoints_does_not_depend_on_interruptions(tmp_path):
    """Those at multiples of 2 stay, the newest three; of the others only the newest of all."""
    checkpoints = Checkpoints(tmp_path, every=2)
    for step, there in (
        (2, [2]),
        (3, [2, 3]),
        (4, [2, 4]),
        (6, [2, 4, 6]),
        (7, [2, 4, 6, 7]),
        (8, [4, 6, 8]),
    ):
        state = init_state(jax.random.key(0), recipe(**line()))
        checkpoints.save(state.replace(step=jnp.int32(step)))
        assert checkpoints.ring() == sorted((s for s in there if s % 2 == 0), reverse=True)
        assert sorted(int(path.name) for path in tmp_path.iterdir()) == there
    checkpoints.drop_after(5)
    assert checkpoints.ring() == [4] and checkpoints.latest() == 4


def test_a_damaged_checkpoint_gets_one_sentence(tmp_path):
    train(tmp_path, 3)
    truncate(tmp_path / 'checkpoints' / '3')
    with pytest.raises(InputError) as caught:
        train(tmp_path, 6)
    assert (
        'checkpoints/3' in str(caught.value)
        and 'delete that folder' in str(caught.value)
        and '\n' not in str(caught.value)
    )


def test_a_checkpoint_of_another_network_gets_one_sentence(tmp_path):
    train(tmp_path, 3)
    with pytest.raises(InputError, match='new workdir'):
        train(tmp_path, 6, recipe(make_method(widths=(8, 16))))


def test_training_begins_with_the_parameters_of_another_run(uninterrupted, tmp_path):
    _, other = uninterrupted
    key, reads = jax.random.key(5), []

    def params():
        reads.append(1)
        return other.eval_params

    run = recipe(init_params=params)
    begun, usual = init_state(key, run), init_state(key, recipe())
    chex.assert_trees_all_equal(begun.params, other.eval_params)
    chex.assert_trees_all_equal(begun.ema_params, other.eval_params)
    chex.assert_trees_all_equal(
        as_data(begun.replace(params=(), ema_params=())),
        as_data(usual.replace(params=(), ema_params=())),
    )
    whole = train(tmp_path / 'whole', 4, run)
    train(tmp_path / 'parts', 3, run)
    before = len(reads)
    resumed = train(tmp_path / 'parts', 4, run)
    assert len(reads) == before > 2
    chex.assert_trees_all_equal(as_data(whole), as_data(resumed))


def test_parameters_of_another_network_are_no_beginning(uninterrupted):
    _, other = uninterrupted
    run = recipe(make_method(widths=(8, 16)), init_params=lambda: other.params)
    with pytest.raises(InputError, match=r'other networks: .* is \(.*\) there and \(.*\) here'):
        init_state(jax.random.key(0), run)


def test_a_smaller_last_batch_is_refused_in_one_sentence(tmp_path):
    run = recipe(batch_at=lambda step: data.batch_at(TRAIN, 0, 16 if step < 2 else 8))
    with pytest.raises(InputError, match='the batch of step 3 has the shapes .* of one size'):
        train(tmp_path, 4, run)


def test_metrics_and_settings_of_numpy_and_jax_are_written_as_numbers(tmp_path):
    def evaluated(state):
        return {'norm': optax.tree.norm(state.params), 'half': np.float32(0.5)}

    settings = {'rate': np.float32(0.25), 'folder': tmp_path, 'widths': np.arange(2)}
    state = train(
        tmp_path / 'run', 1, recipe(evaluate=evaluated), evaluate_every=1, settings=settings
    )
    (row,) = [row for row in metrics(tmp_path / 'run') if 'norm' in row]
    assert row['norm'] == pytest.approx(float(optax.tree.norm(state.params))) and row['half'] == 0.5
    written = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert written == {'rate': 0.25, 'folder': str(tmp_path), 'widths': [0, 1]}
    with pytest.raises(InputError, match='must be numbers, text, lists and dicts'):
        train(tmp_path / 'other', 1, settings={'what': object()})
    assert not (tmp_path / 'other').exists()


def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match='train first'):
        Checkpoints(tmp_path).restore(state_shapes(recipe()))


def test_summary_metrics_are_merged(tmp_path):
    update_summary(tmp_path, {'a': 1, 'ood': {'x': {'s': 1}}})
    update_summary(tmp_path, {'b': 2, 'ood': {'x': {'t': 2}, 'y': {}}})
    assert json.loads((tmp_path / 'summary.json').read_text()) == {
        'a': 1,
        'ood': {'x': {'s': 1, 't': 2}, 'y': {}},
        'b': 2,
    }


def test_a_grid_puts_each_image_in_its_place(tmp_path):
    images = np.stack([np.full((2, 3, 1), v) for v in (-1.0, 0.0, 1.0, 5.0)])
    grid = image_grid(images, columns=2)
    assert grid.shape == (7, 9, 1)
    assert [int(grid[y, x, 0]) for y, x in ((1, 1), (1, 5), (4, 1), (4, 5))] == [0, 128, 255, 255]
    save_grid(tmp_path / 'grid.png', Grid(images, 2))
    saved = np.asarray(Image.open(tmp_path / 'grid.png'))
    factor = saved.shape[0] // 7
    np.testing.assert_array_equal(saved[::factor, ::factor], grid[..., 0])


def test_an_ending_is_added_whatever_dots_a_name_holds():
    assert str(with_ending('a/alpha_0.5', '.png')) == 'a/alpha_0.5.png'
    assert str(with_ending('a/x.png', '.png')) == 'a/x.png'


def test_numbers_that_are_not_finite_stay_readable_json(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.scalars(1, {'good': 1.5, 'bad': float('nan')})
    recorder.close()
    assert json.loads((tmp_path / 'metrics.jsonl').read_text()) == {
        'step': 1,
        'good': 1.5,
        'bad': 'nan',
    }


@pytest.mark.slow
def test_a_chain_that_grows_is_compiled_at_its_blocks_and_resumes_exactly(tmp_path, monkeypatch):
    """K = 2 and one more every 2 steps: programs of 2 and 7 steps; a run that is stopped among the
    longer ones goes on with the same bits."""
    compilations = []
    make = fit_module.make_train_step

    def counted(recipe, **options):
        compilations.append(recipe.method.chain_steps)
        return make(recipe, **options)

    monkeypatch.setattr(fit_module, 'make_train_step', counted)
    growing = recipe(make_method(extra_step_every=2))
    whole = train(tmp_path / 'whole', 7, growing, checkpoint_every=1)
    assert compilations == [2, 7]
    train(tmp_path / 'pieces', 5, growing, checkpoint_every=1)
    pieces = train(tmp_path / 'pieces', 7, growing, checkpoint_every=1)
    assert compilations == [2, 7, 2, 7, 7]
    chex.assert_trees_all_equal(as_data(whole), as_data(pieces))
    summary = json.loads((tmp_path / 'whole' / 'summary.json').read_text())
    assert summary['compile_seconds'] > 0


def test_compilation_shows_signs_of_life(tmp_path, monkeypatch, capsys):
    """While the first step is compiled the bar says for how long; afterwards it does not."""
    monkeypatch.setattr(monitor, 'TICK', 0.01)
    said = []
    train(tmp_path, 2, echo=said.append)
    shown = capsys.readouterr().err.split('\r')
    waiting = [line for line in shown if 'compiling, ' in line and 's so far' in line]
    assert waiting and 'compiling' not in shown[-1] and '2/2' in shown[-1]
    assert any('compilation comes first, about' in line for line in said)
