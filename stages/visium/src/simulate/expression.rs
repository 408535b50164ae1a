//! Counts: negative binomial around gene programmes, with batch effects per patient and libraries of varying size.

use rand::Rng;
use rand_distr::{Distribution, Gamma, Poisson};
use restage_stage::{artifact::Csr, context::rng};

use super::{Grid, Params, field::Field, normal, stream};

/// Variance = mean + mean^2 / this.
const SIZE: f64 = 3.0;
/// Share of the genes in the programme that tells the distinction, and of those in each programme that does not.
const PROGRAMME: f64 = 0.15;
/// Programmes that vary over the tissue without regard to regions.
const NUISANCES: usize = 2;
/// How far the programme is on at one side of the border, and off at the other.
const ACTIVITY: f64 = 1.3;
/// Standard deviation of that between spots of one region.
const ACTIVITY_NOISE: f64 = 0.35;
/// How far the other programmes are on where their maps are at one standard deviation.
const NUISANCE: f64 = 0.4;
/// Standard deviation of the log library size.
const LIBRARY_NOISE: f64 = 0.35;
/// Width of a border in units of the map: a spot covers several cells.
const BORDER: f64 = 0.2;

/// What all sections of a seed share of their genes.
struct Genes {
    /// Log of the mean share of the counts, up to a constant.
    base: Vec<f64>,
    /// Log fold change between the two sides.
    programme: Vec<f64>,
    nuisances: Vec<Vec<f64>>,
}

impl Genes {
    fn new(params: &Params) -> Self {
        let mut random = rng(params.seed, "simulate/genes");
        let base = (0..params.genes).map(|_| 1.1 * normal(&mut random)).collect();
        let mut programme = || -> Vec<f64> {
            (0..params.genes)
                .map(|_| {
                    let belongs = random.random_bool(PROGRAMME);
                    let change = normal(&mut random);
                    if belongs { change } else { 0.0 }
                })
                .collect()
        };
        Self { base, programme: programme(), nuisances: (0..NUISANCES).map(|_| programme()).collect() }
    }
}

/// Spots x genes of a section of `patient`; `active` is the map that the programme follows.
pub(super) fn counts(params: &Params, patient: &str, grid: &Grid, active: &Field) -> Csr {
    let genes = Genes::new(params);
    let mut of_patient = rng(params.seed, &format!("simulate/patient/{patient}"));
    let batch: Vec<f64> = genes.base.iter().map(|_| params.batch_effect * normal(&mut of_patient)).collect();
    let mut random = stream(params, "counts");
    let unrelated: Vec<Field> =
        (0..NUISANCES).map(|_| Field::blobs(&mut random, grid.width, grid.height)).collect();

    Csr::from_rows(
        params.genes,
        grid.spots.iter().map(|&spot| {
            let noise = ACTIVITY_NOISE * normal(&mut random);
            let activity = params.expression_effect * ACTIVITY * active.side(spot, BORDER) + noise;
            let others: Vec<f64> = unrelated.iter().map(|field| NUISANCE * field.at(spot)).collect();
            let library = params.counts * (LIBRARY_NOISE * normal(&mut random)).exp();
            let mut shares: Vec<f64> = (0..params.genes)
                .map(|gene| {
                    let unrelated: f64 = others
                        .iter()
                        .zip(&genes.nuisances)
                        .map(|(level, changes)| level * changes[gene])
                        .sum();
                    (genes.base[gene] + batch[gene] + activity * genes.programme[gene] + unrelated).exp()
                })
                .collect();
            let all: f64 = shares.iter().sum();
            shares.iter_mut().for_each(|share| *share *= library / all);
            draw(&mut random, &shares)
        }),
    )
}

/// (gene, count) of those genes that are counted at all.
fn draw(random: &mut impl Rng, means: &[f64]) -> Vec<(i32, f32)> {
    let counts = means.iter().map(|&mean| negative_binomial(random, mean));
    (0..).zip(counts).filter(|&(_, count)| count > 0.0).map(|(gene, count)| (gene, count as f32)).collect()
}

fn negative_binomial(random: &mut impl Rng, mean: f64) -> f64 {
    let rate = Gamma::new(SIZE, mean / SIZE).map_or(mean, |gamma| gamma.sample(random));
    // A rate that underflows to 0 counts nothing.
    Poisson::new(rate).map_or(0.0, |poisson| poisson.sample(random))
}
