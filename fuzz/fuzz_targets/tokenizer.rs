//! A tokenizer.json: whatever loads must encode and decode.
#![no_main]

use std::path::Path;

use blazr::text::{Companions, Tokenizer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_bytes(input, &Companions::default(), Path::new("tokenizer.json"), 2000) else {
        return;
    };
    for text in ["", "Once upon a time, ", "zwölf 十二 🦀\u{0}\n<|endoftext|></s>"] {
        if let Ok(ids) = tokenizer.encode(text, true) {
            tokenizer.decode(&ids);
        }
    }
    tokenizer.decode(&(0..2001).collect::<Vec<_>>());
});
