"""Keep crafted images, shard by shard, and join them into the form RobustBench accepts.

RobustBench takes an external evaluation as one `.pt` tensor of adversarial images of the test set's
size, in its order, float32 in [0, 1].
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import replace
from pathlib import Path

import torch

from ..data import Images
from ..evidence import examples
from ..evidence.manifest import Manifest
from ..evidence.store import Store
from ..evidence.trial import CERTIFICATE, CLEAN, COUNTEREXAMPLE, Trial
from ..files import short_name, write_whole
from .shard import Answer, Shard


class AdversarialWriter:
    """Write `adversarials/parts/<key>-<start>.pt` as shards are done, and join them at the end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "adversarials"

    def on_answer(self, shard: Shard, answer: Answer) -> None:
        trial = shard.trials[0]
        if answer.images is not None and trial.attack != CLEAN:
            write_whole(self.part(trial, shard.start), _bytes(answer.images.float()))

    def is_kept(self, trial: Trial, start: int) -> bool:
        """Return whether the images of a shard are still kept, where there are any."""
        if trial.attack == CLEAN or self.part(trial, start).exists():
            return True
        return trial.kind == CERTIFICATE and start not in self._found(trial)

    def _found(self, trial: Trial) -> set[int]:
        """Return the first image of each shard in which a certificate found a counterexample."""
        record = Store(self.root).read(trial.key)
        shards = record.shards if record else ()
        return {shard.start for shard in shards if shard.stages.get(COUNTEREXAMPLE)}

    def collect(self, request: Manifest, data: Images, batch: int) -> list[Path]:
        """Write one `<model>-<attack>-<threat>-seed<seed>.pt` for each crafting that is complete.

        Of a certificate that found counterexamples too, with clean images where it found none.
        """
        written, store = [], Store(self.root)
        for key in request.keys:
            record = store.read(key)
            if record is None or record.trial.attack == CLEAN:
                continue
            trial = record.trial
            starts = range(0, len(data), batch)
            spans = {self.part(trial, start): slice(start, start + batch) for start in starts}
            there = [part.exists() for part in spans]
            if any(there) and (all(there) or trial.kind == CERTIFICATE):
                path = self.joined(trial, request.models[trial.source].name)
                images = torch.cat(
                    [
                        torch.load(part, weights_only=True) if part.exists() else data.at(span)[0]
                        for part, span in spans.items()
                    ]
                )
                if path not in written:
                    write_whole(path, _bytes(images[: len(data)]))
                    written.append(path)
        return written

    def joined(self, trial: Trial, source: str) -> Path:
        """Return the file of all images of a crafting; source: the name of what they were crafted against."""
        name = f"{source}-{trial.attack}-{trial.threat}-seed{trial.seed}"
        return self.folder / f"{short_name(re.sub(r'[^A-Za-z0-9._-]+', '_', name))}.pt"

    def part(self, trial: Trial, start: int) -> Path:
        """Return the file of a shard's images, named by what crafted them: all its judges share it."""
        crafting = replace(trial, target=trial.source).key
        return self.folder / "parts" / f"{crafting}-{start}.pt"


class ExampleWriter:
    """Keep the first images of each model's own attacks, and of the data, for `examples.npz`."""

    def __init__(self, root: Path, request: Manifest, data: Images) -> None:
        self.root, self.data = root, data
        channels, height, width = data.shape
        self.wanted = examples.wanted(request, 4 * channels * height * width)

    def on_answer(self, shard: Shard, answer: Answer) -> None:
        trial = shard.trials[0]
        crafting = examples.CraftingKey(trial.source, trial.attack, trial.threat, trial.seed)
        left = examples.COUNT - shard.start
        complete = answer.predicted is not None or shard.source.members  # else only others judged it again
        if left <= 0 or not complete or (trial.attack != CLEAN and crafting not in self.wanted):
            return
        name, arrays = examples.name_of(crafting), {}
        if trial.attack != CLEAN and answer.images is not None:
            arrays[f"{name}/adversarial"] = answer.images[:left].float().numpy()
        if answer.predicted is not None:
            arrays[f"{name}/predicted"] = answer.predicted[:left].numpy()
        examples.write_part(self.root, hashlib.sha256(name.encode()).hexdigest(), shard.start, arrays)

    def collect(self) -> None:
        """Write `examples.npz` from what it held and what this run or a killed one kept, if anything."""
        if not (self.root / examples.EXAMPLES_FILE).exists() and not (self.root / examples.PARTS).exists():
            return
        x, y = self.data.at(slice(0, examples.COUNT))
        digest = self.data.digest
        examples.join_parts(self.root, {f"{digest}/images": x.numpy(), f"{digest}/labels": y.numpy()})


def _bytes(tensor: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    return buffer.getvalue()
