//! For tests: the number of threads changes no bytes.

use dfdx::prelude::*;

use crate::{
    AdamW, Attention, Conv2d, GraphAttention, GraphConv, GroupNorm, LayerNorm, Linear, NeighbourAttention,
    Params, Source, Sparse, VicRegWeights, gelu, global_average_pool,
    gradcheck::{rng, wave},
    relu, tensor, vicreg,
};

/// Two steps of a network of every layer, on more images and rows than one task takes; all bits of its parameters.
fn train() -> Vec<u32> {
    let (mut params, mut rng) = (Params::default(), rng());
    let conv = Conv2d::new(&mut params, "0", (3, 8), (3, 2), &mut rng);
    let group_norm = GroupNorm::new(&mut params, "1", 8);
    let wide = Linear::new(&mut params, "5", 8, 300, &mut rng);
    let layer_norm = LayerNorm::new(&mut params, "6", 300);
    let attention = Attention::new(&mut params, "7", 60, 3, &mut rng);
    let graph_conv = GraphConv::new(&mut params, "8", 300, 40, &mut rng);
    let graph_attention = GraphAttention::new(&mut params, "9", 40, (60, 3), &mut rng);
    let among = NeighbourAttention::new(&mut params, "10", 60, 4, &mut rng);
    let output = Linear::new(&mut params, "11", 60, 20, &mut rng);
    // Each image has edges from those around it, some from many more.
    let near = |node: usize| (0..300).filter(move |other| node.abs_diff(*other) < 4 || node % 50 == 1);
    let row = |node: usize| near(node).map(|other| (other, 1.0 / (1 + other) as f32)).collect();
    let edges = Sparse::from_rows(300, (0..300).map(row));
    let mut optimizer = AdamW::new(&params, 0.1);
    let images = tensor::values(&wave((600, 6, 6, 3)));
    for _ in 0..2 {
        let [a, b] = [0, 1].map(|view| {
            let half = images[view * images.len() / 2..(view + 1) * images.len() / 2].to_vec();
            let x = tensor::tensor(half, (300, 6, 6, 3)).leaky_traced();
            let x = group_norm.relu_forward(&params, conv.forward(&params, x, Source::Data));
            let x = wide.forward(&params, global_average_pool(x), Source::Op);
            let x = relu(gelu(layer_norm.forward(&params, x))).reshape_like(&(300, 1, 5, 60));
            let x = attention.forward(&params, x, Source::Op).reshape_like(&(300, 300));
            let x = graph_conv.forward(&params, &edges, x, Source::Op);
            let x = graph_attention.forward(&params, &edges, x, Source::Op);
            output.forward(&params, among.forward(&params, &edges, x, Source::Op), Source::Op)
        });
        let weights = VicRegWeights { invariance: 25.0, variance: 25.0, covariance: 1.0 };
        let mut gradients = params.gradients(vicreg(a, b, weights).loss).unwrap();
        gradients.clip(1.0);
        optimizer.step(&mut params, &gradients, 1e-2);
    }
    params.iter().flat_map(|param| param.values()).map(f32::to_bits).collect()
}

#[test]
fn the_number_of_threads_changes_no_bytes() {
    let [one, two, three] = [1, 2, 3]
        .map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(train));
    assert!(one == two && one == three);
}
