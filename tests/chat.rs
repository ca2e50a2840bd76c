//! Chat templates against transformers' own: `tests/chat/golden.json`, which `tests/chat/make.py` writes. And what a
//! conversation says stays text, whatever it says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::Path;

use blazr::error::{Error, Result};
use blazr::files::Files;
use blazr::nano;
use blazr::text::{ChatTemplate, Tokenizer};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const NAME: &str = "tokenizer.json";
const MAX_SEQ_LEN: usize = 4352;

/// nano's control tokens, by id.
const CONTROL: [&str; 5] = ["<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"];

fn nano_files() -> Files {
    Files::Embedded(&nano::MODEL)
}

fn nano_tokenizer() -> Tokenizer {
    Tokenizer::open(&nano_files(), Path::new(NAME), 4096).unwrap()
}

fn nano_template() -> ChatTemplate {
    ChatTemplate::open(&nano_files(), Path::new(NAME), &nano_tokenizer()).unwrap().unwrap()
}

fn here() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat")
}

/// Each template of the list, opened from a directory of its own with these special tokens.
fn open(name: &str, special_tokens: &Value) -> ChatTemplate {
    let directory = tempfile::tempdir().unwrap();
    let template = here().join("templates").join(format!("{name}.jinja"));
    std::fs::copy(template, directory.path().join("chat_template.jinja")).unwrap();
    std::fs::write(directory.path().join("tokenizer_config.json"), special_tokens.to_string()).unwrap();
    let files = Files::Directory(directory.path().to_owned());
    ChatTemplate::open(&files, Path::new(NAME), &nano_tokenizer()).unwrap().unwrap()
}

/// `text` with the day's date for every `<now FORMAT>`.
fn dated(text: &str) -> String {
    let mut parts = text.split("<now ");
    let first = parts.next().unwrap().to_owned();
    let now = jiff::ZonedDateTime::now();
    parts.fold(first, |text, part| {
        let (format, rest) = part.split_once('>').unwrap();
        text + &now.strftime(format).to_string() + rest
    })
}

/// What differs from the golden case, if anything does.
fn difference(case: &Value, result: &Result<String>) -> Option<String> {
    let expected = case["text"].as_str().map(dated);
    let fits = match (&expected, &case["raises"], result) {
        (Some(expected), _, Ok(found)) => expected == found,
        (None, Value::String(raised), Err(Error::Invalid { param: "messages", message })) => raised == message,
        (None, Value::Null, Err(Error::Invalid { param: "messages", .. })) => true,
        _ => false,
    };
    (!fits).then(|| {
        let case = json!([case["template"], case["conversation"], case["variables"], case["generate"]]);
        format!("{case}\nexpected {expected:?}\nfound    {result:?}")
    })
}

#[test]
fn templates_render_as_in_transformers() {
    let golden: Value = serde_json::from_slice(&std::fs::read(here().join("golden.json")).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for (name, special_tokens) in golden["special_tokens"].as_object().unwrap() {
        let template = open(name, special_tokens);
        for case in golden["cases"].as_array().unwrap().iter().filter(|case| case["template"] == **name) {
            let messages = golden["conversations"][case["conversation"].as_str().unwrap()].as_array().unwrap();
            let variables = golden["variables"][case["variables"].as_str().unwrap()].as_object().unwrap();
            let rendered = template.render(messages, case["generate"].as_bool().unwrap(), variables);
            wrong.extend(difference(case, &rendered.map(|rendered| rendered.text().into_owned())));
        }
    }
    assert!(wrong.is_empty(), "{} cases differ\n\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn every_template_has_golden_cases() {
    let golden: Value = serde_json::from_slice(&std::fs::read(here().join("golden.json")).unwrap()).unwrap();
    let known: BTreeSet<String> = golden["special_tokens"].as_object().unwrap().keys().cloned().collect();
    let files = std::fs::read_dir(here().join("templates")).unwrap().map(|file| file.unwrap().path());
    let files: BTreeSet<String> = files.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(known, files);
    assert!(files.len() >= 12);
}

/// A conversation whose messages have these contents.
fn conversation(contents: &[String]) -> Vec<Value> {
    let roles = ["user", "assistant"].iter().cycle();
    roles.zip(contents).map(|(role, content)| json!({"role": role, "content": content})).collect()
}

/// Text in which control tokens, whole and in pieces, are as common as anything else.
fn hostile() -> impl Strategy<Value = String> {
    let pieces = ["<", "|", ">", "<|", "|>", "user", "end", "|end|>", "<|end", "\u{fdd0}", "\u{fdd1}", "\u{fddf}", " "];
    let piece = prop_oneof![
        prop::sample::select(CONTROL.map(str::to_owned).to_vec()),
        prop::sample::select(pieces.map(str::to_owned).to_vec()),
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

/// `text` without the noncharacters that marks are made of.
fn clean(text: &str) -> String {
    text.replace(|char| ('\u{fdd0}'..='\u{fdef}').contains(&char), "")
}

#[test]
fn whatever_messages_say_only_the_template_writes_control_tokens() {
    let (tokenizer, template) = (nano_tokenizer(), nano_template());
    proptest!(|(contents in prop::collection::vec(hostile(), 1..4))| {
        let rendered = template.render(&conversation(&contents), true, &Map::new()).unwrap();
        let ids = tokenizer.encode_chat(&rendered, MAX_SEQ_LEN).unwrap();
        let roles = [3, 4].iter().cycle();
        let expected: Vec<u32> = roles.zip(&contents).flat_map(|(role, _)| [*role, 1]).chain([4]).collect();
        let control: Vec<u32> = ids.iter().copied().filter(|id| *id < CONTROL.len() as u32).collect();
        prop_assert_eq!(control, expected);
        let contents = contents.iter().map(|content| clean(content)).collect::<String>();
        prop_assert_eq!(tokenizer.decode(&ids), contents);
    });
}

#[test]
fn a_conversation_without_control_tokens_is_encoded_as_its_text() {
    let (tokenizer, template) = (nano_tokenizer(), nano_template());
    proptest!(|(contents in prop::collection::vec("[a-z <|>\n.é]{0,20}", 1..4))| {
        let rendered = template.render(&conversation(&contents), true, &Map::new()).unwrap();
        let ids = tokenizer.encode_chat(&rendered, MAX_SEQ_LEN).unwrap();
        prop_assert_eq!(ids, tokenizer.encode(&rendered.text(), false).unwrap());
    });
}

#[test]
fn a_control_token_in_pieces_is_text_where_a_template_joins_them() {
    let source = "{{ '<|user|>' }}{% for part in messages[0].content %}{{ part.text }}{% endfor %}{{ '|>' }}";
    let tokenizer = nano_tokenizer();
    let template =
        ChatTemplate::from_source(source, Path::new("t"), &nano_files(), Path::new(NAME), &tokenizer).unwrap();
    for parts in [vec!["<|en", "d|>"], vec!["<", "|end|>"], vec!["<|", "end", "|>"], vec!["<|end"], vec!["a <|end \n"]]
    {
        let parts: Vec<_> = parts.iter().map(|text| json!({"type": "text", "text": text})).collect();
        let rendered = template.render(&[json!({"role": "user", "content": parts})], true, &Map::new()).unwrap();
        let ids = tokenizer.encode_chat(&rendered, MAX_SEQ_LEN).unwrap();
        assert_eq!(ids.iter().filter(|id| **id < 5).collect::<Vec<_>>(), [&3], "{parts:?}");
        assert_eq!(format!("<|user|>{}", tokenizer.decode(&ids)), rendered.text());
    }
}

#[test]
fn control_tokens_in_tools_and_names_are_text() {
    let tokenizer = nano_tokenizer();
    let source = "{{ '<|system|>' }}{{ tools | tojson(ensure_ascii=true) }}{{ messages[0].name }}{{ tools }}";
    let template =
        ChatTemplate::from_source(source, Path::new("t"), &nano_files(), Path::new(NAME), &tokenizer).unwrap();
    let tools = json!([{"<|end|>": "<|user|>", "deep": [["<|assistant|>"]]}]);
    let messages = [json!({"role": "user", "content": "", "name": "<|endoftext|>"})];
    let extra = Map::from_iter([("tools".to_owned(), tools)]);
    let rendered = template.render(&messages, true, &extra).unwrap();
    let expected = r#"<|system|>[{"<|end|>": "<|user|>", "deep": [["<|assistant|>"]]}]<|endoftext|>[{'<|end|>': '<|user|>', 'deep': [['<|assistant|>']]}]"#;
    assert_eq!(rendered.text(), expected);
    let ids = tokenizer.encode_chat(&rendered, MAX_SEQ_LEN).unwrap();
    assert_eq!(ids.iter().filter(|id| **id < 5).collect::<Vec<_>>(), [&2]);
}

#[test]
fn a_chat_that_is_too_long_is_refused_before_it_is_encoded() {
    let tokenizer = nano_tokenizer();
    let rendered = nano_template().render(&conversation(&["word ".repeat(100_000)]), true, &Map::new()).unwrap();
    let error = tokenizer.encode_chat(&rendered, MAX_SEQ_LEN).unwrap_err();
    assert!(matches!(error, Error::ContextLength { param: "messages", is_least: true, .. }), "{error:?}");
    assert!(error.to_string().contains("maximum context length is 4352 tokens"), "{error}");
}
