//! `metrics.json`: what every stage of every variant and seed measured.

use restage_cache::Store;
use restage_stage::catalogue::PortType;
use serde_json::{Map, Value, json};

use crate::report::{Done, Outcome, Scores};

/// All metrics of a run, in the order of its plan; with the curves that its stages told, if they are wanted.
pub(crate) fn metrics(outcome: &Outcome, store: &Store, with_curves: bool) -> Value {
    let results = outcome.instances.iter().filter_map(|instance| {
        let action = outcome.actions.get(instance.action)?;
        let done = action.done()?;
        let mut result = json!({
            "variant": instance.variant, "seed": instance.seed, "stage": instance.stage, "at": instance.at,
            "uses": action.head.uses, "key": done.key,
        });
        let fields = result.as_object_mut()?;
        let (values, groups) =
            scores(done, action.outputs(PortType::Metrics).map(|(_, digest)| digest), store);
        let mut has_any = !values.is_empty();
        fields.insert("metrics".to_owned(), values.into());
        if !groups.is_empty() {
            fields.insert("groups".to_owned(), groups.into());
        }
        if with_curves && !action.curves.is_empty() {
            let curve = |points: &Vec<(u64, Option<f64>)>| {
                let (steps, values): (Vec<u64>, Vec<Option<f64>>) = points.iter().copied().unzip();
                json!({ "steps": steps, "values": values })
            };
            let curves = action.curves.iter().map(|(name, points)| (name.clone(), curve(points)));
            fields.insert("curves".to_owned(), Value::Object(curves.collect()));
            has_any = true;
        }
        has_any.then_some(result)
    });
    json!({
        "restage": outcome.version,
        "workflow": outcome.workflow.file_name().map(|name| name.to_string_lossy()),
        "by": outcome.by,
        "time": time(outcome.time),
        "milliseconds": outcome.milliseconds,
        "variants": outcome.variants,
        "baseline": outcome.baseline,
        "results": results.collect::<Vec<_>>(),
    })
}

/// Numbers, and those of groups, as its artifacts have them; if these are gone, as its run wrote them down.
fn scores(
    done: &Done,
    artifacts: impl Iterator<Item = restage_cache::Digest>,
    store: &Store,
) -> (Map<String, Value>, Map<String, Value>) {
    let mut values: Map<String, Value> =
        done.metrics.iter().map(|(name, value)| (name.clone(), (*value).into())).collect();
    let mut groups = Map::new();
    for scores in artifacts.filter_map(|digest| Scores::read(&digest, store)) {
        values.extend(scores.values.into_iter().map(|(name, value)| (name, value.into())));
        groups.extend(scores.groups.into_iter().map(|(group, values)| (group, json!(values))));
    }
    (values, groups)
}

/// Milliseconds since 1970 as RFC 3339.
pub(super) fn time(milliseconds: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(milliseconds);
    humantime::format_rfc3339_millis(time).to_string()
}
