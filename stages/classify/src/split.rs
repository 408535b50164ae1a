//! `classify/split`: holds patients (or sections, or stripes of a section) out, and sorts the labels accordingly.

mod stripes;

use std::collections::{BTreeSet, HashMap, HashSet};

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{self, Labels, Role, Table, TestLabels, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Holds whole patients, sections or stripes out of training.
pub enum Split {}

/// What `classify/split` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What is held out as a whole: `patient` (default); `section`, which lets neighbouring sections of one tumour
    /// stand on both sides and flatters the scores; or `stripes` of each section that has labels, which says how well the rest
    /// of a section is annotated from a part of it, and nothing about another patient.
    #[serde(default)]
    pub by: Unit,
    /// The patients (or sections) to test on, as `section.patient` and `obs["section"]` name them, or the stripes, "1" the
    /// leftmost: one name or a list of names. Required. All others train.
    pub test: Names,
    /// Of `by: stripes`: how many a section is cut into, of as many spots each. Default 4.
    #[serde(default = "default_stripes")]
    pub stripes: usize,
    /// Of `by: stripes`: how far training spots are at least from a stripe that is tested on, in distances between neighbouring
    /// spots; nearer ones are left out. Patches that reach farther need more. Default 1.5.
    #[serde(default = "default_buffer")]
    pub buffer: f64,
}

fn default_stripes() -> usize {
    4
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
}

impl Unit {
    /// Its name, which is that of the column of `obs`.
    fn name(self) -> &'static str {
        match self {
            Self::Patient => "patient",
            Self::Section => "section",
            Self::Stripes => "stripe",
        }
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
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Holds patients (or sections, or stripes) out for testing. Every spot of the table gets a role, but for those in the \
             gap beside stripes; labels go to the side their spot is on. Spots that the expert left undetermined are in neither set of labels.",
        )
        .many::<Labels>("labels", "the expert's regions, of all sections")
        .input::<Table>("table", "all spots, with and without a label; `obs` names section and patient")
        .output::<artifact::Split>("split", "the role of every spot of the table")
        .output::<TrainLabels>("train", "labels of the spots to train on")
        .output::<TestLabels>("test", "labels of the held-out spots: for `classify/evaluate` only")
    }

    fn validate(params: &Params) -> Result<()> {
        if params.test.0.is_empty() {
            return Err(Error::invalid(format!("`test` is empty: name at least one {}", params.by.name())));
        }
        if !(2..=1000).contains(&params.stripes) || !(0.0..=1e6).contains(&params.buffer) {
            return Err(Error::invalid("stripes should be from 2 to 1000, and buffer from 0 to 1e6"));
        }
        Ok(())
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let table: Table = ctx.read("table")?;
        let labels: Vec<Labels> = ctx.read_all("labels")?;
        if params.by == Unit::Section {
            warn_of_shared_patients(&table, &params.test.0);
        }
        let split = match params.by {
            Unit::Stripes => stripes::assign(&table, &labels, &params)?,
            by => assign(&table, by, &params.test.0)?,
        };
        let (train, test) = divide(&labels, &table, &split)?;
        tracing::info!(
            "{} spots train ({} labelled), {} test ({} labelled)",
            split.train().len(),
            train.0.spots.len(),
            split.test().len(),
            test.0.spots.len(),
        );
        ctx.write("split", &split)?;
        ctx.write("train", &train)?;
        ctx.write("test", &test)
    }
}

/// The role of every spot, by the patient or section it belongs to.
fn assign(table: &Table, by: Unit, test: &BTreeSet<String>) -> Result<artifact::Split> {
    let column = table.obs.categorical(by.name())?;
    let units: BTreeSet<&str> = column.iter().flatten().collect();
    let listed = || units.iter().copied().collect::<Vec<_>>().join(", ");
    if let Some(unknown) = test.iter().find(|name| !units.contains(name.as_str())) {
        return Err(Error::invalid(format!(
            "`test` names the {} `{unknown}`, which the table does not have; it has: {}",
            by.name(),
            listed(),
        )));
    }
    if units.iter().all(|&name| test.contains(name)) {
        return Err(Error::invalid(format!(
            "`test` holds out every {} of the table ({}): leave at least one to train on",
            by.name(),
            listed(),
        )));
    }
    let roles = column.iter().zip(&table.obs.index).map(|(unit, spot)| match unit {
        Some(unit) if test.contains(unit) => Ok(Role::Test),
        Some(_) => Ok(Role::Train),
        None => Err(Error::invalid(format!(
            "spot `{spot}` has no {0}: set `{0}` where the section is loaded",
            by.name()
        ))),
    });
    Ok(artifact::Split { spots: table.obs.index.clone(), roles: roles.collect::<Result<_>>()? })
}

/// Labels of the spots that train and of those that test. Sections and patients are the table's, which the split went by.
fn divide(labels: &[Labels], table: &Table, split: &artifact::Split) -> Result<(TrainLabels, TestLabels)> {
    let rows: HashMap<&str, usize> = table.obs.index.iter().map(String::as_str).zip(0..).collect();
    let roles = split.roles();
    let mut seen = HashSet::new();
    let mut missing: Option<(&str, usize)> = None;
    let (mut train, mut test) = (Labels::default(), Labels::default());
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
        let side = match roles.get(spot) {
            Some(Role::Train) => &mut train,
            Some(Role::Test) => &mut test,
            None => continue,
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
    for (side, purpose) in [(&train, "train"), (&test, "test")] {
        if side.spots.is_empty() {
            return Err(Error::invalid(format!(
                "no spot to {purpose} on has a region: choose other names for `test`, or add labels"
            )));
        }
    }
    Ok((TrainLabels(train), TestLabels(test)))
}

/// Says which patients are on both sides when only some of their sections are held out.
fn warn_of_shared_patients(table: &Table, test: &BTreeSet<String>) {
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
    }
}

#[cfg(test)]
mod tests;
