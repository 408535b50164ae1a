//! What should be true of fused features.

use serde_json::Value;

use super::*;
use crate::testing::{Bench, embedding as rows, train_labels};

fn run(bench: Bench, params: Value) -> Result<(Embedding, Metrics)> {
    let done = bench.run::<Fuse>(params)?;
    Ok((done.output("embedding"), done.output("summary")))
}

/// Two blocks that share three spots.
fn bench() -> Bench {
    let wide =
        rows([("a", [1.0, 5.0]), ("b", [3.0, 5.0]), ("c", [7.0, 9.0])].map(|(s, x)| (s.into(), x.to_vec())));
    let narrow =
        rows([("x", 0.0), ("c", 30.0), ("b", 10.0), ("a", 20.0)].map(|(s, x)| (s.into(), vec![x, 1.0])));
    Bench::new().input("features", &wide).input("features", &narrow)
}

fn split() -> Split {
    let spots = ["c", "b", "a"].map(str::to_owned).to_vec();
    Split { spots, roles: vec![Role::Test, Role::Train, Role::Train] }
}

#[test]
fn blocks_stand_side_by_side_fitted_on_what_trains() {
    let done = bench().input("split", &split()).run::<Fuse>(json!({})).unwrap();
    let (found, summary): (Embedding, Metrics) = (done.output("embedding"), done.output("summary"));
    assert_eq!((found.spots.as_slice(), found.dims), (&["a".into(), "b".into(), "c".into()][..], 4));
    // Means of a and b: 2, 5 and 15, 1; deviations 1, 0 and 5, 0; divided by the root of 2.
    let expected = [-1.0, 0.0, 1.0, 0.0, 1.0, 0.0, -1.0, 0.0, 5.0, 0.0, 3.0, 0.0];
    for (found, expected) in found.values.iter().zip(expected) {
        assert!((found - expected / 2_f32.sqrt()).abs() < 1e-6, "{found} {expected}");
    }
    assert_eq!((summary.values["fitted_on"], done.marks("embedding").len()), (2.0, 0));
    let done = bench().run::<Fuse>(json!({})).unwrap();
    assert_eq!(done.output::<Metrics>("summary").values["fitted_on"], 3.0);
    assert_eq!(done.marks("embedding"), ["classify/fuse: z-scores are of all spots"]);
}

#[test]
fn a_sum_takes_the_others_with_their_weight() {
    let (found, _) = run(bench().input("split", &split()), json!({ "kind": "sum", "weight": 0.5 })).unwrap();
    assert_eq!(found.dims, 2);
    let expected = [-1.0 + 0.5, 0.0, 1.0 - 0.5, 0.0, 5.0 + 1.5, 0.0];
    assert!(found.values.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-6_f32), "{:?}", found.values);
    let third = rows([("a", 0.0), ("b", 1.0), ("c", 2.0)].map(|(s, x)| (s.into(), vec![x])));
    let error = run(bench().input("features", &third), json!({ "kind": "sum" })).unwrap_err().to_string();
    assert!(
        error.starts_with("`kind: sum` needs blocks of one width: block 1 has 2 dimensions, block 3 has 1"),
        "{error}"
    );
}

/// Of two blocks one tells regions apart, the other is noise.
fn telling() -> (Embedding, Embedding, TrainLabels) {
    let noise = |i: usize, f: f32| ((i as f32 + 0.5) * f).sin();
    let region = |i: usize| i * 7 % 3;
    let tells = rows((0..150).map(|i| {
        let at = |class: usize| if region(i) == class { 2.0 } else { 0.0 };
        (format!("S_{i}"), vec![at(0) + noise(i, 2.4), at(1) + noise(i, 5.1), at(2) + noise(i, 3.3)])
    }));
    let not = rows((0..150).map(|i| (format!("S_{i}"), vec![noise(i, 1.7), noise(i, 2.9)])));
    let labels = (0..100).map(|i| (format!("S_{i}"), ["A", "B"][i / 50], ["a", "b", "c"][region(i)]));
    (tells, not, train_labels(labels))
}

#[test]
fn attention_learns_which_block_tells_more() {
    let (tells, not, train) = telling();
    let with = |first: &Embedding, second: &Embedding, threads: usize| {
        let bench = Bench::new().input("features", first).input("features", second).input("train", &train);
        let params = json!({ "kind": "attention", "dims": 8, "learning_rate": 0.01, "batch_size": 50 });
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(bench, params).unwrap())
    };
    let (found, summary) = with(&tells, &not, 1);
    assert_eq!((found.spots.len(), found.dims), (150, 8));
    assert!(summary.values["first_share"] > 0.55, "{}", summary.values["first_share"]);
    let (other, swapped) = with(&not, &tells, 2);
    assert!(swapped.values["first_share"] < 0.45, "{}", swapped.values["first_share"]);
    assert!(with(&not, &tells, 1).0 == other, "threads change no byte");
}

#[test]
fn what_cannot_be_fused_is_said() {
    let (tells, not, train) = telling();
    let refused = |bench: Bench, params: Value| run(bench, params).unwrap_err().to_string();
    let two = || Bench::new().input("features", &tells).input("features", &not);
    assert!(refused(two(), json!({ "kind": "attention" })).ends_with("connect `train`"));
    let three = two().input("features", &tells).input("train", &train);
    assert!(refused(three, json!({ "kind": "attention" })).contains("`features` lists 3"));
    let one = Bench::new().input("features", &tells);
    assert!(refused(one, json!({})).starts_with("`features` is one block"));
    let strange = Split { spots: vec!["X".into()], roles: vec![Role::Train] };
    assert!(
        refused(two().input("split", &strange), json!({})).starts_with("no spot of `features` is one that")
    );
    let tested = Split { spots: vec!["S_3".into()], roles: vec![Role::Test] };
    let bench = two().input("split", &tested).input("train", &train);
    assert!(
        refused(bench, json!({ "kind": "attention" }))
            .starts_with("spot `S_3` of `train` is one that `split` tests on")
    );
    let apart = rows([("X".to_owned(), vec![1.0])]);
    let bench = Bench::new().input("features", &tells).input("features", &apart);
    assert!(refused(bench, json!({})).contains("share no spot"));
}
