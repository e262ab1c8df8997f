//! Encoding and decoding: nothing lost, whatever bytes the tokens hold; broken files refused by name.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code: a failure is a panic, sizes are small")]

mod common;

use common::TempDir;
use loramux_native::error::Code;
use loramux_native::tokenizer::Tokenizer;
use proptest::prelude::*;
use std::sync::Arc;

/// Pieces of several bytes beside the 256 single ones; some end inside a character.
const LONG: [&[u8]; 6] = [b"th", b" a", &[0xf0, 0x9f], &[0x98, 0x80], &[0xc3, 0xa9, 0xe2], &[0x82, 0xac, b'x']];
const FIRST_LONG: u32 = 256;
const SPECIAL: u32 = FIRST_LONG + LONG.len() as u32;

/// The printable character that byte-level tokenizers write for a byte.
fn letter(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let index = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(256 + index).unwrap()
}

fn letters(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| letter(b)).collect()
}

/// Token id = byte value, then LONG, then a special token with id `special`.
fn tokenizer_json(special: u32) -> String {
    let singles = (0..=255u8).map(|b| (letters(&[b]), u32::from(b)));
    let long = LONG.iter().zip(FIRST_LONG..).map(|(bytes, id)| (letters(bytes), id));
    let vocab: serde_json::Map<String, serde_json::Value> = singles.chain(long).map(|(text, id)| (text, id.into())).collect();
    let byte_level = serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let added = serde_json::json!({
        "id": special, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true,
    });
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [added], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [["t", "h"], [letters(b" "), "a"]],
        },
    })
    .to_string()
}

fn tokenizer() -> Arc<Tokenizer> {
    let directory = TempDir::new();
    let path = directory.path().join("tokenizer.json");
    std::fs::write(&path, tokenizer_json(SPECIAL)).unwrap();
    Arc::new(Tokenizer::from_file(&path).unwrap())
}

#[test]
fn text_becomes_ids_and_comes_back() {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode("the a é<end>", false).unwrap();
    assert_eq!(ids, [FIRST_LONG, 101, FIRST_LONG + 1, 32, 0xc3, 0xa9, SPECIAL]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "the a é");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "the a é<end>");
    assert_eq!(tokenizer.vocab_size(), SPECIAL as usize + 1);
    assert!(tokenizer.is_special(SPECIAL) && !tokenizer.is_special(0) && !tokenizer.is_special(u32::MAX));
}

#[test]
fn broken_tokenizer_files_are_refused_by_name() {
    let directory = TempDir::new();
    let path = directory.path().join("tokenizer.json");
    for text in ["", "{}", "[1]", &tokenizer_json(SPECIAL)[1..], &tokenizer_json(u32::MAX - 1)] {
        std::fs::write(&path, text).unwrap();
        // The crate renumbers an added token that is not where its id says; what counts is that nothing huge is built.
        match Tokenizer::from_file(&path) {
            Ok(tokenizer) => assert!(tokenizer.vocab_size() < 1 << 24),
            Err(error) => assert!(error.code == Code::Tokenizer && error.message.contains("tokenizer.json"), "{error}"),
        }
    }
    assert_eq!(Tokenizer::from_file(&directory.path().join("none")).err().unwrap().code, Code::Tokenizer);
}

proptest! {
    #[test]
    fn any_text_comes_back_as_it_was(text in any::<String>()) {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
}
