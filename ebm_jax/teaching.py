"""Settings of dual-MCMC teaching: which chains are run, and the weight of each loss term. CoopNets,
VAEs and others are settings of the same method (`methods.dual_mcmc`), too.

Source: Cui & Han 2023, arXiv 2312.02469, section 3 [paper], and the constants of the authors'
  release [code]; those of the others by their own papers, named below.
"""

import math
from typing import NamedTuple

from ebm_jax.shapes import check_weights


class Settings(NamedTuple):
    """Which chains are run, and the weight of each loss term; 0 leaves it out. The defaults are the
    paper's equal weights."""

    x_steps: int = 30  # of the chain in x; 0: it ends where it begins
    z_steps: int = 10  # of the chain in z
    from_generator: bool = True  # x-chains begin at g(z), else at noise
    from_inference: bool = True  # z-chains begin at a sample of q(z|x), else at one of p(z)
    sigma: float = 0.3  # of p(x|z)
    contrast: float = 1.0  # E: mean E(x) - mean E(x')
    generator_data: float = 1.0  # g: mean |x - g(z')|^2 / (2 sigma^2)
    generator_chain: float = 1.0  # g: mean |x' - g(z)|^2 / (2 sigma^2)
    inference_data: float = 1.0  # q: mean -log q(z'|x)
    inference_chain: float = 1.0  # q: mean -log q(z|x')
    # g, q: mean of KL(q(z|x) || p(z)) + E_q |x - g(z)|^2 / (2 sigma^2), by reparametrisation
    elbo_data: float = 0.0
    elbo_chain: float = 0.0  # g, q: the same of x'
    adversarial: float = 0.0  # g: mean E(g(z)) - log q(z|g(z))
    # [code]: g and q first, then E, on new chains from the updated g (same z, same noise)
    sequential: bool = False


LOSS_TERMS = (
    'contrast',
    'generator_data',
    'generator_chain',
    'inference_data',
    'inference_chain',
    'elbo_data',
    'elbo_chain',
    'adversarial',
)
NETWORKS = ('energy', 'generator', 'inference')
NO_TERMS = Settings(
    contrast=0.0, generator_data=0.0, generator_chain=0.0, inference_data=0.0, inference_chain=0.0
)

PAPER = Settings()
# [code] divides the squared error of the z-chain by sigma^2 = .3^2, not 2 sigma^2, and its
# generator losses are squared errors, the second one times 50 (CelebA-64: 70).
RELEASE = Settings(
    sigma=0.3 / math.sqrt(2),
    generator_data=0.09,
    generator_chain=50 * 0.09,
    inference_chain=0.1,
    sequential=True,
)
# CoopNets (Xie et al. 2018): the generator learns from its chains only.
COOPNETS = NO_TERMS._replace(contrast=1.0, generator_chain=1.0)
# Variational cooperative learning (Xie et al. 2021): a variational autoencoder learns from revised
# samples.
VARIATIONAL_COOPERATIVE = NO_TERMS._replace(contrast=1.0, elbo_chain=1.0)
# Divergence triangle (Han et al. 2019): KL(Q||P) + KL(P||Pi) - KL(Q||Pi) without chains. Its x' is
# g(z), without noise (our reading).
DIVERGENCE_TRIANGLE = NO_TERMS._replace(
    x_steps=0, contrast=1.0, inference_chain=1.0, elbo_data=1.0, adversarial=1.0
)
# Alternating back-propagation (Han et al. 2017): no energy, z-chains from p(z). Theirs persist (our
# reading: new chains).
ALTERNATING_BACK_PROPAGATION = NO_TERMS._replace(from_inference=False, generator_data=1.0)
# Short-run EBM (Nijkamp et al. 2019): no generator, x-chains from noise.
SHORT_RUN = NO_TERMS._replace(from_generator=False, contrast=1.0)
# Variational autoencoder (Kingma & Welling 2014), the baseline.
VAE = NO_TERMS._replace(elbo_data=1.0)


class Needs(NamedTuple):
    """What settings need: which chains' ends, and which networks."""

    x_chain: bool  # some loss term takes x', after however many steps
    z_chain: bool  # some loss term takes z'
    networks: dict[str, bool]  # {name of NETWORKS: whether it is used}


def needs(settings: Settings) -> Needs:
    """What the loss terms with nonzero weight need."""
    s = settings
    x_chain = any((s.contrast, s.generator_chain, s.inference_chain, s.elbo_chain, s.adversarial))
    z_chain = any((s.generator_data, s.inference_data))
    both_latent = any((s.elbo_data, s.elbo_chain, s.adversarial))
    energy = (s.contrast, s.adversarial, x_chain and s.x_steps)
    generator = (
        both_latent,
        s.generator_data,
        s.generator_chain,
        x_chain and s.from_generator,
        z_chain and s.z_steps,
    )
    inference = (
        both_latent,
        s.inference_data,
        s.inference_chain,
        z_chain and s.from_inference,
    )
    used = {'energy': any(energy), 'generator': any(generator), 'inference': any(inference)}
    return Needs(x_chain, z_chain, used)


def check(settings: Settings, latent_dim: int, num_negatives: int) -> None:
    """Refuse numbers out of range, and weights that cannot be together. Raises: ValueError."""
    for name, number in (('latent_dim', latent_dim), ('num_negatives', num_negatives)):
        if number < 1:
            raise ValueError(f'{name} must be at least 1, got {number}')
    for name, number in (('x_steps', settings.x_steps), ('z_steps', settings.z_steps)):
        if number < 0:
            raise ValueError(f'{name} must be at least 0, got {number}')
    if not 0 < settings.sigma < math.inf:
        raise ValueError(f'sigma must be finite and above 0, got {settings.sigma}')
    weights = {name: getattr(settings, name) for name in LOSS_TERMS}
    check_weights(**weights)
    if not any(weights.values()):
        raise ValueError('all weights are 0: there is nothing to learn')
    if not settings.from_generator and (settings.generator_chain or settings.inference_chain):
        raise ValueError(
            'generator_chain and inference_chain need chains that begin at g(z): their z is '
            'nothing to chains from noise'
        )


def check_taught(settings: Settings, needed: Needs) -> None:
    """Refuse a network that no loss term teaches: an optimiser would decay it, or keep moving
    it. Raises: ValueError."""
    s = settings
    both_latent = s.elbo_data or s.elbo_chain
    taught = {
        'energy': s.contrast,
        'generator': both_latent or s.generator_data or s.generator_chain or s.adversarial,
        'inference': both_latent or s.inference_data or s.inference_chain,
    }
    for name, used in needed.networks.items():
        if used and not taught[name]:
            raise ValueError(
                f'these settings use the network {name!r}, but all loss terms that teach it have '
                'weight 0'
            )
