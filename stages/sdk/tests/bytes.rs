//! The same artifact gives the same files, on any number of threads; a chunk is read as another reader would.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; clippy does not see that helpers are test code"
)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use restage_stage::artifact::{Artifact, Categorical, Column, Csr, Frame, Metrics, Patches, Table};

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(inside, bytes)| (path.join(inside), bytes)));
        } else {
            found.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
    found.into_iter().map(|(path, bytes)| (path.strip_prefix(folder).unwrap().to_owned(), bytes)).collect()
}

fn written<A: Artifact + Sync>(artifact: &A, threads: usize) -> BTreeMap<PathBuf, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| artifact.write(folder.path())).unwrap();
    files(folder.path())
}

/// 24 MiB of pixels that do not all compress alike: many chunks of many lengths.
fn patches() -> Patches {
    let pixel = |byte: u32| (byte.wrapping_mul(2_654_435_761) >> (8 + byte % (1 + byte / 1_000_000))) as u8;
    Patches {
        spots: (0..2048).map(|spot| format!("A1_{spot}")).collect(),
        size: 64,
        pixels: (0..2048 * 64 * 64 * 3).map(pixel).collect(),
    }
}

#[test]
fn threads_do_not_change_a_byte() {
    let patches = patches();
    let one = written(&patches, 1);
    assert!(one == written(&patches, 4));
    assert!(one == written(&patches, 4));
}

#[test]
fn an_artifact_is_few_files_and_names_no_version_of_a_library() {
    let files = written(&patches(), 2);
    let names: Vec<_> = files.keys().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(names, ["pixels/c/0/0/0/0", "pixels/zarr.json", "spots/c/0", "spots/zarr.json", "zarr.json"]);
    let pixels = String::from_utf8(files[Path::new("pixels/zarr.json")].clone()).unwrap();
    assert!(pixels.contains("sharding_indexed") && !pixels.contains("zarrs"), "{pixels}");
}

#[test]
fn sharded_patches_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let patches = patches();
    patches.write(folder.path()).unwrap();
    assert!(Patches::read(folder.path()).unwrap() == patches);
}

fn column(rows: usize) -> impl Strategy<Value = Column> {
    let category = prop::option::of(prop::sample::select(vec!["a", "b", "ü", ""]));
    prop_oneof![
        prop::collection::vec(".*", rows).prop_map(Column::Text),
        prop::collection::vec(category, rows)
            .prop_map(|values| Column::Categorical(Categorical::encode(values))),
        prop::collection::vec(-1e300..1e300, rows).prop_map(Column::Float),
        prop::collection::vec(any::<i64>(), rows).prop_map(Column::Int),
        prop::collection::vec(any::<bool>(), rows).prop_map(Column::Bool),
    ]
}

/// Any sparse matrix of the size, zeros stored too.
fn matrix(rows: usize, cols: usize) -> impl Strategy<Value = Csr> {
    let row = prop::collection::btree_map(0..cols.max(1) as i32, -1e30_f32..1e30, 0..=cols);
    prop::collection::vec(row, rows).prop_map(move |rows| {
        let stored = |row: BTreeMap<i32, f32>| if cols == 0 { Vec::new() } else { row.into_iter().collect() };
        Csr::from_rows(cols, rows.into_iter().map(stored))
    })
}

fn table() -> impl Strategy<Value = Table> {
    (0..8_usize, 0..6_usize).prop_flat_map(|(spots, genes)| {
        let frame = |rows: usize, columns: usize| {
            prop::collection::btree_map("[a-zä_ ][a-z0-9 ]{0,7}", column(rows), 0..=columns).prop_map(
                move |columns| {
                    let columns = columns.into_iter().filter(|(name, _)| name != "_index").collect();
                    Frame { index: (0..rows).map(|row| format!("row {row}")).collect(), columns }
                },
            )
        };
        let spatial = prop::collection::vec(prop::array::uniform2(-1e6..1e6), spots);
        (matrix(spots, genes), frame(spots, 4), frame(genes, 2), spatial)
            .prop_map(|(x, obs, var, spatial)| Table { x, obs, var, spatial, libraries: BTreeMap::new() })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_table_comes_back(table in table()) {
        let folder = tempfile::tempdir().unwrap();
        table.write(folder.path()).unwrap();
        prop_assert_eq!(Table::read(folder.path()).unwrap(), table);
    }

    #[test]
    fn any_number_comes_back_to_the_last_bit(values in prop::collection::btree_map("[a-z]{1,8}", -1e9_f64..1e9, 0..20)) {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Metrics { values, ..Metrics::default() };
        metrics.write(folder.path()).unwrap();
        prop_assert_eq!(Metrics::read(folder.path()).unwrap(), metrics);
    }

    #[test]
    fn selecting_columns_is_selecting_them_densely(matrix in matrix(5, 7), cols in Just((0..7).collect::<Vec<usize>>()).prop_shuffle()) {
        let cols = &cols[..4];
        let selected = matrix.select_cols(cols);
        let (mut whole, mut part) = ([0.0; 7], [0.0; 4]);
        for row in 0..5 {
            matrix.dense_row(row, &mut whole);
            selected.dense_row(row, &mut part);
            prop_assert_eq!(part.to_vec(), cols.iter().map(|&col| whole[col]).collect::<Vec<_>>());
        }
    }
}
