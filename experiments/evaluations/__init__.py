"""What `evaluate` measures only of some runs."""
