"""The random switch as a module for anyone's code."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from rstbench import BadRequest, Switch, shared_switch
from rstbench.errors import BadFile
from rstbench.models.wrapper import load_reference
from rstbench.tickets.ticket import Ticket


class Says(nn.Module):
    """Answers every image with one class."""

    def __init__(self, label):
        super().__init__()
        self.label = label

    def forward(self, x):
        return nn.functional.one_hot(torch.full((len(x),), self.label), 3).float()


def test_each_image_has_its_own_draw():
    switch = Switch([Says(0), Says(1), Says(2)], [0.5, 0.3, 0.2], seed=1)
    counts = Counter(switch(torch.zeros(5000, 1)).argmax(1).tolist())
    # Three standard deviations of a share of 5,000 draws are 0.021.
    assert all(abs(counts[label] / 5000 - share) < 0.025 for label, share in enumerate([0.5, 0.3, 0.2]))
    again = Switch([Says(0), Says(1), Says(2)], [0.5, 0.3, 0.2], seed=1)
    state = torch.get_rng_state()
    first, second = again(torch.zeros(50, 1)), again(torch.zeros(50, 1))
    assert not first.equal(second)
    assert torch.get_rng_state().equal(state), "the global generator is not touched"


def test_or_each_batch():
    switch = Switch([Says(0), Says(1)], per="batch")
    answers = [switch(torch.zeros(8, 1)).argmax(1) for _ in range(40)]
    assert all(len(set(answer.tolist())) == 1 for answer in answers)
    assert {int(answer[0]) for answer in answers} == {0, 1}
    with pytest.raises(BadRequest, match="per image or per batch"):
        Switch([Says(0), Says(1)], per="day")


def test_tickets_share_one_network_in_memory(small_tickets):
    switch = shared_switch(small_tickets)
    x = torch.rand(6, 1, 8, 8)
    for ticket, member in zip(small_tickets, switch.members, strict=True):
        assert member(x).equal(ticket.module()(x))
    weights = {id(parameter) for parameter in switch.parameters()}
    assert len(weights) == len(small_tickets[0].masks)
    held = sum(t.numel() * t.element_size() for t in [*switch.parameters(), *switch.buffers()])
    apart = sum(t.numel() * t.element_size() for n in small_tickets for t in n.module().state_dict().values())
    assert held < 0.85 * apart
    images = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(switch.members[0](images).sum(), images)
    assert gradient.abs().sum() > 0
    assert switch.double().members[1](x.double()).dtype == torch.float64


def test_a_state_dict_says_which_tickets(small_tickets):
    x = torch.rand(6, 1, 8, 8)
    switch, other = shared_switch(small_tickets), shared_switch(small_tickets[::-1])
    assert not switch.members[0](x).equal(other.members[0](x))
    other.load_state_dict(switch.state_dict())
    assert switch.members[0](x).equal(other.members[0](x))


def test_only_tickets_of_one_network(small_tickets):
    other = Ticket(**{**vars(small_tickets[0]), "random_digest": "0" * 64})
    with pytest.raises(BadRequest, match="share one random network"):
        shared_switch([small_tickets[0], other])
    with pytest.raises(BadRequest, match="at least two members"):
        shared_switch([])


def test_a_plus_in_a_path_separates_nothing(ticket_files, tmp_path, monkeypatch):
    first, second = ticket_files[:2]
    monkeypatch.chdir(tmp_path)
    for folder in ("dir+x", "c++"):
        Path(folder).mkdir()
        shutil.copy(first, f"{folder}/a.safetensors")
    shutil.copy(second, "b.safetensors")
    wanted = load_reference(f"switch:{first}+{second}").digest
    for text in ("dir+x/a.safetensors+b.safetensors", "c++/a.safetensors+b.safetensors"):
        assert load_reference(f"switch:{text}").digest == wanted
    with pytest.raises(BadFile, match="no ticket file gone"):
        load_reference("switch:dir+x/a.safetensors+gone")
    shutil.copy(first, "b")
    shutil.copy(first, "c")
    shutil.copy(first, "b+c")
    with pytest.raises(BadRequest, match="names b and c or b\\+c; rename one"):
        load_reference("switch:b+c")
