//! Encoding, and the stream of pieces: nothing lost, no character cut, whatever bytes the tokens hold.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code: a failure is a panic, sizes are small")]

mod common;

use common::TempDir;
use loramux_native::error::Code;
use loramux_native::tokenizer::{DecodeStream, Tokenizer};
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

/// All pieces joined.
fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special_tokens: bool) -> String {
    let mut stream = DecodeStream::new(tokenizer.clone(), skip_special_tokens);
    ids.iter().filter_map(|&id| stream.push(id).unwrap()).collect()
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
    assert_eq!((tokenizer.id_to_token(FIRST_LONG).as_deref(), tokenizer.id_to_token(u32::MAX)), (Some("th"), None));
}

#[test]
fn a_character_comes_out_whole_with_its_last_byte() {
    let tokenizer = tokenizer();
    let mut stream = DecodeStream::new(tokenizer, true);
    let mut push = |id: u32| stream.push(id).unwrap();
    assert_eq!(push(FIRST_LONG + 2), None);
    assert_eq!(push(FIRST_LONG + 3).as_deref(), Some("😀"));
    assert_eq!(push(SPECIAL), None);
    // é and the beginning of €, then its end and an x.
    assert_eq!(push(FIRST_LONG + 4).as_deref(), Some("é"));
    assert_eq!(push(FIRST_LONG + 5).as_deref(), Some("€x"));
    assert_eq!(push(u32::MAX), None, "an id without an entry is nothing");
}

#[test]
fn special_tokens_are_shown_or_left_out() {
    let tokenizer = tokenizer();
    let ids = [u32::from(b'a'), SPECIAL, u32::from(b'b'), SPECIAL];
    assert_eq!(stream(&tokenizer, &ids, true), "ab");
    assert_eq!(stream(&tokenizer, &ids, false), "a<end>b<end>");
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
    fn the_pieces_of_a_text_are_the_text(text in any::<String>()) {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode(&text, false).unwrap();
        // A replacement character at the very end is held back: it looks like a cut one.
        prop_assert_eq!(stream(&tokenizer, &ids, false), text.trim_end_matches('\u{fffd}'));
    }

    #[test]
    fn the_pieces_of_any_ids_are_a_prefix_of_the_whole_decode(ids in proptest::collection::vec(0..=SPECIAL, 0..60)) {
        let tokenizer = tokenizer();
        for skip in [false, true] {
            let whole = tokenizer.decode(&ids, skip).unwrap();
            let pieces = stream(&tokenizer, &ids, skip);
            let rest = whole.strip_prefix(pieces.as_str());
            prop_assert!(rest.is_some_and(|rest| rest.chars().all(|c| c == '\u{fffd}')), "{:?} of {:?}", pieces, whole);
        }
    }
}
