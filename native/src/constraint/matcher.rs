//! One sequence's place in its constraint.

use super::compile::plain;
use super::vocabulary::Vocabulary;
use llguidance::TokenParser;
use toktrie::SimpleVob;

/// Follows one sequence: `mask`, choose a token, `commit`, and again. Clones go on from the same place; their lexers share
/// what they have learned.
#[derive(Clone)]
pub struct Matcher {
    inner: llguidance::Matcher,
    end_ids: Vec<u32>,
    mask: SimpleVob,
}

impl Matcher {
    pub(super) fn new(parser: TokenParser, vocabulary: &Vocabulary) -> Self {
        let inner = llguidance::Matcher::new(Ok(parser));
        Self { inner, end_ids: vocabulary.end_ids.clone(), mask: SimpleVob::new() }
    }

    /// Which tokens may come next, bit i of word i / 32; ids beyond are not allowed. End ids are allowed exactly where the
    /// constraint may end.
    ///
    /// # Errors
    /// Why there is none: nothing can follow, or a limit is exceeded. The matcher is of no more use then.
    pub fn mask(&mut self) -> Result<&[u32], String> {
        self.mask = self.inner.compute_mask_or_eos().map_err(|e| plain(&e.to_string()))?;
        if self.mask.is_zero() { Err("no token can follow".to_owned()) } else { Ok(self.mask.as_slice()) }
    }

    /// Takes the token that was chosen; an end id ends the constraint.
    ///
    /// # Errors
    /// The token was not in the mask, or a limit is exceeded. The matcher is of no more use then.
    pub fn commit(&mut self, token: u32) -> Result<(), String> {
        if self.end_ids.contains(&token) {
            return Ok(());
        }
        self.inner.consume_token(token).map_err(|e| plain(&e.to_string()))
    }

    /// Frees the last mask.
    pub(super) fn forget_mask(&mut self) {
        self.mask = SimpleVob::new();
    }
}
