"""Training methods: each file has one public factory that returns a `Method`."""
