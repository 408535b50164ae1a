//! What a plugin says of itself: names that a workflow can use, ports, docs, and the schema of its params.

use std::collections::BTreeSet;

use restage_stage::catalogue::{Catalogue, StageType};
use serde_json::{Map, Value};

use super::{Checked, failed};
use crate::workflow::is_name;

const NAME: &str = "letters, digits, `_` and `-`";

/// Plugin and stage types have names of their own, which a workflow can write.
pub(super) fn names(catalogue: &Catalogue) -> Checked {
    let help = "the catalogue that `describe` writes names the plugin and its stage types; `uses: plugin/name` finds them";
    let wrong = |found: String| failed(format!("names of {NAME}, each stage type's its own"), found, help);
    if !is_name(&catalogue.plugin) {
        return Err(wrong(format!("the plugin is called `{}`", catalogue.plugin)));
    }
    if catalogue.stages.is_empty() {
        return Err(wrong("it has no stage types".into()));
    }
    let mut seen = BTreeSet::new();
    for stage in &catalogue.stages {
        if !is_name(&stage.name) {
            return Err(wrong(format!("a stage type is called `{}`", stage.name)));
        }
        if !seen.insert(&stage.name) {
            return Err(wrong(format!("two stage types are called `{}`", stage.name)));
        }
    }
    Ok(())
}

/// Inputs and outputs have names of their own, and there is an output.
pub(super) fn ports(stage: &StageType) -> Checked {
    let help = "a workflow wires ports by name: `in: { port: stage.port }`";
    let wrong = |found: String| {
        failed(format!("an output, and ports with names of {NAME}, each its own"), found, help)
    };
    if stage.outputs.is_empty() && !stage.open {
        return Err(wrong("it has no output, so that nothing of it could be kept or read".into()));
    }
    let inputs: Vec<&str> = stage.inputs.iter().map(|port| port.name.as_str()).collect();
    let outputs: Vec<&str> = stage.outputs.iter().map(|port| port.name.as_str()).collect();
    for (what, names) in [("input", inputs), ("output", outputs)] {
        let mut seen = BTreeSet::new();
        for name in names {
            if !is_name(name) {
                return Err(wrong(format!("an {what} is called `{name}`")));
            }
            if !seen.insert(name) {
                return Err(wrong(format!("two {what}s are called `{name}`")));
            }
        }
    }
    Ok(())
}

/// The stage type, its ports and its params say what they are.
pub(super) fn docs(stage: &StageType) -> Checked {
    let is_empty = |doc: &str| doc.trim().is_empty();
    let mut without: Vec<String> = Vec::new();
    without.extend(is_empty(&stage.doc).then(|| "the stage type".to_owned()));
    let inputs = stage.inputs.iter().filter(|port| is_empty(&port.doc));
    without.extend(inputs.map(|port| format!("input `{}`", port.name)));
    let outputs = stage.outputs.iter().filter(|port| is_empty(&port.doc));
    without.extend(outputs.map(|port| format!("output `{}`", port.name)));
    for (name, schema) in properties(stage).into_iter().flatten() {
        let said = schema.get("description").or_else(|| referred(stage, schema)?.get("description"));
        if said.and_then(Value::as_str).is_none_or(is_empty) {
            without.push(format!("param `{name}`"));
        }
    }
    if without.is_empty() {
        return Ok(());
    }
    Err(failed(
        "a sentence for people on the stage type and on each port and param",
        format!("none on {}", without.join(", ")),
        "`doc` in the catalogue, `description` in the schema (doc comments in Rust): editors and `restage plugin list` show them",
    ))
}

/// The schema of the params is one of an object.
pub(super) fn schema(stage: &StageType) -> Checked {
    let help = "params stand by name under `with:`; their JSON Schema has `type: object` and `properties`";
    let wrong = |found: String| failed("a JSON Schema of an object", found, help);
    let Value::Object(schema) = &stage.params else {
        return Err(wrong(format!("it is {}", stage.params)));
    };
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        let found = schema.get("type").map_or("nothing".to_owned(), Value::to_string);
        return Err(wrong(format!("its `type` is {found}")));
    }
    if schema.get("properties").is_some_and(|properties| !properties.is_object()) {
        return Err(wrong("its `properties` are no object".into()));
    }
    // Names that are required and not described could never be completed by an editor.
    let known = properties(stage);
    for name in required(stage) {
        if known.is_none_or(|known| !known.contains_key(name)) {
            return Err(wrong(format!("`{name}` is required, and not among its `properties`")));
        }
    }
    Ok(())
}

/// The params with their schemas.
pub(super) fn properties(stage: &StageType) -> Option<&Map<String, Value>> {
    stage.params.get("properties")?.as_object()
}

/// The params that must be given.
pub(super) fn required(stage: &StageType) -> Vec<&str> {
    let list = stage.params.get("required").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What a `$ref` inside the schema refers to.
fn referred<'a>(stage: &'a StageType, schema: &Value) -> Option<&'a Value> {
    stage.params.pointer(schema.get("$ref")?.as_str()?.strip_prefix('#')?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::conformance::NotOk;

    fn stage(change: impl FnOnce(&mut Value)) -> StageType {
        let mut stage = json!({
            "name": "keep", "doc": "Keeps.", "seeded": false,
            "inputs": [{ "name": "table", "type": "table", "optional": false, "many": false, "doc": "It." }],
            "outputs": [{ "name": "table", "type": "table", "doc": "It." }],
            "params": { "type": "object", "properties": { "n": { "type": "integer", "description": "How many." } } },
        });
        change(&mut stage);
        serde_json::from_value(stage).unwrap()
    }

    fn found(checked: Checked) -> String {
        match checked {
            Err(NotOk::Failed(broken)) => broken.found,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_well_described_is_ok() {
        let stage = stage(|_| {});
        assert!(ports(&stage).is_ok() && docs(&stage).is_ok() && schema(&stage).is_ok());
    }

    #[test]
    fn what_a_workflow_cannot_use_is_found() {
        let no_output = stage(|stage| stage["outputs"] = json!([]));
        assert!(found(ports(&no_output)).contains("no output"));
        let dotted = stage(|stage| stage["inputs"][0]["name"] = json!("a.b"));
        assert_eq!(found(ports(&dotted)), "an input is called `a.b`");
        let twice = stage(|stage| {
            let port = stage["outputs"][0].clone();
            stage["outputs"].as_array_mut().unwrap().push(port);
        });
        assert_eq!(found(ports(&twice)), "two outputs are called `table`");
        let silent = stage(|stage| {
            stage["doc"] = json!(" ");
            stage["params"]["properties"]["n"] = json!({});
        });
        assert_eq!(found(docs(&silent)), "none on the stage type, param `n`");
        let list = stage(|stage| stage["params"] = json!({ "type": "array" }));
        assert_eq!(found(schema(&list)), "its `type` is \"array\"");
        let unknown = stage(|stage| stage["params"]["required"] = json!(["m"]));
        assert!(found(schema(&unknown)).contains("`m` is required"));
    }

    #[test]
    fn names_are_what_uses_can_write() {
        let catalogue = |plugin: &str, stages: &[&str]| Catalogue {
            plugin: plugin.into(),
            version: "1".into(),
            stages: stages.iter().map(|name| StageType { name: (*name).into(), ..stage(|_| {}) }).collect(),
        };
        assert!(names(&catalogue("c", &["a", "b-2_x"])).is_ok());
        assert_eq!(found(names(&catalogue("a/b", &["a"]))), "the plugin is called `a/b`");
        assert_eq!(found(names(&catalogue("c", &["a b"]))), "a stage type is called `a b`");
        assert_eq!(found(names(&catalogue("c", &["a", "a"]))), "two stage types are called `a`");
        assert_eq!(found(names(&catalogue("c", &[]))), "it has no stage types");
    }
}
