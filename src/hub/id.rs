//! How a model of the Hub is named.

use std::fmt;

/// A longer part of a name is not one of the Hub's.
const LONGEST: usize = 96;

/// A longer hash is none.
const LONGEST_PLAIN: usize = 128;

/// The revision that is meant where none is named.
const MAIN: &str = "main";

/// What a file of weights ends in.
const WEIGHTS: [&str; 2] = [".gguf", ".safetensors"];

/// A model of the Hub: `OWNER/NAME`, `OWNER/NAME@REVISION`, and behind either `/FILE` for one file of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelId {
    /// `OWNER/NAME`.
    pub repo: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// The weights, where several files have some.
    pub file: Option<String>,
}

impl ModelId {
    /// The model that `text` names; none if it can't be the name of one.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, revision) = text.split_once('@').map_or((text, None), |(head, rest)| (head, Some(rest)));
        let (owner, rest) = head.split_once('/')?;
        let (name, file) = split_file(rest);
        let (revision, file) = match revision {
            None => (MAIN, file),
            Some(_) if file.is_some() => return None,
            Some(rest) => split_file(rest),
        };
        let is_named = [owner, name].into_iter().all(is_name) && is_path(revision) && file.is_none_or(is_path);
        is_named.then(|| Self {
            repo: format!("{owner}/{name}"),
            revision: revision.to_owned(),
            file: file.map(str::to_owned),
        })
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))
    }
}

/// What stands before the first slash, and the file of weights behind it, if that is what it is.
fn split_file(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((before, file)) if WEIGHTS.iter().any(|end| file.ends_with(end)) => (before, Some(file)),
        _ => (text, None),
    }
}

/// As [huggingface_hub](https://github.com/huggingface/huggingface_hub) has it; no model is called as a file of weights.
fn is_name(part: &str) -> bool {
    let is_known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_bare = !part.starts_with(['-', '.']) && !part.ends_with(['-', '.']) && !part.ends_with(".git");
    let is_single = !part.contains("--") && !part.contains("..");
    let is_file = WEIGHTS.iter().any(|end| part.ends_with(end));
    (1..=LONGEST).contains(&part.len()) && part.chars().all(is_known) && is_bare && is_single && !is_file
}

/// Whether `text` is a relative path that leads nowhere but down.
pub(super) fn is_path(text: &str) -> bool {
    text.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0', ':']))
}

/// Whether a name from the Hub can be that of a file in a directory.
pub(super) fn is_plain(name: &str) -> bool {
    is_path(name) && !name.contains('/') && name.len() <= LONGEST_PLAIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_revisions_and_files_are_told_apart() {
        for (text, repo, revision, file) in [
            ("ibm-granite/granite-4.0-h-350m", "ibm-granite/granite-4.0-h-350m", "main", None),
            ("a/b@v1.0", "a/b", "v1.0", None),
            ("a/b@refs/pr/1", "a/b", "refs/pr/1", None),
            ("a/b/q4.gguf", "a/b", "main", Some("q4.gguf")),
            ("a/b@v1/sub/q4.gguf", "a/b", "v1", Some("sub/q4.gguf")),
        ] {
            let id = ModelId::parse(text).unwrap();
            assert_eq!((id.repo.as_str(), id.revision.as_str(), id.file.as_deref()), (repo, revision, file));
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn what_can_be_no_name_is_none() {
        let long = format!("a/{}", "b".repeat(97));
        let none = [
            "",
            "a",
            "a/",
            "/b",
            "./b",
            "../b",
            "a/b/c",
            "a/b c",
            "a/b@",
            "a/b@../x",
            "a/b/../x.gguf",
            "~/b",
            "a--b/c",
            "x/-a",
            "x/a..b",
            ".x/a",
            "x/a.git",
            "ckpt/m.safetensors",
            &long,
        ];
        assert!(none.iter().all(|text| ModelId::parse(text).is_none()));
        assert!(ModelId::parse("a/b/c.gguf@v1").is_none());
    }
}
