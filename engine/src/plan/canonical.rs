//! Params as plugins understand them: checked, typed, defaults filled. A plugin is asked once for each distinct value.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use restage_stage::catalogue::StageType;
use serde_json::Value;

use super::group::{Draft, Group};
use crate::{
    plugin::Catalog,
    workflow::{Diagnostic, Diagnostics, Node, Stage, boolean_word, suggest},
};

/// Canonical params of each draft; `None` where they are wrong, which is told.
pub(super) async fn canonicalise(
    groups: &[Group],
    drafts: &[Draft],
    catalog: &mut Catalog,
    problems: &mut Diagnostics,
) -> Vec<Option<Arc<Value>>> {
    // Per stage type the distinct params, each with a draft that has it.
    let mut distinct: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut seen: HashMap<(&str, String), usize> = HashMap::new();
    let mut first_of: Vec<usize> = Vec::with_capacity(drafts.len());
    for (index, draft) in drafts.iter().enumerate() {
        let uses = groups[draft.group].stage.uses.value.as_str();
        let first = *seen.entry((uses, draft.written.to_string())).or_insert(index);
        if first == index {
            distinct.entry(uses).or_default().push(index);
        }
        first_of.push(first);
    }
    let mut canonical: Vec<Option<Arc<Value>>> = vec![None; drafts.len()];
    for (uses, indices) in distinct {
        let Some(offer) = catalog.find(uses) else { continue };
        let stage_type = offer.stage.clone();
        let known = |index: &usize| {
            unknown_params(&groups[drafts[*index].group].stage, &stage_type, &drafts[*index].written)
                .is_empty()
        };
        // What has params of unknown names is asked about one by one, without them.
        let (plain, odd): (Vec<usize>, Vec<usize>) = indices.into_iter().partition(known);
        let written: Vec<&Value> = plain.iter().map(|index| &drafts[*index].written).collect();
        let answers = catalog.check(uses, &written).await;
        let mut wrong = odd;
        for (index, answer) in plain.into_iter().zip(answers) {
            match answer {
                Ok(value) => canonical[index] = Some(Arc::new(value)),
                Err(_) => wrong.push(index),
            }
        }
        for index in wrong {
            let stage = &groups[drafts[index].group].stage;
            tell(stage, &stage_type, drafts[index].written.clone(), catalog, problems).await;
        }
    }
    first_of.into_iter().map(|first| canonical[first].clone()).collect()
}

/// Tells everything that is wrong with some params. A plugin tells the first one that is wrong; without it, the next.
async fn tell(
    stage: &Stage,
    stage_type: &StageType,
    mut written: Value,
    catalog: &mut Catalog,
    problems: &mut Diagnostics,
) {
    let known = || {
        stage_type.params.get("properties").and_then(Value::as_object).into_iter().flat_map(|map| map.keys())
    };
    for param in unknown_params(stage, stage_type, &written) {
        if let Some((at, _)) = stage.with.get(&param) {
            let message = format!("`{}` has no param `{param}`", stage.uses.value);
            problems.push(
                Diagnostic::new(at, message, "unknown param")
                    .help(suggest(&param, known().map(String::as_str))),
            );
        }
        remove(&mut written, &param);
    }
    let mut told = BTreeSet::new();
    loop {
        let mut answers = catalog.check(&stage.uses.value, &[&written]).await;
        let Some(Err(messages)) = answers.pop() else { return };
        let (problem, param) = problem(stage, &messages);
        let fresh = told.insert(problem.message.clone());
        problems.push(problem);
        let removed = param.is_some_and(|param| remove(&mut written, &param));
        if !removed || !fresh {
            return;
        }
    }
}

fn remove(written: &mut Value, param: &str) -> bool {
    written.as_object_mut().is_some_and(|written| written.shift_remove(param).is_some())
}

/// Names of params that the stage type does not have.
fn unknown_params(stage: &Stage, stage_type: &StageType, written: &Value) -> Vec<String> {
    let Some(known) = stage_type.params.get("properties").and_then(Value::as_object) else {
        return Vec::new();
    };
    let unknown = |param: &&String| !known.contains_key(*param) && written.get(*param).is_some();
    stage.with.keys().filter(unknown).cloned().collect()
}

/// The plugin's words on wrong params, at the param that they begin with, and that param.
fn problem(stage: &Stage, messages: &[String]) -> (Diagnostic, Option<String>) {
    let message = messages.join(": ");
    let param =
        message.strip_prefix('`').and_then(|rest| rest.split(['.', '[', '`']).next()).map(str::to_owned);
    match param.as_ref().and_then(|param| stage.with.get(param)) {
        Some((_, node)) => {
            let advice = advice(node, &message);
            let problem = Diagnostic::new(&node.at, message, "this value");
            let problem = match advice {
                Some(advice) => problem.help(advice),
                None => problem,
            };
            (problem, param)
        }
        None => {
            let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
            let text = missing.map(|field| format!("`{}` needs the param `{field}`", stage.uses.value));
            let help = "`restage plugin list WORKFLOW` shows the params of every stage type";
            let at = &stage.uses.at;
            (Diagnostic::new(at, text.unwrap_or(message), "in the params of this stage").help(help), None)
        }
    }
}

/// Words for mistakes that YAML invites.
fn advice(node: &Node, message: &str) -> Option<String> {
    let text = node.text()?;
    if message.contains("boolean") {
        return boolean_word(text).map(|word| format!("`{text}` is text; write `{word}`"));
    }
    let wants_number = ["expected f", "expected u", "expected i"].iter().any(|words| message.contains(words));
    (wants_number && text.parse::<f64>().is_ok()).then(|| "without quotes it is a number".to_owned())
}
