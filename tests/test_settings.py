"""Settings: one declaration makes checks, help, the reference page and what a resume may change."""

import json
import re
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import flags
from commands import ROOT, assert_one_sentence, in_process

from ebm_jax.errors import InputError
from experiments import cifar10_dual_mcmc, digits_st_jem, images_st_jem
from experiments.commands import list as list_command
from experiments.common import building, groups, launch, runs, settings
from experiments.common.groups import Schedule
from experiments.common.settings import group, setting
from experiments.families.networks import SizedConvNetwork


@dataclass
class Inner:
    """A group."""

    rate: float = setting(0.5, 'a rate', above=0, high=1)
    names: tuple[str, ...] = setting(('a',), 'names', choices=('a', 'b', '3'), min_length=1)


@dataclass
class Outer:
    """All of it."""

    steps: int = setting(3, 'steps', low=1, resume=True)
    weight: float | None = setting(None, 'a weight', low=0)
    inner: Inner = group(Inner, rate=0.25)


def changed(**changes):
    config = Outer()
    settings.update(config, {name.replace('__', '.'): value for name, value in changes.items()})
    return config


@pytest.mark.parametrize(
    'changes, says',
    [
        ({'steps': 0}, '--config.steps must be at least 1, got 0'),
        ({'steps': True}, '--config.steps must be int, got True'),
        ({'weight': -1}, '--config.weight must be at least 0, got -1'),
        ({'weight': float('nan')}, '--config.weight must be at least 0, got nan'),
        ({'inner__rate': 0.0}, r'--config.inner.rate must be in \(0, 1\], got 0'),
        ({'inner__rate': 1.5}, r'in \(0, 1\]'),
        ({'inner__names': ('c',)}, '--config.inner.names must be one of a, b, 3'),
        ({'inner__names': ()}, 'at least 1 value'),
        ({'inner__names': 'a'}, r'must be tuple\[str'),
    ],
)
def test_values_out_of_range_or_of_another_type_are_refused(changes, says):
    with pytest.raises(InputError, match=says):
        settings.check(changed(**changes))


def test_values_in_range_pass_and_become_what_was_declared():
    config = changed(weight=2, inner__rate=1, inner__names=[3, 'b'])
    settings.as_declared(config)
    settings.check(config)
    assert config.weight == 2 and config.inner.names == ('3', 'b')
    assert isinstance(config.inner.rate, float)
    assert Outer().inner.rate == 0.25 and Inner().rate == 0.5  # a group with another default


def test_json_gives_back_the_same_configuration_or_names_what_is_unknown():
    """A setting that was added since has its default."""
    config = digits_st_jem.get_config()
    tree = json.loads(json.dumps(settings.to_dict(config)))
    assert settings.from_dict(digits_st_jem.get_config(), tree) == config
    del tree['loss']['alpha']
    assert settings.from_dict(digits_st_jem.get_config(), tree) == config
    tree['new'] = 1
    with pytest.raises(KeyError, match='new'):
        settings.from_dict(digits_st_jem.get_config(), tree)


def test_a_copy_is_changed_alone():
    config = Outer()
    other = settings.copy(config)
    settings.update(other, {'inner.rate': 1.0})
    assert config.inner.rate == 0.25 and other.inner.rate == 1.0
    with pytest.raises(KeyError, match='inner.speed'):
        settings.update(other, {'inner.speed': 1.0})


def test_every_setting_of_every_experiment_is_declared_and_its_default_allowed():
    for name in list_command.first_lines(ROOT / 'experiments'):
        config = __import__(f'experiments.{name}', fromlist=['x']).get_config()
        settings.check(config)
        for path, part, _, _ in settings.walk(config):
            assert part.metadata['meaning'].text, (name, path)
        assert settings.from_dict(config, settings.to_dict(config)) == config, name


def test_the_reference_page_is_that_of_the_declarations():
    assert (ROOT / 'docs' / 'settings.md').read_text() == list_command.settings_page()
    commands = list_command.commands_page()
    assert (ROOT / 'docs' / 'commands.md').read_text() == commands
    for row in (
        '| `--suite` | `standard` |',
        '| `--config.compose.num` | `100` |',
        '| `--config.network` | `convolutions` | of JEM and ST-JEM on images. One of ',
        'p(one of the labels \\| x). May be repeated. |',
        '| `--config.compose.attributes` | ',
    ):
        assert row in commands
    rows = [line for line in commands.splitlines() if line.startswith('|')]
    assert all(len(re.findall(r'(?<!\\)\|', row)) == 4 for row in rows)
    assert not any(line.startswith(' ') for line in commands.splitlines())
    assert '--config.run.steps`' not in commands


@pytest.mark.parametrize(
    'given, options, found',
    [
        ('3,1', {'kind': int, 'low': 1}, [3, 1]),
        ('.5,0', {'low': 0}, [0.5, 0]),
        ('-1', {}, [-1]),
        ('0', {'above': 0}, 'must be numbers above 0, got 0'),
        ('1.5', {'kind': int}, 'must be whole numbers, got 1.5'),
        ('1,0', {'kind': int, 'low': 1}, 'must be whole numbers of at least 1, got 1,0'),
        ('1,nan', {}, 'must be numbers, got 1,nan'),
        ('', {}, 'must be numbers, got nothing'),
    ],
)
def test_numbers_of_a_list_flag(given, options, found):
    values = flags.FlagValues()
    flags.DEFINE_list('radii', [], 'Radii.', flag_values=values)
    values(['', f'--radii={given}'])
    if isinstance(found, list):
        assert launch.numbers(values, 'radii', **options) == found
    else:
        with pytest.raises(InputError, match=f'--radii {found}'):
            launch.numbers(values, 'radii', **options)


def test_the_list_has_every_program_with_a_line():
    shown = '\n'.join(list_command.lines())
    for name in ('images_icd', 'cifar10_st_jem', 'evaluate', 'export', 'stability'):
        assert f'  {name} ' in shown
    assert 'systems' not in shown  # no program
    assert 'A classifier that is' not in shown and 'ST-JEM on the built-in 8x8 digits' in shown


def test_the_schedule_follows_the_steps_unless_it_is_set():
    schedule = Schedule(warmup=10, decay_to=0.0)
    for decay_steps, steps, end in ((0, 100, 100), (0, 40, 40), (60, 100, 60)):
        schedule.decay_steps = decay_steps
        rate = building.learning_rate(schedule, 1.0, steps)
        np.testing.assert_allclose([rate(10), rate(end), rate(end - 1) > 0], [1, 0, 1], atol=1e-6)
    schedule.decay_steps = 0
    short = building.learning_rate(schedule, 1.0, 4)  # a warm-up of at most half of the run
    np.testing.assert_allclose([short(0), short(2), short(4)], [0, 1, 0], atol=1e-6)


def test_a_run_that_is_continued_further_keeps_its_schedule(tmp_path):
    workdir = tmp_path / 'run'
    (workdir / 'checkpoints' / '5').mkdir(parents=True)
    config = digits_st_jem.get_config()
    config.steps, config.optimizer.decay_steps = 5, 5  # as the first command has written it
    content = {'experiment': digits_st_jem.__name__, 'config': settings.to_dict(config)}
    (workdir / 'config.json').write_text(json.dumps(content))
    further = digits_st_jem.get_config()
    further.steps = 9
    runs.check_same_run(workdir, digits_st_jem, further)
    assert further.optimizer.decay_steps == 5
    other = digits_st_jem.get_config()
    other.steps = 9
    runs.check_same_run(tmp_path / 'new', digits_st_jem, other)
    assert other.optimizer.decay_steps == 9
    other = digits_st_jem.get_config()
    other.optimizer.decay_steps = 7
    with pytest.raises(InputError, match=r'optimizer.decay_steps \(5 there, 7 now\)'):
        runs.check_same_run(workdir, digits_st_jem, other)


@pytest.mark.parametrize(
    ('argument', 'says'),
    [
        ('--config.optimizer.learning_rat=1', 'did you mean --config.optimizer.learning_rate?'),
        ('--config.optimizer.lr=1', 'no setting --config.optimizer.lr; there are kind, warmup,'),
        ('--config.sampler=hmc', 'sampler is a group of settings: --config.sampler.kernel,'),
        ('--config.sampler.step_size=1e30', 'at most 1e+12 in size'),
    ],
)
def test_a_mistyped_setting_is_named_with_what_there_is(
    argument, says, tmp_path, monkeypatch, capsys
):
    workdir = f'--workdir={tmp_path}/run'
    assert_one_sentence(monkeypatch, capsys, says, 'experiments.digits_st_jem', workdir, argument)


def test_large_whole_numbers_are_allowed_where_floats_of_that_size_are_not():
    config = changed(steps=2_000_000_000)
    settings.check(config)
    with pytest.raises(InputError, match=r'at most 1e\+12 in size'):
        settings.check(changed(weight=2e12))


def test_arguments_without_a_flag_are_refused(monkeypatch, capsys):
    assert_one_sentence(monkeypatch, capsys, 'as --flag=value', 'experiments.compare', 'a', 'b')


def test_a_missing_workdir_is_asked_for(monkeypatch, capsys):
    assert_one_sentence(monkeypatch, capsys, 'give --workdir=', 'experiments.digits_st_jem')


def test_optional_settings_can_be_set_and_stay_unset():
    config = cifar10_dual_mcmc.get_config()
    assert config.teaching.sigma is None
    settings.update(config, {'teaching.sigma': 1})
    settings.as_declared(config)
    settings.check(config)


@pytest.mark.slow
@pytest.mark.parametrize('kernel', ['mala', 'hmc'])
def test_kernels_are_chosen_by_a_setting(kernel, tmp_path, monkeypatch, capsys):
    """Trained, evaluated by its telemetry, and sampled; an acceptance below 1 is a test's."""
    arguments = [
        'experiments.digits_st_jem',
        f'--workdir={tmp_path}/run',
        '--config.steps=2',
        '--config.batch_size=16',
        '--config.loss.num_negatives=8',
        '--config.buffer.capacity=800',
        '--config.network.widths=(4,4,4)',
        '--config.evaluate_every=2',
        '--config.sampler.num_steps=2',
        '--config.fresh.num_steps=2',
    ]
    for chain in ('sampler', 'fresh'):
        arguments += [f'--config.{chain}.kernel={kernel}', f'--config.{chain}.step_size=0.05']
    assert_one_sentence(monkeypatch, capsys, 'takes a temperature', *arguments)
    for chain in ('sampler', 'fresh'):
        arguments += [
            f'--config.{chain}.noise_is_temperature=true',
            f'--config.{chain}.noise=1.0',
        ]
    in_process(monkeypatch, capsys, *arguments)
    rows = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    telemetry = next(row for row in map(json.loads, rows) if 'chains/acceptance' in row)
    assert 0 < telemetry['chains/acceptance'] < 1 and 'chains/drift_to_noise' not in telemetry
    drawn = ['experiments.sample', f'--workdir={tmp_path}/run', '--num=4', f'--out={tmp_path}/x']
    in_process(monkeypatch, capsys, *drawn)


def test_networks_follow_the_size_of_the_images():
    """From 8x8 to 64x64 the last grid has two to four pixels a side."""
    config = images_st_jem.get_config()
    assert isinstance(config.network, SizedConvNetwork)
    for side in (8, 16, 28, 32, 64):
        module = config.network.build(10, (side, side, 1)).module
        grid = side
        for stride in module.strides:
            grid = -(-grid // stride)
        assert 2 <= grid <= 4 and len(module.widths) == len(module.strides), side
    config.network.widths = (4, 8)
    assert config.network.build(10, (8, 8, 1)).module.widths == (4, 8)
    config.network.widths = (4,)  # one layer takes the first of the strides
    assert config.network.build(10, (28, 28, 1)).module.strides == (2,)


@pytest.mark.parametrize('kind', ['adam', 'adamw', 'sgd'])
def test_the_optimiser_is_the_one_that_is_named(kind):
    """Two steps on a quadratic by optax's own, written out here."""
    schedule = groups.Optimizer(
        kind=kind, warmup=0, decay_to=1.0, learning_rate=0.1, weight_decay=0.3, b1=0.5, b2=0.8
    )
    found = building.optimizer_of(schedule, 0.1, 10, 0.3)
    expected = {
        'adam': optax.chain(optax.add_decayed_weights(0.3), optax.adam(0.1, 0.5, 0.8)),
        'adamw': optax.adamw(0.1, 0.5, 0.8, weight_decay=0.3),
        'sgd': optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1, 0.5)),
    }[kind]

    def two_steps(optimizer):
        params = {'w': jnp.array([1.0, -2.0])}
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = optimizer.update(jax.tree.map(lambda w: 2 * w, params), state, params)
            params = optax.apply_updates(params, updates)
        return params

    chex.assert_trees_all_close(two_steps(found), two_steps(expected), rtol=1e-6)


def test_numbers_and_milestones_that_mean_nothing_are_refused(monkeypatch, capsys):
    for arguments, says in (
        (['--config.seed=99999999999999999999'], '--config.seed must be at most 2,147,483,647'),
        (['--config.optimizer.milestones=(100,)'], 'change nothing at --config.optimizer.drop=1'),
        (
            ['--config.optimizer.milestones=(20,)', '--config.optimizer.drop=.5'],
            'after the warm-up of 50 steps',
        ),
    ):
        name = 'experiments.digits_st_jem'
        assert_one_sentence(monkeypatch, capsys, says, name, '--workdir=unused', *arguments)
