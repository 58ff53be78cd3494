"""How hostile bundles are built: a sound one, and what was done to it."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bundles import EVENT, STORY, bundle_files, manifest_of, write_folder, write_zip
from onnx import TensorProto, helper, numpy_helper

N, DIM = 60, 8
Files = dict[str, bytes]
Fields = dict[str, Any]
Change = Callable[[Files], Fields | None]


def zipped(change: Change = lambda files: None, *, folder: bool = False) -> Callable[[Path], Path]:
    """A bundle whose files were changed before its manifest was made: sound but for that."""

    def build(path: Path) -> Path:
        files = bundle_files(N, DIM)
        fields = change(files) or {}
        manifest = {**manifest_of(files, N, DIM, version=2), **fields}
        return (write_folder if folder else write_zip)(path / "bad.edgerec", files, manifest)

    return build


def put(name: str, data: bytes | Callable[[bytes], bytes]) -> Change:
    def change(files: Files) -> None:
        files[name] = data(files[name]) if callable(data) else data

    return change


def said(**fields: Any) -> Change:
    return lambda files: fields


def told(edit: Callable[[str], str], *, folder: bool = False) -> Callable[[Path], Path]:
    """A bundle whose manifest was changed as text."""

    def build(path: Path) -> Path:
        files = bundle_files(N, DIM)
        raw = edit(json.dumps(manifest_of(files, N, DIM, version=2))).encode("utf-8", "surrogatepass")
        return (write_folder if folder else write_zip)(path / "bad.edgerec", files, raw)

    return build


def after(change: Callable[[Files], object], *, folder: bool = False) -> Callable[[Path], Path]:
    """A bundle whose files were changed after its manifest was made."""

    def build(path: Path) -> Path:
        files = bundle_files(N, DIM)
        manifest = manifest_of(files, N, DIM, version=2)
        change(files)
        return (write_folder if folder else write_zip)(path / "bad.edgerec", files, manifest)

    return build


def archive(tamper: Callable[[zipfile.ZipFile], object]) -> Callable[[Path], Path]:
    """A sound bundle to whose zip something was added."""

    def build(path: Path) -> Path:
        sound = zipped()(path)
        import warnings

        with warnings.catch_warnings(), zipfile.ZipFile(sound, "a", zipfile.ZIP_DEFLATED) as opened:
            warnings.simplefilter("ignore")  # a name twice is what is wanted
            tamper(opened)
        return sound

    return build


def member(name: str, data: bytes = b"x", **fields: Any) -> Callable[[zipfile.ZipFile], None]:
    def add(opened: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        for key, value in fields.items():
            setattr(info, key, value)
        opened.writestr(info, data)

    return add


def patched(edit: Callable[[bytearray], object], build: Callable[[Path], Path] | None = None) -> Callable[[Path], Path]:
    """A sound bundle some of whose zip's bytes were changed."""

    def patch(path: Path) -> Path:
        sound = (build or zipped())(path)
        data = bytearray(sound.read_bytes())
        edit(data)
        sound.write_bytes(data)
        return sound

    return patch


def directory(name: str, offset: int, layout: str, value: int) -> Callable[[bytearray], None]:
    """Writes a number into a member's entry of the zip's directory."""

    def edit(data: bytearray) -> None:
        place = data.rindex(name.encode()) - 46
        struct.pack_into(layout, data, place + offset, value)

    return edit


def overlapping(data: bytearray) -> None:
    """The second member's directory entry points to where the first one's bytes lie."""
    first, second = data.index(b"PK\x01\x02"), 0
    second = data.index(b"PK\x01\x02", first + 4)
    struct.pack_into("<I", data, second + 42, struct.unpack_from("<I", data, first + 42)[0])


def twice_claimed(data: bytearray) -> None:
    """The directory's end says one entry, its size says more."""
    place = data.rindex(b"PK\x05\x06")
    struct.pack_into("<HHI", data, place + 8, 1, 1, 1 << 20)


def linked(name: str, target: str) -> Callable[[Path], Path]:
    """A folder in which a name is a symbolic link to a copy outside."""

    def build(path: Path) -> Path:
        root = zipped(folder=True)(path)
        (root / name).rename(path / "elsewhere")
        (root / name).symlink_to(path / target)
        return root

    return build


def piped(path: Path) -> Path:
    root = zipped(folder=True)(path)
    (root / "manifest.json").unlink()
    os.mkfifo(root / "manifest.json")
    return root


def line(row: int, item: Any = None, title: Any = "A", attributes: Any = None) -> str:
    return json.dumps(
        {"item": f"i{row}" if item is None else item, "row": row, "title": title, "attributes": attributes or {}}
    )


def catalogue(*first: str) -> Change:
    """The first lines of the catalogue, the rest as it was."""

    def change(files: Files) -> None:
        rest = files["catalogue.jsonl"].split(b"\n")[len(first) :]
        files["catalogue.jsonl"] = b"\n".join([*(each.encode("utf-8", "surrogatepass") for each in first), *rest])

    return change


def header(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new.ljust(len(old)), 1)


def long_header(data: bytes) -> bytes:
    return data[:8] + struct.pack("<H", 65526) + b" " * 65526


def model(edit: Callable[[onnx.ModelProto], object]) -> Change:
    """The bundle's encoder, changed."""

    def change(files: Files) -> None:
        parsed = onnx.load_from_string(files["encoder.onnx"])
        edit(parsed)
        files["encoder.onnx"] = parsed.SerializeToString()

    return change


def nodes(*more: Any, **weights: Any) -> Change:
    """The bundle's encoder with further nodes and weights in front."""

    def edit(parsed: onnx.ModelProto) -> None:
        kept = [*more, *parsed.graph.node]
        del parsed.graph.node[:]
        parsed.graph.node.extend(kept)
        parsed.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items())

    return model(edit)


def answer(*last: Any, **weights: Any) -> Change:
    """The bundle's encoder, its query worked over: nodes from `dense_query` to `query`."""

    def edit(parsed: onnx.ModelProto) -> None:
        parsed.graph.node[-1].output[0] = "dense_query"
        parsed.graph.node.extend(last)
        parsed.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items())

    return model(edit)


node = helper.make_node


def external(parsed: onnx.ModelProto) -> None:
    tensor = parsed.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def function(parsed: onnx.ModelProto) -> None:
    inner = node("F", ["a"], ["b"], domain="custom")
    parsed.functions.append(helper.make_function("custom", "F", ["a"], ["b"], [inner], parsed.opset_import))


def sparse(parsed: onnx.ModelProto) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    parsed.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [1 << 40]))


def body(operator: str, name: str) -> Callable[[onnx.ModelProto], None]:
    def edit(parsed: onnx.ModelProto) -> None:
        parsed.graph.node.append(node(operator, ["n", "c"], ["v"], **{name: helper.make_graph([], "b", [], [])}))

    return edit


def weight(**fields: Any) -> Change:
    """The bundle's encoder with one more weight."""

    def edit(parsed: onnx.ModelProto) -> None:
        tensor = parsed.graph.initializer.add(name="more", data_type=TensorProto.FLOAT, dims=[2], raw_data=bytes(8))
        for key, value in fields.items():
            tensor.ClearField(key)
            getattr(tensor, key).extend(value) if isinstance(value, list) else setattr(tensor, key, value)

    return model(edit)


def half_floats(parsed: onnx.ModelProto) -> None:
    tensor = parsed.graph.initializer.add(name="halves", data_type=TensorProto.FLOAT16, dims=[3_000_000])
    tensor.int32_data.extend([0] * 3_000_000)


def twice_the_graph(files: Files) -> None:
    more = onnx.ModelProto(graph=helper.make_graph([node("Exec", [], [])], "more", [], []))
    files["encoder.onnx"] += more.SerializeToString()


def many_fields(files: Files) -> None:
    files["encoder.onnx"] = b"\x08\x0a" + b"\x42\x00" * 300_000


def lying_story(files: Files) -> None:
    """A story of a sound bundle, whose ranking says what no host computes."""
    events = [{**EVENT, "item": f"i{n}", "event_id": f"e{n}", "at": 1.7e9 + n} for n in range(3)]
    lie = {"default": {"items": ["i1", "i2"], "scores": [900.0, 800.0]}}
    files["golden.json"] = json.dumps(
        {"encoder": [], "stories": [{"events": events, "user_vector": [0.0] * DIM, "rankings": lie}]}
    ).encode()


def endless_stories(files: Files) -> None:
    story = {**STORY, "events": [EVENT] * 10_000}
    files["golden.json"] = json.dumps({"encoder": [], "stories": [story] * 12}).encode()
    weights = {"wide": np.zeros((1024, 1024), np.float32)}
    products = [node("MatMul", ["wide", "wide"], [f"wide{n}"]) for n in range(7)]
    nodes(*products, **weights)(files)


def scan(rows: Any) -> Change:
    """A retriever that always names these rows."""

    def change(files: Files) -> Fields:
        kept = numpy_helper.from_array(np.asarray(rows, np.int64)[None, :], "kept")
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [node("Identity", ["kept"], ["rows"])],
            "scan",
            [value("query", TensorProto.FLOAT, ["B", DIM + 2])],
            [value("rows", TensorProto.INT64, ["B", len(rows)])],
            [kept],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        files["retrieve.onnx"] = made.SerializeToString()
        return {"retrieval": {"kind": "int8", "candidates": len(rows)}}

    return change


def swapped(root: Path) -> None:
    """Swaps a file of the folder for another of the same size and time."""
    path = root / "encoder.onnx"
    kept = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
