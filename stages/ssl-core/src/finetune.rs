//! `ssl/finetune`: a pretrained encoder and a classifier on it, trained with labels: first the classifier alone, then both, the
//! encoder by smaller steps (linear probing, then fine-tuning; Kumar et al. 2022).

mod labelled;
mod layers;
mod spots;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};

use rand::{Rng, seq::SliceRandom};
use restage_nn::{
    AdamW, Device, Linear, Matrix, Params, Projection, Recording, Scalar, Source,
    dfdx::prelude::{AsArray, Cpu, HasShape, NoneTape, Tape, Trace},
    soft_cross_entropy, tensor, values, warmup_cosine,
};
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Graph, Metrics, Model, Patches, Predictions, Table, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    architecture::Architecture,
    checkpoint,
    device::{self, Choice},
    train::{Curves, Means, report_progress},
};
use labelled::Labelled;
use spots::{Parts, Spots};

/// Spots that go through the encoder at once where nothing is learned.
const BATCH: usize = 256;

/// The stage type.
pub struct Finetune;

/// How much a spot of each region counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeight {
    /// Every region counts the same: a spot counts spots / (regions x spots of its region).
    #[default]
    Balanced,
    /// Every spot counts 1.
    None,
}

/// Which layers of the encoder stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Freeze {
    /// So many, from the input on.
    First(usize),
    /// Whole.
    Whole(Whole),
}

/// The word for all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Whole {
    /// No layer learns: a linear probe.
    All,
}

/// What `with:` of `ssl/finetune` holds.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FinetuneParams {
    /// Passes over the labelled spots in which the classifier learns alone, on the embeddings of the encoder as it came. Default 30.
    pub head_epochs: usize,
    /// Passes after these, in which the encoder learns too. Default 20.
    pub epochs: usize,
    /// Learning rate of the classifier; within each of the two parts it falls to 0 as half a cosine. Default 0.003.
    pub lr: f64,
    /// Learning rate of the encoder, which falls likewise. Default 0.0001.
    pub encoder_lr: f64,
    /// Layers of the encoder that stay as they are: so many from the input on, or `all`. A layer has weights, with the norm behind them;
    /// a block of a ResNet or a transformer is one. Default 0.
    pub freeze: Freeze,
    /// Share of an embedding's values that are hidden from the classifier while it learns, drawn anew for every spot and epoch.
    /// Default 0.
    pub dropout: f64,
    /// How much a spot of each region counts. Default `balanced`.
    pub class_weight: ClassWeight,
    /// Labelled spots per step, at most. Default 64.
    pub batch_size: usize,
    /// Weight decay of AdamW; biases and norms are left out. Default 0.01.
    pub weight_decay: f64,
    /// Largest norm of a step's gradient; a longer one is scaled down. 0 turns it off. Default 5.
    pub grad_clip: f64,
    /// Where the encoder computes: `auto`, `cpu`, or `cuda:0` of plugin `ssl-cuda`. Default `auto`: a GPU if the plugin is for GPUs
    /// and there is one.
    #[schemars(extend("x-restage-unkeyed" = true))]
    pub device: Choice,
    /// Epochs between checkpoints, from which a killed run goes on. Changes no result. Default 5.
    #[schemars(extend("x-restage-unkeyed" = true))]
    pub checkpoint_every: usize,
}

impl Default for FinetuneParams {
    fn default() -> Self {
        Self {
            head_epochs: 30,
            epochs: 20,
            lr: 0.003,
            encoder_lr: 0.0001,
            freeze: Freeze::First(0),
            dropout: 0.0,
            class_weight: ClassWeight::Balanced,
            batch_size: 64,
            weight_decay: 0.01,
            grad_clip: 5.0,
            device: Choice::Auto,
            checkpoint_every: 5,
        }
    }
}

impl FinetuneParams {
    /// What the result depends on, as plain data: everything but how often to save, and where.
    fn provenance(&self) -> Result<serde_json::Value> {
        let mut value = serde_json::to_value(self).map_err(Error::other("cannot write the params"))?;
        if let Some(fields) = value.as_object_mut() {
            fields.shift_remove("checkpoint_every");
            fields.shift_remove("device");
        }
        Ok(value)
    }

    fn validate(&self) -> Result<()> {
        let within = |name: &str, value: f64, low: f64, high: f64| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(Error::invalid(format!("`{name}` must lie between {low} and {high}, not {value}"))),
        };
        if self.head_epochs + self.epochs == 0 {
            return Err(Error::invalid(
                "`head_epochs` and `epochs` are 0: nothing would be learned; for an encoder that was not pretrained, give \
                 `ssl/pretrain` `epochs: 0`",
            ));
        }
        for (name, value) in [("batch_size", self.batch_size), ("checkpoint_every", self.checkpoint_every)] {
            if value == 0 {
                return Err(Error::invalid(format!("`{name}` must be 1 or more, not 0")));
            }
        }
        within("lr", self.lr, 1e-9, 10.0)?;
        within("encoder_lr", self.encoder_lr, 0.0, 10.0)?;
        within("dropout", self.dropout, 0.0, 0.95)?;
        within("weight_decay", self.weight_decay, 0.0, 10.0)?;
        within("grad_clip", self.grad_clip, 0.0, 1e9)
    }
}

impl Stage for Finetune {
    const NAME: &'static str = "finetune";
    const SEEDED: bool = true;
    const STREAMS: &'static [&'static str] = &["init", "batches"];
    type Params = FinetuneParams;

    fn ports() -> Ports {
        Ports::new(
            "Trains a pretrained encoder and a linear classifier on it with labels: first the classifier alone, then both. Of a pair \
             (`cross_modal`) it takes the encoders whose inputs are connected.",
        )
        .input::<Model>("model", "An encoder of ssl/pretrain; with `epochs: 0` there, one that starts from nothing")
        .optional::<Table>("table", "Expression, for an encoder of genes; normalised as in its training")
        .optional::<Graph>(
            "graph",
            "Who is a neighbour, for an encoder on a graph; make it with the split to keep training and test spots apart",
        )
        .optional::<Patches>("patches", "Patches, for an encoder of patches; of the same size as in its training")
        .at_least_one(&["table", "patches"])
        .input::<TrainLabels>("train", "Regions of the spots to learn from")
        .output::<Predictions>("predictions", "Region and probabilities of every spot of the table or the patches; of both, of those in both")
        .output::<Model>("model", "The encoder as it is then, for ssl/embed")
        .output::<Metrics>("training", "Loss, accuracy on the training spots and rates at the end, and all curves per epoch")
    }

    fn validate(params: &FinetuneParams) -> Result<()> {
        params.validate()
    }

    fn run(params: FinetuneParams, ctx: &Context) -> Result<()> {
        let device = params.device.on_cpu()?;
        finetune(&params, ctx, device)
    }
}

/// Does what the stage type does, with the encoder on this device; without one, on the CPU.
///
/// # Errors
/// If inputs or params do not fit, the training diverges, or the device fails.
pub fn finetune(params: &FinetuneParams, ctx: &Context, device: Option<&dyn Device>) -> Result<()> {
    let model: Model = ctx.read("model")?;
    let (encoders, mut weights) = Architecture::restore(&model)?;
    let mut architecture = Architecture::read(&model)?;
    let spots = Spots::new(ctx, encoders)?;
    let TrainLabels(labels) = ctx.read("train")?;
    let labelled = Labelled::of(spots.ids(), &labels, params.class_weight)?;
    let still = layers::still(&weights, params.freeze, &spots.prefixes())?;
    let head = Head::new(&mut weights, spots.dims(), labelled.classes.len(), &mut ctx.rng("init"));
    if let Some(device) = device {
        weights.place(device, &spots.parameters()).map_err(Error::invalid)?;
    }
    let came = spots.embeddings(ctx, &weights, &labelled.spots)?;
    device::check(&weights)?;
    weights.leave();
    let scales = came.as_ref().zip(spots.dims()).map(|(values, dims)| Scale::fit(values, dims));
    let tuning = Tuning { options: params, spots: &spots, labelled: &labelled, head, still, came, scales };
    let (mut weights, curves) = tuning.run(ctx, &architecture, weights, device)?;
    let predictions = tuning.predict(ctx, &weights)?;
    weights.fetch();
    device::check(&weights)?;
    weights.leave();

    let right = |(spot, class): &(&usize, &usize)| predictions.predicted_class(**spot) == **class;
    let right = labelled.spots.iter().zip(&labelled.targets).filter(right).count();
    let last = |(name, curve): (&String, &Vec<f64>)| Some((name.clone(), *curve.last()?));
    let mut metrics: BTreeMap<String, f64> = curves.iter().filter_map(last).collect();
    let learning = weights.iter().filter(|param| tuning.learns(&param.name));
    for (name, value) in [
        ("train_accuracy", right as f64 / labelled.spots.len() as f64),
        ("epochs", (params.head_epochs + params.epochs) as f64),
        ("train_spots", labelled.spots.len() as f64),
        ("spots", spots.ids().len() as f64),
        ("parameters", weights.count() as f64),
        ("learning_parameters", learning.map(|param| param.values().len()).sum::<usize>() as f64),
    ] {
        metrics.insert(name.to_owned(), value);
    }
    let details = json!({
        "classes": labelled.classes,
        "head_epochs": params.head_epochs,
        "loss": "weighted mean cross-entropy over the last epoch's batches",
        "train_accuracy": "of the classifier as it is at the end; its curve: while it learned",
    });
    let mut provenance = json!({
        "params": params.provenance()?, "seed": ctx.seed(), "train_spots": labelled.spots.len()
    });
    if let Some(device) = device {
        provenance["device"] = device.name().into();
    }
    architecture.provenance.finetuned = Some(provenance);
    ctx.write("predictions", &predictions)?;
    ctx.write("model", &architecture.model(&weights)?)?;
    ctx.write("training", &Metrics { values: metrics, curves, details, ..Metrics::default() })
}

/// A linear layer on an embedding, or on the two of a pair side by side: the bias is in the first part.
struct Head {
    first: Linear,
    second: Option<Projection>,
}

/// What parameters of the classifier are called.
const HEAD: &str = "head";

fn is_of_head(name: &str) -> bool {
    name.starts_with(HEAD)
}

impl Head {
    fn new(params: &mut Params, dims: Parts<usize>, classes: usize, rng: &mut impl Rng) -> Self {
        let first = Linear::new(params, HEAD, dims.first, classes, rng);
        let second = |dim| Projection::new(params, &format!("{HEAD}.genes"), dim, classes, rng);
        Self { first, second: dims.second.map(second) }
    }

    /// Parts of embeddings to the scores of classes.
    fn forward<T: Tape<f32, Cpu>>(&self, params: &Params, parts: Parts<Matrix<T>>) -> Matrix<T> {
        let scores = self.first.forward(params, parts.first, Source::Op);
        match (&self.second, parts.second) {
            (Some(second), Some(part)) => scores + second.forward(params, part, Source::Op),
            _ => scores,
        }
    }
}

/// Mean and one over the standard deviation of each dimension of an embedding, over the training spots, as the encoder came: the
/// classifier sees embeddings so scaled, and can learn at one rate whatever encoder it has.
struct Scale(Vec<(f32, f32)>);

impl Scale {
    fn fit(values: &[f32], dims: usize) -> Self {
        let rows = values.chunks_exact(dims);
        let count = rows.len().max(1) as f64;
        let of_dim = |dim: usize| {
            let mean = rows.clone().map(|row| f64::from(row[dim])).sum::<f64>() / count;
            let square = rows.clone().map(|row| (f64::from(row[dim]) - mean).powi(2)).sum::<f64>();
            let sd = (square / (count - 1.0).max(1.0)).sqrt();
            (mean as f32, if sd > 1e-6 { (1.0 / sd) as f32 } else { 1.0 })
        };
        Self((0..dims).map(of_dim).collect())
    }
}

/// What an epoch hands to the next.
#[derive(Serialize, Deserialize)]
struct State {
    identity: String,
    /// Epochs done, of both parts.
    epochs: usize,
    params: Params,
    optimizer: AdamW,
    curves: Curves,
}

/// All that a training is of.
struct Tuning<'a> {
    options: &'a FinetuneParams,
    spots: &'a Spots,
    labelled: &'a Labelled,
    head: Head,
    /// Names of parameters that stay as they are.
    still: HashSet<String>,
    /// Embeddings of the training spots as the encoder came.
    came: Parts<Vec<f32>>,
    scales: Parts<Scale>,
}

impl Tuning<'_> {
    /// Whether a parameter learns, once the encoder does.
    fn learns(&self, name: &str) -> bool {
        !self.still.contains(name)
    }

    /// Trains from the last checkpoint on, if there is one.
    fn run(
        &self,
        ctx: &Context,
        architecture: &Architecture,
        weights: Params,
        device: Option<&dyn Device>,
    ) -> Result<(Params, Curves)> {
        let options = self.options;
        let identity = self.identity(architecture)?;
        let count = self.labelled.spots.len();
        let batches = count.div_ceil(options.batch_size);
        let (head_epochs, total) = (options.head_epochs, options.head_epochs + options.epochs);
        let encoder_is_still =
            weights.iter().all(|param| is_of_head(&param.name) || !self.learns(&param.name));
        let fresh = |params: &Params| AdamW::new(params, options.weight_decay as f32);
        let fits = |state: &State| {
            state.identity == identity && state.params.fits(&weights) && state.optimizer.fits(&weights)
        };
        let mut state = match checkpoint::load::<State>(ctx.scratch()).filter(fits) {
            Some(state) => {
                tracing::info!("going on after {} epochs", state.epochs);
                for (name, curve) in &state.curves {
                    (0..).zip(curve).for_each(|(epoch, value)| ctx.metric(name, epoch, *value));
                }
                state
            }
            None => State {
                identity,
                epochs: 0,
                optimizer: fresh(&weights),
                params: weights,
                curves: Curves::new(),
            },
        };
        if let Some(device) = device {
            state.params.place(device, &self.spots.parameters()).map_err(Error::invalid)?;
            state.params.hold(|param| !self.learns(&param.name));
            state.optimizer.place(&state.params);
        }

        while state.epochs < total {
            let epoch = state.epochs;
            let is_first_part = epoch < head_epochs;
            if epoch == head_epochs {
                // What it remembers is of the classifier alone.
                state.optimizer = fresh(&state.params);
                state.optimizer.place(&state.params);
            }
            let (done, epochs) =
                if is_first_part { (epoch, head_epochs) } else { (epoch - head_epochs, options.epochs) };
            let alone = is_first_part || encoder_is_still;
            let mut order: Vec<usize> = (0..count).collect();
            order.shuffle(&mut ctx.rng(&format!("batches/{epoch}")));
            let mut means = Means::default();
            for batch in 0..batches {
                ctx.check_cancelled()?;
                // Batches of (nearly) one size.
                let members = &order[batch * count / batches..(batch + 1) * count / batches];
                let share =
                    warmup_cosine((done * batches + batch) as f64 + 0.5, 0.0, (epochs * batches) as f64);
                let (rate, encoder_rate) =
                    (options.lr * share, if alone { 0.0 } else { options.encoder_lr * share });
                let parts = if alone {
                    self.as_came(members)
                } else {
                    let spots: Vec<usize> =
                        members.iter().map(|member| self.labelled.spots[*member]).collect();
                    self.spots.forward::<Recording>(&state.params, &spots)
                };
                let dropped = self.drop(ctx, epoch, members);
                let (loss, right) = self.loss(&state.params, parts, members, dropped.as_ref());
                let value = loss.array();
                let mut gradients =
                    state.params.gradients(loss).map_err(Error::other("training ran out of memory"))?;
                gradients.keep(&state.params, |param| self.learns(&param.name));
                let limit = if options.grad_clip > 0.0 { options.grad_clip as f32 } else { f32::INFINITY };
                let norm = gradients.clip(limit);
                device::check(&state.params)?;
                if !(value.is_finite() && norm.is_finite()) {
                    return Err(Error::invalid(format!(
                        "training diverged in epoch {}: the loss is {value}; lower `lr` or `encoder_lr`",
                        epoch + 1
                    )));
                }
                if !alone {
                    state.optimizer.step_away(&state.params, encoder_rate as f32);
                }
                state.optimizer.step_each(&mut state.params, &gradients, |param| match &*param.name {
                    name if is_of_head(name) => rate as f32,
                    name if self.learns(name) => encoder_rate as f32,
                    _ => 0.0,
                });
                let weight = members.len() as f64;
                for (name, value) in [
                    ("loss", f64::from(value)),
                    ("train_accuracy", right as f64 / weight),
                    ("gradient_norm", f64::from(norm)),
                    ("lr", rate),
                    ("encoder_lr", encoder_rate),
                ] {
                    means.add(name, value, weight);
                }
                report_progress(ctx, epoch * batches + batch + 1, batches, total);
            }
            for (name, value) in means.values() {
                ctx.metric(name, epoch as u64, value);
                state.curves.entry(name.to_owned()).or_default().push(value);
            }
            state.epochs += 1;
            if state.epochs.is_multiple_of(options.checkpoint_every) && state.epochs < total {
                state.params.fetch();
                state.optimizer.fetch(&state.params);
                device::check(&state.params)?;
                checkpoint::save(ctx.scratch(), &state)?;
            }
        }
        Ok((state.params, state.curves))
    }

    /// What a checkpoint must be of.
    fn identity(&self, architecture: &Architecture) -> Result<String> {
        let what = (architecture, self.options.provenance()?, &self.labelled.classes, &self.labelled.targets);
        let text = serde_json::to_vec(&what).map_err(Error::other("cannot write the architecture"))?;
        Ok(blake3::hash(&text).to_hex().to_string())
    }

    /// Embeddings of some training spots as the encoder came.
    fn as_came(&self, members: &[usize]) -> Parts<Matrix<Recording>> {
        self.came.as_ref().zip(self.spots.dims()).map(|(values, dims)| {
            let rows = members.iter().flat_map(|member| &values[member * dims..(member + 1) * dims]);
            tensor(rows.copied().collect(), (members.len(), dims)).leaky_traced()
        })
    }

    /// The weighted mean cross-entropy of some training spots by their embeddings, and how many are right. In an epoch of the
    /// training, some of the embeddings' values are hidden.
    fn loss(
        &self,
        params: &Params,
        parts: Parts<Matrix<Recording>>,
        members: &[usize],
        dropped: Option<&Dropped>,
    ) -> (Scalar<Recording>, usize) {
        let classes = self.labelled.classes.len();
        let scores = self.scores(params, parts, dropped);
        let mut targets = vec![0.0; members.len() * classes];
        for (row, member) in targets.chunks_exact_mut(classes).zip(members) {
            let class = self.labelled.targets[*member];
            row[class] = self.labelled.weights[class];
        }
        let found = values(&scores);
        let best = |row: &[f32]| (1..classes).fold(0, |best, at| if row[at] > row[best] { at } else { best });
        let right = |(row, member): &(&[f32], &usize)| best(row) == self.labelled.targets[**member];
        let right = found.chunks_exact(classes).zip(members).filter(right).count();
        (soft_cross_entropy(scores, &targets, 1.0), right)
    }

    /// What of the embeddings of some training spots is hidden in an epoch.
    fn drop(&self, ctx: &Context, epoch: usize, members: &[usize]) -> Option<Dropped> {
        let share = self.options.dropout;
        (share > 0.0).then(|| {
            let of_spot = |member: &usize| {
                let spot = &self.spots.ids()[self.labelled.spots[*member]];
                let mut rng = ctx.rng(&format!("batches/dropout/{epoch}/{spot}"));
                let mut of_part = |dims: usize| (0..dims).map(|_| rng.random_bool(share)).collect::<Vec<_>>();
                let Parts { first, second } = self.spots.dims();
                Parts { first: of_part(first), second: second.map(of_part) }
            };
            members.iter().map(of_spot).collect()
        })
    }

    /// What the classifier says of embeddings: rows x classes.
    fn scores<T: Tape<f32, Cpu>>(
        &self,
        params: &Params,
        parts: Parts<Matrix<T>>,
        dropped: Option<&Dropped>,
    ) -> Matrix<T> {
        let kept = 1.0 / (1.0 - self.options.dropout as f32);
        let scaled = |part: Matrix<T>, scale: &Scale, is_dropped: &dyn Fn(usize, usize) -> bool| {
            let shape @ (rows, dims) = *part.shape();
            let share = |row, dim| match dropped {
                None => 1.0,
                Some(_) if is_dropped(row, dim) => 0.0,
                Some(_) => kept,
            };
            let at = |at: usize| (share(at / dims, at % dims), scale.0[at % dims]);
            let factors = (0..rows * dims).map(at).map(|(share, (_, inverse))| share * inverse);
            let shifts = (0..rows * dims).map(at).map(|(share, (mean, inverse))| -share * mean * inverse);
            part * tensor(factors.collect(), shape) + tensor(shifts.collect(), shape)
        };
        let first = scaled(parts.first, &self.scales.first, &|row, dim| {
            dropped.is_some_and(|dropped| dropped[row].first[dim])
        });
        let second = parts.second.zip(self.scales.second.as_ref()).map(|(part, scale)| {
            scaled(part, scale, &|row, dim| {
                dropped.is_some_and(|dropped| dropped[row].second.as_ref().is_some_and(|part| part[dim]))
            })
        });
        self.head.forward(params, Parts { first, second })
    }

    /// Probabilities of all spots.
    fn predict(&self, ctx: &Context, params: &Params) -> Result<Predictions> {
        let (ids, classes) = (self.spots.ids(), self.labelled.classes.len());
        let positions: Vec<usize> = (0..ids.len()).collect();
        let mut probabilities = Vec::with_capacity(ids.len() * classes);
        for batch in positions.chunks(BATCH) {
            ctx.check_cancelled()?;
            let scores = self.scores(params, self.spots.forward::<NoneTape>(params, batch), None);
            for row in values(&scores).chunks_exact(classes) {
                let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let shares: Vec<f64> = row.iter().map(|score| f64::from(score - largest).exp()).collect();
                let sum: f64 = shares.iter().sum();
                probabilities.extend(shares.iter().map(|share| (share / sum) as f32));
            }
        }
        Ok(Predictions { spots: ids.to_vec(), classes: self.labelled.classes.clone(), probabilities })
    }
}

/// Per row which values of an embedding are hidden.
type Dropped = Vec<Parts<Vec<bool>>>;
