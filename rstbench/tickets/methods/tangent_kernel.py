"""Compute empirical neural tangent kernels Theta(x, z) = J(x) J(z)^T, products with them, their distance.

J is the Jacobian of the logits by the parameters. By vjp and jvp of torch.func; memory is that of one block
of images, or of none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor
from torch.func import jacrev, jvp, vjp, vmap

Parameters = dict[str, Tensor]
Function = Callable[[Parameters, Tensor], Tensor]  # (parameters, images) to logits (n, classes)
KERNELS = ("full", "trace", "probe")


def tangent_kernel(f: Function, parameters: Parameters, x: Tensor, z: Tensor, chunk: int) -> Tensor:
    """Return Theta(x, z) = J(x) J(z)^T, shape (n, m, classes, classes), from `chunk` Jacobians at a time."""
    rows = []
    for xs in x.split(chunk):
        left = _jacobian(f, parameters, xs)
        rows.append(torch.cat([_contract(left, _jacobian(f, parameters, zs)) for zs in z.split(chunk)], 1))
    return torch.cat(rows)


def kernel_times(f: Function, parameters: Parameters, x: Tensor, z: Tensor, u: Tensor) -> Tensor:
    """Return Theta(x, z) u for cotangents u (m, classes), shape (n, classes): one pass back, one forward, no
    Jacobian in memory."""
    back = vjp(lambda p: f(p, z), parameters)[1]
    product: Tensor = jvp(lambda p: f(p, x), (parameters,), back(u))[1]
    return product


def kernel_distances(
    kind: str,
    student: tuple[Function, Parameters],
    teacher: tuple[Function, Parameters],
    x: Tensor,
    z: Tensor,
    *,
    chunk: int = 8,
    probes: int = 1,
    generator: Generator | None = None,
) -> Iterator[Tensor]:
    """Yield differentiable parts whose sum is the mean squared difference of two kernels over their entries.

    'full': exact, block by block, so that memory is that of one block. 'trace': of the kernels summed over
    the diagonal of classes, (n, m), in the same memory. 'probe': unbiased, from products with `probes`
    normal vectors u, since E |dK u|^2 = |dK|_F^2.
    """
    with torch.no_grad():
        classes = teacher[0](teacher[1], x[:1]).shape[1]
    if kind == "probe":
        for _ in range(probes):
            u = torch.randn(len(z), classes, generator=generator).to(z)
            with torch.no_grad():
                expected = kernel_times(*teacher, x, z, u)
            entries = len(x) * len(z) * classes * classes
            yield (kernel_times(*student, x, z, u) - expected).square().sum() / (entries * probes)
        return
    entries = len(x) * len(z) * (classes * classes if kind == "full" else 1)
    for xs in x.split(chunk):
        for zs in z.split(chunk):
            with torch.no_grad():
                expected = tangent_kernel(*teacher, xs, zs, chunk)
            difference = tangent_kernel(*student, xs, zs, chunk) - expected
            if kind == "trace":
                difference = difference.diagonal(dim1=2, dim2=3).sum(-1)
            yield difference.square().sum() / entries


def _jacobian(f: Function, parameters: Parameters, x: Tensor) -> list[Tensor]:
    """Return J(x) by parameter, each (n, classes, size)."""
    single = jacrev(lambda p, image: f(p, image[None])[0])
    return [part.flatten(2) for part in vmap(single, (None, 0))(parameters, x).values()]


def _contract(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """Return the sum over the parameters of J(x) J(z)^T, (n, m, classes, classes)."""
    products = [torch.einsum("ncp,mdp->nmcd", x, z) for x, z in zip(left, right, strict=True)]
    return torch.stack(products).sum(0)
