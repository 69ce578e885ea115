"""A llama's forward pass in PyTorch on a CPU, over the package's own cache and page tables.

In place of the package's loading and of ``forward_chunk``: weights are read from the same GPTQ files and multiplied in
32 bits; keys and values go where the package's generator says, through the package's cache classes.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn import functional

Fault = Callable[[Any], None]
"""Shown the ids of every step."""


class CpuLlama:
    """Weights and how they are used."""

    def __init__(self, config: Any) -> None:
        tensors: dict[str, Any] = {}
        for file in config.tensor_files:
            tensors |= load_file(file)
        self._layers = config.num_hidden_layers
        self._heads, self._kv_heads, self._head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self._eps = config.norm_eps
        self._weights = {
            name.removesuffix(".qweight"): _dequantised(tensors, name.removesuffix(".qweight"))
            for name in tensors
            if name.endswith(".qweight")
        } | {name.removesuffix(".weight"): data.float() for name, data in tensors.items() if name.endswith(".weight")}
        self._frequencies = config.rotary_embedding_base ** (-torch.arange(0, self._head_dim, 2) / self._head_dim)

    def logits(self, ids: Any, cache: Any, attn_params: Any, *, head: bool) -> Any:
        """One step: fill the cache, and with ``head`` the logits of (batch, n) ids."""
        batch, count = ids.shape
        if attn_params.paged:
            table, past = attn_params.block_index.long(), attn_params.cache_seqlens.tolist()
            paging = (attn_params.page_size, attn_params.cache_seqlens, attn_params.block_index)
        else:
            table, past, paging = torch.zeros(1, 1).long(), [attn_params.past_len], (0, None, None)
        page = paging[0] or cache.max_seq_len
        positions = torch.tensor(past)[:, None] + torch.arange(count)
        state = functional.embedding(ids, self._weights["model.embed_tokens"])
        for layer in range(self._layers):
            q, k, v = self._projected(layer, state, positions)
            begin, width = (0, max(past)) if paging[0] else (0, past[0])
            keys, values = cache.get_kv_state(layer, batch, begin, width, *paging)
            mixed = []
            for index in range(batch):
                rows = _rows(table[index], past[index] + count, page)
                keys[0, rows[past[index] :]] = k[index].half()
                values[0, rows[past[index] :]] = v[index].half()
                mixed.append(self._attended(q[index], keys[0, rows].float(), values[0, rows].float(), past[index]))
            cache.store_kv_state(layer, batch, 0 if paging[0] else past[0], count, *paging)
            state = state + self._linear(layer, "self_attn.o_proj", torch.stack(mixed))
            state = state + self._mlp(layer, state)
        if not head:
            return None
        return self._norm("model.norm", state) @ self._weights["model.embed_tokens"].T

    def _projected(self, layer: int, state: Any, positions: Any) -> tuple[Any, Any, Any]:
        normed = self._norm(f"model.layers.{layer}.input_layernorm", state)
        q, k, v = (
            self._linear(layer, f"self_attn.{name}", normed).unflatten(-1, (-1, self._head_dim))
            for name in ("q_proj", "k_proj", "v_proj")
        )
        angles = positions[..., None].float() * self._frequencies
        cos, sin = angles.cos()[:, :, None], angles.sin()[:, :, None]
        return _rotated(q, cos, sin), _rotated(k, cos, sin), v

    def _attended(self, q: Any, keys: Any, values: Any, past: int) -> Any:
        groups = self._heads // self._kv_heads
        keys, values = (x.repeat_interleave(groups, 1).transpose(0, 1) for x in (keys, values))
        scores = q.transpose(0, 1) @ keys.transpose(1, 2) / math.sqrt(self._head_dim)
        ahead = torch.arange(keys.shape[1]) > past + torch.arange(q.shape[0])[:, None]
        scores = scores.masked_fill(ahead, -math.inf)
        return (scores.softmax(-1) @ values).transpose(0, 1).flatten(1)

    def _mlp(self, layer: int, state: Any) -> Any:
        normed = self._norm(f"model.layers.{layer}.post_attention_layernorm", state)
        gate, up = (self._linear(layer, f"mlp.{name}", normed) for name in ("gate_proj", "up_proj"))
        return self._linear(layer, "mlp.down_proj", functional.silu(gate) * up)

    def _linear(self, layer: int, name: str, state: Any) -> Any:
        return functional.linear(state, self._weights[f"model.layers.{layer}.{name}"])

    def _norm(self, name: str, state: Any) -> Any:
        return functional.rms_norm(state, state.shape[-1:], self._weights[name], self._eps)


def _rotated(x: Any, cos: Any, sin: Any) -> Any:
    low, high = x.chunk(2, -1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


def _rows(table: Any, length: int, page: int) -> Any:
    """The cache's rows of a sequence's first ``length`` positions."""
    positions = torch.arange(length)
    return table[positions // page] * page + positions % page


def _dequantised(tensors: dict[str, Any], name: str) -> Any:
    """A GPTQ matrix in 32 bits, shape (out, in)."""
    shifts = torch.arange(0, 32, 4)
    packed, zeros = tensors[f"{name}.qweight"], tensors[f"{name}.qzeros"]
    quants = ((packed[:, None, :] >> shifts[None, :, None]) & 15).flatten(0, 1)
    zeros = ((zeros[:, :, None] >> shifts) & 15).flatten(1) + 1
    groups = tensors[f"{name}.g_idx"].long()
    return ((quants - zeros[groups]).float() * tensors[f"{name}.scales"].float()[groups]).T.contiguous()
