"""The default model as a GPTQ folder, for engines that take no GGUF: same weights to within 4 bits, same tokenizer.

The folder is made once under .cache. Every GPTQ group's scale is chosen so that its smallest value is met exactly.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import trio
from safetensors.numpy import save_file
from tokenizers import decoders, models, pre_tokenizers

from inference.model_store import pull

CACHE = Path(__file__).parents[2] / ".cache"
GROUP = 32
_VERSION = "1"
_CONTROL = 3
_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def make_folder() -> Path:
    """The folder, made unless it is there."""
    target = CACHE / "exl2-model" / f"smollm2-135m-gptq-{_VERSION}"
    if not target.is_dir():
        source = trio.run(pull, CACHE / "models", print)
        scratch = target.with_name(f".{target.name}")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        _convert(gguf.GGUFReader(source), scratch)
        scratch.rename(target)
    return target


def _convert(reader: Any, folder: Path) -> None:
    def field(key: str) -> Any:
        return reader.fields[key].contents()

    heads = {"attn_q": field("llama.attention.head_count"), "attn_k": field("llama.attention.head_count_kv")}
    tensors: dict[str, Any] = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        match tensor.name.split("."):
            case ["token_embd", _]:
                tensors["model.embed_tokens.weight"] = values.astype(np.float16)
            case ["output_norm", _]:
                tensors["model.norm.weight"] = values.astype(np.float16)
            case ["blk", layer, kind, _]:
                name = f"model.layers.{layer}.{_NAMES[kind]}"
                if values.ndim == 1:
                    tensors[f"{name}.weight"] = values.astype(np.float16)
                else:
                    values = _unpermuted(values, heads[kind]) if kind in heads else values
                    tensors |= {f"{name}.{part}": data for part, data in _gptq(values).items()}
    save_file(tensors, folder / "model.safetensors")
    _write(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "bos_token_id": field("tokenizer.ggml.bos_token_id"),
            "eos_token_id": field("tokenizer.ggml.eos_token_id"),
            "hidden_act": "silu",
            "hidden_size": field("llama.embedding_length"),
            "intermediate_size": field("llama.feed_forward_length"),
            "max_position_embeddings": field("llama.context_length"),
            "num_attention_heads": heads["attn_q"],
            "num_hidden_layers": field("llama.block_count"),
            "num_key_value_heads": heads["attn_k"],
            "rms_norm_eps": field("llama.attention.layer_norm_rms_epsilon"),
            "rope_theta": field("llama.rope.freq_base"),
            "tie_word_embeddings": True,
            "vocab_size": field("llama.vocab_size"),
            "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False},
        },
    )
    _write_tokenizer(folder, field)


def _unpermuted(values: Any, heads: int) -> Any:
    """Undo llama.cpp's order of rotary pairs."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _gptq(weight: Any) -> dict[str, Any]:
    """A (out, in) matrix as GPTQ's tensors: 4 bits packed along in, a scale and a zero for each group of 32."""
    rows, columns = weight.shape
    grouped = weight.reshape(rows, columns // GROUP, GROUP)
    low, high = np.minimum(grouped.min(-1), -1e-6), np.maximum(grouped.max(-1), 1e-6)
    zero = np.clip(np.floor(-low * 15 / (high - low)), 1, 14)
    scale = np.maximum(-low / zero, high / (15 - zero)).astype(np.float16)
    steps = np.rint(grouped / scale[..., None].astype(np.float32)) + zero[..., None]
    quants = np.clip(steps, 0, 15).astype(np.uint32).reshape(rows, columns).T
    return {
        "qweight": _packed(quants, 0),
        "qzeros": _packed((zero - 1).astype(np.uint32).T, 1),  # the format stores one less
        "scales": np.ascontiguousarray(scale.T),
        "g_idx": (np.arange(columns) // GROUP).astype(np.int32),
    }


def _packed(nibbles: Any, axis: int) -> Any:
    """Eight nibbles to an int32 along ``axis``, the first lowest."""
    parts = [np.take(nibbles, np.arange(at, nibbles.shape[axis], 8), axis) << (4 * at) for at in range(8)]
    return np.ascontiguousarray(np.bitwise_or.reduce(parts).astype(np.uint32).view(np.int32))


def _write_tokenizer(folder: Path, field: Any) -> None:
    tokens = field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in field("tokenizer.ggml.merges")]
    tokenizer = tokenizers.Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = field("tokenizer.ggml.token_type")
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    bos, eos = (tokens[field(f"tokenizer.ggml.{kind}_token_id")] for kind in ("bos", "eos"))
    template = field("tokenizer.chat_template")
    _write(folder / "tokenizer_config.json", {"bos_token": bos, "eos_token": eos, "chat_template": template})
    ids = [field("tokenizer.ggml.eos_token_id"), tokens.index("<|endoftext|>")]
    _write(folder / "generation_config.json", {"eos_token_id": ids})


def _write(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=1))
