//! Patches and genes as one.

use super::*;

fn fused(fusion: &str, contrast: &str, epochs: usize) -> Value {
    let mut params = patches_params(epochs);
    params["objective"] = json!("fused_contrast");
    (params["fusion"], params["contrast"]) = (json!(fusion), json!(contrast));
    params["prototypes"] = json!(12);
    params["gene_encoder"] = json!({ "kind": "mlp", "hidden": [16] });
    params
}

/// Each way to fuse, each with another contrast, one of them with a teacher.
fn every_fusion(epochs: usize) -> [Value; 3] {
    [("concat", "vicreg"), ("sum", "simclr"), ("attention", "dino")]
        .map(|(fusion, contrast)| fused(fusion, contrast, epochs))
}

#[test]
fn a_fused_training_goes_on_and_does_not_depend_on_threads() {
    let bench = Bench::new().with("table", &table(50, 12)).with("patches", &patches(40, 16));
    for (number, params) in every_fusion(6).into_iter().enumerate() {
        killed_and_resumed(&bench, params.clone(), &format!("killed-fused-{number}"));
        same_with_two_threads(&bench, params);
    }
}

#[test]
fn one_embedding_is_of_both() {
    let (table, patches) = (table(96, 24), patches(90, 16));
    let bench = Bench::new().with("table", &table).with("patches", &patches);
    for fusion in ["concat", "sum", "attention"] {
        let mut params = fused(fusion, "vicreg", 25);
        params["learning_rate"] = json!(0.003);
        let (model, training) = bench.pretrain(params.clone());
        let loss = &training.curves["loss"];
        assert!(loss[22..].iter().sum::<f64>() < loss[..3].iter().sum(), "{fusion}: {loss:?}");
        let names: Vec<&str> =
            model.weights.keys().filter_map(|name| name.strip_prefix("encoder.fusion.")).collect();
        let wanted: &[&str] = match fusion {
            "concat" => &["genes.weight", "patches.bias", "patches.weight"],
            "sum" => &[],
            _ => &["hidden.bias", "hidden.weight", "score.weight"],
        };
        assert_eq!(names, wanted);
        // Six spots have no patch.
        let whole = bench.embed(&model);
        assert_eq!((whole.dims, whole.spots.len()), (8, 90));
        // Either modality of a spot changes its embedding, and no other's.
        let (mut other_genes, mut other_patches) = (table.clone(), patches.clone());
        let first = other_genes.x.indptr[1] as usize;
        other_genes.x.data[..first].iter_mut().for_each(|value| *value += 1.0);
        other_patches.pixels[..16 * 16 * 3].iter_mut().for_each(|value| *value /= 2);
        for (table, patches) in [(&other_genes, &patches), (&table, &other_patches)] {
            let changed = Bench::new().with("table", table).with("patches", patches).embed(&model);
            assert_ne!(changed.row(0), whole.row(0), "{fusion}");
            assert_eq!(changed.row(1), whole.row(1), "{fusion}");
        }
        let bench = Bench::new().with("table", &table).with("model", &model);
        let told = bench.run::<Embed>(json!({}), "embed", Box::new(Silence)).unwrap_err().to_string();
        assert_eq!(
            told,
            "the model makes one embedding of patches and genes: connect input `patches` as well"
        );
    }
    let bench = Bench::new().with("table", &table);
    let told = bench.run::<Pretrain>(fused("sum", "byol", 1), "scratch", Box::new(Silence)).unwrap_err();
    assert_eq!(
        told.to_string(),
        "objective `fused_contrast` trains on input `patches`, which is not connected"
    );
}
