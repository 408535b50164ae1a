//! What the GPU computes is what the CPU computes: layer by layer, step by step. Where there is no GPU, the kernels run on the CPU by a
//! pretended driver, which says so.

use std::sync::Arc;

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use restage_nn::{
    AdamW, Attention, Conv2d, Device, GraphAttention, GraphConv, GroupNorm, Layer, LayerNorm, Linear,
    NeighbourAttention, Network, ParamId, Params, PatchEmbed, Recording, Sgd, Source, Sparse, Value,
    dfdx::prelude::{AsArray, HasShape, SumTo, Trace},
    masked_mse, nt_xent, tensor, values,
};

use crate::{gpu::Gpu, pretended, resident::Cuda};

/// How far the GPU may be from the CPU, as a share of all values' length: both sum thousands of products in single precision.
const NEAR: f64 = 2e-5;

fn draws(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// The first GPU, or a pretended one; without either, says why a test is skipped.
fn gpu() -> Option<Cuda> {
    pretended::load();
    match Gpu::open(0) {
        Ok(gpu) => Some(Cuda::new(Arc::new(gpu))),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

fn all(params: &Params) -> Vec<Vec<f32>> {
    params.iter().map(|param| param.values()).collect()
}

fn assert_near(what: &str, gpu: &[f32], cpu: &[f32]) {
    assert_eq!(gpu.len(), cpu.len(), "{what}");
    let norm = |values: Vec<f64>| values.into_iter().map(|value| value * value).sum::<f64>().sqrt();
    let distance = norm(gpu.iter().zip(cpu).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect());
    let length = norm(cpu.iter().map(|value| f64::from(*value)).collect());
    assert!(distance <= NEAR * length.max(1e-3), "{what}: {distance:.2e} of {length:.2e}");
}

/// A network that is to be the same on both.
struct Case {
    name: &'static str,
    params: Params,
    network: Network,
    input: Input,
    edges: Arc<Sparse>,
}

#[derive(Clone, Copy)]
enum Input {
    Rows(usize, usize),
    Nodes(usize, usize),
    Images(usize, usize, usize, usize),
}

impl Input {
    fn value(self) -> Value<Recording> {
        match self {
            Self::Rows(rows, columns) | Self::Nodes(rows, columns) => {
                tensor(draws(rows * columns, 1), (rows, columns)).leaky_traced().into()
            }
            Self::Images(count, height, width, channels) => {
                let shape = (count, height, width, channels);
                tensor(draws(count * height * width * channels, 1), shape).leaky_traced().into()
            }
        }
    }
}

/// A graph in which one node has no edge, one has many, and edges lead one way.
fn edges(nodes: usize) -> Arc<Sparse> {
    let is_near = |node: usize, other: usize| match node {
        3 => false,
        5 => true,
        _ => node == other || (node + 7 * other).is_multiple_of(11),
    };
    let weight = |node: usize, other: usize| 0.2 + ((3 * node + 5 * other) as f32).sin().abs();
    let row = |node: usize| {
        let near = (0..nodes).filter(move |other| is_near(node, *other));
        near.map(|other| (other, weight(node, other))).collect()
    };
    Sparse::from_rows(nodes, (0..nodes).map(row))
}

/// Networks of every layer. What comes first has parameters: their gradients tell of the input's gradients of what comes next.
fn cases() -> Vec<Case> {
    let case = |name, input, make: &dyn Fn(&mut Params, &mut ChaCha8Rng) -> Vec<Layer>| {
        let (mut params, mut rng) = (Params::default(), ChaCha8Rng::seed_from_u64(5));
        let network = Network(make(&mut params, &mut rng));
        // Norms that do more than normalise.
        let shaken: Vec<_> = (0..)
            .zip(params.iter())
            .map(|(seed, param)| {
                let moved = param.values().into_iter().zip(draws(param.values().len(), seed));
                (param.name.clone(), param.shape.clone(), moved.map(|(a, b)| a + 0.2 * b).collect::<Vec<_>>())
            })
            .collect();
        let find = |name: &str| shaken.iter().find(|(known, ..)| known == name);
        params.load(|name| find(name).map(|(_, shape, values)| (&shape[..], &values[..]))).unwrap();
        let edges = match input {
            Input::Nodes(nodes, _) => edges(nodes),
            _ => Sparse::from_rows(0, []),
        };
        Case { name, params, network, input, edges }
    };
    let conv = |params: &mut Params, rng: &mut ChaCha8Rng, name: &str, channels, window| {
        Layer::Conv2d(Conv2d::new(params, name, channels, window, rng))
    };
    let linear = |params: &mut Params, rng: &mut ChaCha8Rng, name: &str, inputs, outputs| {
        Layer::Linear(Linear::new(params, name, inputs, outputs, rng))
    };
    vec![
        case("linear, layer norm, GELU", Input::Rows(70, 33), &|params, rng| {
            let first = linear(params, rng, "a", 33, 45);
            let norm = Layer::LayerNorm(LayerNorm::new(params, "b", 45));
            vec![first, norm, Layer::Gelu, linear(params, rng, "c", 45, 7)]
        }),
        case("convolutions, group norm, ReLU, pool", Input::Images(5, 13, 11, 3), &|params, rng| {
            let first = conv(params, rng, "a", (3, 16), (3, 2));
            let norm = Layer::GroupNormRelu(GroupNorm::new(params, "b", 16));
            let second = conv(params, rng, "c", (16, 24), (3, 1));
            let last = Layer::GroupNorm(GroupNorm::new(params, "d", 24));
            vec![first, norm, second, last, Layer::Pool, linear(params, rng, "e", 24, 5)]
        }),
        case("residual", Input::Images(4, 8, 8, 6), &|params, rng| {
            let stem = conv(params, rng, "s", (6, 6), (3, 1));
            let body = vec![
                conv(params, rng, "a", (6, 12), (3, 2)),
                Layer::GroupNormRelu(GroupNorm::new(params, "b", 12)),
                conv(params, rng, "c", (12, 12), (3, 1)),
            ];
            let shortcut = vec![conv(params, rng, "d", (6, 12), (1, 2))];
            let plain = vec![conv(params, rng, "e", (12, 12), (3, 1))];
            let residual =
                |body, shortcut| Layer::Residual { body: Network(body), shortcut: Network(shortcut) };
            vec![stem, residual(body, shortcut), Layer::Relu, residual(plain, Vec::new()), Layer::Gelu]
        }),
        case("transformer", Input::Images(3, 24, 16, 3), &|params, rng| {
            let embed = Layer::PatchEmbed(PatchEmbed::new(params, "p", 3, (8, 24), rng));
            let attend = vec![
                Layer::LayerNorm(LayerNorm::new(params, "n", 24)),
                Layer::Attention(Attention::new(params, "t", 24, 3, rng)),
            ];
            let think = vec![
                Layer::LayerNorm(LayerNorm::new(params, "m", 24)),
                linear(params, rng, "u", 24, 48),
                Layer::Gelu,
                linear(params, rng, "v", 48, 24),
            ];
            let residual = |body| Layer::Residual { body: Network(body), shortcut: Network::default() };
            vec![embed, residual(attend), residual(think), Layer::Pool]
        }),
        case("graph convolutions", Input::Nodes(70, 33), &|params, rng| {
            let conv = |params: &mut Params, rng: &mut ChaCha8Rng, name, inputs, outputs| {
                Layer::GraphConv(GraphConv::new(params, name, inputs, outputs, rng))
            };
            let first = linear(params, rng, "a", 33, 20);
            let (wider, narrower) = (conv(params, rng, "b", 20, 45), conv(params, rng, "c", 45, 7));
            vec![first, wider, Layer::Gelu, narrower]
        }),
        case("graph attention", Input::Nodes(70, 33), &|params, rng| {
            let attend = |params: &mut Params, rng: &mut ChaCha8Rng, name, inputs, sizes| {
                Layer::GraphAttention(GraphAttention::new(params, name, inputs, sizes, rng))
            };
            let first = attend(params, rng, "a", 33, (24, 3));
            let norm = Layer::LayerNorm(LayerNorm::new(params, "b", 24));
            vec![first, norm, Layer::Gelu, attend(params, rng, "c", 24, (6, 1))]
        }),
        case("transformer of spots", Input::Nodes(70, 33), &|params, rng| {
            let embed = linear(params, rng, "a", 33, 24);
            let mut among = |name: &str| {
                let norm = Layer::LayerNorm(LayerNorm::new(params, &format!("{name}.n"), 24));
                let name = format!("{name}.t");
                let attend = Layer::NeighbourAttention(NeighbourAttention::new(params, &name, 24, 3, rng));
                Layer::Residual { body: Network(vec![norm, attend]), shortcut: Network::default() }
            };
            vec![embed, among("b"), among("c")]
        }),
    ]
}

/// The output, and the parameters after a step of gradient descent on a weighing of it.
fn stepped(case: &Case, device: Option<&dyn Device>) -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut params = case.params.clone();
    if let Some(device) = device {
        params.place(device, &case.network.parameters()).unwrap();
    }
    let y = case.network.forward_on(&params, &case.edges, case.input.value(), Source::Data).rows();
    let output = values(&y);
    let weights = (0..output.len()).map(|i| (1.1 + 0.7 * i as f32).cos()).collect();
    let weights = tensor(weights, *y.shape());
    let loss = (y * weights).sum();
    let gradients = params.gradients(loss).unwrap();
    let mut descent = Sgd::new(&params, 0.0, 0.0, None);
    descent.place(&params);
    descent.step(&mut params, &gradients, 1.0);
    assert_eq!(params.failure(), None);
    params.leave();
    (output, all(&params))
}

#[test]
fn every_layer_is_the_cpus_forward_and_back() {
    let Some(device) = gpu() else { return };
    for case in cases() {
        let (output, params) = stepped(&case, None);
        let (gpu_output, gpu_params) = stepped(&case, Some(&device));
        assert_near(case.name, &gpu_output, &output);
        for (at, param) in case.params.iter().enumerate() {
            let slope = |after: &[Vec<f32>]| -> Vec<f32> {
                after[at].iter().zip(param.values()).map(|(after, before)| before - after).collect()
            };
            assert_near(&format!("{}: {}", case.name, param.name), &slope(&gpu_params), &slope(&params));
        }
        let again = stepped(&case, Some(&device));
        assert!(again.0 == gpu_output && again.1 == gpu_params, "{}: the same bytes again", case.name);
    }
}

/// Ten steps with a teacher that follows, saved and placed again in the middle.
fn trained(device: Option<&dyn Device>, kind: &str) -> (Vec<f32>, Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let (mut params, mut rng) = (Params::default(), ChaCha8Rng::seed_from_u64(3));
    let encoder = Network(vec![
        Layer::Conv2d(Conv2d::new(&mut params, "a", (3, 16), (3, 2), &mut rng)),
        Layer::GroupNormRelu(GroupNorm::new(&mut params, "b", 16)),
        Layer::Conv2d(Conv2d::new(&mut params, "c", (16, 32), (3, 2), &mut rng)),
        Layer::GroupNormRelu(GroupNorm::new(&mut params, "d", 32)),
        Layer::Pool,
    ]);
    let projector = Network(vec![
        Layer::Linear(Linear::new(&mut params, "e", 32, 32, &mut rng)),
        Layer::LayerNorm(LayerNorm::new(&mut params, "f", 32)),
        Layer::Relu,
    ]);
    // One that stays here.
    let head = Linear::new(&mut params, "g", 32, 16, &mut rng);
    let ids: Vec<ParamId> = [encoder.parameters(), projector.parameters()].concat();
    let mut adamw = AdamW::new(&params, 0.05);
    let (momentum, eta) = (0.9, (kind == "lars").then_some(0.02));
    let mut sgd = Sgd::new(&params, momentum, 0.05, eta);
    let mut teacher = params.clone();
    let (left, right) = (draws(12 * 16 * 16 * 3, 8), draws(12 * 16 * 16 * 3, 9));
    let mut losses = Vec::new();
    for step in 0..10 {
        if let Some(device) = device.filter(|_| step % 5 == 0) {
            adamw.fetch(&params);
            sgd.fetch(&params);
            params.place(device, &ids).unwrap();
            teacher.place(device, &ids).unwrap();
            adamw.place(&params);
            sgd.place(&params);
        }
        let view = |images: &[f32]| {
            let images = tensor(images.to_vec(), (12, 16, 16, 3)).leaky_traced();
            let embeddings = encoder.forward(&params, images.into(), Source::Data);
            let projected = projector.forward(&params, embeddings, Source::Op).rows();
            head.forward(&params, projected, Source::Op)
        };
        let loss = nt_xent(view(&left), view(&right), 0.2);
        losses.push(loss.array());
        let mut gradients = params.gradients(loss).unwrap();
        let norm = gradients.clip(0.5);
        losses.push(norm);
        match kind {
            "adamw" => adamw.step(&mut params, &gradients, 1e-3),
            _ => sgd.step(&mut params, &gradients, 1e-2),
        }
        teacher.follow(&params, 0.9);
    }
    assert_eq!(params.failure(), None);
    params.leave();
    teacher.leave();
    (losses, all(&params), all(&teacher))
}

#[test]
fn ten_steps_are_the_cpus() {
    let Some(device) = gpu() else { return };
    for kind in ["adamw", "sgd", "lars"] {
        let cpu = trained(None, kind);
        let gpu = trained(Some(&device), kind);
        for (at, (gpu, cpu)) in gpu.0.iter().zip(&cpu.0).enumerate() {
            assert!((gpu - cpu).abs() < 1e-3 * cpu.abs(), "{kind}, loss or norm {at}: {gpu} {cpu}");
        }
        for (gpu, cpu) in gpu.1.iter().chain(&gpu.2).zip(cpu.1.iter().chain(&cpu.2)) {
            // Adam's first steps go by the sign of gradients, also of those that are 0 up to rounding.
            let far = gpu.iter().zip(cpu).filter(|(gpu, cpu)| (*gpu - *cpu).abs() > 1e-4).count();
            assert!(far * 100 <= gpu.len(), "{kind}: {far} of {}", gpu.len());
        }
        assert!(cpu.0[18] < cpu.0[0], "{kind} learns");
        let again = trained(Some(&device), kind);
        assert!(again == gpu, "{kind}: the same bytes again");
    }
}

/// Three steps of all parameters but those of the first layer, which decay would move too.
fn held(device: Option<&dyn Device>) -> (Vec<f32>, Vec<Vec<f32>>) {
    let (mut params, mut rng) = (Params::default(), ChaCha8Rng::seed_from_u64(3));
    let network = Network(vec![
        Layer::Linear(Linear::new(&mut params, "still.a", 6, 8, &mut rng)),
        Layer::LayerNorm(LayerNorm::new(&mut params, "still.b", 8)),
        Layer::Gelu,
        Layer::Linear(Linear::new(&mut params, "c", 8, 4, &mut rng)),
    ]);
    let learns = |name: &str| !name.starts_with("still");
    let mut optimizer = AdamW::new(&params, 0.5);
    if let Some(device) = device {
        params.place(device, &network.parameters()).unwrap();
        params.hold(|param| !learns(&param.name));
        optimizer.place(&params);
    }
    let mut norms = Vec::new();
    for _ in 0..3 {
        let x = tensor(draws(20 * 6, 4), (20, 6)).leaky_traced();
        let y = network.forward(&params, x.into(), Source::Data).rows();
        let mut gradients = params.gradients(masked_mse(y, vec![1.0; 80], vec![true; 80])).unwrap();
        gradients.keep(&params, |param| learns(&param.name));
        norms.push(gradients.clip(0.1));
        optimizer.step_away(&params, 1e-2);
        optimizer.step_each(&mut params, &gradients, |param| if learns(&param.name) { 1e-2 } else { 0.0 });
    }
    assert_eq!(params.failure(), None);
    params.leave();
    (norms, all(&params))
}

#[test]
fn held_parameters_stay_and_count_in_no_norm() {
    let Some(device) = gpu() else { return };
    let ((norms, params), (gpu_norms, gpu_params)) = (held(None), held(Some(&device)));
    assert_near("norms", &gpu_norms, &norms);
    assert_eq!(gpu_params[..4], params[..4]);
    for (gpu, cpu) in gpu_params[4..].iter().zip(&params[4..]) {
        assert_near("parameters that move", gpu, cpu);
    }
}

/// A device that is out of memory fails with words, and what it gives until then is no number.
#[test]
fn a_failure_is_told() {
    let Some(device) = gpu() else { return };
    let (mut params, mut rng) = (Params::default(), ChaCha8Rng::seed_from_u64(3));
    let network = Network(vec![
        Layer::Linear(Linear::new(&mut params, "a", 1, 1 << 20, &mut rng)),
        Layer::Linear(Linear::new(&mut params, "b", 1 << 20, 1, &mut rng)),
    ]);
    params.place(&device, &network.parameters()).unwrap();
    let rows = 1 << 19;
    let x = tensor(vec![1.0; rows], (rows, 1));
    let y = network.forward(&params, x.into(), Source::Data).rows();
    assert!(values(&y).iter().all(|value| value.is_nan()));
    let failure = params.failure().unwrap();
    assert!(failure.contains("OUT_OF_MEMORY"), "{failure}");
}
