"""What subnormal numbers in the statistics of batch norm cost: a ticket as it was made, and flushed to zero.

`python tests/benchmarks/subnormals.py leaderboards/digits/tickets/rst-0.2-seed0.safetensors`

Prints a CSV table of processor seconds, each the least of `--repeats` in turn, on one thread. Epochs begin
with the ticket's statistics, at a rate so small that nothing moves. With `--flush-denormal` the processor
computes with zeros in place of subnormal numbers. Intel Xeon at 2.5 GHz with AVX-512, torch 2.14, ratios of
two runs: forward 2.3-2.5, forward and backward 1.5-1.7, selection 1.6-1.8, an epoch 1.0-1.1 (steps in train
mode read no running statistics), with attack-bn eval 1.4-1.5; with `--flush-denormal` 0.9-1.0 throughout.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from machine import processor

from rstbench.data import training_images
from rstbench.networks.subnormals import flush_to_zero
from rstbench.tickets.checkpoint import train
from rstbench.tickets.methods.edge_popup import train_scores
from rstbench.tickets.methods.search import Search
from rstbench.tickets.ticket import Ticket
from rstbench.training.epochs import TrainSplit, hold_out, measure_accuracy

IMAGES = 100


def works(ticket: Ticket) -> dict[str, Callable[[], object]]:
    """What is timed, ready to call."""
    net, recipe = ticket.module(), replace(ticket.recipe, epochs=1, lr=1e-12)
    images, validation = training_images(recipe.data)
    split = TrainSplit(images, validation) if validation else TrainSplit(*hold_out(images, recipe.seed))
    x, y = split.train.at(slice(IMAGES))
    scores = {name: 1.0 + mask for name, mask in ticket.masks.items()}  # those of the ticket's masks

    def forward() -> None:
        with torch.no_grad():
            net(x)

    def backward() -> None:
        images = x.clone().requires_grad_(True)
        torch.autograd.grad(torch.nn.functional.cross_entropy(net(images), y), images)

    def search(mode: str) -> object:
        weights, own = ticket.random_network(), replace(recipe, attack_bn=mode)
        start = Search(ticket.spec, weights, ticket.remaining, split, own, initial_state=ticket.buffers)
        return train_scores(start, {name: scores[name] for name in start.budgets})

    def training(mode: str) -> object:
        own = replace(recipe, method="training", weights="inherit", attack_bn=mode)
        return train(ticket.spec, split, own, ticket=ticket)

    return {
        f"forward, {IMAGES} images": forward,
        f"forward and backward, {IMAGES} images": backward,
        f"selection, {len(split.select)} images": lambda: measure_accuracy(net, split.select, recipe),
        "search, one epoch": lambda: search("train"),
        "search, one epoch, attack-bn eval": lambda: search("eval"),
        "training, one epoch": lambda: training("train"),
        "training, one epoch, attack-bn eval": lambda: training("eval"),
    }


def seconds(work: Callable[[], object]) -> float:
    """Processor time, which other processes disturb less than they do the clock."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ticket")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--flush-denormal", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(args.flush_denormal)
    made = Ticket.load(args.ticket)
    sides = [works(made), works(replace(made, buffers=flush_to_zero(made.buffers)))]
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["work", "as made", "cleaned", "ratio", "processor"])
    for name in sides[0]:
        for side in sides:
            side[name]()  # warm-up
        pairs = [[seconds(side[name]) for side in sides] for _ in range(args.repeats)]
        as_made, cleaned = map(min, zip(*pairs, strict=True))
        table.writerow([name, f"{as_made:.4f}", f"{cleaned:.4f}", f"{as_made / cleaned:.2f}", processor()])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
