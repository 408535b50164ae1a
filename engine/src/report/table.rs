//! The ablation table: per variant the metrics over seeds, the difference to the baseline and what it is worth, what ran.

mod formats;
mod notes;
mod seeds;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use restage_cache::{Digest, Store};
use restage_stage::catalogue::PortType;
use serde::Serialize;

pub(crate) use formats::Format;
pub(super) use notes::points_both_ways;
pub(crate) use seeds::Alike;

use super::{
    outcome::{Numbers, Outcome, Scores},
    statistics::{Paired, correct, mean, paired, sd},
};
use crate::{
    run::event::{How, InstanceHead},
    workflow::{MetricRef, Test},
};

/// The ablation table.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    /// Names of the metrics, `stage.name`; differences are of the first.
    pub(crate) metrics: Vec<String>,
    /// Per metric what its scores speak of, if that is not a new patient or section: `optimistic` or `transductive`, `partly` so where
    /// that is not of all variants. Of metrics of the first one's stage each row says it.
    pub(crate) claims: Vec<Option<String>>,
    pub(crate) baseline: String,
    /// Groups, as patients or sections, in which variants are compared. Empty if the first metric has none.
    pub(crate) groups: Vec<String>,
    /// How they are compared.
    pub(crate) test: Test,
    pub(crate) rows: Vec<Row>,
    /// Where the spread of the baseline's first metric comes from.
    pub(crate) spread: Option<Attribution>,
    /// What a reader must know, in whole sentences.
    pub(crate) notes: Vec<String>,
}

/// One variant.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) variant: String,
    /// Per metric; `None` if it is not there.
    pub(crate) values: Vec<Option<Series>>,
    /// The first metric per group, mean over seeds.
    pub(crate) groups: Numbers,
    /// Mean over seeds of the first metric's difference to the baseline, seed by seed.
    pub(crate) difference: Option<f64>,
    /// The first metric against the baseline, group by group.
    pub(crate) comparison: Option<Paired>,
    /// Why all its seeds gave the very same first metric, if they did.
    #[serde(skip)]
    pub(crate) alike: Option<Alike>,
    /// What its scores speak of: `inductive`, `transductive` or `optimistic`, if the stage that gives them says so.
    pub(crate) setting: Option<String>,
    /// Stages of it that ran in this run, and did not for a variant above.
    pub(crate) ran: usize,
    /// Stages of it that did not have to run.
    pub(crate) reused: usize,
}

/// Where the spread of a metric comes from, as standard deviations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Attribution {
    /// Over seeds, all streams varied together.
    pub(crate) seeds: f64,
    /// Over the seeds of each stream alone, the others held.
    pub(crate) streams: BTreeMap<String, f64>,
    /// Over groups, seeds averaged.
    pub(crate) groups: Option<f64>,
}

/// A metric over seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Series {
    /// Per seed; one value if it does not depend on the seed.
    pub(crate) values: Vec<f64>,
    pub(crate) mean: f64,
    /// Standard deviation of the sample (n - 1); `None` for one value.
    pub(crate) sd: Option<f64>,
}

impl Series {
    pub(crate) fn new(values: Vec<f64>) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        Some(Self { mean: mean(&values), sd: sd(&values), values })
    }

    /// Mean of the differences seed by seed; a value without seeds meets each.
    fn difference(&self, baseline: &Self) -> f64 {
        let (a, b) = (&self.values, &baseline.values);
        let at =
            |values: &[f64], index: usize| values.get(index).or(values.first()).copied().unwrap_or(f64::NAN);
        let n = a.len().max(b.len());
        (0..n).map(|index| at(a, index) - at(b, index)).sum::<f64>() / n as f64
    }

    /// Whether several seeds gave the very same value.
    pub(super) fn is_level(&self) -> bool {
        self.values.len() > 1 && self.values.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits())
    }
}

impl std::fmt::Display for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.sd {
            // What is nothing at all is not what is below 0.0005.
            Some(_) if self.is_level() => write!(f, "{:.3} ± 0", self.mean),
            Some(sd) => write!(f, "{:.3} ± {sd:.3}", self.mean),
            None => write!(f, "{:.3}", self.mean),
        }
    }
}

impl Table {
    pub(crate) fn new(outcome: &Outcome, store: &Store) -> Self {
        let mut scores = Read { store, read: HashMap::new() };
        let mut counted = BTreeSet::new();
        let comparison = &outcome.comparison;
        let alone = |variant: &String| comparison.streams.iter().any(|(name, _)| name == variant);
        let variants: Vec<&String> = outcome.variants.iter().filter(|variant| !alone(variant)).collect();
        let mut claim = |(place, metric): (usize, &MetricRef)| {
            let settings = variants.iter().map(|variant| by_group(metric, variant, outcome, &mut scores).1);
            // What the first one's stage says, the rows say.
            let is_other =
                place > 0 && comparison.metrics.first().is_some_and(|first| first.stage != metric.stage);
            claim(settings.filter(|_| is_other).flatten())
        };
        let claims = comparison.metrics.iter().enumerate().map(&mut claim).collect();
        let rows = variants.into_iter().map(|variant| row(variant, outcome, &mut scores, &mut counted));
        let rows = rows.collect();
        let mut table = Self::of(
            comparison.metrics.iter().map(ToString::to_string).collect(),
            &outcome.baseline,
            comparison.test,
            &comparison.family,
            rows,
        );
        table.claim(claims);
        table.notes.splice(0..0, notes::of_metrics(outcome));
        let sd_of = |(name, stream): &(String, String)| {
            let series = series(comparison.metrics.first()?, outcome.of_variant(name), outcome)?;
            // A stream that changes nothing of the metric leaves one value: no spread.
            Some((stream.clone(), series.sd.unwrap_or(0.0)))
        };
        table.attribute(comparison.streams.iter().filter_map(sd_of).collect());
        table
    }

    /// Whether there is a score at all: those of a variant are complete, or not there.
    pub(crate) fn has_scores(&self) -> bool {
        self.rows.iter().any(|row| row.values.iter().any(Option::is_some))
    }

    /// Says what metrics of other stages than the first one's speak of.
    fn claim(&mut self, claims: Vec<Option<String>>) {
        for (setting, meaning) in SETTINGS {
            let named = |(metric, claim): (&String, &Option<String>)| {
                claim.as_ref().filter(|claim| claim.ends_with(setting)).map(|_| format!("`{metric}`"))
            };
            let metrics: Vec<String> = self.metrics.iter().zip(&claims).filter_map(named).collect();
            if !metrics.is_empty() {
                self.notes.push(format!("{setting}: {}: {meaning}", metrics.join(", ")));
            }
        }
        self.claims = claims;
    }

    /// Says where the baseline's spread comes from, given that over the seeds of each stream alone.
    fn attribute(&mut self, streams: BTreeMap<String, f64>) {
        let Some(row) = self.rows.iter().find(|row| row.variant == self.baseline) else { return };
        let over_seeds = row.values.first().and_then(|series| series.as_ref()?.sd);
        let groups: Vec<f64> = row.groups.values().copied().collect();
        let Some(seeds) = over_seeds.filter(|_| !streams.is_empty()) else { return };
        let each: Vec<String> =
            streams.iter().map(|(stream, sd)| format!("{stream} alone {sd:.4}")).collect();
        let over_groups = sd(&groups);
        let beside = over_groups.map_or(String::new(), |sd| format!("; over groups {sd:.4}"));
        self.notes.push(format!(
            "spread of the baseline, as sd: over seeds {seeds:.4} ({}){beside}",
            each.join(", ")
        ));
        self.spread = Some(Attribution { seeds, streams, groups: over_groups });
    }

    /// Compares rows with the baseline's, those of the family together.
    fn of(metrics: Vec<String>, baseline: &str, test: Test, family: &[String], mut rows: Vec<Row>) -> Self {
        let reference = rows.iter().find(|row| row.variant == baseline);
        let first = reference.and_then(|row| row.values.first().cloned().flatten());
        let groups = reference.map(|row| row.groups.clone()).unwrap_or_default();
        for row in rows.iter_mut().filter(|row| row.variant != baseline) {
            let own = row.values.first().and_then(Option::as_ref);
            row.difference = own.zip(first.as_ref()).map(|(own, first)| own.difference(first));
            let shared = row.groups.iter().filter_map(|(group, value)| Some((*value, *groups.get(group)?)));
            let (own, theirs): (Vec<f64>, Vec<f64>) = shared.unzip();
            row.comparison = (!own.is_empty()).then(|| paired(&own, &theirs, test));
        }
        let is_named = |name: &str, variant: &str| {
            variant.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(" = "))
        };
        let is_of_family =
            |variant: &str| family.is_empty() || family.iter().any(|name| is_named(name, variant));
        let is_absent = |name: &&String| !rows.iter().any(|row| is_named(name, &row.variant));
        let absent: Vec<String> = family.iter().filter(is_absent).map(|name| format!("`{name}`")).collect();
        let (mut corrected, others): (Vec<_>, Vec<_>) = rows
            .iter_mut()
            .filter_map(|row| Some((row.variant.as_str(), row.comparison.as_mut()?)))
            .partition(|(variant, _)| is_of_family(variant));
        let mut corrected: Vec<&mut Paired> = corrected.drain(..).map(|(_, paired)| paired).collect();
        correct(&mut corrected, test);
        others.into_iter().for_each(|(_, paired)| paired.p = None);
        let groups = groups.into_keys().collect();
        let mut table = Self {
            metrics,
            claims: Vec::new(),
            baseline: baseline.to_owned(),
            groups,
            test,
            rows,
            spread: None,
            notes: Vec::new(),
        };
        table.notes = table.notes();
        let is_tested = |row: &Row| row.comparison.as_ref().is_some_and(|paired| paired.p_adjusted.is_some());
        if !absent.is_empty() && table.rows.iter().any(is_tested) {
            table.notes.push(format!(
                "not all of the family is in this run: p is corrected for what is, and would be larger with {}",
                shortened(&absent)
            ));
        }
        table
    }

    /// What a reader must know.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let compared = || self.rows.iter().filter_map(|row| row.comparison.as_ref());
        let tested = compared().filter(|paired| paired.p_adjusted.is_some()).count();
        if tested > 0 {
            notes.push(tested_by_group(&self.groups, self.test, tested));
        } else if self.rows.len() > 1
            && self.rows.iter().any(|row| row.values.first().is_some_and(Option::is_some))
        {
            let baseline_is_there = self.rows.iter().any(|row| row.variant == self.baseline);
            notes.push(match self.groups.len() {
                _ if !baseline_is_there => {
                    format!(
                        "no comparison: `{}`, which the others are compared with, is not in this run",
                        self.baseline
                    )
                }
                0 => NO_GROUPS.to_owned(),
                1 => format!(
                    "no test: all is of one group ({}), and seeds are not independent",
                    self.groups[0]
                ),
                _ => "no test: no other variant has values of the same groups".to_owned(),
            });
        }
        let smallest = compared().filter_map(|paired| paired.smallest_attainable).fold(0.0, f64::max);
        if smallest > 0.0 {
            notes.push(underpowered(smallest));
        }
        notes.extend(notes::of_directions(&self.rows));
        notes.extend(seeds::notes(&self.rows));
        let said = |setting: &str| {
            let of_it = self.rows.iter().filter(|row| row.setting.as_deref() == Some(setting));
            of_it.map(|row| format!("`{}`", row.variant)).collect::<Vec<_>>()
        };
        for (setting, meaning) in SETTINGS {
            let variants = said(setting);
            if variants.len() == self.rows.len() && variants.len() > 1 {
                notes.push(format!("{setting}: all variants: {meaning}"));
            } else if !variants.is_empty() {
                notes.push(format!("{setting}: {}: {meaning}", shortened(&variants)));
            }
        }
        notes
    }
}

/// What scores speak of, if it is not a patient or section not yet seen; the weakest claim last.
const SETTINGS: [(&str, &str); 2] = [
    (
        "transductive",
        "something was fitted on the test spots' inputs, so this says nothing of a patient not yet seen",
    ),
    ("optimistic", "test spots lie among training spots, so this says nothing of another section or patient"),
];

/// What a column of scores speaks of: the weakest of what its variants do.
fn claim(settings: impl Iterator<Item = String>) -> Option<String> {
    let all: Vec<String> = settings.collect();
    let (weakest, _) = SETTINGS.iter().rev().find(|(setting, _)| all.iter().any(|own| own == setting))?;
    let partly = if all.iter().all(|own| own == weakest) { "" } else { "partly " };
    Some(format!("{partly}{weakest}"))
}

/// Why nothing is tested that has seeds alone.
pub(super) const NO_GROUPS: &str = "no test: the metric has no groups; seeds are not independent observations. Evaluate by patient or section";

/// How groups are compared, and so many times.
pub(super) fn tested_by_group(groups: &[String], test: Test, tested: usize) -> String {
    format!(
        "by group: mean of the paired differences over {} ({}), seeds averaged first, with a 95 % bootstrap interval over groups; p: \
         {test}, two-sided, Holm over {tested} {}",
        counted(groups.len(), "group"),
        shortened(groups),
        if tested == 1 { "comparison" } else { "comparisons" },
    )
}

/// That no comparison could have been significant.
pub(super) fn underpowered(smallest: f64) -> String {
    format!(
        "underpowered: smallest attainable p = {}; whatever the effect, none of so many comparisons over so few groups can be \
         significant at 0.05",
        p_text(smallest)
    )
}

/// `8 groups`.
fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// The first names of a list, and how many more there are.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// A probability as it is printed: three digits, or that it is smaller.
pub(crate) fn p_text(p: f64) -> String {
    match p {
        p if p < 0.0005 => "< 0.001".to_owned(),
        p if p < 0.1 => format!("{p:.4}").trim_end_matches('0').to_owned(),
        p => format!("{p:.3}").trim_end_matches('0').trim_end_matches('.').to_owned(),
    }
}

/// Metrics artifacts, each read once.
struct Read<'a> {
    store: &'a Store,
    read: HashMap<Digest, Option<Scores>>,
}

impl Read<'_> {
    fn scores(&mut self, digest: Digest) -> Option<&Scores> {
        self.read.entry(digest).or_insert_with(|| Scores::read(&digest, self.store)).as_ref()
    }
}

fn row(variant: &str, outcome: &Outcome, read: &mut Read<'_>, counted: &mut BTreeSet<usize>) -> Row {
    let metrics = &outcome.comparison.metrics;
    let values: Vec<Option<Series>> =
        metrics.iter().map(|metric| series(metric, outcome.of_variant(variant), outcome)).collect();
    let first = metrics.first().zip(values.first().and_then(Option::as_ref));
    let level = first.filter(|(_, series)| series.is_level());
    let alike = level.and_then(|(metric, _)| seeds::alike(metric, variant, outcome));
    let actions: BTreeSet<usize> = outcome.of_variant(variant).map(|instance| instance.action).collect();
    let how = |action: &usize| Some(outcome.actions.get(*action)?.done()?.how);
    let ran = |action: &&usize| matches!(how(action), Some(How::Ran { .. }));
    let fresh = actions.iter().filter(ran).filter(|action| counted.insert(**action)).count();
    let done = actions.iter().filter(|action| how(action).is_some()).count();
    let (groups, setting) =
        metrics.first().map(|metric| by_group(metric, variant, outcome, read)).unwrap_or_default();
    let variant = variant.to_owned();
    Row {
        variant,
        values,
        groups,
        difference: None,
        comparison: None,
        alike,
        setting,
        ran: fresh,
        reused: done - fresh,
    }
}

/// A metric of a variant over seeds; a stage that is mapped counts with the mean over what it is mapped over.
fn series<'a>(
    metric: &MetricRef,
    instances: impl Iterator<Item = &'a InstanceHead>,
    outcome: &Outcome,
) -> Option<Series> {
    let mut by_seed: BTreeMap<Option<u64>, Vec<f64>> = BTreeMap::new();
    for instance in instances.filter(|instance| instance.stage == metric.stage) {
        let value = *outcome.done(instance)?.metrics.get(&metric.name)?;
        by_seed.entry(instance.seed).or_default().push(value);
    }
    Series::new(by_seed.into_values().map(|values| mean(&values)).collect())
}

/// A metric of a variant per group, mean over seeds, and what its scores speak of. Groups are those that the artifact tells, as
/// patients; of one that tells none, what its stage is mapped over.
fn by_group(
    metric: &MetricRef,
    variant: &str,
    outcome: &Outcome,
    read: &mut Read<'_>,
) -> (Numbers, Option<String>) {
    let mut setting = None;
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for instance in outcome.of_variant(variant).filter(|instance| instance.stage == metric.stage) {
        let Some(action) = outcome.actions.get(instance.action) else { continue };
        for (_, digest) in action.outputs(PortType::Metrics) {
            let Some(scores) = read.scores(digest) else { continue };
            if setting.is_none() {
                setting =
                    scores.details.get("setting").and_then(|setting| setting.as_str()).map(str::to_owned);
            }
            let place = instance.at.values().map(String::as_str).collect::<Vec<_>>().join(", ");
            for (group, value) in grouped(scores, &metric.name, &place, outcome.comparison.test) {
                values.entry(group.to_owned()).or_default().push(value);
            }
        }
    }
    (values.into_iter().map(|(group, values)| (group, mean(&values))).collect(), setting)
}

/// A metric of one place by group. A test of folds is over what its stage is mapped over, whichever patients are in each of them.
fn grouped<'a>(scores: &'a Scores, name: &'a str, place: &'a str, test: Test) -> Vec<(&'a str, f64)> {
    match (test, scores.values.get(name)) {
        (Test::NadeauBengio, Some(value)) if !place.is_empty() => vec![(place, *value)],
        _ => scores.of_groups(name, place).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_are_groups_where_folds_are_tested() {
        let of = |pairs: &[(&str, f64)]| -> Numbers {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        let groups = [("A".to_owned(), of(&[("macro_f1", 0.5)])), ("B".to_owned(), of(&[("macro_f1", 0.7)]))];
        let scores = Scores { values: of(&[("macro_f1", 0.55)]), groups: groups.into(), ..Scores::default() };
        let patients = vec![("A", 0.5), ("B", 0.7)];
        assert_eq!(grouped(&scores, "macro_f1", "2", Test::SignFlip), patients);
        assert_eq!(grouped(&scores, "macro_f1", "2", Test::NadeauBengio), [("2", 0.55)]);
        assert_eq!(
            grouped(&scores, "macro_f1", "", Test::NadeauBengio),
            patients,
            "folds that were gathered"
        );
    }

    pub(super) fn row(variant: &str, values: &[&[f64]], groups: &[f64]) -> Row {
        let named = groups.iter().zip('A'..).map(|(value, name)| (name.to_string(), *value));
        Row {
            variant: variant.into(),
            values: values.iter().map(|values| Series::new(values.to_vec())).collect(),
            groups: named.collect(),
            ..Row::default()
        }
    }

    pub(super) fn table(groups: usize) -> Table {
        let mut rows = vec![
            row(
                "baseline",
                &[&[0.8, 0.9], &[0.91, 0.93]],
                &[0.8, 0.85, 0.9, 0.86, 0.83, 0.84, 0.88, 0.9][..groups],
            ),
            row("image only", &[&[0.5], &[]], &[0.5, 0.6, 0.55, 0.4, 0.52, 0.51, 0.58, 0.5][..groups]),
            row(
                "genes = 500",
                &[&[0.83, 0.83], &[0.9, 0.91]],
                &[0.8, 0.9, 0.9, 0.8, 0.8, 0.85, 0.87, 0.9][..groups],
            ),
        ];
        rows[2].alike = Some(Alike::Level(vec!["`regions`".into()]));
        (rows[0].ran, rows[1].ran, rows[1].reused) = (12, 2, 9);
        rows[1].setting = Some("transductive".into());
        let metrics = ["evaluate.macro_f1", "evaluate.accuracy"].map(str::to_owned).to_vec();
        Table::of(metrics, "baseline", Test::SignFlip, &[], rows)
    }

    #[test]
    fn mean_sd_and_paired_difference() {
        let a = Series::new(vec![0.5, 0.7, 0.6]).unwrap();
        assert!((a.mean - 0.6).abs() < 1e-12 && (a.sd.unwrap() - 0.1).abs() < 1e-12);
        let one = Series::new(vec![0.4]).unwrap();
        assert_eq!(one.sd, None);
        assert!((one.difference(&a) - -0.2).abs() < 1e-12, "a value without seeds meets each");
        assert!(Series::new(vec![]).is_none());
    }

    #[test]
    fn the_family_is_corrected_together_and_others_have_no_p() {
        let rows = |table: &Table| -> Vec<Option<f64>> {
            let adjusted = |row: &Row| row.comparison.as_ref()?.p_adjusted;
            table.rows.iter().map(adjusted).collect()
        };
        let whole = table(8);
        let image = whole.rows[1].comparison.as_ref().unwrap();
        assert_eq!((image.p, image.p_adjusted), (Some(2.0 / 256.0), Some(4.0 / 256.0)));
        let named = Table::of(whole.metrics, "baseline", Test::SignFlip, &["genes".into()], whole.rows);
        assert!(matches!(rows(&named)[..], [None, None, Some(p)] if p > 0.05));
        assert_eq!(named.rows[1].comparison.as_ref().unwrap().p, None);
        assert!(
            !named.notes.iter().any(|note| note.starts_with("not all of the family")),
            "{:?}",
            named.notes
        );
        let family = ["genes", "head"].map(str::to_owned);
        let part = Table::of(named.metrics, "baseline", Test::SignFlip, &family, named.rows);
        let note = part.notes.iter().find(|note| note.starts_with("not all of the family"));
        assert!(note.is_some_and(|note| note.ends_with("larger with `head`")), "{:?}", part.notes);
    }

    #[test]
    fn spread_is_told_by_where_it_comes_from() {
        let mut table = table(3);
        table.attribute([("batches".to_owned(), 0.01), ("init".to_owned(), 0.0)].into());
        insta::assert_snapshot!(
            table.notes.last().unwrap(),
            @"spread of the baseline, as sd: over seeds 0.0707 (batches alone 0.0100, init alone 0.0000); over groups 0.0500"
        );
        assert_eq!(table.spread.unwrap().streams["batches"], 0.01);
    }

    #[test]
    fn a_column_claims_what_its_weakest_variant_does() {
        let of = |settings: &[&str]| claim(settings.iter().map(ToString::to_string));
        assert_eq!(of(&["inductive", "inductive"]), None);
        assert_eq!(of(&["optimistic", "optimistic"]).as_deref(), Some("optimistic"));
        assert_eq!(of(&["optimistic", "transductive"]).as_deref(), Some("partly optimistic"));
        assert_eq!(of(&["inductive", "transductive"]).as_deref(), Some("partly transductive"));
        let mut table = table(3);
        table.claim(vec![None, Some("optimistic".into())]);
        assert!(
            table.notes.last().unwrap().starts_with("optimistic: `evaluate.accuracy`: test spots lie among")
        );
        assert_eq!(table.claims[1].as_deref(), Some("optimistic"));
    }

    #[test]
    fn probabilities_are_printed_short() {
        let texts = [0.0625, 0.25, 0.00001, 0.031_25, 1.0, 0.5].map(p_text);
        assert_eq!(texts, ["0.0625", "0.25", "< 0.001", "0.0312", "1", "0.5"]);
    }

    #[test]
    fn the_table_reads_like_one() {
        insta::assert_snapshot!(table(8).draw(None));
    }

    #[test]
    fn a_run_without_the_baseline_says_so() {
        let mut rows = table(8).rows;
        rows.remove(0);
        let alone = Table::of(vec!["evaluate.macro_f1".into()], "baseline", Test::SignFlip, &[], rows);
        assert!(alone.notes[0].starts_with("no comparison: `baseline`"), "{:?}", alone.notes);
    }

    #[test]
    fn of_what_is_not_yet_there_nothing_is_said() {
        let rows = ["baseline", "other"].map(|variant| row(variant, &[&[]], &[])).into();
        let table = Table::of(vec!["evaluate.macro_f1".into()], "baseline", Test::SignFlip, &[], rows);
        assert_eq!(table.notes, [] as [String; 0]);
    }

    #[test]
    fn few_groups_and_none_are_said() {
        insta::assert_snapshot!([3, 1, 0].map(|groups| table(groups).notes.join("\n")).join("\n\n"));
    }
}
