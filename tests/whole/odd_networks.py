"""Source text of networks that are odd, or whose answers are doubtful, for files of the user's own."""

from __future__ import annotations

ODD = """
import torch
from torch import nn

class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.fc = nn.Linear(64, 10)
        self.fc.weight.data = torch.randn(10, 64, generator=generator)

    def forward(self, x):
        return self.fc(x.flatten(1))

class Text(Linear):
    def __repr__(self):
        raise KeyError("no text")

class Mode(Linear):
    def train(self, mode=True):
        raise RuntimeError("no mode")

class Place(Linear):
    def _apply(self, function, recurse=True):
        raise RuntimeError("stays where it is")

class Leaves(Linear):
    def forward(self, x):
        raise SystemExit(3)

class Deep(Linear):
    def forward(self, x):
        return self(x)

class Pair(Linear):
    def forward(self, x):
        return super().forward(x), x

class Sparse(Linear):
    def forward(self, x):
        return super().forward(x).to_sparse()

class Complex(Linear):
    def forward(self, x):
        return super().forward(x) + 1j

class Lazy(Linear):
    def __init__(self):
        super().__init__()
        self.more = nn.LazyLinear(3)

class Empty(Linear):
    def __init__(self):
        super().__init__()
        self.to("meta")

class Late(Linear):
    def forward(self, x):
        self.late = nn.Linear(64, 10)
        return self.late(x.flatten(1))

class Learning(Linear):
    def forward(self, x):
        self.fc.weight.data += 1
        return super().forward(x)

class Shy(Linear):
    def forward(self, x):
        if float(((x * 16).round() / 16 - x).detach().abs().max()) > 1e-3:
            raise ValueError("these are no digits")
        return super().forward(x)
"""
DOUBTFUL = """
import torch
from torch import nn
import rstbench


def fitted():
    # Least squares on the training images: the same everywhere.
    x, y = rstbench.load_data("digits:train").at(slice(None))
    flat = torch.cat([x.flatten(1), torch.ones(len(x), 1)], 1).double()
    target = nn.functional.one_hot(y, 10).double()
    solution = torch.linalg.solve(flat.T @ flat + 0.1 * torch.eye(65).double(), flat.T @ target).float()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    net[1].weight.data, net[1].bias.data = solution[:-1].T.contiguous() * 10, solution[-1] * 10
    return net


class Other(nn.Module):
    # Wants other pixels than [0, 1]: (x - mean) / std.
    def __init__(self, mean=0.0, std=1.0):
        super().__init__()
        self.net, self.mean, self.std = fitted(), mean, std

    def forward(self, x):
        return self.net(x * self.std + self.mean)


class Colour(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.net = Other(**settings)

    def forward(self, x):
        return self.net(x.mean(1, keepdim=True))


class Stateless(nn.Module):
    # Batch norm that uses the batch's own statistics.
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), fitted()[1])

    def forward(self, x):
        return self.net(x)


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = fitted()

    def forward(self, x):
        return self.net(x - 0.3 * x.mean(0, keepdim=True))


class Placed(nn.Module):
    # Answers by the place of an image in its batch.
    def __init__(self, period=5):
        super().__init__()
        self.net, self.period = fitted(), period

    def forward(self, x):
        return self.net(x) * (1 - 0.2 * (torch.arange(len(x)) % self.period))[:, None]


class Began(nn.Module):
    # Normalises by the first batch that it sees.
    def __init__(self):
        super().__init__()
        self.net, self.mean = fitted(), None

    def forward(self, x):
        if self.mean is None:
            self.mean = x.mean(0, keepdim=True).detach()
        return self.net(x - 0.3 * self.mean)


class Together(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = fitted()

    def forward(self, x):
        if len(x) < 2:
            raise ValueError("two images at least")
        return self.net(x)


class Served(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = fitted()

    @torch.inference_mode()
    def forward(self, x):
        return self.net(x)


class Detached(Served):
    def forward(self, x):
        return self.net(x.detach())


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = fitted().to(torch.bfloat16)

    def forward(self, x):
        return self.net(x.to(torch.bfloat16))
"""
