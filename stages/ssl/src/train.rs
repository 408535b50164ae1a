//! The training loop that both objectives share.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use restage_nn::{
    AdamW, Matrix, Params, Recording, Scalar, clip_norm, dfdx::prelude::AsArray, warmup_cosine,
};
use restage_stage::{Context, Error, Result};

use crate::{
    architecture::Architecture,
    checkpoint::{self, State},
    collapse::{COLLAPSED, Spread},
    params::PretrainParams,
};

/// One value per epoch, by name.
pub(crate) type Curves = BTreeMap<String, Vec<f64>>;

/// What is minimised.
pub(crate) trait Objective {
    /// Number of training spots.
    fn items(&self) -> usize;

    /// The loss of a batch. Random numbers are drawn by epoch and spot only, so that the result depends neither on
    /// the order of the batch nor on threads.
    fn step(&self, params: &Params, epoch: usize, batch: &[usize]) -> Step;
}

/// The loss of one batch.
pub(crate) struct Step {
    pub(crate) loss: Scalar<Recording>,
    /// The terms it consists of, if there are several.
    pub(crate) terms: Vec<(&'static str, f32)>,
    /// What the encoder gave, for the watch over collapse.
    pub(crate) embeddings: Matrix,
}

/// Trains `params` for `options.epochs` epochs, from the last checkpoint if there is one.
pub(crate) fn train(
    ctx: &Context,
    options: &PretrainParams,
    architecture: &Architecture,
    params: &mut Params,
    objective: &dyn Objective,
) -> Result<Curves> {
    let identity = &identity(architecture)?;
    let items = objective.items();
    let batches = items.div_ceil(options.batch_size());
    let steps = (batches * options.epochs) as u64;
    let (mut done, mut optimizer, mut curves) = resume(ctx, options, identity, params);

    while done < options.epochs {
        let mut order: Vec<usize> = (0..items).collect();
        order.shuffle(&mut ctx.rng(&format!("order/{done}")));
        let mut means = Means::default();
        let mut spread = Spread::default();
        for batch in 0..batches {
            ctx.check_cancelled()?;
            // Batches of (nearly) one size: a small last one would make a noisy step.
            let members = &order[batch * items / batches..(batch + 1) * items / batches];
            let step = done * batches + batch;
            let rate = options.learning_rate * rate_share(step, batches, options);

            let Step { loss, terms, embeddings } = objective.step(params, done, members);
            let value = loss.array();
            let mut gradients = params.gradients(loss).map_err(Error::other("training ran out of memory"))?;
            let limit = if options.grad_clip > 0.0 { options.grad_clip as f32 } else { f32::INFINITY };
            let norm = clip_norm(&mut gradients, limit);
            if !value.is_finite() || !norm.is_finite() {
                return Err(Error::invalid(format!(
                    "training diverged at epoch {done}: the loss is {value}; lower `learning_rate`"
                )));
            }
            optimizer.step(params, &gradients, rate as f32);

            spread.add(&embeddings);
            let weight = members.len() as f64;
            for (name, value) in [("loss", value), ("gradient_norm", norm)].into_iter().chain(terms) {
                means.add(name, f64::from(value), weight);
            }
            means.add("learning_rate", rate, weight);
            report_progress(ctx, step as u64 + 1, steps);
        }
        means.add("embedding_std", spread.value(), 1.0);
        for (name, value) in means.values() {
            ctx.metric(name, done as u64, value);
            curves.entry(name.to_owned()).or_default().push(value);
        }
        if spread.value() < COLLAPSED {
            return Err(Error::invalid(format!(
                "collapsed at epoch {done}: all spots have nearly the same embedding (spread {:.4}); lower \
                 `learning_rate` or, for vicreg, raise `variance`",
                spread.value()
            )));
        }
        done += 1;
        if done.is_multiple_of(options.checkpoint_every) && done < options.epochs {
            let (values, optimizer, curves) = (snapshot(params), optimizer.clone(), curves.clone());
            let identity = identity.to_owned();
            checkpoint::save(
                ctx.scratch(),
                &State { identity, epochs: done, params: values, optimizer, curves },
            )?;
        }
    }
    Ok(curves)
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
    params: &mut Params,
) -> (usize, AdamW, Curves) {
    let start = AdamW::new(params, options.weight_decay as f32);
    let Some(state) = checkpoint::load(ctx.scratch(), identity).filter(|state| state.optimizer.fits(params))
    else {
        return (0, start, Curves::new());
    };
    let saved: BTreeMap<String, (Vec<usize>, &[f32])> = params
        .iter()
        .zip(&state.params)
        .map(|(param, values)| (param.name.clone(), (param.shape.clone(), &values[..])))
        .collect();
    let mut restored = params.clone();
    if restored.load(|name| saved.get(name).map(|(shape, values)| (&shape[..], *values))).is_err() {
        return (0, start, Curves::new());
    }
    *params = restored;
    tracing::info!("going on after epoch {}", state.epochs);
    for (name, curve) in &state.curves {
        (0..).zip(curve).for_each(|(epoch, value)| ctx.metric(name, epoch, *value));
    }
    (state.epochs, state.optimizer, state.curves)
}

fn snapshot(params: &Params) -> Vec<Vec<f32>> {
    params.iter().map(|param| param.values()).collect()
}

fn rate_share(step: usize, batches: usize, options: &PretrainParams) -> f64 {
    let of = |epochs: usize| (epochs * batches) as f64;
    // The middle of a step: at its ends the first and the last would have a rate of 0.
    warmup_cosine(step as f64 + 0.5, of(options.warmup_epochs), of(options.epochs))
}

/// Tells of about 200 steps of all, not of each.
fn report_progress(ctx: &Context, done: u64, total: u64) {
    if done.is_multiple_of((total / 200).max(1)) || done == total {
        ctx.progress(done, total, "steps");
    }
}

/// Weighted means by name, in the order in which names came.
#[derive(Default)]
struct Means(Vec<(&'static str, f64, f64)>);

impl Means {
    fn add(&mut self, name: &'static str, value: f64, weight: f64) {
        match self.0.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, sum, total)) => {
                *sum += weight * value;
                *total += weight;
            }
            None => self.0.push((name, weight * value, weight)),
        }
    }

    fn values(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.0.iter().map(|(name, sum, total)| (*name, sum / total))
    }
}
