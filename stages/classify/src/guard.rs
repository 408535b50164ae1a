//! `classify/guard`: looks for what would let a classifier see its test.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Artifact, Graph, Metrics, Patches, Role, Split, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Checks that nothing crosses a split.
pub enum Guard {}

/// What `classify/guard` is asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// What to do when something crosses: `fail` (default), or `warn` and count it.
    pub on_leak: OnLeak,
    /// Whether a patient may be on both sides, as in splits by blocks, stripes or cells, which ask how well the rest of a section is annotated.
    /// Such patients are counted, but no leak. Default false.
    pub allow_shared_patients: bool,
}

/// What to do when something crosses the split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLeak {
    /// The stage fails, and what needs it does not run.
    #[default]
    Fail,
    /// It is logged and counted.
    Warn,
}

/// Spots whose expression holds fewer genes are alike by chance.
const GENES: usize = 10;

const PATIENTS: &str = "patients_on_both_sides";

/// So many examples of each kind are told.
const EXAMPLES: usize = 5;

impl Stage for Guard {
    const NAME: &'static str = "guard";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Checks that no graph edge and no patch pixel crosses the split, that no patient is on both sides, and that no spot of one side \
             has the very expression or pixels of one of the other. What is not connected is not checked.",
        )
        .input::<Split>("split", "which spots train and which test")
        .optional_many::<Graph>("graph", "graphs that something is trained on")
        .optional_many::<Patches>(
            "patches",
            "patches that something is trained on, as `visium/patches` wrote them: later stages forget how wide they are in the image",
        )
        .optional_many::<Table>("table", "tables that something is trained on; `obs` names section and patient")
        .at_least_one(&["graph", "patches", "table"])
        .output::<Metrics>("metrics", "how often each of them crosses, and `leaks`, the sum; examples in the details")
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let split: Split = ctx.read("split")?;
        let graphs: Vec<Graph> = ctx.read_all("graph")?;
        let tables: Vec<Table> = ctx.read_all("table")?;
        if graphs.is_empty() && tables.is_empty() && ctx.inputs("patches").is_empty() {
            return Err(Error::invalid("nothing to check: connect `graph`, `patches` or `table`"));
        }
        let roles = split.roles();
        let mut found = Vec::new();
        if !graphs.is_empty() {
            found.push(edges(&graphs, &roles));
        }
        if !tables.is_empty() {
            found.push(patients(&tables, &roles));
            found.push(twins("duplicate_expressions", expressions(&tables), &roles));
        }
        if !ctx.inputs("patches").is_empty() {
            let mut all = Vec::new();
            for path in ctx.inputs("patches") {
                all.push((Patches::read(path)?, Patches::read_sides(path)?));
                ctx.check_cancelled()?;
            }
            found.push(overlaps(&all, &tables, &roles)?);
            found.push(twins("duplicate_patches", pixels(&all), &roles));
        }
        let is_leak = |leak: &&Leak| !(params.allow_shared_patients && leak.name == PATIENTS);
        let metrics = metrics(&found, found.iter().filter(is_leak).map(|leak| leak.count).sum());
        let leaks =
            found.iter().filter(is_leak).filter(|leak| leak.count > 0).map(Leak::told).collect::<Vec<_>>();
        match params.on_leak {
            _ if leaks.is_empty() => {}
            OnLeak::Fail => {
                return Err(Error::invalid(format!(
                    "the split leaks: {}. Make graph and patches with the split, widen its `buffer`, hold whole patients out (or say \
                     `allow_shared_patients` where known ones are meant), or say `on_leak: warn`",
                    leaks.join("; ")
                )));
            }
            OnLeak::Warn => leaks.iter().for_each(|leak| tracing::warn!("the split leaks: {leak}")),
        }
        ctx.write("metrics", &metrics)
    }
}

type Roles<'a> = HashMap<&'a str, Role>;

/// What crosses the split, of one kind.
struct Leak {
    name: &'static str,
    /// What one is, in the plural.
    what: &'static str,
    count: usize,
    /// A few of them.
    examples: Vec<Value>,
}

impl Leak {
    fn new(name: &'static str, what: &'static str) -> Self {
        Self { name, what, count: 0, examples: Vec::new() }
    }

    fn add(&mut self, example: impl FnOnce() -> Value) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }

    fn told(&self) -> String {
        let example = self.examples.first().map(ToString::to_string).unwrap_or_default();
        format!("{} {} (first: {example})", self.count, self.what)
    }
}

fn metrics(found: &[Leak], leaks: usize) -> Metrics {
    let mut values: BTreeMap<String, f64> =
        found.iter().map(|leak| (leak.name.to_owned(), leak.count as f64)).collect();
    values.insert("leaks".into(), leaks as f64);
    let examples: serde_json::Map<String, Value> =
        found.iter().map(|leak| (leak.name.to_owned(), json!(leak.examples))).collect();
    let details = json!({ "examples": examples, "conventions": {
        "values": "what is not connected is not checked and has no value",
        "edges_across": "edges between a spot that trains and one that tests; spots without a role have no side",
        "patches_overlapping": "pairs of a training and a test spot of one section whose squares in the image share pixels",
        "patients_on_both_sides": "patients with spots that train and spots that test",
        "duplicate_expressions": format!("test spots with the very expression of a training spot, of {GENES} genes at least"),
        "duplicate_patches": "test spots with the very pixels of a training spot, of more than one colour",
    }});
    Metrics { values, details, ..Metrics::default() }
}

/// Whether two spots are on different sides.
fn crosses(roles: &Roles, a: &str, b: &str) -> bool {
    matches!((roles.get(a), roles.get(b)), (Some(a), Some(b)) if a != b)
}

fn edges(graphs: &[Graph], roles: &Roles) -> Leak {
    let mut leak = Leak::new("edges_across", "graph edges lead from one side to the other");
    for graph in graphs {
        for (row, spot) in graph.spots.iter().enumerate() {
            for (other, _) in graph.edges.entries(row) {
                let other = &graph.spots[other];
                if crosses(roles, spot, other) {
                    leak.add(|| json!([spot, other]));
                }
            }
        }
    }
    leak
}

fn patients(tables: &[Table], roles: &Roles) -> Leak {
    let mut sides: BTreeMap<&str, [bool; 2]> = BTreeMap::new();
    for table in tables {
        for (row, spot) in table.obs.index.iter().enumerate() {
            if let (Some(patient), Some(role)) = (table.patient(row), roles.get(spot.as_str())) {
                sides.entry(patient).or_default()[usize::from(*role == Role::Test)] = true;
            }
        }
    }
    let mut leak = Leak::new(PATIENTS, "patients are on both sides");
    sides
        .iter()
        .filter(|(_, sides)| **sides == [true; 2])
        .for_each(|(patient, _)| leak.add(|| json!(patient)));
    leak
}

/// Pairs of patches of one section on different sides whose squares overlap.
fn overlaps(all: &[(Patches, Option<Vec<f32>>)], tables: &[Table], roles: &Roles) -> Result<Leak> {
    let mut places: HashMap<&str, (&str, [f64; 2])> = HashMap::new();
    for table in tables {
        let known = (0..table.n_spots()).filter_map(|row| {
            Some((table.obs.index[row].as_str(), (table.section(row)?, table.spatial[row])))
        });
        places.extend(known);
    }
    let mut leak = Leak::new("patches_overlapping", "pairs of patches of different sides share pixels");
    for (patches, sides) in all {
        let Some(sides) = sides else {
            return Err(Error::invalid(
                "`patches` do not tell how wide they are in the image: connect those that `visium/patches` writes, as they come from it",
            ));
        };
        // Of each section what is on a side, from left to right.
        let mut sections: BTreeMap<&str, Vec<(f64, f64, f64, &str)>> = BTreeMap::new();
        for (spot, side) in
            patches.spots.iter().zip(sides).filter(|(spot, _)| roles.contains_key(spot.as_str()))
        {
            let Some((section, [x, y])) = places.get(spot.as_str()) else {
                return Err(Error::invalid(format!(
                    "spot `{spot}` of `patches` is in no `table`: connect the table that the patches were cut by, for the places of spots"
                )));
            };
            sections.entry(section).or_default().push((*x, *y, f64::from(*side), spot));
        }
        for mut squares in sections.into_values() {
            squares.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
            let widest = squares.iter().map(|square| square.2).fold(0.0, f64::max);
            for (at, a) in squares.iter().enumerate() {
                let beside = squares[at + 1..].iter().take_while(|b| b.0 - a.0 < widest);
                for b in beside {
                    let reach = f64::midpoint(a.2, b.2);
                    if b.0 - a.0 < reach && (b.1 - a.1).abs() < reach && crosses(roles, a.3, b.3) {
                        leak.add(|| json!([a.3, b.3]));
                    }
                }
            }
        }
    }
    Ok(leak)
}

/// What a spot looks like, to find another that looks the same.
type Look<'a> = (&'a str, Vec<u8>);

fn expressions(tables: &[Table]) -> Vec<Look<'_>> {
    let rows = tables.iter().flat_map(|table| (0..table.n_spots()).map(move |row| (table, row)));
    let look = |(table, row): (&'_ Table, usize)| {
        let (genes, values) = table.x.row(row);
        let mut bytes = Vec::with_capacity(8 * genes.len());
        for (gene, value) in genes.iter().zip(values) {
            bytes.extend(gene.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        (genes.len() >= GENES).then_some(bytes)
    };
    rows.filter_map(|(table, row)| Some((table.obs.index[row].as_str(), look((table, row))?))).collect()
}

fn pixels(all: &[(Patches, Option<Vec<f32>>)]) -> Vec<Look<'_>> {
    let each = all.iter().flat_map(|(patches, _)| (0..patches.spots.len()).map(move |at| (patches, at)));
    each.filter_map(|(patches, at)| {
        let pixels = patches.patch(at);
        let has_colours = pixels.chunks_exact(3).any(|pixel| pixel != &pixels[..3]);
        has_colours.then(|| (patches.spots[at].as_str(), pixels.to_vec()))
    })
    .collect()
}

/// Test spots that look exactly as another spot does, one that trains.
fn twins(name: &'static str, looks: Vec<Look>, roles: &Roles) -> Leak {
    let what = "test spots are copies of training spots";
    let mut training: HashMap<u64, Vec<&Look>> = HashMap::new();
    let digest = |bytes: &[u8]| {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        hasher.finish()
    };
    for look in looks.iter().filter(|(spot, _)| roles.get(spot) == Some(&Role::Train)) {
        training.entry(digest(&look.1)).or_default().push(look);
    }
    let mut leak = Leak::new(name, what);
    let mut seen = BTreeSet::new();
    for (spot, bytes) in looks.iter().filter(|(spot, _)| roles.get(spot) == Some(&Role::Test)) {
        let alike = training.get(&digest(bytes)).and_then(|alike| alike.iter().find(|look| look.1 == *bytes));
        if let Some((twin, _)) = alike.filter(|_| seen.insert(*spot)) {
            leak.add(|| json!([twin, spot]));
        }
    }
    leak
}

#[cfg(test)]
mod tests {
    use restage_stage::artifact::Csr;

    use super::*;
    use crate::testing::{Bench, table};

    /// Four spots in a row, 10 pixels apart, of two patients; the second half is tested on.
    fn spots(patients: [&'static str; 4]) -> (Table, Split) {
        let mut table = table(&patients.map(|patient| ("S", patient)));
        for (spot, place) in table.spatial.iter_mut().enumerate() {
            *place = [10.0 * spot as f64, 0.0];
        }
        let genes = |spot: i32| (0..12).map(|gene| (gene, (gene + spot) as f32 + 1.0)).collect();
        table.x = Csr::from_rows(12, (0..4).map(genes));
        table.var.index = (0..12).map(|gene| format!("g{gene}")).collect();
        let roles = vec![Role::Train, Role::Train, Role::Test, Role::Test];
        (table.clone(), Split { spots: table.obs.index, roles })
    }

    fn found(bench: Bench) -> Metrics {
        bench.run::<Guard>(json!({ "on_leak": "warn" })).unwrap().output("metrics")
    }

    #[test]
    fn what_does_not_cross_passes_and_only_what_is_connected_is_told() {
        let (table, split) = spots(["A", "A", "B", "B"]);
        let bench = Bench::new().input("split", &split).input("table", &table);
        let metrics: Metrics = bench.run::<Guard>(json!({})).unwrap().output("metrics");
        assert_eq!(
            metrics.values.iter().map(|(name, value)| (name.as_str(), *value)).collect::<Vec<_>>(),
            [("duplicate_expressions", 0.0), ("leaks", 0.0), ("patients_on_both_sides", 0.0)]
        );
        assert!(Bench::new().input("split", &split).run::<Guard>(json!({})).is_err());
    }

    #[test]
    fn patients_and_copies_on_both_sides_are_found() {
        let (mut table, split) = spots(["A", "B", "B", "B"]);
        table.x = table.x.select_rows(&[0, 1, 2, 0]);
        let bench = || Bench::new().input("split", &split).input("table", &table);
        let metrics = found(bench());
        assert_eq!(
            (metrics.values["patients_on_both_sides"], metrics.values["duplicate_expressions"]),
            (1.0, 1.0)
        );
        assert_eq!(metrics.details["examples"]["patients_on_both_sides"], json!(["B"]));
        assert_eq!(metrics.details["examples"]["duplicate_expressions"], json!([["S_0", "S_3"]]));
        let error = bench().run::<Guard>(json!({})).err().unwrap().to_string();
        assert!(
            error.starts_with("the split leaks: 1 patients are on both sides (first: \"B\"); 1 test spots"),
            "{error}"
        );
    }

    #[test]
    fn patients_may_be_shared_where_that_is_meant() {
        let (table, split) = spots(["A", "A", "A", "B"]);
        let bench = Bench::new().input("split", &split).input("table", &table);
        let metrics: Metrics =
            bench.run::<Guard>(json!({ "allow_shared_patients": true })).unwrap().output("metrics");
        assert_eq!((metrics.values["patients_on_both_sides"], metrics.values["leaks"]), (1.0, 0.0));
    }

    #[test]
    fn edges_across_are_found_but_not_to_spots_without_a_side() {
        let (table, mut split) = spots(["A", "A", "B", "B"]);
        let line = [vec![(1, 1.0)], vec![(0, 1.0), (2, 1.0)], vec![(1, 1.0), (3, 1.0)], vec![(2, 1.0)]];
        let graph = Graph { spots: table.obs.index, edges: Csr::from_rows(4, line) };
        let across = |split: &Split| {
            found(Bench::new().input("split", split).input("graph", &graph)).values["edges_across"]
        };
        assert_eq!(across(&split), 2.0);
        split.spots.remove(1);
        split.roles.remove(1);
        assert_eq!(across(&split), 0.0);
    }

    #[test]
    fn patches_overlap_when_they_are_wider_than_spots_are_apart() {
        let (table, split) = spots(["A", "A", "B", "B"]);
        let pixels = |spot: usize| (0..12).map(move |at| (10 * spot + at) as u8);
        let patches =
            Patches { spots: table.obs.index.clone(), size: 2, pixels: (0..4).flat_map(pixels).collect() };
        let overlapping = |side: f32| {
            let bench = Bench::new().input("split", &split).input("table", &table).input("patches", &patches);
            bench.add(|folder| Patches::write_sides(&folder[0], &[side; 4]), "patches")
        };
        let count = |side: f32| found(overlapping(side)).values["patches_overlapping"];
        // One pair is 10 apart, two are 20, one is 30.
        assert_eq!([10.0, 10.5, 20.5, 31.0].map(count), [0.0, 1.0, 3.0, 4.0]);
        let bench = Bench::new().input("split", &split).input("table", &table).input("patches", &patches);
        let error = bench.run::<Guard>(json!({})).err().unwrap().to_string();
        assert!(error.contains("how wide they are"), "{error}");
    }

    #[test]
    fn copies_of_pixels_are_found_but_not_empty_slide() {
        let (table, split) = spots(["A", "A", "B", "B"]);
        let pixels = [
            [[9; 11].as_slice(), &[1]].concat(),
            vec![255; 12],
            [[9; 11].as_slice(), &[1]].concat(),
            vec![255; 12],
        ];
        let patches = Patches { spots: table.obs.index.clone(), size: 2, pixels: pixels.concat() };
        let bench = Bench::new().input("split", &split).input("table", &table).input("patches", &patches);
        let bench = bench.add(|folder| Patches::write_sides(&folder[0], &[1.0; 4]), "patches");
        assert_eq!(found(bench).details["examples"]["duplicate_patches"], json!([["S_0", "S_2"]]));
    }
}
