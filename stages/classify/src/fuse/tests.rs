//! What should be true of fused features.

use restage_stage::artifact::Role;
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

/// The data of the NumPy below: what is fitted on are the first 40 spots.
fn canonical() -> (Embedding, Embedding, Split) {
    let name = |i: usize| format!("S_{i}");
    let x = rows((0..60).map(|i| {
        let t = i as f64;
        let row = [t.sin(), (2.0 * t).cos(), (3.0 * t).sin() * t.cos(), (0.7 * t).cos()];
        (name(i), row.map(|x| x as f32).to_vec())
    }));
    let y = rows((0..60).map(|i| {
        let t = i as f64;
        let row = [t.sin() + 0.5 * (5.0 * t).cos(), (2.0 * t).cos() + (7.0 * t).sin(), (11.0 * t).cos()];
        (name(i), row.map(|x| x as f32).to_vec())
    }));
    let role = |i: usize| if i < 40 { Role::Train } else { Role::Test };
    (x, y, Split { spots: (0..60).map(name).collect(), roles: (0..60).map(role).collect() })
}

fn cca(params: Value) -> (Embedding, Metrics) {
    let (x, y, split) = canonical();
    let bench = Bench::new().input("features", &x).input("features", &y).input("split", &split);
    run(bench, params).unwrap()
}

/// ```python
/// i = np.arange(60); f = lambda *c: np.stack(c, 1).astype(np.float32).astype(float)
/// X = f(np.sin(i), np.cos(2*i), np.sin(3*i)*np.cos(i), np.cos(.7*i))
/// Y = f(np.sin(i)+.5*np.cos(5*i), np.cos(2*i)+np.sin(7*i), np.cos(11*i))
/// c = CCA(3, tol=1e-14, max_iter=100000).fit(X[:40], Y[:40]); a, b = c.transform(X, Y)    # scikit-learn 1.9.1
/// [np.corrcoef(a[:40, k], b[:40, k])[0, 1] for k in range(3)], [np.corrcoef(a[40:, k], b[40:, k])[0, 1] for k in range(3)]
/// np.abs(a / a[:40].std(0) + b / b[:40].std(0))[[0, 39, 40, 59]] / 2
/// ```
#[test]
fn canonical_variables_are_those_of_scikit_learn() {
    let (found, summary) = cca(json!({ "kind": "cca", "ridge": 1e-9 }));
    let near = |found: &[f64], expected: &[f64]| {
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-6), "{found:?} {expected:?}");
    };
    near(&summary.curves["correlation"], &[0.886820206552797, 0.7486083840755551, 0.06045360684379692]);
    near(
        &summary.curves["correlation_held_out"],
        &[0.8834707384982503, 0.8407832423378018, -0.04118553211761814],
    );
    assert_eq!((summary.values["fitted_on"], summary.values["held_out"], found.dims), (40.0, 20.0, 3));
    let picked: Vec<f64> =
        [0, 39, 40, 59].iter().flat_map(|&spot| found.row(spot)).map(|x| f64::from(x.abs())).collect();
    near(
        &picked,
        &[
            0.30627040433241703,
            1.3768069463375632,
            1.1666814404728167,
            1.562723226969979,
            0.9361251009817787,
            0.2893872938464382,
            1.1237412479193996,
            0.504315326931917,
            0.035559568935569774,
            1.1139545624724982,
            0.47381761001532063,
            0.9130121064811131,
        ],
    );
}

/// The same data; signs too, as the largest weight of X is positive:
/// ```python
/// Z = lambda A: (A - A[:40].mean(0)) / A[:40].std(0); x, y = Z(X), Z(Y); S = lambda p, q: p[:40].T @ q[:40] / 40
/// root = lambda A: (lambda w, V: V @ np.diag(w**-.5) @ V.T)(*np.linalg.eigh(A))
/// A, B = root(S(x, x) + .1*np.eye(4)), root(S(y, y) + .1*np.eye(3)); U, s, V = np.linalg.svd(A @ S(x, y) @ B)
/// wx, wy = A @ U[:, :2], B @ V[:2].T; sign = np.sign(wx[np.abs(wx).argmax(0), range(2)])
/// ((x @ (wx*sign) + y @ (wy*sign)) / 2)[[0, 39, 40, 59]]
/// ```
#[test]
fn a_ridge_is_that_of_the_formula() {
    let (found, summary) = cca(json!({ "kind": "cca", "ridge": 0.1, "dims": 2 }));
    let expected = [
        0.24148227516625215,
        1.3175515640634592,
        1.5185333587952772,
        -0.8493790414129201,
        1.0774071279797215,
        -0.4541503487260472,
        1.0759064921513068,
        -0.41973569038933917,
    ];
    let picked: Vec<f32> = [0, 39, 40, 59].iter().flat_map(|&spot| found.row(spot)).copied().collect();
    crate::testing::close(&picked, &expected, 1e-6);
    assert!(
        (summary.curves["correlation"][0] - 0.8865990400134044).abs() < 1e-9,
        "what it is, not its shrunken estimate"
    );
}

/// Noise in more dimensions than there are spots has all the correlation that one likes, where it is fitted.
#[test]
fn overfitting_shows_and_test_spots_have_no_say() {
    let noise = |seed: u64, spots: usize| {
        let mut state = seed;
        rows((0..spots).map(|i| {
            let mut draw = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) as f32 / 16_777_216.0 - 0.5
            };
            (format!("S_{i}"), (0..30).map(|_| draw()).collect())
        }))
    };
    let (_, _, split) = canonical();
    let with = |second: &Embedding, threads: usize, params: Value| {
        let bench =
            Bench::new().input("features", &noise(1, 60)).input("features", second).input("split", &split);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(bench, params).unwrap())
    };
    let second = noise(2, 60);
    let loose = json!({ "kind": "cca", "ridge": 1e-3, "dims": 5 });
    let (found, summary) = with(&second, 1, loose.clone());
    assert!(
        summary.values["correlation"] > 0.9 && summary.values["correlation_held_out"].abs() < 0.3,
        "{:?}",
        summary.values
    );
    assert!(with(&second, 2, loose.clone()).0 == found, "threads change no byte");
    let mut other = second;
    other.values[40 * 30..].iter_mut().for_each(|x| *x = 3.0 - *x);
    assert_eq!(with(&other, 1, loose).0.values[..40 * 5], found.values[..40 * 5]);
}

#[test]
fn what_has_no_canonical_variables_is_said() {
    let (x, y, split) = canonical();
    let refused = |bench: Bench, params: Value| run(bench, params).unwrap_err().to_string();
    let two = || Bench::new().input("features", &x).input("features", &y);
    assert_eq!(
        refused(two().input("split", &split), json!({ "kind": "cca", "dims": 4 })),
        "`kind: cca` has at most 3 dimensions of blocks with 4 and 3, fitted on 40 spots, and `dims` asks for 4"
    );
    let three = two().input("features", &x).input("split", &split);
    assert!(
        refused(three, json!({ "kind": "cca" }))
            .contains("`kind: cca` is between two blocks, and `features` lists 3")
    );
    let one = train_labels([("S_0", "A", "a"), ("S_1", "A", "a")]);
    let (found, summary) = run(two().input("train", &one), json!({ "kind": "cca" })).unwrap();
    assert_eq!(
        (found.dims, summary.values["fitted_on"]),
        (1, 2.0),
        "one region is enough to say which spots train"
    );
    let one = train_labels([("S_0", "A", "a")]);
    assert!(
        refused(two().input("train", &one), json!({ "kind": "cca" })).contains("has at most 0 dimensions")
    );
    let none = two().run::<Fuse>(json!({ "kind": "cca" })).unwrap();
    assert_eq!(
        none.marks("embedding"),
        ["classify/fuse: z-scores and canonical directions are of all spots"]
    );
    assert!(!none.output::<Metrics>("summary").values.contains_key("correlation_held_out"));
    let ridge = serde_json::from_value(json!({ "ridge": 0 })).unwrap();
    assert_eq!(Fuse::validate(&ridge).unwrap_err().to_string(), "`ridge` is 0: it must be a number above 0");
}
