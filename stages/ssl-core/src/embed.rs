//! `ssl/embed`: one vector per spot from a trained encoder.

use std::sync::Arc;

use restage_nn::{Device, Matrix, Params, Source, pick, tensor, values};
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Embedding, Graph, Model, Patches, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    architecture::{Architecture, Encoders, OfGenes, OfPatches},
    device::{self, Choice},
    encoder::{Fuse, GeneNet, GraphNet, Net},
    expression::{Expression, Scaler},
    sections::Sections,
};

/// Spots that go through the encoder at once.
const BATCH: usize = 256;

/// How many spots tell whether embeddings differ.
const SOME: usize = 32;

/// The stage type.
pub struct Embed;

/// What `with:` of `ssl/embed` holds: all that matters is in the model.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EmbedParams {
    /// Where it computes: `auto`, `cpu`, or `cuda:0` of plugin `ssl-cuda`. Default `auto`: a GPU if the plugin is for GPUs and there
    /// is one.
    #[schemars(extend("x-restage-unkeyed" = true))]
    pub device: Choice,
}

impl Stage for Embed {
    const NAME: &'static str = "embed";
    type Params = EmbedParams;

    fn ports() -> Ports {
        Ports::new(
            "Embeds all spots with a pretrained encoder: what it gives for whole, unchanged inputs. Of a pair (`cross_modal`) \
             those whose inputs are connected; of both, one after the other, each scaled to length 1. Of `fused_contrast` the one that \
             it makes of both.",
        )
        .input::<Model>("model", "An encoder of ssl/pretrain")
        .optional::<Table>("table", "Expression, for an encoder of genes; normalised as in its training")
        .optional::<Graph>(
            "graph",
            "Who is a neighbour, for an encoder on a graph; make it with the split to keep training and test spots apart",
        )
        .optional::<Patches>("patches", "Patches, for an encoder of patches; of the same size as in its training")
        .at_least_one(&["table", "patches"])
        .output::<Embedding>("embedding", "One vector per spot of the table or the patches; of both, of those in both")
    }

    fn run(params: EmbedParams, ctx: &Context) -> Result<()> {
        embed(ctx, params.device.on_cpu()?)
    }
}

/// Does what the stage type does, with networks on this device; without one, on the CPU.
///
/// # Errors
/// If inputs do not fit the model, or the device fails.
pub fn embed(ctx: &Context, device: Option<&dyn Device>) -> Result<()> {
    let (encoders, mut params) = Architecture::restore(&ctx.read::<Model>("model")?)?;
    if let Some(device) = device {
        let of_patches = encoders.patches.as_ref().map(|(net, _)| net.parameters());
        let of_genes = encoders.genes.as_ref().map(|(net, _)| net.parameters());
        let ids: Vec<_> = [of_patches, of_genes].into_iter().flatten().flatten().collect();
        params.place(device, &ids).map_err(Error::invalid)?;
    }
    let used = encoders.used(ctx)?;
    for (port, is_read) in [("patches", encoders.patches.is_some()), ("table", encoders.genes.is_some())] {
        if !is_read && !ctx.inputs(port).is_empty() {
            tracing::warn!("input `{port}` is connected, but the model has no encoder of it: it is not read");
        }
    }
    let mut found = Vec::new();
    if let Some((net, kind)) = encoders.patches.as_ref().filter(|_| used.patches) {
        found.push(of_patches(ctx, net, kind, &params)?);
    }
    match encoders.genes.as_ref().filter(|_| used.genes) {
        Some((GeneNet::Alone(net), kind)) => found.push(of_genes(ctx, net, kind, &params)?),
        Some((GeneNet::Graph(net), kind)) => found.push(on_graph(ctx, net, kind, &params)?),
        None => {}
    }
    let embedding = match (&found[..], &encoders.fuse) {
        ([patches, genes], Some(fuse)) => fused(patches, genes, fuse, &params)?,
        ([patches, genes], None) => side_by_side(patches, genes)?,
        _ => found.swap_remove(0),
    };
    ctx.write("embedding", &embedding)
}

fn of_genes(ctx: &Context, net: &Net, kind: &OfGenes, params: &Params) -> Result<Embedding> {
    let table: Table = ctx.read("table")?;
    Scaler::check_table(&table)?;
    let genes = kind.scaler.find(&table.var.index)?;
    by_batches(ctx, params, table.obs.index, kind.dim, |spots| {
        genes_of(net, kind, params, kind.scaler.rows(&table.x, &genes, spots))
    })
}

/// Section by section, each as a whole.
fn on_graph(ctx: &Context, net: &GraphNet, kind: &OfGenes, params: &Params) -> Result<Embedding> {
    let table: Table = ctx.read("table")?;
    let graph: Graph = ctx.read("graph")?;
    Scaler::check_table(&table)?;
    let rows: Vec<usize> = (0..table.n_spots()).collect();
    let sections = Sections::new(&table, &graph, &rows)?;
    let expression = Expression::new(&table, &rows, kind.scaler.clone())?;
    let mut embedded = vec![0.0; rows.len() * kind.dim];
    for section in 0..sections.count() {
        ctx.check_cancelled()?;
        let batch = sections.batch(&[section]);
        let x = tensor(expression.values(&batch.spots), (batch.spots.len(), expression.genes()));
        let of_section = values(&net.forward(params, &batch.edges, x, Source::Data));
        for (spot, row) in batch.spots.iter().zip(of_section.chunks_exact(kind.dim)) {
            embedded[spot * kind.dim..(spot + 1) * kind.dim].copy_from_slice(row);
        }
        ctx.progress((section + 1) as u64, sections.count() as u64, "sections");
    }
    Ok(Embedding { spots: table.obs.index, dims: kind.dim, values: embedded })
}

fn of_patches(ctx: &Context, net: &Net, kind: &OfPatches, params: &Params) -> Result<Embedding> {
    let mut patches: Patches = ctx.read("patches")?;
    kind.check(&patches)?;
    let spots = std::mem::take(&mut patches.spots);
    by_batches(ctx, params, spots, kind.dim, |spots| patches_of(net, kind, params, &patches, spots))
}

/// Embeddings of standardised genes.
fn genes_of(net: &Net, kind: &OfGenes, params: &Params, rows: Vec<f32>) -> Matrix {
    let genes = kind.scaler.genes.len();
    let spots = rows.len() / genes.max(1);
    net.forward(params, tensor(rows, (spots, genes)))
}

/// Embeddings of the patches at these positions.
fn patches_of(net: &Net, kind: &OfPatches, params: &Params, patches: &Patches, spots: &[usize]) -> Matrix {
    let mut images = kind.colours.patches(patches, spots);
    kind.sees.apply(&mut images, &kind.colours);
    net.forward(params, tensor(images, (spots.len(), kind.size, kind.size, 3)))
}

/// What encoders were trained on: inputs, which of their spots, and who of these is whose neighbour.
#[derive(Default)]
pub(crate) struct Seen<'a> {
    pub(crate) patches: Option<(&'a Patches, &'a [usize])>,
    pub(crate) genes: Option<(&'a Table, &'a [usize])>,
    /// Of the same rows of the table.
    pub(crate) sections: Option<Arc<Sections>>,
}

/// Embeddings of some of the spots that encoders were trained on, as [`Embed`] will make them: of each encoder its own.
///
/// # Errors
/// If inputs do not fit the encoders.
pub(crate) fn of_some(encoders: &Encoders, params: &Params, seen: &Seen<'_>) -> Result<Vec<Matrix>> {
    let some = |spots: &[usize]| -> Vec<usize> {
        spots.iter().step_by((spots.len() / SOME).max(1)).take(SOME).copied().collect()
    };
    let mut found = Vec::new();
    if let (Some((net, kind)), Some((patches, spots))) = (&encoders.patches, seen.patches) {
        found.push(patches_of(net, kind, params, patches, &some(spots)));
    }
    if let (Some((net, kind)), Some((table, rows))) = (&encoders.genes, seen.genes) {
        let genes = kind.scaler.find(&table.var.index)?;
        let values = |rows: &[usize]| kind.scaler.rows(&table.x, &genes, rows);
        match (net, &seen.sections) {
            (GeneNet::Alone(net), _) => found.push(genes_of(net, kind, params, values(&some(rows)))),
            (GeneNet::Graph(net), Some(sections)) => {
                let some = some(&(0..rows.len()).collect::<Vec<_>>());
                let (spots, edges) = sections.around(&some, net.rings());
                let near: Vec<usize> = spots.iter().map(|spot| rows[*spot]).collect();
                let x = tensor(values(&near), (near.len(), kind.scaler.genes.len()));
                let embeddings = net.forward(params, &edges, x, Source::Data);
                found.push(pick(embeddings, &(0..some.len()).collect::<Vec<_>>()));
            }
            (GeneNet::Graph(_), None) => {}
        }
    }
    Ok(found)
}

/// The spots that have both embeddings, with their positions in each.
fn in_both(patches: &Embedding, genes: &Embedding) -> Result<Vec<(String, usize, usize)>> {
    let places = genes.positions();
    let both = |(at, spot): (usize, &String)| Some((spot.clone(), at, *places.get(spot.as_str())?));
    let both: Vec<_> = patches.spots.iter().enumerate().filter_map(both).collect();
    if both.is_empty() {
        return Err(Error::invalid(
            "no spot is in both the table and the patches: are they of the same sections?",
        ));
    }
    let left_out = patches.spots.len() + genes.spots.len() - 2 * both.len();
    if left_out > 0 {
        tracing::warn!("{left_out} spots are in the table or the patches only, and are left out");
    }
    Ok(both)
}

/// What a pair makes of the embeddings of the spots that have both.
fn fused(patches: &Embedding, genes: &Embedding, fuse: &Fuse, params: &Params) -> Result<Embedding> {
    let both = in_both(patches, genes)?;
    let shape = (both.len(), genes.dims);
    let of_patches = both.iter().flat_map(|(_, patch, _)| patches.row(*patch)).copied().collect();
    let of_genes = both.iter().flat_map(|(_, _, gene)| genes.row(*gene)).copied().collect();
    let values = values(&fuse.forward(params, tensor(of_patches, shape), tensor(of_genes, shape)));
    Ok(Embedding { spots: both.into_iter().map(|(spot, ..)| spot).collect(), dims: genes.dims, values })
}

/// Both embeddings of the spots that have both, each scaled to length 1: as their training compares them.
fn side_by_side(patches: &Embedding, genes: &Embedding) -> Result<Embedding> {
    let both = in_both(patches, genes)?;
    let unit = |row: &[f32]| {
        let length = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt().max(1e-12);
        row.iter().map(|value| (f64::from(*value) / length) as f32).collect::<Vec<_>>()
    };
    let values = both.iter().flat_map(|(_, patch, gene)| [unit(patches.row(*patch)), unit(genes.row(*gene))]);
    let values = values.flatten().collect();
    let spots = both.iter().map(|(spot, ..)| spot.clone()).collect();
    Ok(Embedding { spots, dims: patches.dims + genes.dims, values })
}

/// Embeds all spots, batch by batch.
fn by_batches(
    ctx: &Context,
    params: &Params,
    spots: Vec<String>,
    dims: usize,
    encode: impl Fn(&[usize]) -> Matrix,
) -> Result<Embedding> {
    let positions: Vec<usize> = (0..spots.len()).collect();
    let mut embedded = Vec::with_capacity(spots.len() * dims);
    for batch in positions.chunks(BATCH) {
        ctx.check_cancelled()?;
        embedded.extend(values(&encode(batch)));
        device::check(params)?;
        ctx.progress((embedded.len() / dims) as u64, spots.len() as u64, "spots");
    }
    Ok(Embedding { spots, dims, values: embedded })
}
