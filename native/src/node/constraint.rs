//! A constraint as JavaScript says it. Shape: `src/core/constraint.ts`.

use crate::constraint::Constraint;
use crate::error::{Code, Error, Result};
use napi_derive::napi;

#[napi(object, object_to_js = false)]
pub struct ConstraintObject {
    pub kind: String,
    pub schema: Option<String>,
    pub pattern: Option<String>,
    pub grammar: Option<String>,
    pub choices: Option<Vec<String>>,
}

impl ConstraintObject {
    pub fn into_constraint(self) -> Result<Constraint> {
        let kind = self.kind;
        let known = match kind.as_str() {
            "json_object" => Some(Constraint::JsonObject),
            "json_schema" => self.schema.map(Constraint::JsonSchema),
            "regex" => self.pattern.map(Constraint::Regex),
            "grammar" => self.grammar.map(Constraint::Grammar),
            "choice" => self.choices.map(Constraint::Choice),
            _ => None,
        };
        known.ok_or_else(|| Error::new(Code::Validation, format!("constraint: expected a known kind with its text, got kind {kind}")))
    }
}
