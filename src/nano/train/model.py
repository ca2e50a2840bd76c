"""nano: a small hybrid language model (Mamba2, MLA with MoE, grouped-query attention) for training.

The parameters carry the tensor names of the native hybrid checkpoint format, so `state_dict()` is the
checkpoint. Mamba2 is computed in its chunked state-space-dual form (arXiv 2405.21060), multi-head latent
attention with its keys and values expanded (arXiv 2405.04434).

Shapes: B rows, T tokens, D hidden, H heads, P Mamba2 head dim, N state size, L chunk length, E experts.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Config = dict[str, Any]

MAMBA2_EPS = 1e-6  # of both norms in a Mamba2 layer; every other norm uses rms_norm_eps
# Widths that the checkpoint's tensors say by themselves. `intermediate_size` must hold for every layer of a
# checkpoint, so a model with two widths leaves it out of config.json.
MOE_INTERMEDIATE = 160
MLP_INTERMEDIATE = 384
QUERY_BLOCK = 256  # queries that attend together; bounds the memory of the scores


def load_config(path: Path | None = None) -> Config:
    """The configuration at `path`, by default that of the embedded model."""
    return json.loads((path or Path(__file__).parents[1] / "model/config.json").read_text())


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def joint_linear(x: Tensor, weights: list[Tensor], scale: Tensor | float = 1.0) -> tuple[Tensor, ...]:
    """Several linear maps of the same x * scale as one matrix product; the scale goes into the weights."""
    return F.linear(x, torch.cat(weights) * scale).split([w.shape[0] for w in weights], -1)


class RMSNorm(nn.Module):
    """RMSNorm without its weight: that scales the columns of the linear map behind it (its gradient then is
    a sum over a small matrix instead of one over all tokens), so whoever takes the output applies it there."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, None, self.eps)


@torch.library.custom_op("nano::settled", mutates_args=())
def settled(x: Tensor) -> Tensor:
    """A contiguous copy, of the gradient too, that the compiler cannot look through. Where the layout changes
    between two elementwise kernels it would otherwise fuse them into one that it cannot vectorise."""
    return x.clone(memory_format=torch.contiguous_format)


@settled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


settled.register_autograd(lambda _, grad: settled(grad))


# --------------------------------------------------------------------------- Mamba2


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depthwise causal convolution. x [B, T, channels], weight [channels, 1, kernel] -> [B, T, channels]."""
    kernel, length = weight.shape[-1], x.shape[1]
    taps = settled(weight[:, 0].t())
    padded = F.pad(x, (0, 0, kernel - 1, 0))
    return sum(padded[:, j : j + length] * taps[j] for j in range(kernel)) + bias


def ssd(u: Tensor, log_decay: Tensor, b: Tensor, c: Tensor, chunk: int) -> Tensor:
    """State-space duality: S_t = exp(log_decay_t) S_{t-1} + u_t (x) b_t, y_t = S_t c_t, chunk by chunk.

    u [B, T, H, P], log_decay [B, T, H] in float32, b and c [B, T, G, N] -> y [B, T, H, P].
    """
    rows, length, heads, dim = u.shape
    groups, state = b.shape[2:]
    share = heads // groups
    chunks = length // chunk
    u = u.view(rows, chunks, chunk, groups, share, dim).permute(0, 1, 3, 4, 2, 5)  # [B, C, G, H/G, L, P]
    b = b.view(rows, chunks, chunk, groups, state).transpose(2, 3)  # [B, C, G, L, N]
    c = c.view(rows, chunks, chunk, groups, state).transpose(2, 3)
    log_decay = log_decay.view(rows, chunks, chunk, groups, share).permute(0, 1, 3, 4, 2)
    total = log_decay.contiguous().cumsum(-1)  # [B, C, G, H/G, L]

    # Within a chunk: y_i = sum over j <= i of (c_i . b_j) exp(total_i - total_j) u_j.
    causal = torch.ones(chunk, chunk, dtype=torch.bool, device=u.device).tril()
    decay = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(~causal, -torch.inf).exp()
    scores = (c @ b.transpose(-1, -2)).unsqueeze(3)  # [B, C, G, 1, L, L]
    within = (scores * decay).to(u.dtype) @ u

    # What a chunk adds to the state, and the state that each chunk starts from.
    to_end = (total[..., -1:] - total).exp()
    weighted = (u * to_end.unsqueeze(-1)).to(u.dtype).transpose(3, 4).flatten(4)  # [B, C, G, L, H/G P]
    added = b.transpose(-1, -2) @ weighted  # [B, C, G, N, H/G P]
    start = chunk_starts(added.unflatten(-1, (share, dim)), total[..., -1])

    # Across chunks: y_i += exp(total_i) S_start c_i.
    across = (c @ start.to(c.dtype).flatten(4)).unflatten(-1, (share, dim))  # [B, C, G, L, H/G, P]
    y = within + across.transpose(3, 4) * total.exp().unsqueeze(-1)
    return y.permute(0, 1, 4, 2, 3, 5).reshape(rows, length, heads, dim)


def chunk_starts(added: Tensor, log_decay: Tensor) -> Tensor:
    """The state before each chunk, from what each chunk adds and how much each lets through, in float32.

    added [B, C, G, N, H/G, P], log_decay [B, C, G, H/G] -> like added.
    """
    state = torch.zeros_like(added[:, 0], dtype=torch.float32)
    starts = [state]
    for index in range(added.shape[1] - 1):
        state = state * log_decay[:, index].exp()[:, :, None, :, None] + added[:, index]
        starts.append(state)
    return torch.stack(starts, 1)


class Mamba2Mixer(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.heads, self.dim = cfg["mamba2_num_heads"], cfg["mamba2_head_dim"]
        self.state, self.groups = cfg["mamba2_state_size"], cfg["mamba2_n_groups"]
        self.chunk, self.dt_limit = cfg["mamba2_chunk_size"], cfg["mamba2_dt_limit"]
        self.inner = self.heads * self.dim
        conv = self.inner + 2 * self.groups * self.state
        kernel = cfg["mamba2_conv_kernel"]
        self.in_proj = linear(cfg["hidden_size"], self.inner + conv + self.heads)
        self.conv1d = nn.Conv1d(conv, conv, kernel, groups=conv)
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = RMSNorm(self.inner, MAMBA2_EPS)
        self.out_proj = linear(self.inner, cfg["hidden_size"])

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """x * scale [B, T, D] -> [B, T, D]; T is a multiple of the chunk length."""
        z, xbc, dt = joint_linear(x, [self.in_proj.weight], scale)[0].split(
            [self.inner, self.conv1d.out_channels, self.heads], -1
        )
        xbc = settled(F.silu(causal_conv(xbc, self.conv1d.weight, self.conv1d.bias)).to(z.dtype))
        bc = self.groups * self.state
        u, b, c = xbc.split([self.inner, bc, bc], -1)
        u = u.unflatten(-1, (self.heads, self.dim))
        b, c = (m.unflatten(-1, (self.groups, self.state)) for m in (b, c))
        dt = F.softplus(dt.float() + self.dt_bias).clamp(*self.dt_limit)
        y = ssd((u * dt.unsqueeze(-1)).to(u.dtype), -self.A_log.exp() * dt, b, c, self.chunk)
        y = settled((y + self.D[:, None] * u).to(u.dtype))
        return F.linear(self.gated_norm(y.flatten(2), z), self.out_proj.weight * self.norm.weight)

    def gated_norm(self, y: Tensor, z: Tensor) -> Tensor:
        """RMSNorm(y SiLU(z)) over each group, without the weight. [B, T, inner] -> [B, T, inner]."""
        gated = (y * F.silu(z.float())).unflatten(-1, (self.groups, -1))
        return F.rms_norm(gated, gated.shape[-1:], None, MAMBA2_EPS).flatten(2)


class Mamba2(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.norm = RMSNorm(cfg["hidden_size"], MAMBA2_EPS)
        self.mixer = Mamba2Mixer(cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.mixer(self.norm(x), self.norm.weight)


class Mamba2Layer(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.mamba2 = Mamba2(cfg)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + self.mamba2(x), x.new_zeros(())


# --------------------------------------------------------------------------- attention


class Rope(nn.Module):
    """Rotate-half rotary embedding: element j pairs with j + d/2."""

    def __init__(self, dim: int, length: int, theta: float):
        super().__init__()
        half = dim // 2
        freq = theta ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(length, dtype=torch.float64)[:, None] * freq
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, H, d] -> [B, T, H, d]."""
        length = x.shape[1]
        cos, sin = self.cos[:length, None], self.sin[:length, None]
        a, b = x.float().chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, T, H, d], k [B, T, H, d], v [B, T, H, e] -> [B, T, H e], by blocks of queries."""
    q, k, v = (m.transpose(1, 2) for m in (q * q.shape[-1] ** -0.5, k, v))
    length = q.shape[2]
    blocks = []
    for begin in range(0, length, QUERY_BLOCK):
        end = min(begin + QUERY_BLOCK, length)
        scores = q[:, :, begin:end] @ k[:, :, :end].transpose(-1, -2)
        later = torch.arange(begin, end, device=q.device)[:, None] < torch.arange(end, device=q.device)
        shares = scores.float().masked_fill(later, -torch.inf).softmax(-1)
        blocks.append(shares.to(v.dtype) @ v[:, :, :end])
    return torch.cat(blocks, 2).transpose(1, 2).flatten(2)


class LatentAttention(nn.Module):
    """Multi-head latent attention with decoupled RoPE."""

    def __init__(self, cfg: Config):
        super().__init__()
        hidden, self.heads, self.d_rope = cfg["hidden_size"], cfg["num_attention_heads"], cfg["d_rope"]
        self.w_dkv = linear(hidden, cfg["kv_latent_dim"])
        self.w_dq = linear(hidden, cfg["q_latent_dim"])
        self.w_uq = linear(cfg["q_latent_dim"], hidden)
        self.w_uk = linear(cfg["kv_latent_dim"], hidden)
        self.w_uv = linear(cfg["kv_latent_dim"], hidden)
        self.w_qr = linear(hidden, self.heads * self.d_rope)
        self.w_kr = linear(hidden, self.d_rope)
        self.o_proj = linear(hidden, hidden)
        self.rope = Rope(self.d_rope, cfg["max_seq_len"], cfg["rope_theta"])

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """x * scale [B, T, D] -> [B, T, D]."""
        c_kv, c_q, q_rope, k_rope = joint_linear(
            x, [m.weight for m in (self.w_dkv, self.w_dq, self.w_qr, self.w_kr)], scale
        )
        k, v = (m.unflatten(-1, (self.heads, -1)) for m in joint_linear(c_kv, [self.w_uk.weight, self.w_uv.weight]))
        q = self.w_uq(c_q).unflatten(-1, (self.heads, -1))
        q_rope = self.rope(q_rope.unflatten(-1, (self.heads, self.d_rope)))
        k_rope = self.rope(k_rope.unsqueeze(2)).expand(-1, -1, self.heads, -1)
        return self.o_proj(causal_attention(torch.cat([q, q_rope], -1), torch.cat([k, k_rope], -1), v))


class GroupedQueryAttention(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        hidden, self.dim = cfg["hidden_size"], cfg["head_dim"]
        self.heads, self.kv_heads = cfg["num_attention_heads"], cfg["num_kv_heads"]
        self.q_proj = linear(hidden, self.heads * self.dim)
        self.k_proj = linear(hidden, self.kv_heads * self.dim)
        self.v_proj = linear(hidden, self.kv_heads * self.dim)
        self.o_proj = linear(self.heads * self.dim, hidden)
        self.rope = Rope(self.dim, cfg["max_seq_len"], cfg["rope_theta"])

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """x * scale [B, T, D] -> [B, T, D]."""
        parts = joint_linear(x, [m.weight for m in (self.q_proj, self.k_proj, self.v_proj)], scale)
        q, k, v = (m.unflatten(-1, (-1, self.dim)) for m in parts)
        share = self.heads // self.kv_heads
        k, v = (m.repeat_interleave(share, 2) for m in (self.rope(k), v))
        return self.o_proj(causal_attention(self.rope(q), k, v))


# --------------------------------------------------------------------------- feed-forward


class SwiGLU(nn.Module):
    def __init__(self, hidden: int, size: int):
        super().__init__()
        self.gate_proj, self.up_proj = linear(hidden, size), linear(hidden, size)
        self.down_proj = linear(size, hidden)

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """x * scale [B, T, D] -> [B, T, D] and no auxiliary loss."""
        gate, up = joint_linear(x, [self.gate_proj.weight, self.up_proj.weight], scale)
        return self.down_proj(F.silu(gate) * up), x.new_zeros((), dtype=torch.float32)


class Router(nn.Module):
    def __init__(self, hidden: int, experts: int, chosen: int):
        super().__init__()
        self.gate = linear(hidden, experts)
        self.chosen = chosen

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """x * scale [B, T, D] -> each expert's share [B, T, E] (0: not chosen) and the load-balancing loss."""
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.float(), self.gate.weight * scale)
        experts = logits.shape[-1]
        mine, other = logits.unsqueeze(-1), logits.unsqueeze(-2)
        earlier = torch.ones(experts, experts, dtype=torch.bool, device=x.device).tril(-1)
        rank = ((other > mine) | ((other == mine) & earlier)).sum(-1)
        selected = rank < self.chosen
        shares = logits.masked_fill(~selected, -torch.inf).softmax(-1)
        load = selected.float().mean((0, 1)) / self.chosen
        return shares, experts * (load * logits.softmax(-1).mean((0, 1))).sum()


class MoE(nn.Module):
    """Top-k experts and a shared one, computed as one wide SwiGLU whose blocks are scaled by their shares."""

    def __init__(self, cfg: Config, size: int):
        super().__init__()
        hidden = cfg["hidden_size"]
        self.router = Router(hidden, cfg["num_experts"], cfg["experts_per_tok"])
        self.experts = nn.ModuleList(SwiGLU(hidden, size) for _ in range(cfg["num_experts"]))
        self.shared_expert = SwiGLU(hidden, size) if cfg.get("shared_expert_enabled") else None

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """x * scale [B, T, D] -> [B, T, D] and the load-balancing loss."""
        shares, balance = self.router(x, scale)
        experts = list(self.experts)
        if self.shared_expert is not None:
            experts.append(self.shared_expert)
            shares = F.pad(shares, (0, 1), value=1.0)
        gates, ups = [e.gate_proj.weight for e in experts], [e.up_proj.weight for e in experts]
        gate, up = joint_linear(x, [torch.cat(gates), torch.cat(ups)], scale)
        mid = (F.silu(gate) * up).unflatten(-1, (len(experts), -1)) * shares.unsqueeze(-1)
        return F.linear(mid.flatten(2), torch.cat([e.down_proj.weight for e in experts], 1)), balance


class AttentionLayer(nn.Module):
    def __init__(self, cfg: Config, kind: str, moe_size: int, mlp_size: int):
        super().__init__()
        hidden, eps = cfg["hidden_size"], cfg["rms_norm_eps"]
        self.input_layernorm = RMSNorm(hidden, eps)
        self.post_attention_layernorm = RMSNorm(hidden, eps)
        self.self_attn = LatentAttention(cfg) if kind.startswith("Mla") else GroupedQueryAttention(cfg)
        self.ffn_name = "moe" if kind.endswith("Moe") else "mlp"
        self.add_module(self.ffn_name, MoE(cfg, moe_size) if self.ffn_name == "moe" else SwiGLU(hidden, mlp_size))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before, after = self.input_layernorm, self.post_attention_layernorm
        x = x + self.self_attn(before(x), before.weight)
        y, balance = getattr(self, self.ffn_name)(after(x), after.weight)
        return x + y, balance


# --------------------------------------------------------------------------- the model


class Nano(nn.Module):
    def __init__(self, cfg: Config, moe_size: int = MOE_INTERMEDIATE, mlp_size: int = MLP_INTERMEDIATE):
        super().__init__()
        self.cfg = cfg
        self.embed_tokens = nn.Embedding(cfg["vocab_size"], cfg["hidden_size"])
        self.layers = nn.ModuleList(
            Mamba2Layer(cfg) if kind == "Mamba2" else AttentionLayer(cfg, kind, moe_size, mlp_size)
            for kind in cfg["layer_types"]
        )
        self.norm = RMSNorm(cfg["hidden_size"], cfg["rms_norm_eps"])
        self.apply(self.reset)

    def reset(self, module: nn.Module) -> None:
        """Initial values: normal(0.02), the maps back into the residual stream scaled down by their number."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, Mamba2Mixer):
            module.dt_bias.data = inverse_softplus(log_uniform(module.heads, 0.001, 0.1))
            module.A_log.data = torch.empty(module.heads).uniform_(1, 16).log()
        residual = 0.02 / math.sqrt(2 * len(self.layers))
        for name in ("out_proj", "o_proj", "down_proj"):
            if hasattr(module, name):
                nn.init.normal_(getattr(module, name).weight, std=residual)

    def hidden(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids [B, T] -> final hidden states [B, T, D], normalised but for the weight, and the MoEs' mean load-balancing
        loss."""
        x = self.embed_tokens(ids)
        balances = []
        for layer in self.layers:
            x, balance = layer(x)
            balances.append(balance)
        moes = sum(kind.endswith("Moe") for kind in self.cfg["layer_types"])
        return self.norm(x), torch.stack(balances).sum() / max(moes, 1)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids [B, T] -> logits [B, T, vocab] and the load-balancing loss. Any T: later tokens change nothing."""
        length = ids.shape[1]
        x, balance = self.hidden(F.pad(ids, (0, -length % self.cfg["mamba2_chunk_size"])))
        return F.linear(x[:, :length], self.embed_tokens.weight * self.norm.weight), balance

    def loss(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids [B, T + 1] -> mean next-token cross entropy and the load-balancing loss."""
        logits, balance = self(ids[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten()), balance


def log_uniform(count: int, low: float, high: float) -> Tensor:
    return torch.empty(count).uniform_(math.log(low), math.log(high)).exp()


def inverse_softplus(x: Tensor) -> Tensor:
    return x + torch.log(-torch.expm1(-x))
