//! Regions on the tissue: what an expert said of spots, and what each variant says, spot by spot, for each stage that judges.

mod clusters;
mod sections;
mod sums;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
};

use rayon::prelude::*;
use restage_cache::{Digest, Store};
use restage_stage::catalogue::PortType;
use serde_json::{Value, json};

use self::sums::Sums;
use super::{super::outcome::Outcome, artifact::Labels, packed, palette, workflow::compared};
use crate::run::event::{ActionId, InstanceHead};

/// What there is to draw.
#[derive(Default)]
pub(super) struct Maps {
    pub(super) regions: Vec<Region>,
    pub(super) sections: Vec<Section>,
    /// Those of the metrics that are compared, in their order.
    pub(super) judges: Vec<Judge>,
    /// What could not be read.
    pub(super) problems: Vec<String>,
}

/// A kind of tissue.
pub(super) struct Region {
    pub(super) name: String,
    pub(super) colour: &'static str,
}

/// A section with spots that are judged.
pub(super) struct Section {
    pub(super) name: String,
    pub(super) spots: Vec<String>,
    /// In units of the picture.
    pub(super) at: Vec<[f64; 2]>,
    /// Position of its region, where an expert gave one to a judged spot.
    pub(super) truth: Vec<Option<usize>>,
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) radius: f64,
    /// Its picture as a `data:` address.
    pub(super) image: Option<String>,
}

/// A stage that judges, and what it judges.
pub(super) struct Judge {
    pub(super) stage: String,
    pub(super) kind: Kind,
    pub(super) variants: Vec<Mapped>,
}

/// What is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Regions of held-out spots.
    HeldOut,
    /// Clusters, whatever they are called.
    Clusters,
}

impl Kind {
    /// What a judge of this kind reads beside predictions.
    fn labels(self) -> PortType {
        match self {
            Self::HeldOut => PortType::TestLabels,
            Self::Clusters => PortType::Labels,
        }
    }
}

/// What a variant says.
pub(super) struct Mapped {
    pub(super) variant: String,
    /// How many seeds that is of: of clusters one, as they have other names in each.
    pub(super) seeds: usize,
    /// Section by section.
    pub(super) sections: Vec<Said>,
}

/// What a variant says of a section's spots.
#[derive(Clone, Default)]
pub(super) struct Said {
    /// Per spot and region, or cluster: the mean over seeds; meaningless where `predicted` is none.
    pub(super) probabilities: Vec<f32>,
    /// Position of the region, or cluster, of the largest mean; `None` for spots that are not judged.
    pub(super) predicted: Vec<Option<usize>>,
    /// Share of the seeds whose own prediction that is.
    pub(super) agreement: Vec<f32>,
    /// The clusters, if it says those instead of regions.
    pub(super) clusters: Vec<Cluster>,
}

/// A cluster in a section.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) name: String,
    pub(super) colour: &'static str,
    /// Position of the region that most of its annotated spots are of.
    pub(super) mostly: Option<usize>,
}

impl Said {
    /// What a variant is unsure of, from 0 to 1: the entropy of its probabilities over the largest possible one, given how many regions
    /// there are.
    pub(super) fn entropy(&self, spot: usize, regions: usize) -> f64 {
        let count = if self.clusters.is_empty() { regions } else { self.clusters.len() };
        let row = &self.probabilities[spot * count..][..count];
        let bits: f64 = row.iter().filter(|p| **p > 0.0).map(|p| -f64::from(*p) * f64::from(*p).ln()).sum();
        if count > 1 { bits / (count as f64).ln() } else { 0.0 }
    }

    /// The region that it says a spot is of: of a spot in a cluster, what that mostly is.
    pub(super) fn region(&self, spot: usize) -> Option<usize> {
        let said = self.predicted[spot]?;
        self.clusters.get(said).map_or(Some(said), |cluster| cluster.mostly)
    }
}

/// A judgement: predictions, and the labels of held-out spots that they are held against.
type Judgement = (Digest, Option<Digest>);
/// A variant's.
type BySeed = BTreeMap<Option<u64>, Vec<Judgement>>;
/// Where a spot is: its section, and its position there.
type Position = (usize, usize);

/// The stages whose judgements are drawn: those of the metrics that are compared; if none of them judges, the first stage that
/// does, as it reads predictions and labels.
pub(super) fn judges(outcome: &Outcome) -> Vec<(String, Kind)> {
    let kind = |instance: &InstanceHead| {
        let reads = |kind| sources(outcome, instance.action, kind).next().is_some();
        let kinds = [Kind::HeldOut, Kind::Clusters];
        kinds.into_iter().find(|kind| reads(PortType::Predictions) && reads(kind.labels()))
    };
    let judging = |instance: &InstanceHead| Some((instance.stage.clone(), kind(instance)?));
    let mut found: Vec<(String, Kind)> = Vec::new();
    for metric in &outcome.comparison.metrics {
        let mut of_it = outcome.instances.iter().filter(|instance| instance.stage == metric.stage);
        if let Some(judge) = of_it.find_map(judging)
            && !found.contains(&judge)
        {
            found.push(judge);
        }
    }
    if found.is_empty() {
        found.extend(outcome.instances.iter().find_map(judging));
    }
    found
}

/// What an action reads of a type: which action gives it, on which port.
fn sources(outcome: &Outcome, action: ActionId, kind: PortType) -> impl Iterator<Item = (ActionId, &str)> {
    let inputs =
        outcome.actions.get(action).into_iter().flat_map(|action| action.head.inputs.values().flatten());
    let is_wanted = move |source: &ActionId, port: &str| {
        outcome.actions.get(*source)?.head.outputs.get(port).copied().filter(|found| *found == kind)
    };
    inputs.filter_map(move |(source, port)| is_wanted(source, port).map(|_| (*source, port.as_str())))
}

/// What a stage judges of each variant, and the labels that it reads.
struct Judged<'a> {
    stage: String,
    kind: Kind,
    variants: Vec<(&'a str, BySeed)>,
    labels: BTreeSet<Digest>,
}

impl<'a> Judged<'a> {
    fn of(outcome: &'a Outcome, stage: String, kind: Kind) -> Self {
        let mut judged = Self { stage: stage.clone(), kind, variants: Vec::new(), labels: BTreeSet::new() };
        for variant in compared(outcome) {
            let mut seeds = BySeed::new();
            for instance in outcome.of_variant(variant).filter(|instance| instance.stage == stage) {
                let found = judged.read(outcome, instance.action);
                if !found.is_empty() {
                    seeds.entry(instance.seed).or_default().extend(found);
                }
            }
            if !seeds.is_empty() {
                judged.variants.push((variant, seeds));
            }
        }
        judged
    }

    /// What an action judged, as far as it is there.
    fn read(&mut self, outcome: &Outcome, action: ActionId) -> Vec<Judgement> {
        let digests = |kind| -> Vec<Option<Digest>> {
            let given = |(source, port): (ActionId, &str)| {
                outcome.actions.get(source)?.done()?.outputs.get(port).copied()
            };
            sources(outcome, action, kind).map(given).collect()
        };
        let (predictions, labels) = (digests(PortType::Predictions), digests(self.kind.labels()));
        self.labels.extend(labels.iter().copied().flatten());
        match self.kind {
            // Folds come in pairs.
            Kind::HeldOut => {
                let pairs = predictions.into_iter().zip(labels);
                pairs.filter_map(|(predicted, label)| Some((predicted?, Some(label?)))).collect()
            }
            Kind::Clusters => predictions.into_iter().flatten().map(|predicted| (predicted, None)).collect(),
        }
    }
}

impl Maps {
    /// Everything that can be drawn of a run; what cannot be read is told.
    pub(super) fn of(outcome: &Outcome, store: &Store) -> Self {
        let mut problems = BTreeSet::new();
        let judged: Vec<Judged> =
            judges(outcome).into_iter().map(|(stage, kind)| Judged::of(outcome, stage, kind)).collect();
        let mut labels: BTreeMap<Digest, Labels> = BTreeMap::new();
        for digest in judged.iter().flat_map(|judged| &judged.labels) {
            match folder(digest, store).and_then(|root| Labels::read(&root)) {
                Ok(read) => drop(labels.insert(*digest, read)),
                Err(problem) => drop(problems.insert(problem)),
            }
        }
        let wanted: BTreeSet<&str> =
            labels.values().flat_map(|labels| &labels.spots).map(String::as_str).collect();
        let mut sections = sections::sections(outcome, store, &wanted, &mut problems);
        let positions: HashMap<String, Position> = sections
            .iter()
            .enumerate()
            .flat_map(|(section, found)| {
                found.spots.iter().cloned().zip(0..).map(move |(spot, at)| (spot, (section, at)))
            })
            .collect();

        // The regions that a variant says are known when it is read: sums are by their names until then.
        let sums = |judged: &Judged| -> Vec<(Sums, BTreeSet<String>)> {
            let of = |(_, seeds): &(&str, BySeed)| sums::sum(seeds, &labels, &positions, &sections, store);
            match judged.kind {
                Kind::HeldOut => judged.variants.par_iter().map(of).collect(),
                Kind::Clusters => Vec::new(),
            }
        };
        let sums: Vec<Vec<_>> = judged.iter().map(sums).collect();
        let truths = labels.values().flat_map(|labels| labels.regions.iter().flatten().map(String::as_str));
        let said = sums.iter().flatten().flat_map(|(sums, _)| sums.classes.iter().map(String::as_str));
        let colours = palette::regions(truths.chain(said));
        let place: HashMap<&str, usize> = colours.keys().map(String::as_str).zip(0..).collect();
        for labels in labels.values() {
            for (spot, region) in labels.spots.iter().zip(&labels.regions) {
                let region = region.as_deref().and_then(|region| place.get(region).copied());
                if let (Some(region), Some((section, at))) = (region, positions.get(spot)) {
                    sections[*section].truth[*at] = Some(region);
                }
            }
        }

        let mut judges = Vec::new();
        for (judged, sums) in judged.into_iter().zip(sums) {
            let mut mapped = |variant: &str, seeds, (sections, told): (Vec<Said>, BTreeSet<String>)| {
                problems.extend(told);
                Mapped { variant: variant.to_owned(), seeds, sections }
            };
            let variants: Vec<Mapped> = match judged.kind {
                Kind::HeldOut => {
                    let means = |(sums, told): (Sums, BTreeSet<String>)| {
                        let order: Vec<usize> =
                            sums.classes.iter().map(|class| place[class.as_str()]).collect();
                        (sums.means(&order, place.len()), told)
                    };
                    let all = judged.variants.iter().zip(sums);
                    all.map(|((variant, seeds), sums)| mapped(variant, seeds.len(), means(sums))).collect()
                }
                Kind::Clusters => {
                    let all: Vec<_> = judged
                        .variants
                        .par_iter()
                        .map(|(_, seeds)| clusters::of(seeds, &positions, &sections, store))
                        .collect();
                    let all = judged.variants.iter().zip(all);
                    all.map(|((variant, _), found)| mapped(variant, 1, found)).collect()
                }
            };
            if !variants.is_empty() {
                judges.push(Judge { stage: judged.stage, kind: judged.kind, variants });
            }
        }
        let regions = colours.into_iter().map(|(name, colour)| Region { name, colour }).collect();
        Self { regions, sections, judges, problems: problems.into_iter().collect() }
    }

    /// What the page's script draws from. Numbers are packed: a spot's probability is a whole percent,
    /// which takes less than a byte.
    pub(super) fn to_json(&self) -> Value {
        let regions: Vec<Value> =
            self.regions.iter().map(|region| json!([region.name, region.colour])).collect();
        let byte = |place: Option<usize>| place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX);
        let section = |section: &Section| {
            let along = |axis: usize, size: f64| -> Vec<u8> {
                let share = |at: &[f64; 2]| (at[axis] / size * 65_535.0).round().clamp(0.0, 65_535.0) as u16;
                section.at.iter().flat_map(|at| share(at).to_le_bytes()).collect()
            };
            json!({
                "name": section.name,
                "size": [section.width.round(), section.height.round()],
                "radius": (section.radius * 100.0).round() / 100.0,
                "count": section.spots.len(),
                "spots": packed::text(section.spots.join("\n").as_bytes()),
                "x": packed::text(&along(0, section.width)),
                "y": packed::text(&along(1, section.height)),
                "truth": packed::text(&section.truth.iter().map(|truth| byte(*truth)).collect::<Vec<_>>()),
                "image": section.image,
            })
        };
        let percent = |p: &f32| (p.clamp(0.0, 1.0) * 100.0).round() as u8;
        let said = |said: &Said| {
            if said.predicted.iter().all(Option::is_none) {
                return Value::Null;
            }
            let count = if said.clusters.is_empty() { self.regions.len() } else { said.clusters.len() };
            let mut packed = json!({
                "predicted": packed::text(&said.predicted.iter().map(|place| byte(*place)).collect::<Vec<_>>()),
                "p": packed::text(&by_region(&said.probabilities, count.max(1)).map(percent).collect::<Vec<_>>()),
                "agreement": packed::text(&said.agreement.iter().map(percent).collect::<Vec<_>>()),
            });
            if !said.clusters.is_empty() {
                let cluster = |cluster: &Cluster| json!([cluster.name, cluster.colour, byte(cluster.mostly)]);
                packed["clusters"] = said.clusters.iter().map(cluster).collect();
            }
            packed
        };
        let variant = |mapped: &Mapped| {
            json!({
                "name": mapped.variant,
                "sections": mapped.sections.iter().map(said).collect::<Vec<_>>(),
            })
        };
        let judge = |judge: &Judge| {
            json!({
                "stage": judge.stage,
                "clusters": judge.kind == Kind::Clusters,
                "variants": judge.variants.par_iter().map(variant).collect::<Vec<_>>(),
            })
        };
        json!({
            "regions": regions,
            "sections": self.sections.iter().map(section).collect::<Vec<_>>(),
            "judges": self.judges.iter().map(judge).collect::<Vec<_>>(),
        })
    }
}

/// Values of one region after the other, of which neighbours are alike: they are packed smaller.
fn by_region(probabilities: &[f32], regions: usize) -> impl Iterator<Item = &f32> {
    (0..regions).flat_map(move |region| probabilities.iter().skip(region).step_by(regions))
}

/// The folder of an artifact that must be there.
fn folder(digest: &Digest, store: &Store) -> Result<PathBuf, String> {
    match store.artifact(digest) {
        Ok(Some(root)) => Ok(root),
        Ok(None) => {
            Err(format!("artifact {digest:.12} is not in the store any more: `restage run` brings it back"))
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uncertainty_is_the_golden_entropy() {
        let shared = std::env::var_os("RESTAGE_SHARED").map(PathBuf::from);
        let shared =
            shared.unwrap_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"));
        let Ok(text) = std::fs::read_to_string(shared.join("golden/stats.json")) else {
            println!("skipped: no golden/stats.json in {}", shared.display());
            return;
        };
        let golden: Value = serde_json::from_str(&text).unwrap();
        let rows: Vec<Vec<f32>> = serde_json::from_value(golden["calib"]["P"].clone()).unwrap();
        let said = Said {
            probabilities: rows.concat(),
            predicted: vec![Some(0); rows.len()],
            agreement: vec![1.0; rows.len()],
            clusters: Vec::new(),
        };
        let mean = (0..rows.len()).map(|spot| said.entropy(spot, 3)).sum::<f64>() / rows.len() as f64;
        // Ours is a share of the largest possible one; probabilities are single-precision.
        let (found, expected) = (mean * 3.0_f64.ln(), golden["calib"]["entropy_mean"].as_f64().unwrap());
        assert!((found - expected).abs() < 1e-7, "{found} is not {expected}");
    }
}
