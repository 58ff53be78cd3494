"""The readers that are fuzzed. One more is one more line, and some first inputs under tests/corpus/NAME/."""

from __future__ import annotations

from edgerec.bundle.onnx_schema import OPERATORS
from edgerec.errors import BundleError, ConfigError, EventError, RequestError, StoreDamaged
from edgerec_tools.fuzz import bundle_targets, device_targets
from edgerec_tools.fuzz.json_shape import mutate_json, mutate_lines
from edgerec_tools.fuzz.protobuf_shape import mutate_protobuf
from edgerec_tools.fuzz.target import Target

_JSON = (b'"', b"{", b"}", b"[", b"]", b":", b",", b"null", b"true", b"NaN", b"1e999", b"\\ud800", b"\\u202e", b"-0")
_MANIFEST = tuple(
    f'"{name}"'.encode()
    for name in (
        *("format", "name", "version", "dim", "n_items", "event_kinds", "weight", "consumes", "hides", "history"),
        *("length", "kinds", "scenarios", "default", "seen", "weights", "encoder_inputs", "files", "sha256", "size"),
        *("sources", "blend", "guard", "updaters", "retrieval", "content", "metrics", "filters", "min_runtime"),
    )
)
_GOLDEN = tuple(
    f'"{name}"'.encode()
    for name in (
        *("encoder", "stories", "events", "history", "age_days", "kind", "mask", "query", "user_vector", "rankings"),
        *("items", "scores", "item", "at", "event_id", "group", "value", "default", "click"),
    )
)
_EVENT = tuple(
    f'"{name}"'.encode()
    for name in ("item", "kind", "value", "at", "group", "recommendation_id", "context", "event_id", "click")
)
_WHERE = (b" and ", b" or ", b"not ", b" in ", b"price", b"colour", b"new", b"tags", b"has(", b"attr(", b"'red'", b"<=")
_TOML = (b"[learning]\n", b"[plugins]\n", b"[store]\n", b"[scenarios.x]\n", b"updater = ", b"wait_s = ", b'"""', b"nan")
_OPERATORS = tuple(name.encode() for name in sorted({"Loop", "If"}.union(*OPERATORS.values())))
_BLOB = (b'"<f4"', b'"<f8"', b'"<i8"', b'"|u1"', b'"|b1"', b'"|O"', b'"<U4"', b'"u"', b"[2]", b"[-1]", b"[]")
_NPY = (b"\x93NUMPY\x01\x00", b"'descr': ", b"'fortran_order': False", b"'shape': ", b"'<f4'", b"'|O'", b"(0, 4)")
_ZIP = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x07", b"PK\x07\x08", b"manifest.json", b"../", b"items/")

BUNDLE, ASKED = (BundleError,), (RequestError,)
TARGETS = {
    target.name: target
    for target in (
        Target("manifest", "manifest.json", bundle_targets.make_manifest, BUNDLE, _JSON + _MANIFEST, mutate_json),
        Target("catalogue", "lines of catalogue.jsonl", bundle_targets.make_catalogue, BUNDLE, _JSON, mutate_lines),
        Target("array", "an .npy file", bundle_targets.make_array, BUNDLE, _NPY),
        Target("onnx", "an encoder.onnx", bundle_targets.make_onnx, BUNDLE, _OPERATORS, mutate_protobuf),
        Target("model", "an encoder.onnx, run", bundle_targets.make_model, BUNDLE, _OPERATORS, mutate_protobuf),
        Target("golden", "golden.json", bundle_targets.make_golden, BUNDLE, _JSON + _GOLDEN, mutate_json),
        Target("zip", "an .edgerec file", bundle_targets.make_zip, BUNDLE, _ZIP),
        Target("blob", "a learned state", device_targets.make_blob, (StoreDamaged,), _BLOB, mutate_lines),
        Target("where", "conditions of a request", device_targets.make_where, ASKED, _WHERE, mutate_json),
        Target("config", "a configuration in TOML", device_targets.make_config, (ConfigError,), _TOML, bounded=False),
        Target(
            "event", "the fields of an event", device_targets.make_event, (EventError,), _JSON + _EVENT, mutate_json
        ),
    )
}
