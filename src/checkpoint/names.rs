//! Under which names, and in which pieces, a published checkpoint has the tensors of the native format.

/// Where a tensor lies: a tensor of the file, or some of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The name in the file, without the optional prefix of all names.
    pub name: String,
    /// Of several matrices in one tensor, the one with this index.
    pub index: Option<usize>,
    /// Which rows.
    pub part: Part,
}

/// Which rows of a matrix a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    All,
    /// The first half, or the second.
    Half(usize),
    /// In every block of so many rows, those from one to another.
    Lanes {
        /// The rows of a block.
        block: usize,
        /// The first of them.
        from: usize,
        /// The one behind the last.
        to: usize,
    },
}

impl Part {
    /// The rows of a block, and the ones that belong to the part, if the part has so many `rows` in all.
    pub fn lanes(self, rows: usize) -> (usize, usize, usize) {
        match self {
            Self::All => (rows, 0, rows),
            Self::Half(index) => (2 * rows, index * rows, (index + 1) * rows),
            Self::Lanes { block, from, to } => (block, from, to),
        }
    }
}

/// The names of a family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    rules: Vec<Rule>,
    /// Looked for last.
    fallbacks: Vec<Rule>,
    /// Whether tensors may also have the names of the native format.
    or_native: bool,
}

/// A native name, and a name that may be found in its place. Names that end with a dot stand for all that begin so; `{e}` is
/// the number of an expert, and a published name without it is that of all experts' matrices in one tensor. Layers' names
/// are those within the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    native: &'static str,
    published: &'static str,
    part: Part,
}

impl Names {
    /// Other names for whole tensors.
    pub fn of(renamed: &[(&'static str, &'static str)]) -> Self {
        let mut names = Self::default();
        for (native, published) in renamed {
            names = names.with(native, published, Part::All);
        }
        names
    }

    /// One more, after those there are.
    pub fn with(mut self, native: &'static str, published: &'static str, part: Part) -> Self {
        self.rules.push(Rule { native, published, part });
        self
    }

    /// A name to be looked for where there is no tensor under the others.
    pub fn or(mut self, native: &'static str, published: &'static str) -> Self {
        self.fallbacks.push(Rule { native, published, part: Part::All });
        self
    }

    /// The same, with the native name itself behind a tensor's other names.
    pub fn or_native(self) -> Self {
        Self { or_native: true, ..self }
    }

    /// Where the tensor of a native name may lie, the likeliest place first.
    pub fn places(&self, native: &str) -> Vec<Place> {
        let (layer, within) = split_layer(native);
        let by = |rules: &[Rule]| rules.iter().filter_map(|rule| rule.place(layer, within)).collect::<Vec<_>>();
        let mut places = by(&self.rules);
        if places.is_empty() || self.or_native {
            places.push(Place { name: native.to_owned(), index: None, part: Part::All });
        }
        [places, by(&self.fallbacks)].concat()
    }
}

impl Rule {
    fn place(&self, layer: &str, within: &str) -> Option<Place> {
        let (rest, expert) = match self.native.split_once("{e}") {
            None => (matched(within, self.native)?, None),
            Some((before, after)) => {
                let tail = within.strip_prefix(before)?;
                let (number, _) = tail.split_once('.')?;
                (matched(tail.strip_prefix(number)?, after)?, Some(number))
            }
        };
        let is_stacked = !self.published.contains("{e}");
        let published = self.published.replace("{e}", expert.unwrap_or_default());
        let index = expert.filter(|_| is_stacked).map(str::parse).transpose().ok()?;
        Some(Place { name: format!("{layer}{published}{rest}"), index, part: self.part })
    }
}

/// What follows in `name` behind `pattern`: nothing, unless the pattern ends with a dot.
fn matched<'a>(name: &'a str, pattern: &str) -> Option<&'a str> {
    name.strip_prefix(pattern).filter(|rest| rest.is_empty() || pattern.ends_with('.'))
}

/// `layers.N.` and the rest of a name; nothing and all of it where it is no layer's.
fn split_layer(name: &str) -> (&str, &str) {
    let number =
        name.strip_prefix("layers.").and_then(|rest| rest.split_once('.')).map_or(0, |(number, _)| number.len());
    let end = if number == 0 { 0 } else { "layers.".len() + number + 1 };
    name.split_at_checked(end).unwrap_or(("", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_their_beginning_by_expert_and_in_pieces() {
        let names = Names::of(&[
            ("mamba2.mixer.", "mamba."),
            ("norm.", "final_layernorm."),
            ("moe.experts.{e}.gate_proj.", "mlp.experts.{e}.w1."),
        ])
        .with("moe.experts.{e}.gate_proj.weight", "mlp.experts.gate_up_proj", Part::Half(0))
        .or("embed_tokens.", "lm_head.");
        let place = |name: &str, index, part| Place { name: name.to_owned(), index, part };
        assert_eq!(names.places("layers.12.mamba2.mixer.D"), [place("layers.12.mamba.D", None, Part::All)]);
        assert_eq!(names.places("norm.weight"), [place("final_layernorm.weight", None, Part::All)]);
        assert_eq!(names.places("layers.0.self_attn.x"), [place("layers.0.self_attn.x", None, Part::All)]);
        let expert = [
            place("layers.3.mlp.experts.7.w1.weight", None, Part::All),
            place("layers.3.mlp.experts.gate_up_proj", Some(7), Part::Half(0)),
        ];
        assert_eq!(names.places("layers.3.moe.experts.7.gate_proj.weight"), expert);
        let embedding = ["embed_tokens.weight", "lm_head.weight"].map(|name| place(name, None, Part::All));
        assert_eq!(names.places("embed_tokens.weight"), embedding);
        assert_eq!(names.places("layers.x"), [place("layers.x", None, Part::All)]);
    }

    #[test]
    fn parts_are_rows_of_blocks() {
        assert_eq!(Part::All.lanes(6), (6, 0, 6));
        assert_eq!(Part::Half(1).lanes(6), (12, 6, 12));
        assert_eq!(Part::Lanes { block: 5, from: 2, to: 5 }.lanes(6), (5, 2, 5));
    }
}
