//! What should be true of a split.

use proptest::prelude::*;
use restage_stage::artifact::{Categorical, Column};
use serde_json::json;

use super::*;
use crate::testing::{Bench, table};

/// Labels for all spots of a table; `?` is undetermined.
fn labels(table: &Table, regions: &[&str]) -> Labels {
    let all = |of: fn(&Table, usize) -> Option<&str>| {
        (0..table.n_spots()).map(|spot| of(table, spot).unwrap().to_owned()).collect()
    };
    Labels {
        spots: table.obs.index.clone(),
        sections: all(Table::section),
        patients: all(Table::patient),
        regions: regions.iter().map(|&region| (region != "?").then(|| region.to_owned())).collect(),
    }
}

fn params(params: serde_json::Value) -> Params {
    serde_json::from_value(params).unwrap()
}

/// Sides when a patient is held out.
fn without(table: &Table, patient: &str) -> Vec<Side> {
    by_column(table, &params(json!({ "test": patient }))).unwrap()
}

const SPOTS: [(&str, &str); 5] = [("A1", "A"), ("A1", "A"), ("B1", "B"), ("B2", "B"), ("C1", "C")];

#[test]
fn labels_go_to_the_side_of_their_spot_and_undetermined_ones_nowhere() {
    let table = table(&SPOTS);
    let bench = Bench::new()
        .input("table", &table)
        .input("labels", &labels(&table, &["tumour", "?", "stroma", "tumour", "stroma"]))
        .run::<Split>(json!({ "test": "B" }))
        .unwrap();
    let split: artifact::Split = bench.output("split");
    assert_eq!(split.spots, table.obs.index);
    assert_eq!(split.roles, [Role::Train, Role::Train, Role::Test, Role::Test, Role::Train]);
    assert_eq!(bench.output::<TrainLabels>("train").0.spots, ["A1_0", "C1_4"]);
    let test = bench.output::<TestLabels>("test").0;
    assert_eq!((test.spots, test.patients), (names_in_order(&["B1_2", "B2_3"]), names_in_order(&["B", "B"])));
    assert_eq!(test.regions, [Some("stroma".to_owned()), Some("tumour".to_owned())]);
}

fn names_in_order(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn one_name_is_a_list_of_one_and_order_does_not_matter() {
    let parse =
        |test: serde_json::Value| -> Params { serde_json::from_value(json!({ "test": test })).unwrap() };
    let canonical = |params: &Params| serde_json::to_value(params).unwrap();
    assert_eq!(
        canonical(&parse(json!("B"))),
        json!({
            "by": "patient", "test": ["B"], "validation": null, "validation_share": null, "stripes": 4, "blocks": 5,
            "grid": [3, 3], "min_spots": 20, "buffer": 1.5, "folds": 5, "permute_labels": false,
        })
    );
    assert_eq!(canonical(&parse(json!(["B", "A", "B"]))), canonical(&parse(json!(["A", "B"]))));
    let error = serde_json::from_value::<Params>(json!({ "test": 1 })).unwrap_err().to_string();
    assert!(error.contains("put names that look like numbers in quotes"), "{error}");
    let schema = schemars::schema_for!(Params).to_value();
    assert_eq!(schema["required"], json!(["test"]));
    let [one, many] = schema["$defs"]["Names"]["anyOf"].as_array().unwrap().as_slice() else {
        panic!("{schema}")
    };
    assert_eq!((&one["type"], &many["type"]), (&json!("string"), &json!("array")), "editors offer both");
}

#[test]
fn wrong_names_are_told_with_the_right_ones() {
    let table = table(&SPOTS);
    let refused = |by: &str, test: &[&str]| {
        by_column(&table, &params(json!({ "by": by, "test": test }))).unwrap_err().to_string()
    };
    assert_eq!(
        refused("patient", &["A", "D"]),
        "`test` names the patient `D`, which the table does not have; it has: A, B, C"
    );
    assert!(refused("section", &["B"]).ends_with("it has: A1, B1, B2, C1"));
    assert!(refused("patient", &["A", "B", "C"]).contains("leave at least one to train on"));
    assert!(Split::validate(&params(json!({ "test": [] }))).is_err());
}

#[test]
fn a_few_labels_without_a_spot_are_dropped_but_not_most() {
    let table = table(&SPOTS);
    let sides = without(&table, "B");
    let mut labels = labels(&table, &["tumour"; 5]);
    labels.spots[1] = "A1_gone".to_owned();
    let divided = divide(std::slice::from_ref(&labels), &table, &sides).unwrap();
    assert_eq!(divided.train.spots, ["A1_0", "C1_4"]);
    labels.spots[3] = "B2_gone".to_owned();
    labels.spots[4] = "C1_gone".to_owned();
    let error = divide(&[labels], &table, &sides).err().unwrap().to_string();
    assert!(error.contains("3 of 5 labelled spots are not in the table (first: `A1_gone`)"), "{error}");
}

#[test]
fn labels_must_be_told_once_and_reach_both_sides() {
    let table = table(&SPOTS);
    let sides = without(&table, "B");
    let all = labels(&table, &["tumour"; 5]);
    let problem = |labels: &[Labels]| {
        let divided = divide(labels, &table, &sides);
        divided.and_then(|divided| divided.check(false)).unwrap_err().to_string()
    };
    assert!(problem(&[all.clone(), all]).contains("`A1_0` is labelled twice"));
    let untested = labels(&table, &["tumour", "tumour", "?", "?", "tumour"]);
    assert!(problem(&[untested]).contains("no spot to test on"));
    let untrained = labels(&table, &["?", "?", "tumour", "tumour", "?"]);
    assert!(problem(&[untrained]).contains("no spot to train on"));
}

#[test]
fn patients_are_the_tables_by_which_the_split_went() {
    let table = table(&SPOTS);
    let sides = without(&table, "B");
    let mut labels = labels(&table, &["tumour"; 5]);
    labels.patients.fill("B".to_owned());
    let Divided { train, test, .. } = divide(&[labels], &table, &sides).unwrap();
    assert_eq!(
        (train.patients, test.patients),
        (names_in_order(&["A", "A", "C"]), names_in_order(&["B", "B"]))
    );
}

proptest! {
    #[test]
    fn no_patient_is_on_both_sides(
        patients in prop::collection::vec(0..6_usize, 2..80),
        held_out in prop::collection::btree_set(0..6_usize, 1..5),
    ) {
        const PATIENTS: [(&str, &str); 6] =
            [("A1", "A"), ("B1", "B"), ("C1", "C"), ("D1", "D"), ("E1", "E"), ("F1", "F")];
        let present: BTreeSet<usize> = patients.iter().copied().collect();
        prop_assume!(held_out.is_subset(&present) && held_out.len() < present.len());
        let table = table(&patients.iter().map(|&patient| PATIENTS[patient]).collect::<Vec<_>>());
        let test: BTreeSet<String> = held_out.iter().map(|&patient| PATIENTS[patient].1.to_owned()).collect();

        let sides = by_column(&table, &params(json!({ "test": test }))).unwrap();
        let split = roles(&table, &sides);
        let divided = divide(&[labels(&table, &vec!["tumour"; patients.len()])], &table, &sides).unwrap();
        let (train_labels, test_labels) = (divided.train, divided.test);

        let side = |role: Role| -> BTreeSet<&str> {
            (0..table.n_spots()).filter(|&i| split.roles[i] == role).map(|i| table.patient(i).unwrap()).collect()
        };
        prop_assert_eq!(side(Role::Test).into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), test.clone());
        prop_assert!(side(Role::Train).is_disjoint(&side(Role::Test)));
        prop_assert!(train_labels.patients.iter().all(|patient| !test.contains(patient)));
        prop_assert!(test_labels.patients.iter().all(|patient| test.contains(patient)));
        prop_assert_eq!(train_labels.spots.len() + test_labels.spots.len(), table.n_spots());
    }
}

/// Two sections of 12 x 3 spots; the first has labels.
fn grid() -> (Table, Labels) {
    let mut table = table(&[[("A1", "A"); 36], [("B4", "B"); 36]].concat());
    for (spot, place) in table.spatial.iter_mut().enumerate() {
        *place = [(spot % 36 / 3) as f64 * 10.0, (spot % 3) as f64 * 10.0];
    }
    let regions: Vec<&str> = (0..72).map(|spot| if spot < 36 { "tumour" } else { "?" }).collect();
    let labels = labels(&table, &regions);
    (table, labels)
}

#[test]
fn stripes_have_a_gap_and_sections_without_labels_train() {
    let (table, labels) = grid();
    let run = |buffer: f64| {
        let bench = Bench::new().input("table", &table).input("labels", &labels);
        let params = json!({ "by": "stripes", "test": ["2"], "buffer": buffer });
        bench.run::<Split>(params).unwrap()
    };
    let bench = run(1.5);
    let split: artifact::Split = bench.output("split");
    let (train, test) = (split.train(), split.test());
    for (spot, name) in table.obs.index.iter().enumerate() {
        // Columns 3, 4 and 5 of 12 are the second of four stripes; beside them one column is nearer than 1.5 distances.
        let expected = match spot % 36 / 3 {
            _ if spot >= 36 => (true, false),
            3..=5 => (false, true),
            2 | 6 => (false, false),
            _ => (true, false),
        };
        assert_eq!((train.contains(name.as_str()), test.contains(name.as_str())), expected, "{name}");
    }
    assert_eq!(bench.output::<TestLabels>("test").0.spots.len(), 9);
    assert_eq!(bench.output::<TrainLabels>("train").0.spots.len(), 36 - 9 - 6);
    assert_eq!(run(0.0).output::<artifact::Split>("split").spots.len(), 72);
}

#[test]
fn stripes_that_cannot_be_are_refused() {
    let (table, labels) = grid();
    let problem = |params: serde_json::Value| {
        let bench = Bench::new().input("table", &table).input("labels", &labels);
        bench.run::<Split>(params).err().unwrap().to_string()
    };
    assert_eq!(
        problem(json!({ "by": "stripes", "test": "5" })),
        "`test` names stripe `5`; with `stripes: 4` they are 1 to 4"
    );
    assert!(problem(json!({ "by": "stripes", "test": ["1", "2", "3", "4"] })).contains("every stripe"));
    assert!(problem(json!({ "by": "stripes", "test": "1", "stripes": 30 })).contains("too few places"));
    assert!(problem(json!({ "by": "stripes", "test": "1", "stripes": 1 })).contains("from 2 to 1000"));
    assert!(problem(json!({ "by": "stripes", "test": "1", "buffer": 100 })).contains("no spot to train on"));
}

#[test]
fn blocks_are_compact_and_have_a_gap_on_all_sides() {
    // One section of 20 x 20 spots, of which a ninth is the middle block.
    let mut table = table(&[("A1", "A"); 400]);
    for (spot, place) in table.spatial.iter_mut().enumerate() {
        *place = [(spot / 20) as f64 * 10.0, (spot % 20) as f64 * 10.0];
    }
    let labels = labels(&table, &["tumour"; 400]);
    let mut tested = HashSet::new();
    for block in 1..=9 {
        let bench = Bench::new().input("table", &table).input("labels", &labels);
        let params = json!({ "by": "blocks", "blocks": 9, "test": block.to_string(), "buffer": 2.1 });
        let bench = bench.run::<Split>(params).unwrap();
        let split: artifact::Split = bench.output("split");
        let (train, test) = (split.train(), split.test());
        assert!((30..=60).contains(&test.len()), "block {block} has {} of 400 spots", test.len());
        let place = |name: &&str| table.spatial[name.split_once('_').unwrap().1.parse::<usize>().unwrap()];
        let apart = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).hypot(a[1] - b[1]);
        for spot in &table.obs.index {
            let nearest = test
                .iter()
                .map(|other| apart(place(&spot.as_str()), place(other)))
                .fold(f64::INFINITY, f64::min);
            assert_eq!(train.contains(spot.as_str()), nearest >= 21.0, "{spot} of block {block}");
        }
        tested.extend(test.into_iter().map(str::to_owned));
        assert!(bench.marks("test").is_empty(), "a new region of the section is what is asked for");
    }
    assert_eq!(tested.len(), 400, "every spot is tested once");
}

/// 30 x 20 spots of which those outside an ellipse that touches all four sides are no tissue; 100 pixels apart.
fn oval() -> (Table, Labels) {
    let inside = |x: usize, y: usize| ((x as f64 - 14.5) / 15.0).hypot((y as f64 - 9.5) / 10.0) < 1.0;
    let places: Vec<[f64; 2]> = (0..600)
        .map(|at| (at % 30, at / 30))
        .filter(|&(x, y)| inside(x, y))
        .map(|(x, y)| [100.0 * x as f64, 100.0 * y as f64])
        .collect();
    let mut table = table(&vec![("A1", "A"); places.len()]);
    let labels = labels(&table, &vec!["tumour"; places.len()]);
    table.spatial = places;
    (table, labels)
}

#[test]
fn cells_are_numbered_row_by_row_and_every_spot_is_tested_once() {
    let (table, labels) = oval();
    let sides = |cell: usize| {
        let params = params(json!({ "by": "grid", "grid": [2, 3], "test": cell.to_string(), "buffer": 0 }));
        parts::assign(&table, std::slice::from_ref(&labels), &params).unwrap()
    };
    let all: Vec<Vec<Side>> = (1..=6).map(sides).collect();
    for (spot, [x, y]) in table.spatial.iter().enumerate() {
        // 30 columns of spots in three, 20 rows in two.
        let cell = (y / 1000.0) as usize * 3 + (x / 1000.0) as usize;
        let tested: Vec<usize> = (0..6).filter(|&cell| all[cell][spot] == Side::Test).collect();
        assert_eq!(tested, [cell], "{x} {y}");
    }
}

#[test]
fn a_cell_of_a_handful_of_spots_is_no_test() {
    let (table, labels) = oval();
    let run = |params: serde_json::Value| {
        let bench = Bench::new().input("table", &table).input("labels", &labels);
        bench.run::<Split>(params)
    };
    let problem = |params| run(params).err().unwrap().to_string();
    // A corner of 5 x 4 spots, of which the ellipse leaves one.
    assert_eq!(
        problem(json!({ "by": "grid", "grid": [5, 6], "test": "1", "min_spots": 20 })),
        "the cells of `test` have 1 spots with a region: `min_spots` asks for 20. Of `grid: [5, 6]` these have enough: 3 (20 spots), \
         4 (20 spots), 8 (20 spots), 9 (20 spots), 10 (20 spots), 11 (20 spots), 13 (20 spots), 14 (20 spots), 15 (20 spots), 16 (20 \
         spots), 17 (20 spots), 18 (20 spots), 20 (20 spots), 21 (20 spots), 22 (20 spots), 23 (20 spots), 27 (20 spots), 28 (20 \
         spots). Name one of them, list a small cell together with those beside it, or choose a coarser grid"
    );
    let error = problem(json!({ "by": "grid", "grid": [9, 9], "test": ["1", "2"], "min_spots": 13 }));
    assert!(
        error.starts_with("`test` names cell 1, in which no spot has a region. Of `grid: [9, 9]`"),
        "{error}"
    );
    assert!(error.contains("have enough: none."), "{error}");
    let error = problem(json!({ "by": "grid", "grid": [5, 6], "test": "9", "validation": "25" }));
    assert!(error.starts_with("the cells of `validation` have 1 spots"), "{error}");
    assert_eq!(
        problem(json!({ "by": "grid", "grid": [2, 2], "test": "5" })),
        "`test` names cell `5`; with `grid: [2, 2]` they are 1 to 4"
    );
    for grid in [json!([1, 1]), json!([0, 3]), json!([50, 50])] {
        assert!(problem(json!({ "by": "grid", "test": "1", "grid": grid })).contains("from 2 to 1000"));
    }
    // With the cell beside it, it is; and what is not tested on trains, however little it is.
    let bench = run(json!({ "by": "grid", "grid": [5, 6], "test": ["1", "2", "7"], "buffer": 0 })).unwrap();
    let (train, test) = (bench.output::<TrainLabels>("train").0, bench.output::<TestLabels>("test").0);
    assert_eq!((test.spots.len(), train.spots.len()), (1 + 13 + 15, table.n_spots() - 29));
    assert!(bench.marks("test").is_empty(), "a new region of the section is what is asked for");
}

#[test]
fn cells_of_several_sections_are_tested_together_and_only_labelled_ones_are_cut() {
    let (mut table, labels) = grid();
    let run = |labels: &Labels, table: &Table| {
        let bench = Bench::new().input("table", table).input("labels", labels);
        bench.run::<Split>(json!({ "by": "grid", "grid": [1, 3], "test": "2", "min_spots": 24 }))
    };
    let error = run(&labels, &table).err().unwrap().to_string();
    assert!(error.contains("have 12 spots with a region: `min_spots` asks for 24"), "{error}");
    let mut both = labels;
    both.regions.fill(Some("tumour".into()));
    let test = run(&both, &table).unwrap().output::<TestLabels>("test").0;
    assert_eq!((test.spots.len(), test.patients.iter().filter(|patient| *patient == "B").count()), (24, 12));
    table.spatial[40][0] = f64::NAN;
    let error = run(&both, &table).err().unwrap().to_string();
    assert!(error.starts_with("spot `B4_40` has no finite coordinates"), "{error}");
}

#[test]
fn parts_are_of_sections_that_are_named() {
    let mut table = table(&SPOTS);
    let labels = labels(&table, &["tumour"; 5]);
    let column = table.obs.columns.iter_mut().find(|(name, _)| name == "section").unwrap();
    column.1 = Column::Categorical(Categorical::encode([None; 5]));
    let params = params(json!({ "by": "grid", "test": "1" }));
    let error = parts::assign(&table, &[labels], &params).unwrap_err().to_string();
    assert_eq!(error, "spot `A1_0` has no section: set it where the section is loaded");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the tissue's shape and the order of spots.
    #[test]
    fn whatever_is_cut_keeps_its_distance(
        cells in prop::collection::btree_set((0..14_u8, 0..14_u8), 30..120),
        undetermined in prop::collection::vec(any::<bool>(), 120),
        by in prop::sample::select(vec!["grid", "blocks", "stripes"]),
        test in 1..5_usize, validation in 1..5_usize, buffer in 0.0..3.0_f64, turn in 0..30_usize,
    ) {
        prop_assume!(test != validation);
        let cells: Vec<(u8, u8)> = cells.into_iter().collect();
        // Every other row is shifted, as on a slide.
        let place = |&(x, y): &(u8, u8)| [f64::from(x) + 0.5 * f64::from(y % 2), f64::from(y) * 0.866];
        let mut table = table(&vec![("A1", "A"); cells.len()]);
        table.spatial = cells.iter().map(place).collect();
        let regions: Vec<&str> = (0..cells.len()).map(|spot| if undetermined[spot] { "?" } else { "tumour" }).collect();
        let labels = labels(&table, &regions);
        let params = params(json!({
            "by": by, "stripes": 4, "blocks": 4, "grid": [2, 2], "min_spots": 1,
            "test": test.to_string(), "validation": validation.to_string(), "buffer": buffer,
        }));
        let Ok(sides) = parts::assign(&table, std::slice::from_ref(&labels), &params) else {
            // A part without a labelled spot: told, not tested on.
            return Ok(());
        };
        let divided = divide(std::slice::from_ref(&labels), &table, &sides).unwrap();
        let split = roles(&table, &sides);

        let gap = buffer * parts::pitch(&table.spatial).unwrap();
        let apart = |a: usize, b: usize| {
            let [dx, dy] = [0, 1].map(|axis| table.spatial[a][axis] - table.spatial[b][axis]);
            if by == "stripes" { dx.abs() } else { dx.hypot(dy) }
        };
        let of = |side: Side| (0..cells.len()).filter(|&spot| sides[spot] == side).collect::<Vec<_>>();
        for tested in of(Side::Test) {
            for spot in (0..cells.len()).filter(|&spot| !matches!(sides[spot], Side::Test | Side::Out)) {
                prop_assert!(apart(tested, spot) >= gap);
            }
        }
        for validates in of(Side::Validation) {
            prop_assert!(of(Side::Train).iter().all(|&spot| apart(validates, spot) >= gap));
        }
        // Every spot with a region is on one side, or in a gap.
        let labelled = regions.iter().filter(|region| **region != "?").count();
        let in_gap = |side: &Side| matches!(side, Side::Out | Side::Beside);
        let gaps = (0..cells.len()).filter(|&spot| regions[spot] != "?" && in_gap(&sides[spot])).count();
        let sets = [&divided.train, &divided.validation, &divided.test];
        let sides_of: HashSet<&str> = sets.iter().flat_map(|labels| &labels.spots).map(String::as_str).collect();
        prop_assert_eq!(sets.iter().map(|labels| labels.spots.len()).sum::<usize>() + gaps, labelled);
        prop_assert_eq!(sides_of.len() + gaps, labelled);
        prop_assert_eq!(split.spots.len() + of(Side::Out).len(), cells.len());

        // The order of spots has no say; of blocks it has, by how sums are rounded, where two centres are as near.
        if by == "blocks" {
            return Ok(());
        }
        let order: Vec<usize> = (0..cells.len()).map(|spot| (spot + turn) % cells.len()).collect();
        let turned = parts::assign(&table.select_spots(&order), &[labels], &params).unwrap();
        prop_assert_eq!(turned, order.iter().map(|&spot| sides[spot]).collect::<Vec<_>>());
    }
}

#[test]
fn folds_are_stratified_disjoint_and_say_that_they_flatter() {
    let table = table(&[("A1", "A"); 103]);
    let regions: Vec<&str> = (0..103).map(|spot| ["tumour", "stroma", "?", "tumour"][spot % 4]).collect();
    let labels = labels(&table, &regions);
    let fold = |fold: usize, seed: u64| {
        let bench = Bench::new().seed(seed).input("table", &table).input("labels", &labels);
        bench.run::<Split>(json!({ "by": "random", "test": fold.to_string() })).unwrap()
    };
    let mut tested = HashSet::new();
    for number in 1..=5 {
        let bench = fold(number, 7);
        let test = bench.output::<TestLabels>("test").0;
        let of = |region: &str| test.regions.iter().flatten().filter(|name| *name == region).count();
        assert!((5..=6).contains(&of("stroma")) && (10..=11).contains(&of("tumour")), "{:?}", test.regions);
        assert!(test.spots.iter().all(|spot| tested.insert(spot.clone())), "a spot is tested twice");
        assert_eq!(bench.output::<TrainLabels>("train").0.spots.len() + test.spots.len(), 77);
        assert_eq!(bench.output::<artifact::Split>("split").train().len(), 103 - test.spots.len());
        for port in ["split", "train", "test", "validation"] {
            assert!(bench.marks(port)[0].contains("at random"), "{port}");
        }
    }
    assert_eq!(tested.len(), 77);
    let spots = |seed| fold(1, seed).output::<TestLabels>("test").0.spots;
    assert!(spots(7) == spots(7) && spots(7) != spots(8));
}

#[test]
fn what_validates_neither_trains_nor_tests() {
    let table = table(&SPOTS);
    let labels = labels(&table, &["tumour", "stroma", "stroma", "tumour", "stroma"]);
    let run = |params: serde_json::Value| {
        Bench::new().input("table", &table).input("labels", &labels).run::<Split>(params)
    };
    let bench = run(json!({ "test": "B", "validation": "C" })).unwrap();
    assert_eq!(bench.output::<TrainLabels>("train").0.spots, ["A1_0", "A1_1"]);
    assert_eq!(bench.output::<TrainLabels>("validation").0.spots, ["C1_4"]);
    assert_eq!(
        bench.output::<artifact::Split>("split").train().len(),
        3,
        "inputs of what validates may be fitted on"
    );
    assert!(run(json!({ "test": "B" })).unwrap().output::<TrainLabels>("validation").0.spots.is_empty());
    let problem = |params| run(params).err().unwrap().to_string();
    assert!(
        problem(json!({ "test": "B", "validation": ["B"] })).contains("`B` is in `test` and in `validation`")
    );
    assert!(problem(json!({ "test": "B", "validation": ["A", "C"] })).contains("hold out every patient"));
    assert!(
        problem(json!({ "test": "B", "validation": "D" })).starts_with("`validation` names the patient `D`")
    );
    assert!(problem(json!({ "test": "B", "validation": "C", "validation_share": 0.5 })).contains("not both"));
}

#[test]
fn a_share_validates_region_by_region() {
    let table = table(&[vec![("A1", "A"); 43], vec![("B1", "B")]].concat());
    let regions: Vec<&str> = (0..44).map(|spot| if spot < 40 { "tumour" } else { "fat" }).collect();
    let labels = labels(&table, &regions);
    let bench = Bench::new().input("table", &table).input("labels", &labels);
    let bench = bench.run::<Split>(json!({ "test": "B", "validation_share": 0.25 })).unwrap();
    let (train, validation) =
        (bench.output::<TrainLabels>("train").0, bench.output::<TrainLabels>("validation").0);
    let of = |labels: &Labels, region: &str| {
        labels.regions.iter().flatten().filter(|name| *name == region).count()
    };
    assert_eq!((of(&validation, "tumour"), of(&train, "tumour")), (10, 30));
    assert_eq!((of(&validation, "fat"), of(&train, "fat")), (1, 2));
    assert!(train.spots.iter().all(|spot| !validation.spots.contains(spot)));
}

#[test]
fn beside_what_validates_there_is_a_gap_too() {
    let (table, labels) = grid();
    let bench = Bench::new().input("table", &table).input("labels", &labels);
    let bench = bench.run::<Split>(json!({ "by": "stripes", "test": "1", "validation": "3" })).unwrap();
    // Columns 0-2 test, 3 is beside them, 6-8 validate, 5 and 9 are beside those.
    let columns = |labels: &Labels| -> BTreeSet<usize> {
        labels.spots.iter().map(|spot| spot[3..].parse::<usize>().unwrap() / 3).collect()
    };
    assert_eq!(columns(&bench.output::<TrainLabels>("train").0), BTreeSet::from([4, 10, 11]));
    assert_eq!(columns(&bench.output::<TrainLabels>("validation").0), BTreeSet::from([6, 7, 8]));
    assert_eq!(bench.output::<artifact::Split>("split").train().len(), 36 + 24);
}

#[test]
fn only_training_labels_are_shuffled() {
    let table = table(&[[("A1", "A"); 60], [("B1", "B"); 60]].concat());
    let regions: Vec<&str> = (0..120).map(|spot| ["tumour", "stroma"][spot / 7 % 2]).collect();
    let labels = labels(&table, &regions);
    let run = |permute: bool| {
        let bench = Bench::new().input("table", &table).input("labels", &labels);
        bench.run::<Split>(json!({ "test": "B", "permute_labels": permute })).unwrap()
    };
    let (plain, shuffled) = (run(false), run(true));
    assert_eq!(plain.output::<TestLabels>("test"), shuffled.output::<TestLabels>("test"));
    let (before, after) = (plain.output::<TrainLabels>("train").0, shuffled.output::<TrainLabels>("train").0);
    assert_eq!(before.spots, after.spots);
    assert_ne!(before.regions, after.regions);
    let sorted = |labels: &Labels| {
        let mut all = labels.regions.clone();
        all.sort();
        all
    };
    assert_eq!(sorted(&before), sorted(&after));
    assert_eq!(shuffled.marks("train"), ["classify/split: training labels are shuffled"]);
}
