"""Files from strangers: nothing in them runs, fills the memory, or reaches out of its folder."""

import hashlib
import io
import json
import pickle
import shutil
import struct
import zipfile
import zlib

import jax
import numpy as np
import pytest
from browser import opened, problems
from commands import ROOT
from PIL import Image
from short_run import recipe

import ebm_jax
from ebm_jax import data
from ebm_jax.checkpoint import Checkpoints
from ebm_jax.errors import InputError
from ebm_jax.train import init_state
from experiments.common import page, report
from experiments.common.section import Shown


def test_an_archive_that_would_fill_the_memory_is_refused_unread(tmp_path, monkeypatch):
    """A bomb says how large it is; nothing of it is unpacked."""
    path = tmp_path / 'bomb.npz'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('x.npy', bytes(2_000_000))
    monkeypatch.setattr('os.sysconf', lambda name: {'SC_PAGE_SIZE': 1000}.get(name, 1000))
    monkeypatch.setattr(np, 'load', lambda *given, **more: pytest.fail('it was read'))
    with pytest.raises(InputError, match='unpacks to'):
        data.npz(path, 'test')


class Harm:
    def __reduce__(self):
        return pytest.fail, ('code of the file was run',)


def test_pickled_arrays_are_refused(tmp_path):
    header = {'descr': '|O', 'fortran_order': False, 'shape': (1,)}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    with zipfile.ZipFile(tmp_path / 'harm.npz', 'w') as archive:
        archive.writestr('x.npy', buffer.getvalue() + pickle.dumps([Harm()]))
        archive.writestr('y.npy', buffer.getvalue() + pickle.dumps([Harm()]))
    with pytest.raises(InputError, match='cannot be read as .npz'):
        data.npz(tmp_path / 'harm.npz', 'test')


def chunk(kind, content):
    return (
        struct.pack('>I', len(content))
        + kind
        + content
        + struct.pack('>I', zlib.crc32(kind + content))
    )


def test_a_picture_that_unpacks_to_too_many_pixels_is_refused(tmp_path):
    """A header of 40,000 x 40,000 pixels; there is nothing behind it."""
    size = struct.pack('>IIBBBBB', 40_000, 40_000, 8, 0, 0, 0, 0)
    (tmp_path / 'a.png').write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', size))
    with pytest.raises(InputError, match='cannot be read as an image'):
        data.folder(tmp_path, 'test')


def test_links_out_of_a_folder_of_images_are_skipped(tmp_path):
    inside, outside = tmp_path / 'inside', tmp_path / 'outside'
    for place in (inside, outside):
        place.mkdir()
        Image.new('L', (4, 4), 100).save(place / 'a.png')
    (inside / 'link.png').symlink_to(outside / 'a.png')
    (inside / 'folder').symlink_to(outside)
    assert len(data.folder(inside, 'test').x) == 1
    (inside / 'test').symlink_to(outside)
    with pytest.raises(InputError, match='no images'):
        data.folder(inside, 'test')


def test_a_header_that_lies_about_its_size_is_refused(tmp_path):
    buffer = io.BytesIO()
    header = {'descr': '|u1', 'fortran_order': False, 'shape': (10**15,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    with zipfile.ZipFile(tmp_path / 'lie.npz', 'w') as archive:
        archive.writestr('x.npy', buffer.getvalue())
    with pytest.raises(InputError, match='cannot be read as .npz'):
        data.npz(tmp_path / 'lie.npz', 'test')


def test_weights_with_an_absurd_header_are_refused_unread(tmp_path):
    """A header of 2^60 bytes, and one whose array is larger than the file; with the right hash."""
    shutil.copytree(ROOT / 'models' / 'digits_st_jem', tmp_path / 'model')
    config = json.loads((tmp_path / 'model' / 'config.json').read_text())
    lying = json.dumps({'a': {'dtype': 'F32', 'shape': [2**40], 'data_offsets': [0, 2**42]}})
    for content in (
        struct.pack('<Q', 2**60),
        struct.pack('<Q', len(lying)) + lying.encode(),
    ):
        (tmp_path / 'model' / 'model.safetensors').write_bytes(content)
        config['sha256'] = hashlib.sha256(content).hexdigest()
        (tmp_path / 'model' / 'config.json').write_text(json.dumps(config))
        with pytest.raises(InputError, match='it is damaged'):
            ebm_jax.load(tmp_path / 'model')


def test_a_checkpoint_that_would_fill_the_memory_is_refused_unread(tmp_path, monkeypatch):
    state = init_state(jax.random.key(0), recipe(1000))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore_eval_params()[0] == 0
        monkeypatch.setattr('ebm_jax.memory.left', lambda: 100)
        with pytest.raises(InputError, match='holds 4,004 bytes, and 100 are left') as found:
            checkpoints.restore_eval_params()
    assert 'delete' not in str(found.value)


def test_names_in_a_report_run_nothing_in_a_browser(tmp_path):
    """Of data, experiments and scores, in tables, titles and captions."""
    harm = '<script>window.harmed = 1</script><img src=x onerror="window.harmed = 1">'
    (tmp_path / 'config.json').write_text(
        json.dumps({'experiment': f'experiments.{harm}', 'config': {'data': {'source': harm}}})
    )
    (tmp_path / 'summary.json').write_text(
        json.dumps({'step': 1, 'diverged': True, 'account': harm})
    )
    (tmp_path / 'metrics.jsonl').write_text(json.dumps({'step': 1, harm: 1.0, 'loss': 2.0}))
    score = {'auroc': 0.5, 'interval': {'auroc': [0.4, 0.6]}}
    found = {'step': 1, 'ood': {harm: {harm: score, 'log_px': score}}, 'shown': []}
    (tmp_path / 'evaluation.json').write_text(json.dumps(found))
    with opened(report.write(tmp_path)) as browser:
        assert browser.execute_script('return window.harmed') is None
        assert browser.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
        text = browser.find_element('tag name', 'body').text
        assert '<script>window.harmed' in text and problems(browser) == []


def test_a_report_runs_nothing_and_shows_nothing_from_elsewhere(tmp_path):
    run = tmp_path / 'run'
    run.mkdir()
    (tmp_path / 'secret.svg').write_text('<svg><text>secret</text></svg>')
    name = '<script>alert(1)</script>"'
    for file, content in (
        ('a.svg', '<svg><script>alert(1)</script></svg>'),
        ('b.svg', '<svg><rect onload="alert(1)"/></svg>'),
        ('c.svg', '<svg><a href="javascript:alert(1)">x</a></svg>'),
        ('d.svg', '<svg xmlns:x="http://a.b"><path id="p" d="M 0 0"/><use x:href="#p"/></svg>'),
        ('e.svg', '<svg/onload=alert(1)>'),
        ('f.svg', '<svg><a href="&#106;avascript:alert(1)">x</a></svg>'),
        ('g.svg', '<svg><image href="http://a.b/c.png"/></svg>'),
        ('h.svg', '<svg><style>@import "http://a.b/c.css"</style></svg>'),
        ('i.svg', '<svg><use href="http://a.b/c.svg#d"/></svg>'),
    ):
        (run / file).write_text(content)
        shown = page.figure(run, Shown('Group', file, name, name))
        assert '<script' not in shown and 'onload' not in shown and 'alert(1)"' not in shown
        assert ('holds more than a drawing' in shown) == (file != 'd.svg')
    assert page.figure(run, Shown('Group', '../secret.svg', 'title', 'caption')) == ''
