"""Packed evidence: the same answers as files, the same bytes each time, and one line for each damage."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from dataclasses import replace

import pytest

from rstbench.errors import BadFile, BadRequest
from rstbench.evidence import pack as pack_module
from rstbench.evidence.merge import merge
from rstbench.evidence.pack import PACK_FILE, Pack
from rstbench.evidence.packing import pack_folder
from rstbench.evidence.store import Store
from rstbench.evidence.trial import ModelInfo, ShardResult, Trial
from rstbench.reports.leaderboard import leaderboard
from rstbench.reports.lookup import Evidence
from rstbench.reports.status import read_status

TRIALS = [Trial("a" * 64, "b" * 64, "pgd", "Linf:0.1", "d" * 64, 2, seed) for seed in range(4)]
MODELS = {"a" * 64: ModelInfo("left", "ticket"), "b" * 64: ModelInfo("right", "trained")}
FIRST, SECOND = ShardResult(0, "01", {"pgd": "10"}, seconds=0.5), ShardResult(2, "11", device="cpu")


def fill(root, trials=TRIALS, shards=(FIRST, SECOND)):
    store = Store(root)
    for trial in trials:
        for shard in shards:
            store.add(trial, shard, MODELS, "digits:test")
    return store


def records(root):
    store = Store(root)
    keys = store.keys()
    return {key: store.read(key) for key in keys}


def names(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.name != ".lock")


def test_a_pack_reads_like_the_files_and_takes_their_place(tmp_path):
    fill(tmp_path)
    before = records(tmp_path)
    assert "4 questions, 4 of them new" in pack_folder(tmp_path)
    assert names(tmp_path) == [PACK_FILE]
    assert records(tmp_path) == before
    with zipfile.ZipFile(tmp_path / PACK_FILE) as file:
        assert file.namelist() == sorted(f"{trial.key}.jsonl" for trial in TRIALS)
        header, *shards = map(json.loads, file.read(f"{TRIALS[0].key}.jsonl").splitlines())
    assert header["trial"]["attack"] == "pgd"
    assert [shard["bits"] for shard in shards] == ["01", "11"]


def test_equal_evidence_is_equal_bytes_in_whatever_order_it_came(tmp_path):
    fill(tmp_path / "one")
    fill(tmp_path / "two", TRIALS[::-1], (SECOND, FIRST, FIRST))
    fill(tmp_path / "three", TRIALS[:2])
    pack_folder(tmp_path / "three")
    fill(tmp_path / "three", TRIALS[1:], (SECOND, FIRST))
    packs = []
    for name in ("one", "two", "three"):
        pack_folder(tmp_path / name)
        packs.append((tmp_path / name / PACK_FILE).read_bytes())
    assert packs[0] == packs[1] == packs[2]


def test_new_shards_lie_beside_a_pack_until_it_is_made_anew(tmp_path):
    fill(tmp_path, shards=[FIRST])
    pack_folder(tmp_path)
    store = fill(tmp_path, TRIALS[:1], [SECOND])
    key = TRIALS[0].key
    assert store.read(key).bits == "0111"
    assert store.places(key) == (PACK_FILE, f"results/{key}.jsonl")
    assert store.places(TRIALS[1].key) == (PACK_FILE,)
    assert (
        json.loads(store.path(key).read_bytes().splitlines()[0])["trial"]["seed"] == 0
    )  # a header of its own
    pack_folder(tmp_path)
    assert names(tmp_path) == [PACK_FILE]
    assert (store.read(key).bits, store.places(key)) == (
        "0111",
        (PACK_FILE,),
    )  # the same store looks again
    content = (tmp_path / PACK_FILE).read_bytes()
    time = (tmp_path / PACK_FILE).stat().st_mtime_ns
    assert "0 of them new" in pack_folder(tmp_path)
    assert ((tmp_path / PACK_FILE).read_bytes(), (tmp_path / PACK_FILE).stat().st_mtime_ns) == (content, time)


def test_two_answers_in_pack_and_file_are_refused_and_both_stay(tmp_path):
    fill(tmp_path, shards=[FIRST])
    pack_folder(tmp_path)
    store = fill(tmp_path, TRIALS[:1], [ShardResult(0, "11")])
    before = {path: path.read_bytes() for path in (tmp_path / PACK_FILE, store.path(TRIALS[0].key))}
    for ask in (lambda: store.read(TRIALS[0].key), lambda: pack_folder(tmp_path)):
        with pytest.raises(
            BadFile, match=r"results\.zip \(member \w+\.jsonl\) and \S+ hold two different answers"
        ):
            ask()
    assert {path: path.read_bytes() for path in before} == before


def test_torn_lines_are_left_out_and_a_header_alone_is_kept(tmp_path):
    store = fill(tmp_path)
    cut = {0: 20, 1: len(store.path(TRIALS[1].key).read_bytes().split(b"\n", 1)[1]) - 3, 2: 10_000}
    for index, length in cut.items():
        path = store.path(TRIALS[index].key)
        path.write_bytes(path.read_bytes()[:-length] if length < 10_000 else b'{"cards"')
    pack_folder(tmp_path)
    assert {trial.seed: store.read(trial.key) and store.read(trial.key).bits for trial in TRIALS} == {
        0: "01", 1: "", 2: None, 3: "0111"
    }  # fmt: skip
    fill(tmp_path, TRIALS[1:3])
    assert [store.read(trial.key).bits for trial in TRIALS[1:3]] == ["0111", "0111"]


def test_a_running_folder_and_one_without_evidence_are_refused(tmp_path):
    with pytest.raises(BadFile, match="no evidence in"):
        pack_folder(tmp_path)
    assert names(tmp_path) == []
    store = fill(tmp_path)
    with store.lock(), pytest.raises(BadRequest, match=r"another run is writing to .*; pack it when"):
        pack_folder(tmp_path)
    assert len(names(tmp_path)) == 5


def make_partly_packed(root):
    """A pack, files beside it, one of them about a packed question."""
    fill(root, TRIALS[:2], [FIRST])
    pack_folder(root)
    fill(root, TRIALS[1:], [SECOND, FIRST])


def test_originals_stay_where_the_pack_does_not_read_back(tmp_path, monkeypatch):
    make_partly_packed(tmp_path)
    before, content = records(tmp_path), (tmp_path / PACK_FILE).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(pack_module.os, "fsync", lambda descriptor: os.pwrite(descriptor, b"\0" * 8, 200))
        with pytest.raises(BadFile):
            pack_folder(tmp_path)
    assert (tmp_path / PACK_FILE).read_bytes() == content
    assert records(tmp_path) == before


def rewritten(root, change):
    """The pack with its members written anew: change(name, content) -> (ZipInfo or name, content) pairs."""
    with zipfile.ZipFile(root / PACK_FILE) as file:
        members = [(name, file.read(name)) for name in file.namelist()]
    with zipfile.ZipFile(root / PACK_FILE, "w") as file:
        for member in members:
            for name, content in change(*member):
                file.writestr(name, content, file.compression)


def one(change):
    return lambda name, content: [change(name, content)]


def patched(root, signature, offset, value):
    """The first record of a kind with bytes at an offset overwritten."""
    content = bytearray((root / PACK_FILE).read_bytes())
    start = content.index(signature) + offset
    content[start : start + len(value)] = value
    (root / PACK_FILE).write_bytes(content)


def changed(root, change):
    (root / PACK_FILE).write_bytes(change((root / PACK_FILE).read_bytes()))


CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"
DAMAGE = {
    "no zip": lambda root: (root / PACK_FILE).write_bytes(b"no zip at all\n" * 100),
    "empty": lambda root: (root / PACK_FILE).write_bytes(b""),
    "truncated": lambda root: os.truncate(root / PACK_FILE, (root / PACK_FILE).stat().st_size // 2),
    "front cut": lambda root: changed(root, lambda content: content[99:]),
    "tail lost": lambda root: (root / PACK_FILE).write_bytes(
        (root / PACK_FILE).read_bytes()[:-12] + bytes(12)
    ),
    "two in one": lambda root: changed(root, lambda content: content + content),
    "link to nothing": lambda root: (root / PACK_FILE).unlink() or (root / PACK_FILE).symlink_to("none"),
    "checksum": lambda root: patched(root, CENTRAL, 16, b"\1\2\3\4"),
    "encrypted": lambda root: patched(root, CENTRAL, 8, b"\1"),
    "unknown compression": lambda root: patched(root, CENTRAL, 10, b"\x63"),
    "claimed size": lambda root: patched(root, CENTRAL, 24, struct.pack("<I", 2**31)),
    "smaller size": lambda root: patched(root, CENTRAL, 24, struct.pack("<I", 100)),
    "larger packed size": lambda root: patched(root, CENTRAL, 20, struct.pack("<I", 10**6)),
    "local header": lambda root: patched(root, LOCAL, 0, b"XX"),
    "twice": lambda root: rewritten(root, lambda name, content: [(name, content), (name, content)]),
    "absolute": lambda root: rewritten(root, one(lambda name, content: (f"/tmp/{name}", content))),
    "upwards": lambda root: rewritten(root, one(lambda name, content: (f"../{name}", content))),
    "folder": lambda root: rewritten(root, lambda name, content: [(name, content), ("results/", b"")]),
    "other key": lambda root: rewritten(root, one(lambda name, content: (f"{'0' * 64}.jsonl", content))),
    "swapped": lambda root: rewritten(root, one(lambda n, c: (n, c.replace(b"pgd", b"cw")))),
    "torn": lambda root: rewritten(root, one(lambda name, content: (name, content[:-9]))),
    "no header": lambda root: rewritten(root, one(lambda name, content: (name, b""))),
    "no json": lambda root: rewritten(root, one(lambda name, content: (name, b"no json\n"))),
    "no bits": lambda root: rewritten(root, one(lambda n, c: (n, c.replace(b'"bits":"01"', b'"bits":"0x"')))),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_pack_is_one_line_and_never_fewer_answers(tmp_path, damage):
    fill(tmp_path, TRIALS[:1] if damage == "other key" else TRIALS)
    pack_folder(tmp_path)
    DAMAGE[damage](tmp_path)
    with pytest.raises(BadFile) as error:
        records(tmp_path)
    assert PACK_FILE in str(error.value)
    assert "\n" not in str(error.value)
    fill(tmp_path, [replace(TRIALS[0], seed=9)])
    with pytest.raises(BadFile):
        pack_folder(tmp_path)


@pytest.mark.parametrize("cut", [1, 4, 22, 60, 300, 900])
def test_every_cut_is_noticed(tmp_path, cut):
    fill(tmp_path)
    pack_folder(tmp_path)
    os.truncate(tmp_path / PACK_FILE, (tmp_path / PACK_FILE).stat().st_size - cut)
    with pytest.raises(BadFile, match="damaged"):
        Pack(tmp_path / PACK_FILE)


def test_every_flipped_byte_is_noticed_or_changes_no_answer(tmp_path):
    fill(tmp_path, TRIALS[:2])
    before = records(tmp_path)
    pack_folder(tmp_path)
    content = (tmp_path / PACK_FILE).read_bytes()
    directory = struct.unpack("<L", content[-6:-2])[0]  # lists the members; there every bit counts
    flips = [(index, 0x41) for index in range(directory)]
    flips += [(index, 1 << bit) for index in range(directory, len(content)) for bit in range(8)]
    for index, flip in flips:
        flipped = bytes([content[index] ^ flip])
        (tmp_path / PACK_FILE).write_bytes(content[:index] + flipped + content[index + 1 :])
        try:
            assert records(tmp_path) == before
        except BadFile:
            continue


def test_files_that_hold_no_answer_stay(tmp_path):
    fill(tmp_path, TRIALS[:1])
    (tmp_path / "results" / "notes.jsonl").write_text("key,remark")
    assert "1 questions, 1 of them new" in pack_folder(tmp_path)
    assert names(tmp_path) == ["results", "results.zip", "results/notes.jsonl"]
    (tmp_path / PACK_FILE).unlink()
    with pytest.raises(BadFile, match="no complete answer"):
        pack_folder(tmp_path)
    assert not (tmp_path / PACK_FILE).exists()


def test_folders_are_merged_from_their_packs(hand_run, tmp_path):
    hand_run(tmp_path / "one")
    merge([tmp_path / "one"], tmp_path / "from-files")
    pack_folder(tmp_path / "one")
    merge([tmp_path / "one"], tmp_path / "from-pack")
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.jsonl")}
        for name in ("from-files", "from-pack")
    ]
    assert contents[0] == contents[1]
    # A merging that was packed may be written over, but not with other answers.
    pack_folder(tmp_path / "from-pack")
    assert merge([tmp_path / "one"], tmp_path / "from-pack") == []
    assert leaderboard(Evidence.read(tmp_path / "from-pack")).equals(
        leaderboard(Evidence.read(tmp_path / "one"))
    )


def test_a_merging_that_was_packed_is_not_contradicted(hand_run, tmp_path):
    hand_run(tmp_path / "one")
    merge([tmp_path / "one"], tmp_path / "both")
    pack_folder(tmp_path / "both")
    path = next((tmp_path / "one" / "results").iterdir())
    header, shard = path.read_text().splitlines()
    bits = json.loads(shard)["bits"]
    path.write_text(f"{header}\n{shard.replace(bits, bits[::-1].replace('0', '1'))}\n")
    with pytest.raises(BadFile, match=r"results\.zip \(member .* and the folders to merge hold two"):
        merge([tmp_path / "one"], tmp_path / "both")


def test_status_counts_packed_shards_and_takes_its_rate_from_new_ones(hand_run, tmp_path):
    hand_run(tmp_path)
    now = (tmp_path / "study.toml").stat().st_mtime
    before = read_status(tmp_path, now)
    pack_folder(tmp_path)
    after = read_status(tmp_path, now)
    assert (after.state, after.shards.done, after.shards.by_attack) == (
        before.state, before.shards.done, before.shards.by_attack
    )  # fmt: skip
    assert before.shards.rate > 0
    assert after.shards.rate == 0
