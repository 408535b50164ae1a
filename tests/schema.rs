//! The JSON Schema of workflows, as an editor uses it: it takes every shipped workflow, and refuses what is wrong.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::path::PathBuf;

use harness::{Sandbox, checkout};
use serde_json::Value;

/// Files that are shipped: each begins by naming its schema.
fn workflows() -> Vec<PathBuf> {
    let is_workflow = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "yaml");
    let list = |folder: PathBuf| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let folder = checkout().join("workflows");
    let mut all: Vec<PathBuf> =
        list(folder.clone()).chain(list(folder.join("parts"))).filter(is_workflow).collect();
    all.sort();
    assert!(all.len() >= 4);
    all
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

fn validator(schema: &Value) -> jsonschema::Validator {
    jsonschema::meta::validate(schema).expect("it is a schema by the rules of its dialect");
    jsonschema::options().with_draft(jsonschema::Draft::Draft202012).build(schema).expect("a schema")
}

/// The shipped schema.
fn shipped() -> Value {
    let path = checkout().join("workflows/restage.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn the_shipped_schema_is_what_the_command_writes() {
    let sandbox = Sandbox::new();
    let paths = workflows();
    let mut arguments = vec!["schema"];
    arguments.extend(paths.iter().map(|path| path.to_str().unwrap()));
    let written = sandbox.json(&arguments);
    assert_eq!(
        written,
        shipped(),
        "write it again: restage schema workflows/*.yaml > workflows/restage.schema.json"
    );
}

#[test]
fn every_shipped_workflow_is_accepted_and_names_its_schema() {
    let validator = validator(&shipped());
    for path in workflows() {
        let text = std::fs::read_to_string(&path).unwrap();
        let problems: Vec<String> = validator
            .iter_errors(&yaml(&text))
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(problems.is_empty(), "{}: {problems:#?}", path.display());
        let line = text.lines().find_map(|line| line.strip_prefix("# yaml-language-server: $schema="));
        let schema = path.parent().map(|folder| folder.join(line.expect("a modeline")));
        assert!(schema.is_some_and(|schema| schema.is_file()), "{}", path.display());
    }
}

/// A workflow that is right, to be broken in one place.
const RIGHT: &str = r#"
restage: 1
plugins: [{ path: ../stages/visium }]
env: [HOME]
params: { genes: 200, list: [a, b] }
import:
  prep: { path: parts/preprocess.yaml, params: { min_cells: 2 } }
  theirs: { git: "https://host/repo.git", commit: 0123456789abcdef0123456789abcdef01234567, plugins: allow, path: prep.yaml }
stages:
  section:
    uses: visium/simulate
    foreach: { section: "${params.list}" }
    with: { section: "${foreach.section}", seed: 7 }
    resources: { cpus: 2, memory: 4GiB, gpus: { count: 1, required: false } }
    retries: 2
    timeout: 1h 30m
  counts: { uses: visium/normalize, in: { table: section.table }, with: { n_top_genes: "${params.genes}" } }
  all: { uses: visium/concat, in: { tables: [counts, counts] }, gather: section }
sweep:
  metric: evaluate.macro_f1
  seeds: [0, 1]
  baseline: small
  ablate:
    small: { set: { counts.n_top_genes: 100 } }
    none: { drop: counts }
    some: { vary: { counts.n_top_genes: [50, 100] } }
  grid: { counts.target_sum: [1000, 10000] }
  zip: { counts.target_sum: [1, 2], params.genes: [3, 4] }
  random: { samples: 4, seed: 1, over: { counts.target_sum: { log_uniform: [1, 10] }, params.genes: [1, 2] } }
  exclude: [{ counts.target_sum: 1000 }]
"#;

#[test]
fn wrong_workflows_are_refused() {
    let validator = validator(&shipped());
    assert!(validator.is_valid(&yaml(RIGHT)), "{:?}", validator.iter_errors(&yaml(RIGHT)).next());
    let wrong = [
        ("another version", "restage: 1", "restage: 2"),
        ("no version", "restage: 1\n", "\n"),
        ("an unknown key", "params:", "parms:"),
        ("plugins that are texts", "[{ path: ../stages/visium }]", "[../stages/visium]"),
        ("a plugin without a path", "{ path: ../stages/visium }", "{ pth: ../stages/visium }"),
        ("an import without a path", "path: parts/preprocess.yaml, ", ""),
        ("a short commit", "0123456789abcdef0123456789abcdef01234567", "0123456"),
        ("plugins of a repository that are a flag", "plugins: allow", "plugins: true"),
        ("a name with a space", "counts: { uses", "my counts: { uses"),
        ("an unknown stage type", "visium/normalize", "visium/normalise"),
        ("an unknown key of a stage", "retries: 2", "retry: 2"),
        ("retries below zero", "retries: 2", "retries: -1"),
        ("a time without its unit", "timeout: 1h 30m", "timeout: 90"),
        ("memory without its unit", "memory: 4GiB", "memory: 4"),
        ("no threads", "cpus: 2", "cpus: 0"),
        ("gpus that are a word", "gpus: { count: 1, required: false }", "gpus: some"),
        ("an unknown param", "n_top_genes: \"${params.genes}\"", "n_top_gene: 5"),
        ("a param of another kind", "n_top_genes: \"${params.genes}\"", "n_top_genes: many"),
        ("an unknown input", "in: { table: section.table }", "in: { tabel: section.table }"),
        ("a missing input", "in: { table: section.table }, ", ""),
        ("an input that is a number", "in: { table: section.table }", "in: { table: 5 }"),
        ("nothing to map over", "\"${params.list}\"", "[]"),
        ("a map over a number", "\"${params.list}\"", "5"),
        ("a metric without its stage", "metric: evaluate.macro_f1", "metric: macro_f1"),
        ("a seed that is a word", "seeds: [0, 1]", "seeds: [zero]"),
        ("no seeds", "seeds: [0, 1]", "seeds: []"),
        ("an unknown change", "small: { set:", "small: { sets:"),
        ("a change of a stage", "{ counts.n_top_genes: 100 }", "{ counts: 100 }"),
        ("values that are no list", "{ counts.target_sum: [1000, 10000] }", "{ counts.target_sum: 1000 }"),
        ("random without samples", "samples: 4, ", ""),
        ("an unknown range", "log_uniform", "log_normal"),
        ("a range of three", "[1, 10] }, params", "[1, 5, 10] }, params"),
        (
            "exclude that is no list",
            "exclude: [{ counts.target_sum: 1000 }]",
            "exclude: { counts.target_sum: 1000 }",
        ),
    ];
    for (what, right, broken) in wrong {
        assert!(RIGHT.contains(right), "{what}");
        let text = RIGHT.replacen(right, broken, 1);
        assert!(!validator.is_valid(&yaml(&text)), "{what} is accepted:\n{text}");
    }
}

#[test]
fn the_bare_language_has_a_schema_too() {
    let sandbox = Sandbox::new();
    let schema = sandbox.json(&["schema"]);
    assert!(validator(&schema).is_valid(&yaml(RIGHT)));
}
