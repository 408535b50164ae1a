//! Regions on the tissue: what an expert said of held-out spots, and what each variant says, spot by spot.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
};

use image::{DynamicImage, codecs::jpeg::JpegEncoder, imageops::FilterType};
use rayon::prelude::*;
use restage_cache::{Digest, Store};
use restage_stage::catalogue::PortType;
use serde_json::{Value, json};

use super::{
    super::outcome::Outcome,
    artifact::{self, Labels, Picture, Places, Predictions},
    packed::{self, address},
    palette,
    workflow::compared,
};
use crate::run::event::{ActionId, InstanceHead};

/// The longer side of a section's picture, in pixels.
const LONGEST: u32 = 720;
/// Of its JPEG.
const QUALITY: u8 = 74;
/// Room around the spots, as a share of what they span.
const MARGIN: f64 = 0.06;

/// What there is to draw.
#[derive(Default)]
pub(super) struct Maps {
    pub(super) regions: Vec<Region>,
    pub(super) sections: Vec<Section>,
    pub(super) variants: Vec<Mapped>,
    /// The stage that judges.
    pub(super) stage: String,
    /// What could not be read.
    pub(super) problems: Vec<String>,
}

/// A kind of tissue.
pub(super) struct Region {
    pub(super) name: String,
    pub(super) colour: &'static str,
}

/// A section with held-out spots.
pub(super) struct Section {
    pub(super) name: String,
    pub(super) spots: Vec<String>,
    /// In units of the picture.
    pub(super) at: Vec<[f64; 2]>,
    /// Position of its region, where an expert gave one to a held-out spot.
    pub(super) truth: Vec<Option<usize>>,
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) radius: f64,
    /// Its picture as a `data:` address.
    pub(super) image: Option<String>,
}

/// What a variant says.
pub(super) struct Mapped {
    pub(super) variant: String,
    pub(super) seeds: usize,
    /// Section by section.
    pub(super) sections: Vec<Said>,
}

/// What a variant says of a section's spots.
#[derive(Clone)]
pub(super) struct Said {
    /// Per spot and region: the mean over seeds; meaningless where `predicted` is none.
    pub(super) probabilities: Vec<f32>,
    /// Position of the region of the largest mean; `None` for spots that were never held out.
    pub(super) predicted: Vec<Option<usize>>,
    /// Share of the seeds whose own prediction that is.
    pub(super) agreement: Vec<f32>,
}

impl Said {
    /// What a variant is unsure of, from 0 to 1: the entropy of its probabilities over the largest possible one.
    pub(super) fn entropy(&self, spot: usize, regions: usize) -> f64 {
        let row = &self.probabilities[spot * regions..][..regions];
        let bits: f64 = row.iter().filter(|p| **p > 0.0).map(|p| -f64::from(*p) * f64::from(*p).ln()).sum();
        if regions > 1 { bits / (regions as f64).ln() } else { 0.0 }
    }
}

/// A judgement: predictions, and the labels that they are held against.
type Pair = (Digest, Digest);
/// A variant's.
type BySeed = BTreeMap<Option<u64>, Vec<Pair>>;

/// The stage whose judgements are drawn: the one of the first metric, or the first that reads predictions and test labels.
pub(super) fn judge(outcome: &Outcome) -> Option<String> {
    let judges = |instance: &&InstanceHead| {
        let reads = |kind| sources(outcome, instance.action, kind).next().is_some();
        reads(PortType::Predictions) && reads(PortType::TestLabels)
    };
    let stages: BTreeSet<&str> =
        outcome.instances.iter().filter(judges).map(|instance| instance.stage.as_str()).collect();
    let wanted = outcome.comparison.metrics.first().map(|metric| metric.stage.as_str());
    let first =
        outcome.instances.iter().map(|instance| instance.stage.as_str()).find(|stage| stages.contains(stage));
    wanted.filter(|stage| stages.contains(stage)).or(first).map(str::to_owned)
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

/// What an action judged, as far as it is there.
fn pairs(outcome: &Outcome, action: ActionId) -> Vec<Pair> {
    let digests = |kind| {
        let given = |(source, port): (ActionId, &str)| {
            outcome.actions.get(source)?.done()?.outputs.get(port).copied()
        };
        sources(outcome, action, kind).map(given).collect::<Vec<_>>()
    };
    let (predictions, labels) = (digests(PortType::Predictions), digests(PortType::TestLabels));
    predictions.into_iter().zip(labels).filter_map(|(predicted, label)| Some((predicted?, label?))).collect()
}

/// Where a spot is: its section, and its position there.
type Position = (usize, usize);

impl Maps {
    /// Everything that can be drawn of a run; what cannot be read is told.
    pub(super) fn of(outcome: &Outcome, store: &Store) -> Self {
        let Some(stage) = judge(outcome) else { return Self::default() };
        let mut problems = BTreeSet::new();
        let mut judged: Vec<(&str, BySeed)> = Vec::new();
        for variant in compared(outcome) {
            let mut seeds = BySeed::new();
            for instance in outcome.of_variant(variant).filter(|instance| instance.stage == stage) {
                let found = pairs(outcome, instance.action);
                if !found.is_empty() {
                    seeds.entry(instance.seed).or_default().extend(found);
                }
            }
            if !seeds.is_empty() {
                judged.push((variant, seeds));
            }
        }
        let digests: BTreeSet<Digest> = judged
            .iter()
            .flat_map(|(_, seeds)| seeds.values().flatten().map(|(_, labels)| *labels))
            .collect();
        let mut labels: BTreeMap<Digest, Labels> = BTreeMap::new();
        for digest in digests {
            match folder(&digest, store).and_then(|root| Labels::read(&root)) {
                Ok(read) => drop(labels.insert(digest, read)),
                Err(problem) => drop(problems.insert(problem)),
            }
        }
        let held_out: BTreeSet<&str> =
            labels.values().flat_map(|labels| &labels.spots).map(String::as_str).collect();
        let mut sections = sections(outcome, store, &held_out, &mut problems);
        let positions: HashMap<String, Position> = sections
            .iter()
            .enumerate()
            .flat_map(|(section, found)| {
                found.spots.iter().cloned().zip(0..).map(move |(spot, at)| (spot, (section, at)))
            })
            .collect();

        // The regions that a variant says are known when it is read: sums are by their names until then.
        let sums: Vec<(Sums, BTreeSet<String>)> =
            judged.par_iter().map(|(_, seeds)| sum(seeds, &labels, &positions, &sections, store)).collect();
        let truths = labels.values().flat_map(|labels| labels.regions.iter().flatten().map(String::as_str));
        let said = sums.iter().flat_map(|(sums, _)| sums.classes.iter().map(String::as_str));
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
        let variants = judged
            .iter()
            .zip(sums)
            .map(|((variant, seeds), (sums, told))| {
                problems.extend(told);
                let order: Vec<usize> = sums.classes.iter().map(|class| place[class.as_str()]).collect();
                Mapped {
                    variant: (*variant).to_owned(),
                    seeds: seeds.len(),
                    sections: sums.means(&order, place.len()),
                }
            })
            .collect();
        let regions = colours.into_iter().map(|(name, colour)| Region { name, colour }).collect();
        Self { regions, sections, variants, stage, problems: problems.into_iter().collect() }
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
        let count = self.regions.len().max(1);
        let said = |said: &Said| {
            if said.predicted.iter().all(Option::is_none) {
                return Value::Null;
            }
            json!({
                "predicted": packed::text(&said.predicted.iter().map(|place| byte(*place)).collect::<Vec<_>>()),
                "p": packed::text(&by_region(&said.probabilities, count).map(percent).collect::<Vec<_>>()),
                "agreement": packed::text(&said.agreement.iter().map(percent).collect::<Vec<_>>()),
            })
        };
        let variant = |mapped: &Mapped| {
            json!({
                "name": mapped.variant,
                "seeds": mapped.seeds,
                "sections": mapped.sections.iter().map(said).collect::<Vec<_>>(),
            })
        };
        json!({
            "regions": regions,
            "sections": self.sections.iter().map(section).collect::<Vec<_>>(),
            "variants": self.variants.par_iter().map(variant).collect::<Vec<_>>(),
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

/// Sections that have one of these spots, with all of their spots that some table places.
fn sections(
    outcome: &Outcome,
    store: &Store,
    wanted: &BTreeSet<&str>,
    problems: &mut BTreeSet<String>,
) -> Vec<Section> {
    if wanted.is_empty() {
        return Vec::new();
    }
    // A table of all sections makes others needless.
    let outputs = |kind| -> Vec<PathBuf> {
        let digests: BTreeSet<Digest> = outcome
            .actions
            .iter()
            .flat_map(|action| action.outputs(kind))
            .map(|(_, digest)| digest)
            .collect();
        digests.iter().filter_map(|digest| store.artifact(digest).ok()?).collect()
    };
    let mut tables: Vec<(usize, PathBuf)> =
        outputs(PortType::Table).into_iter().map(|root| (Places::count(&root), root)).collect();
    tables.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let mut left = wanted.clone();
    let mut found: BTreeMap<String, (Vec<String>, Vec<[f64; 2]>)> = BTreeMap::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut used: Vec<&PathBuf> = Vec::new();
    for (_, root) in &tables {
        if left.is_empty() {
            break;
        }
        let places = match Places::read(root) {
            Ok(places) => places,
            Err(problem) => {
                problems.insert(problem);
                continue;
            }
        };
        let before = left.len();
        let sections: BTreeSet<&str> = (places.spots.iter().zip(&places.sections))
            .filter(|(spot, _)| left.contains(spot.as_str()))
            .filter_map(|(_, section)| section.as_deref())
            .collect();
        for ((spot, section), at) in places.spots.iter().zip(&places.sections).zip(&places.at) {
            let Some(section) = section.as_deref().filter(|section| sections.contains(section)) else {
                continue;
            };
            left.remove(spot.as_str());
            if seen.insert(spot.clone()) {
                let (spots, all) = found.entry(section.to_owned()).or_default();
                spots.push(spot.clone());
                all.push(*at);
            }
        }
        if left.len() < before {
            used.push(root);
        }
    }
    if !left.is_empty() {
        problems
            .insert(format!("{} held-out spots lie in no table of this run: they are not drawn", left.len()));
    }
    let images: Vec<PathBuf> = outputs(PortType::Image);
    let mut pictures: BTreeMap<String, Picture> = BTreeMap::new();
    for name in found.keys() {
        let own = used.iter().copied().chain(tables.iter().map(|(_, root)| root));
        if let Some(picture) =
            own.take(used.len() + 24).find_map(|root| artifact::picture_of_table(root, name))
        {
            pictures.insert(name.clone(), picture);
        }
    }
    if pictures.len() < found.len() {
        for (name, picture) in
            images.iter().filter_map(|root| artifact::picture_of_image(root, LONGEST as usize / 2))
        {
            if found.contains_key(&name) {
                pictures.entry(name).or_insert(picture);
            }
        }
    }
    let found: Vec<_> =
        found.into_iter().map(|(name, places)| (pictures.remove(&name), name, places)).collect();
    found.into_par_iter().map(|(picture, name, (spots, at))| section(name, spots, &at, picture)).collect()
}

/// Spots on the part of the picture that they are on.
fn section(name: String, spots: Vec<String>, at: &[[f64; 2]], picture: Option<Picture>) -> Section {
    let span = |axis: usize| {
        at.iter().fold((f64::MAX, f64::MIN), |(low, high), at| (at[axis].min(low), at[axis].max(high)))
    };
    let ((left, right), (top, bottom)) = (span(0), span(1));
    let room = ((right - left).max(bottom - top) * MARGIN).max(1.0);
    let [mut left, mut top, mut right, mut bottom] = [left - room, top - room, right + room, bottom + room];
    let mut image = None;
    if let Some(Picture { pixels, scale }) = picture.filter(|picture| picture.scale > 0.0) {
        let (columns, rows) = (f64::from(pixels.width()), f64::from(pixels.height()));
        let edge = |value: f64, most: f64| (value * scale).round().clamp(0.0, most);
        let [x0, x1] = [left, right].map(|x| edge(x, columns));
        let [y0, y1] = [top, bottom].map(|y| edge(y, rows));
        if x1 - x0 >= 8.0 && y1 - y0 >= 8.0 {
            [left, right] = [x0 / scale, x1 / scale];
            [top, bottom] = [y0 / scale, y1 / scale];
            let part = DynamicImage::ImageRgb8(pixels).crop_imm(
                x0 as u32,
                y0 as u32,
                (x1 - x0) as u32,
                (y1 - y0) as u32,
            );
            let small = if part.width().max(part.height()) > LONGEST {
                part.resize(LONGEST, LONGEST, FilterType::Triangle)
            } else {
                part
            };
            let mut bytes = Vec::new();
            let encoded = JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode_image(&small.into_rgb8());
            image = encoded.is_ok().then(|| address("image/jpeg", &bytes));
        }
    }
    // As wide as its picture is at most.
    let unit = f64::from(LONGEST) / (right - left).max(bottom - top);
    let at: Vec<[f64; 2]> = at.iter().map(|[x, y]| [(x - left) * unit, (y - top) * unit]).collect();
    Section {
        name,
        truth: vec![None; spots.len()],
        spots,
        width: (right - left) * unit,
        height: (bottom - top) * unit,
        radius: nearest(&at) * 0.44,
        at,
        image,
    }
}

/// The distance between neighbouring spots: the median of some spots' to their nearest.
fn nearest(at: &[[f64; 2]]) -> f64 {
    let some = at.iter().enumerate().step_by((at.len() / 100).max(1));
    let distance = |a: &[f64; 2], b: &[f64; 2]| (a[0] - b[0]).hypot(a[1] - b[1]);
    let mut distances: Vec<f64> = some
        .map(|(own, a)| {
            let others = at.iter().enumerate().filter(|(other, _)| *other != own);
            others.map(|(_, b)| distance(a, b)).fold(f64::MAX, f64::min)
        })
        .filter(|distance| *distance < f64::MAX)
        .collect();
    distances.sort_by(f64::total_cmp);
    distances.get(distances.len() / 2).copied().unwrap_or(20.0).max(1.0)
}

/// Sums over folds and seeds.
struct Sums {
    classes: Vec<String>,
    sections: Vec<OfSection>,
}

#[derive(Clone)]
struct OfSection {
    /// Per spot and class.
    sums: Vec<Vec<f32>>,
    /// Per spot, the class that each seed says.
    said: Vec<Vec<usize>>,
}

fn sum(
    seeds: &BySeed,
    labels: &BTreeMap<Digest, Labels>,
    positions: &HashMap<String, Position>,
    sections: &[Section],
    store: &Store,
) -> (Sums, BTreeSet<String>) {
    let empty = |section: &Section| OfSection {
        sums: vec![Vec::new(); section.spots.len()],
        said: vec![Vec::new(); section.spots.len()],
    };
    let mut sums = Sums { classes: Vec::new(), sections: sections.iter().map(empty).collect() };
    let mut problems = BTreeSet::new();
    for (digest, truth) in seeds.values().flatten() {
        let Some(truth) = labels.get(truth) else { continue };
        match folder(digest, store).and_then(|root| Predictions::read(&root)) {
            Ok(predictions) => sums.add(&predictions, truth, positions),
            Err(problem) => drop(problems.insert(problem)),
        }
    }
    (sums, problems)
}

impl Sums {
    fn add(&mut self, predictions: &Predictions, truth: &Labels, positions: &HashMap<String, Position>) {
        let count = predictions.classes.len();
        let columns: Vec<usize> = predictions
            .classes
            .iter()
            .map(|class| {
                self.classes.iter().position(|known| known == class).unwrap_or_else(|| {
                    self.classes.push(class.clone());
                    self.classes.len() - 1
                })
            })
            .collect();
        let rows: HashMap<&str, usize> = predictions.spots.iter().map(String::as_str).zip(0..).collect();
        for spot in &truth.spots {
            let (Some(&row), Some(&(section, at))) = (rows.get(spot.as_str()), positions.get(spot)) else {
                continue;
            };
            let values = &predictions.probabilities[row * count..][..count];
            let of = &mut self.sections[section];
            let sums = &mut of.sums[at];
            sums.resize(self.classes.len().max(sums.len()), 0.0);
            values.iter().zip(&columns).for_each(|(value, column)| sums[*column] += value.max(0.0));
            let best =
                (0..count).fold(0, |best, class| if values[class] > values[best] { class } else { best });
            of.said[at].extend(columns.get(best));
        }
    }

    /// Means over what was summed, in another order of classes.
    fn means(&self, order: &[usize], regions: usize) -> Vec<Said> {
        let of_section = |section: &OfSection| {
            let mut said = Said {
                probabilities: vec![0.0; section.sums.len() * regions],
                predicted: vec![None; section.sums.len()],
                agreement: vec![0.0; section.sums.len()],
            };
            for (spot, (sums, votes)) in section.sums.iter().zip(&section.said).enumerate() {
                if votes.is_empty() {
                    continue;
                }
                let row = &mut said.probabilities[spot * regions..][..regions];
                for (class, value) in sums.iter().enumerate() {
                    row[order[class]] = value / votes.len() as f32;
                }
                let best =
                    (0..regions).fold(0, |best, region| if row[region] > row[best] { region } else { best });
                said.predicted[spot] = Some(best);
                let agreeing = votes.iter().filter(|class| order[**class] == best).count();
                said.agreement[spot] = agreeing as f32 / votes.len() as f32;
            }
            said
        };
        self.sections.iter().map(of_section).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(spots: &[&str]) -> Labels {
        Labels { spots: spots.iter().map(ToString::to_string).collect(), regions: vec![None; spots.len()] }
    }

    fn predictions(classes: &[&str], rows: &[(&str, &[f32])]) -> Predictions {
        Predictions {
            spots: rows.iter().map(|row| row.0.to_owned()).collect(),
            classes: classes.iter().map(ToString::to_string).collect(),
            probabilities: rows.iter().flat_map(|row| row.1.iter().copied()).collect(),
        }
    }

    #[test]
    fn seeds_are_averaged_and_folds_join() {
        let spots = ["a", "b", "c"].map(str::to_owned);
        let positions: HashMap<String, Position> =
            spots.iter().cloned().zip([(0, 0), (0, 1), (0, 2)]).collect();
        let empty = OfSection { sums: vec![Vec::new(); 3], said: vec![Vec::new(); 3] };
        let mut sums = Sums { classes: Vec::new(), sections: vec![empty] };
        // A fold with `a`, in two seeds; another one with `b`, which never saw fat but saw skin.
        sums.add(
            &predictions(&["fat", "tumour"], &[("a", &[0.9, 0.1]), ("b", &[1.0, 0.0])]),
            &labels(&["a"]),
            &positions,
        );
        sums.add(&predictions(&["fat", "tumour"], &[("a", &[0.2, 0.8])]), &labels(&["a"]), &positions);
        sums.add(
            &predictions(&["skin", "tumour"], &[("b", &[0.75, 0.25])]),
            &labels(&["b", "nowhere"]),
            &positions,
        );
        assert_eq!(sums.classes, ["fat", "tumour", "skin"]);
        // fat, skin, tumour
        let said = &sums.means(&[0, 2, 1], 3)[0];
        assert_eq!(said.predicted, [Some(0), Some(1), None]);
        let near = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(near(said.probabilities[0], 0.55) && near(said.probabilities[2], 0.45));
        assert_eq!(said.agreement, [0.5, 1.0, 0.0]);
        // -(3/4 ln 3/4 + 1/4 ln 1/4) / ln 3
        assert!((said.entropy(1, 3) - 0.511_860).abs() < 1e-5, "{}", said.entropy(1, 3));
    }

    #[test]
    fn spots_lie_on_the_part_of_the_picture_that_is_shown() {
        let spots = ["a", "b", "c"].map(str::to_owned).to_vec();
        let at = [[1000.0, 1000.0], [1100.0, 1000.0], [2000.0, 1500.0]];
        let mut pixels = image::RgbImage::from_pixel(300, 200, image::Rgb([255, 255, 255]));
        pixels.put_pixel(100, 100, image::Rgb([0, 0, 0]));
        let section = section("A".into(), spots, &at, Some(Picture { pixels, scale: 0.1 }));
        assert_eq!(section.width, f64::from(LONGEST));
        // 1000 to 2000 and 6 % around it, at a tenth: pixels 94 to 206, and 94 to 156.
        assert!((section.height / section.width - 62.0 / 112.0).abs() < 1e-9);
        let unit = section.width / 112.0;
        assert!(
            (section.at[0][0] - 6.0 * unit).abs() < 1e-6 && (section.at[2][0] - 106.0 * unit).abs() < 1e-6
        );
        assert!((section.radius - 10.0 * unit * 0.44).abs() < 1e-6, "the nearest lie 10 pixels apart");
        assert!(section.image.unwrap().starts_with("data:image/jpeg;base64,"));
    }

    #[test]
    fn a_section_of_one_spot_without_picture_is_drawn() {
        let section = section("A".into(), vec!["a".into()], &[[5.0, 5.0]], None);
        assert!(
            section.at[0]
                .iter()
                .chain([&section.radius, &section.width])
                .all(|value| value.is_finite() && *value > 0.0)
        );
        assert!(section.image.is_none());
    }
}
