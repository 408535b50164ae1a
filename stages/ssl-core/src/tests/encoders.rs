//! Every kind of encoder goes the whole way: trained, resumed, written, exchanged, read, embedded.

use restage_stage::marks::{MarkKind, Marks};

use super::*;
use crate::exchange::ImportParams;

/// The whole way with a ResNet: trained, resumed by its own state, written, read, embedded; by parts of patches too.
#[test]
fn a_resnet_is_an_encoder_like_others() {
    let bench = Bench::new().with("patches", &patches(40, 16));
    for (objective, depth) in [("simclr", 10), ("inpaint", 18)] {
        let mut params = patches_params(12);
        (params["objective"], params["learning_rate"]) = (json!(objective), json!(0.003));
        params["encoder"] = json!({ "kind": "resnet", "depth": depth, "width": 4 });
        let (model, training) = bench.pretrain(params.clone());
        let loss = &training.curves["loss"];
        assert!(loss[9..].iter().sum::<f64>() < loss[..3].iter().sum(), "{objective}: {loss:?}");
        assert_eq!(model.weights["encoder.layer4.0.downsample.0.weight"].shape, [32, 16, 1, 1]);
        assert_eq!(model.weights.contains_key("encoder.layer1.1.conv1.weight"), depth == 18);
        assert_eq!(bench.embed(&model).dims, 8);
        let [one, two] = [1, 2].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| bench.pretrain(params.clone()))
        });
        assert!(one == two && one.0 == model);
    }
}

/// The whole way with a ViT: trained on what is left of patches, embedded whole; written and read.
#[test]
fn a_vit_learns_from_what_is_left_of_a_patch() {
    let bench = Bench::new().with("patches", &patches(200, 16));
    let params = json!({
        "objective": "mae", "encoder": { "kind": "vit", "patch": 4, "width": 32, "depth": 2, "heads": 4 }, "dim": 16, "epochs": 30,
        "decoder": { "width": 24, "depth": 1 }, "batch_size": 25, "learning_rate": 0.003, "stain_jitter": 0.0,
        "colour_jitter": 0.0, "min_crop": 1.0
    });
    let (model, training) = bench.pretrain(params.clone());
    // Squares are normalised: predicting their mean gives 1, less a 48th.
    let loss = training.values["loss"];
    println!("mae: {loss:.3}");
    assert!(loss < 0.9, "{loss}");
    let shape = |name: &str| model.weights[&format!("encoder.{name}")].shape.clone();
    assert_eq!(shape("patch_embed.proj.weight"), [32, 3, 4, 4]);
    assert_eq!(shape("blocks.1.attn.qkv.weight"), [96, 32]);
    assert_eq!(shape("blocks.0.mlp.fc2.bias"), [32]);
    assert_eq!((shape("norm.weight"), shape("head.weight")), (vec![32], vec![16, 32]));
    assert!(model.weights.keys().all(|name| name.starts_with("encoder.")), "the decoder is left behind");
    let embedding = bench.embed(&model);
    assert_eq!((embedding.dims, embedding.spots.len()), (16, 200));
    let exported = Bench::new().with("model", &model);
    let exported = exported.run::<Export>(json!({}), "export", Box::new(Silence)).unwrap();
    let path = json!({ "path": exported.join("files/model.safetensors") });
    let importing = Bench::new();
    let imported = importing.run::<Import>(path, "import", Box::new(Silence)).unwrap();
    assert!(Model::read(&imported.join("model")).unwrap() == model);

    let mut other = params;
    other["mask_ratio"] = json!(0.5);
    assert!(bench.pretrain(other).1.values["loss"] < loss, "less to predict, from more");
}

#[test]
fn a_vit_is_for_patches_of_whole_squares() {
    let bench = Bench::new().with("patches", &patches(10, 18));
    let error = |params: &Value| {
        bench.run::<Pretrain>(params.clone(), "scratch", Box::new(Silence)).unwrap_err().to_string()
    };
    let mut params = patches_params(1);
    params["encoder"] = json!({ "kind": "vit" });
    let told = error(&params);
    assert!(told.contains("18 pixels wide, and the encoder cuts them into squares of 8"), "{told}");
    assert!(told.contains("make them 16 or 24, or choose another `patch`"), "{told}");
    params["objective"] = json!("mae");
    params["encoder"] = json!({ "kind": "vit", "patch": 18 });
    let told = error(&params);
    assert!(told.contains("has 1 of 18: 4 are the least"), "{told}");
    params["encoder"] = json!({ "kind": "cnn" });
    assert_eq!(error(&params), "`encoder` of `mae` must be a `vit`, which can leave tokens out, not `cnn`");
    params["encoder"] = json!({ "kind": "vit", "width": 100 });
    let told = error(&params);
    assert!(
        told.starts_with("`encoder.width` must be a multiple of 4, for positions, and of its 3 `heads`"),
        "{told}"
    );
    params["encoder"] = json!({ "kind": "vit" });
    params["decoder"] = json!({ "depth": 0 });
    assert_eq!(error(&params), "`decoder.depth` must be from 1 to 64 blocks, not 0");
}

#[test]
fn encoders_are_of_what_the_objective_sees() {
    let error = |params: Value| {
        let bench = Bench::new();
        bench.run::<Pretrain>(params, "scratch", Box::new(Silence)).unwrap_err().to_string()
    };
    let mut params = genes_params(1);
    params["encoder"] = json!({ "kind": "resnet" });
    assert_eq!(
        error(params),
        "`encoder` of `gene_mask` encodes genes: its kind must be `mlp`, or with input `graph` `gcn`, `gat` or `transformer`, not `resnet`"
    );
    let mut params = patches_params(1);
    params["encoder"] = json!({ "kind": "mlp" });
    assert!(error(params).ends_with("its kind must be `cnn`, `resnet` or `vit`, not `mlp`"));
    let mut params = patches_params(1);
    params["encoder"] = json!({ "kind": "cnn", "channels": [] });
    assert!(error(params).contains("must list 1 or more convolutions"));
    let deep = serde_json::from_value::<crate::Encoder>(json!({ "kind": "resnet", "depth": 50 }));
    assert_eq!(deep.unwrap_err().to_string(), "the depth of a ResNet is 10 or 18, not 50");
}

/// An encoder that saw test spots is still known to have, when only its file was passed on.
#[test]
fn what_an_encoder_saw_comes_back_with_its_file() {
    let (model, _) = Bench::new().with("patches", &patches(10, 16)).pretrain(patches_params(1));
    let mut marks = Marks::default();
    marks.add(MarkKind::Transductive, "ssl/pretrain: the encoder is trained on all spots", ["A1_1x1"]);
    let bench = Bench::new().with("model", &model);
    marks.write(&bench.path("model")).unwrap();
    let exported = bench.run::<Export>(json!({}), "export", Box::new(Silence)).unwrap();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("passed_on.safetensors");
    std::fs::copy(exported.join("files/model.safetensors"), &file).unwrap();

    let importing = Bench::new();
    let params: ImportParams = serde_json::from_value(json!({ "path": file })).unwrap();
    let (imported, ctx) =
        importing.context(Import::NAME, json!({ "path": file }), "import", Box::new(Silence));
    Import::run(params, &ctx).unwrap();
    assert_eq!(ctx.marks().unwrap(), marks);
    assert!(Model::read(&imported.join("model")).unwrap() == model);

    std::fs::write(&file, b"PK\x03\x04 and so on").unwrap();
    let pickled = importing.run::<Import>(json!({ "path": file }), "import", Box::new(Silence)).unwrap_err();
    assert!(pickled.to_string().contains("safetensors.torch.save_file"), "{pickled}");
}

#[test]
fn an_encoder_goes_out_and_comes_back() {
    let bench = Bench::new().with("patches", &patches(10, 16));
    let (model, _) = bench.pretrain(patches_params(1));
    let bench = Bench::new().with("model", &model);
    let exported = bench.run::<Export>(json!({}), "export", Box::new(Silence)).unwrap();
    let file = exported.join("files/model.safetensors");
    let import = |bench: &Bench, path: &Path| {
        let results = bench.run::<Import>(json!({ "path": path }), "import", Box::new(Silence));
        results.map(|results| Model::read(&results.join("model")).unwrap())
    };
    assert!(import(&Bench::new(), &file).unwrap() == model);
    // What the file says of itself is of it; a model of other colours beside it is not.
    let (other, _) = Bench::new().with("patches", &patches(12, 16)).pretrain(patches_params(1));
    assert!(other.architecture != model.architecture);
    assert!(import(&Bench::new().with("model", &other), &file).unwrap() == model);

    // As PyTorch writes it: without our prefix, without our metadata.
    let folder = TempDir::new().unwrap();
    let plain = |name: &str, wrapper: &str, change: &dyn Fn(&mut Vec<usize>)| {
        let path = folder.path().join(name);
        let tensors: Vec<_> = model
            .weights
            .iter()
            .map(|(name, weight)| {
                let mut shape = weight.shape.clone();
                change(&mut shape);
                let values = shape.iter().product::<usize>();
                let bytes: Vec<u8> =
                    weight.values.iter().cycle().take(values).flat_map(|value| value.to_le_bytes()).collect();
                (name.replacen("encoder.", wrapper, 1), shape, bytes)
            })
            .collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let dtype = ::safetensors::Dtype::F32;
            (name, ::safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes).unwrap())
        });
        ::safetensors::serialize_to_file(views, None, &path).unwrap();
        path
    };
    let path = plain("plain.safetensors", "", &|_| {});
    let problem = import(&Bench::new(), &path).unwrap_err().to_string();
    assert!(problem.contains("connect a model of the same one to input `model`"), "{problem}");
    assert!(import(&bench, &path).unwrap() == model);
    for wrapper in ["module.", "_orig_mod.module.", "module.encoder.", "encoder."] {
        let path = plain("wrapped.safetensors", wrapper, &|_| {});
        assert!(import(&bench, &path).unwrap() == model, "{wrapper}");
    }
    let wider = plain("wider.safetensors", "", &|shape| shape[0] += 1);
    let problem = import(&bench, &wider).unwrap_err();
    let told: Vec<String> =
        std::iter::successors(Some(&problem as &dyn std::error::Error), |error| error.source())
            .map(ToString::to_string)
            .collect();
    assert!(
        told.concat().contains("cannot be this encoder") && told.concat().contains("has the shape"),
        "{told:?}"
    );
}
