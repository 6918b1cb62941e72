"""Two-sided verdicts worked out on paper: proved, broken, open, contradictions, and curves that nest."""

from __future__ import annotations

import pytest

from rstbench.cli.commands import main
from rstbench.evidence.manifest import Manifest, Row
from rstbench.evidence.merge import merge
from rstbench.evidence.store import Store
from rstbench.evidence.trial import CERTIFICATE, CLEAN, COUNTEREXAMPLE, ModelInfo, ShardResult, Trial
from rstbench.reports.certified import contradictions
from rstbench.reports.leaderboard import leaderboard
from rstbench.reports.lookup import Evidence
from rstbench.reports.per_image import per_image_answers

NEAR, FAR = "Linf:0.1", "Linf:0.2"
CARDS = {
    "a": ModelInfo("rst-0.1", "ticket", "rst", "conv4", 0.1, 10, 100),
    "b": ModelInfo("rst-0.2", "ticket", "rst", "conv4", 0.2, 20, 100),
    "s": ModelInfo("switch", "switch", members=("a", "b"), weights=(0.25, 0.75)),
}


def make(root, attacks, proofs, rows, curve=None):
    """attacks: (source, target, attack, threat) -> bits; proofs: (model, certificate, threat) -> bits, or
    (bits, those broken by counterexamples)."""
    store, keys = Store(root), []
    for (source, target, attack, threat), bits in attacks.items():
        trial = Trial(source, target, attack, threat, "data", 4, 0)
        store.add(trial, ShardResult(0, bits), {d: CARDS[d] for d in (source, target)}, "digits:test")
        keys.append(trial.key)
    for (model, certificate, threat), answer in proofs.items():
        bits, broken = answer if isinstance(answer, tuple) else (answer, "")
        trial = Trial(model, model, certificate, threat, "data", 4, 0, kind=CERTIFICATE)
        result = ShardResult(0, bits, {COUNTEREXAMPLE: broken} if broken else {}, proof={"eps": 0.1})
        store.add(trial, result, {model: CARDS[model]}, "digits:test")
        keys.append(trial.key)
    study = {"name": "hand"} | ({"curve": curve} if curve else {})
    models = {row.model for row in rows} | {key[1] for key in attacks}
    run = {"data": "digits:test", "data_digest": "data", "batch": 4}
    cards = {digest: CARDS[digest] for digest in models}
    Manifest(study, run, 4, cards, tuple(rows), keys=tuple(keys)).save(root)
    return Evidence.read(root)


def of(model, threat=NEAR, clean="1110", **attacks):
    """A model's own answers."""
    own = {(model, model, name, threat): bits for name, bits in attacks.items()}
    return {(model, model, CLEAN, ""): clean, **own}


def row(model, threat=NEAR, attacks=("pgd",), certificates=("crown",)):
    return Row(model, threat, 0, attacks, certificates)


def test_certified_and_open_stand_after_the_worst_case(tmp_path):
    """Of four images one is wrong clean, one broken, one open, one proved by either of two certificates."""
    proofs = {("a", "ibp", NEAR): "0000", ("a", "crown", NEAR): "1000"}
    evidence = make(tmp_path, of("a", pgd="1100"), proofs, [row("a", certificates=("ibp", "crown"))])
    board = leaderboard(evidence)
    columns = list(board.columns)
    place = columns.index("worst_high")
    assert columns[place + 1 : place + 4] == ["certified", "open", "flags"]
    assert board.loc[0, ["clean", "worst", "certified", "open"]].tolist() == [0.75, 0.5, 0.25, 0.25]
    assert contradictions(evidence) == []
    assert evidence.unanswered == 0


def test_no_columns_where_nothing_was_to_be_proved(tmp_path):
    board = leaderboard(make(tmp_path, of("a", pgd="1100"), {}, [row("a", certificates=())]))
    assert not {"certified", "open"} & set(board.columns)


def test_a_certificate_without_an_answer_leaves_its_cells_empty(tmp_path):
    """An unproved image is not a broken one, and an unasked one is neither."""
    certificates = ("ibp", "crown")
    proofs = {("a", "ibp", NEAR): "0000"}
    board = leaderboard(make(tmp_path, of("a", pgd="1100"), proofs, [row("a", certificates=certificates)]))
    assert board.loc[0, ["certified", "open"]].isna().all()
    assert board.loc[0, "worst"] == 0.5


def test_of_a_switch_it_is_the_expectation_over_its_members(tmp_path):
    attacks = of("a", pgd="1100") | of("b", pgd="1110", clean="1111")
    attacks |= {("s", "a", "pgd", NEAR): "1100", ("s", "b", "pgd", NEAR): "1110"}
    proofs = {("a", "crown", NEAR): "1000", ("b", "crown", NEAR): "1100"}
    evidence = make(tmp_path, attacks, proofs, [row(model) for model in "abs"])
    answers = per_image_answers(evidence, row("s"))
    assert answers.certified.tolist() == [1.0, 0.75, 0.0, 0.0]
    board = leaderboard(evidence).set_index("model")
    assert board.loc["switch", ["worst", "certified", "open"]].tolist() == [0.6875, 0.4375, 0.25]


@pytest.mark.parametrize(
    ("broken_by", "model"), [("pgd", "a"), ("transfer", "a"), ("switch", "b"), ("counterexample", "a")]
)
def test_certified_and_broken_at_once_refuses_the_row(tmp_path, broken_by, model, capsys):
    """Whoever crafted the image; both files are named, and the other rows stand."""
    attacks = of("a", pgd="1110") | of("b", pgd="1110")
    attacks |= {("s", "a", "pgd", NEAR): "1110", ("s", "b", "pgd", NEAR): "1110"}
    proofs = {("a", "crown", NEAR): "0110", ("b", "crown", NEAR): "0110", ("a", "milp", NEAR): "0000"}
    if broken_by == "counterexample":
        proofs["a", "milp", NEAR] = ("0000", "0100")
    else:
        attacks[
            {"pgd": ("a", "a"), "transfer": ("b", "a"), "switch": ("s", "b")}[broken_by] + ("pgd", NEAR)
        ] = "1010"
    rows = [row("a", certificates=("crown", "milp")), row("b")]
    evidence = make(tmp_path, attacks, proofs, rows)
    (line,) = contradictions(evidence)
    name = CARDS[model].name
    assert line.startswith(f"{name} at {NEAR}: image 1 is certified by crown (results/")
    assert line.count(".jsonl") == 2
    board = leaderboard(evidence).set_index("model")
    assert board.loc[name, ["clean", "worst", "certified"]].isna().all()
    other = next(card.name for digest, card in CARDS.items() if digest in "ab" and digest != model)
    assert board.loc[other, "worst"] == 0.75
    assert main(["report", str(tmp_path)]) == 1
    assert "one of them is wrong" in capsys.readouterr().err


def test_counterexamples_count_like_an_attacks_images(tmp_path):
    evidence = make(tmp_path, of("a", pgd="1110"), {("a", "milp", NEAR): ("1000", "0010")},
                    [row("a", certificates=("milp",))])  # fmt: skip
    board = leaderboard(evidence)
    assert board.loc[0, ["pgd", "worst", "certified", "open"]].tolist() == [0.75, 0.5, 0.25, 0.25]


def curve(root, nested):
    """At the larger eps an attack fails and a proof succeeds, where at the smaller it was the other way."""
    attacks = of("a", pgd="1101", clean="1111") | of("a", FAR, clean="1111", pgd="1011")
    proofs = {("a", "crown", NEAR): "0000", ("a", "crown", FAR): "1000"}
    rows = [row("a"), row("a", FAR)]
    evidence = make(root, attacks, proofs, rows, {"norm": "Linf", "eps": ["0.1", "0.2"]} if nested else None)
    return leaderboard(evidence).set_index("threat")


def test_answers_along_a_curve_tell_about_one_another(tmp_path):
    """Broken at a smaller eps is broken at a larger; certified at a larger is certified at a smaller."""
    board = curve(tmp_path, nested=True)
    columns = ["pgd", "worst", "certified", "open"]
    assert board.loc[NEAR, columns].tolist() == [0.75, 0.75, 0.25, 0.5]
    assert board.loc[FAR, columns].tolist() == [0.75, 0.5, 0.25, 0.25]


def test_without_a_curve_each_eps_stands_alone(tmp_path):
    board = curve(tmp_path, nested=False)
    columns = ["pgd", "worst", "certified"]
    assert board.loc[NEAR, columns].tolist() == [0.75, 0.75, 0]
    assert board.loc[FAR, columns].tolist() == [0.75, 0.75, 0.25]


def test_along_a_curve_a_proof_at_a_larger_eps_contradicts_an_image_at_a_smaller(tmp_path):
    """At the eps between them both rows are refused: neither side can be believed."""
    attacks = of("a", pgd="0111", clean="1111") | of("a", FAR, clean="1111", pgd="1111")
    proofs = {("a", "crown", NEAR): "0000", ("a", "crown", FAR): "1000"}
    rows, eps = [row("a"), row("a", FAR)], ["0.1", "0.2"]
    evidence = make(tmp_path, attacks, proofs, rows, {"norm": "Linf", "eps": eps})
    near, far = contradictions(evidence)
    assert near.startswith(f"rst-0.1 at {NEAR}: image 0 is certified by crown")
    assert far.startswith(f"rst-0.1 at {FAR}: image 0")
    board = leaderboard(evidence)
    assert board[["worst", "certified", "open"]].isna().all(axis=None)
    assert main(["report", str(tmp_path)]) == 1
    assert "one of them is wrong" in (tmp_path / "index.html").read_text()


def test_folders_with_certificates_merge(tmp_path):
    make(tmp_path / "one", of("a", pgd="1100"), {}, [row("a", certificates=())])
    make(tmp_path / "two", of("a", pgd="1100"), {("a", "crown", NEAR): "1000"}, [row("a")])
    merge([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    board = leaderboard(Evidence.read(tmp_path / "both"))
    assert board.loc[0, ["worst", "certified"]].tolist() == [0.5, 0.25]


def test_the_key_of_an_attack_is_what_it_was():
    """Its kind is left out of the text that is hashed; that of a certificate is not."""
    attack = Trial("x", "x", "pgd", NEAR, "data", 4, 0)
    certificate = Trial("x", "x", "pgd", NEAR, "data", 4, 0, kind=CERTIFICATE)
    assert "kind" not in attack.as_plain()
    assert attack.key != certificate.key
    assert Trial.of(certificate.as_plain()) == certificate
    with pytest.raises(ValueError, match="kind is attack or certificate"):
        Trial.of({**certificate.as_plain(), "kind": "guess"})


def test_page_and_figures_show_the_band(tmp_path):
    curve(tmp_path, nested=True)
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text()
    assert "certified</th>" in page
    assert "what is broken at a smaller radius counts as broken at a larger one" in page
    assert "25.0 proved" in page
    assert (tmp_path / "figures" / "certified.svg").exists()
    assert not (tmp_path / "figures" / "certified-ratios.svg").exists()
