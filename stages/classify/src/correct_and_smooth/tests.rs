//! What should be true of corrected predictions.

use serde_json::Value;

use super::*;
use crate::testing::{Bench, close, embedding, train_labels};

const REGIONS: [&str; 3] = ["a", "b", "c"];

fn name(i: usize) -> String {
    format!("S_{i}")
}

/// The softmax of waves, as in the NumPy below.
fn given() -> Predictions {
    let row = |i: usize| {
        let t = i as f64;
        let row = [t.sin(), 0.8 * (2.0 * t).cos(), (3.0 * t + 1.0).sin()].map(f64::exp);
        row.map(|x| (x / row.iter().sum::<f64>()) as f32)
    };
    Predictions {
        spots: (0..120).map(name).collect(),
        classes: REGIONS.map(str::to_owned).to_vec(),
        probabilities: (0..120).flat_map(row).collect(),
    }
}

/// A row of 118 spots, with ways of seven steps.
fn graph() -> Graph {
    let row = |i: usize| {
        let near = |step: usize, weight: f32| {
            let ends = [i.checked_sub(step), Some(i + step).filter(|&other| other < 118)];
            ends.into_iter().flatten().map(move |other| (other as i32, weight))
        };
        near(1, 1.0).chain(near(7, 0.5)).collect::<Vec<_>>()
    };
    Graph { spots: (0..118).map(name).collect(), edges: Csr::from_rows(118, (0..118).map(row)) }
}

fn labels(count: usize) -> TrainLabels {
    train_labels((0..count).map(|i| (name(i), "A", REGIONS[i * i % 11 % 3])))
}

fn bench() -> Bench {
    Bench::new().input("predictions", &given()).input("graph", &graph()).input("train", &labels(40))
}

fn run(bench: Bench, params: Value) -> (Predictions, Metrics) {
    let done = bench.run::<CorrectAndSmooth>(params).unwrap();
    assert!(done.marks("predictions")[0].contains("spread over all spots"));
    (done.output("predictions"), done.output("training"))
}

const AUTO: [f64; 15] = [
    0.5873765853591273,
    0.29536224098285635,
    0.1172611736580163,
    0.7005404034645792,
    0.2994595965354208,
    0.0,
    0.7428705384259056,
    0.25712946157409444,
    0.0,
    0.28427734921058717,
    0.38140006520893077,
    0.33432258558048195,
    0.2024375617140895,
    0.2571386954614715,
    0.5404237428244392,
];
const FIXED: [f64; 15] = [
    0.5872795926539561,
    0.29535482980134903,
    0.11736557754469476,
    0.49555740551084376,
    0.275491688793179,
    0.22895090569597717,
    0.3973713458957528,
    0.36601936506582705,
    0.23660928903842007,
    0.39804863320072464,
    0.3411847960277002,
    0.26076657077157517,
    0.2024375617140895,
    0.2571386954614715,
    0.5404237428244392,
];

/// The formulas of Huang et al. 2021, solved in NumPy where this spreads in rounds:
/// ```python
/// n, c = 120, 3; i = np.arange(n); y = i*i % 11 % 3; L = i < 40; U = ~L; Y = np.eye(c)[y]
/// s = np.exp(np.stack([np.sin(i), .8*np.cos(2*i), np.sin(3*i + 1)], 1))
/// Z = (s / s.sum(1, keepdims=True)).astype(np.float32).astype(float)
/// A = np.zeros((n, n))
/// for d, w in [(1, 1), (7, .5)]: A[i[:-d], i[:-d] + d] = A[i[:-d] + d, i[:-d]] = w
/// A[118:] = 0; A[:, 118:] = 0; D = A.sum(1); D[D == 0] = 1
/// S = A / np.sqrt(np.outer(D, D)); P = A / D[:, None]
/// spread = lambda F, a: (1 - a) * np.linalg.solve(np.eye(n) - a * S, F)
/// def smooth(Zr, a):
///     G = np.clip(spread(np.where(L[:, None], Y, Zr), a), 0, None); return G / G.sum(1, keepdims=True)
/// E = np.where(L[:, None], Y - Z, 0); sigma = np.abs(E[L]).sum(1).mean()
/// Eh = spread(E, .9); size = np.abs(Eh).sum(1, keepdims=True); scale = sigma / np.where(size > 0, size, np.inf)
/// scale[scale > 1000] = 1
/// AUTO = smooth(Z + scale * Eh, .7)[[0, 40, 60, 117, 118]]
/// F = E.copy(); F[U] = np.linalg.solve(np.eye(U.sum()) - P[np.ix_(U, U)], P[np.ix_(U, L)] @ E[L])
/// FIXED = smooth(Z + .5 * F, .7)[[0, 40, 60, 117, 118]]
/// ```
#[test]
fn shares_are_those_of_the_papers_formulas() {
    for (scale, expected) in [(json!("auto"), AUTO), (json!(0.5), FIXED)] {
        let params = json!({
            "correct_alpha": 0.9, "smooth_alpha": 0.7, "scale": scale, "tolerance": 1e-13, "max_iter": 100_000,
        });
        let (found, training) = run(bench(), params);
        let rows: Vec<f32> =
            [0, 40, 60, 117, 118].iter().flat_map(|&spot| found.row(spot)).copied().collect();
        close(&rows, &expected, 1e-6);
        assert!((training.values["error"] - 1.3349818909540772).abs() < 1e-6);
        assert_eq!((training.values["spots_reached"], training.values["spots_not_in_graph"]), (78.0, 2.0));
    }
}

/// A classifier that takes `b` for `a` on the right half: labels there say so, and spots without follow.
#[test]
fn errors_of_neighbours_are_mended() {
    let mut given = given();
    given.probabilities = [0.6, 0.3, 0.1].repeat(120);
    let region = |i: usize| if i < 60 { "a" } else { "b" };
    let labelled = (0..118).filter(|i| i % 3 == 0).map(|i| (name(i), "A", region(i)));
    let bench = || bench().replace("predictions", &given).replace("train", &train_labels(labelled.clone()));
    let (found, training) = run(bench(), json!({}));
    let right = (0..118).filter(|&i| found.predicted(i) == region(i)).count();
    assert!(right >= 112, "{right} of 118");
    assert!(training.values["spots_changed"] > 30.0 && training.values["train_accuracy_before"] < 0.6);
    assert_eq!(found.row(119), given.row(119), "what is in no graph stays");
    let (same, _) = run(bench(), json!({ "correct_alpha": 0, "smooth_alpha": 0 }));
    assert!(
        (0..118).filter(|i| i % 3 != 0).all(|i| same.row(i) == given.row(i)),
        "switched off, it is what it was"
    );
    assert!((0..118).filter(|i| i % 3 == 0).all(|i| same.predicted(i) == region(i)));
}

/// Two sections, of which the second has no label: what it has is smoothed, not corrected.
#[test]
fn a_section_without_labels_is_not_corrected() {
    let whole = graph();
    let rows = (0..118).map(|row| {
        whole
            .edges
            .entries(row)
            .filter(|(other, _)| (*other < 60) == (row < 60))
            .map(|(o, w)| (o as i32, w))
            .collect()
    });
    let graph = Graph { edges: Csr::from_rows(118, rows.collect::<Vec<Vec<_>>>()), ..graph() };
    let (found, training) = run(bench().replace("graph", &graph), json!({ "tolerance": 1e-12 }));
    let counts =
        ["spots_reached", "spots_not_reached", "spots_not_in_graph"].map(|name| training.values[name]);
    assert_eq!(counts, [20.0, 60.0, 2.0]);
    let (smoothed, _) =
        run(bench().replace("graph", &graph), json!({ "correct_alpha": 0, "tolerance": 1e-12 }));
    let same =
        |spot: usize| found.row(spot).iter().zip(smoothed.row(spot)).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!((60..120).all(same));
    assert!(!(40..60).any(same));
}

#[test]
fn regions_that_only_labels_have_are_added() {
    let new = (0..40).map(|i| (name(i), "A", ["a", "Z"][i % 2]));
    let (found, _) = run(bench().replace("train", &train_labels(new)), json!({}));
    assert_eq!(found.classes, ["Z", "a", "b", "c"]);
    assert_eq!(found.predicted(1), "Z");
    assert!((0..120).all(|i| (found.row(i).iter().sum::<f32>() - 1.0).abs() < 1e-6));
}

#[test]
fn features_make_a_graph_too_and_threads_change_no_byte() {
    let features =
        embedding((0..120).map(|i| (name(i), vec![(i as f32 * 0.3).sin(), (i as f32 * 0.7).cos()])));
    let with = |threads: usize| {
        let bench = bench().without("graph").input("features", &features);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(bench, json!({ "k": 5 })))
    };
    let (found, training) = with(1);
    assert_eq!(training.values["spots_not_in_graph"], 0.0);
    assert_eq!(found.probabilities, with(2).0.probabilities);
}

#[test]
fn what_cannot_be_corrected_is_said() {
    let refused = |bench: Bench| bench.run::<CorrectAndSmooth>(json!({})).err().unwrap().to_string();
    assert!(refused(bench().without("graph")).starts_with("connect either `graph` or `features`"));
    let both = bench().input("features", &embedding([(name(0), vec![1.0])]));
    assert!(refused(both).starts_with("connect either `graph` or `features`"));
    let apart = Graph { spots: vec!["X".into()], edges: Csr::from_rows(1, [vec![]]) };
    let error = refused(bench().replace("graph", &apart));
    assert_eq!(error, "no spot of `predictions` is in `graph`: make both of the same sections");
    let error = refused(bench().replace("train", &train_labels([("X", "A", "a"), ("Y", "A", "b")])));
    assert!(error.starts_with("no training spot is in `predictions`"), "{error}");
    let mut wrong = given();
    wrong.probabilities[4] = -0.1;
    let error = refused(bench().replace("predictions", &wrong));
    assert_eq!(error, "`predictions` give spot `S_1` a probability of -0.1: it should be from 0 to 1");
    wrong.probabilities[3..6].fill(0.0);
    let error = refused(bench().replace("predictions", &wrong));
    assert_eq!(error, "`predictions` give spot `S_1` no region: its probabilities are 0");
    for (params, expected) in [
        (json!({ "correct_alpha": 1 }), "`correct_alpha` is 1: it must be from 0 to below 1"),
        (json!({ "smooth_alpha": -0.5 }), "`smooth_alpha` is -0.5: it must be from 0 to below 1"),
        (json!({ "scale": 0 }), "`scale` is 0: it must be a number above 0"),
        (json!({ "k": 0 }), "`k` is 0: it must be 1 or more"),
        (json!({ "tolerance": 0 }), "`tolerance` is 0: it must be a number above 0"),
    ] {
        let params: Params = serde_json::from_value(params).unwrap();
        assert_eq!(CorrectAndSmooth::validate(&params).unwrap_err().to_string(), expected);
    }
    let error = serde_json::from_value::<Params>(json!({ "scale": "large" })).unwrap_err().to_string();
    assert!(error.contains("a number above 0, or `auto`"), "{error}");
}
