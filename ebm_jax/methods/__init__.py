"""Training methods: each file one public factory that returns a `Method`."""
