import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
URL = 'https://github.com/ebm-jax/ebm_jax'
VERSION = re.search(r"__version__ = '(.*)'", (ROOT / 'ebm_jax' / '__init__.py').read_text())

setup(
    name='ebm-jax',
    version=VERSION.group(1),
    description=(
        'Energy-based models that finish training: Langevin sampling, ST-JEM and its relatives,'
        ' in JAX'
    ),
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    author='The ebm_jax authors',
    url=URL,
    project_urls={'Documentation': f'{URL}/tree/main/docs', 'Issues': f'{URL}/issues'},
    keywords='energy-based models, Langevin dynamics, MCMC, contrastive divergence, JEM, JAX',
    license='Apache-2.0',
    python_requires='>=3.11',
    packages=find_packages(include=['ebm_jax', 'ebm_jax.*']),
    package_data={'ebm_jax': ['py.typed']},
    # Ranges that resolve and run; requirements.txt holds the versions that were tested together.
    install_requires=[
        'jax>=0.7.2,<0.13',
        'flax>=0.11.2,<0.13',
        'optax>=0.2.8,<0.3',
        'orbax-checkpoint>=0.12,<0.13',
        'chex>=0.1.90,<0.2',
        'dm-pix>=0.4.5,<0.5',
        'absl-py>=2.3.1',
        'ml_collections>=1.1,<2',
        'tensorflow-datasets>=4.9.10,<5',
        # tensorflow-datasets imports it and does not require it on newer Pythons
        'importlib_resources',
        'grain>=0.2.12,<0.3; platform_system == "Linux"',
        'array_record>=0.8; platform_system == "Linux"',
        'numpy>=2.0',
        'scipy>=1.15',
        'scikit-learn>=1.6',
        'arviz-stats>=0.6,<1',
        'pillow>=10.1',
        'matplotlib>=3.9',
        'tensorboardX>=2.6,<3',
        'tqdm>=4.66',
        'safetensors>=0.4.5,<1',
        # without it JAX warns where the folder of compiled programs has a largest size
        'filelock>=3.15',
    ],
    extras_require={
        'test': [
            'pytest>=8',
            'pytest-xdist>=3.6',
            'ruff>=0.12',
            'blackjax>=1.2.5,<2',
            'foolbox>=3.3.4,<4',
            'hypothesis>=6.100,<7',
            'mypy>=1.15,<3',
            'pre-commit>=4',
            'selenium>=4.30,<5',
        ],
        'docs': [
            'sphinx>=8',
            'sphinx-book-theme>=1.1',
            'myst-nb>=1.2',
            'latex2mathml>=3.77',
            'ipywidgets>=8',
        ],
        'density': ['blackjax>=1.2.5,<2'],  # for evaluate.partition.tempered_smc
        'speech': [
            'librosa>=0.11,<0.12',
            'soundfile>=0.13',
            'praatio>=6.2,<7',
            'noisereduce>=3.0.3,<4',
            'pystoi>=0.4.1,<0.5',
        ],
        'cuda13': ['jax[cuda13]'],
        'tpu': ['jax[tpu]'],
        # the same, for its compiler, on machines without a TPU: set JAX_PLATFORMS=cpu there
        'tpu-compile': ['jax[tpu]'],
        'prepare': ['tensorflow-cpu>=2.20'],  # only to prepare TFDS image sets, once
    },
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Typing :: Typed',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
