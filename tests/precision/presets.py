#!/usr/bin/env python3
"""How far log-probabilities of the reference's presets are from float64: blazr's, and transformers' in bfloat16.

    presets.py --logprobs LOGPROBS [--prompts 64] [--tokens 256] [--device cpu]

LOGPROBS is `target/release/examples/logprobs`. The checkpoints are tests/golden/*-bf16; each reads random tokens, and
the float64 is that of tests/reference/hybrid_reference.py. transformers has whole models for plain attention (Llama),
for it with experts (Mixtral), and for Mamba2 layers alone, but with RMSNorm before them where LayerNorm is put in. What
stands for the others is put together from its layers: Mamba2's mixer, DeepSeek V3's attention without the norms of its
latents, Llama's attention, MLP and norms, Mixtral's experts, and residuals in bfloat16 as its hybrid models have them.
All presets are run so too, for comparison. Both must be the reference in float64, on the CPU whatever --device says.
Prints a table in Markdown: root mean square and largest error. Needs torch and transformers; on a GPU (`--device
cuda:0`) LOGPROBS built with `--features cuda`.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from measure import of_blazr
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DeepseekV3Config, LlamaConfig, LlamaForCausalLM, Mamba2Config, Mamba2ForCausalLM
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "reference"), str(TESTS / "families")]
import hybrid_reference as reference  # noqa: E402
from make import float64  # noqa: E402

AGREEMENT = 1e-9  # between the reference and transformers in float64


class Configs:
    """The configurations of transformers that say what a native one says."""

    def __init__(self, cfg: dict, dtype: torch.dtype) -> None:
        self.native = cfg
        sizes = dict(
            hidden_size=cfg["hidden_size"],
            vocab_size=cfg["vocab_size"],
            num_hidden_layers=cfg["num_layers"],
            rms_norm_eps=cfg["rms_norm_eps"],
            rope_parameters=dict(rope_type="default", rope_theta=cfg["rope_theta"]),
            attn_implementation="sdpa",
            tie_word_embeddings=False,
        )
        if "num_attention_heads" in cfg:
            sizes |= dict(intermediate_size=cfg["intermediate_size"], num_attention_heads=cfg["num_attention_heads"])
            self.llama = LlamaConfig(**sizes, num_key_value_heads=cfg["num_kv_heads"], head_dim=cfg["head_dim"])
        if "num_experts" in cfg:
            self.mixtral = MixtralConfig(
                **sizes,
                num_key_value_heads=cfg["num_kv_heads"],
                head_dim=cfg["head_dim"],
                num_local_experts=cfg["num_experts"],
                num_experts_per_tok=cfg["experts_per_tok"],
                sliding_window=None,
                # transformers' choice, which has no float64
                experts_implementation="eager" if dtype == torch.float64 else "grouped_mm",
            )
        if "kv_latent_dim" in cfg:
            self.deepseek = DeepseekV3Config(
                **sizes,
                num_key_value_heads=cfg["num_attention_heads"],
                q_lora_rank=cfg["q_latent_dim"] + cfg["num_attention_heads"] * cfg["d_rope"],
                kv_lora_rank=cfg["kv_latent_dim"],
                qk_nope_head_dim=cfg["head_dim"],
                qk_rope_head_dim=cfg["d_rope"],
                v_head_dim=cfg["head_dim"],
                rope_interleave=False,
            )
        if "mamba2_num_heads" in cfg:
            self.mamba2 = Mamba2Config(
                hidden_size=cfg["hidden_size"],
                vocab_size=cfg["vocab_size"],
                num_hidden_layers=cfg["num_layers"],
                num_heads=cfg["mamba2_num_heads"],
                head_dim=cfg["mamba2_head_dim"],
                state_size=cfg["mamba2_state_size"],
                n_groups=cfg["mamba2_n_groups"],
                conv_kernel=cfg["mamba2_conv_kernel"],
                chunk_size=cfg["mamba2_chunk_size"],
                expand=cfg["mamba2_expand"],
                time_step_limit=cfg["mamba2_dt_limit"],
                layer_norm_epsilon=reference.MAMBA2_EPS,
                use_bias=True,
            )


class Experts(MixtralSparseMoeBlock):
    def __init__(self, configs: Configs) -> None:
        super().__init__(configs.mixtral)
        self.shared_expert = LlamaMLP(configs.llama) if configs.native.get("shared_expert_enabled") else None

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if self.shared_expert is None else out + self.shared_expert(x)


class Layer(nn.Module):
    def __init__(self, configs: Configs, kind: str) -> None:
        super().__init__()
        hidden = configs.native["hidden_size"]
        self.kind = kind
        if kind == "Mamba2":
            norm = nn.LayerNorm(hidden, eps=reference.MAMBA2_EPS)
            self.mamba2 = nn.ModuleDict(dict(norm=norm, mixer=Mamba2Mixer(configs.mamba2, 0)))
            return
        self.input_layernorm = LlamaRMSNorm(hidden, configs.native["rms_norm_eps"])
        self.post_attention_layernorm = LlamaRMSNorm(hidden, configs.native["rms_norm_eps"])
        if kind.startswith("Mla"):
            self.self_attn = DeepseekV3Attention(configs.deepseek, 0)
            self.self_attn.q_a_layernorm = self.self_attn.kv_a_layernorm = nn.Identity()
            self.rotary = LlamaRotaryEmbedding(configs.deepseek)
        else:
            self.self_attn = LlamaAttention(configs.llama, 0)
            self.rotary = LlamaRotaryEmbedding(configs.llama)
        if kind.endswith("Moe"):
            self.moe = Experts(configs)
        else:
            self.mlp = LlamaMLP(configs.llama)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "Mamba2":
            return x + self.mamba2["mixer"](self.mamba2["norm"](x))
        angles = self.rotary(x, torch.arange(x.shape[1], device=x.device)[None])
        x = x + self.self_attn(self.input_layernorm(x), position_embeddings=angles, attention_mask=None)[0]
        return x + (self.moe if self.kind.endswith("Moe") else self.mlp)(self.post_attention_layernorm(x))


class Layers(nn.Module):
    """Any preset, made of transformers' layers."""

    def __init__(self, configs: Configs) -> None:
        super().__init__()
        cfg = configs.native
        self.embed_tokens = nn.Embedding(cfg["vocab_size"], cfg["hidden_size"])
        self.layers = nn.ModuleList(Layer(configs, kind) for kind in cfg["layer_types"])
        self.norm = LlamaRMSNorm(cfg["hidden_size"], cfg["rms_norm_eps"])
        self.lm_head = nn.Linear(cfg["hidden_size"], cfg["vocab_size"], bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))


def for_layers(cfg: dict, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The native tensors under the names and in the shapes that `Layers` has."""
    w = {name: x.double() for name, x in stored.items()}
    w.setdefault("lm_head.weight", w["embed_tokens.weight"])
    for i, kind in enumerate(cfg["layer_types"]):
        if kind.startswith("Mla"):
            p, heads = f"layers.{i}.self_attn.", (cfg["num_attention_heads"], -1)
            dq, qr, uq, dkv, kr, uk, uv = (
                w.pop(f"{p}w_{name}.weight") for name in ("dq", "qr", "uq", "dkv", "kr", "uk", "uv")
            )
            # What is rotated of a query is made of the hidden state, in DeepSeek of the latent: it goes through there.
            passed = pad(torch.eye(len(qr)).unflatten(0, heads), (len(dq), 0))
            w[p + "q_a_proj.weight"] = torch.cat([dq, qr])
            w[p + "q_b_proj.weight"] = torch.cat([pad(uq.unflatten(0, heads), (0, len(qr))), passed], 1).flatten(0, 1)
            w[p + "kv_a_proj_with_mqa.weight"] = torch.cat([dkv, kr])
            w[p + "kv_b_proj.weight"] = torch.cat([uk.unflatten(0, heads), uv.unflatten(0, heads)], 1).flatten(0, 1)
        if kind.endswith("Moe"):
            p, experts = f"layers.{i}.moe.", range(cfg["num_experts"])
            gates, ups, downs = (
                torch.stack([w.pop(f"{p}experts.{e}.{name}_proj.weight") for e in experts])
                for name in ("gate", "up", "down")
            )
            w[p + "experts.gate_up_proj"], w[p + "experts.down_proj"] = torch.cat([gates, ups], 1), downs
            w[p + "gate.weight"] = w.pop(p + "router.gate.weight")
    return w


def whole(configs: Configs) -> tuple[nn.Module, dict[str, str]] | None:
    """transformers' own model, where it has one, and how its names differ from those of `Layers`."""
    kinds = set(configs.native["layer_types"])
    if kinds == {"StandardTransformer"}:
        return LlamaForCausalLM(configs.llama), {}
    if kinds == {"TransformerWithMoe"} and not configs.native.get("shared_expert_enabled"):
        return MixtralForCausalLM(configs.mixtral), {".moe.": ".mlp."}
    if kinds == {"Mamba2"}:
        model = Mamba2ForCausalLM(configs.mamba2)
        model.backbone.norm_f.variance_epsilon = configs.native["rms_norm_eps"]
        for layer in model.backbone.layers:
            layer.norm = nn.LayerNorm(configs.native["hidden_size"], eps=reference.MAMBA2_EPS)
        parts = {"model.norm.": "model.norm_f.", "model.": "backbone.", ".mamba2": "", "embed_tokens": "embeddings"}
        return model, parts
    return None


@contextlib.contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with float64() if dtype == torch.float64 else contextlib.nullcontext():
            yield
    finally:
        torch.set_default_dtype(default)


def of_next(logits: Tensor, tokens: list[int]) -> Tensor:
    return torch.log_softmax(logits[:-1].double().cpu(), -1)[torch.arange(len(tokens) - 1), tokens[1:]]


@torch.inference_mode()
def of_layers(
    cfg: dict, w: dict[str, Tensor], prompts: list[list[int]], dtype: torch.dtype, device: str = "cpu"
) -> Tensor:
    with computing_in(dtype):
        model = Layers(Configs(cfg, dtype))
        model.load_state_dict(w)
        model.eval().to(device)
        return torch.cat([of_next(model(torch.tensor([t], device=device))[0], t) for t in prompts])


@torch.inference_mode()
def of_whole(
    cfg: dict, w: dict[str, Tensor], prompts: list[list[int]], dtype: torch.dtype, device: str = "cpu"
) -> Tensor | None:
    with computing_in(dtype):
        found = whole(Configs(cfg, dtype))
        if found is None:
            return None
        model, parts = found
        renamed = {}
        for name, x in w.items():
            name = name if name.startswith("lm_head") else f"model.{name}"
            for ours, theirs in parts.items():
                name = name.replace(ours, theirs)
            renamed[name] = x
        model.load_state_dict(renamed)
        model.eval().to(device)
        logits = (model(torch.tensor([t], device=device), use_cache=False).logits[0] for t in prompts)
        return torch.cat([of_next(own, t) for own, t in zip(logits, prompts, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logprobs", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    print("| preset (bf16) | blazr exact | blazr fast | transformers in bf16 | its layers in bf16 |")
    print("| --- | --- | --- | --- | --- |")
    for checkpoint in sorted((TESTS / "golden").glob("*-bf16")):
        cfg = reference.complete(json.loads((checkpoint / "config.json").read_text()))
        stored = load_file(checkpoint / "model.safetensors")
        stored = {name.removeprefix("model."): x for name, x in stored.items()}
        exact = {name: x.double().numpy() for name, x in stored.items()}
        w = for_layers(cfg, stored)
        some = torch.Generator().manual_seed(1)
        prompts = torch.randint(cfg["vocab_size"], (args.prompts, args.tokens), generator=some).tolist()
        expected = torch.cat([of_next(torch.from_numpy(reference.forward(cfg, exact, t)), t) for t in prompts])
        for found in (of_layers(cfg, w, prompts, torch.float64), of_whole(cfg, w, prompts, torch.float64)):
            if found is not None and (found - expected).abs().max() > AGREEMENT:
                sys.exit(f"{checkpoint.name}: in float64 off by {(found - expected).abs().max():.1e}")
        cells = [checkpoint.name.removesuffix("-bf16")]
        for found in (
            torch.cat([of_blazr(args.logprobs, checkpoint, t, "exact", args.device) for t in prompts]),
            torch.cat([of_blazr(args.logprobs, checkpoint, t, "fast", args.device) for t in prompts]),
            of_whole(cfg, w, prompts, torch.bfloat16, args.device),
            of_layers(cfg, w, prompts, torch.bfloat16, args.device),
        ):
            error = None if found is None else (found - expected).abs()
            cells.append("–" if error is None else f"{error.square().mean().sqrt():.1e} ({error.max():.1e})")
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
