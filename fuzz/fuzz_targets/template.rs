//! A chat template in Jinja, and the conversation after its first NUL, as JSON: whatever compiles renders or is refused,
//! and ends.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use blazr::checkpoint::Checkpoint;
use blazr::files::Files;
use blazr::nano;
use blazr::text::{ChatTemplate, Tokenizer};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Checkpoint::embedded(&nano::MODEL).and_then(|nano| nano.tokenizer()).expect("nano has a tokenizer"));

fuzz_target!(|input: &str| {
    let (source, conversation) = input.split_once('\0').unwrap_or((input, ""));
    let nowhere = Files::Directory("/nonexistent".into());
    let name = Path::new("template");
    let Ok(template) = ChatTemplate::from_source(source, name, &nowhere, name, &TOKENIZER) else { return };
    let usual = || json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi 🦀"}]);
    let messages: Value = serde_json::from_str(conversation).unwrap_or_else(|_| usual());
    let messages = messages.as_array().map(Vec::as_slice).unwrap_or_default();
    let extra = Map::from_iter([("tools".to_owned(), json!([{"type": "function"}]))]);
    for extra in [&Map::new(), &extra] {
        let _ = template.render(messages, true, extra);
    }
});
