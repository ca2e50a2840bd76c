//! The names of the files that a model is split into: `NAME-00001-of-00003.gguf` is the first of three.

/// What is behind the stem of the first.
const FIRST: &str = "-00001-of-";

/// No model is split into more files.
const MOST: usize = 1000;

/// All of them, if `name` is that of the first; else it alone.
pub fn all(name: &str) -> Vec<String> {
    let split = name.strip_suffix(super::ENDING).and_then(|name| name.split_once(FIRST));
    let count = split.and_then(|(_, count)| count.parse().ok()).filter(|count| (1..=MOST).contains(count));
    match split.zip(count) {
        Some(((stem, written), count)) => {
            (1..=count).map(|at| format!("{stem}-{at:05}-of-{written}{}", super::ENDING)).collect()
        }
        None => vec![name.to_owned()],
    }
}

/// Whether the file is one of them behind the first.
pub fn is_further(name: &str) -> bool {
    let number = name.strip_suffix(super::ENDING).and_then(|name| name.rsplit_once("-of-")?.0.rsplit_once('-'));
    let is_number = |at: &str| at.len() == 5 && at.bytes().all(|byte| byte.is_ascii_digit());
    number.is_some_and(|(_, at)| is_number(at) && at > "00001")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_tells_the_others() {
        let names = ["q/m-00001-of-00002.gguf", "q/m-00002-of-00002.gguf"];
        assert_eq!(all(names[0]), names);
        for alone in ["m.gguf", names[1], "m-00001-of-65535.gguf", "m-00001-of-00000.gguf"] {
            assert_eq!(all(alone), [alone]);
        }
        assert!(is_further(names[1]) && !is_further(names[0]) && !is_further("b-of-c.gguf"));
    }
}
