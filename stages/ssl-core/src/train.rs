//! The training loop that all objectives share.

use std::{collections::BTreeMap, time::Instant};

use rand::seq::SliceRandom;
use restage_nn::{
    Centre, Device, Matrix, ParamGradients, ParamId, Params, Recording, Scalar,
    dfdx::prelude::{AsArray, HasShape},
    warmup_cosine,
};
use restage_stage::{Context, Error, Result, context::rng};
use serde::{Deserialize, Serialize};

use crate::{
    architecture::Architecture,
    checkpoint::{self, State},
    collapse::{ALIKE, COLLAPSED, Deviations, Halves},
    optimizer::Stepper,
    params::PretrainParams,
};

/// One value per epoch, by name.
pub(crate) type Curves = BTreeMap<String, Vec<f64>>;

/// One value per dimension of an embedding, by the name of what it is.
pub(crate) type Dimensions = BTreeMap<String, Vec<f64>>;

/// What a training leaves beside its parameters.
pub(crate) struct Ended {
    pub(crate) curves: Curves,
    /// Of the last epoch's embeddings, the sd of each dimension.
    pub(crate) stds: Dimensions,
    pub(crate) memory: Memory,
}

/// What is minimised.
pub(crate) trait Objective {
    /// Number of training spots; of sections, where whole ones are trained on.
    fn items(&self) -> usize;

    /// Parameters of networks that a device may run: what is computed with them is computed by [`Network`] only.
    ///
    /// [`Network`]: restage_nn::Network
    fn parameters(&self) -> Vec<ParamId> {
        Vec::new()
    }

    /// Batches an epoch, for so many spots in each at most.
    fn batches(&self, spots: usize) -> usize {
        // None of one spot: there is nothing to compare it with.
        self.items().div_ceil(spots).min(self.items() / 2).max(1)
    }

    /// What it remembers besides the parameters, at the beginning.
    fn begin(&self, _: &Params) -> Memory {
        Memory::default()
    }

    /// The loss of a batch. Random numbers are drawn by epoch and spot only, so that the result depends neither on
    /// the order of the batch nor on threads.
    fn step(&self, params: &Params, memory: &Memory, epoch: usize, batch: &[usize]) -> Step;

    /// Takes in a step that was made: what it saw, and the share of all steps that is done.
    fn remember(&self, _: &mut Memory, _: &Params, _seen: Vec<f32>, _done: f64) {}
}

/// What an objective carries from step to step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// A running mean of the parameters.
    pub(crate) teacher: Option<Params>,
    /// Of the teacher's scores.
    pub(crate) centre: Option<Centre>,
    /// Of former batches, the newest first: MoCo's keys, or SwAV's embeddings of both views.
    pub(crate) queue: Vec<f32>,
}

/// The loss of one batch.
pub(crate) struct Step {
    pub(crate) loss: Scalar<Recording>,
    /// The terms it consists of, if there are several.
    pub(crate) terms: Vec<(&'static str, f32)>,
    /// What the encoder gave, for the watch over collapse.
    pub(crate) embeddings: Matrix,
    /// What it gave for other views of the same spots.
    pub(crate) others: Option<Matrix>,
    /// What a second encoder gave, of genes beside patches.
    pub(crate) of_genes: Option<Matrix>,
    /// What its loss compares, where that is something else than embeddings.
    pub(crate) compared: Option<Matrix>,
    /// What the objective will remember.
    pub(crate) seen: Vec<f32>,
}

impl Step {
    /// Of an objective that has one loss, one view and one encoder, and remembers nothing.
    pub(crate) fn new(loss: Scalar<Recording>, embeddings: Matrix) -> Self {
        let (terms, seen) = (Vec::new(), Vec::new());
        Self { loss, terms, embeddings, others: None, of_genes: None, compared: None, seen }
    }
}

/// Trains `params` for `options.epochs` epochs, from the last checkpoint if there is one.
pub(crate) fn train(
    ctx: &Context,
    options: &PretrainParams,
    architecture: &Architecture,
    params: &mut Params,
    objective: &dyn Objective,
    device: Option<&dyn Device>,
) -> Result<Ended> {
    let identity = &identity(architecture)?;
    let items = objective.items();
    let batches = objective.batches(options.batch_size());
    // A step is of several batches where gradients are gathered.
    let steps_per_epoch = batches.div_ceil(options.accumulate);
    let steps = steps_per_epoch * options.epochs;
    let mut state = resume(ctx, options, identity, params, objective);
    if let Some(device) = device {
        state.place(device, &objective.parameters())?;
    }
    if (1..options.warmup_epochs).contains(&options.epochs) {
        let (warmup, epochs) = (options.warmup_epochs, options.epochs);
        tracing::warn!(
            "`warmup_epochs` {warmup} is more than `epochs` {epochs}: `learning_rate` is never reached"
        );
    }
    let mut best = Best::of(state.curves.get("loss"));

    let mut pace = Pace { began: Instant::now(), epochs: 0, spots: 0.0 };

    while state.epochs < options.epochs && !best.is_long_ago(options.patience) {
        let done = state.epochs;
        let mut order: Vec<usize> = (0..items).collect();
        order.shuffle(&mut rng(ctx.seed_of("batches"), &format!("order/{done}")));
        let mut means = Means::default();
        let mut gathered = Gathered::default();
        let (mut spread, mut gene_spread) = (Halves::default(), None::<Halves>);
        let mut late = None::<Deviations>;
        for batch in 0..batches {
            ctx.check_cancelled()?;
            // Batches of (nearly) one size: a small last one would make a noisy step.
            let members = &order[batch * items / batches..(batch + 1) * items / batches];
            let step = done * steps_per_epoch + batch / options.accumulate;
            let rate = options.learning_rate() * rate_share(step, steps_per_epoch, options);

            let made = objective.step(&state.params, &state.memory, done, members);
            let Step { loss, terms, embeddings, others, of_genes, compared, seen } = made;
            let value = loss.array();
            let gradients = state.params.gradients(loss);
            let gradients = gradients.map_err(Error::other("training ran out of memory"))?;
            gathered.add(gradients, seen);
            let mut norm = None;
            if (batch + 1).is_multiple_of(options.accumulate) || batch + 1 == batches {
                let (mut gradients, seen) = std::mem::take(&mut gathered).mean();
                let limit = if options.grad_clip > 0.0 { options.grad_clip as f32 } else { f32::INFINITY };
                let length = gradients.clip(limit);
                norm = Some(length);
                if length.is_finite() {
                    state.optimizer.step(&mut state.params, &gradients, rate as f32);
                }
                let share = (step + 1) as f64 / steps.max(1) as f64;
                objective.remember(&mut state.memory, &state.params, seen, share);
            }
            state.check_device()?;
            if !value.is_finite() || norm.is_some_and(|norm| !norm.is_finite()) {
                let what =
                    if value.is_finite() { "but its gradient is not finite" } else { "which is no number" };
                return Err(Error::invalid(format!(
                    "training diverged in epoch {}: the loss is {value}, {what}; lower `learning_rate`",
                    done + 1
                )));
            }

            spread.add((batch, batches), &embeddings, others.as_ref());
            if let Some(of_genes) = of_genes {
                gene_spread.get_or_insert_default().add((batch, batches), &of_genes, None);
            }
            if let Some(compared) = compared.filter(|_| batch >= batches / 2) {
                late.get_or_insert_default().add(&compared);
            }
            let weight = embeddings.shape().0 as f64;
            pace.spots += weight;
            let norm = norm.map(|norm| ("gradient_norm", norm));
            for (name, value) in std::iter::once(("loss", value)).chain(norm).chain(terms) {
                means.add(name, f64::from(value), weight);
            }
            means.add("learning_rate", rate, weight);
            report_progress(ctx, done * batches + batch + 1, batches, options.epochs);
        }
        let (spread, ends_with) = spread.ended();
        means.add("embedding_std", spread.std(), 1.0);
        means.add("embedding_std_least", spread.least_std(), 1.0);
        state.stds.insert("embedding_std".to_owned(), spread.stds());
        means.add("effective_rank", spread.effective_rank(), 1.0);
        means.add("uniformity", spread.uniformity(), 1.0);
        if let Some(alignment) = spread.alignment() {
            means.add("alignment", alignment, 1.0);
        }
        let gene_spread = gene_spread.map(Halves::ended);
        if let Some((spread, _)) = &gene_spread {
            means.add("gene_embedding_std", spread.std(), 1.0);
            state.stds.insert("gene_embedding_std".to_owned(), spread.stds());
        }
        let compared = late.map(|late| late.mean());
        if let Some(std) = compared {
            means.add(COMPARED, std, 1.0);
        }
        for (name, value) in means.values() {
            ctx.metric(name, done as u64, value);
            state.curves.entry(name.to_owned()).or_default().push(value);
        }
        let std = gene_spread.map_or(ends_with, |(_, of_genes)| ends_with.min(of_genes));
        if std < COLLAPSED {
            let what = format!("all spots have nearly the same embedding (spread {std:.4})");
            return Err(collapsed(done + 1, &what));
        }
        state.epochs += 1;
        pace.epochs += 1;
        pace.tell(ctx, done, options.epochs - state.epochs);
        best.add(state.curves["loss"][done]);
        if state.epochs.is_multiple_of(options.checkpoint_every) && state.epochs < options.epochs {
            state.fetch()?;
            checkpoint::save(ctx.scratch(), &state)?;
        }
    }
    if let Some((epoch, std)) = alike_since(state.curves.get(COMPARED)) {
        let what = format!("what the loss compares is nearly the same for all spots since (spread {std:.4})");
        return Err(collapsed(epoch, &what));
    }
    if state.epochs < options.epochs {
        tracing::info!("stopped after {} epochs: the loss no longer falls", state.epochs);
    }
    state.fetch()?;
    state.params.leave();
    if let Some(teacher) = &mut state.memory.teacher {
        teacher.leave();
    }
    *params = state.params;
    Ok(Ended { curves: state.curves, stds: state.stds, memory: state.memory })
}

/// The curve of how much what the loss compares differs from spot to spot.
const COMPARED: &str = "compared_std";

/// The epoch since which, to the end, there is nothing left to compare, and what there is in the end.
fn alike_since(compared: Option<&Vec<f64>>) -> Option<(usize, f64)> {
    let compared = compared?;
    let alike = compared.iter().rev().take_while(|std| **std < ALIKE).count();
    (alike > 0).then(|| (compared.len() - alike + 1, compared[compared.len() - 1]))
}

fn collapsed(epoch: usize, what: &str) -> Error {
    Error::invalid(format!(
        "collapsed in epoch {epoch}: {what}; are the inputs of all spots alike? If not, lower `learning_rate`, or take more spots; \
         negatives, as of `simclr`, and variance terms, as of `vicreg`, hold spots apart best"
    ))
}

/// How fast training goes. Told as it goes, and in no artifact: those are the same bytes however long they took.
struct Pace {
    began: Instant,
    /// Epochs done since.
    epochs: usize,
    /// Spots seen since.
    spots: f64,
}

impl Pace {
    /// `left` epochs are the most that are to come.
    fn tell(&self, ctx: &Context, epoch: usize, left: usize) {
        let seconds = self.began.elapsed().as_secs_f64().max(1e-9);
        ctx.metric("spots_per_second", epoch as u64, self.spots / seconds);
        ctx.metric("seconds_left", epoch as u64, seconds / self.epochs.max(1) as f64 * left as f64);
    }
}

/// Gradients of the batches of a step, and what they saw.
#[derive(Default)]
struct Gathered {
    batches: usize,
    gradients: ParamGradients,
    seen: Vec<f32>,
}

impl Gathered {
    fn add(&mut self, gradients: ParamGradients, seen: Vec<f32>) {
        self.gradients.add(gradients);
        self.seen.extend(seen);
        self.batches += 1;
    }

    fn mean(mut self) -> (ParamGradients, Vec<f32>) {
        if self.batches > 1 {
            self.gradients.scale(1.0 / self.batches as f32);
        }
        (self.gradients, self.seen)
    }
}

/// The lowest loss so far. The first epoch's does not count: before queues are full, and while weights are those of chance, a loss may be
/// lower than it ever is again.
struct Best {
    loss: f64,
    epochs: usize,
    /// Epochs since.
    ago: usize,
}

impl Best {
    fn of(losses: Option<&Vec<f64>>) -> Self {
        let mut best = Self { loss: f64::INFINITY, epochs: 0, ago: 0 };
        losses.into_iter().flatten().for_each(|loss| best.add(*loss));
        best
    }

    fn add(&mut self, loss: f64) {
        self.epochs += 1;
        if self.epochs > 1 {
            self.ago = if loss < self.loss { 0 } else { self.ago + 1 };
            self.loss = self.loss.min(loss);
        }
    }

    fn is_long_ago(&self, patience: Option<usize>) -> bool {
        patience.is_some_and(|patience| self.ago >= patience)
    }
}

/// What a checkpoint must be of: the same params and seed on inputs scaled the same.
fn identity(architecture: &Architecture) -> Result<String> {
    let text = serde_json::to_vec(architecture).map_err(Error::other("cannot write the architecture"))?;
    Ok(blake3::hash(&text).to_hex().to_string())
}

/// The state of the last checkpoint of the same training, else the beginning.
fn resume(
    ctx: &Context,
    options: &PretrainParams,
    identity: &str,
    params: &Params,
    objective: &dyn Objective,
) -> State {
    let fits = |state: &State| {
        state.identity == identity && state.params.fits(params) && state.optimizer.fits(params)
    };
    if let Some(state) = checkpoint::load(ctx.scratch()).filter(fits) {
        tracing::info!("going on after {} epochs", state.epochs);
        for (name, curve) in &state.curves {
            (0..).zip(curve).for_each(|(epoch, value)| ctx.metric(name, epoch, *value));
        }
        return state;
    }
    State {
        identity: identity.to_owned(),
        epochs: 0,
        params: params.clone(),
        optimizer: Stepper::new(&options.optimizer, params, options.weight_decay),
        curves: Curves::new(),
        stds: Dimensions::new(),
        memory: objective.begin(params),
    }
}

fn rate_share(step: usize, steps_per_epoch: usize, options: &PretrainParams) -> f64 {
    let of = |epochs: usize| (epochs * steps_per_epoch) as f64;
    // The middle of a step: at its ends the first and the last would have a rate of 0.
    warmup_cosine(step as f64 + 0.5, of(options.warmup_epochs), of(options.epochs))
}

/// Tells of epochs, as people count; of few and long ones, of about 200 of all steps.
pub(crate) fn report_progress(ctx: &Context, done: usize, steps_per_epoch: usize, epochs: usize) {
    let total = steps_per_epoch * epochs;
    if epochs >= 20 {
        if done.is_multiple_of(steps_per_epoch) {
            ctx.progress((done / steps_per_epoch) as u64, epochs as u64, "epochs");
        }
    } else if done.is_multiple_of((total / 200).max(1)) || done == total {
        ctx.progress(done as u64, total as u64, "steps");
    }
}

/// Weighted means by name, in the order in which names came.
#[derive(Default)]
pub(crate) struct Means(Vec<(&'static str, f64, f64)>);

impl Means {
    pub(crate) fn add(&mut self, name: &'static str, value: f64, weight: f64) {
        match self.0.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, sum, total)) => {
                *sum += weight * value;
                *total += weight;
            }
            None => self.0.push((name, weight * value, weight)),
        }
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.0.iter().map(|(name, sum, total)| (*name, sum / total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_from_the_second_epoch() {
        // As of `moco`, whose queue is empty at first.
        let losses = vec![4.4, 5.0, 4.9, 4.8, 4.85, 4.82];
        let best = Best::of(Some(&losses));
        assert!(best.is_long_ago(Some(2)) && !best.is_long_ago(Some(3)) && !best.is_long_ago(None));
        assert!(!Best::of(Some(&losses[..4].to_vec())).is_long_ago(Some(1)));
    }

    #[test]
    fn a_collapse_is_dated_from_where_it_stays() {
        let since = |compared: &[f64]| alike_since(Some(&compared.to_vec()));
        assert_eq!(since(&[0.3, 0.04, 0.2, 0.04, 0.02]), Some((4, 0.02)));
        assert_eq!(since(&[0.01, 0.02]), Some((1, 0.02)));
        assert_eq!(since(&[0.3, 0.01, 0.06]), None, "it passed through");
        assert_eq!((since(&[]), alike_since(None)), (None, None));
    }
}
