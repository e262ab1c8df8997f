//! Text to ids and back, over the Hugging Face `tokenizers` crate.

use crate::error::{Code, Error, Result};
use std::path::Path;

/// Bounds the table of special tokens, whatever ids a file claims.
const MAX_IDS: usize = 1 << 24;

/// The tokens of a text, and where each of them lies in it.
pub struct Spans {
    pub ids: Vec<u32>,
    /// The tokens as the vocabulary spells them, one after the other.
    pub tokens: String,
    /// Where each of them ends in `tokens`, in UTF-16 units.
    pub ends: Vec<u32>,
    /// Start and stop of each token in turn, in Unicode scalar values of the text.
    pub offsets: Vec<u32>,
}

pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: Vec<bool>,
}

impl Tokenizer {
    /// # Errors
    /// `ERR_TOKENIZER` naming the file.
    pub fn from_file(path: &Path) -> Result<Self> {
        let named = |e: Error| Error::new(e.code, format!("{}: {}", path.display(), e.message));
        let json = std::fs::read(path).map_err(|e| named(Error::new(Code::Tokenizer, format!("{e}: expected a tokenizer.json"))))?;
        Self::from_json(&json).map_err(named)
    }

    /// From the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// `ERR_TOKENIZER` with the reason.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let inner = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|e| Error::new(Code::Tokenizer, format!("{e}: expected a tokenizer.json of the Hugging Face format")))?;
        let mut special = vec![false; inner.get_vocab_size(true)];
        for (&id, token) in &inner.get_added_tokens_decoder() {
            let id = id as usize;
            if id >= MAX_IDS {
                return Err(Error::new(Code::Tokenizer, format!("expected token ids below {MAX_IDS}, got {id}")));
            }
            if id >= special.len() {
                special.resize(id + 1, false);
            }
            special[id] = token.special;
        }
        Ok(Self { inner, special })
    }

    /// # Errors
    /// `ERR_TOKENIZER` with the reason.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, add_special_tokens).map_err(|e| Error::new(Code::Tokenizer, e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As `encode`, with the place of every token. Tokens that the tokenizer adds lie nowhere: from 0 to 0.
    ///
    /// # Errors
    /// `ERR_TOKENIZER` with the reason.
    pub fn encode_spans(&self, text: &str, add_special_tokens: bool) -> Result<Spans> {
        let encoding = self.inner.encode_char_offsets(text, add_special_tokens).map_err(|e| Error::new(Code::Tokenizer, e.to_string()))?;
        let narrow = |at: usize| u32::try_from(at).map_err(|_| Error::new(Code::Tokenizer, "expected a text below 4 GiB".to_owned()));
        let mut spans = Spans {
            ids: encoding.get_ids().to_vec(),
            tokens: encoding.get_tokens().concat(),
            ends: Vec::with_capacity(encoding.len()),
            offsets: Vec::with_capacity(encoding.len() * 2),
        };
        let mut end = 0;
        for (token, &(start, stop)) in encoding.get_tokens().iter().zip(encoding.get_offsets()) {
            end += token.chars().map(char::len_utf16).sum::<usize>();
            spans.ends.push(narrow(end)?);
            spans.offsets.extend([narrow(start)?, narrow(stop)?]);
        }
        Ok(spans)
    }

    /// # Errors
    /// `ERR_TOKENIZER` with the reason.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner.decode(ids, skip_special_tokens).map_err(|e| Error::new(Code::Tokenizer, e.to_string()))
    }

    /// An id's token as the vocabulary spells it.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The decoder as tokenizer.json describes it; null when there is none.
    #[must_use]
    pub fn decoder(&self) -> serde_json::Value {
        self.inner.get_decoder().and_then(|decoder| serde_json::to_value(decoder).ok()).unwrap_or_default()
    }

    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// Ids are below this.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.special.len()
    }
}
