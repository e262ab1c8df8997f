//! Text to ids and back, over the Hugging Face `tokenizers` crate.

use crate::error::{Code, Error, Result};
use std::path::Path;
use std::sync::Arc;

/// What a byte-level decoder prints for bytes that are not (yet) a character.
const REPLACEMENT: char = '\u{FFFD}';

/// Bounds the table of special tokens, whatever ids a file claims.
const MAX_IDS: usize = 1 << 24;

pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: Vec<bool>,
}

impl Tokenizer {
    /// # Errors
    /// `ERR_TOKENIZER` naming the file.
    pub fn from_file(path: &Path) -> Result<Self> {
        let inner = tokenizers::Tokenizer::from_file(path).map_err(|e| {
            Error::new(Code::Tokenizer, format!("{}: {e}: expected a tokenizer.json of the Hugging Face format", path.display()))
        })?;
        let mut special = vec![false; inner.get_vocab_size(true)];
        for (&id, token) in &inner.get_added_tokens_decoder() {
            let id = id as usize;
            if id >= MAX_IDS {
                return Err(Error::new(Code::Tokenizer, format!("{}: expected token ids below {MAX_IDS}, got {id}", path.display())));
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

    /// # Errors
    /// `ERR_TOKENIZER` with the reason.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner.decode(ids, skip_special_tokens).map_err(|e| Error::new(Code::Tokenizer, e.to_string()))
    }

    #[must_use]
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
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

/// Decodes a growing sequence. The concatenated pieces are a prefix of the whole decode that ends at a character.
///
/// A window of recent ids is decoded at each push; what it held back is given out once it no longer ends in bytes that
/// could still become a character. The last id stays in the window as context, so that decoders that treat the first
/// piece of a text specially do so only there.
pub struct DecodeStream {
    tokenizer: Arc<Tokenizer>,
    skip_special_tokens: bool,
    window: Vec<u32>,
    /// Bytes of the window's text already given out.
    emitted: usize,
}

impl DecodeStream {
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special_tokens: bool) -> Self {
        Self { tokenizer, skip_special_tokens, window: Vec::new(), emitted: 0 }
    }

    /// The text that became certain with `id`, if any.
    ///
    /// # Errors
    /// `ERR_TOKENIZER` with the reason.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        if self.skip_special_tokens && self.tokenizer.is_special(id) {
            return Ok(None);
        }
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window, self.skip_special_tokens)?;
        let certain = text.trim_end_matches(REPLACEMENT).len();
        let piece = text.get(self.emitted..certain).filter(|piece| !piece.is_empty()).map(str::to_owned);
        if piece.is_some() {
            self.emitted = certain;
        }
        if certain == text.len() {
            self.window = vec![id];
            self.emitted = self.tokenizer.decode(&self.window, self.skip_special_tokens)?.len();
        }
        Ok(piece)
    }
}
