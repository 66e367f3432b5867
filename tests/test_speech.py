"""Sound, its features and the way back; label files, windows and long sequences, against what is
known of them."""

import csv
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from ebm_jax import mcmc, versions
from ebm_jax.apply import sequences as apply_speech
from ebm_jax.errors import InputError

pytest.importorskip('librosa', reason='the extra `speech` is not installed')
import soundfile  # noqa: E402
from praatio import textgrid  # noqa: E402
from tfds_sets import prepare  # noqa: E402

from ebm_jax import audio, data  # noqa: E402
from ebm_jax.data import formants, recordings, windows  # noqa: E402

A16 = audio.Analysis()
PHONES = pathlib.Path(__file__).parent.parent.parent / 'shared' / 'data' / 'speech_phones_mini.npz'


def tone(frequency, seconds=0.5, rate=16000, level=0.1):
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


@pytest.mark.parametrize('frequency', [300, 1000, 4000])
def test_a_tone_stands_in_the_mel_bin_of_its_frequency(frequency):
    """Slaney's mel scale: 200/3 Hz a mel below 1 kHz, 27 mels from there to 6.4 kHz; bins 82 edges
    apart evenly from 0 to 8 kHz."""

    def mel(f):
        return f * 3 / 200 if f < 1000 else 15 + 27 * np.log(f / 1000) / np.log(6.4)

    found = audio.log_mel(tone(frequency), A16)
    assert found.shape == (51, 80)
    expected = mel(frequency) / mel(8000) * 81 - 1
    assert np.all(np.abs(found[5:-5].argmax(1) - expected) <= 0.75)


def test_levels_are_decibels_after_the_pre_emphasis():
    """Ten times the amplitude is 20 dB more; pre-emphasis weighs a tone by |1 - .97 exp(-i w)|."""
    loud, soft = (
        audio.log_mel(tone(1000, level=level), A16)[10:-10].max(1) for level in (0.5, 0.05)
    )
    np.testing.assert_allclose(loud - soft, 20, atol=1e-2)
    with_it, without = (
        audio.log_mel(tone(1000), A16._replace(preemphasis=c))[10:-10].max(1) for c in (0.97, 0.0)
    )
    gain = 20 * np.log10(np.abs(1 - 0.97 * np.exp(-2j * np.pi * 1000 / 16000)))
    np.testing.assert_allclose(with_it - without, gain, atol=0.05)
    assert np.ptp(
        audio.log_mel(np.concatenate([tone(1000), np.zeros(8000, np.float32)]), A16)
    ) == pytest.approx(audio.RANGE, abs=1e-3)


def test_sound_comes_back_from_its_features():
    """A tone keeps its frequency and its level; what is analysed again is what was given."""
    sound = tone(1000) + tone(2500, level=0.03)
    features = audio.log_mel(sound, A16)
    again = audio.to_sound(features, A16)
    spectrum = np.abs(np.fft.rfft(again[800:7200])) / 3200
    peak = np.argmax(spectrum) / 6400 * 16000
    assert abs(peak - 1000) < 40 and 0.05 < np.sqrt(np.mean(again**2)) * 2**0.5 < 0.2
    loudest = features[5:45] > features.max() - 25
    difference = (audio.log_mel(again, A16)[5:45] - features[5:45])[loudest]
    assert np.abs(np.median(difference)) < 1 and np.sqrt(np.mean(difference**2)) < 5


def resonances(*hertz, rate=16000, width=200):
    """(coefficients of 1 / A, log power at (1, ..., 256) rate / 512) of an all-pole filter."""
    a = np.ones(1)
    for frequency in hertz:
        radius, angle = np.exp(-np.pi * width / rate), 2 * np.pi * frequency / rate
        a = np.convolve(a, [1, -2 * radius * np.cos(angle), radius**2])
    _, response = signal.freqz(1, a, worN=np.pi * np.arange(1, 257) / 256)
    return a, 2 * np.log(np.abs(response))


def test_a_periodogram_is_that_of_scipy():
    sound = np.random.default_rng(0).normal(size=512)
    _, power = signal.periodogram(sound, detrend=False, scaling='spectrum')
    ratio = audio.log_periodogram(sound)[:-1] - np.log(power[1:-1])
    np.testing.assert_allclose(ratio, np.log(512**2 / 2), atol=1e-9)  # 2 / N^2 there
    assert np.isfinite(audio.log_periodogram(np.zeros(512))).all()


def test_a_spectrum_becomes_a_sound_with_its_resonances():
    """An all-pole spectrum is kept as it is: hiss at 3 and 5 kHz, by Welch's estimate."""
    _, log_power = resonances(3000, 5000)
    sound = audio.source_filter(log_power, 16000, seconds=20, order=4, seed=1)
    assert len(sound) == 320000 and abs(np.sqrt(np.mean(sound**2)) - 0.1) < 1e-3
    _, found = signal.welch(sound, 16000, nperseg=512)
    difference = np.log(found[1:]) - log_power
    difference -= difference.mean()
    assert np.abs(10 / np.log(10) * difference)[2:-2].max() < 1  # dB
    again = audio.source_filter(log_power + 3, 16000, seconds=20, order=4, seed=1)
    np.testing.assert_allclose(again, sound, atol=1e-5)  # a level carries no information


def test_low_spectra_are_voiced_at_the_pitch_that_was_asked_for():
    _, log_power = resonances(500, 1500)
    for pitch in (100, 160):
        sound = audio.source_filter(log_power, 16000, seconds=0.5, pitch=pitch)
        middle = sound[3000:5000] - sound[3000:5000].mean()
        lags = np.correlate(middle, middle, 'full')[len(middle) - 1 :]
        period = 60 + np.argmax(lags[60:300])
        assert abs(16000 / period / pitch - 1) < 0.03
        assert lags[period] > 0.7 * lags[0]
        assert np.abs(sound[[0, -1]]).max() == 0


def test_what_is_no_spectrum_has_no_sound():
    for wrong in (np.zeros((2, 256)), np.zeros(18), np.full(256, np.nan)):
        with pytest.raises(ValueError, match='log-periodogram'):
            audio.source_filter(wrong, 16000)


def test_normalised_features_have_a_spread_of_one_quarter_and_come_back():
    rng = np.random.default_rng(0)
    features = rng.normal((3.0, -20.0), (1.0, 5.0), (5000, 2)).astype(np.float32)
    scale = audio.scale_of([features[:2000], features[2000:]])
    units = scale.to_units(features)
    np.testing.assert_allclose(units.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(units.std(0), 1 / audio.SPAN, rtol=2e-3)
    np.testing.assert_allclose(
        scale.to_decibels(units)[np.abs(units) < 1], features[np.abs(units) < 1], atol=1e-3
    )
    assert scale.to_units(np.array([1e3, -1e3])).tolist() == [1, -1]


def test_noise_is_added_at_its_level():
    sound = tone(500)
    for noise in (audio.white_noise(3000, 0), audio.babble([tone(300), tone(700)], 9000, 1)):
        for level in (0, 10):
            added = audio.add_noise(sound, noise, level) - sound
            np.testing.assert_allclose(
                10 * np.log10(np.mean(sound**2) / np.mean(added**2)), level, atol=1e-3
            )
    np.testing.assert_allclose(np.sqrt(np.mean(audio.levelled(sound) ** 2)), 0.1, rtol=1e-5)
    np.testing.assert_allclose(audio.levelled(3 * sound), audio.levelled(sound), rtol=1e-5)
    assert audio.levelled(np.zeros(5, np.float32)).tolist() == [0] * 5
    with pytest.raises(InputError, match='silent'):
        audio.add_noise(sound, np.zeros(5), 0)


def write_wav(path, sound, rate=16000):
    soundfile.write(path, sound, rate, subtype='FLOAT')
    return path


def test_bad_sound_gets_one_sentence(tmp_path):
    cases = {
        'holds no sound': np.zeros(0),
        'samples that are not finite': np.array([0.0, np.nan, 1.0]),
        '2 channels': np.zeros((50, 2)),
    }
    for says, sound in cases.items():
        with pytest.raises(InputError, match=says):
            audio.read(write_wav(tmp_path / 'a.wav', sound))
    write_wav(tmp_path / 'a.wav', tone(500))
    with pytest.raises(InputError, match='16000 samples per second, but 8000'):
        audio.read(tmp_path / 'a.wav', 8000)
    (tmp_path / 'cut.wav').write_bytes((tmp_path / 'a.wav').read_bytes()[:20])
    with pytest.raises(InputError, match='cannot be read as sound'):
        audio.read(tmp_path / 'cut.wav')
    with pytest.raises(InputError, match='no sound file'):
        audio.read(tmp_path / 'none.wav')
    with pytest.raises(InputError, match='too many'):
        audio.check(audio.Analysis(rate=8000, bins=3000))
    for settings in (dict(hop=1e-5), dict(window=1e-5, hop=1e-5), dict(window=float('inf'))):
        with pytest.raises(InputError, match='features need'):
            audio.check(audio.Analysis(**settings))


def test_what_is_written_is_read_again(tmp_path):
    audio.write(tmp_path / 'out' / 'a.wav', tone(500), 8000)
    sound, rate = audio.read(tmp_path / 'out' / 'a.wav')
    assert rate == 8000
    np.testing.assert_allclose(sound, tone(500), atol=1e-4)
    audio.write(tmp_path / 'loud.wav', 4 * tone(500, level=1.0), 8000)
    assert 0.99 < np.abs(audio.read(tmp_path / 'loud.wav')[0]).max() <= 1.0


ROWS = [(0.0, 0.1, 's'), (0.1, 0.234, 'iy'), (0.3, 0.45, 'sh')]


def textgrid_of(path, rows, tier='phones'):
    grid = textgrid.Textgrid()
    grid.addTier(textgrid.IntervalTier('words', [(0.0, 0.45, 'she')], 0, 0.5))
    grid.addTier(textgrid.IntervalTier(tier, rows, 0, 0.5))
    grid.save(str(path), 'short_textgrid', includeBlankSpaces=True)


def labelled_folder(root, ending):
    for split in ('train', 'test'):
        (root / split / 'someone').mkdir(parents=True)
        file = write_wav(root / split / 'someone' / 'a.wav', tone(500))
        if ending == '.TextGrid':
            textgrid_of(file.with_suffix(ending), ROWS)
        elif ending == '.lab':
            lines = [
                f'{round(start * 1e7)} {round(end * 1e7)} {phone}' for start, end, phone in ROWS
            ]
            file.with_suffix(ending).write_text('\n'.join(lines) + '\n')
        else:
            with file.with_suffix(ending).open('w', newline='') as out:
                csv.writer(out).writerows([('start', 'end', 'phone'), *ROWS])
    return root


@pytest.mark.parametrize('ending', ['.TextGrid', '.lab', '.csv'])
def test_label_files_of_three_kinds_say_the_same(tmp_path, ending):
    (recording,) = recordings.folder(labelled_folder(tmp_path, ending), 'train')
    assert recording.speaker == 'someone'
    assert (
        recording.segments == ((0, 1600, 's'), (1600, 3744, 'iy'), (4800, 7200, 'sh'))
        and recording.rate == 16000
    )


@pytest.mark.skipif(not PHONES.exists(), reason='speech_phones_mini is not in ../shared/data')
def test_real_phones_come_through_a_textgrid(tmp_path):
    """A manually labelled utterance, written as wav and TextGrid by other libraries and read
    again."""
    with np.load(PHONES, allow_pickle=False) as pack:
        of_first = pack['seg_utt'] == 0
        rows = list(
            zip(
                pack['seg_start'][of_first],
                pack['seg_end'][of_first],
                map(str, pack['seg_phone'][of_first]),
            )
        )
        sound, rate = (
            pack['audio'][: pack['offsets'][1]] / np.float32(32768),
            int(pack['sample_rate'][0]),
        )
    (tmp_path / 'train').mkdir()
    soundfile.write(tmp_path / 'train' / 'a.wav', sound, rate, subtype='PCM_16')
    grid = textgrid.Textgrid()
    grid.addTier(textgrid.IntervalTier('segments', rows, 0, len(sound) / rate))
    grid.save(str(tmp_path / 'train' / 'a.TextGrid'), 'long_textgrid', includeBlankSpaces=True)
    (recording,) = recordings.folder(tmp_path, 'train')
    assert [segment.phone for segment in recording.segments] == [phone for _, _, phone in rows]
    np.testing.assert_allclose(
        [segment.start / rate for segment in recording.segments],
        [start for start, _, _ in rows],
        atol=1e-4,
    )
    analysis = audio.Analysis(rate=rate)
    phones, centres = (
        windows.frame_phones(recording, analysis),
        0.01 * np.arange(analysis.frames(len(sound))),
    )
    for start, end, phone in rows:
        assert {
            phones[i] for i in np.flatnonzero((centres > start + 1e-4) & (centres < end - 1e-4))
        } <= {phone}


def test_bad_label_files_get_one_sentence(tmp_path):
    root = labelled_folder(tmp_path, '.csv')
    label = root / 'train' / 'someone' / 'a.csv'
    for text, says in (
        ('0,0.1\n', 'cannot be read as labels'),
        ('0,0.2,s\n0.1,0.3,iy\n', 'overlaps'),
        ('0,9,s\n', 'beyond'),
        ('0.2,0.1,s\n', 'is empty'),
        ('', 'labels nothing'),
    ):
        label.write_text(text)
        with pytest.raises(InputError, match=says):
            recordings.folder(root, 'train')
    label.unlink()
    with pytest.raises(InputError, match='needs one label file'):
        recordings.folder(root, 'train')
    with pytest.raises(InputError, match='no sound files'):
        recordings.folder(tmp_path / 'nothing', 'train')
    text = '0,inf,s\n'
    label.write_text(text)
    with pytest.raises(InputError, match='not finite'):
        recordings.folder(root, 'train')
    label.unlink()
    textgrid_of(label.with_suffix('.TextGrid'), ROWS)
    grid = label.with_suffix('.TextGrid').read_text()
    # ends before it begins
    label.with_suffix('.TextGrid').write_text(grid.replace('0.234', '0.034'))
    with pytest.raises(InputError, match='cannot be read as labels'):
        recordings.folder(root, 'train')
    textgrid_of(label.with_suffix('.TextGrid'), ROWS, tier='unheard of')
    with pytest.raises(InputError, match='2 interval tiers'):
        recordings.folder(root, 'train')


def test_labels_stand_at_window_centres_to_the_sample():
    """A frame's centre is sample 160 i: the first that belongs to a segment is its start, the last
    its end - 1."""
    recording = recordings.Recording(
        'r',
        tone(500, 0.1),
        16000,
        (recordings.Segment(160, 480, 'a'), recordings.Segment(481, 641, 'b')),
    )
    assert windows.frame_phones(recording, A16) == [
        '',
        'a',
        'a',
        '',
        'b',
        '',
        '',
        '',
        '',
        '',
        '',
    ]
    features = np.arange(11 * 80, dtype=np.float32).reshape(11, 80)
    found = audio.windows(features, 5)
    assert found.shape == (11, 5, 80)
    np.testing.assert_array_equal(found[:, 2], features)
    np.testing.assert_array_equal(found[0, :2], features[[0, 0]])
    np.testing.assert_array_equal(found[-1, 2:], features[[-1, -1, -1]])
    even = audio.windows(features, 4)
    np.testing.assert_array_equal(even[:, 2], features)
    np.testing.assert_array_equal(even[3], features[1:5])
    scale = audio.Scale(np.zeros(80, np.float32), np.full(80, 1e3, np.float32))
    examples = windows.phone_windows([recording], [features], A16, scale, 5, ('b', 'a'))
    assert examples.y.tolist() == [1, 1, 0] and examples.x.shape == (3, 5, 80, 1)
    np.testing.assert_allclose(examples.x[:, 2, :, 0], features[[1, 2, 4]] / 4e3, rtol=1e-5)
    # frame 4 says b
    without = windows.phone_windows([recording], [features], A16, scale, 5, ('a',), avoid=('b',))
    assert without.y.tolist() == [0] and np.allclose(without.x[0, 2, :, 0], features[1] / 4e3)
    with pytest.raises(InputError, match='no frame'):
        windows.phone_windows([recording], [features], A16, scale, 5, ('c',))


def test_windows_cover_whole_recordings():
    features = np.arange(23, dtype=np.float32)[:, None]
    found = windows.cover(features, 10, 5)[..., 0]
    assert (
        found[:, 0].tolist() == [0, 4, 9, 13]
        and found[-1, -1] == 22
        and np.all(np.diff(found) == 1)
    )
    np.testing.assert_array_equal(
        windows.cover(features[:4], 10, 5)[..., 0], [[0, 0, 0, 0, 1, 2, 3, 3, 3, 3]]
    )


@pytest.mark.parametrize('seconds', [0.05, 0.4])
def test_a_recording_is_seen_in_use_as_it_was_in_training(seconds):
    scale = audio.Scale(np.full(12, -40, np.float32), np.full(12, 10, np.float32))
    recording = recordings.Recording(
        'r', tone(700, seconds), 16000, (recordings.Segment(0, 500, 'a'),), 'a'
    )
    for by_frame in (False, True):
        frontend = windows.Frontend(
            audio.Analysis(bins=12), scale, ('a',), by_frame, 20, 5 if not by_frame else 1
        )
        trained, used = (
            frontend.windows([recording]).x,
            frontend.views(frontend.sequence(recording.sound)),
        )
        np.testing.assert_array_equal(trained, used[: len(trained)] if by_frame else used)
    with pytest.raises(InputError, match='diverged'):
        frontend.sound(np.full((4, 12, 1), np.nan))
    assert np.abs(frontend.sound(np.full((30, 12, 1), 50.0))).max() < 100  # 50 is cut to 1


def test_fsdd_in_both_layouts(tmp_path):
    sounds = {
        f'{word}_{speaker}_{index}': tone(200 + 50 * word, 0.05 + 0.01 * index, 8000)
        for word in (0, 7)
        for speaker in ('jo', 'mia')
        for index in (0, 4, 5)
    }
    (tmp_path / 'recordings').mkdir()
    for name, sound in sounds.items():
        audio.write(tmp_path / 'recordings' / f'{name}.wav', sound, 8000)
    train = recordings.fsdd(tmp_path, 'train')
    assert [r.name for r in train] == ['0_jo_5', '0_mia_5', '7_jo_5', '7_mia_5'] and len(
        recordings.fsdd(tmp_path, 'test')
    ) == 8
    assert (train[2].word, train[2].speaker, train[2].rate) == ('7', 'jo', 8000)
    ends = np.cumsum([0, *map(len, sounds.values())])
    parts = [name.split('_') for name in sounds]
    np.savez(
        tmp_path / 'pack.npz',
        audio=np.round(np.concatenate(list(sounds.values())) * 32767).astype(np.int16),
        offsets=ends,
        y=[int(p[0]) for p in parts],
        speaker=[['jo', 'mia'].index(p[1]) for p in parts],
        index=[int(p[2]) for p in parts],
        speaker_names=['jo', 'mia'],
        sample_rate=8000,
    )
    packed = recordings.fsdd(tmp_path / 'pack.npz', 'train')
    assert [(r.name, r.word, r.speaker, r.rate) for r in packed] == [
        (r.name, r.word, r.speaker, r.rate) for r in train
    ]
    np.testing.assert_allclose(packed[3].sound, train[3].sound, atol=1e-4)
    with pytest.raises(InputError, match='WORD_SPEAKER_INDEX'):
        recordings.fsdd(tmp_path / 'none', 'train')
    with np.load(tmp_path / 'pack.npz') as pack:
        arrays = dict(pack)
    for change, says in (
        ({'speaker': np.full(12, 2)}, 'speaker_names'),
        ({'index': np.zeros(12, int)}, 'no recordings of this split'),
    ):
        np.savez(tmp_path / 'bad.npz', **{**arrays, **change})
        with pytest.raises(InputError, match=says):
            recordings.fsdd(tmp_path / 'bad.npz', 'train')
    np.savez(tmp_path / 'bad.npz', audio=np.zeros(3))
    with pytest.raises(InputError, match='needs offsets'):
        recordings.fsdd(tmp_path / 'bad.npz', 'train')


def test_frames_are_normalised_over_the_training_part(tmp_path):
    rng = np.random.default_rng(0)
    x, part = (
        rng.normal(5, 3, (40, 16)).astype(np.float32),
        np.array(['train'] * 30 + ['test'] * 10),
    )
    np.savez(tmp_path / 'f.npz', x=x, y=np.arange(40) % 3, part=part, label_names=['aa', 'iy', 's'])
    train, test, names, scale = recordings.frames(tmp_path / 'f.npz')
    assert (
        train.x.shape == (30, 1, 16, 1)
        and test.x.shape == (10, 1, 16, 1)
        and names == ('aa', 'iy', 's')
    )
    by_hand = (x[30:] - x[:30].mean(0)) / (4 * x[:30].std(0))
    np.testing.assert_allclose(test.x[:, 0, :, 0], np.clip(by_hand, -1, 1), atol=2e-3)
    inside = np.abs(by_hand) < 0.99
    back = scale.to_decibels(test.x[:, 0, :, 0])
    np.testing.assert_allclose(back[inside], x[30:][inside], atol=1e-2)
    for change, says in (
        ({'y': np.full(40, 3)}, 'from 0 to 2'),
        ({'x': np.full((40, 16), np.nan)}, 'finite floats'),
        ({'part': np.array(['train'] * 40)}, 'every label a training frame'),
        ({'y': np.r_[np.arange(30) % 2, np.arange(10) % 3]}, 'a training frame'),
    ):
        np.savez(
            tmp_path / 'f.npz',
            **{
                'x': x,
                'y': np.arange(40) % 3,
                'part': part,
                'label_names': ['aa', 'iy', 's'],
                **change,
            },
        )
        with pytest.raises(InputError, match=says):
            recordings.frames(tmp_path / 'f.npz')


def test_recordings_of_a_prepared_tfds_set(tmp_path):
    import tensorflow_datasets as tfds

    features = {
        'audio': tfds.features.Tensor(shape=(None,), dtype=np.int64),
        'label': tfds.features.ClassLabel(names=['no', 'yes']),
    }
    prepare(
        tmp_path,
        'MyWords',
        features,
        {'train': [{'audio': np.arange(50 + i), 'label': i} for i in range(2)]},
    )
    found = recordings.tfds('my_words', 'train', str(tmp_path))
    assert (
        sorted((len(r.sound), r.word) for r in found) == [(50, '0'), (51, '1')]
        and found[0].sound.max() < 51 / 32768
    )
    assert len(recordings.tfds('my_words', 'train[:50%]', str(tmp_path))) == 1
    with pytest.raises(InputError, match='cannot be read as recordings'):
        recordings.tfds('no_such_set', 'train', str(tmp_path))
    with pytest.raises(InputError, match='cannot be read as recordings'):
        recordings.tfds('my_words', 'train', str(tmp_path), label='speaker')


def test_synthetic_phones_have_the_formants_and_bands_of_their_labels():
    """The strongest frequencies under each label lie where its generator puts them."""
    rng = np.random.default_rng(0)
    frequencies = np.fft.rfftfreq(8192, 1 / formants.RATE)
    for name in formants.PHONES:
        power = np.abs(np.fft.rfft(formants.phone(name, 8192, rng, 120.0, 1.0))) ** 2
        if name in formants.VOWELS:
            # the strongest harmonic of 120 Hz near a formant is its neighbour
            for formant in formants.VOWELS[name][:2]:
                near = np.abs(frequencies - formant) < 200
                assert abs(frequencies[near][np.argmax(power[near])] - formant) < 75, (
                    name,
                    formant,
                )
        else:
            low, high = formants.FRICATIVES[name]
            assert power[(frequencies > low) & (frequencies < high)].sum() > 0.9 * power.sum(), name


def test_synthetic_labels_are_exact():
    recording = formants.utterance(5, ['s', 'aa', 'f'])
    assert [segment.phone for segment in recording.segments] == [
        's',
        'aa',
        'f',
    ] and recording.segments[0].start == 800
    assert all(a.end == b.start for a, b in zip(recording.segments, recording.segments[1:]))
    assert len(recording.sound) == recording.segments[-1].end + 800

    def level(segment):
        return np.sqrt(np.mean(recording.sound[segment.start + 200 : segment.end - 200] ** 2))

    s, aa, f = map(level, recording.segments)
    np.testing.assert_allclose([s / aa, f / aa], [0.25, 0.08], rtol=0.15)
    assert np.abs(recording.sound[:800]).max() < 1e-2
    again = formants.utterance(5, ['s', 'aa', 'f'])
    np.testing.assert_array_equal(again.sound, recording.sound)
    assert {r.name for r in formants.vowels('train')}.isdisjoint(
        r.name for r in formants.vowels('test')
    )


def test_each_frame_is_covered_by_the_windows_that_see_it():
    assert apply_speech.coverage(7, 3, 1).tolist() == [1, 2, 3, 3, 3, 2, 1]
    # begins 0, 3, 5
    assert apply_speech.coverage(9, 4, 3).tolist() == [1, 1, 1, 2, 1, 2, 2, 1, 1]
    with pytest.raises(ValueError):
        apply_speech.coverage(3, 4, 1)


def test_filling_behind_a_sequence_has_no_part_in_it():
    """Windows, coverage, energy and gradient of 9 frames, alone and at the head of 14, also where
    the number is traced."""
    energy, x = (
        random_energy(4, 3),
        np.random.default_rng(0).normal(size=(14, 3, 1)).astype(np.float32),
    )
    for every in (1, 3):
        alone = jax.value_and_grad(apply_speech.sequence_energy(energy, 4, every))(x[:9])
        filled = jax.jit(
            lambda n, every=every: jax.value_and_grad(
                apply_speech.sequence_energy(energy, 4, every, within=n)
            )(x)
        )(9)
        np.testing.assert_allclose(filled[0], alone[0], rtol=1e-5)
        np.testing.assert_allclose(
            filled[1], np.concatenate([alone[1], np.zeros((5, 3, 1))]), atol=1e-5
        )
        assert apply_speech.coverage(14, 4, every, 9).tolist() == [
            *apply_speech.coverage(9, 4, every).tolist(),
            0,
            0,
            0,
            0,
            0,
        ]


def random_energy(length, bins):
    w = jax.random.normal(jax.random.key(1), (3, length, bins, 1))
    return lambda x, label: jnp.sum(jnp.sin(w[label] * x)) + jnp.sum(x**4)


@pytest.mark.parametrize('every', [1, 2])
def test_the_gradient_of_a_long_sequence_is_that_of_the_sum_of_its_windows(every):
    """By central differences, in double precision; divided by the coverage where that is shared."""
    with versions.enable_x64(True):
        length, x = 4, np.random.default_rng(0).normal(size=(9, 3, 1))
        begins = np.asarray(apply_speech.begins(9, length, every)[0])
        labels = np.arange(len(begins)) % 3
        window_energy = random_energy(length, 3)

        def whole(x):
            return sum(
                float(window_energy(x[begin : begin + length], label))
                for begin, label in zip(begins, labels)
            )

        plain, shared = (
            apply_speech.sequence_energy(window_energy, length, every, labels, shared=flag)
            for flag in (False, True)
        )
        assert plain(x) == pytest.approx(whole(x)) and shared(x) == pytest.approx(whole(x))
        slopes = np.zeros_like(x)
        for i in np.ndindex(x.shape):
            step = np.zeros_like(x)
            step[i] = 1e-5
            slopes[i] = (whole(x + step) - whole(x - step)) / 2e-5
        np.testing.assert_allclose(jax.grad(plain)(x), slopes, rtol=1e-6, atol=1e-8)
        covered = np.asarray(apply_speech.coverage(9, length, every))[:, None, None]
        np.testing.assert_allclose(jax.grad(shared)(x), slopes / covered, rtol=1e-6, atol=1e-8)


def test_denoising_ends_between_the_energy_and_the_anchor():
    """E = |x|^2 / 2 and lambda |x - x0|^2 meet at x0 2 lambda / (1 + 2 lambda); without an anchor
    at 0."""
    x, kernel = jnp.full((5, 2, 1), 0.7), mcmc.langevin(0.1, noise_scale=0.0)

    def end(anchor):
        return apply_speech.denoise(
            jax.random.key(0), lambda u: 0.5 * jnp.sum(u**2), kernel, x, 400, anchor
        )

    np.testing.assert_allclose(end(0.0), 0.0, atol=1e-6)
    np.testing.assert_allclose(end(1.5), 0.7 * 3 / 4, rtol=1e-4)


def test_noise_adds_its_power_and_frees_what_it_drowns():
    """Equal powers are 3 dB more; far above the noise nothing changes, far below it the noise is
    seen and no gradient is left."""
    mean, std = np.array([-20.0, -30.0]), np.array([40.0, 20.0])
    noise = np.array([-20.0, -30.0])
    observe = apply_speech.in_noise(noise, mean, std)

    def units(decibels):
        return jnp.asarray((decibels - mean) / std)[None, :, None]

    def found(decibels):
        return np.asarray(observe(units(decibels)))[0, :, 0] * std + mean

    np.testing.assert_allclose(found(noise), noise + 10 * np.log10(2), atol=1e-4)
    np.testing.assert_allclose(found(noise + 40), noise + 40, atol=1e-3)
    np.testing.assert_allclose(found(noise - 40), noise, atol=1e-3)
    slope = jax.grad(lambda u: jnp.sum(observe(u)))
    np.testing.assert_allclose(slope(units(noise + 40)), 1, atol=1e-3)
    np.testing.assert_allclose(slope(units(noise - 40)), 0, atol=1e-3)
    np.testing.assert_allclose(slope(units(noise)), 0.5, atol=1e-4)


def test_denoising_compares_what_it_would_observe():
    """Without an energy the anchor alone finds the clean level under known noise, where the noise
    leaves it to be seen."""
    noise, mean, std = np.zeros(1), np.zeros(1), np.full(1, 40.0)
    observe, kernel = apply_speech.in_noise(noise, mean, std), mcmc.langevin(0.2, noise_scale=0.0)
    clean = jnp.array([[[3.0 / 40]], [[12.0 / 40]]])
    found = apply_speech.denoise(
        jax.random.key(0), lambda u: 0.0, kernel, observe(clean), 400, 1.0, observe
    )
    np.testing.assert_allclose(found, clean, atol=1e-3)


def test_logits_of_windows_pool_to_those_of_the_recording():
    logits = np.random.default_rng(0).normal(size=(6, 4))
    np.testing.assert_allclose(
        apply_speech.pooled_logits(logits), np.log(np.exp(logits).mean(0)), rtol=1e-5
    )
    windows, slopes = jnp.asarray(logits[:, :3, None, None]), jnp.arange(12.0).reshape(3, 4)
    by_hand = np.log(np.exp(logits[:, :3] @ np.arange(12.0).reshape(3, 4)).mean(0))
    np.testing.assert_allclose(
        apply_speech.pooled_logits(windows[..., 0, 0] @ slopes), by_hand, rtol=1e-4
    )
    phones = np.array([0, 0, 1, 1, 2, 2, 2])
    assert apply_speech.labels_along(phones, 7, 3, 2).tolist() == [0, 1, 2]


def test_features_take_the_place_of_images_in_changes_of_a_set():
    x = np.random.default_rng(0).uniform(-1, 1, (6, 4, 3, 1)).astype(np.float32)
    examples = data.Examples('frames', x, np.arange(6, dtype=np.int32))
    np.testing.assert_array_equal(data.inverted(examples).x, -x)
    mixed = data.mixed(examples)
    assert mixed.x.dtype == np.float32 and np.allclose(
        np.sort(mixed.x.sum(0).ravel()), np.sort(x.sum(0).ravel()), atol=1e-5
    )
    noise = data.uniform_noise(examples).x
    assert (
        noise.dtype == np.float32
        and noise.shape == x.shape
        and -1 <= noise.min() < -0.8
        and 0.8 < noise.max() <= 1
    )
