"""Pages that stand alone: pictures, sounds and plots inside one HTML file, without a network."""

import base64
import hashlib
import html
import io
import itertools
import pathlib
import re
import string
from collections.abc import Iterable, Sequence

from PIL import Image

from experiments.common.section import Shown

TEMPLATE = string.Template((pathlib.Path(__file__).parent / 'page.html').read_text())
KINDS = {'.png': 'image/png', '.wav': 'audio/wav'}
REFRESH = 20  # seconds after which a page that is still written is read again
_numbers = itertools.count()  # of the sliders, whose names must differ within a page

# what a drawing of ours never holds, and what could run in a page
ACTIVE = re.compile(
    r'<\s*(script|foreignObject|iframe|object|embed|animate|set|image|link|style\s*@)\b'
    r'|[\s/"\']on\w+\s*=|javascript:|@import|href\s*=\s*["\']?\s*(?!["\']?#)\w+:',
    re.I,
)


def page(title: str, parts: Iterable[str], *, unfinished: bool = False) -> str:
    """The whole file. parts: HTML, one after the other. unfinished: it will be written again, and
    an open browser reads it again."""
    refresh = f'<meta http-equiv="refresh" content="{REFRESH}">' if unfinished else ''
    # the page's own script is the only one that a browser runs
    script = TEMPLATE.template.partition('<script>')[2].partition('</script>')[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return TEMPLATE.substitute(
        title=html.escape(title),
        refresh=refresh,
        body='\n'.join(parts),
        script=f'sha256-{digest}',
    )


def figure(folder: pathlib.Path, shown: Shown) -> str:
    """Something to look at or listen to; '' where its file is not there."""
    path = folder / shown.file
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        return ''
    title, caption = html.escape(shown.title), html.escape(shown.caption)
    kind = path.suffix
    if kind == '.svg':
        drawing = path.read_text(errors='replace')
        label = f'<svg role="img" aria-label="{title}: {caption}"'
        content = drawing.replace('<svg', label, 1)
        if ACTIVE.search(html.unescape(drawing)):
            content = f'<p>{html.escape(shown.file)} is left out: it holds more than a drawing.</p>'
    elif kind == '.wav':
        content = f'<audio controls preload="none" src="{_inside(path)}"></audio>'
    elif shown.frames:
        content = _slider(path, shown)
    else:
        content = _zoomable(_inside(path), f'{title}. {caption}')
    wide = ' class="wide"' if shown.wide else ''
    return f'<figure{wide}><h3>{title}</h3>{content}<figcaption>{caption}</figcaption></figure>'


def figures(folder: pathlib.Path, shown: Sequence[Shown]) -> str:
    """Several next to each other."""
    return f'<div class="shown">{"".join(figure(folder, one) for one in shown)}</div>'


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], best: Sequence[int | None] = ()
) -> str:
    """A table; cells after the first of a row are numbers. best: of each row, the column in
    bold."""
    lines = [''.join(f'<th>{html.escape(cell)}</th>' for cell in header)]
    for row, bold in itertools.zip_longest(rows, best):
        kinds = ['', *['number'] * (len(row) - 1)]
        if bold is not None:
            kinds[bold] += ' best'
        cells = zip(kinds, row)
        lines.append(
            ''.join(f'<td class="{kind}">{html.escape(cell)}</td>' for kind, cell in cells)
        )
    body = ''.join(f'<tr>{line}</tr>' for line in lines)
    return f'<div class="table"><table>{body}</table></div>'


def folded(title: str, text: str) -> str:
    """Text that is shown on demand."""
    return (
        f'<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>'
    )


def card(title: str, value: str, interval: str, meaning: str) -> str:
    """A number that matters."""
    between = f'<small>{html.escape(interval)}</small>' if interval else ''
    return (
        f'<div class="card"><h3>{html.escape(title)}</h3><b>{html.escape(value)}</b>{between}'
        f'<small>{html.escape(meaning)}</small></div>'
    )


def _inside(path):
    return _data(path.read_bytes(), KINDS[path.suffix])


def _data(content, kind):
    return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def _zoomable(source, alt):
    return (
        '<label class="zoom"><input type="checkbox" aria-label="enlarge">'
        f'<img src="{source}" alt="{alt}"></label>'
    )


def _slider(path, shown):
    """The parts of a strip under a slider; without JavaScript the last one."""
    sources = []
    with Image.open(path) as strip:
        height = strip.height // len(shown.frames)
        for i in range(len(shown.frames)):
            content = io.BytesIO()
            part = strip.crop((0, i * height, strip.width, (i + 1) * height))
            part.save(content, 'png', optimize=True)
            sources.append(_data(content.getvalue(), KINDS['.png']))
    images = ''.join(
        f'<img hidden src="{source}" alt="{html.escape(what)}">'
        for source, what in zip(sources, shown.frames)
    )
    last, name = len(sources) - 1, f'slider-{next(_numbers)}'
    return (
        f'<div class="frames" hidden>{images}'
        f'<input type="range" id="{name}" min="0" max="{last}" value="{last}" '
        f'aria-label="{html.escape(shown.title)}: step"><output for="{name}"></output></div>'
        f'<noscript><img src="{sources[-1]}" alt="{html.escape(shown.caption)}"></noscript>'
    )
