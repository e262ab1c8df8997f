//! A tokenizer's vocabulary as constraints see it: a trie over the bytes of its tokens.

use super::token_bytes::{special, token_bytes};
use crate::error::{Code, Error, Result};
use crate::tokenizer::Tokenizer;
use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use std::path::Path;
use std::sync::Arc;
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

/// What one constraint may cost: a mask some 20 ms at worst, by the fuel of its lexer and the items of its parser, of
/// which a schema of many optional properties needs several for each; a state of the lexer takes 1 to 2 kB.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 20_000,
        step_max_items: 200_000,
        max_lexer_states: 50_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// Immutable; shared by all constraints.
pub struct Vocabulary {
    pub(super) factory: ParserFactory,
    pub(super) end_ids: Vec<u32>,
}

impl Vocabulary {
    /// Reads a `tokenizer.json`. `end_ids` end a generation.
    ///
    /// # Errors
    /// `ERR_TOKENIZER` naming the file, or the decoder that does not work on bytes.
    pub fn from_file(path: &Path, end_ids: &[u32]) -> Result<Self> {
        Self::new(token_bytes(&Tokenizer::from_file(path)?)?, end_ids)
    }

    /// Of the bytes of each token; see [`token_bytes`].
    ///
    /// # Errors
    /// `ERR_TOKENIZER` when no end id is in the vocabulary.
    pub fn new(mut words: Vec<Vec<u8>>, end_ids: &[u32]) -> Result<Self> {
        let failed = |what: String| Error::new(Code::Tokenizer, format!("structured output: {what}"));
        let end_ids: Vec<u32> = end_ids.iter().copied().filter(|&id| (id as usize) < words.len()).collect();
        let Some(&first) = end_ids.first() else {
            return Err(failed(format!("expected an end-of-text id among the {} of the tokenizer", words.len())));
        };
        for &id in &end_ids {
            let word = &mut words[id as usize];
            // As text it could come in the middle: the end is allowed where the constraint ends, and only there.
            if word.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
                *word = special(format!("<end-{id}>").as_bytes());
            }
        }
        let count = u32::try_from(words.len()).map_err(|_| failed(format!("too many tokens: {}", words.len())))?;
        let trie = TokTrie::from(&TokRxInfo::new(count, first), &words).with_eos_tokens(&end_ids);
        // The environment does not force canonical tokenization: whatever tokens spell the text are allowed.
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|e| failed(e.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self { factory, end_ids })
    }
}
