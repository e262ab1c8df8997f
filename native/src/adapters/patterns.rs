//! PEFT's module patterns on a linear-time engine: hostile patterns cannot backtrack.

use crate::error::{Code, Error, Result};
use regex::{Regex, RegexBuilder};
use std::time::{Duration, Instant};

/// A key of 512 bytes and what the caller wraps around it.
const MAX_PATTERN_LENGTH: usize = 600;
const MAX_PATTERNS: usize = 10_000;
/// Compiled size of one pattern; counted repetitions of repetitions stop here.
const MAX_COMPILED_BYTES: usize = 1 << 20;
/// Time for all patterns of one adapter; real ones take milliseconds, the most expensive ones allowed 15 ms each.
const MAX_TIME: Duration = Duration::from_secs(5);

/// For each name the index of the first pattern that matches all of it, or −1.
///
/// # Errors
/// `ERR_ADAPTER_INVALID` naming a pattern that is too long, too large when compiled, or uses what the engine lacks
/// (look-around, back-references); or when all of them take longer than five seconds.
pub fn first_matches(patterns: &[String], names: &[String]) -> Result<Vec<i32>> {
    if patterns.len() > MAX_PATTERNS {
        return Err(Error::new(Code::AdapterInvalid, format!("expected at most {MAX_PATTERNS} patterns, got {}", patterns.len())));
    }
    let started = Instant::now();
    let mut matches = vec![-1; names.len()];
    // Pattern by pattern, so that only one is compiled at a time: ten thousand large ones would take gigabytes.
    for (i, pattern) in (0..).zip(patterns) {
        if started.elapsed() > MAX_TIME {
            let limit = MAX_TIME.as_secs();
            return Err(Error::new(
                Code::AdapterInvalid,
                format!("{} patterns, of which {i} took {limit} s: list the module names instead", patterns.len()),
            ));
        }
        let compiled = compile(pattern)?;
        for (found, name) in matches.iter_mut().zip(names) {
            if *found < 0 && compiled.is_match(name) {
                *found = i;
            }
        }
    }
    Ok(matches)
}

fn compile(pattern: &str) -> Result<Regex> {
    if pattern.len() > MAX_PATTERN_LENGTH {
        let start: String = pattern.chars().take(60).collect();
        return Err(Error::new(
            Code::AdapterInvalid,
            format!("pattern `{start}…` has {} bytes, expected at most {MAX_PATTERN_LENGTH}", pattern.len()),
        ));
    }
    let build = |text: &str| RegexBuilder::new(text).size_limit(MAX_COMPILED_BYTES).build();
    // First as it stands, so that a stray parenthesis cannot reach out of the group.
    build(pattern).and_then(|_| build(&format!("^(?:{pattern})$"))).map_err(|e| {
        let reason = e.to_string();
        let reason = reason.lines().last().unwrap_or("not supported").trim();
        Error::new(Code::AdapterInvalid, format!("pattern `{pattern}` cannot be used: {reason}. List the module names instead"))
    })
}
