//! How classifiers that are networks are trained: on labels, in epochs, stopped by what part of the labels says.

use std::collections::BTreeMap;

use rand::{Rng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use restage_nn::{AdamW, Matrix, Params, Recording, dfdx::prelude::*, soft_cross_entropy, tensor, values};
use restage_stage::{Context, Error, Result};

use crate::{
    check,
    folds::{By, Folds},
    scores::Confusion,
    training::{ClassWeight, Training},
};

/// Parts that labels are cut into, of which one is held back.
const FOLDS: usize = 5;

/// How it is trained.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) epochs: usize,
    /// Epochs without a better loss on labels held back; none: nothing is held back.
    pub(crate) patience: Option<usize>,
    /// Spots of a step.
    pub(crate) batch: usize,
    pub(crate) learning_rate: f64,
    pub(crate) weight_decay: f64,
    pub(crate) class_weight: ClassWeight,
}

impl Plan {
    /// Refuses what cannot be trained with.
    ///
    /// # Errors
    /// If there is such.
    pub(crate) fn check(&self, dropout: f64) -> Result<()> {
        check::one_or_more(&[
            ("epochs", self.epochs),
            ("batch_size", self.batch),
            ("patience", self.patience.unwrap_or(1)),
        ])?;
        check::above_zero("learning_rate", self.learning_rate)?;
        let problem = if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            format!("`weight_decay` is {}: it must be 0 or more", self.weight_decay)
        } else if !(0.0..1.0).contains(&dropout) {
            format!("`dropout` is {dropout}: it must be from 0 to below 1")
        } else {
            return Ok(());
        };
        Err(Error::invalid(problem))
    }
}

/// A network whose scores of spots are made by `F`, of its parameters, the spots' places, and, while it trains, what dropout
/// draws from.
pub(crate) struct Network<F> {
    pub(crate) params: Params,
    pub(crate) scores: F,
}

/// What was trained, and how it went.
pub(crate) struct Trained<F> {
    pub(crate) network: Network<F>,
    /// Epochs that it was trained for, on all labels.
    pub(crate) epochs: usize,
    /// `loss` of all labels; `loss_held_back` and `macro_f1_held_back` of those that told when to stop.
    pub(crate) curves: BTreeMap<String, Vec<f64>>,
    /// Who was held back together.
    pub(crate) held_back_by: Option<By>,
}

/// Trains twice from the same beginning: first without a part of the labels, to learn after how many epochs the loss of that
/// part is lowest; then on all labels for as many.
///
/// # Errors
/// If training diverges, memory runs out, or it is cancelled.
pub(crate) fn train<F>(
    ctx: &Context,
    plan: &Plan,
    training: &Training,
    begin: impl Fn() -> Network<F>,
) -> Result<Trained<F>>
where
    F: Fn(&Params, &[usize], Option<&mut ChaCha8Rng>) -> Matrix<Recording>,
{
    let folds = plan.patience.and_then(|_| Folds::of(training, FOLDS));
    if plan.patience.is_some() && folds.is_none() {
        tracing::warn!(
            "no region has two training spots, so nothing can be held back: trained for all {} epochs",
            plan.epochs
        );
    }
    let all: Vec<usize> = (0..training.len()).collect();
    let mut curves = BTreeMap::new();
    let mut epochs = plan.epochs;
    if let Some(folds) = &folds {
        let (left, held) = folds.sides(folds.count - 1);
        let mut network = begin();
        let mut watch = Watch { patience: plan.patience.unwrap_or(usize::MAX), ..Watch::default() };
        fit(ctx, plan, plan.epochs, training, &left, &mut network, |epoch, network, _| {
            let (loss, macro_f1) = judge(plan, network, training, &left, &held);
            ctx.metric("loss_held_back", epoch as u64, loss);
            watch.losses.push(loss);
            watch.scores.push(macro_f1);
            watch.is_over()
        })?;
        epochs = watch.best() + 1;
        tracing::info!(
            "trained for {epochs} epochs: then the loss of {} training spots held back was lowest",
            held.len()
        );
        curves.insert("loss_held_back".to_owned(), watch.losses);
        curves.insert("macro_f1_held_back".to_owned(), watch.scores);
    }
    let mut network = begin();
    let mut losses = Vec::new();
    fit(ctx, plan, epochs, training, &all, &mut network, |epoch, _, loss| {
        ctx.metric("loss", epoch as u64, loss);
        losses.push(loss);
        false
    })?;
    curves.insert("loss".to_owned(), losses);
    Ok(Trained { network, epochs, curves, held_back_by: folds.map(|folds| folds.by) })
}

/// When the loss of labels held back was lowest.
#[derive(Default)]
struct Watch {
    patience: usize,
    losses: Vec<f64>,
    scores: Vec<f64>,
}

impl Watch {
    fn best(&self) -> usize {
        (1..self.losses.len())
            .fold(0, |best, epoch| if self.losses[epoch] < self.losses[best] { epoch } else { best })
    }

    fn is_over(&self) -> bool {
        self.losses.len() - self.best() > self.patience
    }
}

/// Trains on some of the training spots; `after` hears each epoch's loss, and says whether it was the last.
fn fit<F>(
    ctx: &Context,
    plan: &Plan,
    epochs: usize,
    training: &Training,
    places: &[usize],
    network: &mut Network<F>,
    mut after: impl FnMut(usize, &Network<F>, f64) -> bool,
) -> Result<()>
where
    F: Fn(&Params, &[usize], Option<&mut ChaCha8Rng>) -> Matrix<Recording>,
{
    let weights = weights(plan, training, places);
    let mut optimizer = AdamW::new(&network.params, plan.weight_decay as f32);
    let batches = places.len().div_ceil(plan.batch);
    for epoch in 0..epochs {
        ctx.check_cancelled()?;
        let mut rng = ctx.rng(&format!("batches/{epoch}"));
        let mut order = places.to_vec();
        order.shuffle(&mut rng);
        let mut sum = 0.0;
        for batch in 0..batches {
            // Batches of (nearly) one size: a small last one would make a noisy step.
            let members = &order[batch * order.len() / batches..(batch + 1) * order.len() / batches];
            let spots: Vec<usize> = members.iter().map(|&place| training.spots[place]).collect();
            let scores = (network.scores)(&network.params, &spots, Some(&mut rng));
            let loss = soft_cross_entropy(scores, &targets(training, members, &weights), 1.0);
            sum += f64::from(loss.array()) * members.len() as f64;
            let gradients = network.params.gradients(loss);
            let mut gradients = gradients.map_err(Error::other("training ran out of memory"))?;
            // Values that are not numbers are no longer seen in the loss, behind a ReLU and a softmax.
            if !gradients.clip(f32::INFINITY).is_finite() {
                return Err(diverged(epoch));
            }
            optimizer.step(&mut network.params, &gradients, plan.learning_rate as f32);
        }
        let loss = sum / order.len() as f64;
        if !loss.is_finite() {
            return Err(diverged(epoch));
        }
        ctx.progress(epoch as u64 + 1, epochs as u64, "epochs");
        if after(epoch, network, loss) {
            break;
        }
    }
    Ok(())
}

fn diverged(epoch: usize) -> Error {
    Error::invalid(format!("training diverged in epoch {}: lower `learning_rate`", epoch + 1))
}

/// Per class, by what trains.
fn weights(plan: &Plan, training: &Training, places: &[usize]) -> Vec<f64> {
    let targets: Vec<usize> = places.iter().map(|&place| training.targets[place]).collect();
    plan.class_weight.of(&targets, training.classes.len())
}

/// A row per spot with its weight at its class.
fn targets(training: &Training, places: &[usize], weights: &[f64]) -> Vec<f32> {
    let mut rows = vec![0.0; places.len() * weights.len()];
    for (row, &place) in rows.chunks_exact_mut(weights.len()).zip(places) {
        let class = training.targets[place];
        row[class] = weights[class] as f32;
    }
    rows
}

/// Loss and macro F1 of spots that did not train.
fn judge<F>(
    plan: &Plan,
    network: &Network<F>,
    training: &Training,
    left: &[usize],
    held: &[usize],
) -> (f64, f64)
where
    F: Fn(&Params, &[usize], Option<&mut ChaCha8Rng>) -> Matrix<Recording>,
{
    // A region that only spots held back have weighs as one spot: nothing could be learnt of it.
    let weights: Vec<f64> =
        weights(plan, training, left).into_iter().map(|w| if w > 0.0 { w } else { 1.0 }).collect();
    let spots: Vec<usize> = held.iter().map(|&place| training.spots[place]).collect();
    let classes = training.classes.len();
    let (mut loss, mut total, mut pairs) = (0.0, 0.0, Vec::with_capacity(held.len()));
    for (&place, row) in held.iter().zip(network.probabilities(&spots).chunks_exact(classes)) {
        let truth = training.targets[place];
        loss -= weights[truth] * row[truth].max(f64::MIN_POSITIVE).ln();
        total += weights[truth];
        let largest = (1..classes).fold(0, |best, next| if row[next] > row[best] { next } else { best });
        pairs.push((training.classes[truth].as_str(), training.classes[largest].as_str()));
    }
    (loss / total, Confusion::count(pairs).scores()["macro_f1"])
}

impl<F> Network<F>
where
    F: Fn(&Params, &[usize], Option<&mut ChaCha8Rng>) -> Matrix<Recording>,
{
    /// Spots x classes.
    pub(crate) fn probabilities(&self, spots: &[usize]) -> Vec<f64> {
        let scores = (self.scores)(&self.params, spots, None);
        let classes = scores.shape().1;
        let mut shares: Vec<f64> = values(&scores).into_iter().map(f64::from).collect();
        for row in shares.chunks_exact_mut(classes) {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.iter_mut().for_each(|score| *score = (*score - largest).exp());
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|share| *share /= sum);
        }
        shares
    }
}

/// Leaves out a share of the values, and makes up for it; nothing where nothing is drawn.
pub(crate) fn drop_out(x: Matrix<Recording>, share: f64, rng: Option<&mut ChaCha8Rng>) -> Matrix<Recording> {
    let Some(rng) = rng.filter(|_| share > 0.0) else { return x };
    let shape = *x.shape();
    let kept = (1.0 - share).recip() as f32;
    let mask = (0..shape.0 * shape.1).map(|_| if rng.random_bool(share) { 0.0 } else { kept }).collect();
    x * tensor(mask, shape)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn what_is_left_out_is_made_up_for() {
        let x = || tensor(vec![2.0; 4000], (40, 100)).leaky_traced();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let found = values(&drop_out(x(), 0.25, Some(&mut rng)));
        assert!(found.iter().all(|&value| value == 0.0 || (value - 2.0 / 0.75).abs() < 1e-6));
        let mean = found.iter().sum::<f32>() / 4000.0;
        assert!((mean - 2.0).abs() < 0.1, "{mean}");
        assert_eq!(values(&drop_out(x(), 0.25, None)), vec![2.0; 4000]);
    }

    #[test]
    fn it_is_over_when_the_best_is_long_ago() {
        let mut watch = Watch { patience: 2, ..Watch::default() };
        let over: Vec<bool> = [5.0, 3.0, 4.0, 2.0, 2.0, 3.0]
            .into_iter()
            .map(|loss| {
                watch.losses.push(loss);
                watch.is_over()
            })
            .collect();
        assert_eq!((over, watch.best()), (vec![false, false, false, false, false, true], 3));
    }
}
