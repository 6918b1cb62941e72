"""The verb `verify`: tell whether the evidence of a folder holds on this machine.

Adversarial images that were kept are judged again; of every attack, certificate and the clean images a sample
of shards is asked again; and the leaderboard is computed from the evidence.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..attacks import AttackSpec
from ..certificates import CertificateSpec
from ..data import Images, load
from ..errors import BadFile, BadRequest, ModelFault, RstbenchError, one_line
from ..evaluation.adversarials import AdversarialWriter
from ..evaluation.copies import CopyPlanner
from ..evaluation.judge import predict
from ..evaluation.shard import Shard, as_bits, run
from ..evidence.trial import CERTIFICATE, CLEAN, COUNTEREXAMPLE, FAST, ShardResult, TrialResult
from ..models.frozen import frozen_eval
from ..models.wrapper import EvalModel, load_reference, wrap_switch
from ..reports.certified import contradictions
from ..reports.csv_io import as_csv
from ..reports.lookup import Evidence
from ..reports.model_references import made_by_study
from ..reports.tables import tables
from ..threat import Threat
from ..tickets.switch import Switch

ROUNDING = 200  # one image in so many may differ between machines, by rounding: of each shard one at least
BOARD = "leaderboard"


@dataclass(frozen=True)
class Check:
    """What was repeated, and what came.

    what: in words; images: how many; differing: the indices of those with another answer than the stored one;
    problem: why it does not hold, or could not be repeated; repeated: whether it could; exact: whether no
    image may have another answer, for none hangs on rounding.
    """

    what: str
    images: int = 0
    differing: tuple[int, ...] = ()
    problem: str = ""
    repeated: bool = True
    exact: bool = False

    @property
    def holds(self) -> bool:
        allowed = 0 if self.exact else max(1, self.images // ROUNDING)
        return self.repeated and not self.problem and len(self.differing) <= allowed

    def line(self) -> str:
        """Return `holds: rst-0.2, pgd Linf:0.1, images 0-99: all 100 the same`."""
        if not self.repeated:
            return f"not repeated: {self.what}: {self.problem}"
        if self.problem:
            return f"does not hold: {self.what}: {self.problem}"
        if not self.images:
            return f"holds: {self.what}"
        found = f"all {self.images} the same"
        if self.differing:
            some = ", ".join(map(str, self.differing[:10])) + ("…" if len(self.differing) > 10 else "")
            found = f"{len(self.differing)} of {self.images} differ: {some}"
        return f"{'holds' if self.holds else 'does not hold'}: {self.what}: {found}"


def verify(root: Path, data_root: Path, device: torch.device, sample: int, seed: int) -> Iterator[Check]:
    """Yield what is checked of a folder that `evaluate` or `transfer` wrote.

    sample: shards of each attack and certificate, and of clean images; seed: which ones. Raises BadFile where
    there is no evidence, BadRequest where its images are not those of the data that it names.
    """
    evidence = Evidence.read(root)
    if not evidence.records:
        raise BadFile(f"{root} holds no complete answer; run its study first")
    if (root / f"{BOARD}.csv").exists():
        frame = tables(evidence).get(BOARD)
        same = frame is not None and (root / f"{BOARD}.csv").read_bytes() == as_csv(frame)
        problem = "" if same else f"it does not; rstbench report {root} makes it anew"
        yield Check(f"{BOARD}.csv follows from the evidence", problem=problem)
    for line in contradictions(evidence):
        yield Check("no image is certified and broken", problem=line)
    images = _images(evidence, data_root)
    models, missing = _models(evidence, root, images)
    yield from missing
    yield from _judged_again(evidence, models, root, images, device)
    chosen = random.Random(seed)
    by_question: dict[tuple[str, str], list[tuple[TrialResult, ShardResult]]] = {}
    for record in (*evidence.records.values(), *evidence.proofs.values()):
        if {record.trial.source, record.trial.target} <= models.keys():
            shards = by_question.setdefault((record.trial.kind, record.trial.attack), [])
            shards += [(record, shard) for shard in record.within(evidence.manifest.images)]
    for shards in by_question.values():
        for record, shard in chosen.sample(shards, min(sample, len(shards))):
            yield _asked_again(record, shard, models, images, device)


def _images(evidence: Evidence, data_root: Path) -> Images:
    """Return the images that the evidence is about. Raises BadRequest where they are others here."""
    images = load(str(evidence.manifest.run["data"]), data_root)
    digests = {record.trial.data for record in evidence.records.values()}
    if digests != {images.digest}:
        raise BadRequest(
            f"the evidence is about images of digest {min(digests)[:12]}…, {images.name} here has "
            f"{images.digest[:12]}…: another version of the data?"
        )
    return images


def _models(evidence: Evidence, root: Path, images: Images) -> tuple[dict[str, EvalModel], list[Check]]:
    """Return the models that are here and still the same, by digest, and a line for each that is not."""
    found, missing, manifest = dict[str, EvalModel](), list[Check](), evidence.manifest
    seeds = {row.model: row.seed for row in manifest.rows}
    made = {
        digest: file
        for digest, card in manifest.models.items()
        if (file := made_by_study(card, seeds.get(digest, 0), root))
    }
    named = [model["ref"] for model in manifest.study.get("model", [])]
    for digest, reference in [*made.items(), *(("", reference) for reference in named)]:
        try:
            model = load_reference(reference, images)
        except RstbenchError as error:
            missing.append(Check(reference, problem=str(error), repeated=False))
            continue
        for one in (model, *model.members):
            found[one.digest] = replace(one, info=manifest.models.get(one.digest, one.info))
        known = {digest} if digest else manifest.models.keys()
        if not {model.digest, *(member.digest for member in model.members)} & known:
            missing.append(Check(reference, problem="it is another model now"))
    for digest, card in manifest.models.items():
        if card.members and set(card.members) <= found.keys():
            members = [found[member] for member in card.members]
            switch = Switch([member.module for member in members], list(card.weights))
            found |= {s.digest: s for s in [wrap_switch(members, card.name, switch)] if s.digest == digest}
    missing += [
        Check(card.name, problem="what it was loaded from is not known or not here", repeated=False)
        for digest, card in manifest.models.items()
        if digest not in found
    ]
    return found, missing


def _judged_again(
    evidence: Evidence,
    models: Mapping[str, EvalModel],
    root: Path,
    images: Images,
    device: torch.device,
) -> Iterator[Check]:
    """Judge the adversarial images that were kept, a certificate's counterexamples among them."""
    kept = AdversarialWriter(root)
    for record in (*evidence.records.values(), *evidence.proofs.values()):
        trial = record.trial
        if trial.attack == CLEAN or trial.target not in models:
            continue
        joined = kept.joined(trial, evidence.info(trial.source).name)
        for shard in record.within(evidence.manifest.images):
            span = slice(shard.start, shard.start + len(shard.bits))
            part = kept.part(trial, shard.start)
            if not (part.exists() or joined.exists()):
                continue
            what = f"kept images, {_words(record, shard)}"
            try:
                crafted = torch.load(part, weights_only=True) if part.exists() else _part_of(joined, span)
                x, y = images.at(span)
                Threat.parse(trial.threat).check(x, crafted)
                if joined.exists() and not torch.equal(_part_of(joined, span), crafted):
                    raise BadFile(f"{joined.name} holds other images")
                right = _right(models[trial.target], crafted, y, images, device)
                yield _compared(what, shard, right, _stored_right(record, shard, right))
            except Exception as error:  # of a damaged file, whatever it raises
                name = (part if part.exists() else joined).name
                yield Check(what, problem=f"{name}: {one_line(error, 200)}")


def _part_of(joined: Path, span: slice) -> torch.Tensor:
    """Return a shard's images from the file of all: mapped, for every shard and judge takes a few."""
    images: torch.Tensor = torch.load(joined, weights_only=True, mmap=True)[span]
    return images


def _right(model: EvalModel, x: Tensor, y: Tensor, images: Images, device: torch.device) -> str:
    with frozen_eval(model.module, device):
        logits = predict(model, x.to(device), images.classes, exact=images.classes_known)
    predicted = logits.argmax(1).where(logits.isfinite().all(1), -1)
    return as_bits(predicted.cpu() == y)


def _asked_again(
    record: TrialResult,
    stored: ShardResult,
    models: Mapping[str, EvalModel],
    images: Images,
    device: torch.device,
) -> Check:
    """Ask one shard again as it was asked: the same images at once, threads and copies."""
    trial, what = record.trial, _words(record, stored)
    source, target = models[trial.source], models[trial.target]
    places = torch.arange(stored.start, stored.start + len(stored.bits))
    certificate = attack = threat = copies = None
    try:
        if trial.kind == CERTIFICATE:
            certificate = CertificateSpec.parse(trial.attack).certificate
        elif trial.attack != CLEAN:
            attack, threat = AttackSpec.parse(trial.attack).attack, Threat.parse(trial.threat)
        asked = images.take(places)
        if trial.crafting == FAST:
            copies = CopyPlanner(device).setting(source, [record], asked.at(slice(None))[0], stored.threads)
        threads = 0 if device.type == "cuda" else stored.threads
        shard = Shard(
            source, (target,), (trial,), attack, threat, asked, stored.start, device, threads, copies,
            certificate=certificate, rows=stored.rows.get("crafting", 0),
        )  # fmt: skip
        answer = run(shard)
    except (BadRequest, BadFile, ModelFault) as error:
        return Check(what, problem=str(error))
    compared = _compared(what, stored, answer.results[trial.key].bits, stored.bits)
    if certificate and compared.differing and hasattr(certificate, "seconds"):
        # What was proved within the time of then may not be now; what is broken now was no proof.
        broken = answer.results[trial.key].stages.get(COUNTEREXAMPLE, "")
        if any(proof == found == "1" for proof, found in zip(stored.bits, broken, strict=False)):
            return replace(compared, problem="a counterexample breaks what is stored as proved")
        count = len(compared.differing)
        why = (
            f"{count} of {compared.images} images got another verdict, perhaps for want of its solver's time"
        )
        return replace(compared, problem=why, repeated=False)
    return replace(compared, exact=certificate is not None)


def _stored_right(record: TrialResult, shard: ShardResult, right: str) -> str:
    """Return what kept images must give by the evidence: of a certificate's that those are wrong which it
    found, for the others are clean images."""
    if record.trial.kind != CERTIFICATE:
        return shard.bits
    found = shard.stages.get(COUNTEREXAMPLE, "0" * len(right))
    return "".join("0" if broken == "1" else bit for broken, bit in zip(found, right, strict=True))


def _compared(what: str, stored: ShardResult, bits: str, wanted: str) -> Check:
    pairs = zip(wanted, bits, strict=True)
    differing = tuple(stored.start + i for i, (one, other) in enumerate(pairs) if one != other)
    return Check(what, len(bits), differing)


def _words(record: TrialResult, shard: ShardResult) -> str:
    """Return `rst-0.2 against rst-0.1, pgd Linf:0.1, images 0-99`."""
    trial, names = record.trial, {digest: card.name for digest, card in record.models.items()}
    against = f" on images against {names[trial.source]}" if trial.source != trial.target else ""
    question = f"{trial.attack} {trial.threat}".rstrip()
    span = f"images {shard.start}-{shard.start + len(shard.bits) - 1}"
    return f"{names[trial.target]}{against}, {question}, {span}"


def summary(root: Path, checks: Sequence[Check]) -> str:
    """Return a line for a folder: how much was repeated, and whether it holds."""
    repeated = [check for check in checks if check.repeated]
    failed = [check for check in repeated if not check.holds]
    if not any(check.images for check in repeated):
        return f"{root}: nothing could be repeated"
    verdict = f"{len(failed)} of them do not" if failed else "all"
    left = len(checks) - len(repeated)
    return f"{root}: {len(repeated)} checks, {verdict} hold" + (f"; {left} not repeated" if left else "")
