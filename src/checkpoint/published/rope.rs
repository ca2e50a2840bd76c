//! How positions turn queries and keys: `rope_theta`, `rope_scaling` and `rope_parameters`.

use super::{LARGEST, Published};
use crate::checkpoint::keys::Keys;
use crate::error::{Error, Result};
use crate::model::rope::{RopeSpec, Scaling};

/// Heads are turned as they are.
const DEFAULT: &str = "default";

/// What share of each head is rotated.
const PARTIAL: &str = "partial_rotary_factor";

/// What the object may say.
const KNOWN: [&str; 15] = [
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "factors",
    "high_freq_factor",
    "low_freq_factor",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    PARTIAL,
    "rope_theta",
    "rope_type",
    "truncate",
    "type",
];

impl Published<'_> {
    /// How positions turn heads of which `width` elements are rotated, as `key` says.
    pub fn rope(&mut self, (key, width): (&str, usize), default_theta: f64, max_seq_len: usize) -> Result<RopeSpec> {
        let object = self.rope_keys()?;
        if let Some(object) = &object {
            self.check_rope(object)?;
        }
        let theta = match &object {
            Some(object) if object.value("rope_theta").is_some() => object.float("rope_theta", 1.0..=1e18)?,
            _ => self.keys.float("rope_theta", 1.0..=1e18)?,
        };
        self.note("rope_theta", theta.unwrap_or(default_theta), theta.is_some());
        if width == 0 || !width.is_multiple_of(2) {
            return Err(self.error(key, format!("rotary positions need an even width, found {width}")));
        }
        let scaling = object.map_or(Ok(Scaling::None), |object| self.scaling(&object, width, max_seq_len))?;
        self.stretched_context = self.stretched_context.max(scaling.stretched_context());
        Ok(RopeSpec { scaling, ..RopeSpec::new(width, theta.unwrap_or(default_theta)) })
    }

    /// `rope_scaling`, or where it is left out or empty `rope_parameters`.
    fn rope_keys(&mut self) -> Result<Option<Keys>> {
        for key in ["rope_scaling", "rope_parameters"] {
            self.read.insert(key.to_owned());
            if let Some(object) = self.keys.object(key)? {
                self.note(key, self.keys.value(key).cloned().unwrap_or_default(), true);
                return Ok(Some(object));
            }
        }
        Ok(None)
    }

    /// Warns of what an object says that nobody reads, and refuses what would turn heads otherwise.
    fn check_rope(&self, object: &Keys) -> Result<()> {
        if let Some(unknown) = object.unknown(&KNOWN) {
            if let Some(kind) = object.objects().next() {
                return Err(object.error(kind, "positions of its own for a kind of layers are not supported"));
            }
            tracing::warn!("config.json: ignoring keys of the rotation that mean nothing here: {unknown}");
        }
        match object.float(PARTIAL, 0.0..=1.0)? {
            Some(share) if share != 1.0 && !self.read.contains(PARTIAL) => {
                Err(object.error(PARTIAL, format!("only whole heads are rotated in this family, found {share}")))
            }
            _ => Ok(()),
        }
    }

    /// What share of each head is rotated, where the rope's own object says so.
    pub fn partial_rotary_factor(&mut self, default: f64) -> Result<f64> {
        let given = self.rope_keys()?.map(|object| object.float(PARTIAL, 0.0..=1.0)).transpose()?.flatten();
        self.note(PARTIAL, given.unwrap_or(default), given.is_some());
        Ok(given.unwrap_or(default))
    }

    fn scaling(&mut self, object: &Keys, width: usize, max_seq_len: usize) -> Result<Scaling> {
        let factor = |default: Option<f64>| {
            let given = object.float("factor", 1e-6..=LARGEST)?.or(default);
            given.ok_or_else(|| object.error("factor", "expected a number, found no such key"))
        };
        // As transformers has it, 0 stands for the default too.
        let float = |key: &str, default: f64| {
            let given = object.float(key, 0.0..=LARGEST)?;
            Ok::<_, Error>(given.filter(|given| *given != 0.0).unwrap_or(default))
        };
        let original = self.original_context(object, max_seq_len)?;
        match rope_type(object)? {
            DEFAULT => Ok(Scaling::None),
            "factors" => factors(object, width / 2),
            "linear" => Ok(Scaling::Linear { factor: factor(None)? }),
            // It begins behind the context, which no sequence leaves.
            "dynamic" => factor(None).map(|_| Scaling::None),
            "llama3" => {
                let (low, high) = (float("low_freq_factor", 1.0)?, float("high_freq_factor", 4.0)?);
                if low > high {
                    return Err(object.error("low_freq_factor", format!("{low} is above high_freq_factor, {high}")));
                }
                let factor = factor(None)?;
                Ok(Scaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original })
            }
            "yarn" => {
                let factor = factor(Some(max_seq_len as f64 / original))?;
                Ok(Scaling::Yarn {
                    factor,
                    beta_fast: float("beta_fast", 32.0)?,
                    beta_slow: float("beta_slow", 1.0)?,
                    original,
                    truncate: object.flag("truncate")?.unwrap_or(true),
                    amplitude: yarn_amplitude(object, factor)?,
                })
            }
            other => Err(object.error(
                "rope_type",
                format!("{other:?} is not supported: expected default, linear, dynamic, llama3 or yarn"),
            )),
        }
    }

    /// The context of the training, in tokens.
    fn original_context(&mut self, object: &Keys, max_seq_len: usize) -> Result<f64> {
        let key = "original_max_position_embeddings";
        self.read.insert(key.to_owned());
        let given = match self.keys.int(key)? {
            Some(given) => Some(given),
            None => object.int(key)?,
        };
        Ok(given.unwrap_or(max_seq_len) as f64)
    }

    /// What a stretched rotation makes of the softmax's scale: 1 where `mscale_all_dim` is left out.
    pub fn stretched_softmax_scale(&mut self, rope: &RopeSpec) -> Result<f64> {
        let Some(object) = self.rope_keys()? else { return Ok(1.0) };
        let factor = object.float("factor", 1e-6..=LARGEST)?.unwrap_or(rope.scaling.factor());
        let all = object.float("mscale_all_dim", 0.0..=LARGEST)?.filter(|all| *all != 0.0);
        let all = if rope_type(&object)? == DEFAULT { None } else { all };
        Ok(all.map_or(1.0, |all| yarn_mscale(factor, all).powi(2)))
    }
}

fn rope_type(object: &Keys) -> Result<&str> {
    match object.string("rope_type")? {
        Some(kind) => Ok(kind),
        None => Ok(object.string("type")?.unwrap_or(DEFAULT)),
    }
}

/// A factor for each of so many pairs.
fn factors(object: &Keys, count: usize) -> Result<Scaling> {
    let factors = object.numbers("factors", 1e-6..=LARGEST)?.unwrap_or_default();
    if factors.len() != count {
        let message = format!("expected one for each of {count} pairs, found {}", factors.len());
        return Err(object.error("factors", message));
    }
    Ok(Scaling::Factors(factors.into()))
}

fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// What cosines and sines are multiplied by.
fn yarn_amplitude(object: &Keys, factor: f64) -> Result<f64> {
    let float = |key: &str| object.float(key, 0.0..=LARGEST);
    if let Some(given) = float("attention_factor")? {
        return Ok(given);
    }
    let of = |mscale| yarn_mscale(factor, mscale);
    Ok(match (float("mscale")?, float("mscale_all_dim")?) {
        (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => of(mscale) / of(all),
        _ => of(1.0),
    })
}
