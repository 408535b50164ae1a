//! `restage plugin list`: the stage types of a workflow's plugins, or of one plugin.

use std::{path::PathBuf, process::ExitCode};

use indexmap::IndexMap;
use restage_stage::catalogue::{Catalogue, Choice, InputPort};
use serde_json::Value;

use crate::{
    cli::{Failure, load, open_catalog, open_store, print_json},
    plugin::Catalog,
    workflow::{Diagnostic, Diagnostics, Located, Place, suggest},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  restage plugin list workflows/quickstart.yaml\n  \
                        restage plugin list workflows/quickstart.yaml ssl/pretrain\n  \
                        restage plugin list stages/ssl")]
pub(super) struct Arguments {
    /// A workflow that names the plugins; or a plugin: a crate's folder, or a built library
    path: PathBuf,
    /// Only this stage type
    stage: Option<String>,
    /// Print JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { path, stage: wanted, json } = arguments;
    let store = open_store()?;
    let is_plugin = path.is_dir() || path.extension().is_some_and(|extension| extension == "so");
    let catalog = if is_plugin {
        let at = Place::argument(&path.to_string_lossy());
        let only = [Located { value: path, at }];
        Catalog::of(&only, false, &Diagnostics::default(), &store, &|notice| eprintln!("{notice}")).await?
    } else {
        open_catalog(&load(&path, &store)?, &store).await?
    };
    if let Some(wanted) = wanted.as_deref().filter(|wanted| catalog.find(wanted).is_none()) {
        let names: Vec<String> = catalog.names().collect();
        let message = format!("unknown stage type `{wanted}`");
        let problem = Diagnostic::new(&Place::argument(wanted), message, "no plugin offers this");
        return Err(Failure::unknown(problem.help(suggest(wanted, names.iter().map(String::as_str)))));
    }
    let chosen = catalog.plugins().filter_map(|(name, plugin)| {
        let mut catalogue = plugin.catalogue.clone();
        catalogue
            .stages
            .retain(|stage| wanted.as_ref().is_none_or(|wanted| *wanted == format!("{name}/{}", stage.name)));
        let is_meant = wanted.is_none() || !catalogue.stages.is_empty();
        is_meant.then_some((name, catalogue, plugin.code.from_sources))
    });
    let chosen: Vec<(&str, Catalogue, bool)> = chosen.collect();
    if json {
        print_json(&chosen.iter().map(|(_, catalogue, _)| catalogue).collect::<Vec<_>>());
        return Ok(ExitCode::SUCCESS);
    }
    for (name, catalogue, from_sources) in &chosen {
        let built = if *from_sources { "known by its sources" } else { "known by its binary only" };
        say!("plugin {name} {}, {built}\n", catalogue.version);
        for stage in &catalogue.stages {
            let seed = match stage {
                stage if stage.seeded => "  (takes a seed)",
                stage if !stage.seeded_if.is_empty() => "  (takes a seed with some params)",
                _ => "",
            };
            say!("{name}/{}{seed}", stage.name);
            say!("    {}", stage.doc);
            if let Some(tolerance) = stage.tolerance {
                say!("    two runs of it may be apart by {tolerance}");
            }
            if stage.open {
                say!("  in   and out as the workflow says");
            }
            for port in &stage.inputs {
                let optional = if port.optional { ", optional" } else { "" };
                let needed = needed(port);
                let many = if port.many { ", one or a list" } else { "" };
                say!("  in   {}: {}{optional}{needed}{many}  {}", port.name, port.kind, port.doc);
            }
            for Choice { of, several } in &stage.choices {
                let how = if *several { "at least one of" } else { "exactly one of" };
                say!("  in   {how}: {}", of.join(", "));
            }
            for port in &stage.outputs {
                say!("  out  {}: {}  {}", port.name, port.kind, port.doc);
            }
            for (param, schema) in
                stage.params.get("properties").and_then(|all| all.as_object()).into_iter().flatten()
            {
                let default = schema.get("default").map(|value| format!(" = {value}")).unwrap_or_default();
                let doc = schema.get("description").and_then(|text| text.as_str()).unwrap_or_default();
                let choices = match &choices(schema, &stage.params)[..] {
                    [] => String::new(),
                    choices => format!("  ({})", choices.join(" | ")),
                };
                say!("  with {param}{default}{choices}  {}", doc.replace('\n', " "));
            }
            say!("");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// By which params an input is needed that may be left out otherwise.
fn needed(port: &InputPort) -> String {
    let mut values: IndexMap<&str, Vec<&str>> = IndexMap::new();
    for by in &port.needed_if {
        values.entry(&by.param).or_default().extend(by.is.as_deref());
    }
    let by = |(param, values): (&str, Vec<&str>)| match &values[..] {
        [] => format!("`{param}` is set"),
        values => format!("`{param}` is {}", values.join(" | ")),
    };
    let all: Vec<String> = values.into_iter().map(by).collect();
    if all.is_empty() { String::new() } else { format!(" unless {}", all.join(" or ")) }
}

/// What a param may be, where it is one of few words; of a list or a mapping, what its values may be.
fn choices(schema: &Value, all: &Value) -> Vec<String> {
    let inner = |schema: &Value| choices(schema, all);
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        return all.pointer(name.trim_start_matches('#')).map(inner).unwrap_or_default();
    }
    let words = |value: &Value| value.as_str().map(str::to_owned);
    let mut found: Vec<String> = schema.get("const").and_then(words).into_iter().collect();
    found.extend(schema.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(words));
    for several in ["oneOf", "anyOf", "allOf"] {
        found.extend(schema.get(several).and_then(Value::as_array).into_iter().flatten().flat_map(inner));
    }
    for values in ["items", "additionalProperties"] {
        found.extend(schema.get(values).into_iter().flat_map(inner));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_words_that_a_param_may_be_are_found_wherever_the_schema_has_them() {
        let all = json!({"$defs": {
            "Kind": {"oneOf": [{"const": "hex", "description": "Six."}, {"enum": ["square", "radius"], "type": "string"}]},
        }});
        let kinds = ["hex", "square", "radius"];
        for schema in [
            json!({"$ref": "#/$defs/Kind"}),
            json!({"anyOf": [{"$ref": "#/$defs/Kind"}, {"type": "null"}], "default": null}),
            json!({"type": "array", "items": {"$ref": "#/$defs/Kind"}}),
            json!({"type": "object", "additionalProperties": {"$ref": "#/$defs/Kind"}}),
        ] {
            assert_eq!(choices(&schema, &all), kinds, "{schema}");
        }
        for schema in
            [json!({"type": "string"}), json!({"type": "object", "additionalProperties": true}), json!(true)]
        {
            assert!(choices(&schema, &all).is_empty(), "{schema}");
        }
    }
}
