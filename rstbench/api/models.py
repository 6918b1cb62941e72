"""Load images and models; draw and export tickets."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from ..data import Images, data_root, load
from ..errors import BadRequest
from ..evaluation.evaluate import pick_device
from ..limits import file_size_limit
from ..models.frozen import eval_mode
from ..models.wrapper import load_reference
from ..progress import Silent
from ..study.build import Builder
from ..study.export import export_model
from ..study.jobs import Job
from ..tickets.checkpoint import Checkpoint
from ..tickets.ticket import Ticket
from ..training.recipe import DrawOptions, recipe_for


def load_data(text: str, root: str | None = None, *, max_file_size: str | int | None = None) -> Images:
    """Read labelled images.

    Args:
        text: `name[:id][:split][:N]` such as 'digits:test:100', 'cifar10', 'npz:images.npz:train'; the split
            is `test` where none is named.
        root: Where data sets lie; `$RSTBENCH_DATA`, else `~/.cache/rstbench` by default.
        max_file_size: Largest file to read, as it unpacks: '8GB', or bytes; '4GB' by default.

    Returns:
        The images in a fixed order. `images.at(slice(None))` gives `(x, y)`: float32 pixels (n, c, h, w) in
        [0, 1] and int64 labels (n,).

    Raises:
        BadRequest: For unknown names, missing or malformed files, and empty data. Nothing is downloaded.

    Example:
        >>> import rstbench
        >>> images = rstbench.load_data("digits:test:100")
        >>> x, y = images.at(slice(None))
        >>> x.shape, y.shape, images.classes
        (torch.Size([100, 1, 8, 8]), torch.Size([100]), 10)
    """
    with file_size_limit(max_file_size):
        return load(text, data_root(root))


def load_model(text: str, *, max_file_size: str | int | None = None) -> nn.Module:
    """Load a model by its reference.

    Args:
        text: `source:id[option=value,...]` such as 'ticket:FILE', 'checkpoint:FILE', 'file:PATH.py:factory'
            or 'torchvision:resnet18[classes=10]'. `file:` and `python:` run the code they name.
        max_file_size: As for `load_data`.

    Returns:
        A module in eval mode that maps images (n, c, h, w) in [0, 1] to logits (n, classes).

    Raises:
        BadRequest: For what cannot be named, found or built, and for a switch whose weights are still to be
            fitted, which `evaluate` does.

    Example:
        >>> import rstbench, torch
        >>> net = rstbench.load_model("torchvision:resnet18[classes=10,seed=0]")
        >>> net(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    with file_size_limit(max_file_size):
        model = load_reference(text)
    if model.unfitted:
        raise BadRequest(f"{text!r}: best weights are fitted by evaluate; name them here, weights=0.2+0.8")
    return eval_mode(model.module)


def draw(
    remaining: str | float, *, start: str = "", device: str = "auto", root: str | None = None, **settings: Any
) -> Ticket:
    """Draw one ticket from a random network.

    Args:
        remaining: Fraction of the weights that is kept, above 0 and at most 1; a text is taken exactly.
        start: Reference of a model whose weights to choose from, such as 'checkpoint:FILE'; random ones by
            default.
        device: 'auto', 'cpu', 'cuda' or 'cuda:1'.
        root: Where data sets lie, see `load_data`.
        **settings: Those of the command line's `draw`, with `_` for `-`: network, width, data, method, init,
            adversary, threat, recipe, epochs, seed, ...

    Returns:
        The ticket; `ticket.module()` is an ordinary network.

    Raises:
        BadRequest: For unknown settings, and values that do not go together.
        ModelFault: Where the search diverges.

    Example:
        >>> import rstbench
        >>> ticket = rstbench.draw(0.2, network="conv2", width=0.1, data="digits:train:128", epochs=1)
        >>> ticket.remaining, ticket.recipe.method
        ('0.2', 'rst')
    """
    options, of_recipe = DrawOptions.split(settings)
    builder = Builder(data_root(root), pick_device(device), Silent())
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            "ticket",
            Path(folder) / "ticket.safetensors",
            recipe_for(of_recipe),
            str(remaining),
            start,
            options=options,
        )
        builder.check(job)
        ticket = builder.make(job)
    assert isinstance(ticket, Ticket)  # a job with a kept fraction is a drawing
    return ticket


def export(
    model: Ticket | Checkpoint | str,
    out: str | Path,
    to: str = "state_dict",
    *,
    fold: bool = False,
    compressed: bool = False,
    results: str | None = None,
    root: str | None = None,
) -> list[Path]:
    """Write a ticket or checkpoint in a form that needs no part of this tool.

    Each format is checked against the model's own logits before it is written.

    Args:
        model: A ticket, a checkpoint, or a reference or file name of one.
        out: A file, or a folder for 'robustbench' and 'hub-folder'.
        to: 'state_dict', 'torch-export', 'onnx', 'robustbench', 'hub-folder' or 'ticket'.
        fold: Fold batch norm into the layers before it.
        compressed: Write a `state_dict` without its zeros.
        results: Folder of the run whose figures go along.
        root: Where data sets lie, see `load_data`.

    Returns:
        The files that were written.

    Raises:
        BadRequest: For an unknown format, a model that a format cannot hold, or an `out` that is no earlier
            export.

    Example:
        >>> import rstbench, tempfile
        >>> ticket = rstbench.draw(0.2, network="conv2", width=0.1, data="digits:train:128", epochs=1)
        >>> folder = tempfile.mkdtemp()
        >>> sorted(path.name for path in rstbench.export(ticket, f"{folder}/net.pt"))
        ['net.pt', 'net.pt.json', 'net_network.py']
    """
    return export_model(
        model, to, Path(out), fold=fold, compressed=compressed, results=results, root=data_root(root)
    )
