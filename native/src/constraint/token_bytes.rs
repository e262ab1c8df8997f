//! The bytes that each token stands for, as the tokenizer's decoder would write them in the middle of a text.

use crate::error::{Code, Error, Result};
use crate::tokenizer::Tokenizer;
use serde_json::Value;
use toktrie::TokTrie;

/// Longer tokens are never chosen in constrained rows: the trie's depth is bounded.
const MAX_TOKEN_BYTES: usize = 512;

/// What a decoder does to one token.
enum Step {
    /// Every character stands for one byte (GPT-2's table).
    ByteLevel(Vec<Option<u8>>),
    /// `<0x0A>` stands for that byte.
    ByteFallback,
    /// A marker, as of a space, by what it stands for.
    Replace(String, String),
}

/// Characters of the byte-level alphabet are below this.
const BYTE_CHARS: usize = 0x144;

/// Bytes by token id. Special tokens begin with the trie's marker, which no text contains; ids without a token, or with
/// one that no text contains, are empty.
///
/// # Errors
/// `ERR_TOKENIZER` when the decoder is not of a kind whose tokens stand for bytes.
pub fn token_bytes(tokenizer: &Tokenizer) -> Result<Vec<Vec<u8>>> {
    let steps = steps_of(&tokenizer.decoder())?;
    let count = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    let bytes_of = |id: u32| {
        let Some(token) = tokenizer.token(id) else { return Vec::new() };
        if tokenizer.is_special(id) {
            return special(token.as_bytes());
        }
        let bytes = decode(&token, &steps);
        // A marker at the front would make it a special token; no UTF-8 text has such a byte.
        if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) || bytes.len() > MAX_TOKEN_BYTES { Vec::new() } else { bytes }
    };
    Ok((0..count).map(bytes_of).collect())
}

/// The word of a token that is not text.
pub fn special(name: &[u8]) -> Vec<u8> {
    let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
    word.extend(name.iter().take(MAX_TOKEN_BYTES));
    word
}

fn decode(token: &str, steps: &[Step]) -> Vec<u8> {
    let mut text = token.to_owned();
    for step in steps {
        match step {
            Step::ByteLevel(table) => {
                let byte = |c: char| table.get(c as usize).copied().flatten();
                // As the decoder does: a token with any other character is taken as it is.
                return text.chars().map(byte).collect::<Option<Vec<u8>>>().unwrap_or_else(|| text.clone().into_bytes());
            }
            Step::ByteFallback => {
                let hex = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|hex| hex.len() == 2);
                if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    return vec![byte];
                }
            }
            Step::Replace(from, to) => text = text.replace(from, to),
        }
    }
    text.into_bytes()
}

fn steps_of(decoder: &Value) -> Result<Vec<Step>> {
    let text = |key: &str| decoder[key].as_str().map(str::to_owned);
    let step = match decoder["type"].as_str() {
        Some("Sequence") => {
            let parts: Result<Vec<_>> = decoder["decoders"].as_array().into_iter().flatten().map(steps_of).collect();
            return Ok(parts?.into_iter().flatten().collect());
        }
        // These join tokens or trim the ends of a whole text.
        Some("Fuse" | "Strip") => return Ok(Vec::new()),
        Some("ByteLevel") => Step::ByteLevel(byte_alphabet()),
        Some("ByteFallback") => Step::ByteFallback,
        Some("Metaspace") => Step::Replace(text("replacement").unwrap_or_else(|| "▁".to_owned()), " ".to_owned()),
        Some("Replace") => match (decoder["pattern"]["String"].as_str(), text("content")) {
            (Some(from), Some(to)) if !from.is_empty() => Step::Replace(from.to_owned(), to),
            _ => return Err(unsupported(decoder)),
        },
        _ => return Err(unsupported(decoder)),
    };
    Ok(vec![step])
}

fn unsupported(decoder: &Value) -> Error {
    let what = format!(
        "structured output needs a tokenizer whose tokens stand for bytes (decoder ByteLevel, ByteFallback or Metaspace), got decoder {decoder}: send the request without a constraint"
    );
    Error::new(Code::Tokenizer, what)
}

/// Printable Latin-1 characters stand for themselves, the other bytes for characters from U+0100 on, in their order.
fn byte_alphabet() -> Vec<Option<u8>> {
    let mut table = vec![None; BYTE_CHARS];
    let mut next = 0x100;
    for byte in 0..=u8::MAX {
        let place = match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => usize::from(byte),
            _ => {
                next += 1;
                next - 1
            }
        };
        table[place] = Some(byte);
    }
    table
}
