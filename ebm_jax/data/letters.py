"""Printed letters, made here: a set that is near to digits and holds none."""

import numpy as np

from ebm_jax.data.examples import Examples

# without those that are easily taken for a digit (B, D, I, J, L, O, Q, S, Z, b, g, i, ...)
LETTERS = 'ACEFGHKMNPRTUVWXYadefhkmnprtuwxy'
SLANT, TURN, SIZES = 0.25, 12.0, (0.62, 0.82)  # shear, degrees, share of the image's height


def letters(n: int, size: int, seed: int = 0) -> Examples:
    """Letters in the fonts that come with matplotlib, white on black, each with a random font,
    size, slant, turn and place.

    Args: n: images. size: their side in pixels, at least 4.
    Returns: Examples, uint8 [n, size, size, 1]; labels are indices into LETTERS.
    Raises: ValueError for smaller sizes.
    Source: ours.
    """
    from matplotlib import font_manager
    from PIL import Image, ImageDraw, ImageFont

    if size < 4:
        raise ValueError(f'letters need at least 4 pixels a side, got {size}')
    names = ('DejaVu Sans', 'DejaVu Sans Mono', 'DejaVu Serif', 'STIXGeneral')
    files = [
        font_manager.findfont(font_manager.FontProperties(family=name, weight=weight))
        for name in names
        for weight in ('normal', 'bold')
    ]
    scale = 4 if size < 64 else 1  # drawn larger, then averaged down
    side = scale * size
    rng = np.random.default_rng([seed, size])
    images = np.zeros((n, size, size, 1), np.uint8)
    labels = rng.integers(0, len(LETTERS), n).astype(np.int32)
    fonts = [ImageFont.truetype(file, side) for file in files]
    for i, label in enumerate(labels):
        font = fonts[rng.integers(len(fonts))]
        left, top, right, bottom = font.getbbox(LETTERS[label])
        canvas = Image.new('L', (2 * side, 2 * side))
        place = side - (left + right) / 2, side - (top + bottom) / 2
        ImageDraw.Draw(canvas).text(place, LETTERS[label], 255, font)
        zoom = (bottom - top) / (rng.uniform(*SIZES) * side)  # canvas pixels of an image pixel
        turn, slant = np.deg2rad(rng.uniform(-TURN, TURN)), rng.uniform(-SLANT, SLANT)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        linear = zoom * rotation @ np.array([[1.0, slant], [0.0, 1.0]])
        middle = side / 2 + rng.uniform(-0.05, 0.05, 2) * side
        offset = np.array([side, side]) - linear @ middle
        coefficients = np.column_stack([linear, offset]).reshape(-1).tolist()
        drawn = canvas.transform(
            (side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
        )
        small = drawn.resize((size, size), Image.Resampling.BOX)
        images[i, :, :, 0] = np.asarray(small)
    return Examples('printed letters', images, labels)
