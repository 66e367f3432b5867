"""The commands on trained runs, each run as `python -m experiments.NAME` (see the package)."""
