//! `ssl/pretrain`: an encoder trained without labels.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use rand::Rng;
use restage_nn::{Device, Layer, Linear, MaskToken, Network, Params, Projection, Prototypes, VicRegWeights};
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Artifact, Graph, Metrics, Model, Patches, Split, Table},
};
use serde_json::json;

use crate::{
    architecture::{ALONE, Architecture, FUSION, Kind, OF_GENES, OF_PATCHES, OfGenes, OfPatches},
    augment::Augment,
    collapse::{SAME, Spread},
    cross_modal::CrossModal,
    dgi::Dgi,
    embed::{self, Seen},
    encoder::{Encoder, Encodes, Fuse, GeneEncoder, GeneNet, GraphLayer, HeadNorm, Projector},
    expression::{Expression, Scaler},
    gene_mask::GeneMask,
    gene_sets::GeneSets,
    graph_autoencoder::{GraphAutoencoder, Mask},
    joint::{Joint, Method},
    mae::{self, Mae},
    optical_density::{Colours, Sees},
    params::{Contrast, Objective, PretrainParams},
    pretext::{Decoder, Pretext, Reconstruct},
    sections::Sections,
    train::{self, Curves, Dimensions, Ended, train},
    unread,
    views::{Crops, FusedViews, GeneViews, PatchViews, Views},
};

/// The stage type.
pub struct Pretrain;

impl Stage for Pretrain {
    const NAME: &'static str = "pretrain";
    const SEEDED: bool = true;
    /// Weights; order of spots, masks and views.
    const STREAMS: &'static [&'static str] = &["init", "batches"];
    type Params = PretrainParams;

    fn ports() -> Ports {
        Ports::new("Trains an encoder without labels: on genes, on genes of spots on a graph, or on patches.")
            .optional::<Table>(
                "table",
                "Normalised expression; what `gene_mask`, `gene_contrast`, `cross_modal`, `fused_contrast`, `dgi`, `graph_ae` and `graph_mask` train on",
            )
            .needed_if("objective", &Objective::that_read("table"))
            .optional::<Graph>(
                "graph",
                "Who is a neighbour, beside the table: for `dgi`, `graph_ae` and `graph_mask`, and for encoders of genes on a graph. They \
                 see no edge to a spot outside of `split`'s training spots, and make the weights of those that are left",
            )
            .needed_if("objective", &Objective::that_read("graph"))
            .needed_if("encoder.kind", &Encoder::ON_GRAPHS)
            .needed_if("gene_encoder.kind", &Encoder::ON_GRAPHS)
            .optional::<Patches>("patches", "Patches; what all other objectives train on")
            .needed_if("objective", &Objective::that_read("patches"))
            .optional::<Split>("split", "Train on its training spots only; without it on all spots")
            .output::<Model>("model", "The trained encoder")
            .output::<Metrics>("training", "The loss and its terms at the end, and all curves per epoch")
    }

    fn validate(params: &PretrainParams) -> Result<()> {
        params.validate()
    }

    fn run(params: PretrainParams, ctx: &Context) -> Result<()> {
        let device = params.device.on_cpu()?;
        pretrain(&params, ctx, device)
    }
}

/// Does what the stage type does, with networks on this device; without one, on the CPU.
///
/// # Errors
/// If inputs or params do not fit, the training diverges or collapses, or the device fails.
pub fn pretrain(params: &PretrainParams, ctx: &Context, device: Option<&dyn Device>) -> Result<()> {
    let split = ctx.read_optional::<Split>("split")?;
    let name = params.objective.name();
    unread::warn(params);
    unread::warn_of_inputs(params, ctx);
    let trained = match params.objective {
        Objective::GeneMask | Objective::GeneContrast => {
            let table: Table = connected(ctx, "table", name)?;
            let rows = training(ctx, &table.obs.index, split.as_ref(), "table")?;
            on_genes(params, ctx, &table, &rows, device)?
        }
        Objective::Dgi | Objective::GraphAe | Objective::GraphMask => {
            let table: Table = connected(ctx, "table", name)?;
            let graph: Graph = connected(ctx, "graph", name)?;
            let rows = training(ctx, &table.obs.index, split.as_ref(), "table")?;
            on_graph(params, ctx, (&table, &graph), &rows, device)?
        }
        Objective::CrossModal | Objective::FusedContrast => {
            let patches: Patches = connected(ctx, "patches", name)?;
            let table: Table = connected(ctx, "table", name)?;
            on_both(params, ctx, &patches, &table, split.as_ref(), device)?
        }
        _ => {
            let patches: Patches = connected(ctx, "patches", name)?;
            let positions = training(ctx, &patches.spots, split.as_ref(), "patches")?;
            on_patches(params, ctx, &patches, &positions, device)?
        }
    };
    ctx.write("model", &trained.architecture.model(&trained.params)?)?;
    ctx.write("training", &trained.metrics())
}

/// A trained encoder.
struct Trained {
    architecture: Architecture,
    params: Params,
    curves: Curves,
    stds: Dimensions,
}

impl Trained {
    /// Refuses encoders that give whole inputs of different spots one embedding: in training, only augmentation may have kept them
    /// apart, or it collapsed with its last steps.
    fn check_spread(&self, seen: Seen<'_>) -> Result<()> {
        let (encoders, params) = Architecture::restore(&self.architecture.model(&self.params)?)?;
        for embeddings in embed::of_some(&encoders, &params, &seen)? {
            let mut spread = Spread::default();
            spread.add(&embeddings, None);
            if spread.std() < SAME {
                return Err(Error::invalid(format!(
                    "collapsed by the end, after epoch {}: all spots have the same embedding (spread {:.1e}); are the inputs of \
                     all spots alike? If not, lower `learning_rate`",
                    self.curves.get("loss").map_or(0, Vec::len),
                    spread.std()
                )));
            }
        }
        Ok(())
    }

    /// The last epoch's values, and all curves.
    fn metrics(self) -> Metrics {
        let last = |(name, curve): (&String, &Vec<f64>)| Some((name.clone(), *curve.last()?));
        let mut values: BTreeMap<_, _> = self.curves.iter().filter_map(last).collect();
        let training_spots = self.architecture.provenance.training_spots;
        let epochs = self.curves.get("loss").map_or(0, Vec::len);
        values.insert("epochs".into(), epochs as f64);
        values.insert("training_spots".into(), training_spots as f64);
        if let Some(edges) = self.architecture.provenance.training_edges {
            values.insert("training_edges".into(), edges as f64);
        }
        values.insert("parameters".into(), self.params.count() as f64);
        let details = json!({
            "embedding_std": "sd over spots of embeddings scaled to length 1, mean over dimensions, times their \
                              root: 1 is spread evenly, 0 collapsed",
            "embedding_std_least": "the same of the dimension in which spots differ least",
            "compared_std": "the same of what the loss compares: projections, of prototypes the shares; in an epoch's second half",
            "effective_rank": "exp of the entropy of the singular values of embeddings of length 1: dimensions in use",
            "uniformity": "ln mean exp(-2 distance²) over pairs of spots: 0 is collapsed, lower is more even",
            "alignment": "mean distance² of two views' embeddings of length 1",
            "dimensions": self.stds,
            "values": "means over the last epoch; `dimensions`: of each dimension, in their order",
        });
        Metrics { values, curves: self.curves, details, ..Metrics::default() }
    }
}

/// Trains an encoder on genes, with or without a graph.
fn on_genes(
    options: &PretrainParams,
    ctx: &Context,
    table: &Table,
    rows: &[usize],
    device: Option<&dyn Device>,
) -> Result<Trained> {
    check_prototypes(options, rows.len())?;
    let scaler = scaler(table, rows)?;
    let (mut params, mut rng) = (Params::default(), ctx.rng("init"));
    let encoder = options.encoder.clone().unwrap_or_else(Encoder::of_genes);
    let kind = OfGenes { scaler: scaler.clone(), encoder, dim: options.dim };
    let net = kind.net(&mut params, ALONE, &mut rng)?;
    let encoder = gene_encoder(options, ctx, net, table, rows)?;
    let kind = match encoder {
        GeneEncoder::Alone(_) => Kind::Genes(kind),
        GeneEncoder::Graph(..) => Kind::Graph(kind),
    };
    let mut architecture = Architecture::new(kind, options, ctx.seed(), rows.len())?;
    let sections = encoder.sections().cloned();
    architecture.provenance.training_edges = sections.as_ref().map(|sections| sections.edges());
    let seen = Seen { genes: Some((table, rows)), sections, ..Seen::default() };
    let objective: Box<dyn train::Objective> = if options.objective == Objective::GeneMask {
        let decoder = Linear::new(&mut params, "decoder", options.dim, table.n_genes(), &mut rng);
        let decoder = Network(vec![Layer::Linear(decoder)]);
        let sets = options.gene_sets.as_ref();
        let sets = sets.map(|path| GeneSets::read(path.as_path(), &table.var.index)).transpose()?;
        architecture.provenance.gene_sets = sets.as_ref().map(|sets| sets.digest.clone());
        let (mask_rate, error_of, seed) = (options.mask_rate, options.error_of, ctx.seed_of("batches"));
        let expression = Expression::new(table, rows, scaler)?;
        Box::new(GeneMask { expression, encoder, decoder, mask_rate, sets, error_of, seed })
    } else {
        let views = gene_views(options, ctx, table, rows, scaler, encoder)?;
        Box::new(joint(options, options.contrast, &mut params, &mut rng, views))
    };
    trained(ctx, options, architecture, params, (objective.as_ref(), seen), device)
}

/// A network with what it needs to train on these rows.
fn gene_encoder(
    options: &PretrainParams,
    ctx: &Context,
    net: GeneNet,
    table: &Table,
    rows: &[usize],
) -> Result<GeneEncoder> {
    let graph = match &net {
        GeneNet::Alone(_) => None,
        GeneNet::Graph(_) => {
            let of = |encoder: &Option<Encoder>| {
                encoder.as_ref().filter(|kind| kind.encodes() == Encodes::Graph).map(Encoder::name)
            };
            let name = of(&options.encoder).or_else(|| of(&options.gene_encoder)).unwrap_or("gcn");
            let graph: Option<Graph> = ctx.read_optional("graph")?;
            Some(graph.ok_or_else(|| {
                Error::invalid(format!(
                    "an encoder of kind `{name}` sees neighbours: connect input `graph`, what `visium/graph` makes"
                ))
            })?)
        }
    };
    GeneEncoder::new(net, table, graph.as_ref(), rows)
}

/// The scaling of genes that is fitted to these rows of a table.
fn scaler(table: &Table, rows: &[usize]) -> Result<Scaler> {
    let names = &table.var.index;
    if names.is_empty() {
        return Err(Error::invalid(
            "the table has no genes left: loosen the selection of genes before this stage",
        ));
    }
    Scaler::check_table(table)?;
    Ok(Scaler::fit(names, &table.x.select_rows(rows)))
}

/// Trains a GCN or GAT on the genes of spots on a graph.
fn on_graph(
    options: &PretrainParams,
    ctx: &Context,
    (table, graph): (&Table, &Graph),
    rows: &[usize],
    device: Option<&dyn Device>,
) -> Result<Trained> {
    let scaler = scaler(table, rows)?;
    let sections = Arc::new(Sections::new(table, graph, rows)?);
    let (mut params, mut rng) = (Params::default(), ctx.rng("init"));
    let kind = options.encoder.clone().unwrap_or_else(Encoder::of_graph);
    let of = OfGenes { scaler: scaler.clone(), encoder: kind.clone(), dim: options.dim };
    let encoder = of.graph_net(&mut params, ALONE, &mut rng)?;
    let mut architecture = Architecture::new(Kind::Graph(of), options, ctx.seed(), rows.len())?;
    architecture.provenance.training_edges = Some(sections.edges());
    let expression = Expression::new(table, rows, scaler)?;
    let (seed, dim) = (ctx.seed_of("batches"), options.dim);
    let seen = Seen { genes: Some((table, rows)), sections: Some(Arc::clone(&sections)), ..Seen::default() };
    let objective: Box<dyn train::Objective> = if options.objective == Objective::Dgi {
        let discriminator = Projection::new(&mut params, "discriminator", dim, dim, &mut rng);
        Box::new(Dgi { expression, sections, encoder, discriminator, readout: options.readout, seed })
    } else {
        let sizes = (dim, expression.genes());
        let decoder = GraphLayer::decoder(&mut params, "decoder", &kind, sizes, &mut rng);
        let mask = (options.objective == Objective::GraphMask).then(|| Mask {
            rate: options.mask_rate,
            token: MaskToken::new(&mut params, "token", expression.genes()),
            bridge: Projection::new(&mut params, "bridge", dim, dim, &mut rng),
            gamma: options.gamma,
        });
        Box::new(GraphAutoencoder { expression, sections, encoder, decoder, mask, seed })
    };
    trained(ctx, options, architecture, params, (objective.as_ref(), seen), device)
}

/// Trains a CNN on patches.
fn on_patches(
    options: &PretrainParams,
    ctx: &Context,
    patches: &Patches,
    positions: &[usize],
    device: Option<&dyn Device>,
) -> Result<Trained> {
    options.of_patches().check_size("the patches", patches.size)?;
    check_prototypes(options, positions.len())?;
    let colours = Colours::fit(patches, positions);
    let (mut params, mut rng) = (Params::default(), ctx.rng("init"));
    let sees = if options.objective == Objective::Colorize { options.sees } else { Sees::Colour };
    let kind = of_patches(options, patches, &colours, sees);
    let encoder = kind.net(&mut params, ALONE, &mut rng)?;
    let architecture = Architecture::new(Kind::Patches(kind), options, ctx.seed(), positions.len())?;
    let (augment, place) = (augment(options), options.of_patches().place().unwrap_or(1));
    let crops = crops(options, patches.size, place)?;
    let views =
        PatchViews { patches, positions, colours, augment, crops, encoder, seed: ctx.seed_of("batches") };
    let objective: Box<dyn train::Objective> = match options.two_views() {
        Some(contrast) => Box::new(joint(options, contrast, &mut params, &mut rng, views)),
        None if options.objective == Objective::Mae => {
            check_tokens(patches, place)?;
            let decoder = mae::Decoder::new(&mut params, &options.decoder, (options.dim, place), &mut rng);
            let (hidden, normalised) = (options.mask_ratio, options.norm_pixels);
            Box::new(Mae { views, decoder, hidden, normalised })
        }
        None => {
            let pretext = match options.objective {
                Objective::Inpaint => Pretext::Inpaint { hidden: options.segment },
                _ => Pretext::Colorize,
            };
            let decoder = Decoder::new(&mut params, options.dim, place, &mut rng);
            Box::new(Reconstruct { views, pretext, sees, decoder })
        }
    };
    let seen = Seen { patches: Some((patches, positions)), ..Seen::default() };
    trained(ctx, options, architecture, params, (objective.as_ref(), seen), device)
}

/// Trains a CNN on patches and an MLP on genes of the same spots.
fn on_both(
    options: &PretrainParams,
    ctx: &Context,
    patches: &Patches,
    table: &Table,
    split: Option<&Split>,
    device: Option<&dyn Device>,
) -> Result<Trained> {
    options.of_patches().check_size("the patches", patches.size)?;
    Scaler::check_table(table)?;
    let rows: HashMap<&str, usize> = table.obs.index.iter().map(String::as_str).zip(0..).collect();
    let both = |position: usize| Some((position, *rows.get(patches.spots[position].as_str())?));
    let train = training(ctx, &patches.spots, split, "patches")?;
    let (positions, rows): (Vec<usize>, Vec<usize>) = train.iter().filter_map(|at| both(*at)).unzip();
    if positions.len() < 2 {
        return Err(Error::invalid(format!(
            "{} of the {} training spots with a patch are in the table, 2 are the least: are both of the same sections?",
            positions.len(),
            train.len()
        )));
    }
    let without = train.len() - positions.len();
    if without > 0 {
        tracing::warn!(
            "{without} of the {} training spots with a patch are not in the table, and are left out",
            train.len()
        );
    }
    let colours = Colours::fit(patches, &positions);
    let scaler = Scaler::fit(&table.var.index, &table.x.select_rows(&rows));
    let (mut params, mut rng) = (Params::default(), ctx.rng("init"));
    let image = of_patches(options, patches, &colours, Sees::Colour);
    let genes = OfGenes {
        scaler: scaler.clone(),
        encoder: options.gene_encoder.clone().unwrap_or_else(Encoder::of_genes),
        dim: options.dim,
    };
    let encoder = image.net(&mut params, OF_PATCHES, &mut rng)?;
    let gene_net = genes.net(&mut params, OF_GENES, &mut rng)?;
    let gene_encoder = gene_encoder(options, ctx, gene_net, table, &rows)?;
    let is_fused = options.objective == Objective::FusedContrast;
    let fuse = is_fused.then(|| Fuse::new(&mut params, FUSION, options.fusion, options.dim, &mut rng));
    let kind = Kind::Pair { patches: image, genes, fusion: is_fused.then_some(options.fusion) };
    let mut architecture = Architecture::new(kind, options, ctx.seed(), positions.len())?;
    let sections = gene_encoder.sections().cloned();
    architecture.provenance.training_edges = sections.as_ref().map(|sections| sections.edges());
    let (augment, seed) = (augment(options), ctx.seed_of("batches"));
    let seen = Seen { patches: Some((patches, &positions)), genes: Some((table, &rows)), sections };
    let patches = PatchViews { patches, positions: &positions, colours, augment, crops: None, encoder, seed };
    let genes = gene_views(options, ctx, table, &rows, scaler, gene_encoder)?;
    let objective: Box<dyn train::Objective> = match fuse {
        Some(fuse) => {
            check_prototypes(options, positions.len())?;
            let views = FusedViews { patches, genes, fuse };
            Box::new(joint(options, options.contrast, &mut params, &mut rng, views))
        }
        None => {
            let sizes = (options.dim, &options.projector[..]);
            let mut projector =
                |name: &str| Projector::new(&mut params, name, sizes, HeadNorm::Layer, &mut rng);
            Box::new(CrossModal {
                patches,
                genes,
                of_patches: projector("projector.patches"),
                of_genes: projector("projector.genes"),
                temperature: options.temperature.unwrap_or(0.1) as f32,
                targets: options.targets,
                intra: options.intra as f32,
            })
        }
    };
    trained(ctx, options, architecture, params, (objective.as_ref(), seen), device)
}

fn of_patches(options: &PretrainParams, patches: &Patches, colours: &Colours, sees: Sees) -> OfPatches {
    OfPatches {
        colours: colours.clone(),
        sees,
        size: patches.size,
        encoder: options.of_patches(),
        dim: options.dim,
    }
}

fn augment(options: &PretrainParams) -> Augment {
    Augment {
        crop: (options.min_crop as f32, 1.0),
        stain: options.stain_jitter as f32,
        colour: options.colour_jitter as f32,
    }
}

fn gene_views<'a>(
    options: &PretrainParams,
    ctx: &Context,
    table: &'a Table,
    rows: &'a [usize],
    scaler: Scaler,
    encoder: GeneEncoder,
) -> Result<GeneViews<'a>> {
    Ok(GeneViews {
        expression: Expression::new(table, rows, scaler)?,
        encoder,
        hidden: options.view_mask,
        noise: options.view_noise,
        swapped: options.view_swap,
        seed: ctx.seed_of("batches"),
    })
}

/// The small crops that are asked for, of patches of so many pixels.
fn crops(options: &PretrainParams, size: usize, place: usize) -> Result<Option<Crops>> {
    let encoder = options.of_patches();
    let half = size.div_ceil(2);
    let half = if matches!(encoder, Encoder::Vit { .. }) { half.next_multiple_of(place) } else { half };
    let (count, side) = (options.local_crops, options.local_pixels.unwrap_or(half));
    if count == 0 {
        return Ok(None);
    }
    if side > size {
        return Err(Error::invalid(format!(
            "`local_pixels` is {side}, and the patches are {size} pixels wide: small crops are no larger than they"
        )));
    }
    encoder.check_size("small crops of the patches (`local_pixels`)", side)?;
    let [smallest, largest] = options.local_share.map(|share| share as f32);
    Ok(Some(Crops { count, side, augment: Augment { crop: (smallest, largest), ..augment(options) } }))
}

/// Refuses patches of too few tokens to leave most out.
fn check_tokens(patches: &Patches, side: usize) -> Result<()> {
    let tokens = (patches.size / side).pow(2);
    if tokens < 4 {
        return Err(Error::invalid(format!(
            "`mae` leaves out most of the squares of a patch, and one of {} pixels has {tokens} of {side}: 4 are the least; make patches larger, or `encoder.patch` smaller",
            patches.size
        )));
    }
    Ok(())
}

/// Refuses more prototypes than there are spots to use them.
fn check_prototypes(options: &PretrainParams, spots: usize) -> Result<()> {
    let has_prototypes = matches!(options.two_views(), Some(Contrast::Swav | Contrast::Dino));
    if has_prototypes && options.prototypes > spots {
        return Err(Error::invalid(format!(
            "`prototypes`: {} are more than the {spots} training spots: take at most a tenth as many as spots",
            options.prototypes
        )));
    }
    Ok(())
}

/// The objective that two views of a spot agree.
fn joint<V: Views>(
    options: &PretrainParams,
    contrast: Contrast,
    params: &mut Params,
    rng: &mut impl Rng,
    views: V,
) -> Joint<V> {
    // As their authors have them: with layer norm in its place these collapsed, on patches of seven sections.
    let (of_projector, of_predictor) = match contrast {
        Contrast::Simsiam => (HeadNorm::BatchThroughout, HeadNorm::Batch),
        Contrast::Byol | Contrast::Swav => (HeadNorm::Batch, HeadNorm::Batch),
        _ => (HeadNorm::Layer, HeadNorm::Layer),
    };
    let sizes = (options.dim, &options.projector[..]);
    let projector = Projector::new(params, "projector", sizes, of_projector, rng);
    let outputs = projector.outputs();
    let temperature = |default: f64| options.temperature.unwrap_or(default) as f32;
    let queue = |default: usize| {
        let most = views.items() / 2;
        if let Some(set) = options.queue.filter(|set| *set > most) {
            tracing::warn!(
                "`queue` {set} is cut to {most}, half of the training spots: of more, most spots would meet themselves in it"
            );
        }
        options.queue.unwrap_or(default).min(most)
    };
    let mut predictor = || {
        let sizes = [options.predictor, outputs];
        Projector::new(params, "predictor", (outputs, &sizes), of_predictor, rng)
    };
    let method = match contrast {
        Contrast::Vicreg => Method::Vicreg(VicRegWeights {
            invariance: options.invariance as f32,
            variance: options.variance as f32,
            covariance: options.covariance as f32,
        }),
        Contrast::Barlow => Method::Barlow(options.off_weight as f32),
        Contrast::Simclr => Method::Simclr { temperature: temperature(0.2) },
        Contrast::Moco => Method::Moco { temperature: temperature(0.2), queue: queue(4096) },
        Contrast::Byol => Method::Byol(predictor()),
        Contrast::Simsiam => Method::Simsiam(predictor()),
        Contrast::Swav | Contrast::Dino => {
            let (temperature, count) = (temperature(0.1), options.prototypes);
            let prototypes = Prototypes::new(params, "prototypes", outputs, count, rng);
            match contrast {
                Contrast::Swav => Method::Swav { temperature, prototypes, count, queue: queue(0) },
                _ => Method::Dino { temperature, prototypes, count },
            }
        }
    };
    Joint { views, projector, method, momentum: options.momentum }
}

/// Trains by an objective. Of DINO the teacher is the model, as its authors say; else what was trained.
fn trained(
    ctx: &Context,
    options: &PretrainParams,
    mut architecture: Architecture,
    mut params: Params,
    (objective, seen): (&dyn train::Objective, Seen<'_>),
    device: Option<&dyn Device>,
) -> Result<Trained> {
    let Ended { curves, stds, memory } = train(ctx, options, &architecture, &mut params, objective, device)?;
    architecture.provenance.device = device.map(|device| device.name().to_owned());
    let is_dino = options.two_views() == Some(Contrast::Dino);
    if let Some(teacher) = memory.teacher.filter(|_| is_dino) {
        params = teacher;
    }
    let trained = Trained { architecture, params, curves, stds };
    if options.epochs > 0 {
        trained.check_spread(seen)?;
    }
    Ok(trained)
}

/// The artifact that an objective cannot do without.
fn connected<A: Artifact>(ctx: &Context, port: &str, objective: &str) -> Result<A> {
    ctx.read_optional(port)?.ok_or_else(|| {
        Error::invalid(format!("objective `{objective}` trains on input `{port}`, which is not connected"))
    })
}

/// Positions of the spots to train on.
fn training(ctx: &Context, spots: &[String], split: Option<&Split>, port: &str) -> Result<Vec<usize>> {
    let positions: Vec<usize> = match split {
        None => {
            let all = spots.iter().map(String::as_str);
            ctx.transductive("ssl/pretrain: the encoder is trained on all spots", all);
            (0..spots.len()).collect()
        }
        Some(split) => {
            let train = split.train();
            (0..spots.len()).filter(|position| train.contains(spots[*position].as_str())).collect()
        }
    };
    if positions.len() < 2 {
        let known: Option<HashSet<&str>> =
            split.map(|split| split.spots.iter().map(String::as_str).collect());
        let hint = match known {
            None => "read more spots, or filter fewer",
            Some(known) if spots.iter().any(|spot| known.contains(spot.as_str())) => {
                "let `split` keep more of them for training"
            }
            Some(_) => "is `split` of the same sections?",
        };
        return Err(Error::invalid(format!(
            "{} of the {} spots on input `{port}` are for training, 2 are the least: {hint}",
            positions.len(),
            spots.len()
        )));
    }
    Ok(positions)
}
