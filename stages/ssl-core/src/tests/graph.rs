//! Objectives and encoders on a graph.

use restage_stage::artifact::{Categorical, Column, Graph};

use super::*;

/// Side of a section, a square of spots.
const SIDE: usize = 8;

/// Spots on squares, section by section: the left half of each has the even genes, the right half the odd ones, under noise that
/// only neighbours tell from it.
pub(crate) fn tissue(sections: usize, genes: usize) -> Table {
    let mut rng = rng(3, "tissue");
    let spots = sections * SIDE * SIDE;
    let row = |spot: usize| {
        let right = usize::from(spot % SIDE >= SIDE / 2);
        let value = |gene: usize| if gene % 2 == right { 1.2 } else { 0.8 };
        (0..genes).map(|gene| (gene as i32, value(gene) + rng.random_range(0.0..1.0))).collect()
    };
    let rows: Vec<_> = (0..spots).map(row).collect();
    let names: Vec<String> = (0..spots).map(|spot| format!("section {}", spot / (SIDE * SIDE))).collect();
    let section = Column::Categorical(Categorical::encode(names.iter().map(|name| Some(name.as_str()))));
    Table {
        x: Csr::from_rows(genes, rows),
        obs: Frame { index: ids(spots), columns: vec![("section".into(), section)] },
        var: Frame { index: (0..genes).map(|gene| format!("g{gene}")).collect(), ..Frame::default() },
        spatial: vec![[0.0; 2]; spots],
        ..Table::default()
    }
}

/// Each spot's neighbours left, right, above, below.
pub(crate) fn grid(sections: usize) -> Graph {
    let spots = sections * SIDE * SIDE;
    let place = |spot: usize| (spot / (SIDE * SIDE), spot / SIDE % SIDE, spot % SIDE);
    let are_near = |a: usize, b: usize| {
        let ((of_a, y, x), (of_b, v, u)) = (place(a), place(b));
        of_a == of_b && y.abs_diff(v) + x.abs_diff(u) == 1
    };
    let row =
        |spot: usize| (0..spots).filter(|other| are_near(spot, *other)).map(|o| (o as i32, 1.0)).collect();
    Graph { spots: ids(spots), edges: Csr::from_rows(spots, (0..spots).map(row)) }
}

fn bench(sections: usize) -> Bench {
    Bench::new().with("table", &tissue(sections, 12)).with("graph", &grid(sections))
}

/// Every objective with every encoder, small.
fn every_graph_objective(epochs: usize) -> Vec<Value> {
    let encoders = [
        json!({ "kind": "gcn", "hidden": [16] }),
        json!({ "kind": "gcn", "hidden": [16, 8] }),
        json!({ "kind": "gat", "hidden": [12], "heads": 3 }),
        json!({ "kind": "transformer", "width": 12, "depth": 1, "heads": 3 }),
    ];
    let with = |encoder: &Value| {
        [json!({ "objective": "dgi" }), json!({ "objective": "dgi", "readout": "neighbours" })]
            .into_iter()
            .chain(["graph_ae", "graph_mask"].map(|objective| json!({ "objective": objective })))
            .map(|mut params| {
                params["encoder"] = encoder.clone();
                for (name, value) in [("dim", 8), ("epochs", epochs), ("checkpoint_every", 2)] {
                    params[name] = json!(value);
                }
                params["learning_rate"] = json!(0.01);
                params
            })
            .collect::<Vec<_>>()
    };
    encoders.iter().flat_map(with).collect()
}

#[test]
fn a_killed_training_on_a_graph_goes_on_and_ends_with_the_same_model() {
    let bench = bench(3);
    for (number, params) in every_graph_objective(6).into_iter().enumerate() {
        killed_and_resumed(&bench, params, &format!("killed-graph-{number}"));
    }
}

#[test]
fn the_number_of_threads_changes_nothing_on_a_graph() {
    let bench = bench(3);
    for mut params in every_graph_objective(3) {
        // Two sections in one step, one in the other.
        params["batch_size"] = json!(100);
        same_with_two_threads(&bench, params);
    }
}

/// Of every objective the loss falls below what says nothing, and the model embeds.
#[test]
fn every_objective_learns_on_a_graph() {
    let bench = bench(4);
    for params in every_graph_objective(40) {
        let (model, training) = bench.pretrain(params.clone());
        let loss = &training.curves["loss"];
        let (early, late) = (loss[..3].iter().sum::<f64>() / 3.0, loss[37..].iter().sum::<f64>() / 3.0);
        println!(
            "{} {} {}: {early:.4} -> {late:.4}, std {:.3}",
            params["objective"],
            params["readout"],
            params["encoder"]["kind"],
            training.values["embedding_std"]
        );
        // Equal chances; the mean of standardised genes; no cosine at all.
        let nothing = if params["objective"] == "dgi" { 2.0_f64.ln() } else { 1.0 };
        assert!(late < early && late < 0.95 * nothing, "{params}: {loss:?}");
        assert_eq!(training.values["training_spots"], 256.0);
        assert_eq!(training.values["training_edges"], f64::from(4 * 2 * 2 * 8 * 7));
        let whole = bench.embed(&model);
        assert_eq!((whole.dims, whole.spots.len()), (8, 256));
        assert!(whole.values.iter().all(|value| value.is_finite()));
    }
}

/// Whatever lies on spots outside of the training split, and whoever is their neighbour, is not seen.
#[test]
fn a_graph_outside_of_the_training_split_has_no_part_in_the_model() {
    // The third section is for tests, and so is a corner of the first.
    let role = |spot: usize| if (10..128).contains(&spot) { Role::Train } else { Role::Test };
    let split = Split { spots: ids(192), roles: (0..192).map(role).collect() };
    let (whole, near) = (tissue(3, 12), grid(3));
    let mut other = whole.clone();
    for spot in (0..192).filter(|spot| role(*spot) == Role::Test) {
        let of = other.x.indptr[spot] as usize..other.x.indptr[spot + 1] as usize;
        other.x.data[of].iter_mut().for_each(|value| *value *= 7.0);
    }
    // No spot of a test keeps its edges.
    let is_kept = |a: usize, b: usize| role(a) == Role::Train && role(b) == Role::Train;
    let row = |spot: usize| {
        near.edges.entries(spot).filter(|(o, _)| is_kept(spot, *o)).map(|(o, w)| (o as i32, w)).collect()
    };
    let cut = Graph { spots: near.spots.clone(), edges: Csr::from_rows(192, (0..192).map(row)) };
    for params in every_graph_objective(3) {
        let [a, b] = [(&whole, &near), (&other, &cut)].map(|(table, graph)| {
            let bench = Bench::new().with("table", table).with("graph", graph).with("split", &split);
            bench.pretrain(params.clone())
        });
        assert!(a == b, "{params}");
        assert_eq!(a.1.values["training_spots"], 118.0);
        assert_eq!(a.0.architecture["provenance"]["training_edges"], cut.edges.data.len());
    }
}

/// A spot's embedding is of itself and as many rings around it as there are hidden layers; sections have no part in each other.
#[test]
fn embeddings_reach_as_far_as_layers_do() {
    let (table, graph) = (tissue(2, 12), grid(2));
    let bench = Bench::new().with("table", &table).with("graph", &graph);
    for (rings, encoder) in [
        (1, json!({ "kind": "gcn", "hidden": [16] })),
        (2, json!({ "kind": "gcn", "hidden": [16, 8] })),
        (2, json!({ "kind": "gat", "hidden": [12, 6], "heads": 2 })),
        (2, json!({ "kind": "transformer", "width": 8, "heads": 2 })),
    ] {
        let params = json!({ "objective": "graph_ae", "epochs": 2, "dim": 4, "encoder": encoder });
        let (model, _) = bench.pretrain(params);
        let mut other = table.clone();
        // The spot in the corner of the first section.
        other.x.data[..12].iter_mut().for_each(|value| *value += 3.0);
        let [before, after] = [&table, &other]
            .map(|table| Bench::new().with("table", table).with("graph", &graph).embed(&model));
        for spot in 0..128 {
            let distance = if spot < 64 { spot / SIDE + spot % SIDE } else { usize::MAX };
            let changed = before.row(spot) != after.row(spot);
            assert_eq!(changed, distance <= rings, "{spot}");
        }
        // Alone, a section is what it is among others.
        let second = Bench::new().with("table", &table.select_spots(&(64..128).collect::<Vec<_>>()));
        let second = second.with("graph", &graph).embed(&model);
        for spot in 0..64 {
            assert_eq!(second.row(spot), before.row(64 + spot), "{spot}");
        }
    }
}

#[test]
fn a_graph_encoder_goes_out_and_comes_back() {
    let bench = bench(1);
    for encoder in [
        json!({ "kind": "gcn" }),
        json!({ "kind": "gat", "hidden": [8], "heads": 2 }),
        json!({ "kind": "transformer", "width": 8, "depth": 1, "heads": 2 }),
    ] {
        let (model, _) =
            bench.pretrain(json!({ "objective": "dgi", "encoder": encoder, "dim": 4, "epochs": 1 }));
        let names: Vec<&str> =
            model.weights.keys().filter_map(|name| name.strip_prefix("encoder.")).collect();
        let layers = ["0.bias", "0.lin.weight", "1.bias", "1.weight", "3.bias", "3.weight"];
        let expected = match encoder["kind"].as_str() {
            Some("gcn") => layers.to_vec(),
            Some("gat") => [&["0.att_dst", "0.att_src"], &layers[..]].concat(),
            _ => {
                let of_block = ["attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2", "norm1", "norm2"]
                    .map(|layer| ["bias", "weight"].map(|kind| &*format!("blocks.0.{layer}.{kind}").leak()));
                let others = ["embed", "head", "norm"]
                    .map(|layer| ["bias", "weight"].map(|kind| &*format!("{layer}.{kind}").leak()));
                [of_block.as_flattened(), others.as_flattened()].concat()
            }
        };
        assert_eq!(names, expected);
        let exports = Bench::new().with("model", &model);
        let exported = exports.run::<Export>(json!({}), "export", Box::new(Silence)).unwrap();
        let path = exported.join("files/model.safetensors");
        let imports = Bench::new();
        let imported = imports.run::<Import>(json!({ "path": path }), "import", Box::new(Silence)).unwrap();
        assert!(Model::read(&imported.join("model")).unwrap() == model);
    }
}

#[test]
fn what_is_not_connected_or_not_a_graphs_is_named() {
    let error = |bench: &Bench, params: Value| {
        bench.run::<Pretrain>(params, "scratch", Box::new(Silence)).unwrap_err().to_string()
    };
    let table = Bench::new().with("table", &tissue(1, 12));
    assert_eq!(
        error(&table, json!({ "objective": "dgi" })),
        "objective `dgi` trains on input `graph`, which is not connected"
    );
    let wrong = |objective: &str, encoder: Value| {
        error(&bench(1), json!({ "objective": objective, "encoder": encoder }))
    };
    assert_eq!(
        wrong("graph_mask", json!({ "kind": "mlp" })),
        "`encoder` of `graph_mask` encodes genes on a graph: its kind must be `gcn`, `gat` or `transformer`, not `mlp`"
    );
    assert_eq!(
        error(&table, json!({ "objective": "gene_mask", "encoder": { "kind": "gat" } })),
        "an encoder of kind `gat` sees neighbours: connect input `graph`, what `visium/graph` makes"
    );
    assert_eq!(
        wrong("dgi", json!({ "kind": "transformer", "width": 10, "heads": 4 })),
        "`encoder.width`: 10 cannot be shared out among 4 `heads`: choose a multiple of it"
    );
    assert!(
        wrong("dgi", json!({ "kind": "transformer", "depth": 0 })).contains("from 1 to 64 blocks, not 0")
    );
    assert_eq!(
        wrong("dgi", json!({ "kind": "gat", "hidden": [10], "heads": 4 })),
        "`encoder.hidden`: [10] cannot be shared out among 4 `heads`: choose multiples of it"
    );
    assert!(wrong("dgi", json!({ "kind": "gat", "heads": 0 })).contains("among 0 `heads`"));
    assert!(wrong("dgi", json!({ "kind": "gcn", "hidden": [] })).contains("must list 1 or more layers"));

    let (model, _) = bench(1).pretrain(json!({ "objective": "graph_mask", "epochs": 1 }));
    let told = table.with("model", &model).run::<Embed>(json!({}), "embed", Box::new(Silence)).unwrap_err();
    assert_eq!(told.to_string(), "the model is an encoder of genes on a graph: connect input `graph`");
}

/// Objectives that are not on a graph, with encoders of genes that see one.
fn every_objective_around_spots(epochs: usize) -> [Value; 5] {
    let gcn = json!({ "kind": "gcn", "hidden": [16] });
    let gat = json!({ "kind": "gat", "hidden": [12], "heads": 3 });
    let transformer = json!({ "kind": "transformer", "width": 12, "depth": 2, "heads": 2 });
    [
        json!({ "objective": "gene_mask", "encoder": transformer }),
        json!({ "objective": "gene_contrast", "contrast": "byol", "encoder": gat }),
        json!({ "objective": "cross_modal", "gene_encoder": transformer, "encoder": { "kind": "cnn", "channels": [4, 8] } }),
        json!({ "objective": "cross_modal", "gene_encoder": gcn, "encoder": { "kind": "cnn", "channels": [4, 8] }, "intra": 0.1 }),
        json!({ "objective": "fused_contrast", "gene_encoder": gat, "encoder": { "kind": "cnn", "channels": [4, 8] } }),
    ]
    .map(|mut params| {
        for (name, value) in [("dim", 8), ("epochs", epochs), ("checkpoint_every", 2), ("batch_size", 24)] {
            params[name] = json!(value);
        }
        params["projector"] = json!([16, 16]);
        params["learning_rate"] = json!(0.003);
        params
    })
}

#[test]
fn encoders_on_a_graph_are_encoders_of_genes() {
    let (table, graph, patches) = (tissue(1, 12), grid(1), patches(60, 8));
    let bench = Bench::new().with("table", &table).with("graph", &graph).with("patches", &patches);
    for (number, params) in every_objective_around_spots(6).into_iter().enumerate() {
        killed_and_resumed(&bench, params.clone(), &format!("killed-around-{number}"));
        same_with_two_threads(&bench, params.clone());
        let mut long = params.clone();
        long["epochs"] = json!(25);
        let (model, training) = bench.pretrain(long);
        let loss = &training.curves["loss"];
        assert!(loss[22..].iter().sum::<f64>() < loss[..3].iter().sum(), "{params}: {loss:?}");
        let of_both = params["objective"].as_str().is_some_and(|name| name.ends_with("_modal"));
        let embedding = bench.embed(&model);
        assert_eq!(embedding.dims, if of_both { 16 } else { 8 }, "{params}");
        assert!(model.architecture["provenance"]["training_edges"].as_u64().is_some_and(|edges| edges > 150));
        let alone = Bench::new().with("table", &table).with("patches", &patches).with("model", &model);
        let told = alone.run::<Embed>(json!({}), "embed", Box::new(Silence)).unwrap_err().to_string();
        assert_eq!(told, "the model is an encoder of genes on a graph: connect input `graph`");
    }
}

/// Spots outside of the split have no part in a model of both modalities either.
#[test]
fn neighbours_outside_of_the_split_are_not_seen() {
    let role = |spot: usize| if spot < 40 { Role::Train } else { Role::Test };
    let split = Split { spots: ids(64), roles: (0..64).map(role).collect() };
    let (table, graph, patches) = (tissue(1, 12), grid(1), patches(64, 8));
    let mut other = table.clone();
    let first = other.x.indptr[40] as usize;
    other.x.data[first..].iter_mut().for_each(|value| *value *= 7.0);
    for params in every_objective_around_spots(2) {
        let [a, b] = [&table, &other].map(|table| {
            let bench = Bench::new().with("table", table).with("graph", &graph).with("patches", &patches);
            bench.with("split", &split).pretrain(params.clone())
        });
        assert!(a == b, "{params}");
    }
}

/// A batch with what is around it gives what whole sections give.
#[test]
fn what_a_batch_sees_is_what_its_section_shows() {
    let (table, graph) = (tissue(2, 12), grid(2));
    let rows: Vec<usize> = (0..128).collect();
    let sections = crate::sections::Sections::new(&table, &graph, &rows).unwrap();
    let scaler = crate::expression::Scaler::fit(&table.var.index, &table.x);
    let expression = crate::expression::Expression::new(&table, &rows, scaler).unwrap();
    for kind in [
        json!({ "kind": "gcn", "hidden": [16, 8] }),
        json!({ "kind": "gat", "hidden": [12, 6], "heads": 2 }),
        json!({ "kind": "transformer", "width": 12, "depth": 2, "heads": 2 }),
    ] {
        let kind: crate::Encoder = serde_json::from_value(kind).unwrap();
        let mut params = restage_nn::Params::default();
        let net = crate::encoder::GraphNet::new(&mut params, "e", &kind, (12, 4), &mut rng(1, "i")).unwrap();
        let of = |spots: &[usize], edges: &Arc<restage_nn::Sparse>| {
            let x = restage_nn::tensor(expression.values(spots), (spots.len(), 12));
            restage_nn::values(&net.forward(&params, edges, x, restage_nn::Source::Data))
        };
        let whole = sections.batch(&[0, 1]);
        let embeddings = of(&whole.spots, &whole.edges);
        let batch = [3, 77, 127, 64, 36];
        let (spots, edges) = sections.around(&batch, net.rings());
        assert!(spots.len() < 128 && net.rings() == 2);
        let found = of(&spots, &edges);
        for (at, spot) in batch.iter().enumerate() {
            let place = whole.spots.iter().position(|other| other == spot).unwrap();
            for (found, wanted) in found[at * 4..][..4].iter().zip(&embeddings[place * 4..]) {
                assert!((found - wanted).abs() < 1e-5, "{spot}: {found} {wanted}");
            }
        }
    }
}

/// What noise keeps apart in training is the same all the same, seen with its neighbours.
#[test]
fn one_embedding_of_all_spots_of_a_graph_is_an_error() {
    let mut same = tissue(1, 12);
    same.x.data.fill(1.0);
    for encoder in ["gcn", "transformer"] {
        let params = json!({
            "objective": "gene_contrast", "encoder": { "kind": encoder }, "epochs": 2, "batch_size": 32, "view_noise": 1.0
        });
        let bench = Bench::new().with("table", &same).with("graph", &grid(1));
        let error = bench.run::<Pretrain>(params, "scratch", Box::new(Silence)).unwrap_err().to_string();
        assert!(error.starts_with("collapsed by the end, after epoch 2"), "{encoder}: {error}");
    }
}
