"""The networks, as linen modules behind `Network(init, apply)` of one example.

No batch statistics and no other mutable state: they would couple chains. Outputs (logits, energies) are float32 whatever the
compute type `dtype`; parameters and chain states are float32 too.
"""
from ebm_jax.networks.base import as_it_is, halved, per_example, spectral, standardised
from ebm_jax.networks.classifiers import ConvNet, LineNet, WideResNet
from ebm_jax.networks.energies import MultiScaleEnergy, ResidualEnergy, SelfAttention
from ebm_jax.networks.latent import Generator, Inference, SpectralEnergy

__all__ = ['ConvNet', 'Generator', 'Inference', 'LineNet', 'MultiScaleEnergy', 'ResidualEnergy', 'SelfAttention', 'SpectralEnergy',
           'WideResNet', 'as_it_is', 'halved', 'per_example', 'spectral', 'standardised']
