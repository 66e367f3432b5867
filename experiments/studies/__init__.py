"""Studies over many runs: what fills docs/results.md."""
