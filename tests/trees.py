"""States with random keys as trees of numbers, for chex."""

import jax


def as_data(state):
    """Typed keys as their numbers."""

    def data(leaf):
        typed = jax.dtypes.issubdtype(getattr(leaf, 'dtype', None), jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if typed else leaf

    return jax.tree.map(data, state)
