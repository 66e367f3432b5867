"""The networks of ebm_jax and their Langevin chain in PyTorch with the same weights: the other side
of the benchmarks. Imported by a Python that has torch."""

import torch
import torch.nn.functional as F


def convolve(x, w, b, stride):
    """SAME padding as in XLA, which for stride 2 pads more at the end."""
    k, size = w.shape[-1], x.shape[-1]
    total = max((-(-size // stride) - 1) * stride + k - size, 0)
    if total % 2 == 0:
        return F.conv2d(x, w, b, stride, total // 2)
    return F.conv2d(F.pad(x, (total // 2, total - total // 2) * 2), w, b, stride)


class Net(torch.nn.Module):
    def __init__(self, source, arrays):
        super().__init__()
        convs = [
            name.removesuffix('/kernel')
            for name in arrays
            if name.endswith('/kernel') and arrays[name].ndim == 4
        ]
        self.w = torch.nn.ParameterDict()
        for name in convs:
            self.w[name.replace('/', '_')] = torch.from_numpy(
                arrays[f'{name}/kernel'].transpose(3, 2, 0, 1).copy()
            )
            self.w[name.replace('/', '_') + '_b'] = torch.from_numpy(arrays[f'{name}/bias'])
        self.head, self.head_b = (
            torch.from_numpy(arrays['Dense_0/kernel']),
            torch.from_numpy(arrays['Dense_0/bias']),
        )
        self.source, self.blocks = (
            source,
            sum(name.endswith('Conv_1') and name.startswith('WideBlock') for name in convs),
        )
        for p in self.parameters():
            p.requires_grad_(False)

    def conv(self, x, name, stride=1):
        return convolve(x, self.w[name], self.w[name + '_b'], stride)

    def forward(self, x):
        if self.source.startswith('ConvNet'):
            strides = (
                eval(self.source.split(', ', 1)[1][:-1])[1] if ',' in self.source else (1, 2, 2)
            )
            for i, stride in enumerate(strides):
                x = F.silu(self.conv(x, f'Conv_{i}', stride))
            x = x.permute(0, 2, 3, 1).reshape(len(x), -1)
        else:
            x = self.conv(x, 'Conv_0')
            for i in range(self.blocks):
                name = f'WideBlock_{i}_Conv_'
                stride = 2 if i and i % (self.blocks // 3) == 0 else 1
                y = self.conv(F.leaky_relu(x, 0.2), name + '0')
                y = self.conv(F.leaky_relu(y, 0.2), name + '1', stride)
                x = y + (self.conv(x, name + '2', stride) if name + '2' in self.w else x)
            x = F.leaky_relu(x, 0.2).mean((2, 3))
        return -torch.logsumexp(x @ self.head + self.head_b, 1)


def chain(energy, steps, x, step_size, noise):
    """Steps of Langevin dynamics, as `mcmc.langevin`."""
    for _ in range(steps):
        x = x.detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(energy(x).sum(), x)
        x = x.detach() - step_size * grad + noise * torch.randn_like(x)
    return x
