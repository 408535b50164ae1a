//! What cannot be trained on, or did not train, is an error that names it.

use super::*;

#[test]
fn a_collapse_is_an_error() {
    let bench = Bench::new().with("patches", &patches(64, 16));
    let mut params = patches_params(60);
    for (name, value) in [("variance", 0.0), ("covariance", 0.0), ("learning_rate", 0.05)] {
        params[name] = json!(value);
    }
    let error = bench.run::<Pretrain>(params, "scratch", Box::new(Silence)).unwrap_err();
    assert!(error.to_string().starts_with("collapsed in epoch "), "{error}");
}

#[test]
fn what_cannot_be_trained_on_is_refused() {
    let error = |bench: &Bench, params: Value| {
        bench.run::<Pretrain>(params, "scratch", Box::new(Silence)).unwrap_err().to_string()
    };
    let mut broken = table(20, 4);
    broken.x.data[3] = f32::NAN;
    let (spot, gene) = (broken.obs.index[1].clone(), broken.var.index[broken.x.indices[3] as usize].clone());
    let told = error(&Bench::new().with("table", &broken), genes_params(1));
    assert!(told.contains("has NaN for gene") && (told.contains(&spot) || told.contains(&gene)), "{told}");

    let small = Bench::new().with("patches", &patches(10, 16));
    let mut params = patches_params(1);
    params["local_crops"] = json!(2);
    assert_eq!(
        error(&small, params.clone()),
        "`local_crops` are for `swav` and `dino` on patches, not `vicreg`"
    );
    (params["objective"], params["prototypes"], params["local_pixels"]) = (json!("dino"), json!(5), json!(6));
    let told = error(&small, params.clone());
    assert!(told.starts_with("small crops of the patches (`local_pixels`) are 6 pixels wide"), "{told}");
    params["local_share"] = json!([0.5, 0.4]);
    assert_eq!(error(&small, params), "`local_share: the largest` must lie between 0.5 and 1, not 0.4");
    let mut params = patches_params(1);
    params["encoder"] = json!({ "kind": "cnn", "channels": [4, 4, 4, 4, 4] });
    let told = error(&small, params);
    assert!(
        told.contains("16 pixels wide, and the encoder halves them 5 times") && told.contains("32 or more"),
        "{told}"
    );
    // One place of one channel a group: group norm would leave nothing.
    let mut params = patches_params(1);
    params["encoder"] = json!({ "kind": "cnn", "channels": [16, 16, 16, 4] });
    let told = error(&small, params.clone());
    assert!(
        told.contains("whose 4 channels would be normalised one by one") && told.contains("17 or more"),
        "{told}"
    );
    params["encoder"] = json!({ "kind": "cnn", "channels": [16, 16, 16, 12] });
    small.pretrain(params);
    let mut params = patches_params(1);
    (params["objective"], params["prototypes"]) = (json!("dino"), json!(5));
    (params["local_crops"], params["local_pixels"]) = (json!(2), json!(17));
    assert!(
        error(&small, params.clone()).starts_with("`local_pixels` is 17, and the patches are 16 pixels wide")
    );
    params["patience"] = json!(3);
    assert!(error(&small, params).starts_with("`patience` is not for `dino`"));
    let mut params = patches_params(1);
    params["dim"] = json!(1);
    assert_eq!(error(&small, params), "`dim` must be 2 or more, not 1");
    let mut params = patches_params(1);
    (params["objective"], params["prototypes"]) = (json!("swav"), json!(11));
    assert!(error(&small, params).starts_with("`prototypes`: 11 are more than the 10 training spots"));

    let nobody = Split { spots: ids(10), roles: vec![Role::Test; 10] };
    let small = small.without("split").with("split", &nobody);
    let told = error(&small, patches_params(1));
    assert!(told.starts_with("0 of the 10 spots on input `patches` are for training"), "{told}");
    assert!(told.ends_with("let `split` keep more of them for training"), "{told}");
    let others = Split { spots: vec!["B1_1x1".into()], roles: vec![Role::Train] };
    let told = error(&small.clone_inputs().with("split", &others), patches_params(1));
    assert!(told.ends_with("is `split` of the same sections?"), "{told}");
}

/// What augmentation keeps apart is the same all the same.
#[test]
fn one_embedding_of_all_is_an_error_however_training_looked() {
    let mut same = patches(64, 16);
    let first = same.pixels[..16 * 16 * 3].to_vec();
    same.pixels.chunks_mut(16 * 16 * 3).for_each(|patch| patch.copy_from_slice(&first));
    let bench = Bench::new().with("patches", &same);
    let error =
        bench.run::<Pretrain>(patches_params(3), "scratch", Box::new(Silence)).unwrap_err().to_string();
    assert!(
        error.starts_with("collapsed by the end, after epoch 3") && error.contains("inputs of all spots"),
        "{error}"
    );
}

/// It is seen in the epoch in which it happens, be it the only one.
#[test]
fn a_collapse_in_the_course_of_an_epoch_is_an_error() {
    let bench = Bench::new().with("patches", &patches(256, 16));
    let mut params = patches_params(1);
    // Two views should agree, and nothing holds spots apart.
    for (name, value) in [
        ("variance", json!(0)),
        ("covariance", json!(0)),
        ("learning_rate", json!(0.1)),
        ("warmup_epochs", json!(0)),
        ("batch_size", json!(4)),
    ] {
        params[name] = value;
    }
    let error = bench.run::<Pretrain>(params, "scratch", Box::new(Silence)).unwrap_err();
    assert!(error.to_string().starts_with("collapsed "), "{error}");
}

#[test]
fn errors_name_what_to_do() {
    let bench = Bench::new().with("table", &table(20, 4));
    let error =
        |params: Value| bench.run::<Pretrain>(params, "scratch", Box::new(Silence)).unwrap_err().to_string();
    assert_eq!(
        error(patches_params(1)),
        "objective `vicreg` trains on input `patches`, which is not connected"
    );
    let mut colours = patches_params(1);
    (colours["objective"], colours["sees"]) = (json!("colorize"), json!("colour"));
    assert!(error(colours).starts_with("`sees` must be grey or haematoxylin"));
    let mut params = genes_params(1);
    params["mask_rate"] = json!(1.0);
    assert_eq!(error(params), "`mask_rate` must lie between 0.01 and 0.99, not 1");

    let (model, _) = Bench::new().with("patches", &patches(10, 16)).pretrain(patches_params(0));
    let bench = Bench::new().with("model", &model);
    let error =
        |bench: &Bench| bench.run::<Embed>(json!({}), "embed", Box::new(Silence)).unwrap_err().to_string();
    assert_eq!(error(&bench), "the model is an encoder of patches: connect input `patches`");
    let bench = bench.with("patches", &patches(4, 32));
    assert!(error(&bench).starts_with("the model was trained on patches of 16 pixels, these have 32"));
}
