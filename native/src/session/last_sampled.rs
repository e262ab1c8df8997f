//! What each sequence slot sampled last: the token of a row that says −(s + 1).

use crate::error::{Code, Error, Result};

/// One entry a sequence slot.
pub struct LastSampled {
    tokens: Vec<u32>,
    vocab: usize,
}

impl LastSampled {
    #[must_use]
    pub fn new(slots: usize, vocab: usize) -> Self {
        Self { tokens: vec![0; slots], vocab }
    }

    /// Remembers `token` for `slot`; −1 remembers nothing.
    pub fn set(&mut self, slot: i32, token: u32) {
        if let Some(last) = usize::try_from(slot).ok().and_then(|slot| self.tokens.get_mut(slot)) {
            *last = token;
        }
    }

    /// Refuses what is neither −1 nor a slot.
    ///
    /// # Errors
    /// `ERR_STEP_FAILED` naming the first such.
    pub fn check(&self, slots: &[i32]) -> Result<()> {
        let known = |slot: i32| slot == -1 || usize::try_from(slot).is_ok_and(|slot| slot < self.tokens.len());
        match slots.iter().find(|&&slot| !known(slot)) {
            Some(slot) => {
                let most = self.tokens.len();
                Err(Error::new(Code::StepFailed, format!("sampling.slot: expected −1 or a sequence slot below {most}, got {slot}")))
            }
            None => Ok(()),
        }
    }

    /// Token ids as the graph wants them; `−(s+1)` becomes what slot s sampled last. Where that was no token the row was asked
    /// for before anyone knew, and nobody will look at what it gives: it is one of token 0, as on a device.
    ///
    /// # Errors
    /// `ERR_STEP_FAILED` for an id beyond the vocabulary, and a slot that is none.
    pub fn resolve(&self, tokens: &[i32]) -> Result<Vec<i64>> {
        let vocab = self.vocab;
        tokens
            .iter()
            .map(|&token| match usize::try_from(token) {
                Ok(id) if id < vocab => Ok(i64::from(token)),
                Ok(id) => Err(Error::new(Code::StepFailed, format!("tokens: expected ids below {vocab}, got {id}"))),
                Err(_) => {
                    let slot = usize::try_from(-(i64::from(token) + 1)).unwrap_or(usize::MAX);
                    let last = self.tokens.get(slot).ok_or_else(|| {
                        Error::new(Code::StepFailed, format!("tokens: expected sequence slots below {}, got {slot}", self.tokens.len()))
                    })?;
                    Ok(if (*last as usize) < vocab { i64::from(*last) } else { 0 })
                }
            })
            .collect()
    }
}
