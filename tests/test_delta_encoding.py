"""Deltas as bytes: what goes in comes out, whatever is not exactly a delta is refused, shares say nothing alone."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import bundle_files, manifest_of
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from edgerec.bundle import manifest as manifests
from edgerec.bundle.federated import BlockSpec, payload_size
from edgerec.checks.uploads import FixedChance
from edgerec.deltas import Delta, DeltaError, SystemChance
from edgerec.errors import BundleInvalid
from edgerec.federation import encoding, shares
from edgerec.federation.rounding import rounded
from edgerec.records import changed

ROOT = Path(__file__).parent.parent
ID = "0123456789abcdef0123456789abcdef"
SPECS = (BlockSpec("popularity", "item_counts", 5, 4.0, 0.0625), BlockSpec("metrics", "metrics", 16, 1.0, 2.0**-10))


def delta_of(specs: tuple[BlockSpec, ...], values: list[int], version: int = 7) -> Delta:
    """A delta of these whole numbers of units, block after block."""
    numbers = np.array(values, np.float64)
    blocks, start = {}, 0
    for spec in specs:
        blocks[spec.name] = (numbers[start : start + spec.size] * spec.unit).astype(np.float32)
        start += spec.size
    return Delta(ID, version, blocks)


@st.composite
def deltas(draw: st.DrawFn) -> tuple[tuple[BlockSpec, ...], Delta]:
    names = draw(st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True), min_size=1, max_size=4, unique=True))
    specs = tuple(
        BlockSpec(name, "new", draw(st.integers(1, 30)), 1.0, 2.0 ** draw(st.integers(-20, 10))) for name in names
    )
    total = sum(spec.size for spec in specs)
    values = draw(st.lists(st.integers(-32767, 32767), min_size=total, max_size=total))
    return specs, changed(delta_of(specs, values, draw(st.integers(0, (1 << 64) - 1))), id=draw(ids))


ids = st.binary(min_size=16, max_size=16).map(bytes.hex)


def same(left: Delta, right: Delta) -> bool:
    equal = all(np.array_equal(block, right.blocks[name]) for name, block in left.blocks.items())
    return equal and (left.id, left.bundle_version, [*left.blocks]) == (right.id, right.bundle_version, [*right.blocks])


@given(deltas())
def test_what_is_encoded_is_decoded(drawn: tuple[tuple[BlockSpec, ...], Delta]) -> None:
    specs, delta = drawn
    payload = encoding.encode(delta, specs)
    assert len(payload) == payload_size(specs)
    assert same(encoding.decode(payload), delta)
    encoding.check_layout(encoding.parse(payload), specs)


@given(deltas(), st.binary(min_size=32, max_size=32))
def test_two_shares_join_to_the_delta(drawn: tuple[tuple[BlockSpec, ...], Delta], seed: bytes) -> None:
    specs, delta = drawn
    numbers, secret = shares.split(encoding.encode(delta, specs), seed)
    assert same(shares.joined(numbers, secret), delta)
    assert same(shares.joined(secret, numbers), delta)
    assert len(numbers) == payload_size(specs, encoding.RING_WIDTH)
    for share in (numbers, secret):
        with pytest.raises(DeltaError):
            encoding.decode(share)
        with pytest.raises(DeltaError):
            shares.split(share)


@given(st.lists(st.lists(st.integers(-32767, 32767), min_size=21, max_size=21), max_size=5))
def test_sums_of_shares_are_the_sum_of_the_deltas(rows: list[list[int]]) -> None:
    size = sum(spec.size for spec in SPECS)
    sums = [np.zeros(size, np.uint32), np.zeros(size, np.uint32)]
    for row in rows:
        for place, share in enumerate(shares.split(encoding.encode(delta_of(SPECS, row), SPECS))):
            sums[place] += shares.ring(encoding.parse(share))
    exact = np.sum(np.array(rows, np.int64).reshape(-1, size), axis=0)
    assert np.array_equal(shares.signed(sums[0] + sums[1]), exact)


@given(st.binary(max_size=200), st.booleans())
def test_bytes_that_are_no_delta_are_refused(data: bytes, dressed: bool) -> None:
    """Also where the magic, the format and the checksum are right."""
    if dressed:
        data = b"EDGD\x01" + data
        data += struct.pack("<I", zlib.crc32(data))
    with pytest.raises(DeltaError):
        encoding.decode(data)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_byte_that_changed_is_found(place: int, flip: int) -> None:
    payload = bytearray(encoding.encode(delta_of(SPECS, [1] * 21), SPECS))
    payload[place % len(payload)] ^= flip
    with pytest.raises(DeltaError):
        encoding.parse(bytes(payload))


def repaired(payload: bytes) -> bytes:
    return payload[:-4] + struct.pack("<I", zlib.crc32(payload[:-4]))


@pytest.mark.parametrize(
    ("start", "piece", "said"),
    [
        (4, b"\x02", "format 2"),
        (5, b"\x03", "unknown kind"),
        (30, b"\x00", "1 to 16 blocks"),
        (30, b"\x10", "head of a block|name is none"),
        (32, b"P", "name is none"),
        (42, b"\0\0\0\0", "impossible size"),
        (42, b"\xff\xff\0\0", "not as many"),
        (46, struct.pack("<f", float("nan")), "impossible size or unit"),
        (46, struct.pack("<f", -1.0), "impossible size or unit"),
        (-6, b"\x00\x80", "more than 32767"),
    ],
)
def test_a_payload_that_lies_is_refused_though_its_checksum_is_right(start: int, piece: bytes, said: str) -> None:
    payload = bytearray(encoding.encode(delta_of(SPECS, [1] * 21), SPECS))
    start %= len(payload)
    payload[start : start + len(piece)] = piece
    with pytest.raises(DeltaError, match=said):
        encoding.decode(repaired(bytes(payload)))


def test_two_blocks_of_one_name_are_refused() -> None:
    one = encoding.Part("same", 1, 1.0)
    with pytest.raises(DeltaError, match="two blocks"):
        encoding.pack(encoding.Payload(encoding.OPEN, ID, 1, (one, one), bytes(4)))


@pytest.mark.parametrize("changes", [{"id": ID.upper()}, {"id": ID[1:]}, {"bundle_version": -1}])
def test_a_delta_whose_name_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DeltaError, match="hexadecimal"):
        encoding.encode(changed(delta_of(SPECS, [0] * 21), **changes), SPECS)


@pytest.mark.parametrize("value", [0.03125, 32768 * 0.0625, np.nan, np.inf])
def test_what_is_no_whole_multiple_is_refused(value: float) -> None:
    delta = delta_of(SPECS, [0] * 21)
    delta.blocks["popularity"][2] = value
    with pytest.raises(DeltaError):
        encoding.encode(delta, SPECS)


def test_blocks_must_be_those_declared() -> None:
    delta = delta_of(SPECS, [0] * 21)
    with pytest.raises(DeltaError, match="not those"):
        encoding.encode(delta, SPECS[:1])
    payload = encoding.parse(encoding.encode(delta, SPECS))
    for other in (SPECS[:1], SPECS[::-1], (SPECS[0], changed(SPECS[1], unit=2.0**-9))):
        with pytest.raises(DeltaError, match="not those"):
            encoding.check_layout(payload, other)


def test_a_payload_beyond_64_kib_is_refused() -> None:
    specs = (BlockSpec("large", "new", 32_768, 1.0, 0.5),)
    with pytest.raises(DeltaError, match="more than 65536"):
        encoding.encode(delta_of(specs, [0] * 32_768), specs)
    with pytest.raises(DeltaError, match="more than 65536"):
        encoding.parse(bytes(65_537))


def test_the_seed_s_numbers_are_those_of_the_page() -> None:
    """docs/delta-format.md gives them, so that a gateway in another language can test itself."""
    drawn = shares.expand(bytes(range(32)), 3)
    assert drawn.tolist() == [1215766131, 2682964115, 617862589]
    digest = hashlib.shake_256(b"edgerec delta share 1\0" + bytes(range(32))).digest(12)
    assert drawn.tolist() == list(struct.unpack("<3I", digest))


def test_shares_of_different_deltas_do_not_join() -> None:
    one, other = (encoding.encode(delta_of(SPECS, [n] * 21, version=n), SPECS) for n in (1, 2))
    with pytest.raises(DeltaError, match="one delta"):
        shares.joined(shares.split(one)[0], shares.split(other)[1])
    with pytest.raises(DeltaError, match="no delta"):
        shares.joined(shares.split(one)[0], shares.split(one)[1])
    with pytest.raises(DeltaError, match="one share"):
        shares.joined(one, one)


def test_a_share_of_numbers_looks_the_same_whatever_it_hides() -> None:
    """With one seed, two deltas' shares differ by the deltas' difference; with fresh seeds nothing repeats."""
    payload = encoding.encode(delta_of(SPECS, [3] * 21), SPECS)
    first, second = (shares.ring(encoding.parse(shares.split(payload)[0])) for _ in range(2))
    assert not np.array_equal(first, second)
    assert len({*first.tolist(), *second.tolist()}) == 42


@given(st.lists(st.floats(-4, 4), min_size=5, max_size=5), st.integers(0, 1000))
def test_rounding_stays_within_the_bound_and_near_the_value(values: list[float], seed: int) -> None:
    exact = np.array(values, np.float32)
    exact *= np.float32(min(1.0, 4.0 / max(float(np.linalg.norm(exact)), 1e-9)))
    blocks = {"popularity": exact, "metrics": np.zeros(16, np.float32)}
    made = rounded(Delta(ID, 1, blocks), SPECS, FixedChance(seed))
    assert np.linalg.norm(made.blocks["popularity"].astype(np.float64)) <= 4.0
    assert np.array_equal(made.blocks["metrics"], blocks["metrics"])
    encoding.encode(made, SPECS)


def test_rounding_keeps_the_mean() -> None:
    spec = BlockSpec("popularity", "item_counts", 2000, 100.0, 0.25)
    block = np.full(2000, 0.1, np.float32)
    made = rounded(Delta(ID, 1, {"popularity": block}), (spec,), SystemChance()).blocks["popularity"]
    assert set(np.unique(made)) == {0.0, 0.25}
    assert abs(float(made.mean()) - 0.1) < 0.02  # seven standard deviations


def test_noise_beyond_16_bits_is_cut_off_not_refused() -> None:
    block = np.array([1e9, -1e9, 0, 0, 0], np.float32)
    made = rounded(Delta(ID, 1, {"popularity": block}), SPECS[:1], SystemChance())
    assert made.blocks["popularity"].tolist() == [32767 * 0.0625, -32767 * 0.0625, 0, 0, 0]


def test_chance_is_spread_evenly_and_never_one() -> None:
    drawn = SystemChance().uniform(4096)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(float(drawn.mean()) - 0.5) < 0.04
    assert len(SystemChance().uniform(0)) == 0


BLOCK = {"name": "popularity", "kind": "item_counts", "size": 12, "bound": 4.0, "unit": 0.0625, "half_life_days": 7.0}


def parsed(**federated: Any) -> manifests.Manifest:
    return manifests.parse(json.dumps(manifest_of(bundle_files(12, 4), 12, 4, federated=federated)).encode())


def test_a_manifest_s_blocks_are_read_and_written_back() -> None:
    pairs = {"name": "pairs", "kind": "pair_sketch", "size": 64, "bound": 12, "unit": 0.125, "seed": 17, "focus": [3]}
    newer = {"name": "later", "kind": "not_yet_known", "size": 3, "bound": 1, "unit": 0.5, "secret": [1]}
    manifest = parsed(blocks=[BLOCK, pairs, newer], weights={"default": {"popular": 2}}, other=1)
    found = manifest.federation
    assert [spec.name for spec in found.blocks] == ["popularity", "pairs", "later"]
    assert (found.blocks[0].half_life_days, found.blocks[1].seed, found.blocks[1].focus) == (7.0, 17, (3,))
    assert found.weights == {"default": {"popular": 2.0}}
    assert manifests.parse(manifests.dump(manifest).encode()).federation == found
    assert parsed().federation.blocks == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "Popularity"}, "'name'"),
        ({"kind": 3}, "'kind'"),
        ({"size": 11}, "the bundle has 12 items"),
        ({"size": True}, "'size'"),
        ({"bound": 0}, "'bound'"),
        ({"bound": "4"}, "'bound'"),
        ({"unit": 0.1}, "power of two"),
        ({"unit": 8.0}, "'unit'"),
        ({"unit": 2.0**-14}, "32767 times"),
        ({"half_life_days": 0}, "half_life_days"),
        ({"kind": "later", "size": 40_000}, "more than 65536"),
        ({"kind": "pair_sketch", "focus": [12]}, "'focus' holds 12"),
        ({"kind": "pair_sketch", "focus": [1, 1]}, "twice"),
        ({"kind": "pair_sketch", "focus": 3}, "'focus' must list"),
        ({"kind": "pair_sketch", "seed": -1}, "'seed'"),
        ({"kind": "metrics"}, "metrics take at least 18"),
    ],
)
def test_a_block_that_cannot_be_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleInvalid, match=said) as caught:
        parsed(blocks=[{**BLOCK, **changes}])
    assert "manifest.json.federated" in str(caught.value)


@pytest.mark.parametrize(
    ("federated", "said"),
    [
        ({"blocks": {}}, "must be a list"),
        ({"blocks": [7]}, "JSON object"),
        ({"blocks": [BLOCK, BLOCK]}, "two of them"),
        ({"blocks": [{**BLOCK, "name": f"b{n}"} for n in range(17)]}, "at most 16"),
        ({"weights": 1}, "JSON object"),
        ({"weights": {"elsewhere": {"popular": 1}}}, "no scenario"),
        ({"weights": {"default": {"popular": 0}}}, "all be zero"),
        ({"weights": {"default": {"popular": -1}}}, "popular"),
        ({"weights": {"default": {"popular": float("1e400")}}}, "not valid JSON"),
    ],
)
def test_a_section_that_cannot_be_is_named(federated: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleInvalid, match=said):
        parsed(**federated)


def test_the_example_of_the_page() -> None:
    """docs/delta-format.md shows a delta and its share byte by byte, docs/gateway-protocol.md a signature of it."""
    page = "".join((ROOT / "docs/delta-format.md").read_text("utf-8").split())
    specs = (BlockSpec("popularity", "item_counts", 3, 4.0, 0.0625), BlockSpec("pairs", "pair_sketch", 2, 12.0, 0.125))
    payload = encoding.encode(changed(delta_of(specs, [16, 0, 15, -1, 0]), id=bytes(range(16)).hex()), specs)
    assert payload.hex() in page
    assert shares.split(payload, bytes(range(32)))[0].hex() in page
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    address = f"/v1/deltas/{bytes(range(16)).hex()}"
    lines = ("PUT", address, "1700000000", "0" * 32, hashlib.sha256(payload).hexdigest())
    protocol = "".join((ROOT / "docs/gateway-protocol.md").read_text("utf-8").split())
    assert key.public_key().public_bytes_raw().hex() in protocol
    assert "".join(lines) in protocol
    assert key.sign("\n".join(lines).encode()).hex() in protocol
