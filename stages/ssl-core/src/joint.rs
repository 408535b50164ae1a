//! Joint embedding: two random views of a spot should have embeddings that agree, and not all spots the same. What keeps
//! them apart is what the methods differ in: negatives (`simclr`, `moco`), statistics of the batch (`vicreg`, `barlow`), a
//! teacher or a stopped gradient (`byol`, `simsiam`), prototypes (`swav`, `dino`).

use restage_nn::{
    Centre, Matrix, ParamId, Params, Prototypes, Recording, Scalar, VicRegWeights, barlow,
    dfdx::prelude::NoneTape, ema_cosine, info_nce, negative_cosine, nt_xent, sinkhorn, soft_cross_entropy,
    tensor, values, vicreg,
};

use crate::{
    encoder::Projector,
    train::{Memory, Objective, Step},
    views::Views,
};

/// SwAV's ε and turns; DINO's temperature of the teacher and momentum of its centre: the authors' defaults.
const EPSILON: f32 = 0.05;
const TURNS: usize = 3;
const TEACHER_TEMPERATURE: f32 = 0.04;
const CENTRE_MOMENTUM: f32 = 0.9;

/// What keeps embeddings apart, with what it needs on top of the projector.
pub(crate) enum Method {
    /// VICReg (Bardes et al. 2022).
    Vicreg(VicRegWeights),
    /// Barlow Twins (Zbontar et al. 2021), with the weight of its terms off the diagonal.
    Barlow(f32),
    /// SimCLR (Chen et al. 2020).
    Simclr { temperature: f32 },
    /// MoCo v2 (He et al. 2020): keys by a teacher, and a queue of those of former batches.
    Moco { temperature: f32, queue: usize },
    /// SimSiam (Chen & He 2021).
    Simsiam(Projector),
    /// BYOL (Grill et al. 2020).
    Byol(Projector),
    /// SwAV (Caron et al. 2020); spots of former batches, if it keeps any, share the prototypes with the batch's.
    Swav { temperature: f32, prototypes: Prototypes, count: usize, queue: usize },
    /// DINO (Caron et al. 2021).
    Dino { temperature: f32, prototypes: Prototypes, count: usize },
}

impl Method {
    fn has_teacher(&self) -> bool {
        matches!(self, Self::Moco { .. } | Self::Byol(_) | Self::Dino { .. })
    }
}

/// The objective on these views.
pub(crate) struct Joint<V> {
    pub(crate) views: V,
    pub(crate) projector: Projector,
    pub(crate) method: Method,
    /// How much of the teacher stays at the first step; at the last all of it does.
    pub(crate) momentum: f64,
}

impl<V: Views> Objective for Joint<V> {
    fn items(&self) -> usize {
        self.views.items()
    }

    fn parameters(&self) -> Vec<ParamId> {
        let predictor = match &self.method {
            Method::Simsiam(predictor) | Method::Byol(predictor) => predictor.parameters(),
            _ => Vec::new(),
        };
        [self.views.parameters(), self.projector.parameters(), predictor].concat()
    }

    fn begin(&self, params: &Params) -> Memory {
        let centre = match &self.method {
            Method::Dino { count, .. } => Some(Centre::new(*count)),
            _ => None,
        };
        Memory { teacher: self.method.has_teacher().then(|| params.clone()), centre, queue: Vec::new() }
    }

    fn step(&self, params: &Params, memory: &Memory, epoch: usize, batch: &[usize]) -> Step {
        let views = [0, 1].map(|view| self.views.draw(epoch, view, batch));
        // Without a teacher, the encoder itself.
        let teacher = memory.teacher.as_ref().unwrap_or(params);
        let taught = |view: &V::View| self.projector.forward(teacher, self.views.look(teacher, view));
        let [(a, left), (b, right)] = views.each_ref().map(|view| {
            let embeddings = self.views.embed(params, view);
            let kept = embeddings.retaped::<NoneTape>();
            (self.projector.forward(params, embeddings), kept)
        });
        // What small crops look like, which are to be like both views.
        let crops = |prototypes: &Prototypes| {
            let (view, count) = self.views.crops(epoch, batch)?;
            let embeddings = self.views.embed(params, &view);
            Some((prototypes.forward(params, self.projector.forward(params, embeddings)), count))
        };
        // What the loss compares; of prototypes, their shares.
        let mut compared = a.retaped::<NoneTape>();
        // What each view should be like: the other.
        let [first, second] = &views;
        let other_views = [second, first];
        let mut terms = Vec::new();
        let mut seen = Vec::new();
        let loss = match &self.method {
            Method::Vicreg(weights) => {
                let result = vicreg(a, b, *weights);
                terms.push(("invariance", result.invariance));
                terms.push(("variance", result.variance));
                terms.push(("covariance", result.covariance));
                result.loss
            }
            Method::Barlow(weight) => {
                let result = barlow(a, b, *weight);
                terms.push(("on_diagonal", result.on_diagonal));
                terms.push(("off_diagonal", result.off_diagonal));
                result.loss
            }
            Method::Simclr { temperature } => nt_xent(a, b, *temperature),
            Method::Moco { temperature, .. } => {
                let keys = other_views.map(|view| values(&taught(view)));
                seen = keys[0].clone();
                let with_queue = keys.map(|keys| [&keys[..], &memory.queue].concat());
                both([a, b], with_queue, |query, keys| info_nce(query, keys, *temperature))
            }
            Method::Simsiam(predictor) => {
                let targets = [values(&b), values(&a)];
                both([a, b].map(|z| predictor.forward(params, z)), targets, negative_cosine)
            }
            Method::Byol(predictor) => {
                let targets = other_views.map(|view| values(&taught(view)));
                let distance = |prediction, target: &[f32]| negative_cosine(prediction, target) * 2.0 + 2.0;
                both([a, b].map(|z| predictor.forward(params, z)), targets, distance)
            }
            Method::Swav { temperature, prototypes, count, queue } => {
                let width = self.projector.outputs();
                let embeddings = [&a, &b].map(values);
                let scores = [a, b].map(|z| prototypes.forward(params, z));
                compared = shares(&scores[0], *temperature, *count);
                // Until the queue is full, the batch shares the prototypes alone.
                let full = *queue > 0 && memory.queue.len() == queue * 2 * width;
                let codes = |view: usize| {
                    let former = full.then(|| {
                        let embeddings = of_view(&memory.queue, view, width);
                        values(&prototypes.forward(params, tensor(embeddings, (*queue, width))))
                    });
                    codes_of(values(&scores[view]), &former.unwrap_or_default(), *count)
                };
                let targets = [codes(1), codes(0)];
                seen = side_by_side(&embeddings, width);
                let crops = crops(prototypes);
                all(scores, targets, crops, |scores, codes| soft_cross_entropy(scores, codes, *temperature))
            }
            Method::Dino { temperature, prototypes, count } => {
                let centre = memory.centre.clone().unwrap_or_else(|| Centre::new(*count));
                let taught = other_views.map(|view| values(&prototypes.forward(teacher, taught(view))));
                seen = taught.concat();
                let targets = taught.map(|scores| centre.targets(&scores, TEACHER_TEMPERATURE));
                let scores = [a, b].map(|z| prototypes.forward(params, z));
                compared = shares(&scores[0], *temperature, *count);
                let crops = crops(prototypes);
                all(scores, targets, crops, |scores, target| soft_cross_entropy(scores, target, *temperature))
            }
        };
        Step { terms, others: Some(right), compared: Some(compared), seen, ..Step::new(loss, left) }
    }

    fn remember(&self, memory: &mut Memory, params: &Params, seen: Vec<f32>, done: f64) {
        if let Some(teacher) = &mut memory.teacher {
            teacher.follow(params, ema_cosine(done, 1.0, self.momentum) as f32);
        }
        if let Some(centre) = &mut memory.centre {
            centre.follow(&seen, CENTRE_MOMENTUM);
        }
        let width = self.projector.outputs();
        let kept = match self.method {
            Method::Moco { queue, .. } => queue * width,
            Method::Swav { queue, .. } => queue * 2 * width,
            _ => return,
        };
        memory.queue.splice(0..0, seen);
        memory.queue.truncate(kept);
    }
}

/// Each spot's shares of the prototypes.
fn shares(scores: &Matrix<Recording>, temperature: f32, prototypes: usize) -> Matrix {
    let mut shares = values(scores);
    let rows = shares.len() / prototypes;
    for row in shares.chunks_exact_mut(prototypes) {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|score| *score = ((*score - most) / temperature).exp());
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|share| *share /= sum);
    }
    tensor(shares, (rows, prototypes))
}

/// Embeddings of both views, spot by spot: the first view's, then the second's.
fn side_by_side([a, b]: &[Vec<f32>; 2], width: usize) -> Vec<f32> {
    a.chunks_exact(width).zip(b.chunks_exact(width)).flat_map(|(a, b)| [a, b].concat()).collect()
}

/// One view's of those.
fn of_view(both: &[f32], view: usize, width: usize) -> Vec<f32> {
    both.chunks_exact(width).skip(view).step_by(2).flatten().copied().collect()
}

/// SwAV's codes of a batch whose spots share the prototypes with former ones.
fn codes_of(batch: Vec<f32>, former: &[f32], prototypes: usize) -> Vec<f32> {
    let length = batch.len();
    let mut codes = sinkhorn(&[batch, former.to_vec()].concat(), prototypes, EPSILON, TURNS);
    codes.truncate(length);
    codes
}

/// The mean of a loss over both directions.
fn both(
    students: [Matrix<Recording>; 2],
    targets: [Vec<f32>; 2],
    loss: impl Fn(Matrix<Recording>, &[f32]) -> Scalar<Recording>,
) -> Scalar<Recording> {
    let ([a, b], [of_a, of_b]) = (students, targets);
    (loss(a, &of_a) + loss(b, &of_b)) * 0.5
}

/// The mean of a loss over all pairs of a target and a view or small crop that it is not of. It is linear in its targets, whose rows
/// sum to 1: against two of them it is twice that against their mean.
fn all(
    students: [Matrix<Recording>; 2],
    targets: [Vec<f32>; 2],
    crops: Option<(Matrix<Recording>, usize)>,
    loss: impl Fn(Matrix<Recording>, &[f32]) -> Scalar<Recording>,
) -> Scalar<Recording> {
    let Some((crops, count)) = crops else { return both(students, targets, loss) };
    let mean: Vec<f32> = targets[0].iter().zip(&targets[1]).map(|(a, b)| 0.5 * (a + b)).collect();
    let of_crops = loss(crops, &mean.repeat(count));
    let count = count as f32;
    (both(students, targets, loss) + of_crops * count) * (1.0 / (1.0 + count))
}

#[cfg(test)]
mod tests {
    use restage_nn::dfdx::prelude::{AsArray, Trace};

    use super::*;

    /// Prototypes have equal shares of all spots: former ones that are the batch's over again change nothing, others do.
    #[test]
    fn former_spots_take_their_share_of_the_prototypes() {
        let batch: Vec<f32> = (0..12).map(|at| 0.2 * (at as f32 * 1.7).sin()).collect();
        let alone = sinkhorn(&batch, 3, EPSILON, TURNS);
        let again = codes_of(batch.clone(), &batch.repeat(2), 3);
        assert_eq!(again.len(), alone.len());
        assert!(
            again.iter().zip(&alone).all(|(again, alone)| (again - alone).abs() < 1e-5),
            "{again:?} {alone:?}"
        );
        // The first prototype is taken by former spots, so the batch's have less of it.
        let crowded = codes_of(batch.clone(), &[0.3, 0.1, 0.1].repeat(20), 3);
        let first = |codes: &[f32]| codes.iter().step_by(3).sum::<f32>();
        assert!(first(&crowded) < 0.5 * first(&alone), "{crowded:?} {alone:?}");
    }

    #[test]
    fn a_queue_gives_back_each_view() {
        let views = [vec![1.0, 2.0, 3.0, 4.0], vec![5.0, 6.0, 7.0, 8.0]];
        let queue = side_by_side(&views, 2);
        assert_eq!(queue, [1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 7.0, 8.0]);
        assert_eq!([0, 1].map(|view| of_view(&queue, view, 2)), views);
    }

    /// SwAV's and DINO's own double loop: over targets, over views and crops, but for the view that the target is of.
    #[test]
    fn multi_crop_is_the_mean_over_pairs() {
        let scores =
            |seed: usize| -> Vec<f32> { (0..12).map(|at| ((at * (seed + 2) + seed) as f32).sin()).collect() };
        let share = |seed: usize| -> Vec<f32> {
            let rows: Vec<f32> = scores(seed).iter().map(|score| score.exp()).collect();
            rows.chunks_exact(4).flat_map(|row| row.iter().map(|v| v / row.iter().sum::<f32>())).collect()
        };
        let traced = |values: Vec<f32>| {
            let rows = values.len() / 4;
            tensor(values, (rows, 4)).leaky_traced()
        };
        let loss = |scores, target: &[f32]| soft_cross_entropy(scores, target, 0.1);
        // Targets 0 and 1 are those of views 0 and 1; crops are 2, 3 and 4.
        let mut pairs = Vec::new();
        for target in 0..2 {
            for student in (0..5).filter(|student| *student != target) {
                pairs.push(loss(traced(scores(student)), &share(10 + target)).array());
            }
        }
        let crops = (traced((2..5).flat_map(scores).collect()), 3);
        let students = [0, 1].map(|view| traced(scores(view)));
        let found = all(students, [share(11), share(10)], Some(crops), loss).array();
        let wanted = pairs.iter().sum::<f32>() / pairs.len() as f32;
        assert!((found - wanted).abs() < 1e-5, "{found} {wanted}");
    }
}
