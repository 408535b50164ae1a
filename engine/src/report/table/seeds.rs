//! Seeds that gave the very same value: what that means.

use std::collections::{BTreeMap, BTreeSet};

use restage_cache::Digest;
use restage_stage::catalogue::PortType;

use super::{Row, shortened};
use crate::{
    report::outcome::Outcome,
    run::event::{ActionId, InstanceHead},
    workflow::MetricRef,
};

/// Why all seeds of a variant gave the very same value, with the names of the stages that say so. That a spread is exactly zero is
/// suspicious where something that is drawn should have shown, as where a trainer sets a seed of its own; it is not where nothing random
/// was on the way. Artifacts tell the two apart: they are equal to the byte or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alike {
    /// All stages on the way that take a seed gave the same bytes with each, and none of them trains: a draw that can make no
    /// difference, as a budget that keeps all labels. Not suspicious, but zero is then no measurement of spread.
    Unmoved(Vec<String>),
    /// The same, and these give a model. First weights and batches that are drawn with another seed leave other bytes: suspicious.
    Untouched(Vec<String>),
    /// These gave other bytes, and yet what is judged is the same: something later evened it out, as the majority class does of other
    /// labels. Not suspicious, and no measurement either.
    Absorbed(Vec<String>),
    /// What is judged has other bytes because of these, and the score is equal to the last bit: suspicious. The metric may be at its
    /// end (all right, or all wrong), or look at what no seed changes.
    Level(Vec<String>),
}

/// What a stage gave: stage, what it is mapped over, port.
type Output<'a> = (&'a str, Vec<&'a str>, &'a str);

/// Of a variant of which several seeds gave the same value of a metric. `None` if no stage on the way to it takes a seed.
pub(super) fn alike(metric: &MetricRef, variant: &str, outcome: &Outcome) -> Option<Alike> {
    let mut judges: BTreeMap<Option<u64>, Vec<&InstanceHead>> = BTreeMap::new();
    for instance in outcome.of_variant(variant).filter(|instance| instance.stage == metric.stage) {
        judges.entry(instance.seed).or_default().push(instance);
    }
    let mut drawn: BTreeMap<Output, BTreeSet<Digest>> = BTreeMap::new();
    let mut models: BTreeSet<&str> = BTreeSet::new();
    let mut judged: BTreeSet<Vec<_>> = BTreeSet::new();
    for judges in judges.values() {
        judged.insert(judges.iter().filter_map(|judge| Some(&outcome.done(judge)?.past.inputs)).collect());
        for (action, port) in way(judges.iter().map(|judge| judge.action), outcome) {
            let Some(action) = outcome.actions.get(action) else { continue };
            let Some(done) = action.done().filter(|done| done.past.seed.is_some()) else { continue };
            let Some(digest) = done.outputs.get(port) else { continue };
            let at = done.past.at.values().map(String::as_str).collect();
            drawn.entry((&done.past.stage, at, port)).or_default().insert(*digest);
            if action.head.outputs.get(port) == Some(&PortType::Model) {
                models.insert(&done.past.stage);
            }
        }
    }
    let named = |is_meant: &dyn Fn(&str, usize) -> bool| -> Vec<String> {
        let stages = drawn.iter().filter(|((stage, ..), digests)| is_meant(stage, digests.len()));
        let names: BTreeSet<&str> = stages.map(|((stage, ..), _)| *stage).collect();
        names.into_iter().map(|name| format!("`{name}`")).collect()
    };
    let moved = named(&|_, different| different > 1);
    let trained = named(&|stage, _| models.contains(stage));
    Some(match (moved.is_empty(), trained.is_empty(), judged.len() > 1) {
        (_, _, true) => Alike::Level(moved),
        (false, ..) => Alike::Absorbed(moved),
        (true, false, _) => Alike::Untouched(trained),
        (true, true, _) if drawn.is_empty() => return None,
        (true, true, _) => Alike::Unmoved(named(&|_, _| true)),
    })
}

/// Everything that was read on the way to these actions: of which action, which output.
fn way(to: impl Iterator<Item = ActionId>, outcome: &Outcome) -> BTreeSet<(ActionId, &str)> {
    let mut read = BTreeSet::new();
    let mut seen: BTreeSet<ActionId> = to.collect();
    let mut left: Vec<ActionId> = seen.iter().copied().collect();
    while let Some(action) = left.pop() {
        let inputs = outcome.actions.get(action).into_iter().flat_map(|action| action.head.inputs.values());
        for (source, port) in inputs.flatten() {
            read.insert((*source, port.as_str()));
            if seen.insert(*source) {
                left.push(*source);
            }
        }
    }
    read
}

/// What a reader must know of it, a sentence for all variants of which the same is true.
pub(super) fn notes(rows: &[Row]) -> Vec<String> {
    let mut variants: BTreeMap<&Alike, Vec<String>> = BTreeMap::new();
    for row in rows {
        if let Some(alike) = &row.alike {
            variants.entry(alike).or_default().push(format!("`{}`", row.variant));
        }
    }
    let note = |(alike, variants): (&Alike, Vec<String>)| {
        let of = shortened(&variants);
        match alike {
            Alike::Unmoved(stages) => format!(
                "seeds change nothing of {of}: {} gave the same bytes with each, so no randomness reached the metric and its spread is \
                 not measured",
                shortened(stages)
            ),
            Alike::Absorbed(stages) => format!(
                "seeds change nothing that {of} is judged by: {} gave something else with each, and what came of it is the same to the \
                 byte, so the metric's spread is not measured",
                shortened(stages)
            ),
            Alike::Untouched(stages) => format!(
                "suspicious: all seeds of {of} gave the very same model of {}: does it use its seed?",
                shortened(stages)
            ),
            Alike::Level(stages) => format!(
                "suspicious: all seeds of {of} gave the very same value, though {}: is the metric at its end, or does it look at \
                 something that no seed changes?",
                if stages.is_empty() {
                    "what is judged differs".to_owned()
                } else {
                    format!("what is judged differs by {}", shortened(stages))
                }
            ),
        }
    };
    variants.into_iter().map(note).collect()
}

#[cfg(test)]
mod tests {
    use restage_cache::ActionKey;
    use serde_json::Value;

    use super::*;
    use crate::{
        plan::PastAction,
        report::outcome::{ActionOutcome, Done, State},
        run::event::{ActionHead, How},
    };

    /// A stage of a chain: its name, its output's type, whether it takes a seed, and what it gave with each of two seeds.
    type Link<'a> = (&'a str, PortType, bool, [&'a str; 2]);

    /// Why two seeds are alike, of a chain of which the last stage judges.
    fn of(chain: &[Link]) -> Option<Alike> {
        let mut actions: Vec<ActionOutcome> = Vec::new();
        let mut instances = Vec::new();
        for seed in [0, 1] {
            for (place, (stage, kind, draws, gave)) in chain.iter().enumerate() {
                let source = (place > 0).then(|| (actions.len() - 1, "out".to_owned()));
                let inputs: BTreeMap<String, Vec<_>> =
                    source.into_iter().map(|source| ("in".to_owned(), vec![source])).collect();
                let read = (place > 0).then(|| vec![Digest::of(chain[place - 1].3[seed].as_bytes())]);
                let past = PastAction {
                    stage: (*stage).to_owned(),
                    at: BTreeMap::new(),
                    uses: String::new(),
                    identity: Digest::of(b""),
                    keyed_params: Value::Null,
                    seed: draws.then_some(seed as u64),
                    stream: None,
                    inputs: read.into_iter().map(|read| ("in".to_owned(), read)).collect(),
                };
                let done = Done {
                    how: How::Cached,
                    key: ActionKey::derive("test", &[]),
                    // What nobody on the way reads does not count.
                    outputs: [
                        ("out".to_owned(), Digest::of(gave[seed].as_bytes())),
                        ("log".to_owned(), Digest::of(&[seed as u8])),
                    ]
                    .into(),
                    past,
                    metrics: BTreeMap::new(),
                };
                actions.push(ActionOutcome {
                    head: ActionHead {
                        name: (*stage).to_owned(),
                        uses: String::new(),
                        inputs,
                        outputs: [("out".to_owned(), *kind)].into(),
                    },
                    state: State::Done(Box::new(done)),
                    curves: BTreeMap::new(),
                    times: BTreeMap::new(),
                    retries: 0,
                });
                instances.push(InstanceHead {
                    variant: "baseline".into(),
                    seed: Some(seed as u64),
                    stage: (*stage).to_owned(),
                    at: BTreeMap::new(),
                    action: actions.len() - 1,
                });
            }
        }
        let outcome = Outcome {
            workflow: "w.yaml".into(),
            version: String::new(),
            time: 0,
            by: None,
            milliseconds: None,
            variants: vec!["baseline".into()],
            baseline: "baseline".into(),
            comparison: crate::run::event::Comparison::default(),
            actions,
            instances,
        };
        alike(&MetricRef { stage: "evaluate".into(), name: "macro_f1".into() }, "baseline", &outcome)
    }

    #[test]
    fn zero_spread_is_suspicious_where_something_drawn_should_have_shown() {
        use PortType::{Metrics, Model, Predictions, Table, TrainLabels};
        let names = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
        let table = ("section", Table, false, ["s", "s"]);
        let end = ("evaluate", Metrics, false, ["0.5", "0.5"]);
        let all_labels = ("labels", TrainLabels, true, ["all", "all"]);
        let few_labels = ("labels", TrainLabels, true, ["a few", "others"]);
        let regions = |gave| ("regions", Predictions, false, gave);
        let pretrain = |gave| ("pretrain", Model, true, gave);
        // A budget that keeps all labels before a head that draws nothing.
        let idle = of(&[table, all_labels, regions(["p", "p"]), end]);
        assert_eq!(idle, Some(Alike::Unmoved(names(&["labels"]))));
        // A trainer that sets its own seed.
        let fixed = of(&[table, all_labels, pretrain(["m", "m"]), regions(["p", "p"]), end]);
        assert_eq!(fixed, Some(Alike::Untouched(names(&["pretrain"]))));
        // The majority class of other labels.
        let majority = of(&[table, few_labels, regions(["p", "p"]), end]);
        assert_eq!(majority, Some(Alike::Absorbed(names(&["labels"]))));
        // Other models, other predictions, and the same score.
        let level = of(&[table, all_labels, pretrain(["m", "n"]), regions(["p", "q"]), end]);
        assert_eq!(level, Some(Alike::Level(names(&["pretrain"]))));
        // Nothing takes a seed.
        assert_eq!(of(&[table, regions(["p", "p"]), end]), None);
    }

    #[test]
    fn one_sentence_is_for_all_variants_of_which_it_is_true() {
        let row = |variant: &str, alike| Row { variant: variant.into(), alike, ..Row::default() };
        let labels = || Some(Alike::Unmoved(vec!["`labels`".into()]));
        let rows = [
            row("baseline", None),
            row("PCA", labels()),
            row("majority", labels()),
            row("few", Some(Alike::Absorbed(vec!["`labels`".into()]))),
            row("fixed", Some(Alike::Untouched(vec!["`pretrain`".into()]))),
            row("level", Some(Alike::Level(vec!["`pretrain`".into(), "`labels`".into()]))),
            row("elsewhere", Some(Alike::Level(Vec::new()))),
        ];
        insta::assert_snapshot!(notes(&rows).join("\n"));
    }
}
