//! Edges of published sections, exactly as the field's methods have them; and what holds for any points.

use proptest::prelude::*;
use restage_stage::artifact::{Categorical, Column, Frame, Role};
use serde_json::json;

use super::*;
use crate::{golden, load::positions};

/// The spots under tissue of a cortex slice, which has no counts.
fn slice(name: &str) -> Option<Table> {
    let spatial = golden::shared(&format!("data/dlpfc/{name}/spatial"))?;
    let positions = positions::read(&spatial).unwrap();
    let mut barcodes: Vec<String> = positions.under_tissue().map(str::to_owned).collect();
    barcodes.sort_unstable();
    let spots = positions.in_order_of(&barcodes).unwrap();
    let mut table = points(spots.iter().map(|spot| [spot.pxl_col, spot.pxl_row]).collect());
    table.obs.push("array_row", Column::Int(spots.iter().map(|spot| spot.array_row).collect()));
    table.obs.push("array_col", Column::Int(spots.iter().map(|spot| spot.array_col).collect()));
    Some(table)
}

fn points(spatial: Vec<[f64; 2]>) -> Table {
    let n = spatial.len();
    let mut obs = Frame { index: (0..n).map(|spot| format!("s_{spot}")).collect(), ..Frame::default() };
    obs.push("section", Column::Categorical(Categorical::encode((0..n).map(|_| Some("s")))));
    Table { x: Csr::from_rows(0, vec![Vec::new(); n]), obs, spatial, ..Table::default() }
}

fn params(params: serde_json::Value) -> Params {
    let params: Params = serde_json::from_value(params).unwrap();
    MakeGraph::validate(&params).unwrap();
    params
}

fn graph(table: &Table, with: serde_json::Value) -> Csr {
    edges(table, None, &params(with)).unwrap().0
}

/// Research, §5.3: what STAGATE's, SEDR's and GraphST's published notebooks print.
#[test]
fn published_sections_have_the_published_edges() {
    let (Some(a), Some(b)) = (slice("151673"), slice("151676")) else { return };
    assert_eq!((a.n_spots(), b.n_spots()), (3639, 3460));
    for (table, edges, per_spot) in [(&a, 21_124, 5.8049), (&b, 20_052, 5.7954)] {
        let by_radius = graph(table, json!({"kind": "radius", "radius": 150.0}));
        assert_eq!(by_radius.data.len(), edges);
        assert!((edges as f64 / table.n_spots() as f64 - per_spot).abs() < 5e-5);
        assert!(graph(table, json!({})) == by_radius);
    }
    let sedr = graph(&a, json!({"kind": "knn", "k": 12, "self_loops": true}));
    assert_eq!(sedr.data.len(), 48_471);
    let (n, sum) = (3639.0_f64, 48_471.0);
    assert_eq!(n * n / ((n * n - sum) * 2.0), 0.501_836_878_545_686);
    // Of a lattice's equally near neighbours, three are chosen: by the spots' order here and with NumPy's stable sort.
    // GraphST prints 12,776, what NumPy's unstable default makes of the same distances; scikit-learn makes 12,808.
    assert_eq!(graph(&a, json!({"kind": "knn", "k": 3})).data.len(), 12_836);
}

#[test]
fn a_radius_that_reaches_nobody_is_told() {
    let table = points(vec![[0.0, 0.0], [30.0, 40.0], [0.0, 100.0]]);
    let told = |radius: f64| {
        let params = params(json!({"kind": "radius", "radius": radius}));
        without_edges(&table, &edges(&table, None, &params).unwrap().0, &params)
    };
    let problem = told(49.0).unwrap();
    assert!(problem.contains("within radius: 49; the nearest two are 50.0 pixels"), "{problem}");
    assert_eq!(told(50.0), None);
}

#[test]
fn two_rings_hold_eighteen_places() {
    let Some(table) = slice("151673") else { return };
    let two = graph(&table, json!({"rings": 2}));
    let most = two.indptr.windows(2).map(|ends| ends[1] - ends[0]).max();
    assert_eq!(most, Some(18));
}

#[test]
fn neighbours_on_the_wrong_array_are_refused() {
    let on = |places: &[(i64, i64)]| {
        let mut table = points(places.iter().map(|&(r, c)| [c as f64, r as f64]).collect());
        table.obs.push("array_row", Column::Int(places.iter().map(|place| place.0).collect()));
        table.obs.push("array_col", Column::Int(places.iter().map(|place| place.1).collect()));
        table
    };
    let problem = |table: &Table, kind: &str| match edges(table, None, &params(json!({ "kind": kind }))) {
        Ok((edges, _)) => format!("{} edges", edges.data.len()),
        Err(problem) => problem.to_string(),
    };
    let square = on(&[(0, 0), (0, 1), (1, 0), (1, 1)]);
    assert_eq!(problem(&square, "grid"), "8 edges");
    assert!(
        problem(&square, "hex").ends_with("for a square one take `kind: grid`"),
        "{}",
        problem(&square, "hex")
    );
    let hexagonal = on(&[(0, 1), (0, 3), (1, 2), (1, 4)]);
    assert_eq!(problem(&hexagonal, "hex"), "10 edges");
    assert!(problem(&hexagonal, "grid").ends_with("take `kind: hex`"), "{}", problem(&hexagonal, "grid"));
}

#[test]
fn weights_are_what_their_names_say() {
    let square = || points(vec![[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.1]]);
    let with =
        |normalise: &str| graph(&square(), json!({"kind": "radius", "radius": 1.05, "normalise": normalise}));
    let dense = |graph: &Csr, row| {
        let mut dense = vec![0.0; 4];
        graph.dense_row(row, &mut dense);
        dense
    };
    // 0 - 1, 0 - 2, 2 - 3: degrees 2, 1, 2, 1.
    assert_eq!(dense(&with("none"), 0), [0.0, 1.0, 1.0, 0.0]);
    assert_eq!(dense(&with("row"), 0), [0.0, 0.5, 0.5, 0.0]);
    let half = 0.5_f32.sqrt();
    assert_eq!(dense(&with("sym_plus_self"), 0), [1.0, half, 0.5, 0.0]);
    let expected = [1.0 / 3.0, (1.0_f32 / 6.0).sqrt(), 1.0 / 3.0, 0.0];
    for (found, wanted) in dense(&with("sym_of_self_loops"), 0).iter().zip(expected) {
        assert!((found - wanted).abs() < 1e-7);
    }
    let gaussian = dense(&with("gaussian"), 0);
    assert!((gaussian[1] - (-0.5_f32).exp()).abs() < 1e-6 && gaussian[3] == 0.0);
}

#[test]
fn no_edge_leaves_its_section_or_crosses_the_split() {
    let mut table = points(vec![[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]);
    let params = params(json!({"kind": "radius", "radius": 1.0}));
    let split = Split {
        spots: table.obs.index.clone(),
        roles: vec![Role::Train, Role::Train, Role::Test, Role::Test],
    };
    let (within, crossing) = edges(&table, Some(&split), &params).unwrap();
    assert_eq!((within.data.len(), crossing), (4, 2));
    let across = Params { within_split: false, ..params.clone() };
    assert_eq!(edges(&table, Some(&split), &across).unwrap().0.data.len(), 6);
    let sections = ["s", "t", "t", "t"].map(Some);
    table.obs.columns = vec![("section".into(), Column::Categorical(Categorical::encode(sections)))];
    assert_eq!(edges(&table, None, &params).unwrap().0.data.len(), 4);
}

#[test]
fn what_cannot_be_is_named() {
    let problem = |table: &Table, with| edges(table, None, &params(with)).unwrap_err().to_string();
    let line = points(vec![[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]);
    assert!(problem(&line, json!({"kind": "delaunay"})).contains("they lie on one line"));
    assert!(
        problem(&line, json!({"kind": "knn", "k": 3}))
            .contains("k: 3 neighbours are more than section s has")
    );
    assert!(problem(&line, json!({})).contains("no whole numbers `array_row`"));
    let lost = points(vec![[0.0, 0.0], [f64::NAN, 0.0]]);
    assert!(problem(&lost, json!({"kind": "radius", "radius": 1.0})).contains("spot s_1 has no coordinates"));
    let without: Params = serde_json::from_value(json!({"kind": "radius"})).unwrap();
    assert!(MakeGraph::validate(&without).unwrap_err().to_string().contains("needs `radius`"));
}

fn distance(table: &Table, a: usize, b: usize) -> f64 {
    let ([x, y], [u, v]) = (table.spatial[a], table.spatial[b]);
    (x - u).hypot(y - v)
}

proptest! {
    #[test]
    fn near_points_are_found_as_by_looking_at_all(
        places in proptest::collection::vec((0..40_i32, 0..40_i32), 8..60),
        radius in 0.5..30.0_f64,
        k in 1..7_usize,
    ) {
        let table = points(places.iter().map(|&(x, y)| [f64::from(x), f64::from(y) / 3.0]).collect());
        let n = table.n_spots();
        let found = graph(&table, json!({"kind": "radius", "radius": radius}));
        for spot in 0..n {
            let wanted: Vec<usize> =
                (0..n).filter(|&other| other != spot && distance(&table, spot, other) <= radius).collect();
            prop_assert_eq!(found.entries(spot).map(|(other, _)| other).collect::<Vec<_>>(), wanted);
        }
        let found = graph(&table, json!({"kind": "knn", "k": k, "symmetrise": false}));
        for spot in 0..n {
            let mut wanted: Vec<usize> = (0..n).filter(|&other| other != spot).collect();
            wanted.sort_by(|&a, &b| distance(&table, spot, a).total_cmp(&distance(&table, spot, b)).then(a.cmp(&b)));
            wanted.truncate(k);
            wanted.sort_unstable();
            prop_assert_eq!(found.entries(spot).map(|(other, _)| other).collect::<Vec<_>>(), wanted);
        }
    }

    #[test]
    fn a_symmetrised_graph_is_its_own_mirror(
        places in proptest::collection::btree_set((0..30_i32, 0..30_i32), 8..50),
        kind in prop::sample::select(vec!["knn", "radius", "delaunay"]),
    ) {
        let table = points(places.iter().map(|&(x, y)| [f64::from(x), f64::from(y) + f64::from(x % 3) / 7.0]).collect());
        let with = params(json!({"kind": kind, "radius": 6.0, "k": 4}));
        if let Ok((found, _)) = edges(&table, None, &with) {
            prop_assert!(found.transpose() == found);
            prop_assert!((0..found.n_rows()).all(|spot| found.entries(spot).all(|(other, _)| other != spot)));
        }
    }
}
