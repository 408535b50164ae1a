//! Params as plugins understand them: checked, typed, defaults filled. A plugin is asked once for each distinct value.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use restage_stage::catalogue::StageType;
use serde_json::Value;

use super::{
    group::{Draft, Group},
    words::{missing, problem},
};
use crate::{
    plugin::Catalog,
    workflow::{Diagnostic, Diagnostics, Stage, suggest},
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
            let help = match suggest(param, known.map(String::as_str)) {
                // `weight: 0,5` between braces is a weight and a 5.
                names if param.chars().all(|c| c.is_ascii_digit()) => {
                    format!("decimal numbers have a point: `0.{param}`; else {names}")
                }
                names => names,
            };
            problems.push(Diagnostic::new(at, message, "unknown param").help(help));
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
        let is_known = |param: String| draft.unknown.contains(&param) || stage.misshapen;
        if missing(&messages).is_some_and(is_known) {
            return;
        }
        let Some(offer) = catalog.find(&stage.uses.value) else { return };
        let origin = |param: &str| {
            draft.origins.iter().find(|(from, _)| from == param).map(|(_, place)| place.clone())
        };
        let (problem, param) = problem(stage, offer.stage, &messages, origin);
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
