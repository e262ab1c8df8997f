//! From the text of a constraint to the state before its first token.

use super::Constraint;
use super::locate::locate;
use super::matcher::Matcher;
use super::vocabulary::Vocabulary;
use crate::error::{Code, Error, Result};
use llguidance::api::TopLevelGrammar;
use llguidance::{JsonCompileOptions, regex_to_lark};
use serde_json::{Map, Value};
use std::fmt::Display;

/// Longest text of a constraint in bytes; of a choice all texts together.
pub const MAX_BYTES: usize = 64 << 10;
/// Conditions of parametric rules are parsed and evaluated recursively.
const MAX_CONDITION_DEPTH: usize = 64;
/// Space between JSON tokens: bounded, so that a model that likes it cannot spend all of its tokens there.
const JSON_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,32}";

/// Compiles for `vocabulary` and tries the first mask.
///
/// # Errors
/// `ERR_VALIDATION` saying why nothing can match, what is not supported or which limit is exceeded.
pub fn compile(vocabulary: &Vocabulary, constraint: &Constraint) -> Result<Matcher> {
    check_size(constraint)?;
    let grammar = grammar_of(constraint)?;
    let parser = vocabulary.factory.create_parser(grammar).map_err(|e| refused(constraint, &e))?;
    let mut matcher = Matcher::new(parser, vocabulary);
    // What can never match may show only here.
    matcher.clone().mask().map_err(|what| refused(constraint, &what))?;
    matcher.forget_mask();
    Ok(matcher)
}

fn check_size(constraint: &Constraint) -> Result<()> {
    let bytes = match constraint {
        Constraint::JsonObject => 0,
        Constraint::JsonSchema(text) | Constraint::Regex(text) | Constraint::Grammar(text) => text.len(),
        Constraint::Choice(texts) => texts.iter().map(String::len).sum(),
    };
    if bytes > MAX_BYTES { Err(refused(constraint, &format!("expected at most {MAX_BYTES} bytes, got {bytes}"))) } else { Ok(()) }
}

fn grammar_of(constraint: &Constraint) -> Result<TopLevelGrammar> {
    let fail = |what: &str| refused(constraint, &what);
    match constraint {
        Constraint::JsonObject => Ok(json_grammar(Map::from_iter([("type".to_owned(), Value::from("object"))]))),
        Constraint::JsonSchema(text) => match serde_json::from_str(text) {
            Ok(Value::Object(schema)) => Ok(json_grammar(schema)),
            Ok(Value::Bool(true)) => Ok(json_grammar(Map::new())),
            Ok(Value::Bool(false)) => Err(fail("the schema false matches nothing")),
            Ok(_) => Err(fail("expected a JSON object or true")),
            Err(e) => Err(fail(&format!("expected JSON: {e}"))),
        },
        Constraint::Regex(pattern) => {
            if pattern.bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 1 {
                return Err(fail("the pattern ends in a lone backslash"));
            }
            // Classes as in ECMAScript: \d and \w are ASCII.
            let pattern = regex_to_lark(pattern, "dw");
            Ok(TopLevelGrammar::from_lark(if pattern.is_empty() { "start: \"\"".to_owned() } else { format!("start: /{pattern}/") }))
        }
        Constraint::Grammar(text) => {
            let deep = |condition: &str| condition.matches('(').count() > MAX_CONDITION_DEPTH;
            if text.lines().any(|line| line.split_once("%if").is_some_and(|(_, condition)| deep(condition))) {
                return Err(fail(&format!("expected at most {MAX_CONDITION_DEPTH} parentheses after %if")));
            }
            Ok(TopLevelGrammar::from_lark(text.clone()))
        }
        Constraint::Choice(texts) => {
            if texts.is_empty() {
                return Err(fail("expected at least one text"));
            }
            let quoted: Vec<String> = texts.iter().map(|text| quote(text)).collect();
            Ok(TopLevelGrammar::from_lark(format!("start: CHOICE\nCHOICE: {}", quoted.join(" | "))))
        }
    }
}

fn json_grammar(schema: Map<String, Value>) -> TopLevelGrammar {
    let mut schema = Value::Object(schema);
    // Its keyword in a schema is an annotation like any other unknown one: what a caller put there goes.
    JsonCompileOptions { whitespace_pattern: Some(JSON_SPACE.to_owned()), ..JsonCompileOptions::default() }.apply_to(&mut schema);
    TopLevelGrammar::from_json_schema(schema)
}

fn refused(constraint: &Constraint, what: &dyn Display) -> Error {
    let kind = match constraint {
        Constraint::JsonObject => "JSON object",
        Constraint::JsonSchema(_) => "JSON Schema",
        Constraint::Regex(_) => "regular expression",
        Constraint::Grammar(_) => "grammar",
        Constraint::Choice(_) => "choice",
    };
    let what = what.to_string();
    let place = place(constraint, &what).map_or(String::new(), |pointer| format!(" (at {pointer})"));
    Error::new(Code::Validation, format!("constraint, {kind}: {}{place}", plain(&what)))
}

/// JSON pointer of the first keyword that a message about a schema says is not there to use.
fn place(constraint: &Constraint, message: &str) -> Option<String> {
    let Constraint::JsonSchema(text) = constraint else { return None };
    let keyword = message.strip_prefix("Unimplemented keys: [\"")?.split('"').next()?;
    locate(&serde_json::from_str(text).ok()?, keyword)
}

/// A JSON string of printable ASCII, which is what Lark's lexer takes.
fn quote(text: &str) -> String {
    let escaped = text.encode_utf16().map(|unit| match u8::try_from(unit) {
        Ok(byte @ b' '..=b'~') if byte != b'"' && byte != b'\\' => char::from(byte).to_string(),
        _ => format!("\\u{unit:04x}"),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// The crate's message in a caller's terms: nothing of its state or of the grammar that we put around a text, at most
/// 500 characters.
pub(super) fn plain(message: &str) -> String {
    match message {
        "NoExtensionBias" => return "nothing can match".to_owned(),
        m if m.starts_with("oneOf constraints are not supported") => {
            return "oneOf is supported only where no value matches two of its schemas for certain (types, constants or required properties tell them apart): use anyOf".to_owned();
        }
        _ => {}
    }
    let ends = ["\n<state>", "\n<non-verbose/>", "\n<backtrace>", "\n   1 | start: "];
    let end = ends.iter().filter_map(|mark| message.find(mark)).min().unwrap_or(message.len());
    let begin = message.find("regex parse error:").filter(|&begin| begin < end).unwrap_or(0);
    let text: String = message[begin..end].trim().chars().take(500).collect();
    text.strip_prefix("panic: ").map(|why| format!("beyond what can be computed: {why}")).unwrap_or(text)
}
