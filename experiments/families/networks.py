"""Groups of settings that build networks for examples of a shape."""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from ebm_jax.networks import (
    Conv1DNet,
    ConvNet,
    Generator,
    InferenceNet,
    MultiScaleEnergy,
    SpectralEnergy,
    WideResNet,
    identity,
    per_example,
    spectral,
    standardised,
)
from ebm_jax.types import Network
from experiments.common.settings import setting

Shape = tuple[int, ...]  # of one example
KERNEL_TRANSFORMS = {'standardised': standardised, 'spectral': spectral, 'plain': identity}


@dataclass
class ComputeType:
    """The type that a network computes in."""

    bfloat16: bool = setting(False, 'compute in bfloat16, with float32 energies and chains')

    @property
    def dtype(self) -> Any:
        return jnp.bfloat16 if self.bfloat16 else jnp.float32


@dataclass
class ConvNetwork(ComputeType):
    """3x3 convolutions with swish and a dense head."""

    widths: tuple[int, ...] = setting((32, 64, 128), 'channels of each layer', low=1)
    strides: tuple[int, ...] = setting((), 'of each layer; (): 1, 2, 2 and then 1', low=1)

    def build(self, num_classes: int, shape: Shape) -> Network:
        return per_example(ConvNet(num_classes, self.widths, self.strides, self.dtype))


@dataclass
class SizedConvNetwork(ConvNetwork):
    """3x3 convolutions with swish and a dense head; by default as many as the images need."""

    widths: tuple[int, ...] = setting((), 'channels of each layer; (): by the size', low=1)
    strides: tuple[int, ...] = setting((), 'stride of each layer; (): by the size', low=1)

    def build(self, num_classes: int, shape: Shape) -> Network:
        """Layers that halve the grid until it has about four pixels a side."""
        halvings = max(2, math.ceil(math.log2(min(shape[:2]) / 4)))
        widths = self.widths or (32, 64, *[128] * (halvings - 1))
        strides = self.strides or (1, *[2] * (len(widths) - 1))
        if min(shape[:2]) > 16 and not self.strides:
            # the costliest layer on a quarter of the grid
            strides = (2, 1, *strides[2:])[: len(widths)]
        return per_example(ConvNet(num_classes, widths, strides, self.dtype))


@dataclass
class WideResNetwork(ComputeType):
    """A Wide-ResNet without normalisation."""

    depth: int = setting(28, '6 n + 4, n blocks in each of three stages', low=10, high=1000)
    width: int = setting(10, 'factor on 16, 32 and 64 channels', low=1)

    def build(self, num_classes: int, shape: Shape) -> Network:
        return per_example(WideResNet(num_classes, self.depth, self.width, self.dtype))


@dataclass
class Conv1DNetwork(ComputeType):
    """Convolutions along time or frequency and a dense head, for speech."""

    along: str = setting('time', 'axis of the convolutions', choices=('time', 'frequency'))
    widths: tuple[int, ...] = setting((64, 64, 64), 'channels of each layer', low=1)
    strides: tuple[int, ...] = setting((1, 2, 2), 'stride of each layer', low=1)
    size: int = setting(5, 'size of the kernels', low=1, high=101)

    def build(self, num_classes: int, shape: Shape) -> Network:
        module = Conv1DNet(
            num_classes, self.along, self.widths, self.strides, self.size, self.dtype
        )
        return per_example(module)


@dataclass
class SpeechNetwork(ComputeType):
    """2-D convolutions over (time, frequency), or a Wide-ResNet in their place."""

    wide: bool = setting(False, 'a Wide-ResNet of that depth and width')
    depth: int = setting(10, 'of the Wide-ResNet, 6 n + 4 ([code]: 28)', low=10, high=1000)
    width: int = setting(2, 'of the Wide-ResNet ([code]: 10)', low=1)
    widths: tuple[int, ...] = setting((24, 48, 64, 64), 'channels of each convolution', low=1)
    strides: tuple[int, ...] = setting((2, 2, 2, 1), 'stride of each convolution', low=1)

    def build(self, num_classes: int, shape: Shape) -> Network:
        if self.wide:
            return per_example(WideResNet(num_classes, self.depth, self.width, self.dtype))
        return per_example(ConvNet(num_classes, self.widths, self.strides, self.dtype))


@dataclass
class EnergyNetwork(ComputeType):
    """Residual energies at several scales (ICD)."""

    width: int = setting(64, 'channels F of the first stage', low=1)
    stages: tuple[int, ...] = setting((1, 2, 4, 8), 'factor on F after each stage', low=1)
    scales: int = setting(3, 'energies at full, half, quarter, ... resolution', low=1)
    plain: bool = setting(True, 'a block that keeps the grid before each that halves it')
    kernel_transform: str = setting(
        'standardised', 'of the kernels before a norm', choices=tuple(KERNEL_TRANSFORMS)
    )
    norm: bool = setting(True, 'instance or group norm')
    attention_after: int = setting(0, 'stages before self-attention; 0: none', low=0)
    stem_stride: int = setting(1, 'stride of the first convolution', low=1)

    def build(self, num_classes: int, shape: Shape, head_bias: bool = True) -> Network:
        """num_classes: 0 for an energy of p(x) alone. head_bias: whether energies have a constant,
        which only squared energies in the loss teach."""
        # spectral normalisation applies to every convolution or to none
        others = self.kernel_transform if self.kernel_transform == 'spectral' else 'plain'
        module = MultiScaleEnergy(
            width=self.width,
            stages=self.stages,
            scales=self.scales,
            plain=self.plain,
            kernel_transform=KERNEL_TRANSFORMS[self.kernel_transform],
            downsample_transform=KERNEL_TRANSFORMS[others],
            norm=self.norm,
            attention_after=self.attention_after or None,
            num_classes=num_classes,
            stem_stride=self.stem_stride,
            dtype=self.dtype,
            head_bias=head_bias,
        )
        return per_example(module)


@dataclass
class SizedEnergyNetwork(EnergyNetwork):
    """Residual energies at several scales; by default with as many stages as the images need."""

    stages: tuple[int, ...] = setting((), 'factors on F; (): by the size of the images', low=1)
    stem_stride: int = setting(0, 'stride of the first convolution; 0: by the size', low=0)

    def build(self, num_classes: int, shape: Shape, head_bias: bool = True) -> Network:
        """Stages that halve the grid until it has two pixels a side."""
        side = min(shape[:2])
        stem_stride = self.stem_stride or (2 if side > 16 else 1)
        halvings = max(1, math.ceil(math.log2(side / stem_stride)) - 1)
        stages = self.stages or (2, 4, 8, 8, 8, 8)[:halvings]
        scales = min(self.scales, len(stages))
        settings = replace(self, stages=stages, stem_stride=stem_stride, scales=scales)
        return EnergyNetwork.build(settings, num_classes, shape, head_bias)


@dataclass
class DualNetworks(ComputeType):
    """The energy, the generator and the inference model."""

    energy_widths: tuple[int, ...] = setting(
        (512, 512, 512, 512), 'channels of blocks', low=1, min_length=1
    )
    energy_down: tuple[bool, ...] = setting(
        (True, True, False, False), 'blocks that halve', min_length=1
    )
    generator_widths: tuple[int, ...] = setting(
        (512, 512, 512, 512),
        'channels on the smallest grid and after each doubling',
        low=1,
        min_length=1,
    )
    inference_widths: tuple[int, ...] = setting(
        (128, 256, 512, 1024), 'channels', low=1, min_length=1
    )
    inference_strides: tuple[int, ...] = setting(
        (1, 2, 2, 2), 'stride of each layer', low=1, min_length=1
    )

    def build(
        self, shape: tuple[int, ...], latent_dim: int, num_classes: int
    ) -> dict[str, Network]:
        """num_classes: 0 for networks that take no class."""
        modules = {
            'energy': SpectralEnergy(self.energy_widths, self.energy_down, num_classes, self.dtype),
            'generator': Generator(shape, self.generator_widths, num_classes, self.dtype),
            'inference': InferenceNet(
                latent_dim, self.inference_widths, self.inference_strides, num_classes, self.dtype
            ),
        }
        return {name: per_example(module) for name, module in modules.items()}


def small_dual_networks() -> DualNetworks:
    """Networks for examples of about 30 numbers a side (multiples of 4), on two CPU cores."""
    return DualNetworks(
        energy_widths=(8, 16, 32),
        energy_down=(True, True, False),
        generator_widths=(64, 32, 16),
        inference_widths=(16, 32, 64),
        inference_strides=(2, 2, 2),
    )


@dataclass
class SizedDualNetworks(DualNetworks):
    """The energy, the generator and the inference model; by default by the size of the examples."""

    energy_widths: tuple[int, ...] = setting((), 'channels of blocks; (): by the size', low=1)
    energy_down: tuple[bool, ...] = setting((), 'blocks that halve; (): by the size')
    generator_widths: tuple[int, ...] = setting((), 'channels; (): by the size', low=1)
    inference_widths: tuple[int, ...] = setting((), 'channels; (): by the size', low=1)
    inference_strides: tuple[int, ...] = setting((), 'strides; (): by the size', low=1)

    def build(
        self, shape: tuple[int, ...], latent_dim: int, num_classes: int
    ) -> dict[str, Network]:
        """Blocks that halve the grid while it is even and larger than four pixels a side."""
        height, width = shape[:2]
        halvings = 0
        while height % 2 == width % 2 == 0 and min(height, width) > 4:
            height, width, halvings = height // 2, width // 2, halvings + 1
        widths = (16, 32, 64, 64, 64, 64, 64)[: halvings + 1]
        energy_widths = self.energy_widths or widths
        inference_widths = self.inference_widths or widths
        sized = DualNetworks(
            bfloat16=self.bfloat16,
            energy_widths=energy_widths,
            energy_down=self.energy_down
            or tuple(block < halvings for block in range(len(energy_widths))),
            generator_widths=self.generator_widths or widths[::-1],
            inference_widths=inference_widths,
            inference_strides=self.inference_strides or (2,) * len(inference_widths),
        )
        return sized.build(shape, latent_dim, num_classes)
