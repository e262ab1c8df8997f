//! PEFT's module patterns on a linear-time engine: hostile patterns cannot backtrack.

use crate::error::{Code, Error, Result};
use regex::{Regex, RegexBuilder};

const MAX_PATTERN_LENGTH: usize = 512;
const MAX_PATTERNS: usize = 10_000;
/// Compiled size of one pattern; counted repetitions of repetitions stop here.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// For each name the index of the first pattern that matches all of it, or −1.
///
/// # Errors
/// `ERR_ADAPTER_INVALID` naming a pattern that is too long, too large when compiled, or uses what the engine lacks
/// (look-around, back-references).
pub fn first_matches(patterns: &[String], names: &[String]) -> Result<Vec<i32>> {
    if patterns.len() > MAX_PATTERNS {
        return Err(Error::new(Code::AdapterInvalid, format!("expected at most {MAX_PATTERNS} patterns, got {}", patterns.len())));
    }
    let compiled = patterns.iter().map(|pattern| compile(pattern)).collect::<Result<Vec<_>>>()?;
    Ok(names
        .iter()
        .map(|name| compiled.iter().position(|pattern| pattern.is_match(name)).and_then(|i| i32::try_from(i).ok()).unwrap_or(-1))
        .collect())
}

fn compile(pattern: &str) -> Result<Regex> {
    if pattern.len() > MAX_PATTERN_LENGTH {
        let start: String = pattern.chars().take(60).collect();
        return Err(Error::new(
            Code::AdapterInvalid,
            format!("pattern `{start}…` has {} bytes, expected at most {MAX_PATTERN_LENGTH}", pattern.len()),
        ));
    }
    RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(MAX_COMPILED_BYTES).build().map_err(|e| {
        let reason = e.to_string();
        let reason = reason.lines().last().unwrap_or("not supported").trim();
        Error::new(Code::AdapterInvalid, format!("pattern `{pattern}` cannot be used: {reason}. List the module names instead"))
    })
}
