//! What should be true of clusters.

use restage_stage::artifact::Frame;
use serde_json::Value;

use super::*;
use crate::testing::{Bench, blobs, embedding, table};

fn features() -> Embedding {
    embedding(
        (0..90).map(|i| (format!("S_{i}"), blobs()[2 * i..2 * i + 2].iter().map(|&x| x as f32).collect())),
    )
}

fn run(bench: Bench, params: Value) -> Result<(Predictions, Metrics)> {
    let done = bench.run::<Cluster>(params)?;
    Ok((done.output("predictions"), done.output("summary")))
}

#[test]
fn each_method_finds_three_blobs() {
    for method in ["kmeans", "gmm", "leiden"] {
        let bench = Bench::new().input("features", &features());
        let (found, summary) = run(bench, json!({ "method": method, "n_clusters": 3, "k": 10 })).unwrap();
        assert_eq!(found.classes, ["1", "2", "3"]);
        let wrong = (0..90).filter(|&spot| found.predicted(spot) != found.predicted(spot % 3)).count();
        assert!(wrong <= 1, "{method}: {wrong}");
        assert_eq!((summary.values["clusters"], summary.values["spots"]), (3.0, 90.0));
    }
}

#[test]
fn threads_and_order_of_seeds_change_no_byte() {
    for method in ["kmeans", "gmm", "leiden"] {
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let bench = Bench::new().input("features", &features());
            pool.install(|| run(bench, json!({ "method": method, "n_clusters": 5, "k": 5 })).unwrap().0)
        };
        assert!(with(1) == with(2), "{method}");
    }
}

#[test]
fn the_largest_cluster_is_the_first() {
    let one = |size: usize, at: f32| (0..size).map(move |i| at + i as f32 / 100.0);
    let values = one(3, 50.0).chain(one(9, 0.0)).chain(one(5, 20.0)).enumerate();
    let features = embedding(values.map(|(i, x)| (format!("S_{i}"), vec![x])));
    let (found, _) = run(Bench::new().input("features", &features), json!({ "n_clusters": 3 })).unwrap();
    assert_eq!([found.predicted(0), found.predicted(3), found.predicted(12)], ["3", "1", "2"]);
}

#[test]
fn sections_are_clustered_alone() {
    let table = table(&[("A", "P"); 45].into_iter().chain([("B", "P"); 45]).collect::<Vec<_>>());
    let mut features = features();
    // In another order than the table.
    features.spots = table.obs.index.iter().rev().cloned().collect();
    let bench = Bench::new().input("features", &features).input("table", &table);
    let (found, summary) = run(bench, json!({ "n_clusters": 3, "per": "section" })).unwrap();
    assert_eq!(found.classes, ["A/1", "A/2", "A/3", "B/1", "B/2", "B/3"]);
    assert!(found.predicted(0).starts_with("B/") && found.predicted(89).starts_with("A/"));
    assert_eq!((summary.values["clusters"], summary.groups["A"]["clusters"]), (6.0, 3.0));
    let missing =
        run(Bench::new().input("features", &features), json!({ "n_clusters": 3, "per": "section" }));
    assert!(missing.unwrap_err().to_string().contains("connect `table`"));
    let other = Table { obs: Frame::default(), ..Table::default() };
    let bench = Bench::new().input("features", &features).input("table", &other);
    assert!(run(bench, json!({ "n_clusters": 3, "per": "section" })).is_err());
}

#[test]
fn smoothing_averages_along_the_graph() {
    // Pairs of an outlier and a point of its blob become one.
    let values = [0.0_f32, 9.0, 1.0, 10.0, 20.0, 29.0, 21.0, 30.0];
    let features = embedding(values.iter().enumerate().map(|(i, &x)| (format!("S_{i}"), vec![x])));
    let row = |i: i32| vec![(if i % 2 == 0 { i + 1 } else { i - 1 }, 1.0)];
    let graph = Graph { spots: features.spots.clone(), edges: Csr::from_rows(8, (0..8).map(row)) };
    let bench = Bench::new().input("features", &features).input("graph", &graph);
    let (found, summary) = run(bench, json!({ "n_clusters": 2, "smooth": 1 })).unwrap();
    assert!((0..4).all(|spot| found.predicted(spot) == found.predicted(0)));
    // Means 4.5, 4.5, 5.5, 5.5 and so on: 8 x 0.5².
    assert!((summary.values["inertia"] - 2.0).abs() < 1e-6, "{}", summary.values["inertia"]);
    let bare = run(Bench::new().input("features", &features), json!({ "n_clusters": 2, "smooth": 1 }));
    assert_eq!(bare.unwrap_err().to_string(), "`smooth` needs neighbours: connect `graph`");
}

#[test]
fn leiden_takes_the_graph_that_is_given() {
    let features = embedding((0..6).map(|i| (format!("S_{i}"), vec![0.0])));
    let near = [[1, 2], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4]];
    let rows = near.map(|row| row.map(|other| (other, 1.0)).to_vec());
    let graph = Graph { spots: features.spots.clone(), edges: Csr::from_rows(6, rows) };
    let bench = Bench::new().input("features", &features).input("graph", &graph);
    let (found, summary) = run(bench, json!({ "method": "leiden", "resolution": 1.0 })).unwrap();
    let clusters: Vec<&str> = (0..6).map(|spot| found.predicted(spot)).collect();
    assert_eq!(clusters, ["1", "1", "1", "2", "2", "2"]);
    assert_eq!(summary.values["modularity"], 0.5);
}

#[test]
fn only_the_first_dimensions_may_count() {
    let values = |i: usize| vec![(i / 5) as f32, (i % 5) as f32 * 100.0];
    let features = embedding((0..10).map(|i| (format!("S_{i}"), values(i))));
    let (found, _) =
        run(Bench::new().input("features", &features), json!({ "n_clusters": 2, "dims": 1 })).unwrap();
    assert!(
        (0..5).all(|spot| found.predicted(spot) == "1") && (5..10).all(|spot| found.predicted(spot) == "2")
    );
    let error = run(Bench::new().input("features", &features), json!({ "n_clusters": 2, "dims": 3 }));
    assert!(error.unwrap_err().to_string().starts_with("`dims` is 3, but a block of `features` has 2"));
}

#[test]
fn what_cannot_be_clustered_is_said() {
    let refused =
        |params: Value| run(Bench::new().input("features", &features()), params).err().unwrap().to_string();
    for (params, expected) in [
        (json!({}), "`n_clusters` is missing: say how many"),
        (json!({ "n_clusters": 91 }), "`n_clusters` is 91, but there are only 90 spots"),
        (json!({ "method": "leiden" }), "`method: leiden` needs `n_clusters`, or a `resolution`"),
        (
            json!({ "method": "leiden", "n_clusters": 3, "resolution": 1 }),
            "`n_clusters` and `resolution` contradict each other: give one of them",
        ),
        (json!({ "n_clusters": 3, "resolution": 1 }), "`resolution` is of `method: leiden` only"),
        (
            json!({ "method": "leiden", "n_clusters": 3, "k": 90 }),
            "`k` is 90, but there are only 90 spots: lower it below that",
        ),
        (json!({ "n_clusters": 0 }), "`n_clusters` is 0: it must be 1 or more"),
    ] {
        assert_eq!(refused(params), expected);
    }
    let graph = Graph { spots: vec!["X".into()], edges: Csr::from_rows(1, [vec![]]) };
    let bench = Bench::new().input("features", &features()).input("graph", &graph);
    let error = run(bench, json!({ "n_clusters": 3, "smooth": 1 })).unwrap_err().to_string();
    assert!(error.starts_with("spot `S_0` of `features` is not in `graph`"), "{error}");
}
