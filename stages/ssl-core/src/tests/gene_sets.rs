//! `gene_mask` that hides whole sets of genes.

use super::*;

/// A file with sets of six of the twelve genes each, of both kinds, and one that the table has not.
fn sets(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("sets.gmt");
    let set = |name: &str, genes: std::ops::Range<usize>| {
        let genes: Vec<String> = genes.map(|gene| format!("g{gene}")).collect();
        format!("{name}\tdescribed\t{}\n", genes.join("\t"))
    };
    std::fs::write(&path, set("first", 0..6) + &set("second", 6..12) + &set("others", 90..99)).unwrap();
    path
}

#[test]
fn sets_of_genes_are_predicted_from_other_sets() {
    let folder = TempDir::new().unwrap();
    let bench = Bench::new().with("table", &table(70, 12));
    let mut params = genes_params(20);
    params["gene_sets"] = json!(sets(&folder));
    let (model, training) = bench.pretrain(params.clone());
    // Standardised: the mean would be off by 1.
    assert!(training.values["loss"] < 0.6, "{:?}", training.curves["loss"]);
    let provenance = &model.architecture["provenance"];
    let digest = blake3::hash(&std::fs::read(sets(&folder)).unwrap()).to_hex().to_string();
    assert_eq!(provenance["gene_sets"], digest);
    assert!(!provenance.to_string().contains("sets.gmt"), "where the file lies is nobody's business");

    params["epochs"] = json!(6);
    killed_and_resumed(&bench, params.clone(), "killed-sets");
    same_with_two_threads(&bench, params.clone());
    params["objective"] = json!("gene_contrast");
    let told = bench.run::<Pretrain>(params, "scratch", Box::new(Silence)).unwrap_err().to_string();
    assert_eq!(told, "`gene_sets` is for `gene_mask`, not `gene_contrast`");
}

/// Of all genes, those count that are seen: to copy them pays.
#[test]
fn the_error_of_all_genes_is_below_that_of_hidden_ones() {
    let bench = Bench::new().with("table", &table(70, 12));
    let loss = |error_of: &str| {
        let mut params = genes_params(20);
        params["error_of"] = json!(error_of);
        let (_, training) = bench.pretrain(params.clone());
        same_with_two_threads(&bench, params);
        training.values["loss"]
    };
    let (hidden, all) = (loss("hidden"), loss("all"));
    assert!(all < hidden && hidden < 0.6, "{all} {hidden}");
}
