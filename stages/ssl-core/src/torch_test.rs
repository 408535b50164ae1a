//! The same networks from the same weights on the same batch, here and in PyTorch, for ten steps.

use std::{path::Path, process::Command, sync::Arc};

use restage_nn::{
    AdamW, Linear, MaskToken, Matrix, Params, Projection, Recording, Scalar, Source, Sparse, VicRegWeights,
    dfdx::prelude::*, masked_mse, nt_xent, tensor, values, vicreg,
};
use restage_stage::{
    artifact::{Artifact, Model, Weight},
    context::rng,
};
use serde_json::{Value, json};

use crate::{
    augment::Augment,
    dgi::Dgi,
    encoder::{Encoder, Fuse, Fusion, GeneEncoder, GraphLayer, GraphNet, HeadNorm, Net, Projector},
    expression::{Expression, Scaler},
    graph_autoencoder::{GraphAutoencoder, Mask},
    joint::{Joint, Method},
    mae::{self, MaeDecoder},
    optical_density::Colours,
    params::Readout,
    pretext::by_places,
    safetensors::Exported,
    sections::Sections,
    tests::{
        graph::{grid, tissue},
        patches, table,
    },
    train::{Memory, Objective},
    views::{FusedViews, GeneViews, PatchViews, Views},
};

const SCRIPT: &str = r#"
import json, sys, torch, torch.nn as nn, torch.nn.functional as F
from safetensors.torch import load_file
folder = sys.argv[1]
task = json.load(open(f"{folder}/task.json"))
state = load_file(f"{folder}/model.safetensors")
torch.set_num_threads(1)
def part(name, *layers):
    net = nn.Sequential(*layers)
    net.load_state_dict({k[len(name) + 1:]: v for k, v in state.items() if k.startswith(name + ".")})
    return net
def vicreg(a, b):
    def spread(z):
        z = z - z.mean(0)
        cov = z.T @ z / (len(z) - 1)
        off = cov.pow(2).sum() - cov.diagonal().pow(2).sum()
        return F.relu(1 - torch.sqrt(z.var(0) + 1e-4)).mean(), off / z.shape[1]
    (va, ca), (vb, cb) = spread(a), spread(b)
    return 25 * F.mse_loss(a, b) + 25 * (va + vb) / 2 + ca + cb
def nt_xent(a, b, t=0.2):
    z = F.normalize(torch.cat([a, b]))
    s = z @ z.T / t
    s.fill_diagonal_(float("-inf"))
    n = len(a)
    return F.cross_entropy(s, (torch.arange(2 * n) + n) % (2 * n))
class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
    def forward(self, x, hidden=None):
        z = self.norm1(x)
        x = x + self.attn(z, z, z, need_weights=False, attn_mask=hidden)[0]
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
def sincos(side, width):
    angle = torch.arange(side)[:, None] / 10000 ** (torch.arange(width // 4) / (width // 4))
    along = torch.cat([angle.sin(), angle.cos()], 1)
    return torch.cat([along.repeat(side, 1), along.repeat_interleave(side, 0)], 1)
class Transformer(nn.Module):
    """Names as timm has them; PyTorch's attention, whose names differ."""
    def __init__(self, name, blocks, heads, **layers):
        super().__init__()
        self.blocks = nn.ModuleList([Block(layers["norm"].normalized_shape[0], heads) for _ in range(blocks)])
        for key, layer in layers.items(): setattr(self, key, layer)
        rename = lambda k: k[len(name) + 1:].replace("patch_embed.proj", "embed").replace("attn.qkv.", "attn.in_proj_").replace("attn.proj", "attn.out_proj")
        found = {rename(k): v for k, v in state.items() if k.startswith(name + ".")}
        if "mask_token" in found: self.mask_token = nn.Parameter(torch.zeros(found["mask_token"].shape))
        self.load_state_dict(found)
    def through(self, x, hidden=None):
        for block in self.blocks: x = block(x, hidden)
        return self.norm(x)
class OnGraph(nn.Module):
    def __init__(self, name, edges):
        super().__init__()
        weights = {k[len(name) + 1:]: v for k, v in state.items() if k.startswith(name + ".")}
        self.names = list(weights)
        self.w = nn.ParameterList(weights.values())
        self.edges = edges
    def forward(self, x):
        w = dict(zip(self.names, self.w))
        h = x @ w["lin.weight"].T
        if "att_src" not in w:
            return self.edges @ h + w["bias"]
        heads, width = w["att_src"].shape[1:]
        h = h.reshape(len(h), heads, width)
        scores = F.leaky_relu((h * w["att_src"]).sum(-1)[None] + (h * w["att_dst"]).sum(-1)[:, None], 0.2)
        scores = scores.masked_fill(self.edges[:, :, None] == 0, float("-inf"))
        return torch.einsum("ijh,jhd->ihd", scores.softmax(1), h).flatten(1) + w["bias"]
def graph_encoder(kind, edges):
    """What is trained, and what it does."""
    if kind == "transformer":
        net = Transformer("encoder", 2, 4, embed=nn.Linear(12, 16), norm=nn.LayerNorm(16), head=nn.Linear(16, 8))
        return [net], lambda x: net.head(net.through(net.embed(x)[None], edges == 0)[0])
    layer, rest = OnGraph("encoder.0", edges), nn.Sequential(nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 8))
    rest.load_state_dict({f"{int(k[8]) - 1}{k[9:]}": v for k, v in state.items() if k[:9] in ("encoder.1", "encoder.3")})
    return [layer, rest], lambda x: rest(layer(x))
def weight(name):
    """A weight alone, and what it does."""
    linear = nn.Linear(*state[name + ".weight"].shape[::-1], bias=False)
    linear.load_state_dict({"weight": state[name + ".weight"]})
    return linear
if task["kind"] in ("gcn", "gat", "transformer"):
    spots = task["spots"]
    edges = torch.tensor(task["edges"]).reshape(spots, spots)
    x = torch.tensor(task["input"]).reshape(spots, 12)
    nets, encoder = graph_encoder(task["kind"], edges)
    if task["objective"] == "dgi":
        # Veličković et al. 2019, and GraphST's summaries of a spot's surroundings, both ways.
        score_by = weight("discriminator")
        nets.append(score_by)
        other = torch.tensor(task["corrupted"]).reshape(spots, 12)
        bce = F.binary_cross_entropy_with_logits
        near = (edges > 0).float()
        # Spots are of one section if they are as many places apart at most: sections have 64.
        section = (torch.arange(spots)[:, None] // 64 == torch.arange(spots)[None] // 64).float()
        mean = section if task["readout"] == "section" else near
        mean = mean / mean.sum(1, keepdim=True)
        def told(true, false):
            by = score_by(torch.sigmoid(mean @ true))
            scores = torch.cat([(true * by).sum(1), (false * by).sum(1)])
            return bce(scores, torch.cat([torch.ones(spots), torch.zeros(spots)]))
        def loss():
            true, false = encoder(x), encoder(other)
            return told(true, false) if task["readout"] == "section" else (told(true, false) + told(false, true)) / 2
    else:
        decoder = OnGraph("decoder", edges)
        nets.append(decoder)
        if task["objective"] == "graph_mask":
            # GraphMAE (Hou et al. 2022): a token for hidden spots, nothing of them in the decoder, scaled cosine error.
            bridge, token = weight("bridge"), nn.ParameterList([state["token"]])
            nets += [bridge, token]
            hidden = torch.zeros(spots, dtype=torch.bool)
            hidden[torch.tensor(task["hidden"])] = True
            def loss():
                z = bridge(encoder(torch.where(hidden[:, None], token[0], x)))
                made = decoder(torch.where(hidden[:, None], torch.zeros(()), z))
                return (1 - F.cosine_similarity(made[hidden], x[hidden])).pow(3).mean()
        else:
            loss = lambda: F.mse_loss(decoder(encoder(x)), x)
elif task["kind"] == "fused":
    small = lambda name: part(name, nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.GroupNorm(8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8))
    patches, genes = small("encoder.patches"), part("encoder.genes", nn.Linear(12, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 8))
    projector = part("projector", nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 16))
    nets = [patches, genes, projector]
    if task["fusion"] == "concat":
        of_patches = nn.Linear(8, 8)
        of_patches.load_state_dict({k: state[f"encoder.fusion.patches.{k}"] for k in ("weight", "bias")})
        of_genes = weight("encoder.fusion.genes")
        nets += [of_patches, of_genes]
        fuse = lambda p, g: of_patches(p) + of_genes(g)
    elif task["fusion"] == "sum":
        fuse = lambda p, g: p + g
    else:
        hidden = nn.Linear(8, 8)
        hidden.load_state_dict({k: state[f"encoder.fusion.hidden.{k}"] for k in ("weight", "bias")})
        q = weight("encoder.fusion.score")
        nets += [hidden, q]
        def fuse(p, g):
            share = torch.cat([q(torch.tanh(hidden(z))) for z in (p, g)], 1).softmax(1)
            return share[:, :1] * p + share[:, 1:] * g
    views = [(torch.tensor(i).reshape(40, 8, 8, 3).permute(0, 3, 1, 2), torch.tensor(g).reshape(40, 12))
             for i, g in zip(task["images"], task["genes"])]
    criterion = {"vicreg": vicreg, "simclr": nt_xent}[task["contrast"]]
    loss = lambda: criterion(*[projector(fuse(patches(image), genes(row))) for image, row in views])
elif task["kind"] == "mlp":
    encoder = part("encoder", nn.Linear(12, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 8))
    decoder = nn.Linear(8, 12)
    decoder.load_state_dict({k[8:]: v for k, v in state.items() if k.startswith("decoder.")})
    nets = [encoder, decoder]
    x, target = (torch.tensor(task[k]).reshape(32, 12) for k in ("input", "target"))
    mask = torch.tensor(task["mask"]).reshape(32, 12)
    loss = lambda: ((decoder(encoder(x)) - target)[mask] ** 2).mean()
elif task["kind"] in ("vit", "mae"):
    encoder = Transformer("encoder", 2, 3, embed=nn.Conv2d(3, 12, 4, 4), norm=nn.LayerNorm(12), head=nn.Linear(12, 8))
    views = [torch.tensor(task[k]).reshape(20, 12, 12, 3).permute(0, 3, 1, 2) for k in ("input", "target")]
    tokens = lambda images: encoder.embed(images).flatten(2).transpose(1, 2) + sincos(3, 12)
    if task["kind"] == "vit":
        nets = [encoder]
        loss = lambda: nt_xent(*[encoder.head(encoder.through(tokens(view)).mean(1)) for view in views])
    else:
        decoder = Transformer("decoder", 1, 2, embed=nn.Linear(8, 8), norm=nn.LayerNorm(8), pred=nn.Linear(8, 48))
        nets = [encoder, decoder]
        seen = torch.tensor(task["seen"]).reshape(20, -1, 1)
        target = views[0].reshape(20, 3, 3, 4, 3, 4).permute(0, 2, 4, 3, 5, 1).reshape(20, 9, 48)
        target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
        hidden = torch.ones(20, 9).scatter(1, seen[:, :, 0], 0.0)
        def loss():
            x = tokens(views[0]).gather(1, seen.expand(-1, -1, 12))
            x = decoder.embed(encoder.head(encoder.through(x)))
            x = decoder.mask_token.expand(20, 9, -1).scatter(1, seen.expand(-1, -1, 8), x) + sincos(3, 8)
            errors = ((decoder.pred(decoder.through(x)) - target) ** 2).mean(2)
            return (errors * hidden).sum() / hidden.sum()
else:
    encoder = part("encoder", nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.GroupNorm(8, 8), nn.ReLU(),
                   nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.GroupNorm(8, 16), nn.ReLU(),
                   nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8))
    projector = part("projector", nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 16))
    nets = [encoder, projector]
    views = [torch.tensor(task[k]).reshape(20, 12, 12, 3).permute(0, 3, 1, 2) for k in ("input", "target")]
    criterion = {"vicreg": vicreg, "simclr": nt_xent}[task["kind"]]
    loss = lambda: criterion(*[projector(encoder(view)) for view in views])
params = [p for net in nets for p in net.parameters()]
optimizer = torch.optim.AdamW([{"params": [p for p in params if p.ndim > 1], "weight_decay": 0.01},
                               {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0}], lr=task["rate"])
losses = []
for _ in range(10):
    optimizer.zero_grad()
    value = loss()
    value.backward()
    losses.append(value.item())
    optimizer.step()
print(json.dumps(losses))
"#;

/// A Python that has torch, or none.
fn python() -> Option<std::ffi::OsString> {
    let named = ["RESTAGE_TORCH_PYTHON", "RESTAGE_PYTHON"].into_iter().filter_map(std::env::var_os);
    let found = named.chain(["python3".into()]).find(|python| {
        let asked = Command::new(python).args(["-c", "import torch, safetensors"]).output();
        asked.is_ok_and(|asked| asked.status.success())
    });
    if found.is_none() {
        println!("skipped: no Python with torch and safetensors (set RESTAGE_TORCH_PYTHON)");
    }
    found
}

fn draws(name: &str, count: usize) -> Vec<f32> {
    let mut rng = rng(5, name);
    (0..count).map(|_| rand::Rng::random_range(&mut rng, -1.5..1.5)).collect()
}

/// Ten losses of ours, and of PyTorch's from the same weights.
fn compare(mut params: Params, task: Value, loss: impl Fn(&Params) -> Scalar<Recording>) {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let weights = params
        .iter()
        .map(|param| (param.name.clone(), Weight { shape: param.shape.clone(), values: param.values() }));
    let model = Model { architecture: Value::Null, weights: weights.collect() };
    Exported(model).write(folder.path()).unwrap();
    std::fs::write(folder.path().join("task.json"), task.to_string()).unwrap();

    let rate = task["rate"].as_f64().unwrap() as f32;
    let mut optimizer = AdamW::new(&params, 0.01);
    let mut ours = Vec::new();
    for _ in 0..10 {
        let loss = loss(&params);
        ours.push(f64::from(loss.array()));
        let gradients = params.gradients(loss).unwrap();
        optimizer.step(&mut params, &gradients, rate);
    }
    let theirs = torch(&python, folder.path());
    println!("{}: {ours:?} {theirs:?}", task["kind"]);
    assert_eq!(theirs.len(), 10);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!((ours - theirs).abs() < 1e-4 * theirs.abs().max(1.0), "{}: {ours} {theirs}", task["kind"]);
    }
    // They do learn.
    assert!(theirs[9] < theirs[0]);
}

fn torch(python: &std::ffi::OsStr, folder: &Path) -> Vec<f64> {
    let output = Command::new(python).args(["-c", SCRIPT]).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn ten_steps_on_genes_are_those_of_pytorch() {
    let (mut params, mut rng) = (Params::default(), rng(1, "init"));
    let encoder =
        Net::of_genes(&mut params, "encoder", &Encoder::Mlp { hidden: vec![16] }, (12, 8), &mut rng).unwrap();
    let decoder = Linear::new(&mut params, "decoder", 8, 12, &mut rng);
    let (input, target) = (draws("input", 32 * 12), draws("target", 32 * 12));
    let mask: Vec<bool> = draws("mask", 32 * 12).iter().map(|value| *value > 0.0).collect();
    let task = json!({ "kind": "mlp", "rate": 0.003, "input": input, "target": target, "mask": mask });
    compare(params, task, |params| {
        let x = tensor(input.clone(), (32, 12)).leaky_traced();
        let prediction = decoder.forward(params, encoder.forward(params, x), Source::Op);
        masked_mse(prediction, target.clone(), mask.clone())
    });
}

fn graph_encoders() -> [Encoder; 3] {
    [
        Encoder::Gcn { hidden: vec![16] },
        Encoder::Gat { hidden: vec![16], heads: 4 },
        Encoder::Transformer { width: 16, depth: 2, heads: 4 },
    ]
}

/// `graph_ae`, in PyTorch on a dense matrix of edges.
#[test]
fn ten_steps_on_a_graph_are_those_of_pytorch() {
    let kinds = graph_encoders();
    // Rings of spots, each with some more neighbours.
    let near =
        |spot: usize| (0..32).filter(move |other| (spot + 32 - other) % 32 < 3 || (spot * other) % 13 == 5);
    let weight = |spot: usize, other: usize| 0.1 + ((spot + 2 * other) as f32).sin().abs();
    let row = |spot: usize| near(spot).map(|other| (other, weight(spot, other))).collect::<Vec<_>>();
    let mut dense = vec![0.0; 32 * 32];
    (0..32).for_each(|spot| row(spot).iter().for_each(|(other, weight)| dense[spot * 32 + other] = *weight));
    let edges = Sparse::from_rows(32, (0..32).map(row));
    let input = draws("input", 32 * 12);
    for kind in kinds {
        let (mut params, mut rng) = (Params::default(), rng(1, "init"));
        let encoder = GraphNet::new(&mut params, "encoder", &kind, (12, 8), &mut rng).unwrap();
        let decoder = GraphLayer::decoder(&mut params, "decoder", &kind, (8, 12), &mut rng);
        let task = json!({
            "kind": kind.name(), "objective": "graph_ae", "rate": 0.003, "spots": 32, "input": input, "edges": dense
        });
        compare(params, task, |params| {
            let x = tensor(input.clone(), (32, 12)).leaky_traced();
            let embeddings = encoder.forward(params, &edges, x, Source::Data);
            let prediction = decoder.forward(params, &edges, embeddings, Source::Op);
            masked_mse(prediction, input.clone(), vec![true; 32 * 12])
        });
    }
}

/// Whole steps of objectives on two sections, with what they drew.
#[test]
fn ten_steps_of_objectives_on_a_graph_are_those_of_pytorch() {
    let (table, graph) = (tissue(2, 12), grid(2));
    let rows: Vec<usize> = (0..128).collect();
    let expression = || {
        let scaler = Scaler::fit(&table.var.index, &table.x);
        Expression::new(&table, &rows, scaler).unwrap()
    };
    let sections = || Arc::new(Sections::new(&table, &graph, &rows).unwrap());
    let whole = sections();
    let batch = whole.batch(&[0, 1]);
    let one = |at: usize| if at / 128 == at % 128 { 1.0 } else { 0.0 };
    let edges = values(&batch.edges.product(tensor((0..128 * 128).map(one).collect(), (128, 128))));
    let input = expression().values(&batch.spots);
    let kind = Encoder::Gcn { hidden: vec![16] };
    let start = || {
        let (mut params, mut rng) = (Params::default(), rng(1, "init"));
        let encoder = GraphNet::new(&mut params, "encoder", &kind, (12, 8), &mut rng).unwrap();
        (params, rng, encoder)
    };
    let task = |objective: &str| {
        json!({
            "kind": "gcn", "objective": objective, "rate": 0.003, "spots": 128, "input": input, "edges": edges
        })
    };
    let steps = |params: Params, task: Value, objective: &dyn Objective| {
        compare(params, task, |params| objective.step(params, &Memory::default(), 0, &[0, 1]).loss);
    };
    for readout in [Readout::Section, Readout::Neighbours] {
        let (mut params, mut rng, encoder) = start();
        let discriminator = Projection::new(&mut params, "discriminator", 8, 8, &mut rng);
        let (expression, sections) = (expression(), sections());
        let dgi = Dgi { expression, sections, encoder, discriminator, readout, seed: 5 };
        let [real, corrupted] = dgi.inputs(0, &batch);
        assert!(real == input && corrupted != input);
        let mut task = task("dgi");
        (task["corrupted"], task["readout"]) = (json!(corrupted), json!(readout));
        steps(params, task, &dgi);
    }
    for is_masked in [false, true] {
        let (mut params, mut rng, encoder) = start();
        let decoder = GraphLayer::decoder(&mut params, "decoder", &kind, (8, 12), &mut rng);
        let mask = is_masked.then(|| Mask {
            rate: 0.3,
            token: MaskToken::new(&mut params, "token", 12),
            bridge: Projection::new(&mut params, "bridge", 8, 8, &mut rng),
            gamma: 3.0,
        });
        let (expression, sections) = (expression(), sections());
        let objective = GraphAutoencoder { expression, sections, encoder, decoder, mask, seed: 5 };
        let mut task = task(if is_masked { "graph_mask" } else { "graph_ae" });
        task["hidden"] = json!(objective.hidden(0.3, 0, &batch));
        steps(params, task, &objective);
    }
}

/// Whole steps of `fused_contrast`, with the views that it drew.
#[test]
fn ten_steps_of_fused_contrast_are_those_of_pytorch() {
    let (table, patches) = (table(40, 12), patches(40, 8));
    let rows: Vec<usize> = (0..40).collect();
    for (fusion, contrast) in
        [(Fusion::Concat, "vicreg"), (Fusion::Sum, "simclr"), (Fusion::Attention, "simclr")]
    {
        let (mut params, mut rng) = (Params::default(), rng(1, "init"));
        let cnn = Encoder::Cnn { channels: vec![8] };
        let of_patches = Net::of_patches(&mut params, "encoder.patches", &cnn, 8, &mut rng).unwrap();
        let mlp = Encoder::Mlp { hidden: vec![16] };
        let of_genes = Net::of_genes(&mut params, "encoder.genes", &mlp, (12, 8), &mut rng).unwrap();
        let fuse = Fuse::new(&mut params, "encoder.fusion", fusion, 8, &mut rng);
        let scaler = Scaler::fit(&table.var.index, &table.x);
        let patches = PatchViews {
            patches: &patches,
            positions: &rows,
            colours: Colours::fit(&patches, &rows),
            augment: Augment { crop: (0.6, 1.0), stain: 0.1, colour: 0.2 },
            crops: None,
            encoder: of_patches,
            seed: 5,
        };
        let genes = GeneViews {
            expression: Expression::new(&table, &rows, scaler).unwrap(),
            encoder: GeneEncoder::Alone(of_genes),
            hidden: 0.2,
            noise: 0.5,
            swapped: 0.1,
            seed: 5,
        };
        let views = [0, 1].map(|view| (patches.images(0, view, &rows), genes.draw(0, view, &rows).values));
        let projector = Projector::new(&mut params, "projector", (8, &[16, 16]), HeadNorm::Layer, &mut rng);
        let weights = VicRegWeights { invariance: 25.0, variance: 25.0, covariance: 1.0 };
        let method = match contrast {
            "vicreg" => Method::Vicreg(weights),
            _ => Method::Simclr { temperature: 0.2 },
        };
        let views_of = FusedViews { patches, genes, fuse };
        let objective = Joint { views: views_of, projector, method, momentum: 0.0 };
        let task = json!({
            "kind": "fused", "fusion": fusion, "contrast": contrast, "rate": 0.0003,
            "images": views.each_ref().map(|(images, _)| images), "genes": views.each_ref().map(|(_, genes)| genes)
        });
        compare(params, task, |params| objective.step(params, &Memory::default(), 0, &rows).loss);
    }
}

/// Twenty images of 12 pixels, each with stripes of its own.
fn stripes(name: &str) -> Vec<f32> {
    let stripes = draws("stripes", 2 * 20);
    let pixels = draws(name, 20 * 12 * 12 * 3).into_iter().enumerate();
    let stripe = |at: usize| {
        let (image, row, column) = (at / 432, at % 432 / 36, at % 36 / 3);
        (stripes[2 * image] * row as f32 + stripes[2 * image + 1] * column as f32 + (at % 3) as f32).sin()
    };
    pixels.map(|(at, noise)| stripe(at) + 0.1 * noise).collect()
}

#[test]
fn ten_steps_on_patches_are_those_of_pytorch() {
    let (mut params, mut rng) = (Params::default(), rng(1, "init"));
    let kind = Encoder::Cnn { channels: vec![8, 16] };
    let encoder = Net::of_patches(&mut params, "encoder", &kind, 8, &mut rng).unwrap();
    let projector = Projector::new(&mut params, "projector", (8, &[16, 16]), HeadNorm::Layer, &mut rng);
    let (left, right) = (stripes("left"), stripes("right"));
    let project = |params: &Params, view: &[f32]| -> Matrix<Recording> {
        let images = tensor(view.to_vec(), (20, 12, 12, 3)).leaky_traced();
        projector.forward(params, encoder.forward(params, images))
    };
    let weights = VicRegWeights { invariance: 25.0, variance: 25.0, covariance: 1.0 };
    // Small steps: of a gradient near 0, rounding decides where Adam's first goes, and in single precision PyTorch is as far from
    // itself in double precision as it is from us.
    for kind in ["vicreg", "simclr"] {
        let task = json!({ "kind": kind, "rate": 0.0003, "input": left, "target": right });
        compare(params.clone(), task, |params| {
            let (a, b) = (project(params, &left), project(params, &right));
            if kind == "vicreg" { vicreg(a, b, weights).loss } else { nt_xent(a, b, 0.2) }
        });
    }
}

#[test]
fn ten_steps_of_a_transformer_are_those_of_pytorch() {
    let (mut params, mut rng) = (Params::default(), rng(1, "init"));
    let kind = Encoder::Vit { patch: 4, width: 12, depth: 2, heads: 3 };
    let encoder = Net::of_patches(&mut params, "encoder", &kind, 8, &mut rng).unwrap();
    let (left, right) = (stripes("left"), stripes("right"));
    let images = |view: &[f32]| tensor(view.to_vec(), (20, 12, 12, 3)).leaky_traced();
    let task = json!({ "kind": "vit", "rate": 0.0003, "input": left, "target": right });
    compare(params.clone(), task, |params| {
        let [a, b] = [&left, &right].map(|view| encoder.forward(params, images(view)));
        nt_xent(a, b, 0.2)
    });

    let sizes = MaeDecoder { width: 8, depth: 1, heads: 2 };
    let decoder = mae::Decoder::new(&mut params, &sizes, (8, 4), &mut rng);
    // Of nine tokens two others in every patch.
    let seen: Vec<[usize; 2]> = (0..20).map(|patch| [patch % 4, 4 + patch % 5]).collect();
    let rows: Vec<usize> =
        seen.iter().enumerate().flat_map(|(patch, seen)| seen.map(|token| 9 * patch + token)).collect();
    let mut target = by_places(&left, 3, 12, 4, 3);
    mae::normalise(&mut target, 48);
    let mask: Vec<bool> = (0..target.len()).map(|at| !rows.contains(&(at / 48))).collect();
    let task = json!({ "kind": "mae", "rate": 0.001, "input": left, "target": right, "seen": seen });
    compare(params, task, |params| {
        let tokens = encoder.forward_seen(params, images(&left), &rows);
        masked_mse(decoder.forward(params, tokens, &rows, 3), target.clone(), mask.clone())
    });
}
