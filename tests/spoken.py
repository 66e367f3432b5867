"""Recordings of words made of vowels and noises."""

from ebm_jax import audio
from ebm_jax.data import formants


def digits_folder(root, rate=16000):
    """Two 'words' of two speakers, two recordings each for training and testing."""
    (root / 'recordings').mkdir(parents=True)
    for word, phones in (('0', ['s', 'iy']), ('1', ['aa', 'uw'])):
        for s, speaker in enumerate(('jo', 'mia')):
            for index in (0, 1, 7, 8):
                sound = formants.utterance(100 * s + 10 * int(word) + index, phones).sound
                audio.write(
                    root / 'recordings' / f'{word}_{speaker}_{index}.wav',
                    sound[:: 16000 // rate],
                    rate,
                )
    return root
