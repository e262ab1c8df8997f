//! Where in a schema a refused keyword stands: the crate names the keyword alone.

use serde_json::Value;

/// Members of these are named by the caller.
const NAMED: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
/// Values of these are no schemas.
const DATA: [&str; 4] = ["enum", "const", "default", "examples"];

/// JSON pointer of the first member called `keyword`, in the order of the text; None where there is none.
pub fn locate(schema: &Value, keyword: &str) -> Option<String> {
    find(schema, keyword, false)
}

fn find(value: &Value, keyword: &str, named: bool) -> Option<String> {
    let below = |name: &str, rest: String| format!("/{}{rest}", name.replace('~', "~0").replace('/', "~1"));
    match value {
        Value::Object(members) => members.iter().find_map(|(name, member)| {
            if named {
                return find(member, keyword, false).map(|rest| below(name, rest));
            }
            if name == keyword {
                return Some(below(name, String::new()));
            }
            if DATA.contains(&name.as_str()) {
                return None;
            }
            find(member, keyword, NAMED.contains(&name.as_str())).map(|rest| below(name, rest))
        }),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(at, item)| find(item, keyword, false).map(|rest| below(&at.to_string(), rest)))
        }
        _ => None,
    }
}
