//! Formats of an answer. Codex sends every schema as strict: each object closed, each property required. A schema that
//! says less is brought there if no answer that it means gets lost and every answer that the strict form allows fits
//! it, too; else it is a 400 that names the place.

use std::collections::HashSet;
use std::io::Write;

use super::error::ApiError;
use super::json::{Node, each};
use super::prompt::ONE_JSON_OBJECT;
use super::tools::Shape;
use super::write::{begin, member};

/// Bytes of a schema at most. OpenAI allows 120,000 characters of names and values.
const MAX_SCHEMA: usize = 256 * 1024;

/// Keywords that a strict schema cannot have.
const NOT_STRICT: &str = "oneOf allOf not if then else dependencies dependentRequired dependentSchemas \
    patternProperties unevaluatedProperties propertyNames minProperties maxProperties prefixItems additionalItems \
    unevaluatedItems contains minContains maxContains uniqueItems $dynamicRef";

/// The form that an answer is to have.
#[derive(Debug, Default)]
pub(crate) struct Format {
    /// JSON text of a strict schema.
    pub(crate) schema: Option<String>,
    /// The line that asks for one JSON object of any form.
    pub(crate) line: Option<&'static str>,
}

/// Reads `response_format` (nested) or `text.format` (flat).
pub(crate) fn read(node: Option<Node<'_>>, shape: Shape) -> Result<Format, ApiError> {
    let Some(node) = node else { return Ok(Format::default()) };
    match node.need("type")?.one_of(&["text", "json_object", "json_schema"])? {
        "json_schema" => {
            let outer = if shape == Shape::Nested { node.need("json_schema")? } else { node };
            outer.need("name")?.string()?;
            let description = outer.get("description")?.map(|node| node.string()).transpose()?;
            Ok(Format { schema: Some(strict_root(&outer.need("schema")?, description)?), line: None })
        }
        "json_object" => Ok(Format { schema: None, line: Some(ONE_JSON_OBJECT) }),
        _ => Ok(Format::default()),
    }
}

fn strict_root(node: &Node<'_>, description: Option<String>) -> Result<String, ApiError> {
    if node.len() > MAX_SCHEMA {
        return Err(node.invalid(format_args!("must not be longer than {MAX_SCHEMA} bytes")));
    }
    if !node.get("type")?.is_some_and(|kind| kind.is("\"object\"")) {
        return Err(node.invalid("must be a schema of type `object`"));
    }
    let mut out = Vec::new();
    write_strict(node, &mut out)?;
    if let (Some(description), None) = (description, node.get("description")?) {
        // What the answer is for has no field in codex; it says the same here.
        out.pop();
        member(&mut out, "description", &description);
        out.push(b'}');
    }
    // What was written came from text.
    Ok(String::from_utf8(out).unwrap_or_default())
}

fn write_strict(node: &Node<'_>, out: &mut Vec<u8>) -> Result<(), ApiError> {
    let [kind, properties, required, additional, discriminator] =
        node.fields(["type", "properties", "required", "additionalProperties", "discriminator"])?;
    let keys = node.entries()?.map(|entry| Ok(entry?.0)).collect::<Result<Vec<_>, ApiError>>()?;
    let among = |words: &[&str]| keys.iter().filter(|key| words.contains(&key.as_str())).count();
    if among(&["type", "properties", "anyOf", "oneOf", "allOf", "$ref", "enum", "const"]) == 0 {
        return Err(node.invalid("must say a `type`: a strict schema has no values of any form"));
    }
    if among(&["anyOf", "oneOf", "allOf", "$ref"]) > 1 {
        return Err(node.invalid("must have only one of anyOf, oneOf, allOf and $ref to fit into a strict schema"));
    }
    let is_object = properties.is_some() || kind.is_some_and(|kind| says(&kind, "object"));
    let mut names = Vec::new();
    if is_object {
        if let Some(open) = additional.filter(|node| !node.is("false")) {
            return Err(open.invalid("must be false: a strict schema names all properties"));
        }
        let Some(properties) = properties else {
            return Err(node.invalid("must name its `properties`: a strict schema has no objects of any form"));
        };
        names = require_all(&properties, required)?;
    }
    out.push(b'{');
    for entry in node.entries()? {
        let (key, value) = entry?;
        match &*key {
            "required" | "additionalProperties" if is_object => {}
            // No part of the subset. A default says that a property may be absent; see below.
            "default" | "discriminator" => {}
            "properties" | "$defs" | "definitions" => {
                begin(out, &key);
                out.push(b'{');
                for entry in value.entries()? {
                    let (name, schema) = entry?;
                    begin(out, &name);
                    write_strict(&schema, out)?;
                }
                out.push(b'}');
            }
            "items" => {
                begin(out, &key);
                write_strict(&value, out)?;
            }
            "anyOf" => write_any(&value, out)?,
            "allOf" if value.elements()?.count() == 1 => write_any(&value, out)?,
            "oneOf" if discriminator.is_some() => write_any(&value, out)?,
            "$ref" if keys.len() > 1 => {
                begin(out, "anyOf");
                let _ = write!(out, "[{{\"$ref\":{}}}]", value.line());
            }
            refused if NOT_STRICT.split(' ').any(|keyword| keyword == refused) => {
                return Err(value.invalid("cannot be in a strict schema, and codex knows no others"));
            }
            _ => {
                begin(out, &key);
                out.extend_from_slice(value.line().as_bytes());
            }
        }
    }
    if is_object {
        member(out, "required", &names);
        member(out, "additionalProperties", &false);
    }
    out.push(b'}');
    Ok(())
}

fn write_any(variants: &Node<'_>, out: &mut Vec<u8>) -> Result<(), ApiError> {
    begin(out, "anyOf");
    out.push(b'[');
    for (at, variant) in variants.elements()?.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_strict(&variant, out)?;
    }
    out.push(b']');
    Ok(())
}

/// The names of all properties. One that is optional loses nothing by being required if null, or its default, says that
/// it is absent.
fn require_all(properties: &Node<'_>, required: Option<Node<'_>>) -> Result<Vec<String>, ApiError> {
    let is_required = each(required)?.map(|name| name.string()).collect::<Result<HashSet<_>, _>>()?;
    let mut names = Vec::new();
    for entry in properties.entries()? {
        let (name, property) = entry?;
        if !is_required.contains(&name) && !property.has("default") && !allows_null(&property)? {
            return Err(property.invalid(
                "must be required, have a default or allow null: a strict schema has no optional properties",
            ));
        }
        names.push(name);
    }
    Ok(names)
}

fn allows_null(node: &Node<'_>) -> Result<bool, ApiError> {
    let [kind, any, values] = node.fields(["type", "anyOf", "enum"])?;
    if let Some(values) = values {
        return Ok(values.elements()?.any(|value| value.is("null")));
    }
    for variant in any.iter().flat_map(Node::elements).flatten() {
        if allows_null(&variant)? {
            return Ok(true);
        }
    }
    Ok(kind.is_some_and(|kind| says(&kind, "null")))
}

/// Whether a `type` is, or has among others, `word`.
fn says(kind: &Node<'_>, word: &str) -> bool {
    let is = |node: &Node<'_>| node.string().is_ok_and(|got| got == word);
    kind.elements().map_or_else(|_| is(kind), |mut kinds| kinds.any(|kind| is(&kind)))
}
