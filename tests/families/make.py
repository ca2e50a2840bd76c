#!/usr/bin/env python3
"""Makes every folder beside this file anew: a tiny random checkpoint of a Hugging Face model family, and what a correct
implementation must answer for it.

    pip install torch transformers==5.23.0
    python tests/families/make.py [NAME ...]

NAME/config.json            the configuration: in most folders spelled as published on the Hub, in some as
                            `save_pretrained` of transformers 5 spells it
NAME/model.safetensors      the weights (or shards with their index), under the published names or the stacked ones of
                            transformers 5
NAME/expected.json          per prompt: token ids, the log-probability of every prompt token given those before it (the
                            first is null), the log-probabilities of all tokens after the last one, and the greedy
                            continuation

The answers come from transformers' own model, loaded from the folder and run in float64 on the weights as stored: one
forward pass over the whole sequence for each answer, never its cache. Folders are the same in each run of one version
of torch.

For each folder the program checks, and prints,

- that transformers takes every tensor for what it was made, but for the extras that an implementation must skip;
- that float32 agrees with float64, and that distributions are neither flat nor one spike;
- that no greedy token and no choice of experts is close to a tie;
- how far the log-probabilities move when one term is left out: each parameter that starts as a constant, each of the
  configuration's keys in `moves`, each detail in `attributes`. Every one must move them by 0.01 or more.
- that the keys in `ignored` move nothing.
"""
import contextlib
import copy
import itertools
import json
import math
import re
import shutil
import sys
import textwrap
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, logging
from transformers.core_model_loading import revert_weight_conversion

HERE = Path(__file__).resolve().parent
LENGTHS = (5, 37, 200)
NEW_TOKENS = 12
VOCAB = 96
EAGER = dict(attn_implementation="eager", experts_implementation="eager")

LOGITS_STD = 2.5  # the spread that the weights are scaled to
ENTROPY = (0.7, 3.8)  # nats, on average; a flat distribution has ln 96 = 4.56
GREEDY_MARGIN = 0.02  # between the best and the second token, in log-probability
ROUTER_MARGIN = 1e-4  # between the last expert (or group) taken and the next
DISTINCT = 4  # tokens in a greedy continuation at least
AGREEMENT = 1e-3  # between float32 and float64
MOVES = 0.01  # what leaving a term out must change

Extras = Callable[[dict, dict], dict]


@dataclass
class Fixture:
    name: str
    family: str  # model_type
    config: dict = field(default_factory=dict)  # over PUBLISHED[family]
    dtype: torch.dtype = torch.float32
    shards: int = 1
    new_config: bool = False  # config.json as transformers 5 writes it
    stacked: bool = False  # tensors under the names that transformers 5 has in memory
    extras: Extras | None = None  # tensors that must be skipped, from the configuration and the tensors
    gains: dict[str, float] = field(default_factory=dict)  # of weights whose names match, times the usual one
    dt_bias: tuple[float, float] = (-1.5, 1.0)
    moves: list[tuple] = field(default_factory=list)  # (key, value): the key's neutral value
    ignored: list[tuple] = field(default_factory=list)
    attributes: list[tuple] = field(default_factory=list)  # (modules' names, attribute, value): a detail done wrongly


# ------------------------------------------------------------------------------------------- tensors to be skipped


def inv_freq(config: dict, tensors: dict) -> dict:
    """What old llama files contain. The values are wrong, so that whoever uses them finds out."""
    lanes = config["head_dim"] // 2
    return {
        f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.linspace(1, 0.5, lanes)
        for i in range(config["num_hidden_layers"])
    }


def mup_vector(config: dict, tensors: dict) -> dict:
    """A vector that is computed from ssm_multipliers; these values are wrong too."""
    lanes = tensors["model.layers.0.mamba.in_proj.weight"].shape[0]
    return {
        f"model.layers.{i}.mamba.mup_vector": torch.full((1, 1, lanes), 3.0)
        for i in range(config["num_hidden_layers"])
    }


def next_token_layer(config: dict, tensors: dict) -> dict:
    """A layer for multi-token prediction, past the last one."""
    depth, hidden = config["num_hidden_layers"], config["hidden_size"]
    last, extra = f"model.layers.{depth - 1}.", f"model.layers.{depth}."
    layer = {extra + name.removeprefix(last): x.flip(0) for name, x in tensors.items() if name.startswith(last)}
    ones = torch.ones(hidden)
    return layer | {
        extra + "embed_tokens.weight": tensors["model.embed_tokens.weight"].flip(0),
        extra + "enorm.weight": ones,
        extra + "hnorm.weight": ones,
        extra + "eh_proj.weight": torch.ones(hidden, 2 * hidden),
        extra + "shared_head.norm.weight": ones,
        extra + "shared_head.head.weight": tensors["lm_head.weight"].flip(0),
    }


# --------------------------------------------------------------------------------------------------- configurations

BF16, F16 = torch.bfloat16, torch.float16
INFINITY = math.inf

# What the families' published config.json files have in common, sizes aside.
PUBLISHED = {
    "mamba2": dict(
        architectures=["Mamba2ForCausalLM"], bos_token_id=0, chunk_size=32, conv_kernel=4, eos_token_id=0, expand=2,
        hidden_act="silu", initializer_range=0.1, layer_norm_epsilon=1e-5, norm_before_gate=True, num_hidden_layers=3,
        pad_token_id=0, rescale_prenorm_residual=False, residual_in_fp32=True, rms_norm=True, state_size=16,
        tie_word_embeddings=False, time_step_floor=1e-4, time_step_init_scheme="random",
        time_step_limit=[0.0, INFINITY], time_step_max=0.1, time_step_min=0.001, time_step_rank=256,
        time_step_scale=1.0, transformers_version="4.44.0.dev0", use_bias=False, use_cache=True, use_conv_bias=True,
    ),
    "granitemoehybrid": dict(
        architectures=["GraniteMoeHybridForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
        eos_token_id=2, hidden_act="silu", init_method="mup", initializer_range=0.1, logits_to_keep=1,
        mamba_chunk_size=32, mamba_conv_bias=True, mamba_d_conv=4, mamba_d_state=16, mamba_expand=2,
        mamba_proj_bias=False, max_position_embeddings=512, normalization_function="rmsnorm",
        num_attention_heads=4, num_key_value_heads=2, output_router_logits=False, pad_token_id=0, rms_norm_eps=1e-5,
        rope_scaling=None, rope_theta=10000.0, router_aux_loss_coef=0.01, tie_word_embeddings=True,
        transformers_version="4.56.0", use_cache=True,
    ),
    "llama": dict(
        architectures=["LlamaForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
        eos_token_id=2, hidden_act="silu", initializer_range=0.02, max_position_embeddings=512, mlp_bias=False,
        num_attention_heads=4, num_hidden_layers=2, num_key_value_heads=2, pretraining_tp=1, rms_norm_eps=1e-5,
        rope_scaling=None, rope_theta=10000.0, tie_word_embeddings=False, transformers_version="4.45.0.dev0",
        use_cache=True,
    ),
    "bamba": dict(
        architectures=["BambaForCausalLM"], attention_bias=False, attention_dropout=0.0, attn_rotary_emb=64,
        bos_token_id=1, eos_token_id=2, hidden_act="silu", initializer_range=0.02, mamba_chunk_size=32,
        mamba_conv_bias=True, mamba_d_conv=4, mamba_d_head="auto", mamba_d_state=16, mamba_expand=2,
        mamba_proj_bias=False, max_position_embeddings=512, mlp_bias=False, num_attention_heads=4,
        num_hidden_layers=3, num_key_value_heads=2, num_logits_to_keep=1, pad_token_id=0, rms_norm_eps=1e-5,
        rope_scaling=None, rope_theta=10000.0, tie_word_embeddings=False, transformers_version="4.48.0.dev0",
        use_cache=True, use_mamba_kernels=True,
    ),
    "nemotron_h": dict(
        architectures=["NemotronHForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
        chunk_size=32, conv_kernel=4, eos_token_id=2, expand=2, hidden_dropout=0.0, initializer_range=0.02,
        layer_norm_epsilon=1e-5, mamba_hidden_act="silu", mamba_proj_bias=False, max_position_embeddings=512,
        mlp_bias=False, mlp_hidden_act="relu2", num_attention_heads=4, num_key_value_heads=2, num_logits_to_keep=1,
        pad_token_id=0, partial_rotary_factor=1.0, rescale_prenorm_residual=True, residual_in_fp32=False,
        rms_norm_eps=1e-5, rope_theta=10000, sliding_window=None, ssm_state_size=16, tie_word_embeddings=False,
        time_step_floor=1e-4, time_step_limit=[0.0, INFINITY], time_step_max=0.1, time_step_min=0.001,
        transformers_version="4.55.4", use_bias=False, use_cache=True, use_conv_bias=True, use_mamba_kernels=True,
    ),
    "falcon_h1": dict(
        architectures=["FalconH1ForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
        eos_token_id=11, hidden_act="silu", initializer_range=0.02, mamba_chunk_size=32, mamba_conv_bias=True,
        mamba_d_conv=4, mamba_d_state=16, mamba_expand=2, mamba_norm_before_gate=False, mamba_proj_bias=False,
        mamba_rms_norm=False, mamba_use_mlp=True, max_position_embeddings=512, mlp_bias=False, mlp_expansion_factor=8,
        num_attention_heads=4, num_hidden_layers=2, num_key_value_heads=2, num_logits_to_keep=1, pad_token_id=0,
        projectors_bias=False, rms_norm_eps=1e-5, rope_scaling=None, rope_theta=100000000000.0,
        tie_word_embeddings=False, transformers_version="4.52.0.dev0", use_cache=True,
    ),
    "mistral": dict(
        architectures=["MistralForCausalLM"], attention_dropout=0.0, bos_token_id=1, eos_token_id=2,
        hidden_act="silu", initializer_range=0.02, max_position_embeddings=512, num_attention_heads=4,
        num_hidden_layers=2, num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False,
        transformers_version="4.42.0.dev0", use_cache=True,
    ),
    "qwen2": dict(
        architectures=["Qwen2ForCausalLM"], attention_dropout=0.0, bos_token_id=90, eos_token_id=91,
        hidden_act="silu", initializer_range=0.02, max_position_embeddings=512, max_window_layers=1,
        num_attention_heads=4, num_hidden_layers=3, num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1000000.0,
        sliding_window=16, tie_word_embeddings=False, transformers_version="4.40.1", use_cache=True, use_mrope=False,
        use_sliding_window=False,
    ),
    "qwen3": dict(
        architectures=["Qwen3ForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=90,
        eos_token_id=91, hidden_act="silu", initializer_range=0.02, max_position_embeddings=512, max_window_layers=28,
        num_attention_heads=4, num_hidden_layers=2, num_key_value_heads=2, rms_norm_eps=1e-6, rope_scaling=None,
        rope_theta=1000000, sliding_window=None, tie_word_embeddings=False, transformers_version="4.51.0",
        use_cache=True, use_sliding_window=False,
    ),
    "qwen3_moe": dict(
        architectures=["Qwen3MoeForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=90,
        decoder_sparse_step=1, eos_token_id=91, hidden_act="silu", initializer_range=0.02,
        max_position_embeddings=512, max_window_layers=3, mlp_only_layers=[], norm_topk_prob=True,
        num_attention_heads=4, num_hidden_layers=3, num_key_value_heads=2, output_router_logits=False,
        rms_norm_eps=1e-6, rope_scaling=None, rope_theta=1000000.0, router_aux_loss_coef=0.001, sliding_window=None,
        tie_word_embeddings=False, transformers_version="4.51.0", use_cache=True, use_sliding_window=False,
    ),
    "mixtral": dict(
        architectures=["MixtralForCausalLM"], attention_dropout=0.0, bos_token_id=1, eos_token_id=2,
        hidden_act="silu", initializer_range=0.02, max_position_embeddings=512, num_attention_heads=4,
        num_experts_per_tok=2, num_hidden_layers=2, num_key_value_heads=2, output_router_logits=False,
        rms_norm_eps=1e-5, rope_theta=1000000.0, router_aux_loss_coef=0.02, sliding_window=None,
        tie_word_embeddings=False, transformers_version="4.36.0.dev0", use_cache=True,
    ),
    "deepseek_v2": dict(
        architectures=["DeepseekV2ForCausalLM"], attention_bias=False, attention_dropout=0.0, aux_loss_alpha=0.001,
        bos_token_id=0, eos_token_id=1, ep_size=1, first_k_dense_replace=1, hidden_act="silu",
        initializer_range=0.02, max_position_embeddings=512, moe_layer_freq=1, norm_topk_prob=False,
        num_attention_heads=4, num_hidden_layers=3, num_key_value_heads=4, pretraining_tp=1, rms_norm_eps=1e-6,
        scoring_func="softmax", seq_aux=True, tie_word_embeddings=False, transformers_version="4.39.3",
        use_cache=True,
    ),
    "deepseek_v3": dict(
        architectures=["DeepseekV3ForCausalLM"], attention_bias=False, attention_dropout=0.0, aux_loss_alpha=0.001,
        bos_token_id=0, eos_token_id=1, ep_size=1, first_k_dense_replace=1, hidden_act="silu",
        initializer_range=0.02, max_position_embeddings=512, moe_layer_freq=1, num_attention_heads=4,
        num_key_value_heads=4, pretraining_tp=1, rms_norm_eps=1e-6, routed_scaling_factor=2.5,
        scoring_func="sigmoid", seq_aux=True, tie_word_embeddings=False, topk_method="noaux_tc",
        transformers_version="4.33.1", use_cache=True,
    ),
}

FALCON_MULTIPLIERS = dict(
    embedding_multiplier=2.5, lm_head_multiplier=0.3, key_multiplier=0.4, attention_in_multiplier=1.4,
    attention_out_multiplier=0.7, ssm_in_multiplier=1.3, ssm_out_multiplier=0.6, mlp_multipliers=[0.6, 1.7],
    ssm_multipliers=[0.5, 1.5, 0.7, 1.3, 0.8],
)
FALCON_NEUTRAL = [
    *((key, 1.0) for key, value in FALCON_MULTIPLIERS.items() if not isinstance(value, list)),
    *((f"mlp_multipliers.{i}", 1.0) for i in range(2)),
    *((f"ssm_multipliers.{i}", 1.0) for i in range(5)),
]

# ---------------------------------------------------------------------------------------------------- the fixtures

FIXTURES = [
    Fixture(
        "mamba2", "mamba2",
        dict(hidden_size=40, num_heads=4, head_dim=20, n_groups=2, use_bias=True),
        ignored=[("norm_before_gate", False), ("rms_norm", False), ("chunk_size", 256), ("time_step_min", 0.5)],
        attributes=[(r"mixer\.norm", "group_size", 80)],
    ),
    Fixture(
        "mamba2-limits", "mamba2",
        dict(hidden_size=36, num_heads=6, head_dim=12, n_groups=3, use_conv_bias=False, tie_word_embeddings=True,
             time_step_limit=[0.02, 0.5], eos_token_id=[0, 2], layer_norm_epsilon=1e-2),
        dt_bias=(-5.0, 1.5),
        moves=[("time_step_limit", [0.0, 0.5]), ("time_step_limit", [0.02, INFINITY]), ("layer_norm_epsilon", 1e-5)],
    ),
    Fixture(
        "granitemoehybrid", "granitemoehybrid",
        dict(hidden_size=40, intermediate_size=56, shared_intermediate_size=56,
             layer_types=["mamba", "attention", "mamba"], num_hidden_layers=3, num_local_experts=0,
             num_experts_per_tok=0, position_embedding_type="nope",
             mamba_n_heads=4, mamba_d_head=20, mamba_n_groups=1, embedding_multiplier=3, residual_multiplier=0.4,
             attention_multiplier=0.75, logits_scaling=3),
        dtype=BF16,
        moves=[("embedding_multiplier", 1), ("residual_multiplier", 1), ("attention_multiplier", 0.316),
               ("logits_scaling", 1), ("position_embedding_type", "rope")],
        ignored=[("init_method", "x"), ("intermediate_size", 999), ("rope_theta", 3.0)],
    ),
    Fixture(
        "granitemoehybrid-moe", "granitemoehybrid",
        dict(hidden_size=32, intermediate_size=18, shared_intermediate_size=28,
             layer_types=["mamba", "attention", "mamba"], num_hidden_layers=3, num_local_experts=5,
             num_experts_per_tok=2, position_embedding_type="rope",
             rope_theta=500.0, mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=2, embedding_multiplier=3.0,
             residual_multiplier=0.4, attention_multiplier=0.9, logits_scaling=0.5, tie_word_embeddings=False),
        shards=3,
        new_config=True,
        moves=[("embedding_multiplier", 1), ("residual_multiplier", 1), ("attention_multiplier", 0.354),
               ("logits_scaling", 1), ("position_embedding_type", "nope"), ("position_embedding_type", None),
               ("rope_theta", 10000.0), ("num_experts_per_tok", 1)],
        attributes=[(r"mamba\.norm", "group_size", 64)],
    ),
    Fixture(
        "granitemoehybrid-attention", "granitemoehybrid",
        dict(hidden_size=48, intermediate_size=80, shared_intermediate_size=80, layer_types=["attention"] * 2,
             num_hidden_layers=2, num_local_experts=0, num_experts_per_tok=0, position_embedding_type="rope",
             rope_theta=10000000.0, mamba_n_heads=4, mamba_d_head="auto", mamba_n_groups=1, embedding_multiplier=2.5,
             residual_multiplier=0.35, attention_multiplier=0.6, logits_scaling=4),
        dtype=F16,
        moves=[("embedding_multiplier", 1), ("residual_multiplier", 1), ("attention_multiplier", 0.289),
               ("logits_scaling", 1), ("position_embedding_type", "nope"), ("rope_theta", 10000.0)],
    ),
    Fixture(
        "llama", "llama",
        dict(hidden_size=48, intermediate_size=56, head_dim=12, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-2),
        shards=2,
        extras=inv_freq,
        moves=[("rope_theta", 100.0), ("rms_norm_eps", 1e-6)],
        ignored=[("pretraining_tp", 2)],
    ),
    Fixture(
        "llama-llama3", "llama",
        dict(hidden_size=40, intermediate_size=72, head_dim=16, rope_theta=500000.0, tie_word_embeddings=True,
             bos_token_id=90, eos_token_id=[91, 92],
             rope_scaling=dict(factor=8.0, high_freq_factor=4.0, low_freq_factor=1.0,
                               original_max_position_embeddings=64, rope_type="llama3")),
        dtype=BF16,
        moves=[("rope_scaling", None), ("rope_theta", 10000.0), ("rope_scaling.high_freq_factor", 1.01),
               ("rope_scaling.original_max_position_embeddings", 512)],
    ),
    Fixture(
        "llama-linear", "llama",
        dict(hidden_size=32, intermediate_size=72, num_attention_heads=4, num_key_value_heads=1, num_hidden_layers=3,
             rope_scaling=dict(type="linear", factor=4.0)),
        new_config=True,
        moves=[("rope_scaling", None)],
    ),
    Fixture(
        "bamba", "bamba",
        dict(hidden_size=48, intermediate_size=40, attn_layer_indices=[1], mamba_n_heads=8, mamba_n_groups=1),
        dtype=BF16,
        moves=[("rope_theta", 100.0), ("rope_scaling", dict(rope_type="default", partial_rotary_factor=1.0))],
        ignored=[("attn_rotary_emb", 12)],
    ),
    Fixture(
        "bamba-groups", "bamba",
        dict(hidden_size=32, intermediate_size=40, attn_layer_indices=[0, 2], mamba_n_heads=4, mamba_n_groups=2,
             mamba_proj_bias=True, attention_bias=True, mlp_bias=True, rope_theta=1000.0),
        new_config=True,
        moves=[("rope_theta", 10000.0), ("rope_scaling", dict(rope_type="default", partial_rotary_factor=1.0))],
        attributes=[(r"mamba\.norm", "group_size", 64)],
    ),
    Fixture(
        # Half a head of 14 is 7 elements: 8 are rotated, with the frequencies of 7.
        "bamba-odd", "bamba",
        dict(hidden_size=28, intermediate_size=40, attn_layer_indices=[1], num_attention_heads=2, num_key_value_heads=1,
             mamba_n_heads=4, rope_theta=1000.0),
        moves=[("rope_theta", 10000.0)],
    ),
    Fixture(
        "nemotron_h", "nemotron_h",
        dict(hidden_size=40, intermediate_size=56, hybrid_override_pattern="M-*-M", num_hidden_layers=5, head_dim=12,
             mamba_num_heads=6, mamba_head_dim=8, n_groups=2),
        moves=[("mlp_hidden_act", "silu"), ("mlp_hidden_act", "relu")],
        # That no time step is near time_step_min matters: only transformers obeys it, and only in prefill.
        ignored=[("time_step_min", 1e-9), ("time_step_limit", [0.5, 0.6]), ("rope_theta", 3.0), ("expand", 7)],
        attributes=[(r"mixer\.norm", "group_size", 48)],
    ),
    Fixture(
        "nemotron_h-moe", "nemotron_h",
        dict(hidden_size=40, intermediate_size=28, hybrid_override_pattern="ME*E", num_hidden_layers=4, head_dim=16,
             mamba_num_heads=8, mamba_head_dim=8, n_groups=4, n_routed_experts=8, num_experts_per_tok=2,
             moe_intermediate_size=20, n_shared_experts=1, moe_shared_expert_intermediate_size=28, n_group=2,
             topk_group=1, norm_topk_prob=True, routed_scaling_factor=2.5),
        dtype=BF16,
        moves=[("n_group", 1), ("topk_group", 2), ("norm_topk_prob", False), ("routed_scaling_factor", 1.0),
               ("num_experts_per_tok", 1), ("mlp_hidden_act", "silu")],
        ignored=[("time_step_min", 1e-9), ("n_shared_experts", 3)],
        attributes=[(r"mixer\.norm", "group_size", 64)],
    ),
    Fixture(
        "nemotron_h-latent", "nemotron_h",
        dict(hidden_size=32, intermediate_size=28, hybrid_override_pattern="EM*-", num_hidden_layers=4, head_dim=12,
             mamba_num_heads=4, mamba_head_dim=10, n_groups=2, n_routed_experts=6, num_experts_per_tok=2,
             moe_intermediate_size=20, n_shared_experts=1, moe_shared_expert_intermediate_size=36, moe_latent_size=24,
             n_group=1, topk_group=1, norm_topk_prob=True, routed_scaling_factor=1.6, use_bias=True, mlp_bias=True),
        new_config=True,
        stacked=True,
        moves=[("norm_topk_prob", False), ("routed_scaling_factor", 1.0), ("mlp_hidden_act", "silu")],
        ignored=[("time_step_min", 1e-9)],
        attributes=[(r"mixer\.norm", "group_size", 40)],
    ),
    Fixture(
        "falcon_h1", "falcon_h1",
        dict(hidden_size=40, intermediate_size=56, head_dim=16, mamba_d_ssm=48, mamba_n_heads=4, mamba_d_head=12,
             mamba_n_groups=1, **FALCON_MULTIPLIERS),
        extras=mup_vector,
        moves=[*FALCON_NEUTRAL, ("rope_theta", 10000.0)],
        ignored=[("mamba_norm_before_gate", True), ("mamba_expand", 9), ("mlp_expansion_factor", 1)],
    ),
    Fixture(
        "falcon_h1-norm", "falcon_h1",
        dict(hidden_size=32, intermediate_size=56, head_dim=12, mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head="auto",
             mamba_n_groups=2, mamba_rms_norm=True, rope_theta=1000.0, num_hidden_layers=3, tie_word_embeddings=True,
             **FALCON_MULTIPLIERS),
        dtype=BF16,
        moves=[*FALCON_NEUTRAL, ("mamba_norm_before_gate", True), ("rope_theta", 10000.0)],
        attributes=[(r"mamba\.norm", "n_groups", 1)],
    ),
    Fixture(
        "falcon_h1-bias", "falcon_h1",
        dict(hidden_size=40, intermediate_size=32, mamba_d_ssm=None, mamba_n_heads=4, mamba_d_head=20,
             mamba_n_groups=2, mamba_rms_norm=True, mamba_norm_before_gate=True, attention_bias=True, mlp_bias=True,
             mamba_proj_bias=True, projectors_bias=True, **FALCON_MULTIPLIERS),
        new_config=True,
        moves=[*FALCON_NEUTRAL, ("mamba_norm_before_gate", False), ("rope_theta", 10000.0)],
        attributes=[(r"mamba\.norm", "n_groups", 1)],
    ),
    Fixture(
        "mistral", "mistral",
        dict(hidden_size=40, intermediate_size=72, head_dim=16, sliding_window=16),
        dtype=BF16,
        moves=[("sliding_window", None), ("sliding_window", 15), ("sliding_window", 17), ("rope_theta", 100.0)],
    ),
    Fixture(
        "mistral-full", "mistral",
        dict(hidden_size=32, intermediate_size=72, head_dim=12, num_key_value_heads=1, sliding_window=None,
             rope_theta=1000000.0),
        new_config=True,
        moves=[("sliding_window", 16), ("rope_theta", 10000.0)],
    ),
    Fixture(
        "qwen2", "qwen2",
        dict(hidden_size=40, intermediate_size=56, tie_word_embeddings=True),
        moves=[("use_sliding_window", True), ("rope_theta", 10000.0)],
    ),
    Fixture(
        "qwen2-window", "qwen2",
        dict(hidden_size=32, intermediate_size=56, use_sliding_window=True),
        moves=[("use_sliding_window", False), ("sliding_window", 15), ("sliding_window", 17), ("max_window_layers", 0),
               ("max_window_layers", 2)],
    ),
    Fixture(
        "qwen2-yarn", "qwen2",
        dict(hidden_size=48, intermediate_size=72, num_hidden_layers=2, rope_theta=1000.0, sliding_window=131072,
             max_window_layers=28,
             rope_scaling=dict(factor=4.0, original_max_position_embeddings=32, type="yarn")),
        dtype=BF16,
        moves=[("rope_scaling", None), ("rope_scaling.factor", 2.0),
               ("rope_scaling.original_max_position_embeddings", 512), ("rope_theta", 10000.0)],
        attributes=[(r"rotary_emb", "attention_scaling", 1.0)],
    ),
    Fixture(
        "qwen3", "qwen3",
        dict(hidden_size=40, intermediate_size=72, head_dim=16, tie_word_embeddings=True),
        dtype=BF16,
        moves=[("rope_theta", 10000.0)],
    ),
    Fixture(
        "qwen3-bias", "qwen3",
        dict(hidden_size=48, intermediate_size=56, head_dim=8, attention_bias=True),
        new_config=True,
        moves=[("rope_theta", 10000.0)],
    ),
    Fixture(
        "qwen3_moe", "qwen3_moe",
        dict(hidden_size=32, intermediate_size=56, head_dim=12, mlp_only_layers=[0], num_experts=6,
             num_experts_per_tok=3, moe_intermediate_size=20),
        dtype=BF16,
        shards=2,
        moves=[("norm_topk_prob", False), ("num_experts_per_tok", 2), ("rope_theta", 10000.0)],
    ),
    Fixture(
        "qwen3_moe-stacked", "qwen3_moe",
        dict(hidden_size=40, intermediate_size=56, decoder_sparse_step=2, norm_topk_prob=False, num_experts=5,
             num_experts_per_tok=2, moe_intermediate_size=24),
        new_config=True,
        stacked=True,
        moves=[("norm_topk_prob", True), ("num_experts_per_tok", 1), ("rope_theta", 10000.0)],
    ),
    Fixture(
        "qwen3_moe-experts", "qwen3_moe",
        dict(hidden_size=32, intermediate_size=56, head_dim=12, num_experts=6, num_experts_per_tok=3,
             moe_intermediate_size=20),
        dtype=BF16,
        moves=[("norm_topk_prob", False), ("num_experts_per_tok", 2), ("rope_theta", 10000.0)],
    ),
    Fixture(
        "mixtral", "mixtral",
        dict(hidden_size=40, intermediate_size=28, num_local_experts=5),
        dtype=BF16,
        moves=[("num_experts_per_tok", 1), ("rope_theta", 10000.0), ("sliding_window", 16)],
    ),
    Fixture(
        "mixtral-stacked", "mixtral",
        dict(hidden_size=32, intermediate_size=24, head_dim=12, num_local_experts=4),
        new_config=True,
        stacked=True,
        moves=[("num_experts_per_tok", 1), ("rope_theta", 10000.0)],
    ),
    Fixture(
        "deepseek_v2", "deepseek_v2",
        dict(hidden_size=40, intermediate_size=48, q_lora_rank=None, kv_lora_rank=20, qk_nope_head_dim=12,
             qk_rope_head_dim=8, v_head_dim=10, n_routed_experts=5, num_experts_per_tok=2, n_shared_experts=2,
             moe_intermediate_size=14, n_group=1, topk_group=1, topk_method="greedy", routed_scaling_factor=1.0,
             rope_scaling=None, rope_theta=10000),
        moves=[("routed_scaling_factor", 2.0), ("num_experts_per_tok", 1), ("rope_theta", 100.0)],
        ignored=[("norm_topk_prob", True), ("scoring_func", "sigmoid"), ("moe_layer_freq", 2), ("n_group", 2)],
    ),
    Fixture(
        "deepseek_v2-yarn", "deepseek_v2",
        dict(hidden_size=48, intermediate_size=64, q_lora_rank=24, kv_lora_rank=20, qk_nope_head_dim=12,
             qk_rope_head_dim=8, v_head_dim=10, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2,
             moe_intermediate_size=16, n_group=4, topk_group=2, topk_method="group_limited_greedy",
             routed_scaling_factor=2.0, attention_bias=True, rms_norm_eps=1e-3, rope_theta=100,
             rope_scaling=dict(beta_fast=4, beta_slow=1, factor=8, mscale=0.7, mscale_all_dim=0.9,
                               original_max_position_embeddings=128, type="yarn")),
        dtype=BF16,
        gains={r"[qv]_a_proj": 0.2},
        moves=[("routed_scaling_factor", 1.0), ("topk_method", "greedy"), ("num_experts_per_tok", 2),
               ("rope_scaling", None), ("rope_scaling.mscale", 0.9), ("rope_scaling.mscale_all_dim", 0),
               ("rope_scaling.beta_fast", 32), ("rope_scaling.beta_slow", 0.25), ("rope_scaling.factor", 4),
               ("rms_norm_eps", 1e-6)],
        ignored=[("norm_topk_prob", True)],
        attributes=[(r"self_attn", "scaling", 0.224), (r"(q_a|kv_a)_layernorm", "variance_epsilon", 1e-3)],
    ),
    Fixture(
        "deepseek_v2-groups", "deepseek_v2",
        dict(hidden_size=48, intermediate_size=64, q_lora_rank=24, kv_lora_rank=20, qk_nope_head_dim=12,
             qk_rope_head_dim=8, v_head_dim=10, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2,
             moe_intermediate_size=16, n_group=4, topk_group=2, topk_method="group_limited_greedy",
             routed_scaling_factor=2.0, attention_bias=True, rms_norm_eps=1e-3, rope_theta=100,
             rope_scaling=dict(beta_fast=4, beta_slow=1, factor=8, mscale=0.9, mscale_all_dim=0.9,
                               original_max_position_embeddings=128, type="yarn")),
        dtype=BF16,
        gains={r"[qv]_a_proj": 0.2},
        moves=[("routed_scaling_factor", 1.0), ("topk_method", "greedy"), ("num_experts_per_tok", 2),
               ("rope_scaling", None), ("rope_scaling.mscale_all_dim", 0),
               ("rope_scaling.beta_fast", 32), ("rope_scaling.beta_slow", 0.25), ("rope_scaling.factor", 4),
               ("rms_norm_eps", 1e-6)],
        ignored=[("norm_topk_prob", True)],
        attributes=[(r"self_attn", "scaling", 0.224), (r"(q_a|kv_a)_layernorm", "variance_epsilon", 1e-3)],
    ),
    Fixture(
        "deepseek_v2-bias", "deepseek_v2",
        dict(hidden_size=40, intermediate_size=56, q_lora_rank=None, kv_lora_rank=20, qk_nope_head_dim=12,
             qk_rope_head_dim=8, v_head_dim=10, n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=1,
             moe_intermediate_size=16, n_group=1, topk_group=1, topk_method="greedy", routed_scaling_factor=1.5,
             attention_bias=True, mlp_bias=True, rope_theta=100, rope_scaling=None),
        moves=[("routed_scaling_factor", 1.0), ("num_experts_per_tok", 1), ("rope_theta", 10000.0)],
    ),
    Fixture(
        "deepseek_v3", "deepseek_v3",
        dict(hidden_size=40, intermediate_size=64, num_hidden_layers=3, q_lora_rank=24, kv_lora_rank=20,
             qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10, n_routed_experts=8, num_experts_per_tok=3,
             n_shared_experts=1, moe_intermediate_size=16, n_group=4, topk_group=2, norm_topk_prob=True,
             num_nextn_predict_layers=1, rope_theta=100,
             rope_scaling=dict(beta_fast=32, beta_slow=1, factor=40, mscale=1.0, mscale_all_dim=1.0,
                               original_max_position_embeddings=32, type="yarn")),
        dtype=BF16,
        extras=next_token_layer,
        moves=[("routed_scaling_factor", 1.0), ("topk_group", 4), ("norm_topk_prob", False),
               ("num_experts_per_tok", 2), ("rope_interleave", False), ("rope_scaling", None),
               ("rope_scaling.mscale_all_dim", 0), ("rope_scaling.mscale", 0.5), ("rope_scaling.beta_slow", 0.5)],
        ignored=[("scoring_func", "softmax"), ("topk_method", "greedy")],
        attributes=[(r"self_attn", "scaling", 0.224)],
    ),
    Fixture(
        "deepseek_v3-stacked", "deepseek_v3",
        dict(hidden_size=40, intermediate_size=56, num_hidden_layers=2, q_lora_rank=None, kv_lora_rank=20,
             qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12, n_routed_experts=6, num_experts_per_tok=2,
             n_shared_experts=2, moe_intermediate_size=20, n_group=1, topk_group=1, norm_topk_prob=False,
             num_nextn_predict_layers=0, rope_interleave=False, rope_scaling=None, rope_theta=50000.0),
        new_config=True,
        stacked=True,
        moves=[("routed_scaling_factor", 1.0), ("norm_topk_prob", True), ("num_experts_per_tok", 1),
               ("rope_interleave", True), ("rope_theta", 10000.0)],
    ),
]

# Names that a published file of the family has.
PUBLISHED_NAMES = {
    "mamba2": ["backbone.embeddings.weight", "backbone.layers.0.mixer.in_proj.weight", "backbone.norm_f.weight"],
    "granitemoehybrid": ["model.layers.0.shared_mlp.input_linear.weight"],
    "granitemoehybrid-moe": [
        "model.layers.0.block_sparse_moe.router.layer.weight",
        "model.layers.0.block_sparse_moe.input_linear.weight",
        "model.layers.0.block_sparse_moe.output_linear.weight",
    ],
    "bamba": ["model.layers.0.feed_forward.gate_proj.weight", "model.final_layernorm.weight"],
    "nemotron_h": ["backbone.embeddings.weight", "backbone.layers.0.norm.weight", "backbone.norm_f.weight"],
    "nemotron_h-moe": [
        "backbone.layers.1.mixer.gate.e_score_correction_bias",
        "backbone.layers.1.mixer.experts.7.up_proj.weight",
        "backbone.layers.1.mixer.experts.7.down_proj.weight",
        "backbone.layers.1.mixer.shared_experts.up_proj.weight",
    ],
    "falcon_h1": ["model.layers.0.mamba.in_proj.weight", "model.layers.0.self_attn.q_proj.weight"],
    "llama": ["model.layers.0.self_attn.q_proj.weight"],
    "mistral": ["model.layers.0.self_attn.q_proj.weight"],
    "qwen2": ["model.layers.0.self_attn.q_proj.bias"],
    "qwen3": ["model.layers.0.self_attn.q_norm.weight"],
    "qwen3_moe": [f"model.layers.1.mlp.experts.5.{part}_proj.weight" for part in ("gate", "up", "down")],
    "mixtral": [
        "model.layers.0.block_sparse_moe.gate.weight",
        *(f"model.layers.0.block_sparse_moe.experts.4.w{part}.weight" for part in (1, 2, 3)),
    ],
    "deepseek_v2": [
        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
        "model.layers.1.mlp.shared_experts.gate_proj.weight",
        "model.layers.1.mlp.experts.4.gate_proj.weight",
    ],
    "deepseek_v3": [
        "model.layers.1.mlp.gate.e_score_correction_bias",
        "model.layers.1.mlp.experts.7.down_proj.weight",
    ],
}

# ------------------------------------------------------------------------------------------------- making a model


def published_config(fixture: Fixture) -> dict:
    dtype = str(fixture.dtype).removeprefix("torch.")
    own = dict(model_type=fixture.family, vocab_size=VOCAB, torch_dtype=dtype)
    return own | PUBLISHED[fixture.family] | fixture.config


def model_config(published: dict):
    return CONFIG_MAPPING[published["model_type"]].from_dict(copy.deepcopy(published))


def empty_model(published: dict) -> torch.nn.Module:
    config = model_config(published)
    config.dtype = torch.float32
    return AutoModelForCausalLM.from_config(config, **EAGER).eval()


def default_value(name: str, x: torch.Tensor) -> torch.Tensor | None:
    """What a parameter is when a model is made, if that is a constant."""
    if name.endswith("A_log"):
        return torch.arange(1, len(x) + 1).log().to(x.dtype)
    if name.endswith((".D", "dt_bias")) or (name.endswith("weight") and x.dim() == 1):
        return torch.ones_like(x)
    if name.endswith("bias"):
        return torch.zeros_like(x)
    return None


def random_value(fixture: Fixture, name: str, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Away from every default; norms have signs too, or a tied model would repeat its last token."""
    normal = lambda: torch.randn(x.shape, generator=generator)
    uniform = lambda low, high: low + (high - low) * torch.rand(x.shape, generator=generator)
    if name.endswith("A_log"):
        return uniform(0.05, 2.0).log()
    if name.endswith("dt_bias"):
        return torch.linspace(*fixture.dt_bias, len(x))[torch.randperm(len(x), generator=generator)]
    if name.endswith(".D"):
        return 0.5 + 0.7 * normal()
    if name.endswith("e_score_correction_bias"):
        return 0.2 * normal()
    gain = math.prod(by for pattern, by in fixture.gains.items() if re.search(pattern, name))
    if name.endswith("bias"):
        return 0.4 * gain * normal()
    if x.dim() == 1:
        return uniform(0.5, 1.6) * normal().sign()
    if "embed" in name:
        return gain * normal()
    if re.search(r"\.(gate|router)\.weight|[qk](_b)?_proj", name):
        gain *= 1.5
    return 1.2 * gain * normal() / math.sqrt(x.shape[-1] if "conv1d" not in name else 4)


def random_model(fixture: Fixture) -> torch.nn.Module:
    model = empty_model(published_config(fixture))
    generator = torch.Generator().manual_seed(zlib.crc32(fixture.name.encode()))
    tensors = model.state_dict()
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    with torch.no_grad():
        for name, x in sorted(tensors.items()):
            x.copy_(random_value(fixture, name, x, generator))
        calibrate(model, generator)
        for name, x in tensors.items():
            x.copy_(x.to(stored_dtype(fixture, name)))
    return model


def calibrate(model: torch.nn.Module, generator: torch.Generator):
    """Scales the output (with tied weights the input too, so in several steps) to the wanted spread of logits."""
    prompt = torch.randint(VOCAB, (1, 100), generator=generator)
    for _ in range(4):
        model.get_output_embeddings().weight.mul_(LOGITS_STD / model(prompt, use_cache=False).logits.std())


def stored_dtype(fixture: Fixture, name: str) -> torch.dtype:
    """Published files keep this one bias in f32."""
    return torch.float32 if name.endswith("e_score_correction_bias") else fixture.dtype


# ------------------------------------------------------------------------------------------------ writing a folder


def write_config(fixture: Fixture, folder: Path):
    published = published_config(fixture)
    if fixture.new_config:
        model_config(published).save_pretrained(folder)
    else:
        (folder / "config.json").write_text(json.dumps(published, indent=2, sort_keys=True) + "\n")


def write_tensors(fixture: Fixture, model: torch.nn.Module, folder: Path) -> set[str]:
    """Returns the names of those that must be skipped."""
    tensors = model.state_dict()
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    if not fixture.stacked:
        tensors = revert_weight_conversion(model, tensors)
        for name in PUBLISHED_NAMES.get(fixture.name, []) + PUBLISHED_NAMES[fixture.family]:
            assert name in tensors, f"{name} is not among {sorted(tensors)}"
    extras = fixture.extras(published_config(fixture), tensors) if fixture.extras else {}
    assert not extras.keys() & tensors.keys()
    tensors |= extras
    tensors = {name: tensors[name].to(stored_dtype(fixture, name)).contiguous() for name in sorted(tensors)}
    write_shards(tensors, fixture.shards, folder)
    return set(extras)


def write_shards(tensors: dict, count: int, folder: Path):
    if count == 1:
        save(tensors, folder / "model.safetensors")
        return
    size = lambda x: x.numel() * x.element_size()
    total, before, shards = sum(map(size, tensors.values())), 0, [{} for _ in range(count)]
    for name, x in tensors.items():
        shards[before * count // total][name] = x
        before += size(x)
    files = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    for file, shard in zip(files, shards, strict=True):
        save(shard, folder / file)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: file for file, shard in zip(files, shards, strict=True) for name in shard},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def save(tensors: dict, file: Path):
    save_file(tensors, file, {"format": "pt"})
    file.chmod(0o644)


def all_tensors(model: torch.nn.Module):
    """Those that are computed too."""
    return itertools.chain(model.named_parameters(), model.named_buffers())


def load(folder: Path, made: torch.nn.Module, extras: set[str]) -> torch.nn.Module:
    """The model as transformers understands the folder, which must be the one that was made."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **EAGER)
    assert not info["missing_keys"] and not info["mismatched_keys"] and not info["error_msgs"], info
    # Experts of a layer to be skipped are reported under their stacked names.
    stacked = lambda names: {re.sub(r"\.experts\..*", ".experts", name) for name in names}
    assert stacked(info["unexpected_keys"]) <= stacked(extras), info
    for (name, x), (made_name, made_x) in zip(all_tensors(model), all_tensors(made), strict=True):
        assert name == made_name and torch.equal(x, made_x), f"{name} was not loaded as it was made"
    return model.eval()


# --------------------------------------------------------------------------------------------------------- answers


@contextlib.contextmanager
def patched(*patches: tuple):
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def float64():
    """Where the families' code casts to float32, it casts to float64 within this."""
    double = torch.float64
    return patched((torch, "float32", double), (torch, "float", double), (torch.Tensor, "float", torch.Tensor.double))


@contextlib.contextmanager
def expert_margins():
    """Gives a list that gets, for each choice of experts or groups, how far the last one taken is from the next: all of
    them are calls to topk."""
    margins, topk = [], torch.topk

    def watched(x, k, *args, **kwargs):
        if k < x.shape[-1]:
            best = topk(x, k + 1, dim=-1).values
            margins.append((best[..., k - 1] - best[..., k]).min().item())
        return topk(x, k, *args, **kwargs)

    with patched((torch, "topk", watched), (torch.Tensor, "topk", watched)):
        yield margins


@torch.no_grad()
def log_probs(model: torch.nn.Module, tokens: list[int]) -> torch.Tensor:
    """In the precision of the model."""
    with float64() if next(model.parameters()).dtype == torch.float64 else contextlib.nullcontext():
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    assert logits.isfinite().all()
    return logits.double().log_softmax(-1)


def greedy(model: torch.nn.Module, prompt: list[int]) -> list[int] | None:
    """None where a token is too close to another or the continuation is monotonous."""
    tokens = list(prompt)
    for _ in range(NEW_TOKENS):
        best = log_probs(model, tokens)[-1].topk(2)
        if best.values[0] - best.values[1] < GREEDY_MARGIN:
            return None
        tokens.append(best.indices[0].item())
    new = tokens[len(prompt):]
    return new if len(set(new)) >= DISTINCT else None


def make_case(fixture: Fixture, model: torch.nn.Module, length: int) -> dict:
    """The first of a series of random prompts that has no ties."""
    for attempt in itertools.count():
        assert attempt < 300, f"no prompt of {length} tokens without ties"
        seed = zlib.crc32(f"{fixture.name} {length} {attempt}".encode())
        prompt = torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
        with expert_margins() as margins:
            rows = log_probs(model, prompt)
            if min(margins, default=1) < ROUTER_MARGIN:
                continue
            new = greedy(model, prompt)
        if new is None or min(margins, default=1) < ROUTER_MARGIN:
            continue
        of_tokens = [rows[i, token].item() for i, token in enumerate(prompt[1:])]
        return {
            "prompt": prompt,
            "token_logprobs": [None] + [round(x, 7) for x in of_tokens],
            "last_logprobs": [round(x, 7) for x in rows[-1].tolist()],
            "greedy": new,
        }


# ----------------------------------------------------------------------------------------------- which terms matter


def kind(name: str) -> str:
    """A parameter's name without its layer's number."""
    return re.sub(r"^.*\.layers\.\d+\.|^model\.|^backbone\.", "", name)


def without_parameters(model: torch.nn.Module, change: Callable) -> dict[str, float]:
    """For each kind of parameter the least that one of them moves."""
    moved: dict[str, float] = {}
    for name, x in model.state_dict().items():
        default = default_value(name, x)
        if default is not None:
            kept = x.clone()
            x.copy_(default)
            moved[kind(name)] = min(moved.get(kind(name), math.inf), change(model))
            x.copy_(kept)
    return moved


def replaced(config: dict, path: str, value) -> dict:
    """`path` is a key, or keys and list indices with dots between."""
    config = copy.deepcopy(config)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    inner = config
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return config


def with_config(fixture: Fixture, model: torch.nn.Module, key: str, value) -> torch.nn.Module:
    published = published_config(fixture)
    first = key.split(".")[0]
    assert first in published or hasattr(model.config, first), f"no {key} to change"
    other = empty_model(replaced(published, key, value))
    other.load_state_dict(model.state_dict())
    return other.double()


def with_attribute(model: torch.nn.Module, pattern: str, attribute: str, value) -> torch.nn.Module:
    model = copy.deepcopy(model)
    modules = [module for name, module in model.named_modules() if re.search(pattern + "$", name)]
    assert modules, f"no module is a {pattern}"
    for module in modules:
        assert getattr(module, attribute) != value
        setattr(module, attribute, value)
    return model


def terms(fixture: Fixture, model: torch.nn.Module, prompt: list[int]) -> dict[str, float]:
    """How far each term left out moves any log-probability."""
    truth = log_probs(model, prompt)
    change = lambda model: (log_probs(model, prompt) - truth).abs().max().item()
    for key, value in fixture.ignored:
        moved = change(with_config(fixture, model, key, value))
        assert moved < 1e-9, f"{key}={value} is not ignored: {moved}"
    moved = without_parameters(model, change)
    for key, value in fixture.moves:
        moved[f"{key}={value}"] = change(with_config(fixture, model, key, value))
    for pattern, attribute, value in fixture.attributes:
        name = pattern.replace("\\", "")
        moved[f"{name}.{attribute}={value}"] = change(with_attribute(model, pattern, attribute, value))
    return moved


# ------------------------------------------------------------------------------------------------------------- main


def make(fixture: Fixture):
    folder = HERE / fixture.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    made = random_model(fixture)
    write_config(fixture, folder)
    extras = write_tensors(fixture, made, folder)
    single = load(folder, made, extras)
    model = copy.deepcopy(single).double()

    cases = [make_case(fixture, model, length) for length in LENGTHS]
    (folder / "expected.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")

    longest = cases[-1]["prompt"]
    rows = log_probs(model, longest)
    entropy = -(rows.exp() * rows).sum(-1).mean().item()
    error = (log_probs(single, longest) - rows).abs().max().item()
    moved = terms(fixture, model, longest)
    report(fixture, folder, entropy, error, moved)
    assert ENTROPY[0] < entropy < ENTROPY[1], "too flat or too sharp"
    assert error < AGREEMENT, "float32 is off"
    small = [name for name, by in moved.items() if not by > MOVES]
    assert not small, f"nothing shows whether these are right: {small}"


def report(fixture: Fixture, folder: Path, entropy: float, error: float, moved: dict[str, float]):
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    dtype = str(fixture.dtype).removeprefix("torch.")
    print(f"{fixture.name}: {size} bytes, {dtype}, entropy {entropy:.2f}, float32 off by {error:.0e}; without:")
    print(textwrap.fill(", ".join(f"{name} {by:.2g}" for name, by in moved.items()), 118, initial_indent="    ",
                        subsequent_indent="    ", break_long_words=False, break_on_hyphens=False), flush=True)


def main():
    names = sys.argv[1:] or [fixture.name for fixture in FIXTURES]
    known = {fixture.name: fixture for fixture in FIXTURES}
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"no such fixture: {', '.join(unknown)}; there are {', '.join(known)}")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for name in names:
        make(known[name])


if __name__ == "__main__":
    main()
