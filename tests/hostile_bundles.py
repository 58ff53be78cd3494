"""Bundles as attackers would make them: one row per attack, the table of docs/hostile-bundles.md."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bundles import CASE, golden, npy
from hostile_builders import (
    DIM,
    N,
    after,
    answer,
    archive,
    body,
    catalogue,
    directory,
    endless_stories,
    external,
    function,
    half_floats,
    header,
    line,
    linked,
    long_header,
    lying_story,
    many_fields,
    member,
    model,
    node,
    nodes,
    overlapping,
    patched,
    piped,
    put,
    said,
    scan,
    sparse,
    swapped,
    told,
    twice_claimed,
    twice_the_graph,
    weight,
    zipped,
)
from onnx import TensorProto


@dataclass(frozen=True)
class Attack:
    """`build` writes the bundle into a folder · `reason`: what the refusal says · `runs`: onnxruntime has to run the
    model to find it out · `opens`: the app's own bundle is not held to it, only one that is installed · `during`: what
    happens to the bundle's folder after it was checked."""

    build: Callable[[Path], Path]
    reason: str
    runs: bool = False
    opens: bool = False
    during: Callable[[Path], object] | None = None


KINDS = {"click": {"weight": 1.0}, "purchase": {"weight": 2.0, "consumes": True}}
SCENARIO = {"seen": "hide", "weights": {"taste": 1.0}}
BIG = 1 << 20
BAD_NAME = "is not a file name that a bundle may hold"
LINK = "a link or special file"
INVISIBLE = "'item' holds control characters or invisible ones"

ATTACKS: dict[str, Attack] = {
    # the zip
    "zip slip": Attack(zipped(put("../../escape.json", b"{}")), BAD_NAME),
    "zip slip, unlisted": Attack(archive(member("items/../../escape.json")), BAD_NAME),
    "absolute path": Attack(archive(member("/etc/cron.d/x.json")), BAD_NAME),
    "Windows drive": Attack(zipped(put("c:x.json", b"{}")), BAD_NAME),
    "backslash": Attack(zipped(put("..\\x.json", b"{}")), BAD_NAME),
    "device name": Attack(zipped(put("items/aux.json", b"{}")), BAD_NAME),
    "direction override in a name": Attack(zipped(put("x\u202enosj.json", b"")), BAD_NAME),
    "NUL in a name": Attack(
        patched(
            lambda data: data.__setitem__(slice(None), data.replace(b"x.json_.txt", b"x.json\0.txt")),
            archive(member("x.json_.txt")),
        ),
        "not a name that a bundle may hold",
    ),
    "code": Attack(zipped(put("model.py", b"import os")), BAD_NAME),
    "pickle": Attack(zipped(put("items/x.pkl", b"\x80\x04.")), BAD_NAME),
    "symbolic link": Attack(
        archive(member("link.json", b"/etc/passwd", external_attr=(stat.S_IFLNK | 0o777) << 16)),
        LINK,
    ),
    "device file": Attack(archive(member("pipe.json", external_attr=(stat.S_IFIFO | 0o644) << 16)), LINK),
    "case-folded duplicate": Attack(archive(member("ITEMS/bias.npy")), "one name where case does not count"),
    "folder in two cases": Attack(zipped(put("Items/notes.txt", b"x")), "one name where case does not count"),
    "file that is a folder too": Attack(zipped(put("encoder.onnx/x.json", b"{}")), "both a file and a folder"),
    "name twice": Attack(archive(member("items/bias.npy")), "twice in the zip"),
    "bomb by ratio": Attack(zipped(put("notes.txt", bytes(80 << 20))), "would unpack to"),
    "bomb by size": Attack(patched(directory("catalogue.jsonl", 24, "<I", 0xFFFFFFF0)), "would unpack to"),
    "bomb by overlap": Attack(patched(overlapping), "overlaps another member"),
    "bomb by count": Attack(
        archive(lambda opened: [opened.writestr(f"n{k}.txt", b"") for k in range(70)]), "more than 64 entries"
    ),
    "bomb by a directory that lies": Attack(patched(twice_claimed), "more than 64 entries"),
    "member that grows": Attack(patched(directory("golden.json", 24, "<I", 4)), "bytes in the zip|damaged|larger than"),
    "zip64": Attack(patched(lambda data: data.__setitem__(slice(-22, -22), b"PK\x06\x07" + bytes(16))), "zip64"),
    "zip that goes on": Attack(patched(lambda data: data.extend(b"#!/bin/sh")), "not a zip"),
    "zip cut short": Attack(patched(lambda data: data.__delitem__(slice(len(data) // 2, None))), "not a zip"),
    "encrypted": Attack(patched(directory("golden.json", 8, "<H", 1)), "encrypted"),
    "unknown compression": Attack(archive(member("x.json", compress_type=zipfile.ZIP_BZIP2)), "unknown method"),
    # what the manifest lists
    "wrong digest": Attack(after(put("items/bias.npy", lambda data: data[:-1] + b"\x7f")), "sha256 differs"),
    "swapped files": Attack(
        after(lambda files: files.update({"items/bias.npy": files["items/popularity.npy"]})), "sha256 differs"
    ),
    "missing file": Attack(after(lambda files: files.pop("golden.json")), "listed in the manifest but missing"),
    "unlisted file": Attack(after(put("notes.txt", b"x")), "not listed in the manifest"),
    "manifest that lists itself": Attack(
        told(lambda text: text.replace('"golden.json"', '"manifest.json"')), "lists itself|lists no golden.json"
    ),
    "digest that is none": Attack(
        told(lambda text: text.replace('"sha256": "', '"sha256": "../', 1)), "must be 64 hexadecimal digits"
    ),
    "too many files": Attack(
        zipped(lambda files: files.update({f"n{k}.txt": b"" for k in range(64)}), folder=True), "more than 63"
    ),
    # a folder
    "link in a folder": Attack(linked("items/bias.npy", "elsewhere"), LINK),
    "folder that is a link": Attack(linked("items", "elsewhere"), LINK),
    "manifest that is a link": Attack(linked("manifest.json", "elsewhere"), LINK),
    "manifest that is a pipe": Attack(piped, LINK),
    "file swapped after the check": Attack(
        zipped(folder=True), "files were changed while they were checked or used", runs=True, during=swapped
    ),
    # the manifest
    "duplicate keys": Attack(told(lambda text: text.replace("{", '{"dim": 8, ', 1)), "duplicate keys: 'dim'"),
    "duplicate among 70,000 keys": Attack(
        told(lambda text: text[:-1] + "".join(f',"{k:05}":0' for k in range(70_000)) + ',"00007":0}'),
        "duplicate keys: '00007'",
    ),
    "huge manifest": Attack(told(lambda text: text + " " * (1 << 20)), "manifest.json: larger than"),
    "deep nesting": Attack(
        told(lambda text: text[:-1] + ',"metrics":' + "[" * 40 + "]" * 40 + "}"), "nested more than"
    ),
    "bottomless nesting": Attack(told(lambda text: text[:-1] + ',"metrics":' + "[" * 100_000), "not valid JSON"),
    "1e999": Attack(told(lambda text: text[:-1] + ',"metrics":{"a":1e999}}'), "a number is not finite"),
    "NaN": Attack(told(lambda text: text[:-1] + ',"metrics":{"a":NaN}}'), "NaN is not JSON"),
    "number of 5,000 digits": Attack(
        told(lambda text: text[:-1] + f',"metrics":{{"a":{"9" * 5000}}}}}'), "not valid JSON: Exceeds the limit"
    ),
    "number of 400 digits": Attack(
        told(lambda text: text.replace('"weight": 1.0', f'"weight": 1{"0" * 400}')), "does not fit 64 bits"
    ),
    "half a character": Attack(zipped(said(name="\ud800")), "half of a surrogate pair"),
    "NUL in a scenario": Attack(
        zipped(said(scenarios={"default": SCENARIO, "a\0b": SCENARIO})), "control characters or invisible ones"
    ),
    "direction override in a kind": Attack(
        zipped(said(event_kinds={**KINDS, "\u202ekcilc": {"weight": 1.0}})), "control characters or invisible ones"
    ),
    "name of 100 kB": Attack(zipped(said(name="x" * 100_000)), "must be text of 1 to 64 characters"),
    "10,000 event kinds": Attack(
        zipped(said(event_kinds={**KINDS, **{f"k{n}": {"weight": 1} for n in range(10_000)}})), "more than 256"
    ),
    "5,000 scenarios": Attack(
        zipped(said(scenarios={"default": SCENARIO, **{f"s{n}": SCENARIO for n in range(5000)}})), "more than 64"
    ),
    "absurd number of items": Attack(zipped(said(n_items=20_000_000)), "cannot be the 160000000 numbers"),
    "absurd dimension": Attack(zipped(said(dim=1 << 40)), "'dim' = 1099511627776 lies outside 1 … 4096"),
    "negative dimension": Attack(zipped(said(dim=-8)), "'dim' = -8 lies outside 1 … 4096"),
    "dimension that is true": Attack(zipped(said(dim=True)), "'dim' has the wrong type bool"),
    "weight of 1e300": Attack(zipped(said(event_kinds={**KINDS, "click": {"weight": 1e300}})), "lies outside -1e"),
    "guard that divides by zero": Attack(zipped(said(guard={"window": 0})), "'window' = 0 lies outside 1"),
    "constant that is text": Attack(zipped(said(blend={"rate": "fast"})), "'rate' = 'fast' is no number"),
    "half-life of zero": Attack(
        zipped(said(sources={"popular": {"boost": 1, "half_events": 0}})), "'half_events' = 0 lies outside 1e-09"
    ),
    # arrays
    "pickled array": Attack(
        zipped(put("items/negatives.npy", npy(np.array([{}] * N, object)))), "type .O is not <i4|unreadable .npy header"
    ),
    "header that lies": Attack(
        zipped(put("items/negatives.npy", header(b"(512,), }", b"(9,), }"))), "bytes where header and data make 164"
    ),
    "header of impossible size": Attack(
        zipped(put("items/negatives.npy", header(b"(512,), }      ", b"(999999999999,)"))), "header and data|unreadable"
    ),
    "header that is code": Attack(zipped(put("items/bias.npy", header(b"'<f4'", b"eval("))), "unreadable .npy header"),
    "huge header": Attack(zipped(put("items/negatives.npy", long_header)), "header of 65526 bytes is too long"),
    "NaN among the vectors": Attack(
        zipped(put("items/vectors.npy", npy(np.full((N, DIM), np.nan, "<f4")))), "values that are not finite"
    ),
    "vectors of 1e38": Attack(zipped(put("items/vectors.npy", npy(np.full((N, DIM), 1e38, "<f4")))), "values beyond"),
    "neighbours outside the catalogue": Attack(
        zipped(put("neighbours/ids.npy", npy(np.full(5 * N, N, "<i4")))), "values lie outside 0 … 59"
    ),
    "index that falls": Attack(
        zipped(put("neighbours/indptr.npy", npy(np.r_[np.zeros(N - 1), 400, 5 * N].astype("<i4")))), "never fall"
    ),
    # the catalogue
    "catalogue with wrong types": Attack(zipped(catalogue(line(0, 7))), "line 1: 'item' must be text"),
    "attribute of another type": Attack(
        zipped(catalogue(line(0, attributes={"p": 1}), line(1, attributes={"p": "1"}))), "str where others have numbers"
    ),
    "a million attributes": Attack(
        zipped(catalogue(line(0, attributes={f"a{n}": n for n in range(1_000_000)}))), "cannot be the lines of 60 items"
    ),
    "line of 70 kB": Attack(zipped(catalogue(line(0, title="x" * 70_000))), "line 1: longer than 65536 bytes"),
    "1,000 attributes": Attack(
        zipped(catalogue(line(0, attributes={f"a{n}": n for n in range(1000)}))), "more than 256 attributes"
    ),
    "attribute of 400 digits": Attack(zipped(catalogue(line(0, attributes={"p": 10**400}))), "line 1: attribute 'p'"),
    "duplicate keys in a line": Attack(
        zipped(catalogue('{"item":"a","item":"b","row":0,"title":"","attributes":{}}')), "duplicate keys: 'item'"
    ),
    "nesting in a line": Attack(zipped(catalogue("[" * 60_000)), "line 1: not valid JSON"),
    "id of 100 kB": Attack(zipped(catalogue(line(0, "x" * 60_000))), "'item' must be text of 1 to 256"),
    "id with half a character": Attack(zipped(catalogue(line(0, "\ud800"))), "half of a surrogate pair"),
    "id with NUL": Attack(zipped(catalogue(line(0, "a\0b"))), INVISIBLE),
    "id with a direction override": Attack(zipped(catalogue(line(0, "a\u202eb"))), INVISIBLE),
    "id that is invisible": Attack(zipped(catalogue(line(0, "i1\u200b"))), INVISIBLE),
    "ids in two of Unicode's forms": Attack(
        zipped(catalogue(line(0, "caf\u00e9"), line(1, "cafe\u0301"))), "that only Unicode's forms tell apart"
    ),
    "title that turns the page": Attack(
        zipped(catalogue(line(0, title="\u202eevil"))), "'title' holds control characters, or overrides"
    ),
    "title that leaves it turned": Attack(
        zipped(catalogue(line(0, title="\u2067evil"))), "'title' changes the direction of writing"
    ),
    "item twice": Attack(zipped(catalogue(line(0, "a"), line(1, "a"))), "rows 0 and 1 share the item id 'a'"),
    # models
    "not a model": Attack(zipped(put("encoder.onnx", b"GIF89a")), "encoder.onnx: model"),
    "external data": Attack(zipped(model(external)), "keeps its data outside the file"),
    "weight by reference": Attack(zipped(model(sparse)), "sparse_initializer is not allowed"),
    "function that calls itself": Attack(zipped(model(function)), "functions is not allowed"),
    "Loop": Attack(zipped(model(body("Loop", "body"))), "operator Loop is not allowed|g is not allowed"),
    "If": Attack(zipped(model(body("If", "then_branch"))), "operator If is not allowed|g is not allowed"),
    "graph inside a known operator": Attack(zipped(model(body("Add", "body"))), "g is not allowed"),
    "unknown operator": Attack(zipped(nodes(node("Exec", ["mask"], ["z"]))), "operator Exec is not allowed"),
    "custom domain": Attack(
        zipped(nodes(node("Relu", ["history"], ["z"], domain="evil"))), "operator evil.Relu is not allowed"
    ),
    "training information": Attack(zipped(model(lambda m: m.training_info.add())), "training_info is not allowed"),
    "graph twice": Attack(zipped(twice_the_graph), "graph: given twice"),
    "protobuf bomb": Attack(zipped(many_fields), "given twice|more than 262144 fields"),
    "half floats one by one": Attack(zipped(model(half_floats)), "half floats one by one"),
    "NaN weight": Attack(zipped(weight(raw_data=np.array([1, np.nan], "<f4").tobytes())), "values that are not finite"),
    "weight of 2^80 elements": Attack(zipped(weight(dims=[1 << 31] * 3)), "more than 2147483648 elements"),
    "weight of negative size": Attack(zipped(weight(dims=[-1, 2])), "impossible shape"),
    "weight that is too short": Attack(zipped(weight(raw_data=b"1234")), "4 bytes of data for 2 elements"),
    "strings": Attack(
        zipped(weight(data_type=TensorProto.STRING, string_data=[b"a", b"b"])), "string_data is not allowed"
    ),
    "huge ConstantOfShape": Attack(
        zipped(nodes(node("ConstantOfShape", ["s"], ["z"]), s=np.array([BIG, BIG]))), "ConstantOfShape makes more than"
    ),
    "shape that is computed": Attack(
        zipped(nodes(node("Mul", ["s", "s"], ["t"]), node("ConstantOfShape", ["t"], ["z"]), s=np.array([BIG]))),
        "ConstantOfShape makes more than",
    ),
    "shape that the data tell": Attack(
        zipped(nodes(node("ReduceSum", ["kind"], ["t"]), node("ConstantOfShape", ["t"], ["z"]))),
        "numbers do not tell",
    ),
    "huge Expand": Attack(
        zipped(nodes(node("Expand", ["e", "s"], ["z"]), e=np.float32(1), s=np.array([BIG, BIG]))), "Expand makes more"
    ),
    "huge Tile": Attack(
        zipped(nodes(node("Tile", ["e", "s"], ["z"]), e=np.ones((1, 1), "<f4"), s=np.array([BIG, BIG]))),
        "makes more",
    ),
    "huge Range": Attack(
        zipped(nodes(node("Range", ["a", "b", "a1"], ["z"]), a=np.int64(0), b=np.int64(1 << 38), a1=np.int64(1))),
        "Range makes more than",
    ),
    "huge Pad": Attack(
        zipped(nodes(node("Pad", ["history", "s"], ["z"]), s=np.array([0, 0, 0, 0, 0, 1 << 40]))), "Pad makes more than"
    ),
    "outer product": Attack(
        zipped(
            nodes(
                node("ConstantOfShape", ["s"], ["a"]),
                node("Transpose", ["a"], ["b"]),
                node("Add", ["a", "b"], ["z"]),
                s=np.array([BIG, 1]),
            )
        ),
        "Add makes more than",
    ),
    "model that computes for hours": Attack(
        zipped(
            nodes(
                node("ConstantOfShape", ["s"], ["a"]),
                *(node("MatMul", ["a", "a"], [f"z{n}"]) for n in range(50)),
                s=np.array([2048, 2048]),
            )
        ),
        "take more than 8589934592 steps",
    ),
    "division that kills the process": Attack(
        zipped(nodes(node("Div", ["s", "kind"], ["z"]), s=np.array([-(2**63)]))), "divisors that the model's own"
    ),
    "Split that kills the process": Attack(
        zipped(nodes(node("Split", ["age_days"], ["p", "q", "r"], axis=1, num_outputs=2))), "'num_outputs' says another"
    ),
    "circle": Attack(zipped(nodes(node("Add", ["z", "age_days"], ["z"]))), "which nothing before it makes"),
    "query of another shape": Attack(
        zipped(answer(node("Concat", ["dense_query", "dense_query"], ["query"], axis=1))), r"shape \(1, 16\), not 1 and"
    ),
    "attribute of two types": Attack(
        zipped(model(lambda m: setattr(m.graph.node[3].attribute[0], "f", 1.0))), "attribute of Cast: type 2 with"
    ),
    # found only by running them
    "NaN for a plain history": Attack(
        zipped(answer(node("Sub", ["dense_query", "dense_query"], ["nil"]), node("Div", ["nil", "nil"], ["query"]))),
        "the query is not finite",
        runs=True,
    ),
    "absurd query": Attack(
        zipped(answer(node("Add", ["dense_query", "far"], ["query"]), far=np.float32(1e30))),
        "the query of a plain history lies beyond",
        runs=True,
    ),
    "model that onnxruntime refuses": Attack(
        zipped(nodes(node("Relu", ["mask"], ["z"]))), "onnxruntime refuses it", runs=True
    ),
    "scan that leaves the catalogue": Attack(zipped(scan([0, N + 5])), "rows outside the catalogue", runs=True),
    # golden.json
    "golden.json of another form": Attack(
        zipped(put("golden.json", golden({"query": [10**300] * DIM}))), "does not fit 64 bits"
    ),
    "golden.json that grows": Attack(
        zipped(put("golden.json", b'{"encoder":[' + b"[],[]," * 200_000 + b'1],"stories":[]}')), "of memory"
    ),
    "golden.json without end": Attack(zipped(endless_stories), "too many to repeat"),
    "golden.json that lies of the model": Attack(
        zipped(
            put(
                "golden.json",
                json.dumps({"encoder": [{**CASE, "mask": [1] * 8, "query": [9.0] * 8}], "stories": []}).encode(),
            )
        ),
        "encoder case 0: this host computes something else",
        runs=True,
        opens=True,
    ),
    "golden.json that lies of a story": Attack(
        zipped(lying_story), "story 0: .*this host computes something else", runs=True, opens=True
    ),
}
