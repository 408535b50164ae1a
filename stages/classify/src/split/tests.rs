//! What should be true of a split.

use proptest::prelude::*;
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

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
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
        json!({ "by": "patient", "test": ["B"], "stripes": 4, "buffer": 1.5 })
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
    let refused = |by, test: &[&str]| assign(&table, by, &names(test)).unwrap_err().to_string();
    assert_eq!(
        refused(Unit::Patient, &["A", "D"]),
        "`test` names the patient `D`, which the table does not have; it has: A, B, C"
    );
    assert!(refused(Unit::Section, &["B"]).ends_with("it has: A1, B1, B2, C1"));
    assert!(refused(Unit::Patient, &["A", "B", "C"]).contains("leave at least one to train on"));
    let params = serde_json::from_value(json!({ "test": [] })).unwrap();
    assert!(Split::validate(&params).is_err());
}

#[test]
fn a_few_labels_without_a_spot_are_dropped_but_not_most() {
    let table = table(&SPOTS);
    let split = assign(&table, Unit::Patient, &names(&["B"])).unwrap();
    let mut labels = labels(&table, &["tumour"; 5]);
    labels.spots[1] = "A1_gone".to_owned();
    let (train, _) = divide(std::slice::from_ref(&labels), &table, &split).unwrap();
    assert_eq!(train.0.spots, ["A1_0", "C1_4"]);
    labels.spots[3] = "B2_gone".to_owned();
    labels.spots[4] = "C1_gone".to_owned();
    let error = divide(&[labels], &table, &split).unwrap_err().to_string();
    assert!(error.contains("3 of 5 labelled spots are not in the table (first: `A1_gone`)"), "{error}");
}

#[test]
fn labels_must_be_told_once_and_reach_both_sides() {
    let table = table(&SPOTS);
    let split = assign(&table, Unit::Patient, &names(&["B"])).unwrap();
    let all = labels(&table, &["tumour"; 5]);
    assert!(
        divide(&[all.clone(), all], &table, &split)
            .unwrap_err()
            .to_string()
            .contains("`A1_0` is labelled twice")
    );
    let untested = labels(&table, &["tumour", "tumour", "?", "?", "tumour"]);
    assert!(divide(&[untested], &table, &split).unwrap_err().to_string().contains("no spot to test on"));
    let untrained = labels(&table, &["?", "?", "tumour", "tumour", "?"]);
    assert!(divide(&[untrained], &table, &split).unwrap_err().to_string().contains("no spot to train on"));
}

#[test]
fn patients_are_the_tables_by_which_the_split_went() {
    let table = table(&SPOTS);
    let split = assign(&table, Unit::Patient, &names(&["B"])).unwrap();
    let mut labels = labels(&table, &["tumour"; 5]);
    labels.patients.fill("B".to_owned());
    let (train, test) = divide(&[labels], &table, &split).unwrap();
    assert_eq!(
        (train.0.patients, test.0.patients),
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

        let split = assign(&table, Unit::Patient, &test).unwrap();
        let (train_labels, test_labels) =
            divide(&[labels(&table, &vec!["tumour"; patients.len()])], &table, &split).unwrap();

        let side = |role: Role| -> BTreeSet<&str> {
            (0..table.n_spots()).filter(|&i| split.roles[i] == role).map(|i| table.patient(i).unwrap()).collect()
        };
        prop_assert_eq!(side(Role::Test).into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), test.clone());
        prop_assert!(side(Role::Train).is_disjoint(&side(Role::Test)));
        prop_assert!(train_labels.0.patients.iter().all(|patient| !test.contains(patient)));
        prop_assert!(test_labels.0.patients.iter().all(|patient| test.contains(patient)));
        prop_assert_eq!(train_labels.0.spots.len() + test_labels.0.spots.len(), table.n_spots());
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
