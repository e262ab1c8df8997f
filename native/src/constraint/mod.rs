//! Structured output: which tokens may come next, so that all of a generation matches a constraint.
//!
//! Constraints are compiled by the `llguidance` crate, which parses the bytes of the tokens generated so far and walks
//! the vocabulary's trie for those that may follow. Nothing here knows Node or the session.

pub mod compile;
mod locate;
pub mod matcher;
pub mod sample;
pub mod store;
pub mod token_bytes;
pub mod vocabulary;

/// What generated text must look like, from its first byte to its last; mirrors `src/core/constraint.ts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    JsonObject,
    /// JSON text of a JSON Schema.
    JsonSchema(String),
    Regex(String),
    /// Lark syntax.
    Grammar(String),
    Choice(Vec<String>),
}
