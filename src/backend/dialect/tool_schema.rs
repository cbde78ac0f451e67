//! Schemas of tools on their way to codex, which reads a part of JSON Schema (0.142.5 – 0.169.0): it drops every other
//! keyword, takes values without a type for text, refuses some forms, and of a large schema leaves little but the names
//! of the properties. So a schema takes the form that comes through, and where that says less than the client did, its
//! own text goes to the model at the end of the tool's description.

use serde_json::{Map, Value, json};

use crate::turn::Tool;

/// Bytes up to which no version cuts a schema (4,000 at first, 5,000 later).
const MAX_BYTES: usize = 4000;
/// Keywords that change nothing.
const IDLE: [&str; 4] = ["title", "$schema", "$id", "$comment"];
const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "object", "array", "null"];

/// The description and the schema of a tool, as codex is to get them. `plain`: it keeps only what every version does.
pub(super) fn fit(tool: &Tool, plain: bool) -> (String, Value) {
    let own: Value = serde_json::from_str(&tool.parameters).unwrap_or_default();
    let mut is_whole = true;
    let schema = reduce(&own, &mut is_whole);
    if is_whole && (!plain || is_plain(&own)) && schema.to_string().len() <= MAX_BYTES {
        return (tool.description.clone(), schema);
    }
    let gap = if tool.description.is_empty() { "" } else { "\n\n" };
    (format!("{}{gap}{}", tool.description, tool.parameters), schema)
}

/// Whether it is of nothing but the types and keywords that all versions keep (0.92 – 0.141 make strings or numbers of the
/// others).
fn is_plain(schema: &Value) -> bool {
    schema.as_object().is_some_and(|schema| {
        schema.iter().all(|(key, value)| match (key.as_str(), value) {
            ("type", Value::String(name)) => !["integer", "null"].contains(&name.as_str()),
            ("description" | "required", _) | ("additionalProperties", Value::Bool(_)) => true,
            ("items", value) => is_plain(value),
            ("properties", Value::Object(schemas)) => schemas.values().all(is_plain),
            _ => false,
        })
    })
}

/// What of a schema comes through; `is_whole` becomes false where that is not all.
fn reduce(schema: &Value, is_whole: &mut bool) -> Value {
    let Value::Object(own) = schema else {
        *is_whole &= *schema == Value::Bool(true);
        return json!({});
    };
    let mut out = Map::new();
    for (key, value) in own {
        let kept = match (key.as_str(), value) {
            ("type", Value::String(name)) => TYPES.contains(&name.as_str()).then(|| value.clone()),
            ("type", Value::Array(names)) => {
                let known = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
                (!names.is_empty() && names.iter().all(known)).then(|| value.clone())
            }
            ("description" | "$ref", Value::String(_))
            | ("enum", Value::Array(_))
            | ("additionalProperties", Value::Bool(_)) => Some(value.clone()),
            ("required", Value::Array(names)) => names.iter().all(Value::is_string).then(|| value.clone()),
            ("items" | "additionalProperties", Value::Object(_) | Value::Bool(true)) => Some(reduce(value, is_whole)),
            ("properties" | "$defs" | "definitions", Value::Object(schemas)) => {
                Some(schemas.iter().map(|(name, schema)| (name.clone(), reduce(schema, is_whole))).collect())
            }
            ("anyOf" | "oneOf" | "allOf", Value::Array(schemas)) => {
                Some(schemas.iter().map(|schema| reduce(schema, is_whole)).collect())
            }
            ("const", value) => {
                out.insert("enum".to_owned(), json!([value]));
                continue;
            }
            (key, _) if IDLE.contains(&key) => continue,
            _ => None,
        };
        match kept {
            Some(value) => drop(out.insert(key.clone(), value)),
            None => *is_whole = false,
        }
    }
    complete(&mut out);
    Value::Object(out)
}

/// Says what codex would otherwise guess wrong.
fn complete(schema: &mut Map<String, Value>) {
    let combines = ["$ref", "anyOf", "oneOf", "allOf"].iter().any(|key| schema.contains_key(*key));
    if let (Some(Value::Array(values)), None, false) = (schema.get("enum"), schema.get("type"), combines) {
        let mut types: Vec<&str> = values.iter().map(type_of).collect();
        types.sort_unstable();
        types.dedup();
        match types.as_slice() {
            [] => {}
            [only] => drop(schema.insert("type".to_owned(), json!(only))),
            several => drop(schema.insert("type".to_owned(), json!(several))),
        }
    }
    let is_array = schema
        .get("type")
        .is_some_and(|kind| kind == "array" || kind.as_array().is_some_and(|kinds| kinds.contains(&json!("array"))));
    if is_array && !schema.contains_key("items") {
        schema.insert("items".to_owned(), json!({}));
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(description: &str, parameters: &Value) -> Tool {
        Tool { name: "t".into(), description: description.into(), parameters: parameters.to_string() }
    }

    #[test]
    fn what_comes_through_stays_as_it_is() {
        let schema = json!({"type": "object", "required": ["a"], "additionalProperties": false, "$defs": {"d": {"type": "null"}},
            "properties": {"a": {"type": ["string", "null"], "enum": ["x", null], "description": "d"}, "b": {},
                "c": {"type": "array", "items": {"$ref": "#/$defs/d"}}, "d": {"anyOf": [{"type": "integer"}, {"type": "boolean"}]},
                "e": {"type": "object", "additionalProperties": {"type": "number"}}}});
        assert_eq!(fit(&tool("words", &schema), false), ("words".to_owned(), schema));
    }

    #[test]
    fn what_means_the_same_takes_another_form() {
        for (own, form) in [
            (json!({"const": 1}), json!({"enum": [1], "type": "number"})),
            (json!({"type": "string", "const": "a"}), json!({"type": "string", "enum": ["a"]})),
            (json!({"enum": ["a", 1, "b"]}), json!({"enum": ["a", 1, "b"], "type": ["number", "string"]})),
            (json!({"type": "array"}), json!({"type": "array", "items": {}})),
            (json!({"title": "T", "$schema": "s", "items": true}), json!({"items": {}})),
        ] {
            assert_eq!(fit(&tool("words", &own), false), ("words".to_owned(), form), "{own}");
        }
    }

    #[test]
    fn what_does_not_come_through_is_told_in_the_description() {
        for (own, form) in [
            (json!({"type": "integer", "minimum": 1}), json!({"type": "integer"})),
            (json!({"type": "any"}), json!({})),
            (json!({"type": []}), json!({})),
            (json!({"items": [{"type": "string"}], "type": "array"}), json!({"type": "array", "items": {}})),
            (json!({"properties": {"a": {"required": true, "enum": 1}}}), json!({"properties": {"a": {}}})),
            (json!({"anyOf": [false, 7]}), json!({"anyOf": [{}, {}]})),
            (json!({"$ref": 5, "required": [1]}), json!({})),
            (json!([]), json!({})),
        ] {
            assert_eq!(fit(&tool("words", &own), false), (format!("words\n\n{own}"), form), "{own}");
        }
        // Of the older versions, which keep less.
        let own = json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "number"}}}, "required": ["a"]});
        assert_eq!(fit(&tool("words", &own), true), ("words".to_owned(), own));
        for own in [json!({"type": "integer"}), json!({"enum": ["a"]}), json!({"properties": {"a": {"$ref": "#"}}})] {
            assert_eq!(fit(&tool("words", &own), true).0, format!("words\n\n{own}"));
        }
        let long = json!({"type": "object", "description": "x".repeat(MAX_BYTES)});
        assert_eq!(fit(&tool("", &long), false).0, long.to_string());
    }
}
