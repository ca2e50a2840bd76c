//! What the names and shapes of tensors say about a model in the native format.

use std::collections::BTreeMap;
use std::path::Path;

use super::tensors::Tensors;
use crate::error::{Error, Result};

/// A number that a tensor's shape shows.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The number.
    pub value: usize,
    /// Which tensor shows it, for error messages.
    pub by: String,
}

/// What mixes tokens in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MixerKind {
    /// A state-space layer.
    Mamba2,
    /// Latent attention.
    Mla,
    /// Grouped-query attention.
    Gqa,
}

/// What works on each token alone in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FfnKind {
    /// Nothing.
    None,
    /// A SwiGLU layer.
    Mlp,
    /// A mixture of experts.
    Moe,
}

/// The kind of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// What mixes tokens.
    pub mixer: MixerKind,
    /// What works on each token alone.
    pub ffn: FfnKind,
}

/// The kinds by their names in `layer_types`.
const KINDS: [(&str, Kind); 5] = [
    ("Mamba2", Kind { mixer: MixerKind::Mamba2, ffn: FfnKind::None }),
    ("MlaWithMoe", Kind { mixer: MixerKind::Mla, ffn: FfnKind::Moe }),
    ("MlaWithMlp", Kind { mixer: MixerKind::Mla, ffn: FfnKind::Mlp }),
    ("StandardTransformer", Kind { mixer: MixerKind::Gqa, ffn: FfnKind::Mlp }),
    ("TransformerWithMoe", Kind { mixer: MixerKind::Gqa, ffn: FfnKind::Moe }),
];

/// The beginnings of names within a layer that only one mixer has.
const MIXER_SIGNS: [(&str, MixerKind); 5] = [
    ("mamba2.", MixerKind::Mamba2),
    ("self_attn.w_", MixerKind::Mla),
    ("self_attn.q_proj.", MixerKind::Gqa),
    ("self_attn.k_proj.", MixerKind::Gqa),
    ("self_attn.v_proj.", MixerKind::Gqa),
];

/// The beginnings of names within a layer that only one feed-forward part has.
const FFN_SIGNS: [(&str, FfnKind); 2] = [("mlp.", FfnKind::Mlp), ("moe.", FfnKind::Moe)];

impl Kind {
    /// The kind of that name in `layer_types`.
    pub fn named(name: &str) -> Option<Self> {
        KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// The name in `layer_types`.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("unknown", |(name, _)| name)
    }

    /// All names, for error messages.
    pub fn names() -> String {
        KINDS.map(|(name, _)| name).join(", ")
    }
}

/// The tensors' testimony.
#[derive(Debug)]
pub struct Evidence<'a> {
    tensors: &'a Tensors,
    /// The names within each layer.
    layers: BTreeMap<usize, Vec<&'a str>>,
}

impl<'a> Evidence<'a> {
    /// Sorts the tensors by layer.
    pub fn new(tensors: &'a Tensors) -> Self {
        let mut layers: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for name in tensors.names() {
            let within = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
            if let Some((index, rest)) = within
                && let Ok(index) = index.parse()
            {
                layers.entry(index).or_default().push(rest);
            }
        }
        Self { tensors, layers }
    }

    /// The size of a tensor's dimension.
    ///
    /// # Errors
    /// There is no such tensor, or it has fewer dimensions.
    pub fn dim(&self, name: &str, axis: usize) -> Result<Shown> {
        let missing = || self.error(format!("tensor {name} is missing"));
        let shape = self.tensors.shape(name).ok_or_else(missing)?;
        let by = format!("{name} has shape {shape:?}");
        let value = *shape.get(axis).ok_or_else(|| self.error(format!("too few dimensions: {by}")))?;
        Ok(Shown { value, by })
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.shape(name).is_some()
    }

    /// Whether any tensor's name contains `part`.
    pub fn any(&self, part: &str) -> bool {
        self.tensors.names().any(|name| name.contains(part))
    }

    /// The kind of every layer.
    ///
    /// # Errors
    /// There are no layers, an index is left out, or a layer's tensors show no known kind.
    pub fn kinds(&self) -> Result<Vec<Kind>> {
        let Some(last) = self.layers.keys().next_back().copied() else {
            return Err(self.error("no tensor is named layers.N.…: this is no checkpoint in the native format".into()));
        };
        if let Some((hole, _)) = (0..).zip(self.layers.keys()).find(|(expected, found)| expected != *found) {
            return Err(self.error(format!("layer {hole} has no tensors, though layer {last} has")));
        }
        self.layers.iter().map(|(index, names)| self.kind(*index, names)).collect()
    }

    fn kind(&self, index: usize, names: &[&str]) -> Result<Kind> {
        let mixer = sign(names, &MIXER_SIGNS);
        let ffn = sign(names, &FFN_SIGNS);
        match (mixer, ffn) {
            (Some(MixerKind::Mamba2), _) => Ok(Kind { mixer: MixerKind::Mamba2, ffn: FfnKind::None }),
            (Some(mixer), Some(ffn)) => Ok(Kind { mixer, ffn }),
            (Some(_), None) => Err(self
                .error(format!("layer {index} has attention, but neither layers.{index}.mlp nor layers.{index}.moe"))),
            (None, _) => Err(self.error(format!(
                "layer {index} has none of mamba2, self_attn.w_dkv or self_attn.q_proj (found {})",
                names.iter().take(3).copied().collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// The file of the tensors, or the directory of several files.
    pub fn origin(&self) -> &Path {
        self.tensors.origin()
    }

    fn error(&self, message: String) -> Error {
        Error::checkpoint(self.origin(), message)
    }
}

/// What the first name that tells anything says.
fn sign<T: Copy>(names: &[&str], signs: &[(&str, T)]) -> Option<T> {
    let said = |name: &&str| signs.iter().find(|(start, _)| name.starts_with(start)).map(|(_, kind)| *kind);
    names.iter().find_map(said)
}
