//! The shipped workflows run, and are honest; Python opens their tables.

#![expect(clippy::expect_used, clippy::panic, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::path::Path;

use harness::{Sandbox, checkout, shared};
use serde_json::Value;

fn shipped(name: &str) -> String {
    checkout().join("workflows").join(name).display().to_string()
}

fn row<'a>(result: &'a Value, variant: &str) -> &'a Value {
    let rows = result["table"]["rows"].as_array().expect("rows");
    rows.iter()
        .find(|row| row["variant"] == variant)
        .unwrap_or_else(|| panic!("no variant {variant}: {result}"))
}

fn mean(result: &Value, variant: &str, metric: usize) -> f64 {
    row(result, variant)["values"][metric]["mean"].as_f64().unwrap_or_else(|| panic!("{result}"))
}

/// The simulated regions need both modalities; the table must show it.
#[test]
fn the_quickstart_shows_that_both_modalities_are_needed() {
    let sandbox = Sandbox::new();
    let quickstart = shipped("quickstart.yaml");
    let arguments = ["run", "--json", &quickstart, "--seeds", "0"];
    let result = sandbox.json(&arguments);
    let [both, image, expression] =
        ["baseline", "image only", "expression only"].map(|variant| mean(&result, variant, 0));
    assert!(both > image + 0.1 && both > expression + 0.1, "{both} {image} {expression}");
    // Four regions: chance is a quarter.
    assert!(image > 0.3 && expression > 0.3, "{image} {expression}");
    assert_eq!(sandbox.json(&arguments)["ran"], 0);
    open_in_python(&sandbox, &quickstart);
}

/// What is not as it was meant to be, and no mistake.
#[test]
fn what_stages_repair_and_doubt_is_in_their_logs() {
    let sandbox = Sandbox::new();
    for folder in ["outs/filtered_feature_bc_matrix", "outs/spatial"] {
        std::fs::create_dir_all(sandbox.path(folder)).expect("the sandbox takes folders");
    }
    let matrix = "%%MatrixMarket matrix coordinate integer general\n3 2 4\n1 1 5\n2 1 5\n1 2 5\n2 2 5\n";
    for (name, text) in [
        ("matrix.mtx", matrix),
        ("features.tsv", "g1\tA\tGene Expression\ng2\tA\tGene Expression\nab\tCD3\tAntibody Capture\n"),
        ("barcodes.tsv", "AAA-1\nCCC-1\n"),
    ] {
        sandbox.write(&format!("outs/filtered_feature_bc_matrix/{name}"), text);
    }
    sandbox.write("outs/spatial/tissue_positions_list.csv", "AAA-1,1,0,0,5,5\nCCC-1,1,0,2,5,9\n");
    sandbox.write("outs/spatial/scalefactors_json.json", r#"{"spot_diameter_fullres": 4.0}"#);
    let workflow = "
stages:
  read: { uses: visium/load, with: { path: outs, section: S } }
  components: { uses: visium/pca, in: { table: read.table }, with: { n_components: 1 } }
  large: { uses: visium/simulate, with: { section: L, rows: 24, cols: 24, genes: 100 } }
  small: { uses: visium/simulate, with: { section: L, rows: 6, cols: 6, genes: 100 } }
  patches: { uses: visium/patches, in: { images: small.image, table: large.table }, with: { size: 16 } }
";
    sandbox.workflow_of("w.yaml", &["stages/visium"], workflow);
    let run = sandbox.run(&["run", "w.yaml"]);
    assert_eq!(run.code(), Some(0), "{}", run.all());
    let logs = |stage: &str| sandbox.run(&["logs", "w.yaml", stage]).all();
    for told in [
        "1 of 3 features are left out",
        "names of genes that come again get a number: 1, the first `A`, now `A-1`",
    ] {
        assert!(logs("read").contains(told), "{}", logs("read"));
    }
    assert!(logs("components").contains("1 components hold 0.0 % of the variance"), "{}", logs("components"));
    assert!(logs("patches").contains("spots lie outside their image"), "{}", logs("patches"));
}

/// Every kind of sweep in one file, one more file imported, and a baseline that is chosen.
#[test]
fn the_tour_of_the_language_runs() {
    let sandbox = Sandbox::new();
    let tour = shipped("tour.yaml");
    let result = sandbox.json(&["run", "--json", &tour]);
    let rows = result["table"]["rows"].as_array().expect("rows");
    // As written, four ablations, a grid of four without one, a zip of two, three draws.
    assert_eq!(rows.len(), 1 + 4 + (4 - 1) + 2 + 3);
    assert!(row(&result, "more genes")["difference"].is_null(), "it is what the others are compared with");
    assert!(row(&result, "as written")["difference"].is_number());
    let grid = mean(&result, "components.n_components = 20, params.genes = 400", 0);
    assert!(grid > 0.25, "four regions: chance is a quarter, and it gives {grid}");
    assert_eq!(sandbox.json(&["run", "--json", &tour])["ran"], 0);
    assert_eq!(
        settings(&sandbox, &tour),
        ["inductive"],
        "everything is fitted on the split's training spots"
    );
    open_in_python(&sandbox, &tour);
    // What is fitted on the test patient too says so, three stages later.
    sandbox.json(&["run", "--json", &tour, "--only", "as written", "--set", "counts.fit_on=all"]);
    assert_eq!(settings(&sandbox, &tour), ["transductive"]);
}

/// What the evaluations of the last run call themselves, each word once.
fn settings(sandbox: &Sandbox, workflow: &str) -> Vec<String> {
    let list = sandbox.json(&["show", "--json", "--all", workflow, "evaluate"]);
    let of = |artifact: &Value| {
        let path = Path::new(artifact["path"].as_str().expect("a path")).join("zarr.json");
        let root: Value = serde_json::from_slice(&std::fs::read(path).expect("a group")).expect("JSON");
        root["attributes"]["details"]["setting"].as_str().expect("a setting").to_owned()
    };
    let all: std::collections::BTreeSet<String> =
        list.as_array().expect("artifacts").iter().map(of).collect();
    all.into_iter().collect()
}

/// The worked example of a stage in Python, between stages in Rust.
#[test]
fn a_python_script_reads_a_table_and_writes_one_that_the_next_stage_reads() {
    let Some(python) = std::env::var_os("RESTAGE_PYTHON") else {
        println!("skipped: no Python with numpy and zarr (set RESTAGE_PYTHON)");
        return;
    };
    let sandbox = Sandbox::new();
    let workflow = shipped("python.yaml");
    let program = format!("smooth.program={}", Path::new(&python).display());
    let arguments = ["run", "--json", &workflow, "--set", &program];
    assert_eq!(sandbox.json(&arguments)["ran"], 4);
    assert_eq!(sandbox.json(&arguments)["ran"], 0);
    open_in_python(&sandbox, &workflow);

    // A spot's nearest neighbour is itself: smoothed over one, the next stage reads what it would read without the script.
    let normalized = |change: &str| {
        sandbox.json(&[&arguments[..], &["--set", change]].concat());
        sandbox.json(&["show", "--json", &workflow, "normalized"])[0]["digest"].clone()
    };
    assert_eq!(normalized("smooth.params.neighbours=1"), normalized("normalized.in.table=clean.table"));
    assert_ne!(normalized("smooth.params.neighbours=2"), normalized("normalized.in.table=clean.table"));
}

/// On real sections: no test label reaches a stage that trains, and the table has the baselines beside the result.
#[test]
fn her2st_runs_on_real_sections() {
    let Some(shared) = shared() else { return };
    let sandbox = Sandbox::new();
    let data = format!("params.data={}", shared.join("data/her2st").display());
    let her2st = shipped("her2st.yaml");
    let common = [
        "--json",
        &her2st,
        "--set",
        &data,
        "--set",
        "params.epochs=2",
        "--set",
        "regions.class_weight=balanced",
        "--seeds",
        "0",
    ];
    let only = ["--only", "baseline", "--only", "majority class", "--only", "PCA + logistic regression"];
    let result = sandbox.json(&[&["run"], &common[..], &only[..]].concat());
    // 1,756 of the 3,153 labelled spots are invasive cancer, which is every fold's majority but E1's and F1's folds
    // have it too: always predicting it is right for 55.7 %.
    let majority = mean(&result, "majority class", 1);
    assert!((majority - 0.557).abs() < 0.005, "{majority}");
    // research/data-and-formats §4: 0.353 macro-F1 with scanpy and scikit-learn, seurat genes and balanced C = 0.1.
    let pca = mean(&result, "PCA + logistic regression", 0);
    assert!((pca - 0.353).abs() < 0.05, "{pca}");
    // research/ssl-and-evaluation §2.4: 0.693 on spots dealt at random to five folds. What a split flatters is in the table.
    let random = mean(&result, "PCA + logistic regression", 2);
    assert!((random - 0.69).abs() < 0.05, "{random}");
    // A split by patient gives patients to compare.
    let groups = result["table"]["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), 8, "{groups:?}");
    test_labels_reach_evaluation_only(&sandbox, &her2st, &data);
    open_in_python(&sandbox, &her2st);
}

/// Twelve slices, no labels: research/ssl-and-evaluation §2.1 has a mean ARI of 0.462 with scikit-learn's k-means, whose seeds
/// differ by about 0.01.
#[test]
fn layers_of_cortex_are_found_without_labels() {
    let Some(shared) = shared() else { return };
    let sandbox = Sandbox::new();
    let data = format!("params.data={}", shared.join("data/dlpfc").display());
    let dlpfc = shipped("dlpfc.yaml");
    let only = ["--only", "baseline", "--only", "smoothing = 0", "--seeds", "0"];
    let result = sandbox.json(&[&["run", "--json", &dlpfc, "--set", &data], &only[..]].concat());
    let smoothed = mean(&result, "baseline", 0);
    assert!((smoothed - 0.462).abs() < 0.03, "{smoothed}");
    assert!(mean(&result, "smoothing = 0", 0) < smoothed - 0.15, "neighbours matter: {result}");
}

/// One real section through every kind of step.
#[test]
fn a_section_is_preprocessed_from_counts_and_image() {
    let Some(shared) = shared() else { return };
    let sandbox = Sandbox::new();
    let data = format!("params.data={}", shared.join("data/her2st").display());
    let preprocess = shipped("preprocess.yaml");
    let arguments = ["run", "--json", &preprocess, "--set", &data, "--only", "baseline"];
    let result = sandbox.json(&arguments);
    // All but one of A1's 346 spots are left, and lie on tissue: a fifth of the image, which is mostly a black margin.
    assert_eq!(mean(&result, "baseline", 1), 345.0);
    let tissue = mean(&result, "baseline", 0);
    assert!((0.15..0.3).contains(&tissue), "{tissue}");
    assert_eq!(sandbox.json(&arguments)["ran"], 0);
    open_in_python(&sandbox, &preprocess);
}

/// Pretraining on seven real images, judged by stripes of the one that is annotated.
#[test]
fn an_image_encoder_is_judged_on_stripes_of_a_section() {
    let Some(shared) = shared() else { return };
    let sandbox = Sandbox::new();
    let data = format!("params.data={}", shared.join("data/her2st").display());
    let workflow = shipped("pretrain-image.yaml");
    let common = ["--json", &workflow, "--set", &data, "--set", "params.epochs=1", "--seeds", "0"];
    let only = ["--only", "baseline", "--only", "majority class", "--only", "features by hand"];
    let result = sandbox.json(&[&["run"], &common[..], &only[..]].concat());
    // 282 of the 341 labelled spots are invasive cancer.
    let majority = mean(&result, "majority class", 1);
    assert!((majority - 0.827).abs() < 0.001, "{majority}");
    let (by_hand, majority) = (mean(&result, "features by hand", 0), mean(&result, "majority class", 0));
    assert!(by_hand > majority + 0.05, "{by_hand} {majority}");
    test_labels_reach_evaluation_only(&sandbox, &workflow, &data);
}

/// Pretraining on the graph of neighbouring spots of eight patients, one of whom is left out.
#[test]
fn an_encoder_on_a_graph_is_judged_on_another_patient() {
    let Some(shared) = shared() else { return };
    let sandbox = Sandbox::new();
    let data = format!("params.data={}", shared.join("data/her2st").display());
    let workflow = shipped("pretrain-graph.yaml");
    let common = ["--json", &workflow, "--set", &data, "--set", "params.epochs=1", "--seeds", "0"];
    let only = ["--only", "baseline", "--only", "majority class", "--only", "PCA of smoothed"];
    let result = sandbox.json(&[&["run"], &common[..], &only[..]].concat());
    // As of her2st.yaml.
    let majority = mean(&result, "majority class", 1);
    assert!((majority - 0.557).abs() < 0.005, "{majority}");
    // Above components of single spots, 0.353 with scanpy and scikit-learn.
    let smoothed = mean(&result, "PCA of smoothed", 0);
    assert!((0.353..0.42).contains(&smoothed), "{smoothed}");
    test_labels_reach_evaluation_only(&sandbox, &workflow, &data);
}

/// An encoder that was pretrained on seven patients is fine-tuned on their labels, and judged on the eighth.
#[test]
fn a_finetuned_encoder_is_judged_on_another_patient() {
    let Some(shared) = shared() else { return };
    let sandbox = Sandbox::new();
    let data = format!("params.data={}", shared.join("data/her2st").display());
    let workflow = shipped("finetune.yaml");
    let short = ["params.epochs=1", "params.head_epochs=2", "params.tuning_epochs=1", "params.genes=300"];
    let short = short.iter().flat_map(|set| ["--set", set]).collect::<Vec<_>>();
    let common = ["--json", &workflow, "--set", &data, "--seeds", "0"];
    let only = ["--only", "baseline", "--only", "majority class"];
    let result = sandbox.json(&[&["run"], &common[..], &short[..], &only[..]].concat());
    // As of her2st.yaml.
    let majority = mean(&result, "majority class", 1);
    assert!((majority - 0.557).abs() < 0.005, "{majority}");
    let (tuned, majority) = (mean(&result, "baseline", 0), mean(&result, "majority class", 0));
    assert!(tuned > majority + 0.03, "{tuned} {majority}");
    test_labels_reach_evaluation_only(&sandbox, &workflow, &data);
}

/// `plan` names every wire; only `classify/evaluate` may read test labels.
fn test_labels_reach_evaluation_only(sandbox: &Sandbox, workflow: &str, data: &str) {
    let list = sandbox.json(&["plugin", "list", "--json", workflow]);
    for plugin in list.as_array().expect("plugins") {
        for stage in plugin["stages"].as_array().expect("stages") {
            let reads = |kind: &str| {
                stage["inputs"].as_array().expect("inputs").iter().any(|port| port["type"] == kind)
            };
            if reads("test-labels") {
                assert_eq!(stage["name"], "evaluate");
            }
        }
    }
    let leak = ["check", "--json", workflow, "--set", data, "--set", "regions.in.train=split.test"];
    let ended = sandbox.run(&leak);
    assert_eq!(ended.code(), Some(2));
    assert!(ended.out().contains("input `train` takes train-labels"), "{}", ended.all());
}

/// Every table artifact of the last run opens with `anndata.read_zarr`, and squidpy and scanpy draw it; a section of each
/// stage opens with `spatialdata.read_zarr`. A check is 20 s of imports, so one of each stage's is enough.
fn open_in_python(sandbox: &Sandbox, workflow: &str) {
    let Some(shared) = shared() else { return };
    let Some(python) = std::env::var_os("RESTAGE_PYTHON") else {
        println!(
            "skipped: no Python with anndata (set RESTAGE_PYTHON; shared/checks/README.md says how to make one)"
        );
        return;
    };
    let list = sandbox.json(&["show", "--json", workflow]);
    let (mut seen, mut checks) = (std::collections::BTreeSet::new(), Vec::new());
    let mut embeddings = std::process::Command::new(&python);
    embeddings.args(["-c", "import anndata, sys; [anndata.read_zarr(path) for path in sys.argv[1:]]"]);
    for artifact in list.as_array().expect("artifacts") {
        let (port, path) = (artifact["port"].as_str(), artifact["path"].as_str().expect("a path"));
        // A stage beside it that does the same on another split writes the same kind of table.
        let stage = artifact["stage"].as_str().expect("a stage").trim_start_matches("random_");
        if !seen.insert((port, stage.to_owned())) {
            continue;
        }
        let program = match port {
            Some("table") => "checks/check_anndata.py",
            Some("section") => "checks/check_spatialdata.py",
            Some("embedding") => {
                embeddings.arg(path);
                continue;
            }
            _ => continue,
        };
        let mut check = std::process::Command::new(&python);
        check.arg(shared.join(program)).arg(path);
        if program.contains("anndata") {
            // By default all checks draw into one file, and two run at a time.
            check.arg("--png").arg(sandbox.path(&format!("check-{}.png", checks.len())));
            if !has_image(Path::new(path)) {
                check.arg("--no-image");
            }
        }
        checks.push(check);
    }
    assert!(!checks.is_empty());
    checks.push(embeddings);
    // Nearly all of a check is Python's imports: two at a time.
    for pair in checks.chunks_mut(2) {
        let piped = std::process::Stdio::piped;
        let started: Vec<_> = pair
            .iter_mut()
            .map(|check| check.stdout(piped()).stderr(piped()).spawn().expect("Python starts"))
            .collect();
        for (check, child) in pair.iter().zip(started) {
            let output = child.wait_with_output().expect("Python ends");
            let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
            assert!(output.status.success(), "{check:?}: {}", told.concat());
        }
    }
}

/// Whether every section of a table carries its image: then the check draws the spots on the first one's.
fn has_image(table: &Path) -> bool {
    let read = |path: &str| std::fs::read_dir(table.join(path)).into_iter().flatten().flatten();
    let with_image = read("uns/spatial").filter(|entry| entry.path().join("images").is_dir()).count();
    let without = read("uns/scalefactors").filter(|entry| entry.path().is_dir()).count();
    with_image > 0 && without == 0
}
