//! The JSON Schema (2020-12) of the language, from the tables that files are checked against, with ports and params of
//! every stage type that is known. For editors: they complete and check by it.

use restage_stage::catalogue::{Catalogue, StageType};
use serde_json::{Map, Value, json};

use super::grammar::{STAGE, Shape, WORKFLOW};

/// The schema of workflows that may use these plugins' stage types; of the bare language if there are none.
pub(crate) fn schema<'a>(plugins: impl IntoIterator<Item = &'a Catalogue>) -> Value {
    let types: Vec<(String, &StageType)> = plugins
        .into_iter()
        .flat_map(|plugin| {
            plugin.stages.iter().map(|stage| (format!("{}/{}", plugin.plugin, stage.name), stage))
        })
        .collect();
    let mut root = of(&WORKFLOW);
    if let Some(stages) = root.pointer_mut("/properties/stages/additionalProperties") {
        *stages = json!({ "$ref": "#/$defs/stage" });
    }
    let mut definitions = Map::new();
    definitions.insert("stage".into(), stage(&types));
    definitions.insert(
        "reference".into(),
        json!({ "type": "string", "pattern": "\\$\\{", "description": "A reference: `${params.NAME}`." }),
    );
    for (uses, stage_type) in &types {
        definitions.insert(definition(uses), params(uses, &stage_type.params));
    }
    if let Some(root) = root.as_object_mut() {
        root.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        root.insert("title".into(), "restage workflow".into());
        root.insert("$defs".into(), definitions.into());
    }
    root
}

/// Name of the definition of a stage type's params.
fn definition(uses: &str) -> String {
    uses.replace('/', ".")
}

/// A stage: by its type it has these params and inputs.
fn stage(types: &[(String, &StageType)]) -> Value {
    let mut stage = of(&STAGE);
    let Some(entries) = stage.as_object_mut().filter(|_| !types.is_empty()) else { return stage };
    let uses = json!({
        "description": "The stage type.",
        "oneOf": types.iter().map(|(uses, known)| json!({ "const": uses, "description": known.doc })).collect::<Vec<_>>(),
    });
    if let Some(known) = entries.get_mut("properties").and_then(|properties| properties.get_mut("uses")) {
        *known = uses;
    }
    let branches = types.iter().map(|(uses, known)| {
        json!({
            "if": { "properties": { "uses": { "const": uses } }, "required": ["uses"] },
            "then": by_type(uses, known),
        })
    });
    entries.insert("allOf".into(), branches.collect());
    stage
}

fn by_type(uses: &str, stage: &StageType) -> Value {
    let inputs = stage.inputs.iter().map(|port| {
        let mut schema = of(&Shape::OneOrMore(&Shape::Output));
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("description".into(), format!("{} ({})", port.doc, port.kind).into());
        }
        (port.name.clone(), schema)
    });
    let inputs: Map<String, Value> = inputs.collect();
    let needed: Vec<&str> =
        stage.inputs.iter().filter(|port| !port.optional).map(|port| port.name.as_str()).collect();
    let needs_params =
        stage.params.get("required").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let others = if stage.open { of(&Shape::OneOrMore(&Shape::Output)) } else { false.into() };
    let mut required = Vec::new();
    required.extend((!needed.is_empty()).then_some("in"));
    required.extend(needs_params.then_some("with"));
    json!({
        "properties": {
            "with": { "$ref": format!("#/$defs/{}", definition(uses)) },
            "in": { "type": "object", "properties": inputs, "required": needed, "additionalProperties": others },
        },
        "required": required,
    })
}

/// The schema of a stage type's params, in which every value may be a reference too.
fn params(uses: &str, schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(entries) = schema.as_object_mut() {
        entries.shift_remove("$schema");
        entries.shift_remove("title");
    }
    allow_references(&mut schema, &definition(uses));
    schema
}

/// Lets each value inside a schema be a reference, and lets its own definitions be found where it is put.
fn allow_references(schema: &mut Value, home: &str) {
    let Some(entries) = schema.as_object_mut() else { return };
    for (keyword, value) in entries.iter_mut() {
        match (keyword.as_str(), value) {
            ("$ref", Value::String(target)) => {
                if let Some(name) = target.strip_prefix("#/$defs/") {
                    *target = format!("#/$defs/{home}/$defs/{name}");
                }
            }
            ("properties", Value::Object(properties)) => {
                properties.values_mut().for_each(|value| value_or_reference(value, home));
            }
            ("items" | "additionalProperties", value @ Value::Object(_)) => value_or_reference(value, home),
            ("$defs", Value::Object(definitions)) => {
                definitions.values_mut().for_each(|value| allow_references(value, home));
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(items)) => {
                items.iter_mut().for_each(|value| allow_references(value, home));
            }
            _ => {}
        }
    }
}

fn value_or_reference(schema: &mut Value, home: &str) {
    allow_references(schema, home);
    let Some(entries) = schema.as_object_mut() else { return };
    // What editors show stays outside.
    let mut shown = Map::new();
    for keyword in ["description", "default"] {
        if let Some(value) = entries.shift_remove(keyword) {
            shown.insert(keyword.into(), value);
        }
    }
    let inner = std::mem::take(entries);
    shown.insert("anyOf".into(), json!([inner, { "$ref": "#/$defs/reference" }]));
    *entries = shown;
}

/// The schema of a shape.
fn of(shape: &Shape) -> Value {
    const NAME: &str = "^[\\p{L}\\p{N}_-]+$";
    match shape {
        Shape::Any => json!({}),
        Shape::Text => json!({ "type": "string" }),
        Shape::Exactly(number) => json!({ "const": number }),
        Shape::Whole(from) => json!({ "type": "integer", "minimum": from }),
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::Time => json!({ "type": "string", "pattern": "^\\s*([0-9]+\\s*[a-zA-Z]+\\s*)+$" }),
        Shape::Size => json!({ "type": "string", "pattern": "^\\s*[0-9.]+\\s*[a-zA-Z]+\\s*$" }),
        Shape::Factor => json!({ "type": "string", "pattern": "^x[0-9]+$" }),
        Shape::Word(words) => json!({ "enum": words }),
        Shape::Commit => json!({ "type": "string", "pattern": "^([0-9a-f]{40}|[0-9a-f]{64})$" }),
        Shape::Reference => json!({ "type": "string", "pattern": "^\\$\\{.+\\}$" }),
        Shape::Output => json!({ "type": "string", "pattern": "^[\\p{L}\\p{N}_-]+(\\.[\\p{L}\\p{N}_-]+)*$" }),
        Shape::Metric => json!({ "type": "string", "pattern": "^.+\\.[\\p{L}\\p{N}_-]+$" }),
        Shape::Bounds => {
            json!({ "type": "array", "items": { "type": "number" }, "minItems": 2, "maxItems": 2 })
        }
        Shape::List(item, at_least) => json!({ "type": "array", "items": of(item), "minItems": at_least }),
        Shape::OneOrMore(item) => json!({ "anyOf": [of(item), { "type": "array", "items": of(item) }] }),
        Shape::Named(value) => json!({
            "type": "object", "propertyNames": { "pattern": NAME }, "additionalProperties": of(value),
        }),
        Shape::Paths(value) => json!({
            "type": "object", "propertyNames": { "pattern": "^[^.]+(\\.[^.]+)+$" }, "additionalProperties": of(value),
        }),
        Shape::Titled(value) => json!({ "type": "object", "additionalProperties": of(value) }),
        Shape::Either(_, shapes) => json!({ "anyOf": shapes.iter().map(of).collect::<Vec<_>>() }),
        Shape::Record(_, keys) => {
            let described = keys.iter().map(|key| {
                let mut schema = of(&key.shape);
                if let Some(schema) = schema.as_object_mut() {
                    schema.insert("description".into(), key.doc.into());
                }
                (key.name.to_owned(), schema)
            });
            let properties: Map<String, Value> = described.collect();
            let required: Vec<&str> = keys.iter().filter(|key| key.required).map(|key| key.name).collect();
            json!({
                "type": "object", "properties": properties, "required": required, "additionalProperties": false,
            })
        }
    }
}
