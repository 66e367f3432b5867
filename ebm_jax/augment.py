"""What happens to one example on the device before the network sees it: pure functions (key, x) -> x."""
import jax
import jax.numpy as jnp


def scale_pixels(key, x):
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    del key
    return x.astype(jnp.float32) / 127.5 - 1


def gaussian_noise(sigma):
    """x + N(0, sigma^2 I), sigma >= 0. Source: JEM adds sigma = 0.03 in training AND test ([code])."""
    if not sigma >= 0:
        raise ValueError(f'sigma must be at least 0, got {sigma}')
    return lambda key, x: x + sigma * jax.random.normal(key, x.shape, x.dtype)


def random_crop(pad):
    """Reflect-pad an image [H, W, C] by `pad` pixels and cut a random window of the old size. Source: JEM [code], pad 4."""
    def crop(key, x):
        padded = jnp.pad(x, ((pad, pad), (pad, pad), (0, 0)), mode='reflect')
        corner = jax.random.randint(key, (2,), 0, 2 * pad + 1)
        return jax.lax.dynamic_slice(padded, (*corner, 0), x.shape)
    return crop


def random_flip(key, x):
    """Mirror an image [H, W, C] left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), x[:, ::-1], x)


def chain(*steps):
    """Steps one after another, each under its own key."""
    def run(key, x):
        for i, step in enumerate(steps):
            x = step(jax.random.fold_in(key, i), x)
        return x
    return run
