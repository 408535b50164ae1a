//! `classify/split`: holds patients (or sections, parts of a section, or any spots) out, and sorts the labels accordingly.

mod parts;

use std::collections::{BTreeSet, HashMap, HashSet};

use rand::Rng;
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{self, Labels, Role, Table, TestLabels, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::draw;

/// Holds whole patients, sections, parts of sections or single spots out of training.
pub enum Split {}

/// What `classify/split` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What is held out as a whole: `patient` (default); `section`, which lets neighbouring sections of one tumour
    /// stand on both sides and flatters the scores; `stripes`, `blocks` or a `grid` of each section that has labels, which says how
    /// well the rest of a section is annotated from a part of it, and nothing about another patient; `random`, single spots, which
    /// have their neighbours on the other side: results are called optimistic.
    #[serde(default)]
    pub by: Unit,
    /// The patients (or sections) to test on, as `section.patient` and `obs["section"]` name them, or the stripes or blocks, "1" the
    /// leftmost, or the cells of the grid, row by row from the top left, or the folds: one name or a list of names. Required. All
    /// others train.
    pub test: Names,
    /// What is kept for calibration or early stopping, named as in `test`: its labels leave by `validation`, not by `train`. Default none.
    #[serde(default)]
    pub validation: Option<Names>,
    /// Or the share of the labelled training spots, of each region, that is drawn for validation. Neighbours of theirs train:
    /// what is calibrated on them is too sure of itself on new tissue. Default none.
    #[serde(default)]
    pub validation_share: Option<f64>,
    /// Of `by: stripes`: how many a section is cut into, of as many spots each. Default 4.
    #[serde(default = "default_stripes")]
    pub stripes: usize,
    /// Of `by: blocks`: how many a section is cut into, by k-means on the places of its spots. Default 5.
    #[serde(default = "default_parts")]
    pub blocks: usize,
    /// Of `by: grid`: `[rows, columns]` that a section's extent is cut into. A cell keeps its number whatever tissue is in it.
    /// Default [3, 3].
    #[serde(default = "default_grid")]
    #[schemars(inner(range(min = 1)))]
    pub grid: [usize; 2],
    /// Of `by: grid`: labelled spots that a test (and a validation by names) has at least, all its cells and sections together. Tissue
    /// is ragged: a cell at its edge may hold a handful, which would be a score of nothing. Default 20.
    #[serde(default = "default_min_spots")]
    pub min_spots: usize,
    /// Of `by: stripes`, `blocks` and `grid`: how far training spots are at least from what is tested on, in distances between neighbouring
    /// spots; nearer ones are left out. Patches, graphs and smoothing that reach farther need more. Default 1.5.
    #[serde(default = "default_buffer")]
    pub buffer: f64,
    /// Of `by: random`: how many folds the labelled spots are dealt to, each region evenly. Default 5.
    #[serde(default = "default_parts")]
    pub folds: usize,
    /// Whether to shuffle the labels of the training spots: what is trained on them should do no better than chance, or
    /// something leaks. Default false.
    #[serde(default)]
    pub permute_labels: bool,
}

fn default_stripes() -> usize {
    4
}

fn default_parts() -> usize {
    5
}

fn default_grid() -> [usize; 2] {
    [3, 3]
}

fn default_min_spots() -> usize {
    20
}

fn default_buffer() -> f64 {
    1.5
}

/// What is held out as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// All sections of a patient together.
    #[default]
    Patient,
    /// Each section for itself.
    Section,
    /// Parts of each section that has labels, from left to right.
    Stripes,
    /// Parts of each section that has labels, about as wide as high.
    Blocks,
    /// Cells of a grid over each section that has labels.
    Grid,
    /// Each spot for itself.
    Random,
}

impl Unit {
    /// The name of one; of patients and sections also that of the column of `obs`.
    fn name(self) -> &'static str {
        match self {
            Self::Patient => "patient",
            Self::Section => "section",
            Self::Stripes => "stripe",
            Self::Blocks => "block",
            Self::Grid => "cell",
            Self::Random => "fold",
        }
    }
}

/// Where a spot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// It trains.
    Train,
    /// It trains without its label, as a neighbour of one that validates.
    Beside,
    /// Its label validates; stages without labels train on it.
    Validation,
    /// It is tested on.
    Test,
    /// On none.
    Out,
}

impl Params {
    /// How many stripes, blocks, cells or folds there are, and the param that says so.
    fn parts(&self) -> (usize, String) {
        match self.by {
            Unit::Blocks => (self.blocks, format!("blocks: {}", self.blocks)),
            Unit::Grid => (
                self.grid.iter().fold(1, |all, &by| all.saturating_mul(by)),
                format!("grid: {:?}", self.grid),
            ),
            Unit::Random => (self.folds, format!("folds: {}", self.folds)),
            _ => (self.stripes, format!("stripes: {}", self.stripes)),
        }
    }

    /// Names of units that validate.
    fn validation(&self) -> BTreeSet<&str> {
        self.validation.iter().flat_map(|names| names.0.iter().map(String::as_str)).collect()
    }

    /// The side of a unit by its name.
    fn side(&self, unit: &str) -> Side {
        match () {
            () if self.test.0.contains(unit) => Side::Test,
            () if self.validation().contains(unit) => Side::Validation,
            () => Side::Train,
        }
    }

    /// The sides of stripes, blocks, cells or folds, the first first.
    fn sides_of_numbers(&self) -> Result<Vec<Side>> {
        let (count, param) = self.parts();
        let name = self.by.name();
        let names: Vec<String> = (1..=count).map(|part| part.to_string()).collect();
        for (param_of_names, of) in
            [("test", self.test.0.iter().map(String::as_str).collect()), ("validation", self.validation())]
        {
            if let Some(unknown) = of.iter().find(|unit| !names.iter().any(|name| name == *unit)) {
                return Err(Error::invalid(format!(
                    "`{param_of_names}` names {name} `{unknown}`; with `{param}` they are 1 to {count}"
                )));
            }
        }
        let sides: Vec<Side> = names.iter().map(|name| self.side(name)).collect();
        if !sides.contains(&Side::Train) {
            return Err(Error::invalid(format!(
                "{} every {name}: leave at least one to train on",
                self.holding_out()
            )));
        }
        Ok(sides)
    }

    /// How a message that all is held out begins.
    fn holding_out(&self) -> &'static str {
        if self.validation.is_some() { "`test` and `validation` hold out" } else { "`test` holds out" }
    }
}

/// One name or a list of names. Their order does not matter, nor whether one is listed twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "OneOrMany")]
#[schemars(with = "OneOrMany")]
pub struct Names(BTreeSet<String>);

/// A name or a list of names.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a name or a list of names; put names that look like numbers in quotes")]
enum OneOrMany {
    /// A name.
    One(String),
    /// Names.
    Many(Vec<String>),
}

impl From<OneOrMany> for Names {
    fn from(names: OneOrMany) -> Self {
        Self(match names {
            OneOrMany::One(name) => BTreeSet::from([name]),
            OneOrMany::Many(names) => names.into_iter().collect(),
        })
    }
}

impl Stage for Split {
    const NAME: &'static str = "split";
    const STREAMS: &'static [&'static str] = &["labels"];
    const SEEDED_IF: &'static [(&'static str, Option<&'static str>)] =
        &[("by", Some("random")), ("validation_share", None), ("permute_labels", None)];
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Holds patients (or sections, parts of sections, or any spots) out for testing. Every spot of the table gets a role, but for \
             those in the gap beside stripes, blocks and cells; labels go to the side their spot is on. Spots that the expert left undetermined are \
             in no set of labels.",
        )
        .many::<Labels>("labels", "the expert's regions, of all sections")
        .input::<Table>("table", "all spots, with and without a label; `obs` names section and patient")
        .output::<artifact::Split>("split", "the role of every spot of the table")
        .output::<TrainLabels>("train", "labels of the spots to train on")
        .output::<TrainLabels>("validation", "labels kept for calibration and early stopping; none without `validation`")
        .output::<TestLabels>("test", "labels of the held-out spots: for evaluation only")
    }

    fn validate(params: &Params) -> Result<()> {
        if params.test.0.is_empty() {
            return Err(Error::invalid(format!("`test` is empty: name at least one {}", params.by.name())));
        }
        let (parts, name) = params.parts();
        if !(2..=1000).contains(&parts) {
            return Err(Error::invalid(format!("`{name}` makes {parts} parts: it should be from 2 to 1000")));
        }
        if !(0.0..=1e6).contains(&params.buffer) {
            return Err(Error::invalid(format!("`buffer` is {}: it should be from 0 to 1e6", params.buffer)));
        }
        if params.validation.is_some() && params.validation_share.is_some() {
            return Err(Error::invalid("give `validation` or `validation_share`, not both"));
        }
        if let Some(share) = params.validation_share.filter(|share| !(*share > 0.0 && *share < 1.0)) {
            return Err(Error::invalid(format!("validation_share: {share} should be above 0 and below 1")));
        }
        match params.validation().iter().find(|name| params.test.0.contains(**name)) {
            Some(name) => Err(Error::invalid(format!(
                "`{name}` is in `test` and in `validation`: what is tuned on the test is not tested by it"
            ))),
            None => Ok(()),
        }
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let table: Table = ctx.read("table")?;
        let labels: Vec<Labels> = ctx.read_all("labels")?;
        ctx.named_only("table");
        if params.by == Unit::Section {
            tell_shared_patients(&table, &params.test.0, ctx);
        }
        let mut rng = ctx.rng("labels");
        let sides = match params.by {
            Unit::Patient | Unit::Section => by_column(&table, &params)?,
            Unit::Stripes | Unit::Blocks | Unit::Grid => parts::assign(&table, &labels, &params)?,
            Unit::Random => {
                ctx.optimistic(
                    "classify/split: spots are dealt at random, so that neighbours of test spots train",
                );
                at_random(&table, &labels, &params, &mut rng)?
            }
        };
        let mut divided = divide(&labels, &table, &sides)?;
        if let Some(share) = params.validation_share {
            divided.draw_validation(share, &mut rng);
        }
        divided.check(params.validation.is_some() || params.validation_share.is_some())?;
        let Divided { mut train, validation, test } = divided;
        if params.permute_labels {
            ctx.permuted("classify/split: training labels are shuffled");
            draw::permute(&mut train, &mut rng);
        }
        let split = roles(&table, &sides);
        tracing::info!(
            "{} spots train ({} labelled, {} more to validate), {} test ({} labelled)",
            split.train().len(),
            train.spots.len(),
            validation.spots.len(),
            split.test().len(),
            test.spots.len(),
        );
        ctx.write("split", &split)?;
        ctx.write("train", &TrainLabels(train))?;
        ctx.write("validation", &TrainLabels(validation))?;
        ctx.write("test", &TestLabels(test))
    }
}

/// The side of every spot, by the patient or section it belongs to.
fn by_column(table: &Table, params: &Params) -> Result<Vec<Side>> {
    let by = params.by;
    let column = table.obs.categorical(by.name())?;
    let units: BTreeSet<&str> = column.iter().flatten().collect();
    let listed = || units.iter().copied().collect::<Vec<_>>().join(", ");
    for (param, names) in
        [("test", params.test.0.iter().map(String::as_str).collect()), ("validation", params.validation())]
    {
        if let Some(unknown) = names.iter().find(|name| !units.contains(**name)) {
            return Err(Error::invalid(format!(
                "`{param}` names the {} `{unknown}`, which the table does not have; it has: {}",
                by.name(),
                listed(),
            )));
        }
    }
    if !units.iter().any(|unit| params.side(unit) == Side::Train) {
        return Err(Error::invalid(format!(
            "{} every {} of the table ({}): leave at least one to train on",
            params.holding_out(),
            by.name(),
            listed(),
        )));
    }
    let side: HashMap<&str, Side> = units.iter().map(|unit| (*unit, params.side(unit))).collect();
    let sides = column.iter().zip(&table.obs.index).map(|(unit, spot)| {
        unit.map(|unit| side[unit]).ok_or_else(|| {
            Error::invalid(format!(
                "spot `{spot}` has no {0}: set `{0}` where the section is loaded",
                by.name()
            ))
        })
    });
    sides.collect()
}

/// Deals the labelled spots of each region to the folds; those without a label train.
fn at_random(table: &Table, labels: &[Labels], params: &Params, rng: &mut impl Rng) -> Result<Vec<Side>> {
    let side_of = params.sides_of_numbers()?;
    let mut all = Labels::default();
    for labels in labels {
        all.spots.extend_from_slice(&labels.spots);
        all.regions.extend_from_slice(&labels.regions);
    }
    let mut side: HashMap<&str, Side> = HashMap::new();
    // Goes on where the last region ended, so that folds are of one size.
    let mut dealt = 0;
    for spots in draw::by_region(&all, rng).values() {
        for spot in spots {
            side.insert(&all.spots[*spot], side_of[dealt % side_of.len()]);
            dealt += 1;
        }
    }
    Ok(table.obs.index.iter().map(|spot| side.get(spot.as_str()).copied().unwrap_or(Side::Train)).collect())
}

/// What every spot is for, as stages without labels see it.
fn roles(table: &Table, sides: &[Side]) -> artifact::Split {
    let role = |side: &Side| match side {
        Side::Train | Side::Beside | Side::Validation => Some(Role::Train),
        Side::Test => Some(Role::Test),
        Side::Out => None,
    };
    let kept =
        sides.iter().zip(&table.obs.index).filter_map(|(side, spot)| Some((spot.clone(), role(side)?)));
    let (spots, roles) = kept.unzip();
    artifact::Split { spots, roles }
}

/// The labels of each side.
#[derive(Default)]
struct Divided {
    train: Labels,
    validation: Labels,
    test: Labels,
}

impl Divided {
    /// Moves a share of each region's training spots to those that validate.
    fn draw_validation(&mut self, share: f64, rng: &mut impl Rng) {
        let (mut train, mut validation) = (Vec::new(), Vec::new());
        for spots in draw::by_region(&self.train, rng).values() {
            // The last spot of a region trains.
            let (taken, left) = spots.split_at(draw::share(spots.len(), share).min(spots.len() - 1));
            validation.extend_from_slice(taken);
            train.extend_from_slice(left);
        }
        self.validation = draw::select(&self.train, validation);
        self.train = draw::select(&self.train, train);
    }

    /// Refuses sides that are needed and have no label.
    fn check(&self, validates: bool) -> Result<()> {
        let needed = [
            (&self.train, "train", true),
            (&self.validation, "validate", validates),
            (&self.test, "test", true),
        ];
        match needed.into_iter().find(|(side, _, is_needed)| *is_needed && side.spots.is_empty()) {
            Some((_, purpose, _)) => Err(Error::invalid(format!(
                "no spot to {purpose} on has a region: choose other names for `test`{}, or add labels",
                if validates { " and `validation`" } else { "" },
            ))),
            None => Ok(()),
        }
    }
}

/// Labels of the spots of each side. Sections and patients are the table's, which the split went by.
fn divide(labels: &[Labels], table: &Table, sides: &[Side]) -> Result<Divided> {
    let rows: HashMap<&str, usize> = table.obs.index.iter().map(String::as_str).zip(0..).collect();
    let mut seen = HashSet::new();
    let mut missing: Option<(&str, usize)> = None;
    let mut divided = Divided::default();
    for (labels, position) in
        labels.iter().flat_map(|labels| (0..labels.spots.len()).map(move |i| (labels, i)))
    {
        let spot = labels.spots[position].as_str();
        if !seen.insert(spot) {
            return Err(Error::invalid(format!(
                "spot `{spot}` is labelled twice: list each section's labels once"
            )));
        }
        let Some(&row) = rows.get(spot) else {
            missing.get_or_insert((spot, 0)).1 += 1;
            continue;
        };
        let Some(region) = &labels.regions[position] else { continue };
        let side = match sides[row] {
            Side::Train => &mut divided.train,
            Side::Validation => &mut divided.validation,
            Side::Test => &mut divided.test,
            Side::Beside | Side::Out => continue,
        };
        side.spots.push(spot.to_owned());
        side.sections.push(table.section(row).unwrap_or(&labels.sections[position]).to_owned());
        side.patients.push(table.patient(row).unwrap_or(&labels.patients[position]).to_owned());
        side.regions.push(Some(region.clone()));
    }
    if let Some((first, count)) = missing {
        let message =
            format!("{count} of {} labelled spots are not in the table (first: `{first}`)", seen.len());
        if 2 * count > seen.len() {
            return Err(Error::invalid(format!("{message}: are labels and table of the same sections?")));
        }
        tracing::warn!("{message}; their labels are dropped");
    }
    Ok(divided)
}

/// Says which patients are on both sides when only some of their sections are held out.
fn tell_shared_patients(table: &Table, test: &BTreeSet<String>, ctx: &Context) {
    let mut sides: HashMap<&str, [bool; 2]> = HashMap::new();
    for spot in 0..table.n_spots() {
        if let (Some(section), Some(patient)) = (table.section(spot), table.patient(spot)) {
            sides.entry(patient).or_default()[usize::from(test.contains(section))] = true;
        }
    }
    let shared: BTreeSet<&str> =
        sides.into_iter().filter(|(_, sides)| *sides == [true; 2]).map(|(p, _)| p).collect();
    if !shared.is_empty() {
        let names = shared.into_iter().collect::<Vec<_>>().join(", ");
        tracing::warn!("sections of these patients train and test: {names}; scores will be too good");
        ctx.optimistic(&format!("classify/split: sections of these patients train and test: {names}"));
    }
}

#[cfg(test)]
mod tests;
