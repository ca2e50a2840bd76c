"""Compares model.py in float32 with the NumPy reference of the checkpoint format on a small random model.

    python check_reference.py [REFERENCE.py]
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from model import Config, Nano, load_config

DEFAULT_REFERENCE = Path(__file__).resolve().parents[3] / "tests/reference/hybrid_reference.py"
LENGTHS = (5, 70, 300)
TOLERANCE = 2e-4
SMALL = dict(
    hidden_size=64, vocab_size=300, max_seq_len=512, layer_types=["Mamba2", "MlaWithMoe", "StandardTransformer", "Mamba2"],
    num_layers=4, mamba2_num_heads=8, mamba2_head_dim=16, mamba2_state_size=16, mamba2_chunk_size=32,
    mamba2_n_groups=2, num_attention_heads=4, head_dim=16, num_kv_heads=2, kv_latent_dim=32, q_latent_dim=24, d_rope=8,
)


def import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def randomize(model: Nano) -> None:
    """Every parameter away from its default, so that none can be ignored unseen."""
    for name, parameter in model.named_parameters():
        if name.endswith("dt_bias"):
            parameter.data.normal_(-3, 1)
        elif name.endswith("A_log"):
            parameter.data.uniform_(0, 2.7)
        elif name == "embed_tokens.weight":
            parameter.data.normal_(0, 0.2)
        elif parameter.dim() == 2:
            parameter.data.normal_(0, parameter.shape[1] ** -0.5)
        else:
            parameter.data.uniform_(0.5, 1.5).mul_(torch.randn_like(parameter).sign())


def largest_difference(model: Nano, reference: ModuleType, cfg: Config, length: int) -> float:
    ids = torch.randint(cfg["vocab_size"], (length,))
    weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    expected = reference.log_softmax(reference.forward(cfg, weights, ids.numpy()))
    with torch.no_grad():
        logits, _ = model(ids[None])
    return float(np.abs(logits[0].log_softmax(-1).double().numpy() - expected).max())


def main() -> None:
    reference = import_file(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_REFERENCE)
    torch.manual_seed(1)
    nano = load_config()
    for title, cfg, sizes in (("small", {**nano, **SMALL}, (48, 80)), ("nano", nano, ())):
        model = Nano(cfg, *sizes)
        randomize(model)
        for length in LENGTHS:
            difference = largest_difference(model, reference, cfg, length)
            print(f"{title}, length {length}: largest log-probability difference {difference:.2e}")
            assert difference < TOLERANCE


if __name__ == "__main__":
    main()
