//! Constraints over made-up vocabularies: whatever is drawn from the masks matches, and what cannot match is refused.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::panic, reason = "test code: a failure is a panic, sizes are small")]

mod common;

use common::{Rng, TempDir};
use loramux_native::constraint::Constraint;
use loramux_native::constraint::compile::{MAX_BYTES, compile};
use loramux_native::constraint::matcher::Matcher;
use loramux_native::constraint::sample::sample;
use loramux_native::constraint::store::ConstraintStore;
use loramux_native::constraint::token_bytes::token_bytes;
use loramux_native::constraint::vocabulary::Vocabulary;
use loramux_native::error::Code;
use loramux_native::sampler::{RowSampling, Sampler};
use loramux_native::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::time::Duration;

const END: u32 = 256;
const ALSO_END: u32 = 257;
const TOOL: u32 = 258;

/// Every byte, two ids that end, a special token, and pieces that cross the borders of what grammars tell apart.
fn words() -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = (0..=255u8).map(|byte| if byte == 0xff { Vec::new() } else { vec![byte] }).collect();
    words.extend([b"\xff<end>".to_vec(), b"also an end".to_vec(), b"\xff<tool>".to_vec()]);
    for piece in ["{\"", "\":", "\",\"", "true", "}}", "[1", "ab", "abc", " \"", "é", "12", "  ", "\n", "\"}", "name", "null"] {
        words.push(piece.as_bytes().to_vec());
    }
    words
}

fn vocabulary() -> Vocabulary {
    Vocabulary::new(words(), &[END, ALSO_END, 1 << 20]).unwrap()
}

fn matcher(constraint: &Constraint) -> Matcher {
    compile(&vocabulary(), constraint).unwrap()
}

fn regex(pattern: &str) -> Constraint {
    Constraint::Regex(pattern.to_owned())
}

fn schema(json: &Value) -> Constraint {
    Constraint::JsonSchema(json.to_string())
}

fn allowed(matcher: &mut Matcher) -> Vec<u32> {
    let mask = matcher.mask().unwrap();
    (0..mask.len() as u32 * 32).filter(|&id| mask[id as usize / 32] >> (id % 32) & 1 == 1).collect()
}

/// Draws evenly from the masks; the text if it ended within `most` tokens.
fn draw(matcher: &mut Matcher, most: usize, rng: &mut Rng) -> Option<String> {
    let words = words();
    let mut text = Vec::new();
    for _ in 0..most {
        let ids = allowed(matcher);
        assert_eq!(ids.contains(&END), ids.contains(&ALSO_END));
        // Ends where it may, half of the time: even draws hardly ever would.
        let ends = ids.contains(&END) && rng.below(2) == 0;
        let id = if ends { END } else { ids[rng.below(ids.len())] };
        matcher.commit(id).unwrap();
        if id == END || id == ALSO_END {
            return Some(String::from_utf8(text).unwrap());
        }
        text.extend(&words[id as usize]);
    }
    None
}

/// Texts that some seeds draw.
fn texts(constraint: &Constraint) -> Vec<String> {
    let fresh = matcher(constraint);
    let texts: Vec<String> = (0..20).filter_map(|seed| draw(&mut fresh.clone(), 1_000, &mut Rng(seed))).collect();
    assert!(!texts.is_empty(), "{constraint:?}: none ended");
    texts
}

#[test]
fn what_is_drawn_matches_all_of_a_pattern() {
    for pattern in ["[a-c]{3,5}", "(ab|abc)*x", "é+[^a-z]{2}", "\\d{2}/\\d{2}", "", "^a$", "(?i)name"] {
        let whole = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
        for text in texts(&regex(pattern)) {
            assert!(whole.is_match(&text), "{pattern}: {text:?}");
        }
    }
}

#[test]
fn what_is_drawn_is_json_of_the_schema() {
    let of = schema(&json!({
        "type": "object",
        "properties": { "name": { "type": "string", "maxLength": 3 }, "ok": { "type": "boolean" } },
        "required": ["name"],
        "additionalProperties": false,
    }));
    for text in texts(&of) {
        let Value::Object(object) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
        assert!(object["name"].as_str().unwrap().chars().count() <= 3, "{text}");
        assert!(object.iter().all(|(key, value)| key == "name" || key == "ok" && value.is_boolean()), "{text}");
        assert!(text.matches(['\n', ' ', '\t', '\r']).count() <= 32 * 9, "{text}");
    }
    for text in texts(&Constraint::JsonObject) {
        assert!(serde_json::from_str::<Value>(&text).unwrap().is_object(), "{text}");
    }
}

#[test]
fn a_choice_is_one_of_its_texts() {
    let choices = ["a", "ab", "abc", "", "\"\\x41\"", "\u{0}\u{7f}\u{2028}😀"].map(str::to_owned);
    for text in texts(&Constraint::Choice(choices.to_vec())) {
        assert!(choices.contains(&text), "{text:?}");
    }
}

#[test]
fn the_end_is_allowed_exactly_where_the_constraint_may_end() {
    let mut matcher = matcher(&regex("ab?"));
    assert_eq!(allowed(&mut matcher), [u32::from(b'a'), words().iter().position(|word| word == b"ab").unwrap() as u32]);
    matcher.commit(u32::from(b'a')).unwrap();
    assert_eq!(allowed(&mut matcher), [u32::from(b'b'), END, ALSO_END]);
    matcher.commit(u32::from(b'b')).unwrap();
    assert_eq!(allowed(&mut matcher), [END, ALSO_END]);
    matcher.commit(ALSO_END).unwrap();
}

#[test]
fn special_tokens_come_only_by_name_and_no_token_breaks_a_character() {
    let mut any = matcher(&regex("(?s:.*)"));
    let ids = allowed(&mut any);
    assert!(!ids.contains(&TOOL) && !ids.contains(&0xff) && !ids.contains(&0x80));
    any.commit(0xc3).unwrap();
    assert!(allowed(&mut any).iter().all(|&id| (0x80..0xc0).contains(&id)));
    let mut named = matcher(&Constraint::Grammar("start: <tool> \"a\"".to_owned()));
    assert_eq!(allowed(&mut named), [TOOL]);
    named.commit(TOOL).unwrap();
    assert_eq!(allowed(&mut named), [u32::from(b'a')]);
}

#[test]
fn a_token_outside_the_mask_ends_the_matcher() {
    let mut matcher = matcher(&regex("ab"));
    assert!(matcher.commit(u32::from(b'z')).is_err());
    assert!(matcher.mask().is_err());
}

#[test]
fn clones_go_their_own_ways() {
    let mut one = matcher(&regex("ab|ac"));
    one.commit(u32::from(b'a')).unwrap();
    let mut other = one.clone();
    one.commit(u32::from(b'b')).unwrap();
    assert_eq!(allowed(&mut one), [END, ALSO_END]);
    assert_eq!(allowed(&mut other), [u32::from(b'b'), u32::from(b'c')]);
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let nested = |open: &str, close: &str, n: usize| format!("{}true{}", open.repeat(n), close.repeat(n));
    let overlapping = json!({ "oneOf": [{ "type": "string" }, { "type": "string", "maxLength": 4 }] });
    let pairs = vec![json!({ "anyOf": [{ "type": "string" }, { "type": "number" }, { "minLength": 1 }] }); 800];
    let inner = json!({ "$ref": "#/properties/not/anyOf/1/$defs/a~1b", "$defs": { "a/b": { "not": {} } } });
    let hidden = json!({ "type": "object", "properties": { "not": { "anyOf": [{ "enum": [{ "not": 1 }] }, inner] } } });
    let grammar = |text: String| Constraint::Grammar(text);
    let cases = [
        (schema(&json!({ "type": "array", "uniqueItems": true })), "[\"uniqueItems\"] (at /uniqueItems)"),
        (schema(&hidden), "(at /properties/not/anyOf/1/$defs/a~1b/not)"),
        (schema(&json!({ "type": "string", "minLength": 5, "maxLength": 2 })), "minLength (5)"),
        (schema(&json!({ "type": "object", "properties": { "a": false }, "required": ["a"] })), "'a' is unsatisfiable"),
        (schema(&overlapping), "use anyOf"),
        (schema(&json!({ "$ref": "#/$defs/x" })), "'/$defs/x' does not exist"),
        (schema(&json!({ "$ref": "http://example.com/x.json" })), "does not fetch"),
        (schema(&json!({ "$ref": "#" })), "nothing can match"),
        (schema(&json!({ "type": "integer", "multipleOf": 999_999_937 })), "overflow"),
        (schema(&json!({ "allOf": pairs })), "too large"),
        (schema(&json!(false)), "matches nothing"),
        (schema(&json!(3)), "object or true"),
        (Constraint::JsonSchema("{".to_owned()), "expected JSON"),
        (Constraint::JsonSchema(nested("{\"items\":", "}", 6_000)), "recursion"),
        (Constraint::JsonSchema(" ".repeat(MAX_BYTES + 1)), "at most 65536 bytes"),
        (regex("a("), "unclosed group"),
        (regex("a\\"), "backslash"),
        (regex("(a)\\1"), "backreferences"),
        (regex("(?=a)b"), "look-around"),
        (regex("a\\bb"), "lookarounds"),
        (regex("[^\\s\\S]"), "nothing can match"),
        (regex(&"(".repeat(30_000)), "regex"),
        (grammar(String::new()), "no start rule"),
        (grammar("start: nope".to_owned()), "unknown name"),
        (grammar("start: start \"a\"".to_owned()), "nothing can match"),
        (grammar("start: <nope>".to_owned()), "unknown special token"),
        (grammar(format!("start: {}\"a\"{}", "(".repeat(10_000), ")".repeat(10_000))), "nested"),
        (grammar(format!("start: \"a\" %if {}", "not(".repeat(10_000))), "64 parentheses"),
        (Constraint::Choice(Vec::new()), "at least one"),
    ];
    let vocabulary = vocabulary();
    for (constraint, why) in cases {
        let name: String = format!("{constraint:?}").chars().take(80).collect();
        let error = compile(&vocabulary, &constraint).err().unwrap_or_else(|| panic!("{name} was accepted"));
        assert_eq!(error.code, Code::Validation, "{name}");
        assert!(error.message.contains(why), "{name}: {}", error.message);
        assert!(error.message.len() < 1_000, "{name}: {}", error.message.len());
    }
}

#[test]
fn large_ones_stay_within_the_limits() {
    let keys =
        |n: usize| (0..n).map(|i| (format!("key{i}"), json!({ "type": "string", "maxLength": 2 }))).collect::<serde_json::Map<_, _>>();
    let cases = [
        schema(&json!({ "type": "object", "properties": keys(1_000), "additionalProperties": false })),
        schema(&json!({ "enum": (0..6_000).map(|i| i.to_string()).collect::<Vec<_>>() })),
        regex("(a|b)*a(a|b){14}"),
        regex("[a-z]{1,30000}"),
        Constraint::Choice((0..9_000).map(|i| format!("{i}")).collect()),
    ];
    for constraint in cases {
        let name: String = format!("{constraint:?}").chars().take(80).collect();
        assert!(!texts(&constraint).is_empty(), "{name}");
    }
}

#[test]
fn the_constraint_wins_over_banned_ids_only_where_nothing_else_is_allowed() {
    let row = RowSampling { banned: vec![END, ALSO_END], ..RowSampling::default() };
    let mut logits = vec![0.0; words().len()];
    logits[END as usize] = 5.0;
    let mut matcher = matcher(&regex("ab?"));
    let mut spent = Duration::ZERO;
    let mut chosen = || sample(&mut Sampler::default(), &logits, logits.len(), &row, &mut matcher, &mut spent).unwrap().token;
    assert_eq!([chosen(), chosen(), chosen()], [u32::from(b'a'), u32::from(b'b'), END]);
    assert!(spent > Duration::ZERO);
}

#[test]
fn handles_are_never_used_twice_and_a_release_forgets() {
    let directory = TempDir::new();
    let path = tokenizer_file(&directory, &byte_level(), &["a", "b", "<end>"]);
    let store = ConstraintStore::new(path, vec![2]);
    let handles: Vec<i32> = (0..3).map(|_| store.open(regex("[ab]+")).unwrap()).collect();
    assert_eq!((handles, store.count()), (vec![0, 1, 2], 3));
    let in_use = store.get(1).unwrap();
    store.release(1);
    store.release(1);
    assert_eq!(store.count(), 2);
    assert_eq!(store.get(1).err().unwrap().code, Code::StepFailed);
    in_use.lock().commit(0).unwrap();
    store.give_up(&in_use);
    assert_eq!(store.open(regex("[ab]+")).unwrap(), 3);
    assert_eq!(store.open(regex("c")).err().unwrap().code, Code::Validation);
    store.clear();
    assert_eq!(store.count(), 0);
}

fn byte_level() -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true })
}

/// A `tokenizer.json` of the given tokens, the last of which is special.
fn tokenizer_file(directory: &TempDir, decoder: &Value, tokens: &[&str]) -> std::path::PathBuf {
    let vocab: serde_json::Map<String, Value> = tokens.iter().enumerate().map(|(id, &token)| (token.to_owned(), id.into())).collect();
    let last = tokens.len() - 1;
    let added = json!({
        "id": last, "content": tokens[last], "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    });
    let model = json!({ "type": "BPE", "vocab": vocab, "merges": [] });
    let json = json!({ "version": "1.0", "added_tokens": [added], "decoder": decoder, "model": model });
    let path = directory.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    path
}

/// A decoder, the tokens of a vocabulary, and the bytes that each stands for.
type Case<'a> = (Value, &'a [&'a str], &'a [&'a [u8]]);

#[test]
fn tokens_stand_for_the_bytes_that_their_decoder_writes() {
    let fallback = json!({ "type": "Sequence", "decoders": [
        { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" }, { "type": "Fuse" },
        { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
    ] });
    let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
    let cases: [Case; 3] = [
        (
            byte_level(),
            &["x", "Ġthe", "Ċ", "Ã©", "Ã", "ÿ", "日", "<s>"],
            &[b"x", b" the", b"\n", "é".as_bytes(), b"\xc3", b"", "日".as_bytes(), b"\xff<s>"],
        ),
        (
            fallback,
            &["x", "▁the", "<0x0A>", "é", "<0xC3>", "<0xFF>", "<0xZZ>", "<s>"],
            &[b"x", b" the", b"\n", "é".as_bytes(), b"\xc3", b"", b"<0xZZ>", b"\xff<s>"],
        ),
        (metaspace, &["x", "▁the", "a▁b", "<s>"], &[b"x", b" the", b"a b", b"\xff<s>"]),
    ];
    for (decoder, tokens, expected) in cases {
        let directory = TempDir::new();
        let tokenizer = Tokenizer::from_file(&tokenizer_file(&directory, &decoder, tokens)).unwrap();
        let bytes = token_bytes(&tokenizer).unwrap();
        assert_eq!(bytes, expected, "{decoder}");
        // The decoder itself, in the middle of a text, where the bytes are characters.
        for (id, word) in bytes.iter().enumerate().filter(|(_, word)| word.first() != Some(&0xff)) {
            let Ok(text) = std::str::from_utf8(word) else { continue };
            let context = tokenizer.decode(&[0], false).unwrap();
            let decoded = tokenizer.decode(&[0, id as u32], false).unwrap();
            assert!(text.is_empty() || decoded == format!("{context}{text}"), "{decoder}: {id} {decoded:?}");
        }
    }
}

#[test]
fn a_tokenizer_whose_tokens_are_no_bytes_is_refused() {
    for decoder in [json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }), Value::Null] {
        let directory = TempDir::new();
        let path = tokenizer_file(&directory, &decoder, &["a", "<s>"]);
        let error = Vocabulary::from_file(&path, &[1]).err().unwrap();
        assert_eq!(error.code, Code::Tokenizer);
        assert!(error.message.contains("decoder"), "{}", error.message);
    }
    assert_eq!(Vocabulary::new(words(), &[1 << 20]).err().unwrap().code, Code::Tokenizer);
}
