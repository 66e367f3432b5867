"""Runs on speech: from the command line, and what is measured of them against energies whose
answers are known."""

import importlib
import json
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import SHORT_DUAL_MCMC, assert_one_sentence, in_process, succeed
from spoken import digits_folder

pytest.importorskip('librosa', reason='the extra `speech` is not installed')
import soundfile  # noqa: E402

import ebm_jax  # noqa: E402
from ebm_jax import audio, images, mcmc  # noqa: E402
from ebm_jax.apply import sequences as apply_sequences  # noqa: E402
from ebm_jax.data import formants  # noqa: E402
from ebm_jax.data.recordings import Recording, Segment  # noqa: E402
from ebm_jax.data.windows import Frontend  # noqa: E402
from ebm_jax.errors import InputError  # noqa: E402
from ebm_jax.evaluate import extractor  # noqa: E402
from ebm_jax.model import Classifier, build  # noqa: E402
from ebm_jax.networks import ConvNet, per_example  # noqa: E402
from ebm_jax.spec import FEATURES, ModelSpec, energy_spec  # noqa: E402
from ebm_jax.train import Recipe, init_state, state_shapes  # noqa: E402
from ebm_jax.trained import TrainedModel  # noqa: E402
from experiments import phonemes_jem, phonemes_st_jem  # noqa: E402
from experiments.commands import apply  # noqa: E402
from experiments.common import runs, settings  # noqa: E402
from experiments.common.groups import Denoise  # noqa: E402
from experiments.evaluations import generator, speech_quality  # noqa: E402
from experiments.families import speech_data, speech_jem  # noqa: E402
from experiments.studies import denoise_tables  # noqa: E402

SMALL = [
    '--config.steps=2',
    '--config.batch_size=16',
    '--config.loss.num_negatives=8',
    '--config.sampler.num_steps=2',
    '--config.buffer.capacity=640',
    '--config.fresh.num_steps=2',
    '--config.network.widths=(4,4,4)',
    '--config.features.bins=12',
    '--config.data.window=7',
    '--config.data.every=9',
    '--config.data.time_mask=3',
    '--config.denoise.num_steps=1',
    '--config.denoise.recordings=1',
    '--config.log_every=1',
    '--config.evaluate_every=0',
]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'vowels'
    succeed('experiments.vowels_st_jem', f'--workdir={workdir}', *SMALL, devices='8')
    return workdir


@pytest.mark.slow
def test_a_loaded_run_classifies_and_generates_sound(trained, tmp_path):
    """The frames of a recording, by windows that are cut and classified by hand."""
    opened = ebm_jax.load(trained)
    frontend, network = opened.model.speech, opened.model.networks['network']
    recording = formants.vowels('test')[0]
    probs = opened.classify_sound(recording.sound)
    sequence = frontend.sequence(recording.sound)
    assert probs.shape == (len(sequence), opened.num_classes)
    length = opened.model.spec.shape[0]
    middle = len(sequence) // 2
    # the frame in the middle of a window that lies within the sequence
    window = sequence[middle - length // 2 : middle - length // 2 + length]
    by_hand = jax.nn.softmax(network.apply(opened.params, window))
    np.testing.assert_allclose(probs[middle], by_hand, atol=1e-5)
    opened.export(tmp_path / 'exported')
    exported = ebm_jax.load(tmp_path / 'exported')
    np.testing.assert_array_equal(exported.classify_sound(recording.sound), probs)
    labels = np.full(20, 2)
    sounds = [
        model.generate_sound(jax.random.key(1), 20, labels, num_steps=2)
        for model in (opened, exported)
    ]
    np.testing.assert_array_equal(*sounds)
    assert len(sounds[0]) == 19 * frontend.analysis.hop_length
    noisy = audio.add_noise(recording.sound, audio.white_noise(len(recording.sound), 0), 10)
    # without steps what is lost is what features lose
    untouched = frontend.sound(frontend.sequence(noisy))
    np.testing.assert_array_equal(
        opened.denoise_sound(jax.random.key(0), noisy, num_steps=0), untouched
    )
    cleaned = opened.denoise_sound(jax.random.key(0), noisy, num_steps=2)
    assert cleaned.shape == untouched.shape and not np.array_equal(cleaned, untouched)
    with pytest.raises(InputError, match='no generator'):
        opened.reconstruct(jax.random.key(0), sequence[None])
    for says, frames, wrong in (
        (f'labels are 0 to {opened.num_classes - 1}, got 99', 20, 99),
        ('as many as frames', 20, [1, 2]),
        ('at least one frame', 0, 1),
    ):
        with pytest.raises(InputError, match=says):
            opened.generate_sound(jax.random.key(1), frames, wrong)


@pytest.mark.slow
def test_evaluate_measures_recordings_and_denoising(trained, monkeypatch, capsys):
    monkeypatch.setattr(extractor, 'STEPS', 10)
    printed = in_process(
        monkeypatch,
        capsys,
        'experiments.evaluate',
        f'--workdir={trained}',
        '--fresh_per_class=2',
        '--resamples=3',
    )
    summary = json.loads((trained / 'summary.json').read_text())
    for name in (
        'test_accuracy',
        'ece',
        'conditional_sample_accuracy',
        'frame_accuracy',
        'inversion_accuracy',
    ):
        assert 0 <= summary[name] <= 1, name
    assert set(summary['ood_auroc']) == {'white', 'babble', 'inverted', 'noise'}
    full = json.loads((trained / 'evaluation.json').read_text())
    assert set(full['denoise']) == {'0', '5', '10', '20'} == set(full['denoise_babble'])
    row = full['denoise']['0']
    assert set(row) == {
        f'{kind}_{way}'
        for kind in ('mse', 'accuracy')
        for way in ('before', 'after', 'anchor_alone', 'gated')
    }
    errors = [full['denoise'][level]['mse_before'] for level in ('0', '5', '10', '20')]
    assert errors == sorted(errors, reverse=True) and row['mse_after'] != row['mse_before']
    assert summary['denoise'] == full['denoise'] and 'noisereduce' in printed
    for name in ('samples/denoised.png', 'samples/fresh_conditional.png', 'samples/data.png'):
        assert (trained / name).stat().st_size > 500, name


@pytest.mark.slow
def test_a_recording_is_classified_generated_and_denoised_from_the_command_line(
    trained, tmp_path, monkeypatch, capsys
):
    def speech(*arguments):
        return in_process(
            monkeypatch, capsys, 'experiments.speech', f'--workdir={trained}', *arguments
        )

    audio.write(tmp_path / 'in.wav', formants.utterance(999, ['s', 'aa']).sound, 16000)
    lines = speech(
        '--task=classify', f'--input={tmp_path}/in.wav', f'--out={tmp_path}/said'
    ).splitlines()
    spans = [line.split() for line in lines[1:-1]]
    assert (
        float(spans[0][0]) == 0
        and all(a[1] == b[0] for a, b in zip(spans, spans[1:]))
        and spans[0][2] in formants.PHONES
    )
    # shorter than a window
    audio.write(tmp_path / 'short.wav', formants.utterance(999, ['s', 'aa']).sound[:800], 16000)
    short = speech(
        '--task=classify', f'--input={tmp_path}/short.wav', f'--out={tmp_path}/short'
    ).splitlines()
    assert short[-2].split()[1] == '0.06'  # six frames
    speech(
        '--task=generate',
        '--phones=s,iy',
        '--seconds=0.06',
        '--steps=2',
        f'--out={tmp_path}/new.wav',
    )
    with np.load(tmp_path / 'new.npz') as found:
        # aa eh f iy s sh uw
        assert found['features'].shape == (12, 12) and found['labels'].tolist() == [4] * 6 + [3] * 6
    assert abs(len(audio.read(tmp_path / 'new.wav', 16000)[0]) - 11 * 160) <= 160
    text = speech('--task=denoise', '--snr=10', '--steps=0', f'--out={tmp_path}/clean')
    with np.load(tmp_path / 'clean.npz') as found:
        np.testing.assert_array_equal(found['before'], found['after'])
    before, after = text.split('spectrogram ')[1].split(' dB^2 before, ')
    assert float(before) > 10 and after.startswith(f'{before} after')
    for name in ('said.png', 'new.png', 'clean.png', 'clean.wav'):
        assert (tmp_path / name).stat().st_size > 500


@pytest.mark.slow
def test_tables_of_denoising_have_a_row_for_each_way(trained, monkeypatch, capsys):
    arguments = (
        'experiments.studies.denoise_tables',
        f'--workdir={trained}',
        '--levels=10',
        '--anchors=0,1e6',
        '--recordings=2',
    )
    printed = in_process(monkeypatch, capsys, *arguments, '--steps=2', '--step_size=1e-7')
    found = json.loads((trained / 'denoise_heard.json').read_text())['ways']
    rows = {(row['noise'], row['way'], row['anchor']): row for way in found.values() for row in way}
    # without an anchor 'plain' only; no word to give, since labels are those of frames
    assert len(rows) == 2 * (3 + 1 + 5) and printed == (trained / 'denoise_heard.txt').read_text()
    errors = {name: row['mse'] for name, row in rows.items()}
    noisy, alone = errors['white', 'noisy', None], errors['white', 'alone', 1e6]
    for anchor in (1e6, 0.0):
        assert errors['white', 'plain', anchor] == pytest.approx(noisy, rel=5e-3)
    assert alone < 0.97 * noisy and errors['babble', 'gated', None] > 0
    for way in ('in noise', 'untrained', 'afterwards'):  # steps of 1e-7 see the anchor alone
        assert errors['white', way, 1e6] == pytest.approx(alone, rel=5e-3)
    # twelve mel bands, turned into features and back
    assert 0.7 < rows['white', 'clean', None]['stoi'] < 1
    # fitted to frames of voices that are not in the test
    assert rows['white', 'clean', None]['machine'] > 0.9
    assert_one_sentence(
        monkeypatch, capsys, 'left no speaker out', *arguments, '--speakers=unheard'
    )
    assert_one_sentence(monkeypatch, capsys, 'is not one of in noise', *arguments, '--ways=typo')
    nothing = [*arguments[:3], '--anchors=0', '--ways=alone']
    assert_one_sentence(monkeypatch, capsys, 'leaves no chain', *nothing)
    assert_one_sentence(monkeypatch, capsys, '--steps must be numbers', *arguments, '--steps=two')
    assert_one_sentence(monkeypatch, capsys, 'of at least 0', *arguments, '--anchors=-1')


@pytest.mark.parametrize(
    'name',
    [
        'phonemes_jem',
        'phonemes_st_jem',
        'spoken_digits_dual_mcmc',
        'spoken_digits_st_jem',
        'vowels_st_jem',
    ],
)
def test_experiments_on_speech_carry_their_command_and_build(name, tmp_path):
    module = importlib.import_module(f'experiments.{name}')
    assert (
        f'python -m experiments.{name} --workdir=' in module.__doc__
        and 'Expected' in module.__doc__
    )
    config = module.get_config()
    if name.startswith('phonemes'):
        rng = np.random.default_rng(0)
        np.savez(
            tmp_path / 'frames.npz',
            x=rng.normal(size=(160, 256)).astype(np.float32),
            y=np.arange(160) % 5,
            part=np.repeat(['train', 'test'], 80),
            label_names=['aa', 'ao', 'dcl', 'iy', 'sh'],
        )
        config.data.source, shape = f'frames:{tmp_path}/frames.npz', (1, 256, 1)
    elif name.startswith('spoken'):
        config.data.source, shape = f'fsdd:{digits_folder(tmp_path)}', (32, 40, 1)
        config.features.rate, config.batch_size = 16000, 16
    else:
        shape = (21, 40, 1)
    experiment = runs.build(module, config)
    shapes = state_shapes(experiment.recipe)
    if name.endswith('dual_mcmc'):
        assert experiment.model.spec.shape == shape and shapes.chains == ()
        return
    assert shapes.chains.buffer.position.shape[2:] == shape and shapes.chains.buffer.seen.shape == (
        config.shards,
    )
    if name.startswith('spoken'):
        config.network.wide = True
        assert {'WideBlock_0', 'WideBlock_2'} < set(
            state_shapes(runs.build(module, config).recipe).params
        )


@pytest.mark.slow
def test_dual_mcmc_teaching_makes_words(tmp_path, monkeypatch, capsys):
    """One command after the other: a run, its evaluation, a word of the generator, a recording
    after the chain of p(x), whose energy is -log sum_y exp(-E(x, y))."""
    workdir, key = tmp_path / 'run', jax.random.key(0)
    succeed(
        'experiments.spoken_digits_dual_mcmc',
        f'--workdir={workdir}',
        f'--config.data.source=fsdd:{digits_folder(tmp_path)}',
        '--config.features.rate=16000',
        '--config.features.bins=8',
        '--config.data.window=8',
        *SHORT_DUAL_MCMC,
    )
    monkeypatch.setattr(extractor, 'STEPS', 10)
    run = f'--workdir={workdir}'
    printed = in_process(
        monkeypatch, capsys, 'experiments.evaluate', run, '--fresh_per_class=8', '--resamples=3'
    )
    assert 'test windows, given their class' in printed
    summary = json.loads((workdir / 'summary.json').read_text())
    assert set(summary['ood_auroc']) == {'white', 'babble', 'inverted', 'noise'}
    opened = ebm_jax.load(workdir)
    frontend, model = opened.model.speech, opened.model
    in_process(
        monkeypatch, capsys, 'experiments.speech', run, '--task=generate', '--word=1', '--steps=0'
    )
    with np.load(workdir / 'samples' / 'generate.npz') as made:
        assert made['features'].shape == (8, 8) and set(made['labels']) == {1}
    sequence = frontend.sequence(formants.utterance(3, ['s', 'iy']).sound)
    energies = [model.energy_fn(opened.params, sequence[:8], y) for y in (0, 1)]
    assert model.marginal_energy_fn(opened.params, sequence[:8]) == pytest.approx(
        -np.logaddexp(*(-np.array(energies))), rel=1e-5
    )
    c = Denoise(step_size=2.0, noise=0.0, num_steps=1, anchor=0.0, percentile=0.0)
    (free,) = speech_quality.denoised(model, opened.params, [sequence[:8]], c)
    gradient = jax.grad(partial(model.marginal_energy_fn, opened.params))(sequence[:8])
    np.testing.assert_allclose(free, sequence[:8] - 2 * gradient, atol=1e-6)
    for says, task in (
        ('not a classifier', '--task=classify'),
        ('one energy for each of 0, 1', '--task=generate'),
    ):
        assert_one_sentence(monkeypatch, capsys, says, 'experiments.speech', run, task)
    with pytest.raises(InputError, match='one energy for each class'):
        opened.generate_sound(key, 8)
    tables = 'experiments.studies.denoise_tables'
    assert_one_sentence(monkeypatch, capsys, 'is no classifier', tables, run)
    in_process(monkeypatch, capsys, 'experiments.apply', run, '--task=inpaint', '--hide=top')
    with np.load(workdir / 'samples' / 'inpaint.npz') as filled:
        known, x = filled['known'][..., 0], filled['x']
        assert known[:, :4].all() and not known[:, 4:].any()  # the upper bands
        seen = np.broadcast_to(filled['known'], x.shape)
        np.testing.assert_array_equal(filled['filled'][seen], x[seen])
    printed = in_process(
        monkeypatch, capsys, 'experiments.apply', run, '--task=interpolate', '--samples'
    )
    assert '20 paths of 10 windows' in printed


def test_a_label_that_would_be_ignored_is_refused(tmp_path, monkeypatch, capsys):
    """One energy for all words: it can generate, and not a word."""
    network = per_example(ConvNet(1, (4,)))
    spec = replace(
        energy_spec(network, (5, 3, 1), 2),
        units=FEATURES,
        speech=model_of(None, None, by_frame=False).speech.to_json(),
    )
    params = network.init(jax.random.key(0), jnp.zeros((5, 3, 1)))
    opened = TrainedModel(model=build(spec), params=params, step=0)
    assert opened.generate_features(jax.random.key(0), 5, num_steps=1).shape == (5, 3, 1)
    with pytest.raises(InputError, match='one energy for all classes'):
        opened.generate_features(jax.random.key(0), 5, 1)
    opened.export(tmp_path / 'model')
    arguments = 'experiments.speech', f'--workdir={tmp_path}/model', '--task=generate', '--word=b'
    assert_one_sentence(monkeypatch, capsys, 'leave --word out', *arguments)
    assert 'labels' not in (tmp_path / 'model' / 'README.md').read_text()


def test_what_is_hidden_is_where_pictures_show_it():
    """Time runs to the right and frequency upwards."""
    window = ModelSpec(kind='energy', networks={}, shape=(6, 4, 1), num_classes=1, units=FEATURES)
    known = generator.known_without('right', window)[..., 0]
    assert known[:3].all() and not known[3:].any()
    known = generator.known_without('top', window)[..., 0]
    assert known[:, :2].all() and not known[:, 2:].any()
    mask = np.random.default_rng(0).random((4, 6, 1)) < 0.5
    hidden = generator.of_picture(mask, window)
    np.testing.assert_array_equal(images.spectrogram_images(hidden[None])[0], mask)
    frame = replace(window, shape=(1, 8, 1))  # frequency runs to the right
    known = generator.known_without('right', frame)[0, :, 0]
    assert known.tolist() == [True] * 4 + [False] * 4
    with pytest.raises(InputError, match='hides nothing'):
        apply.known_part('top', frame)
    with pytest.raises(InputError, match='hides everything'):
        apply.known_part('bottom', frame)


@pytest.mark.slow
@pytest.mark.parametrize(
    'flags, says',
    [
        (['--task=generate', '--phones=s,xx'], 'this run knows the phones aa, eh'),
        (['--task=generate', '--word=s'], 'give them by --phones'),
        (['--task=denoise', '--anchor=10'], 'overshoot'),
        (['--task=denoise', '--snr=nan'], '--snr must be finite'),
        (['--task=classify', '--input=nothing.wav'], 'no sound file'),
        (['--task=denoise', '--index=40'], 'there are 40 test recordings'),
    ],
)
def test_bad_requests_get_one_sentence(trained, monkeypatch, capsys, flags, says):
    assert_one_sentence(
        monkeypatch, capsys, says, 'experiments.speech', f'--workdir={trained}', *flags
    )


@pytest.mark.parametrize(
    'flags, says',
    [
        (
            ['--config.features.rate=8000'],
            'has 16000 samples per second: set --config.features.rate=16000',
        ),
        (['--config.data.source=fsdd:nowhere'], 'WORD_SPEAKER_INDEX'),
        (['--config.data.source=digits'], 'unknown speech'),
        (['--config.data.leave_out=("xx",)'], '--config.data.leave_out must name some'),
        (['--config.data.window=0'], 'at least 1'),
        (['--config.features.bins=5000'], 'too many'),
        (['--config.optimizer.learning_rate=-1.0'], 'optimizer.learning_rate must be'),
        (['--config.batch_size=0'], 'batch_size must be'),
        (['--config.denoise.anchor=10.0'], 'overshoot'),
    ],
)
def test_settings_that_cannot_be_get_one_sentence(tmp_path, monkeypatch, capsys, flags, says):
    assert_one_sentence(
        monkeypatch, capsys, says, 'experiments.vowels_st_jem', f'--workdir={tmp_path}/run', *flags
    )
    assert not (tmp_path / 'run').exists()


def test_without_its_packages_speech_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'librosa', None)
    audio._filters.cache_clear()
    audio._fft.cache_clear()
    assert_one_sentence(
        monkeypatch,
        capsys,
        'pip install -e ".[speech]"',
        'experiments.vowels_st_jem',
        f'--workdir={tmp_path}/run',
    )


def made_frames(file, levels, n=120):
    """Log-periodograms [n, 256] of noise with `levels(frequency, label)`, two labels in turn."""
    rng, frequency = np.random.default_rng(0), np.arange(1, 257) / 256 * 8000
    y = np.arange(n) % 2
    x = np.stack([levels(frequency, label) for label in y])
    x = (x + np.log(rng.exponential(size=(n, 256)))).astype(np.float32)
    part = np.repeat(['train', 'test'], [80, 40])
    np.savez(file, x=x, y=y, part=part, label_names=['s/', 'm'])
    config = phonemes_st_jem.get_config()
    config.data.source = f'frames:{file}'
    return config


def hiss_or_hum(frequency, label):
    return 8.0 * (frequency < 1000 if label else frequency > 4000)


def heard_with(config, drawn, folder):
    """The section of an untrained run whose samples are `drawn(examples, wanted labels)`."""
    experiment = runs.build(phonemes_st_jem, config)
    state = init_state(jax.random.key(0), experiment.recipe)

    def sample(key, params, wanted, **more):
        return drawn(experiment.train, wanted)

    model = SimpleNamespace(spec=experiment.model.spec, sample=sample)
    given = SimpleNamespace(train=experiment.train, test=experiment.test, model=model)
    (heard,) = experiment.evaluations
    return heard(folder, given, state)


def test_frames_are_heard_as_what_they_are(tmp_path, monkeypatch):
    """Noise in two bands: its sound, analysed again, is recognised, frames of the other label are
    not, and frames that differ in level alone cannot be told apart by their sound."""

    def of_class(train, wanted):
        return np.stack([train.x[train.y == label][i % 40] for i, label in enumerate(wanted)])

    config = made_frames(tmp_path / 'f.npz', hiss_or_hum)
    section = heard_with(config, of_class, tmp_path)
    assert section.metrics['heard_accuracy_real'] > 0.9
    assert section.metrics['heard_accuracy_generated'] > 0.9
    for shown in section.shown:
        sound, rate = soundfile.read(tmp_path / shown.file)
        assert rate == 16000 and len(sound) == 4 * (4800 + 1600) and 's/, m' in shown.caption
    hiss, hum = (np.abs(np.fft.rfft(sound[i : i + 4800])) for i in (0, 2 * 6400))
    assert hiss.argmax() * 16000 / 4800 > 3500 and hum.argmax() * 16000 / 4800 < 1200
    other = heard_with(config, lambda train, wanted: of_class(train, 1 - wanted), tmp_path)
    assert other.metrics['heard_accuracy_generated'] < 0.15
    loud = made_frames(tmp_path / 'loud.npz', lambda frequency, label: 6.0 * label + 0 * frequency)
    assert 0.2 < heard_with(loud, of_class, tmp_path).metrics['heard_accuracy_real'] < 0.8

    def missing(*given):
        raise InputError('soundfile is missing')

    monkeypatch.setattr(audio, 'write', missing)
    without = heard_with(config, of_class, tmp_path)
    assert without.metrics == section.metrics and without.shown == []
    assert 'heard_real.wav was not written: soundfile is missing' in without.lines[-1]


def test_sound_is_made_of_periodograms_alone(tmp_path):
    config = made_frames(tmp_path / 'f.npz', hiss_or_hum)
    config.data.periodograms = False
    assert runs.build(phonemes_st_jem, config).evaluations == ()
    few = {name: value for name, value in np.load(tmp_path / 'f.npz').items()}
    np.savez(tmp_path / 'few.npz', **few | {'x': few['x'][:, :18]})
    config.data.source = f'frames:{tmp_path}/few.npz'
    runs.build(phonemes_st_jem, config)
    config.data.periodograms = True
    with pytest.raises(InputError, match='frames of 18 numbers .*periodograms=false'):
        runs.build(phonemes_st_jem, config)


def test_settings_that_would_do_nothing_are_refused(tmp_path):
    for name, value, says in (
        ('data.leave_out', ('m',), 'data.leave_out is for recordings'),
        ('data.speakers', ('s1',), 'data.speakers is for recordings'),
        ('loss.late_from', 900, 'late_from=900 must be below the 900 training steps'),
    ):
        config = made_frames(tmp_path / 'f.npz', hiss_or_hum)
        config.steps = 900
        settings.update(config, {name: value})
        with pytest.raises(InputError, match=says):
            runs.build(phonemes_st_jem, config)


def test_jem_and_st_jem_on_phonemes_differ_in_their_loss_alone():
    jem, st_jem = phonemes_jem.get_config(), phonemes_st_jem.get_config()
    assert (jem.loss.balanced, jem.loss.alpha, st_jem.loss.balanced, st_jem.loss.alpha) == (
        False,
        0.0,
        True,
        1.0,
    )
    jem.loss.balanced, jem.loss.alpha = True, 1.0
    assert jem == st_jem


def test_words_and_speakers_can_be_left_out(tmp_path):
    config = speech_jem.SpeechSettings()
    config.features.bins, config.data.window, config.data.every = 12, 20, 10
    config.data.source, config.data.speakers = f'fsdd:{digits_folder(tmp_path)}', ('mia',)
    train, test, run = speech_data.prepared(config)
    assert (
        run.frontend.names == ('0', '1')
        and {r.speaker for r in run.test} == {'jo'}
        and [r.speaker for r in run.others] == ['mia'] * 8
    )
    assert train.x.shape[1:] == (20, 12, 1) and set(train.y) == set(test.y) == {0, 1}
    np.testing.assert_allclose(train.x.mean((0, 1, 3)), 0, atol=0.1)
    sets = speech_data.extra_ood(run, config.data)
    assert set(sets) == {'white', 'babble', 'other_speakers'} and sets['white']().x.shape[1:] == (
        20,
        12,
        1,
    )
    config.data.speakers, config.data.leave_out = (), (1,)  # as one types it
    settings.as_declared(config)
    train, test, run = speech_data.prepared(config)
    assert run.frontend.names == ('0',) and len(run.test) == 8 and set(train.y) == {0}
    assert len(speech_data.extra_ood(run, config.data)['held_out']().x) > 4
    config.data.leave_out = ('0', '1')
    with pytest.raises(InputError, match='not all'):
        speech_data.prepared(config)


def model_of(energy_fn, logits, by_frame, bins=3, length=5):
    """A model whose energy, with label -1 for p(x), and classifier are known. Features in network
    units are those in decibels / 4."""
    frontend = Frontend(
        audio.Analysis(bins=bins),
        audio.Scale(np.zeros(bins), np.ones(bins)),
        ('a', 'b'),
        by_frame,
        length,
        2,
    )
    classifier = Classifier(lambda params, x: logits(x))
    return SimpleNamespace(
        speech=frontend,
        classifier=classifier,
        energy_fn=energy_fn,
        marginal_energy_fn=lambda params, x: energy_fn(params, x, -1),
    )


def test_accuracy_counts_labelled_frames_and_whole_words():
    """A classifier that says b where the middle of the window is above 0; of words, where the sum
    of e^mean is."""
    x = np.zeros((8, 3, 1), np.float32)
    x[3:] = 1.0  # 8 frames: what the recordings below have

    def middle(x):
        return jnp.array([0.0, x[2, 0, 0] - 0.5])

    model = model_of(None, middle, by_frame=True)
    recording = Recording(
        'r',
        np.zeros(7 * 160),
        16000,
        (Segment(0, 5 * 160, 'a'), Segment(5 * 160, 7 * 160, 'b')),
    )
    # frames 0 to 2, 5, 6 of 0 to 6
    assert speech_quality.recognised(model, (), [x], [recording]) == pytest.approx(5 / 7)

    def mean(x):
        return jnp.array([0.0, 4 * (jnp.mean(x) - 0.5)])

    # windows from frames 0, 2 (rounded), 3: means .4, .6, 1 (of 5 frames, from 3 on)
    model = model_of(None, mean, by_frame=False)
    words = [Recording('r', np.zeros(9), 16000, (), word) for word in ('b', 'a')]
    assert speech_quality.recognised(model, (), [x, 0 * x], words) == 1.0
    assert speech_quality.recognised(model, (), [x, 0 * x], words[::-1]) == 0.0


def test_denoising_moves_every_frame_alike_and_only_its_own():
    """E = |window|^2 / 2 with shared gradients: x (1 - a)^steps everywhere, also at the edges and
    where recordings were filled up."""
    model = model_of(lambda params, x, label: 0.5 * jnp.sum(x**2), None, by_frame=True)
    sequences = [
        np.random.default_rng(i).normal(size=(n, 3, 1)).astype(np.float32)
        for i, n in enumerate((6, 11))
    ]
    c = Denoise(step_size=0.2, noise=0.0, num_steps=3, anchor=0.0, percentile=0.0)
    found = speech_quality.denoised(model, (), sequences, c)
    for before, after in zip(sequences, found):
        np.testing.assert_allclose(after, before * 0.8**3, rtol=1e-5, atol=1e-6)
    coupled = model_of(lambda params, x, label: jnp.sum((x[1:] - x[:-1]) ** 2), None, by_frame=True)
    together = speech_quality.denoised(coupled, (), sequences, c)
    for alone, beside in zip(sequences, together):
        np.testing.assert_allclose(
            speech_quality.denoised(coupled, (), [alone], c)[0], beside, atol=1e-6
        )
    assert speech_quality.spectral_error(model.speech, found[:1], sequences[:1]) == pytest.approx(
        np.mean((4 * sequences[0] * (1 - 0.8**3)) ** 2), rel=1e-4
    )


def test_denoising_by_a_class_follows_that_class():
    """E(x, y) = |window - y|^2 / 2: frames go to their sequence's label, and to -1, the label of
    p(x), without one."""
    model = model_of(lambda params, x, y: 0.5 * jnp.sum((x - y) ** 2), None, by_frame=False)
    c = Denoise(step_size=0.2, noise=0.0, num_steps=3, anchor=0.0, percentile=0.0)
    sequences = [np.zeros((6, 3, 1), np.float32)] * 2
    for labels, ends in ((np.array([1, 3]), (1, 3)), (None, (-1, -1))):
        found = speech_quality.denoised(model, (), sequences, c, labels=labels)
        for after, end in zip(found, ends):
            np.testing.assert_allclose(after, end * (1 - 0.8**3), rtol=1e-5)


def test_the_ways_of_denoising_use_their_energy_and_label(monkeypatch):
    """E(x, y) = |window - m - y|^2 / 2, m of the trained parameters 5 and of untrained ones 2, y =
    -1 for p(x); an anchor that hardly counts, but in the last steps of `afterwards`."""
    pytest.importorskip('librosa')
    model = model_of(
        lambda m, x, y: 0.5 * jnp.sum((x - m - y) ** 2),
        lambda x: jnp.array([0.0, jnp.mean(x) - 0.5]),
        by_frame=False,
    )

    def init_state(key, recipe):
        assert recipe.init_params is None  # untrained, also where the run began with another one
        return SimpleNamespace(params=jnp.float32(2))

    monkeypatch.setattr(denoise_tables, 'init_state', init_state)
    monkeypatch.setattr(Frontend, 'sound', lambda self, x: x)
    given = SimpleNamespace(before=[np.full((6, 3, 1), v, np.float32) for v in (0.0, 1.0)])
    c = Denoise(step_size=0.2, noise=0.0, num_steps=3, anchor=1e-6)
    recipe = Recipe(
        method=None,
        optimizer=None,
        batch_at=None,
        prepare=None,
        init_params=lambda: jnp.float32(5),
    )
    experiment = SimpleNamespace(model=model, recipe=recipe)
    ways = denoise_tables.ways_of(
        experiment, jnp.float32(5), given, c, ['in noise', 'alone', 'untrained', 'given word']
    )
    left = 0.8**3
    ends = {
        'in noise': (4 * (1 - left), left + 4 * (1 - left)),
        'alone': (0, 1),
        'untrained': (1 - left, 1),
        'given word': (5 * (1 - left), left + 6 * (1 - left)),  # recognised as 0 and as 1
    }
    assert set(ways) == set(ends)
    for name, expected in ends.items():
        for x, end in zip(ways[name]().sequences, expected):
            np.testing.assert_allclose(x, end, rtol=1e-3, atol=1e-3)
    (way,) = denoise_tables.ways_of(experiment, jnp.float32(5), given, c, ['afterwards']).values()
    for x, begin in zip(
        way().sequences, (0, 1)
    ):  # five steps down |x - 4|^2 / 2 + |x - begin|^2 / 2
        end = (4 + begin) / 2
        np.testing.assert_allclose(x, end + (begin - end) * 0.6**5, rtol=1e-3)


def test_intelligibility_is_one_of_the_same_sound_and_falls_with_noise():
    sounds = [formants.utterance(i, ['s', 'aa', 'iy']).sound for i in (1, 2)]
    noise = np.random.default_rng(0).normal(size=9**6).astype(np.float32)
    found = [
        denoise_tables.stoi(sounds, [x + level * noise[: len(x)] for x in sounds], 16000)
        for level in (0.0, 0.02, 0.2)
    ]
    assert found[0] == pytest.approx(1) and found == sorted(found, reverse=True) and found[2] < 0.9
    longer = [np.append(sounds[0], noise[:999]), sounds[1]]  # what comes later is left out
    assert denoise_tables.stoi(sounds, longer, 16000) == pytest.approx(1)


def test_noisy_recordings_have_their_level_and_no_part_of_themselves_in_the_babble(monkeypatch):
    recordings = [
        Recording(name, formants.utterance(seed).sound, 16000, (), 'a')
        for seed, name in enumerate('xyz')
    ]
    heard = []
    babble = audio.babble
    monkeypatch.setattr(
        audio, 'babble', lambda voices, *rest: heard.append(voices) or babble(voices, *rest)
    )
    for noise in ('white', 'babble'):
        for mixed, clean in speech_quality.in_noise(recordings, recordings, noise, 5):
            assert np.sqrt(np.mean(mixed**2)) == pytest.approx(0.1, rel=1e-4)
            np.testing.assert_allclose(
                10 * np.log10(np.mean(clean**2) / np.mean((mixed - clean) ** 2)), 5, atol=1e-2
            )
    for recording, voices in zip(recordings, heard):
        assert len(voices) == 2 and not any(
            np.array_equal(voice, recording.sound) for voice in voices
        )


def test_generated_sequences_follow_their_phones():
    """E = |window - y|^2 / 2: each frame ends at the mean label of the windows that see it. Chains
    begin at the initial distribution of the label in the middle of each window."""
    model = model_of(lambda params, x, label: 0.5 * jnp.sum((x - label) ** 2), None, by_frame=True)
    frame_labels = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    labels = frame_labels[2:8]  # of the middle of each window

    def initial(params, key, label):
        return jnp.full((model.speech.length, model.speech.analysis.bins, 1), 7.0) + label

    kernel, key = mcmc.langevin(0.5, noise_scale=0.0), jax.random.key(0)
    x = apply_sequences.generate_features(
        model.energy_fn, (), key, kernel, initial, model.speech, frame_labels, 60
    )
    begun = apply_sequences.generate_features(
        model.energy_fn, (), key, kernel, initial, model.speech, frame_labels, 0
    )
    np.testing.assert_array_equal(begun[:, 0, 0], [7.0] * 5 + [8.0] * 5)
    means = [np.mean([labels[t] for t in range(6) if t <= frame < t + 5]) for frame in range(10)]
    np.testing.assert_allclose(
        x, np.broadcast_to(np.array(means)[:, None, None], x.shape), atol=1e-4
    )


def test_pictures_show_time_to_the_right_and_single_frames_as_silhouettes():
    x = np.zeros((1, 4, 3, 1), np.float32)
    x[0, 3, 2] = 1.0  # the last frame, the highest bin
    assert np.argwhere(images.spectrogram_images(x)[0, :, :, 0]).tolist() == [[0, 3]]
    line = np.linspace(-1, 1, 8, dtype=np.float32)[None, None, :, None]
    found = images.spectrogram_images(line, height=16)
    assert found.shape == (1, 16, 8, 1) and (found[0, :, :, 0] > 0).sum(0).tolist() == [
        0,
        2,
        5,
        7,
        9,
        11,
        14,
        16,
    ]
