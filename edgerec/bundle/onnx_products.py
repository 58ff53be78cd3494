"""Operators that multiply and add: the shape of what they make, and the multiplications that it takes."""

from __future__ import annotations

import math
from collections.abc import Callable

from edgerec.bundle.onnx_schema import FLOAT, INT32
from edgerec.bundle.onnx_tensors import Node, Shape, Tensor, broadcast, exact

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def _product(node: Node, left: Tensor, right: Tensor, element: int) -> list[Tensor]:
    """numpy's matmul."""
    a, b = left.shape, right.shape
    if not a or not b:
        raise node.refuse("of a single number")
    rows, columns = a if len(a) > 1 else (1, *a), b if len(b) > 1 else (*b, 1)
    sure = exact(left, right)
    if rows[-1] != columns[-2] and sure:
        raise node.refuse(f"of shapes {a} and {b}")
    batch, _ = broadcast(node, [Tensor(element, rows[:-2], sure), Tensor(element, columns[:-2], sure)])
    node.spend(math.prod(batch) * rows[-2] * max(rows[-1], columns[-2]) * columns[-1])
    kept = rows[-2:-1] if len(a) > 1 else ()
    return [Tensor(element, (*batch, *kept, *(columns[-1:] if len(b) > 1 else ())), sure)]


def _turned(tensor: Tensor, turn: bool) -> Tensor:
    if not turn or len(tensor.shape) < 2:
        return tensor
    *batch, rows, columns = tensor.shape
    return Tensor(tensor.element, (*batch, columns, rows), tensor.exact)


def _matmul(node: Node) -> list[Tensor]:
    return _product(node, node.input(0), node.input(1), node.input(0).element)


def _integer_matmul(node: Node) -> list[Tensor]:
    return _product(node, node.input(0), node.input(1), INT32)


def _float_matmul(node: Node) -> list[Tensor]:
    return _product(node, node.input(0), node.input(1), FLOAT)


def _quantised_matmul(node: Node) -> list[Tensor]:
    return _product(node, node.input(0), node.input(3), node.input(7).element)


def _fused_matmul(node: Node) -> list[Tensor]:
    if node.whole("transBatchA", 0) or node.whole("transBatchB", 0):
        raise node.refuse("with turned batches")
    left, right = (_turned(node.input(n), bool(node.whole(f"trans{'AB'[n]}", 0))) for n in (0, 1))
    return _product(node, left, right, left.element)


def _gemm(node: Node) -> list[Tensor]:
    left, right = (_turned(node.input(n), bool(node.whole(f"trans{'AB'[n]}", 0))) for n in (0, 1))
    if len(left.shape) != 2 or len(right.shape) != 2:
        raise node.refuse(f"of shapes {left.shape} and {right.shape}")
    return _product(node, left, right, left.element)


def _few_bits(node: Node) -> list[Tensor]:
    left, packed = node.input(0), node.input(1)
    depth, width = node.whole("K"), node.whole("N")
    bits, block = node.whole("bits", 4), node.whole("block_size")
    if bits not in (2, 4, 8) or block < 16 or block & (block - 1):
        raise node.refuse(f"of {bits} bits in blocks of {block}")
    blocks = -(-depth // block)
    wanted = (width, blocks, block * bits // 8)
    if not left.shape or left.shape[-1] != depth or packed.shape != wanted or node.input(2).size != width * blocks:
        raise node.refuse(f"of shapes {left.shape} and {packed.shape}, K = {depth}, N = {width}")
    node.spend(left.size * width)
    return [Tensor(left.element, (*left.shape[:-1], width), left.exact)]


def _convolution(node: Node) -> list[Tensor]:
    image, weights = node.input(0), node.input(1)
    space = len(image.shape) - 2
    if space < 1 or len(weights.shape) != len(image.shape) or not exact(image, weights):
        raise node.refuse(f"of shapes {image.shape} and {weights.shape}")
    kernel = weights.shape[2:]
    strides, spread = node.numbers("strides") or [1] * space, node.numbers("dilations") or [1] * space
    pads = node.numbers("pads") or [0] * (2 * space)
    groups = node.whole("group", 1)
    if min(*strides, *spread, groups) < 1 or min(pads) < 0 or len(strides) != space or len(spread) != space:
        raise node.refuse("with impossible strides, dilations, pads or groups")
    if len(pads) != 2 * space or image.shape[1] != weights.shape[1] * groups:
        raise node.refuse("with pads or groups that do not fit")
    mode = node.text("auto_pad", "NOTSET")
    size = []
    for place, (length, reach) in enumerate(zip(image.shape[2:], kernel, strict=True)):
        if mode.startswith("SAME"):
            size.append(-(-length // strides[place]))
            continue
        padded = length + (pads[place] + pads[place + space] if mode == "NOTSET" else 0)
        size.append(max((padded - spread[place] * (reach - 1) - 1) // strides[place] + 1, 0))
    patch = weights.shape[1] * math.prod(kernel)
    out = (image.shape[0], weights.shape[0], *size)
    node.spend(math.prod(out) * patch, made=math.prod(size) * patch * groups)
    return [Tensor(image.element, out)]


def _recurrent(node: Node) -> list[Tensor]:
    x, again = node.input(0), node.input(2)
    if len(x.shape) != 3 or len(again.shape) != 3:
        raise node.refuse(f"of shapes {x.shape} and {again.shape}")
    directions, gated, hidden = again.shape
    if gated != _GATES[node.operator] * hidden or node.input(1).shape != (directions, gated, x.shape[2]):
        raise node.refuse(f"of shapes {node.input(1).shape} and {again.shape}")
    steps, batch = x.shape[:2] if not node.whole("layout", 0) else x.shape[1::-1]
    node.spend(steps * batch * directions * gated * (x.shape[2] + hidden), made=steps * batch * directions * gated)
    if node.whole("layout", 0):
        every, last = (batch, steps, directions, hidden), (batch, directions, hidden)
    else:
        every, last = (steps, directions, batch, hidden), (directions, batch, hidden)
    return [Tensor(x.element, every, x.exact), *(Tensor(x.element, last, x.exact) for _ in range(2))]


def _attention(node: Node) -> list[Tensor]:
    q, k, v = (node.input(place) for place in range(3))
    if any(node.get(place) is not None for place in (4, 5)):
        raise node.refuse("with a past of its own")
    if len(q.shape) == len(k.shape) == len(v.shape) == 3:
        heads, groups = node.whole("q_num_heads"), node.whole("kv_num_heads")
        if heads < 1 or groups < 1:
            raise node.refuse("of no heads")
        asked, *told = (_by_head(each, n) for each, n in ((q, heads), (k, groups), (v, groups)))
        out: Shape = (*q.shape[:2], heads * told[1][3])
    elif len(q.shape) == len(k.shape) == len(v.shape) == 4:
        asked, told = q.shape, [k.shape, v.shape]
        out = (*q.shape[:3], v.shape[3])
    else:
        raise node.refuse(f"of shapes {q.shape}, {k.shape} and {v.shape}")
    scores, sure = (*asked[:3], told[0][2]), exact(q, k, v)
    node.spend(math.prod(scores) * (asked[3] + told[1][3]), made=2 * math.prod(scores))
    kept = [Tensor(each.element, shape, sure) for each, shape in zip((k, v), told, strict=True)]
    return [Tensor(q.element, out, sure), *kept, Tensor(q.element, scores, sure)]


def _by_head(tensor: Tensor, heads: int) -> Shape:
    """(batch, length, heads · d) as (batch, heads, length, d)."""
    batch, length, width = tensor.shape
    return (batch, heads, length, width // heads)


def _einsum(node: Node) -> list[Tensor]:
    terms, arrow, result = node.text("equation", "").replace(" ", "").partition("->")
    labels = terms.split(",")
    if not arrow or len(labels) != len(node.given()) or not set(terms + result) <= set(_LETTERS + ","):
        raise node.refuse("of an equation that is not read here: letters, commas, ->")
    sizes: dict[str, int] = {}
    for term, tensor in zip(labels, node.given(), strict=True):
        if len(term) != len(tensor.shape):
            raise node.refuse(f"of a tensor of {len(tensor.shape)} axes where {len(term)} are named")
        for label, size in zip(term, tensor.shape, strict=True):
            sizes[label] = max(sizes.get(label, 1), size)
    if not set(result) <= set(sizes) or len(set(result)) != len(result):
        raise node.refuse("of an equation whose result has other axes than its terms")
    node.spend(math.prod(sizes.values()) * len(labels), made=_largest_step(labels, result, sizes))
    return [Tensor(node.input(0).element, tuple(sizes[label] for label in result), exact(*node.given()))]


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _largest_step(labels: list[str], result: str, sizes: dict[str, int]) -> int:
    """Terms are multiplied one after the other; an axis goes as soon as nothing later names it."""
    largest = 0
    for place in range(1, len(labels)):
        later = set(result).union(*labels[place + 1 :])
        kept = set().union(*labels[: place + 1]) & later
        largest = max(largest, math.prod(sizes[label] for label in kept))
    return largest


PRODUCTS: dict[str, Callable[[Node], list[Tensor]]] = {
    "Attention": _attention,
    "Conv": _convolution,
    "DynamicQuantizeMatMul": _float_matmul,
    "Einsum": _einsum,
    "FusedMatMul": _fused_matmul,
    "Gemm": _gemm,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "MatMul": _matmul,
    "MatMulInteger": _integer_matmul,
    "MatMulIntegerToFloat": _float_matmul,
    "MatMulNBits": _few_bits,
    "QLinearMatMul": _quantised_matmul,
    "RNN": _recurrent,
}
