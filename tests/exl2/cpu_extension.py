"""What the package's CUDA extension does that its Python calls outside the forward pass, in PyTorch on a CPU.

It stands in for ``exllamav2_ext`` so that the real package imports where nothing can be compiled for a GPU. Written
from the extension's own comments and call sites; the real kernels have not run here.
"""

import itertools
import types
from typing import Any

import numpy as np
import torch

_GROUP = 32


def make_extension() -> types.ModuleType:
    """The module."""
    module = types.ModuleType("exllamav2_ext")
    for function in (count_match, partial_strings_match, sample_basic, cache_rotate, fp16_to_q_kv, q_to_fp16_kv):
        setattr(module, function.__name__, function)
    return module


def count_match(a: Any, b: Any, max_a: int) -> int:
    """How many leading ids two (1, n) tensors share, at most ``max_a``."""
    length = min(max_a, a.shape[-1], b.shape[-1])
    differ = (a[0, :length] != b[0, :length]).nonzero()
    return int(differ[0]) if len(differ) else length


def partial_strings_match(match: Any, offsets: Any, strings: Any) -> int:
    """Where one of ``strings`` begins in ``match``; -2 where one may have begun at its end; -1 otherwise."""
    text = bytes(match).decode("utf-32-le")
    ends = np.frombuffer(bytes(offsets), dtype=np.int32)
    for begin, end in itertools.pairwise(ends.tolist()):
        stop = bytes(strings)[begin:end].decode("utf-32-le")
        for at in range(len(text)):
            if text.startswith(stop, at):
                return at
            if stop.startswith(text[at:]):
                return -2
    return -1


def sample_basic(*arguments: Any) -> list[float]:
    """One id for each row of logits, by temperature, top_k and top_p; any other setting must be neutral."""
    logits, temperature, top_k, top_p, top_a, min_p, tfs, typical, random, tokens, probabilities = arguments[:11]
    mirostat, post_temperature, skew = arguments[14], arguments[18], arguments[26]
    if any((top_a, min_p, tfs, typical, mirostat, skew)) or post_temperature != 1.0:
        raise ValueError("a sampling setting is not neutral")
    for row in range(logits.shape[0]):
        chances = torch.softmax(logits[row, 0].float() / (temperature if temperature >= 0.01 else 1.0), -1)
        chances, ids = chances.sort(descending=True, stable=True)
        if temperature < 0.01:
            top_k = 1
        if top_k > 0:
            chances, ids = chances[:top_k], ids[:top_k]
        if 0 < top_p < 1:
            keep = int((chances.cumsum(0) < top_p).sum()) + 1
            chances, ids = chances[:keep], ids[:keep]
        chances = chances / chances.sum()
        at = min(int((chances.cumsum(0) < random * 0.9998).sum()), len(ids) - 1)
        tokens[row, 0], probabilities[row, 0] = ids[at], chances[at]
    return []


def cache_rotate(cache: Any, order: Any, temporary: Any) -> None:
    """``page[a] = page[b]`` along ``order``, the first page last."""
    rows = order.tolist()
    first = cache[rows[0]].clone()
    for a, b in itertools.pairwise(rows):
        cache[a] = cache[b]
    cache[rows[-1]] = first


def fp16_to_q_kv(*arguments: Any) -> None:
    """Store the newest keys and values of every sequence in fewer bits."""
    k, qk, sk, v, qv, sv, batch, offset, width, page_size, lengths, table, _ = arguments
    rows = _rows(batch, offset, width, page_size, lengths, table, newest=True)
    for values, quants, scales in ((k, qk, sk), (v, qv, sv)):
        bits = 8 * quants.shape[-1] // values.shape[-1]
        quants[0, rows], scales[0, rows] = _quantised(values[0, rows].float(), bits)


def q_to_fp16_kv(*arguments: Any) -> None:
    """Read keys and values of every sequence back into 16 bits."""
    qk, k, sk, qv, v, sv, batch, offset, width, page_size, lengths, table, _ = arguments
    rows = _rows(batch, offset, width, page_size, lengths, table, newest=False)
    for values, quants, scales in ((k, qk, sk), (v, qv, sv)):
        values[0, rows] = _restored(quants[0, rows], scales[0, rows], values.shape[-1]).half()


def _rows(batch: int, offset: int, width: int, page_size: int, *paging: Any, newest: bool) -> Any:
    """Rows of the cache: of a paged one, each sequence's newest ``width`` or all it has."""
    if not page_size:
        return torch.arange(offset, offset + width)
    lengths, table = paging
    rows = []
    for index in range(batch):
        past = int(lengths[index])
        positions = torch.arange(past, past + width) if newest else torch.arange(past)
        rows.append(table[index].long()[positions // page_size] * page_size + positions % page_size)
    return torch.cat(rows)


def _quantised(values: Any, bits: int) -> tuple[Any, Any]:
    grouped = values.unflatten(-1, (-1, _GROUP))
    top = 2 ** (bits - 1) - 1
    scales = grouped.abs().amax(-1).clamp(min=1e-6) / top
    steps = (grouped / scales[..., None]).round().clamp(-top, top).add(top).to(torch.uint8).flatten(-2)
    return (steps if bits == 8 else steps[..., ::2] | steps[..., 1::2] << 4), scales.half()


def _restored(quants: Any, scales: Any, width: int) -> Any:
    bits = 8 * quants.shape[-1] // width
    top = 2 ** (bits - 1) - 1
    steps = quants if bits == 8 else torch.stack((quants & 15, quants >> 4), -1).flatten(-2)
    return ((steps.float() - top).unflatten(-1, (-1, _GROUP)) * scales.float()[..., None]).flatten(-2)
