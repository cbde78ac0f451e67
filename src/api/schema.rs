//! Formats of an answer. Codex sends every schema as strict: each object closed, each property required. A schema that
//! says less is brought there if no answer that it means gets lost and every answer that the strict form allows fits
//! it, too; else it is a 400 that names the place.

use super::Features;
use super::error::ApiError;
use super::json::{Node, quote};
use super::tools::Shape;

/// Bytes of a schema at most. OpenAI allows 120,000 characters of names and values.
const MAX_SCHEMA: usize = 256 * 1024;

/// Keywords that a strict schema cannot have.
const NOT_STRICT: [&str; 22] = [
    "oneOf",
    "allOf",
    "not",
    "if",
    "then",
    "else",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "patternProperties",
    "unevaluatedProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "$dynamicRef",
];

/// The form that an answer is to have.
#[derive(Debug, Default)]
pub(crate) struct Format {
    /// JSON text of a strict schema.
    pub(crate) schema: Option<String>,
    /// Whether it is one JSON object of any form.
    pub(crate) json_object: bool,
}

/// Reads `response_format` (nested) or `text.format` (flat).
pub(crate) fn read(node: Option<Node<'_>>, shape: Shape, features: &Features) -> Result<Format, ApiError> {
    let Some(node) = node else { return Ok(Format::default()) };
    let [kind, nested] = node.fields(["type", "json_schema"])?;
    let kind = kind.ok_or_else(|| node.missing("type"))?;
    match kind.one_of(&["text", "json_object", "json_schema"])? {
        "json_schema" => {
            features.need(features.schema, &kind, "schemas of answers are")?;
            let outer = match shape {
                Shape::Nested => nested.ok_or_else(|| node.missing("json_schema"))?,
                Shape::Flat => node,
            };
            let [name, description, schema] = outer.fields(["name", "description", "schema"])?;
            name.ok_or_else(|| outer.missing("name"))?.string()?;
            let description = description.map(|node| node.string()).transpose()?;
            let schema = schema.ok_or_else(|| outer.missing("schema"))?;
            Ok(Format { schema: Some(strict_root(&schema, description)?), json_object: false })
        }
        "json_object" => {
            features.need(features.json_object, &kind, "JSON objects as answers are")?;
            Ok(Format { schema: None, json_object: true })
        }
        _ => Ok(Format::default()),
    }
}

fn strict_root(node: &Node<'_>, description: Option<String>) -> Result<String, ApiError> {
    if node.line().len() > MAX_SCHEMA {
        return Err(node.invalid(format_args!("must not be longer than {MAX_SCHEMA} bytes")));
    }
    let [kind, own] = node.fields(["type", "description"])?;
    if !kind.is_some_and(|kind| kind.is("\"object\"")) {
        return Err(node.invalid("must be a schema of type `object`"));
    }
    let mut out = Vec::new();
    write_strict(node, &mut out)?;
    if let Some(description) = description.filter(|_| own.is_none()) {
        // What the answer is for has no field in codex; it says the same here.
        out.pop();
        out.extend_from_slice(b",\"description\":");
        quote(&mut out, &description);
        out.push(b'}');
    }
    // What was written came from text.
    Ok(String::from_utf8(out).unwrap_or_default())
}

fn write_strict(node: &Node<'_>, out: &mut Vec<u8>) -> Result<(), ApiError> {
    let [kind, properties, required, additional, discriminator] =
        node.fields(["type", "properties", "required", "additionalProperties", "discriminator"])?;
    let is_object = properties.is_some() || kind.is_some_and(|kind| says(&kind, "object"));
    let mut is_required = Vec::new();
    if is_object {
        if let Some(open) = additional.filter(|node| !node.is("false")) {
            return Err(open.invalid("must be false: a strict schema names all properties"));
        }
        if properties.is_none() {
            return Err(node.invalid("must name its `properties`: a strict schema has no objects of any form"));
        }
        if let Some(required) = required {
            required.elements(|_, name| {
                is_required.push(name.string()?);
                Ok(())
            })?;
        }
    }
    let mut has_siblings = false;
    let mut says_something = false;
    node.entries(|key, _| {
        has_siblings |= key != "$ref";
        says_something |=
            matches!(&*key, "type" | "properties" | "anyOf" | "oneOf" | "allOf" | "$ref" | "enum" | "const");
        Ok(())
    })?;
    if !says_something {
        return Err(node.invalid("must say a `type`: a strict schema has no values of any form"));
    }
    out.push(b'{');
    let mut names = Vec::new();
    node.entries(|key, value| {
        let is_one_of = key == "oneOf" && discriminator.is_some();
        match &*key {
            "required" | "additionalProperties" if is_object => return Ok(()),
            // No part of the subset. What it stands for is that the property may be absent; see below.
            "default" | "discriminator" => return Ok(()),
            "allOf" if single(&value) => key_of(out, "anyOf"),
            "oneOf" if is_one_of => key_of(out, "anyOf"),
            "$ref" if has_siblings => key_of(out, "anyOf"),
            refused if NOT_STRICT.contains(&refused) => {
                return Err(value.invalid("cannot be in a strict schema, and codex knows no others"));
            }
            _ => key_of(out, &key),
        }
        match &*key {
            "properties" => write_map(&value, out, |name, property| {
                names.push(name.to_owned());
                if is_required.iter().any(|required| required == name) || may_be_absent(property)? {
                    return Ok(());
                }
                Err(property.invalid(
                    "must be required, have a default or allow null: a strict schema has no optional properties",
                ))
            })?,
            "$defs" | "definitions" => write_map(&value, out, |_, _| Ok(()))?,
            "items" => write_strict(&value, out)?,
            "anyOf" | "allOf" | "oneOf" => {
                out.push(b'[');
                value.elements(|at, variant| {
                    if at > 0 {
                        out.push(b',');
                    }
                    write_strict(&variant, out)
                })?;
                out.push(b']');
            }
            "$ref" if has_siblings => {
                out.extend_from_slice(b"[{\"$ref\":");
                out.extend_from_slice(value.line().as_bytes());
                out.extend_from_slice(b"}]");
            }
            _ => out.extend_from_slice(value.line().as_bytes()),
        }
        Ok(())
    })?;
    if is_object {
        key_of(out, "required");
        // Strings always serialise.
        let _ = serde_json::to_writer(&mut *out, &names);
        key_of(out, "additionalProperties");
        out.extend_from_slice(b"false");
    }
    out.push(b'}');
    Ok(())
}

/// Begins a member.
fn key_of(out: &mut Vec<u8>, key: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    quote(out, key);
    out.push(b':');
}

/// Writes an object whose values are schemas, each looked at first.
fn write_map(
    node: &Node<'_>,
    out: &mut Vec<u8>,
    mut look: impl FnMut(&str, &Node<'_>) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    out.push(b'{');
    node.entries(|name, schema| {
        look(&name, &schema)?;
        key_of(out, &name);
        write_strict(&schema, out)
    })?;
    out.push(b'}');
    Ok(())
}

/// Whether an optional property loses nothing by being required: null, or its default, says that it is absent.
fn may_be_absent(node: &Node<'_>) -> Result<bool, ApiError> {
    Ok(node.has("default") || allows_null(node)?)
}

fn allows_null(node: &Node<'_>) -> Result<bool, ApiError> {
    let [kind, any, values] = node.fields(["type", "anyOf", "enum"])?;
    let mut allowed = kind.is_some_and(|kind| says(&kind, "null"));
    if let Some(any) = any {
        any.elements(|_, variant| {
            allowed |= allows_null(&variant)?;
            Ok(())
        })?;
    }
    if let Some(values) = values {
        allowed = false;
        values.elements(|_, value| {
            allowed |= value.is("null");
            Ok(())
        })?;
    }
    Ok(allowed)
}

/// Whether a `type` is, or has among others, `word`.
fn says(kind: &Node<'_>, word: &str) -> bool {
    let mut found = false;
    let mut look = |node: &Node<'_>| found |= node.string().is_ok_and(|got| got == word);
    if kind.is_array() {
        let _ = kind.elements(|_, node| {
            look(&node);
            Ok(())
        });
    } else {
        look(kind);
    }
    found
}

fn single(array: &Node<'_>) -> bool {
    let mut count = 0;
    let read = array.elements(|_, _| {
        count += 1;
        Ok(())
    });
    read.is_ok() && count == 1
}
