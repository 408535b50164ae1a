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

/// At the points of its dimensions, a stage's params may be wrong in many ways; so many are told.
const MAX_TOLD: usize = 10;

/// Canonical params of each draft; `None` where they are wrong, which is told.
pub(super) async fn canonicalise(
    groups: &[Group],
    drafts: &[Draft],
    catalog: &mut Catalog,
    problems: &mut Diagnostics,
) -> Vec<Option<Arc<Value>>> {
    let mut told = Told::default();
    // Per stage type the distinct params, each with the drafts that have it.
    let mut distinct: HashMap<&str, Vec<(Value, Vec<usize>)>> = HashMap::new();
    let mut seen: HashMap<(&str, String), usize> = HashMap::new();
    let mut canonical: Vec<Option<Arc<Value>>> = vec![None; drafts.len()];
    for (index, draft) in drafts.iter().enumerate() {
        let stage = &groups[draft.group].stage;
        let uses = stage.uses.value.as_str();
        let Some(offer) = catalog.find(uses) else { continue };
        // What has params of unknown names is asked about without them: there may be more that is wrong.
        let mut written = draft.written.clone();
        for param in unknown_params(stage, offer.stage, &written) {
            told.unknown(stage, offer.stage, &param, problems);
            remove(&mut written, &param);
        }
        let list = distinct.entry(uses).or_default();
        let place = *seen.entry((uses, written.to_string())).or_insert_with(|| {
            list.push((written, Vec::new()));
            list.len() - 1
        });
        if let Some((_, drafts)) = list.get_mut(place) {
            drafts.push(index);
        }
    }
    for (uses, list) in distinct {
        let written: Vec<&Value> = list.iter().map(|(written, _)| written).collect();
        let answers = catalog.check(uses, &written).await;
        for ((written, indices), answer) in list.iter().zip(answers) {
            match answer {
                Ok(value) => {
                    let value = Arc::new(value);
                    for index in indices {
                        let whole = drafts[*index].unknown.is_empty() && drafts[*index].written == *written;
                        canonical[*index] = whole.then(|| value.clone());
                    }
                }
                Err(messages) => {
                    for index in indices {
                        let stage = &groups[drafts[*index].group].stage;
                        if problems.full() || !told.anew(stage, &messages) {
                            continue;
                        }
                        tell(stage, written.clone(), &drafts[*index], messages.clone(), catalog, problems)
                            .await;
                    }
                }
            }
        }
    }
    canonical
}

/// What was told of each stage, by its address: its drafts share their mistakes.
#[derive(Default)]
struct Told(HashMap<usize, BTreeSet<String>>);

impl Told {
    /// Whether this was not told of the stage yet, nor too much.
    fn anew(&mut self, stage: &Arc<Stage>, messages: &[String]) -> bool {
        let told = self.0.entry(Arc::as_ptr(stage) as usize).or_default();
        told.len() < MAX_TOLD && told.insert(messages.join(": "))
    }

    /// Tells a param of a name that the stage type does not have.
    fn unknown(
        &mut self,
        stage: &Arc<Stage>,
        stage_type: &StageType,
        param: &str,
        problems: &mut Diagnostics,
    ) {
        let told = self.0.entry(Arc::as_ptr(stage) as usize).or_default();
        let message = format!("`{}` has no param `{param}`", stage.uses.value);
        if let Some((at, _)) = stage.with.get(param)
            && told.insert(message.clone())
        {
            let known = properties(stage_type).into_iter().flat_map(|known| known.keys());
            problems.push(
                Diagnostic::new(at, message, "unknown param").help(suggest(param, known.map(String::as_str))),
            );
        }
    }
}

/// Tells everything that is wrong with some params. A plugin tells the first one that is wrong; without it, the next.
async fn tell(
    stage: &Stage,
    mut written: Value,
    draft: &Draft,
    mut messages: Vec<String>,
    catalog: &mut Catalog,
    problems: &mut Diagnostics,
) {
    let mut told = BTreeSet::new();
    loop {
        // A param whose reference cannot be had is not missing.
        if missing(&messages).is_some_and(|param| draft.unknown.contains(&param)) {
            return;
        }
        let (problem, param) = problem(stage, &messages);
        let fresh = told.insert(problem.message.clone());
        problems.push(problem);
        let removed = param.is_some_and(|param| remove(&mut written, &param));
        if !removed || !fresh {
            return;
        }
        let mut answers = catalog.check(&stage.uses.value, &[&written]).await;
        match answers.pop() {
            // Taking it away made it missing: that is no other mistake.
            Some(Err(next)) if missing(&next).is_none_or(|param| !stage.with.contains_key(&param)) => {
                messages = next;
            }
            _ => return,
        }
    }
}

fn remove(written: &mut Value, param: &str) -> bool {
    written.as_object_mut().is_some_and(|written| written.shift_remove(param).is_some())
}

fn properties(stage_type: &StageType) -> Option<&serde_json::Map<String, Value>> {
    stage_type.params.get("properties").and_then(Value::as_object)
}

/// Names of params that the stage type does not have.
fn unknown_params(stage: &Stage, stage_type: &StageType, written: &Value) -> Vec<String> {
    let known = properties(stage_type);
    // A stage type without params has no list of them, and takes no others.
    let takes_none =
        known.is_none() && stage_type.params.get("additionalProperties") == Some(&Value::Bool(false));
    let is_known = |param: &str| known.map_or(!takes_none, |known| known.contains_key(param));
    let unknown = |param: &&String| !is_known(param) && written.get(*param).is_some();
    stage.with.keys().filter(unknown).cloned().collect()
}

/// The param that a plugin misses.
fn missing(messages: &[String]) -> Option<String> {
    let message = messages.first()?;
    message.strip_prefix("missing field `")?.split('`').next().map(str::to_owned)
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
            let text =
                missing(messages).map(|param| format!("`{}` needs the param `{param}`", stage.uses.value));
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
