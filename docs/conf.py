"""The documentation site: `make docs`."""

import inspect
import os
import pathlib
import re
import shutil
import sys

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
# notebooks are executed in a folder of their own, and find the clone by this
os.environ['PYTHONPATH'] = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['TQDM_DISABLE'] = '1'  # bars are for eyes that watch
if os.environ.get('EBM_JAX_SMALL'):  # a check that all cells run; as in tests/conftest.py
    fast = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {fast}'

from docutils import nodes  # noqa: E402
from latex2mathml import converter  # noqa: E402

import ebm_jax  # noqa: E402

# the sources are in notebooks/; here they are pages
TUTORIALS = ROOT / 'docs' / 'tutorials'
TUTORIALS.mkdir(exist_ok=True)
for notebook in (ROOT / 'notebooks').glob('*.ipynb'):
    shutil.copy(notebook, TUTORIALS)

project = 'ebm_jax'
author = 'The ebm_jax authors'
release = version = ebm_jax.__version__
extensions = ['sphinx.ext.autodoc', 'sphinx.ext.viewcode', 'myst_nb']
source_suffix = {'.md': 'myst-nb', '.ipynb': 'myst-nb'}
exclude_patterns = ['_build', '**.ipynb_checkpoints']
html_theme = 'sphinx_book_theme'
html_title = 'ebm_jax'
html_static_path = ['_static']
html_css_files = ['site.css']
html_theme_options = {'show_toc_level': 2}
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'deflist']
myst_heading_anchors = 3
html_math_renderer = 'mathml'  # formulas without a script and without a network

nb_execution_mode = 'force'
nb_execution_in_temp = True
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_merge_streams = True
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_typehints_format = 'short'
python_use_unqualified_type_names = True

SECTION = re.compile(
    r'^(Args|Returns|Raises|Attributes|Source|Traces|Examples?|Takes|Writes)\b(.*?): ?(.*)$'
)


def as_pages(app, what, name, obj, options, lines):
    """The docstrings of the library as reStructuredText: prose, then equations and sections as they
    stand, in fixed width."""
    text = inspect.cleandoc('\n'.join(lines))
    out = []
    for block in re.split(r'\n\s*\n', text):
        begin, *rest = block.split('\n')
        if section := SECTION.match(begin):
            out += [f'**{section[1]}{section[2]}**', '', '.. code-block:: text', '']
            found = ([section[3]] if section[3] else []) + [
                line[2:] if line.startswith('  ') else line for line in rest
            ]
            nested = []
            for line in found:  # further sections of the same block
                if further := SECTION.match(line):
                    out += [f'   {line}' for line in nested]
                    out += ['', f'**{further[1]}{further[2]}**', '', '.. code-block:: text', '']
                    nested = [further[3]] if further[3] else []
                else:
                    nested.append(line)
            out += [*(f'   {line}' for line in nested), '']
        elif begin.startswith('    '):
            out += [
                '.. code-block:: text',
                '',
                *(f'   {line[4:]}' for line in block.split('\n')),
                '',
            ]
        else:
            prose = ' '.join(line.strip() for line in block.split('\n'))
            out += [_escaped(prose), '']
    lines[:] = out


def _escaped(prose):
    """Prose without the marks of reStructuredText, but for `names`."""
    pieces = re.split(r'(`[^`]+`)', prose)
    return ''.join(
        rf'\ ``{piece[1:-1]}``\ ' if piece.startswith('`') else re.sub(r'([*_|\\])', r'\\\1', piece)
        for piece in pieces
    ).strip()


def to_tutorials(app, name, source):
    """Links to notebooks/, which read right among the sources, lead to the pages made of them."""
    up = '../' * name.count('/')
    source[0] = re.sub(r'\]\((\.\./)+notebooks/', f']({up}tutorials/', source[0])


def inline_formula(self, node):
    self.body.append(converter.convert(node.astext()))
    raise nodes.SkipNode


def formula(self, node):
    self.body.append(f'<div class="math">{converter.convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app):
    app.connect('autodoc-process-docstring', as_pages)
    app.connect('source-read', to_tutorials)
    app.add_html_math_renderer('mathml', (inline_formula, None), (formula, None))
