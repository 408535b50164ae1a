//! `ssl/embed`: one vector per spot from a trained encoder.

use restage_nn::{Matrix, tensor, values};
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Artifact, Embedding, Model, Patches, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    architecture::{Architecture, Encoder},
    expression::Scaler,
};

/// Spots that go through the encoder at once.
const BATCH: usize = 256;

/// The stage type.
pub struct Embed;

/// `ssl/embed` takes no params: all it needs is in the model.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EmbedParams {}

impl Stage for Embed {
    const NAME: &'static str = "embed";
    type Params = EmbedParams;

    fn ports() -> Ports {
        Ports::new("Embeds all spots with a pretrained encoder: what it gives for whole, unchanged inputs.")
            .input::<Model>("model", "An encoder of ssl/pretrain")
            .optional::<Table>("table", "Expression, for an encoder of genes; normalised as in its training")
            .optional::<Patches>(
                "patches",
                "Patches, for an encoder of patches; of the same size as in its training",
            )
            .output::<Embedding>("embedding", "One vector per spot of the table or the patches")
    }

    fn run(_: EmbedParams, ctx: &Context) -> Result<()> {
        let (encoder, params, dim) = Architecture::restore(&ctx.read::<Model>("model")?)?;
        let embedding = match encoder {
            Encoder::Mlp { net, scaler } => {
                let table: Table = connected(ctx, "table", "genes")?;
                Scaler::check_table(&table)?;
                let genes = scaler.find(&table.var.index)?;
                embed(ctx, table.obs.index, dim, |spots| {
                    let rows = scaler.rows(&table.x, &genes, spots);
                    net.forward(&params, tensor(rows, (spots.len(), scaler.genes.len())))
                })
            }
            Encoder::Cnn { net, colours, sees, size } => {
                let mut patches: Patches = connected(ctx, "patches", "patches")?;
                if patches.size != size {
                    return Err(Error::invalid(format!(
                        "the model was trained on patches of {size} pixels, these have {}: make them of one size",
                        patches.size
                    )));
                }
                let spots = std::mem::take(&mut patches.spots);
                embed(ctx, spots, dim, |spots| {
                    let mut images = colours.patches(&patches, spots);
                    sees.apply(&mut images, &colours);
                    net.forward(&params, tensor(images, (spots.len(), size, size, 3)))
                })
            }
        }?;
        ctx.write("embedding", &embedding)
    }
}

/// The artifact that the model's encoder reads.
fn connected<A: Artifact>(ctx: &Context, port: &str, of: &str) -> Result<A> {
    ctx.read_optional(port)?
        .ok_or_else(|| Error::invalid(format!("the model is an encoder of {of}: connect input `{port}`")))
}

/// Embeds all spots, batch by batch.
fn embed(
    ctx: &Context,
    spots: Vec<String>,
    dims: usize,
    encode: impl Fn(&[usize]) -> Matrix,
) -> Result<Embedding> {
    let positions: Vec<usize> = (0..spots.len()).collect();
    let mut embedded = Vec::with_capacity(spots.len() * dims);
    for batch in positions.chunks(BATCH) {
        ctx.check_cancelled()?;
        embedded.extend(values(&encode(batch)));
        ctx.progress((embedded.len() / dims) as u64, spots.len() as u64, "spots");
    }
    Ok(Embedding { spots, dims, values: embedded })
}
