"""How fast a network passes images: as a module, and through the copies that exact and fast crafting attack.

Operations are counted in the module's forward pass; the pass back to the images takes as many.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from rstbench.models.fast_copy import crafting_copy, make_copy, plan_copy

COLUMNS = ["model", "form", "copy", "images", "pass", "images_per_second", "tflops", "share_of_peak"]
# Dense peaks in TFLOP/s by the makers' data sheets: of float32 without tensor cores, of bf16 with them.
PEAKS = {"H100": (67, 989), "H200": (67, 989), "A100": (19.5, 312)}
REPEATS, ROWS = 10, 25


def forms(module: nn.Module, x: Tensor) -> dict[str, tuple[nn.Module, str]]:
    """Return each form of a network with what was chosen for it."""
    plan = plan_copy(module, x)
    return {
        "module": (module, ""),
        "exact": (crafting_copy(module, x), ""),
        "fast": (make_copy(module, plan, x), str(plan)),
    }


def once(net: nn.Module, x: Tensor, backward: bool) -> None:
    """Pass images forward, and their gradients backward where wanted."""
    with torch.set_grad_enabled(backward):
        images = x.detach().requires_grad_(backward)
        logits = net(images)
        if backward:
            torch.autograd.grad(logits.sum(), images)


def seconds(net: nn.Module, x: Tensor, backward: bool) -> float:
    """Return the seconds of one pass, the mean of some after two that warm up."""
    for count in (2, REPEATS):
        began = time.perf_counter()
        for _ in range(count):
            once(net, x, backward)
        if x.is_cuda:
            torch.cuda.synchronize()
    return (time.perf_counter() - began) / REPEATS


def measure(name: str, module: nn.Module, x: Tensor, folder: Path) -> None:
    """Add lines to `passes.csv`, and write a profile of the fast copy's passes."""
    table, new = folder / "passes.csv", not (folder / "passes.csv").exists()
    with FlopCounterMode(display=False) as counter:
        once(module, x, backward=False)
    operations = counter.get_total_flops()
    with table.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        for form, (net, chosen) in forms(module, x).items():
            for backward in (False, True):
                taken = seconds(net, x, backward)
                rate = operations * (1 + backward) / taken / 1e12
                what = "forward and backward" if backward else "forward"
                figures = [
                    f"{len(x) / taken:.0f}",
                    f"{rate:.3g}",
                    peak_share(rate, x.device, "bf16" in chosen),
                ]
                writer.writerow([name, form, chosen, len(x), what, *figures])
    net = forms(module, x)["fast"][0]
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if x.is_cuda else [])]) as found:
        for _ in range(REPEATS):
            once(net, x, True)
    order = "self_cuda_time_total" if x.is_cuda else "self_cpu_time_total"
    (folder / f"profile-{name}.txt").write_text(
        found.key_averages().table(sort_by=order, row_limit=ROWS) + "\n"
    )


def peak_share(tflops: float, device: torch.device, bf16: bool) -> str:
    """Return the share of the device's peak, '' where that is not known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    peaks = next((peaks for gpu, peaks in PEAKS.items() if gpu in name), None)
    return f"{tflops / peaks[bf16]:.3f}" if peaks else ""
