//! How a plugin answers params: right ones come back canonical, wrong ones are refused with words that help, and no
//! params at all end its process.

use restage_stage::{catalogue::StageType, task::Task};
use serde_json::{Value, json};

use super::{
    Check, Checked, Example,
    bench::{Answer, Bench, short},
    describe, failed, skipped,
};
use crate::plugin::Failure;

/// A name that no plugin has a reason to know.
const UNKNOWN: &str = "restage_no_such_thing";

/// As deep as JSON readers commonly go, with room for what it is wrapped in on its way.
const DEEP: usize = 100;

/// A stage type that is not there is refused, for params and for a run, and the host survives.
pub(super) async fn unknown_stage(bench: &mut Bench) -> Checked {
    const EXPECTED: &str = "a stage type that is not there is refused";
    const HELP: &str = "`check` and `run` compare the stage's name and answer with RESTAGE_STATUS_UNSUPPORTED, or FAILED and a message";
    if let Ok(answer) = bench.check(UNKNOWN, &json!({})).await? {
        let found = format!("`check` gave {} for a stage type `{UNKNOWN}`", short(&answer));
        return Err(failed(EXPECTED, found, HELP));
    }
    let place = bench.place(std::iter::once("out".to_owned())).map_err(|error| skipped(error.to_string()))?;
    let task = Task {
        stage: UNKNOWN.into(),
        params: json!({}),
        inputs: [].into(),
        outputs: place.outputs.clone(),
        seed: 0,
        streams: Default::default(),
        threads: 1,
        gpus: 0,
        scratch: place.scratch(),
    };
    match bench.run(task, &place).await? {
        Err(Failure::Failed { .. }) => Ok(()),
        // How a status is told that leaves the host in doubt; that it is this one shows in its number.
        Err(Failure::Protocol { message }) if message.starts_with("status 4") => Ok(()),
        Err(failure) => Err(failed(EXPECTED, format!("`run` of it: {failure}"), HELP)),
        Ok(()) => {
            Err(failed(EXPECTED, format!("`run` of a stage type `{UNKNOWN}` said that it is done"), HELP))
        }
    }
}

/// Checks how params of a stage type are answered. Gives canonical params to run it with, if there are any.
pub(super) async fn checks(
    bench: &mut Bench,
    stage: &StageType,
    example: Option<&Example>,
    checks: &mut Vec<Check>,
) -> Option<Value> {
    let defaults = bench.check(&stage.name, &json!({})).await;
    let (canonical, checked) = match defaults {
        Ok(answer) => (answer.clone().ok(), without_params(stage, answer)),
        Err(not_ok) => (None, Err(not_ok)),
    };
    checks.push(Check::new("defaults", checked));
    checks.push(Check::new("schema-defaults", schema_defaults(stage, canonical.as_ref())));
    let given = example.map(|example| example.params.clone()).or(canonical);
    let (base, checked) = match fixed_point(bench, stage, given).await {
        Ok(base) => (Some(base), Ok(())),
        Err(not_ok) => (None, Err(not_ok)),
    };
    checks.push(Check::new("canonical", checked));
    checks.push(Check::new("unknown-param", unknown_param(bench, stage, base.as_ref()).await));
    checks.push(Check::new("wrong-shape", wrong_shape(bench, stage).await));
    base
}

/// Without params there are canonical ones, or words that say what is missing.
fn without_params(stage: &StageType, answer: Answer) -> Checked {
    let help = "`check` of `{}` fills in the defaults, or says which param must be given";
    match answer {
        Ok(Value::Object(_)) => Ok(()),
        Ok(other) => Err(failed("canonical params, which are an object", short(&other), help)),
        Err(messages) => {
            let said = messages.join(": ");
            let required = describe::required(stage);
            let names_one = required.is_empty() || required.iter().any(|name| said.contains(name));
            if !said.trim().is_empty() && names_one {
                return Ok(());
            }
            let expected = match required.as_slice() {
                [] => "canonical params, or a message".to_owned(),
                names => format!("a message that names what is missing: `{}`", names.join("`, `")),
            };
            Err(failed(expected, told(&said), help))
        }
    }
}

/// What the schema says of defaults is what they are.
fn schema_defaults(stage: &StageType, canonical: Option<&Value>) -> Checked {
    let Some(canonical) = canonical else {
        return Err(skipped("a param must be given"));
    };
    for (name, schema) in describe::properties(stage).into_iter().flatten() {
        if let (Some(said), Some(is)) = (schema.get("default"), canonical.get(name))
            && !same(said, is)
        {
            return Err(failed(
                format!("the default of `{name}` that the schema tells: {}", short(said)),
                format!("`check` fills in {}", short(is)),
                "editors and `restage plugin list` show the schema's; take both from one place",
            ));
        }
    }
    Ok(())
}

/// Equal, where 1 is 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Canonical params are canonical: asked about them again, the plugin gives the same.
async fn fixed_point(bench: &mut Bench, stage: &StageType, given: Option<Value>) -> Checked<Value> {
    const HELP: &str = "results are looked up by canonical params: write every param, with its default, always in the same form";
    let Some(given) = given else {
        return Err(skipped(
            "a param must be given; `--workflow` takes params from one that uses the stage type",
        ));
    };
    let first = bench.check(&stage.name, &given).await?.map_err(|messages| {
        failed("params that are canonical are accepted", told(&messages.join(": ")), HELP)
    })?;
    match bench.check(&stage.name, &first).await? {
        Ok(second) if second == first => Ok(first),
        Ok(second) => Err(failed(
            format!("canonical params stay as they are: {}", short(&first)),
            format!("asked about them, `check` gives {}", short(&second)),
            HELP,
        )),
        Err(messages) => Err(failed(
            format!("canonical params are accepted: {}", short(&first)),
            told(&messages.join(": ")),
            HELP,
        )),
    }
}

/// A param that is not there is refused by its name.
async fn unknown_param(bench: &mut Bench, stage: &StageType, base: Option<&Value>) -> Checked {
    const HELP: &str = "a misspelt param would be a default in silence: refuse what is not known, and say its name (`deny_unknown_fields` in Rust)";
    let mut params = base.cloned().unwrap_or_else(|| json!({}));
    if let Value::Object(params) = &mut params {
        params.insert(UNKNOWN.into(), json!(1));
    }
    let expected = format!("a param `{UNKNOWN}` is refused by name");
    match bench.check(&stage.name, &params).await? {
        Ok(accepted) => Err(failed(expected, format!("it is accepted: {}", short(&accepted)), HELP)),
        Err(messages) if messages.iter().any(|message| message.contains(UNKNOWN)) => Ok(()),
        Err(_) if base.is_none() => Err(skipped(
            "another param must be given first; `--workflow` takes params from one that uses the stage type",
        )),
        Err(messages) => Err(failed(expected, told(&messages.join(": ")), HELP)),
    }
}

/// What is no object is refused, and what is deep is survived.
async fn wrong_shape(bench: &mut Bench, stage: &StageType) -> Checked {
    const HELP: &str =
        "`check` is given whatever stands under `with:`; answer FAILED and say what is expected";
    let deep = (0..DEEP).fold(json!(1), |inner, _| json!([inner]));
    let wrong = [
        ("null", Value::Null),
        ("a number", json!(7)),
        ("a text", json!("text")),
        ("an empty list", json!([])),
        ("a list", json!([1, "two"])),
        ("a deep list", deep.clone()),
    ];
    for (what, params) in wrong {
        match bench.check(&stage.name, &params).await? {
            Ok(accepted) => {
                let found = format!("{what} is accepted as {}", short(&accepted));
                return Err(failed("params that are no object are refused", found, HELP));
            }
            Err(messages) if messages.iter().all(|message| message.trim().is_empty()) => {
                return Err(failed(format!("{what} is refused with a message"), told(""), HELP));
            }
            Err(_) => {}
        }
    }
    // Some param may take anything: here it counts only that there is an answer.
    for name in describe::properties(stage).into_iter().flatten().map(|(name, _)| name) {
        for params in [json!({ name: deep }), json!({ name: {} }), json!({ name: null })] {
            bench.check(&stage.name, &params).await?.ok();
        }
    }
    Ok(())
}

/// What a plugin said, where it may have said nothing.
fn told(said: &str) -> String {
    if said.trim().is_empty() { "it is refused without a word".into() } else { format!("it says: {said}") }
}
