"""Experiments, one file each: `python -m experiments.NAME --workdir=DIR [--config.KEY=VALUE]`.

The commands on trained runs (evaluate, sample, export, ...) are in commands/, and run as
`python -m experiments.NAME` too: their folder is part of this package's search path.
"""

import pathlib

__path__.append(str(pathlib.Path(__file__).parent / 'commands'))
