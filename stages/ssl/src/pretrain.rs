//! `ssl/pretrain`: an encoder trained without labels.

use std::collections::BTreeMap;

use restage_nn::{Linear, Params, VicRegWeights};
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Artifact, Metrics, Model, Patches, Split, Table},
};
use serde_json::json;

use crate::{
    architecture::{Architecture, Kind, Provenance},
    augment::Augment,
    encoder::{Cnn, Mlp, Projector},
    expression::Scaler,
    gene_mask::GeneMask,
    optical_density::Colours,
    params::{Objective, PretrainParams},
    train::{Curves, train},
    vicreg::VicRegObjective,
};

/// The stage type.
pub struct Pretrain;

impl Stage for Pretrain {
    const NAME: &'static str = "pretrain";
    const SEEDED: bool = true;
    type Params = PretrainParams;

    fn ports() -> Ports {
        Ports::new("Trains an encoder without labels: on genes (gene_mask) or on patches (vicreg).")
            .optional::<Table>("table", "Normalised expression; what `gene_mask` trains on")
            .optional::<Patches>("patches", "Patches; what `vicreg` trains on")
            .optional::<Split>("split", "Train on its training spots only; without it on all spots")
            .output::<Model>("model", "The trained encoder")
            .output::<Metrics>("training", "The loss and its terms at the end, and all curves per epoch")
    }

    fn validate(params: &PretrainParams) -> Result<()> {
        params.validate()
    }

    fn run(params: PretrainParams, ctx: &Context) -> Result<()> {
        let split = ctx.read_optional::<Split>("split")?;
        let trained = match params.objective {
            Objective::GeneMask => {
                let table: Table = connected(ctx, "table", "gene_mask")?;
                let rows = training(&table.obs.index, split.as_ref(), "table")?;
                gene_mask(&params, ctx, &table, &rows)?
            }
            Objective::Vicreg => {
                let patches: Patches = connected(ctx, "patches", "vicreg")?;
                let positions = training(&patches.spots, split.as_ref(), "patches")?;
                vicreg(&params, ctx, &patches, &positions)?
            }
        };
        ctx.write("model", &trained.architecture.model(&trained.params)?)?;
        ctx.write("training", &trained.metrics())
    }
}

/// A trained encoder.
struct Trained {
    architecture: Architecture,
    params: Params,
    curves: Curves,
}

impl Trained {
    /// The last epoch's values, and all curves.
    fn metrics(self) -> Metrics {
        let last = |(name, curve): (&String, &Vec<f64>)| Some((name.clone(), *curve.last()?));
        let mut values: BTreeMap<_, _> = self.curves.iter().filter_map(last).collect();
        let Provenance { epochs, training_spots, .. } = self.architecture.provenance;
        values.insert("epochs".into(), epochs as f64);
        values.insert("training_spots".into(), training_spots as f64);
        values.insert("parameters".into(), self.params.count() as f64);
        let details = json!({
            "embedding_std": "sd over spots of embeddings scaled to length 1, mean over dimensions, times their \
                              root: 1 is spread evenly, 0 collapsed",
            "values": "means over the last epoch",
        });
        Metrics { values, curves: self.curves, details, ..Metrics::default() }
    }
}

/// Trains an MLP on genes.
fn gene_mask(options: &PretrainParams, ctx: &Context, table: &Table, rows: &[usize]) -> Result<Trained> {
    let names = &table.var.index;
    if names.is_empty() {
        return Err(Error::invalid(
            "the table has no genes left: loosen the selection of genes before this stage",
        ));
    }
    let scaler = Scaler::fit(names, &table.x.select_rows(rows));
    let (mut params, mut rng) = (Params::default(), ctx.rng("init"));
    let encoder = Mlp::new(&mut params, names.len(), &options.hidden, options.dim, &mut rng);
    let decoder = Linear::new(&mut params, "decoder", options.dim, names.len(), &mut rng);
    let kind = Kind::Mlp { scaler: scaler.clone(), hidden: options.hidden.clone(), dim: options.dim };
    let architecture = Architecture::new(kind, options, ctx.seed(), rows.len())?;
    let objective = GeneMask {
        x: &table.x,
        spots: &table.obs.index,
        rows,
        genes: scaler.find(names)?,
        scaler,
        encoder,
        decoder,
        mask_rate: options.mask_rate,
        seed: ctx.seed(),
    };
    let curves = train(ctx, options, &architecture, &mut params, &objective)?;
    Ok(Trained { architecture, params, curves })
}

/// Trains a CNN on patches.
fn vicreg(
    options: &PretrainParams,
    ctx: &Context,
    patches: &Patches,
    positions: &[usize],
) -> Result<Trained> {
    if patches.size < 8 {
        return Err(Error::invalid(format!(
            "the patches are {} pixels wide: make them 8 or more",
            patches.size
        )));
    }
    let colours = Colours::fit(patches, positions);
    let (mut params, mut rng) = (Params::default(), ctx.rng("init"));
    let encoder = Cnn::new(&mut params, &options.channels, options.dim, &mut rng);
    let projector = Projector::new(&mut params, options.dim, &options.projector, &mut rng);
    let kind = Kind::Cnn {
        colours: colours.clone(),
        size: patches.size,
        channels: options.channels.clone(),
        dim: options.dim,
    };
    let architecture = Architecture::new(kind, options, ctx.seed(), positions.len())?;
    let objective = VicRegObjective {
        patches,
        positions,
        colours,
        augment: Augment {
            min_crop: options.min_crop as f32,
            stain: options.stain_jitter as f32,
            colour: options.colour_jitter as f32,
        },
        encoder,
        projector,
        weights: VicRegWeights {
            invariance: options.invariance as f32,
            variance: options.variance as f32,
            covariance: options.covariance as f32,
        },
        seed: ctx.seed(),
    };
    let curves = train(ctx, options, &architecture, &mut params, &objective)?;
    Ok(Trained { architecture, params, curves })
}

/// The artifact that an objective cannot do without.
fn connected<A: Artifact>(ctx: &Context, port: &str, objective: &str) -> Result<A> {
    ctx.read_optional(port)?.ok_or_else(|| {
        Error::invalid(format!("objective `{objective}` trains on input `{port}`, which is not connected"))
    })
}

/// Positions of the spots to train on.
fn training(spots: &[String], split: Option<&Split>, port: &str) -> Result<Vec<usize>> {
    let positions: Vec<usize> = match split {
        None => (0..spots.len()).collect(),
        Some(split) => {
            let train = split.train();
            (0..spots.len()).filter(|position| train.contains(spots[*position].as_str())).collect()
        }
    };
    if positions.len() < 2 {
        return Err(Error::invalid(format!(
            "{} of the {} spots on input `{port}` are for training, 2 are the least: check that `split` is of the \
             same sections",
            positions.len(),
            spots.len()
        )));
    }
    Ok(positions)
}
