//! nano: a small model that is part of the program, so that blazr runs without a checkpoint. Its files are those of any
//! other checkpoint, and `model/` is one.

use crate::files::Embedded;

/// The name under which it is served.
pub const ID: &str = "nano";

/// Its files.
pub static MODEL: Embedded = Embedded {
    id: ID,
    files: &[
        ("model.safetensors", include_bytes!("model/model.safetensors")),
        ("config.json", include_bytes!("model/config.json")),
        ("generation_config.json", include_bytes!("model/generation_config.json")),
        ("tokenizer.json", include_bytes!("model/tokenizer.json")),
        ("tokenizer_config.json", include_bytes!("model/tokenizer_config.json")),
    ],
};
