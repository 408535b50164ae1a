//! Every artifact comes back from disk as it was written, and what contradicts itself is refused.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; clippy does not see that helpers are test code"
)]

use std::{collections::BTreeMap, path::Path};

use restage_stage::artifact::{
    Artifact, Categorical, Column, Csr, Embedding, Frame, Graph, Image, Labels, Library, Metrics, Model,
    Patches, Predictions, Role, ScaleFactors, Split, Table, TestLabels, TrainLabels, Weight,
};
use serde_json::json;

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|spot| format!("A1_{spot}x{spot}")).collect()
}

fn back<A: Artifact>(artifact: &A) -> A {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("artifact");
    artifact.write(&path).unwrap();
    A::read(&path).unwrap()
}

fn refused<A: Artifact>(artifact: &A) -> String {
    let folder = tempfile::tempdir().unwrap();
    artifact.write(&folder.path().join("artifact")).unwrap_err().chain().join(": ")
}

fn image(height: usize, width: usize) -> Image {
    Image {
        section: "Ä 1".into(),
        height,
        width,
        pixels: (0..height * width * 3).map(|byte| (byte % 251) as u8).collect(),
        scale: 0.287_604_256_542_996_8,
        spot_diameter_fullres: 109.109_732_494_402_31,
    }
}

fn table() -> Table {
    let texts = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect::<Vec<_>>();
    let obs = Frame {
        index: ids(3),
        columns: vec![
            ("barcode".into(), Column::Text(texts(&["0x0", "µ", ""]))),
            ("section".into(), Column::Categorical(Categorical::encode([Some("A1"); 3]))),
            ("patient".into(), Column::Categorical(Categorical::encode([Some("Zoë"), None, Some("A")]))),
            ("in_tissue".into(), Column::Int(vec![1, 0, i64::MIN])),
            ("depth".into(), Column::Float(vec![0.1, f64::INFINITY, -0.0])),
            ("kept".into(), Column::Bool(vec![true, false, true])),
        ],
    };
    let hires = image(4, 5);
    let scale_factors = ScaleFactors {
        tissue_hires_scalef: Some(hires.scale),
        tissue_lowres_scalef: None,
        spot_diameter_fullres: hires.spot_diameter_fullres,
        fiducial_diameter_fullres: Some(0.1 + 0.2),
        others: BTreeMap::from([("microns_per_pixel".into(), 0.273_761_267_153_152_74)]),
    };
    let with_image = Library { images: BTreeMap::from([("hires".into(), hires)]), scale_factors };
    let without = Library { scale_factors: ScaleFactors::default(), ..Library::default() };
    Table {
        x: Csr::from_rows(2, [vec![(1, 2.5), (0, 1.0)], vec![], vec![(1, -3.0)]]),
        obs,
        var: Frame {
            index: texts(&["GENE", "GENE-1"]),
            columns: vec![("gene_ids".into(), Column::Text(ids(2)))],
        },
        spatial: vec![[1.0, 2.0], [0.1, 0.2], [-3.0, 1e9]],
        libraries: BTreeMap::from([("Ä 1".into(), with_image), ("B1".into(), without)]),
    }
}

fn labels() -> Labels {
    Labels {
        spots: ids(3),
        sections: vec!["A1".into(), "A1".into(), "B1".into()],
        patients: vec!["A".into(), "A".into(), "B".into()],
        regions: vec![Some("tumour".into()), None, Some("fat".into())],
    }
}

#[test]
fn a_table_comes_back() {
    assert_eq!(back(&table()), table());
}

#[test]
fn an_empty_table_comes_back() {
    assert_eq!(back(&Table::default()), Table::default());
    let no_spots = table().select_spots(&[]);
    assert_eq!(back(&no_spots), no_spots);
    let no_genes = table().select_genes(&[]);
    assert_eq!(back(&no_genes), no_genes);
}

#[test]
fn labels_come_back_in_their_three_types() {
    assert_eq!(back(&labels()), labels());
    assert_eq!(back(&TrainLabels(labels())), TrainLabels(labels()));
    assert_eq!(back(&TestLabels(Labels::default())), TestLabels(Labels::default()));
}

#[test]
fn an_embedding_comes_back() {
    let embedding =
        Embedding { spots: ids(2), dims: 3, values: vec![0.0, 1.0, f32::MIN_POSITIVE, -1.5, 2.0, 3.0] };
    assert_eq!(back(&embedding), embedding);
    assert_eq!(back(&Embedding::default()), Embedding::default());
}

#[test]
fn images_and_patches_come_back() {
    assert_eq!(back(&image(7, 3)), image(7, 3));
    let none = Image { height: 0, width: 0, pixels: Vec::new(), ..image(1, 1) };
    assert_eq!(back(&none), none);
    let patches = Patches { spots: ids(5), size: 4, pixels: (0..240).collect() };
    assert_eq!(back(&patches), patches);
    let none = Patches { size: 4, ..Patches::default() };
    assert_eq!(back(&none), none);
}

#[test]
fn an_image_of_several_chunks_comes_back() {
    assert_eq!(back(&image(1201, 1300)), image(1201, 1300));
}

#[test]
fn a_model_comes_back() {
    let weights = [
        ("encoder.0.weight", Weight { shape: vec![2, 3], values: vec![0.1; 6] }),
        ("encoder.0.bias", Weight { shape: vec![0], values: vec![] }),
        ("temperature", Weight { shape: vec![], values: vec![0.07] }),
    ];
    let model = Model {
        architecture: json!({"kind": "mlp", "hidden": [256, 128], "nested": {"ä": null, "rate": 0.5}}),
        weights: weights.into_iter().map(|(name, weight)| (name.to_owned(), weight)).collect(),
    };
    assert_eq!(back(&model), model);
}

#[test]
fn metrics_come_back_and_are_json_in_the_root() {
    let values = BTreeMap::from([("macro_f1".to_owned(), 0.5), ("auc".to_owned(), f64::NAN)]);
    let metrics = Metrics {
        groups: BTreeMap::from([("A".to_owned(), BTreeMap::from([("macro_f1".to_owned(), 0.25)]))]),
        curves: BTreeMap::from([("loss".to_owned(), vec![3.0, 2.0, f64::NAN])]),
        details: json!({"classes": ["a", "b"]}),
        values,
    };
    let folder = tempfile::tempdir().unwrap();
    metrics.write(folder.path()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("zarr.json")).unwrap();
    let root: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(root["attributes"]["metrics"], json!({"auc": null, "macro_f1": 0.5}));

    let read = Metrics::read(folder.path()).unwrap();
    assert!(read.values["auc"].is_nan() && read.curves["loss"][2].is_nan());
    assert_eq!(
        (read.values["macro_f1"], &read.groups, &read.details),
        (0.5, &metrics.groups, &metrics.details)
    );
    assert_eq!(read.curves["loss"][..2], [3.0, 2.0]);
}

#[test]
fn predictions_and_splits_come_back() {
    let classes = vec!["fat".into(), "tumour".into()];
    let predictions = Predictions { spots: ids(2), classes, probabilities: vec![0.5, 0.5, 0.1, 0.9] };
    assert_eq!(back(&predictions), predictions);
    assert_eq!((predictions.predicted(0), predictions.predicted(1)), ("fat", "tumour"));
    let split = Split { spots: ids(3), roles: vec![Role::Train, Role::Test, Role::Train] };
    assert_eq!(back(&split), split);
    assert_eq!(split.train(), ["A1_0x0", "A1_2x2"].into());
}

#[test]
fn what_contradicts_itself_is_refused() {
    let mut twice = table();
    twice.obs.index[2] = "A1_0x0".into();
    assert!(refused(&twice).contains("`A1_0x0` comes twice"));
    let mut short = table();
    short.spatial.pop();
    assert!(refused(&short).contains("2 coordinates"));
    let mut unsorted = table();
    unsorted.x.indices.swap(0, 1);
    assert!(refused(&unsorted).contains("row 0"));
    let mut column = table();
    column.obs.push("x", Column::Bool(vec![true]));
    assert!(refused(&column).contains("column `x` has 1 values for 3 rows"));
    let mut slash = table();
    slash.obs.push("a/b", Column::Bool(vec![true; 3]));
    assert!(refused(&slash).contains("`a/b`"));
    assert!(refused(&Patches { spots: ids(2), size: 2, pixels: vec![0; 12] }).contains("12 bytes"));
    assert!(refused(&Embedding { spots: ids(2), dims: 2, values: vec![0.0; 3] }).contains("3 values"));
    assert!(refused(&Image { height: 2, ..image(1, 1) }).contains("3 bytes"));
}

fn error_of<A: Artifact>(path: &Path) -> String {
    A::read(path).err().unwrap().chain().join(": ")
}

#[test]
fn an_artifact_is_not_written_over_another() {
    let folder = tempfile::tempdir().unwrap();
    labels().write(folder.path()).unwrap();
    assert!(table().write(folder.path()).unwrap_err().to_string().contains("exists already"));
}

#[test]
fn what_is_something_else_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("artifact");
    assert!(error_of::<Table>(&path).contains("artifact"));
    labels().write(&path).unwrap();
    assert!(error_of::<Table>(&path).contains("encoded as `dataframe`; expected `anndata`"));
    assert!(error_of::<Patches>(&path).contains("lacks the attribute `size`"));
    assert!(error_of::<Predictions>(&path).contains("/spots"));
    let path = folder.path().join("table");
    table().write(&path).unwrap();
    assert!(error_of::<Embedding>(&path).contains("/X"));
    std::fs::remove_dir_all(path.join("var/gene_ids")).unwrap();
    assert!(error_of::<Table>(&path).contains("gene_ids"));
}

/// The page's code of each kind, and whether it writes one.
fn snippets() -> Vec<(bool, String, String)> {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../workflows/artifacts.md"));
    let page = page.unwrap();
    let mut all = Vec::new();
    for block in page.split("```python ").skip(1) {
        let (kinds, code) = block.split_once('\n').unwrap();
        let code = code.split("```").next().unwrap();
        let kinds: Vec<&str> = kinds.split(' ').collect();
        let writes = kinds[0] == "write";
        all.extend(
            kinds[usize::from(writes)..].iter().map(|kind| (writes, (*kind).to_owned(), code.to_owned())),
        );
    }
    all
}

/// What `workflows/artifacts.md` tells people to type is what opens each type, and what writes one that is read.
#[test]
fn python_opens_and_writes_each_as_the_page_says() {
    let Some(python) = std::env::var_os("RESTAGE_PYTHON") else {
        println!("skipped: no Python with anndata (set RESTAGE_PYTHON)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let texts = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect::<Vec<_>>();
    let classes = texts(&["fat", "tumour"]);
    let predictions = Predictions { spots: ids(2), classes, probabilities: vec![0.5, 0.5, 0.1, 0.9] };
    let metrics = Metrics {
        values: BTreeMap::from([("macro_f1".into(), 0.5)]),
        groups: BTreeMap::from([("A".into(), BTreeMap::from([("macro_f1".into(), 0.25)]))]),
        curves: BTreeMap::from([("loss".into(), vec![1.0, 0.5])]),
        details: json!({"setting": "inductive"}),
    };
    let weight = Weight { shape: vec![1, 2], values: vec![1.0, 2.0] };
    let model = Model {
        architecture: json!({"widths": [2, 1]}),
        weights: BTreeMap::from([("encoder.0.weight".into(), weight)]),
    };
    let patches = Patches { spots: ids(5), size: 4, pixels: (0..240).collect() };
    let edges = Csr::from_rows(2, [vec![(1, 0.5)], vec![(0, 1.0)]]);
    table().write(&at("table")).unwrap();
    image(4, 5).write(&at("image")).unwrap();
    labels().write(&at("labels")).unwrap();
    Split { spots: ids(2), roles: vec![Role::Train, Role::Test] }.write(&at("split")).unwrap();
    predictions.write(&at("predictions")).unwrap();
    metrics.write(&at("metrics")).unwrap();
    model.write(&at("model")).unwrap();
    patches.write(&at("patches")).unwrap();
    Embedding { spots: ids(2), dims: 1, values: vec![0.0, 1.0] }.write(&at("embedding")).unwrap();
    Graph { spots: ids(2), edges }.write(&at("graph")).unwrap();

    // One Python for all: most of it is imports.
    let mut program = String::new();
    for (writes, kind, code) in snippets() {
        let path = at(&if writes { format!("written-{kind}") } else { kind });
        program += &format!("path = {path:?}\n{code}\n");
    }
    program += &format!("import scipy.sparse as sp\npath = {:?}\n{MATRICES}", folder.path());
    let ended = std::process::Command::new(python).args(["-c", &program]).output().unwrap();
    assert!(ended.status.success(), "{program}\n{}", String::from_utf8_lossy(&ended.stderr));

    let x = Csr::from_rows(3, [vec![(0, 1.0), (2, 2.0)], vec![(1, 3.0)]]);
    let written = Table::read(&at("written-table")).unwrap();
    assert_eq!((&written.x, &written.obs.index[..]), (&x, &["A1_0".to_owned(), "A1_1".into()][..]));
    assert_eq!((written.section(1), written.patient(0)), (Some("A1"), Some("A")));
    assert_eq!(written.spatial, [[10.0, 20.0], [30.0, 40.0]]);
    for encoding in ["csr", "csc", "whole"] {
        assert_eq!(Table::read(&at(encoding)).unwrap().x, x, "{encoding}");
    }
    let nowhere = Table::read(&at("nowhere")).unwrap_err().to_string();
    assert!(nowhere.contains("lacks `spatial`: where each spot is"), "{nowhere}");
    let written = Embedding::read(&at("written-embedding")).unwrap();
    assert_eq!((written.dims, &written.values[..]), (2, &[0.5, 1.0, 1.5, 2.0][..]));
    let sparse = Embedding::read(&at("csr")).unwrap_err().to_string();
    assert!(sparse.contains("is sparse") && sparse.contains("`X.toarray()`"), "{sparse}");
    let written = Predictions::read(&at("written-predictions")).unwrap();
    assert_eq!(
        (written.predicted(0), written.predicted(1), written.row(0)),
        ("tumour", "fat", &[0.25, 0.75][..])
    );
    assert_eq!(Metrics::read(&at("written-metrics")).unwrap().values["macro_f1"], 0.5);
    let written = Split::read(&at("written-split")).unwrap();
    assert_eq!(
        (written.spots, written.roles),
        (vec!["A1_0".into(), "B1_0".into()], vec![Role::Train, Role::Test])
    );
}

/// The page's table, of other matrices; scipy does not sort the columns of a row.
const MATRICES: &str = r#"
whole = np.array([[1, 0, 2], [0, 3, 0]])
unsorted = sp.csr_matrix((np.array([2.0, 1.0, 3.0]), np.array([2, 0, 1]), np.array([0, 2, 3])), shape=(2, 3))
for name, x in [("csr", unsorted), ("csc", sp.csc_matrix(whole.astype("float64"))), ("whole", whole), ("nowhere", whole)]:
    data = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=["a", "b", "c"]))
    if name != "nowhere":
        data.obsm["spatial"] = np.array([[10, 20], [30, 40]])
    data.write_zarr(path + "/" + name)
"#;
