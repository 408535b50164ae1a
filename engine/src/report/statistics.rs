//! Whether a variant differs from the baseline: paired over groups (patients or sections), never over seeds alone.
//!
//! Seeds of one group are no independent observations, so each group counts with the mean of its seeds. Conventions and
//! reference values: SciPy 1.x for the paired tests, Nadeau & Bengio (2003) for folds, Holm (1979) for families.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use crate::workflow::Test;

/// Up to so many pairs all signs are enumerated; above, so many draws stand for them.
const MOST_ENUMERATED: usize = 20;
/// Draws of a bootstrap, and of signs where they cannot be enumerated.
const DRAWS: usize = 10_000;
/// Where random numbers come from: a report says the same each time.
const SEED: u64 = 0;
/// Sums that differ by less, in proportion, differ by rounding.
const ROUNDING: f64 = 1e-9;

/// How a variant compares with the baseline, group by group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Paired {
    /// Mean of the differences over groups.
    pub(crate) mean: f64,
    /// 95 % percentile bootstrap interval of the mean, groups drawn with replacement. `None` for fewer than two groups.
    pub(crate) interval: Option<[f64; 2]>,
    /// How many groups.
    pub(crate) groups: usize,
    /// Cohen's d of paired differences: mean / sd. `None` where there is no spread.
    pub(crate) dz: Option<f64>,
    /// Cliff's delta: how much more often a value of the variant lies above one of the baseline than below.
    pub(crate) cliffs_delta: f64,
    /// Two-sided p of the test. `None` for fewer than two groups.
    pub(crate) p: Option<f64>,
    /// The same after Holm's correction over the family; `None` outside of it.
    pub(crate) p_adjusted: Option<f64>,
    /// The smallest `p_adjusted` that so few groups can give in so large a family, where it is above 0.05: no result could
    /// be significant.
    pub(crate) smallest_attainable: Option<f64>,
}

/// Compares the means of seeds of each group with those of the baseline.
pub(crate) fn paired(variant: &[f64], baseline: &[f64], test: Test) -> Paired {
    let differences: Vec<f64> = variant.iter().zip(baseline).map(|(a, b)| a - b).collect();
    let enough = differences.len() > 1;
    let spread = sd(&differences).filter(|sd| *sd > 0.0);
    Paired {
        mean: mean(&differences),
        interval: enough.then(|| bootstrap(&differences)),
        groups: differences.len(),
        dz: spread.map(|sd| mean(&differences) / sd),
        cliffs_delta: cliffs_delta(variant, baseline),
        p: enough.then(|| match test {
            Test::SignFlip => sign_flip(&differences),
            Test::Wilcoxon => wilcoxon(&differences),
            // k folds: each is tested on 1 / k of the groups and trained on the rest.
            Test::NadeauBengio => nadeau_bengio(&differences, 1.0 / (differences.len() as f64 - 1.0)),
        }),
        p_adjusted: None,
        smallest_attainable: None,
    }
}

/// Corrects the comparisons of one family together, and says of each whether it could have been significant at all.
pub(crate) fn correct(family: &mut [&mut Paired], test: Test) {
    let size = family.iter().filter(|paired| paired.p.is_some()).count() as f64;
    let ps: Vec<f64> = family.iter().filter_map(|paired| paired.p).collect();
    let mut adjusted = holm(&ps).into_iter();
    for paired in family.iter_mut().filter(|paired| paired.p.is_some()) {
        paired.p_adjusted = adjusted.next();
        // A test that is exact over 2^n signs has no smaller p than two of them.
        let smallest = match test {
            Test::NadeauBengio => 0.0,
            Test::SignFlip | Test::Wilcoxon => {
                let signs = i32::try_from(paired.groups).unwrap_or(i32::MAX);
                (size * 2.0 * 0.5_f64.powi(signs)).min(1.0)
            }
        };
        paired.smallest_attainable = (smallest > 0.05).then_some(smallest);
    }
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard deviation of a sample (n - 1). `None` for fewer than two values.
pub(crate) fn sd(values: &[f64]) -> Option<f64> {
    let centre = mean(values);
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() as f64 - 1.0)).sqrt())
}

/// 95 % percentile interval of the mean, values drawn with replacement.
pub(crate) fn bootstrap(values: &[f64]) -> [f64; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut draw = || {
        let drawn = (0..values.len()).map(|_| values[rng.random_range(0..values.len())]);
        drawn.sum::<f64>() / values.len() as f64
    };
    let mut means: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
    means.sort_by(f64::total_cmp);
    [0.025, 0.975].map(|share| quantile(&means, share))
}

/// A quantile of sorted values, between two of them linearly.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() as f64 - 1.0);
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// Two-sided p of the mean under random signs of the differences: exact up to 20 groups, by 10,000 draws above.
fn sign_flip(differences: &[f64]) -> f64 {
    let observed: f64 = differences.iter().sum::<f64>().abs();
    let scale: f64 = differences.iter().map(|d| d.abs()).sum();
    let extreme = |sum: f64| sum.abs() >= observed - ROUNDING * scale;
    if differences.len() <= MOST_ENUMERATED {
        let all = 1_u32 << differences.len();
        let sum = |signs: u32| -> f64 {
            let signed = |(place, d): (usize, &f64)| if signs >> place & 1 == 1 { -d } else { *d };
            differences.iter().enumerate().map(signed).sum()
        };
        let extremes = (0..all).filter(|signs| extreme(sum(*signs))).count();
        return extremes as f64 / f64::from(all);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut draw = || -> f64 { differences.iter().map(|d| if rng.random() { -d } else { *d }).sum() };
    let extremes = (0..DRAWS).filter(|_| extreme(draw())).count();
    (extremes + 1) as f64 / (DRAWS + 1) as f64
}

/// Wilcoxon's signed-rank test: signs of mid-ranks, zeros left out; exact also with ties up to 20 groups, by the normal
/// approximation with its correction for ties, as SciPy's, above.
fn wilcoxon(differences: &[f64]) -> f64 {
    let ranks = signed_ranks(differences);
    match ranks.len() {
        0 => 1.0,
        n if n <= MOST_ENUMERATED => sign_flip(&ranks),
        _ => wilcoxon_approximate(&ranks),
    }
}

/// The mid-rank of each difference that is not zero, with its sign.
fn signed_ranks(differences: &[f64]) -> Vec<f64> {
    let scale = differences.iter().fold(0.0_f64, |largest, d| largest.max(d.abs()));
    let near = |a: f64, b: f64| (a - b).abs() <= ROUNDING * scale;
    let left: Vec<f64> = differences.iter().copied().filter(|d| !near(*d, 0.0)).collect();
    let rank = |d: &f64| {
        let below = left.iter().filter(|other| other.abs() < d.abs() && !near(other.abs(), d.abs())).count();
        let equal = left.iter().filter(|other| near(other.abs(), d.abs())).count();
        (below as f64 + (equal as f64 + 1.0) / 2.0) * d.signum()
    };
    left.iter().map(rank).collect()
}

fn wilcoxon_approximate(ranks: &[f64]) -> f64 {
    let n = ranks.len() as f64;
    let positive: f64 = ranks.iter().filter(|rank| **rank > 0.0).sum();
    let negative: f64 = -ranks.iter().filter(|rank| **rank < 0.0).sum::<f64>();
    // Each rank of a group of t ties adds (t² - 1) / 48.
    let ties = |rank: &f64| ranks.iter().filter(|other| other.abs() == rank.abs()).count() as f64;
    let tied: f64 = ranks.iter().map(|rank| (ties(rank).powi(2) - 1.0) / 48.0).sum();
    let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - tied;
    let z = (positive.min(negative) - n * (n + 1.0) / 4.0) / variance.sqrt();
    2.0 * Normal::standard().cdf(z)
}

/// The t-test of cross-validation folds that share training data, their variance widened by `ratio`, which is spots tested
/// over spots trained on.
fn nadeau_bengio(differences: &[f64], ratio: f64) -> f64 {
    let n = differences.len() as f64;
    let Some(sd) = sd(differences).filter(|sd| *sd > 0.0) else {
        return if mean(differences) == 0.0 { 1.0 } else { 0.0 };
    };
    let t = mean(differences) / (sd * (1.0 / n + ratio).sqrt());
    let beyond = |t: StudentsT, at: f64| 2.0 * t.sf(at);
    StudentsT::new(0.0, 1.0, n - 1.0).map_or(1.0, |distribution| beyond(distribution, t.abs()))
}

/// How much more often a value of `a` lies above one of `b` than below.
fn cliffs_delta(a: &[f64], b: &[f64]) -> f64 {
    let sign = |a: f64, b: f64| f64::from(u8::from(a > b)) - f64::from(u8::from(a < b));
    let sum: f64 = a.iter().flat_map(|a| b.iter().map(move |b| sign(*a, *b))).sum();
    sum / (a.len() * b.len()) as f64
}

/// Holm's step-down correction, in the order given.
fn holm(ps: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..ps.len()).collect();
    order.sort_by(|a, b| ps[*a].total_cmp(&ps[*b]));
    let mut adjusted = vec![0.0; ps.len()];
    let mut largest = 0.0_f64;
    for (rank, place) in order.into_iter().enumerate() {
        largest = largest.max((ps.len() - rank) as f64 * ps[place]).min(1.0);
        adjusted[place] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // `golden/stats.json`, which SciPy 1.x gave: eight groups.
    const A: [f64; 8] = [0.61, 0.55, 0.58, 0.63, 0.57, 0.6, 0.59, 0.62];
    const B: [f64; 8] = [0.58, 0.54, 0.59, 0.6, 0.55, 0.57, 0.58, 0.58];

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    fn differences() -> Vec<f64> {
        A.iter().zip(B).map(|(a, b)| a - b).collect()
    }

    #[test]
    fn golden_values() {
        let compared = paired(&A, &B, Test::SignFlip);
        assert!(near(compared.mean, 0.02) && near(compared.p.unwrap(), 0.03125), "{compared:?}");
        assert!(near(compared.dz.unwrap(), 1.247_219_128_924_646_4));
        assert!(near(compared.cliffs_delta, 0.453_125));
        assert!(near(sd(&differences()).unwrap(), 0.016_035_674_514_745_475));
        assert!(near(nadeau_bengio(&differences(), 0.25), 0.081_106_869_747_386_24));
        let ranks = signed_ranks(&differences());
        assert!(near(ranks.iter().filter(|rank| **rank < 0.0).sum::<f64>(), -2.0));
        assert!(near(wilcoxon_approximate(&ranks), 0.023_651_616_655_355_978));
        // Of ranks 2 2 2 4 6 6 6 8, four sets sum to no more than the 2 that is negative.
        assert!(near(wilcoxon(&differences()), 2.0 * 4.0 / 256.0), "exact, ties and all");
        let adjusted = holm(&[0.001, 0.008, 0.02, 0.04, 0.3]);
        for (is, should) in adjusted.iter().zip([0.005, 0.032, 0.06, 0.08, 0.3]) {
            assert!(near(*is, should), "{adjusted:?}");
        }
    }

    /// Every number of the golden file that is of what is here; statistics t are within their p, and `bh` is not here: families are
    /// corrected by Holm.
    #[test]
    fn the_golden_file_is_what_is_computed() {
        let shared = std::env::var_os("RESTAGE_SHARED").map(std::path::PathBuf::from);
        let shared =
            shared.unwrap_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"));
        let Ok(text) = std::fs::read_to_string(shared.join("golden/stats.json")) else {
            println!("skipped: no golden/stats.json in {}", shared.display());
            return;
        };
        let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
        let list = |value: &serde_json::Value| -> Vec<f64> { serde_json::from_value(value.clone()).unwrap() };
        assert_eq!((list(&golden["a"]), list(&golden["b"])), (A.to_vec(), B.to_vec()));
        let (compared, differences) = (paired(&A, &B, Test::SignFlip), differences());
        let (sd, ranks) = (sd(&differences).unwrap(), signed_ranks(&differences));
        let adjusted = holm(&list(&golden["holm"]["p"]));
        let (paired_t, wilcoxon) = (list(&golden["paired_t"]), list(&golden["wilcoxon_exact"]));
        let found = [
            ("mean_diff", compared.mean, golden["mean_diff"].as_f64().unwrap()),
            ("sd", sd, golden["sd"].as_f64().unwrap()),
            // Folds that share nothing.
            ("paired_t: p", nadeau_bengio(&differences, 0.0), paired_t[1]),
            ("wilcoxon: W", -ranks.iter().filter(|rank| **rank < 0.0).sum::<f64>(), wilcoxon[0]),
            ("wilcoxon: p", wilcoxon_approximate(&ranks), wilcoxon[1]),
            ("cohens_dz", compared.dz.unwrap(), golden["cohens_dz"].as_f64().unwrap()),
            (
                "nadeau_bengio_p",
                nadeau_bengio(&differences, 0.25),
                golden["nadeau_bengio_p"].as_f64().unwrap(),
            ),
            ("cliffs_delta", compared.cliffs_delta, golden["cliffs_delta"].as_f64().unwrap()),
            ("signflip_exact_p", compared.p.unwrap(), golden["signflip_exact_p"].as_f64().unwrap()),
        ];
        let holm =
            adjusted.into_iter().zip(list(&golden["holm"]["adj"])).map(|(is, should)| ("holm", is, should));
        for (name, is, should) in found.into_iter().chain(holm) {
            assert!(near(is, should), "{name}: {is} is not {should}");
        }
    }

    #[test]
    fn folds_are_tested_with_the_share_that_they_test_on() {
        // Five folds: each tests on a quarter as much as it trains on.
        let (a, b) = (&A[..5], &B[..5]);
        let d = &differences()[..5];
        assert_eq!(paired(a, b, Test::NadeauBengio).p, Some(nadeau_bengio(d, 0.25)));
    }

    #[test]
    fn a_bootstrap_is_near_the_one_that_draws_everything() {
        let values = [0.1, 0.4, -0.2];
        let mut all = Vec::new();
        for a in values {
            for b in values {
                for c in values {
                    all.push((a + b + c) / 3.0);
                }
            }
        }
        all.sort_by(f64::total_cmp);
        // 27 means: the 2.5 % and 97.5 % points are the smallest and the largest, each once in 27.
        assert!(near(bootstrap(&values)[0], all[0]) && near(bootstrap(&values)[1], all[26]));
        let many: Vec<f64> = (0..400).map(|place| f64::from(place % 20)).collect();
        let half = 1.96 * sd(&many).unwrap() / 20.0;
        let [low, high] = bootstrap(&many);
        assert!((low - (9.5 - half)).abs() < 0.05 && (high - (9.5 + half)).abs() < 0.05, "{low} {high}");
    }

    #[test]
    fn what_cannot_be_significant_is_said() {
        let few = paired(&A[..3], &B[..3], Test::SignFlip);
        assert_eq!((few.smallest_attainable, few.p_adjusted), (None, None));
        let mut one = few.clone();
        correct(&mut [&mut one], Test::SignFlip);
        assert_eq!(one.smallest_attainable, Some(0.25));
        let mut family: Vec<Paired> = (0..8).map(|_| paired(&A, &B, Test::SignFlip)).collect();
        correct(&mut family.iter_mut().collect::<Vec<_>>(), Test::SignFlip);
        assert_eq!(family[0].smallest_attainable, Some(0.0625), "eight patients, eight comparisons");
        let mut single = paired(&A, &B, Test::SignFlip);
        correct(&mut [&mut single], Test::SignFlip);
        assert_eq!((single.smallest_attainable, single.p_adjusted), (None, Some(0.03125)));
        let alone = paired(&A[..1], &B[..1], Test::Wilcoxon);
        assert_eq!((alone.p, alone.interval), (None, None));
    }

    #[test]
    fn no_difference_is_no_finding() {
        for test in [Test::SignFlip, Test::Wilcoxon, Test::NadeauBengio] {
            let same = paired(&A, &A, test);
            assert_eq!((same.mean, same.p, same.dz), (0.0, Some(1.0), None));
        }
    }

    #[test]
    fn many_groups_are_drawn_and_not_enumerated() {
        let shifted: Vec<f64> = (0..60).map(|place| f64::from(place % 7) / 10.0 + 0.5).collect();
        let level: Vec<f64> = (0..60).map(|place| f64::from(place % 7) / 10.0).collect();
        for test in [Test::SignFlip, Test::Wilcoxon] {
            assert!(paired(&shifted, &level, test).p.unwrap() < 0.001);
            let mixed: Vec<f64> = level.iter().zip(0..).map(|(v, i)| v + [0.1, -0.1][i % 2]).collect();
            assert!(paired(&mixed, &level, test).p.unwrap() > 0.5);
        }
    }

    proptest! {
        #[test]
        fn ps_are_probabilities_that_do_not_depend_on_order_or_direction(
            values in prop::collection::vec((-1.0..1.0_f64, -1.0..1.0_f64), 2..9), wilcoxon: bool,
        ) {
            let test = if wilcoxon { Test::Wilcoxon } else { Test::SignFlip };
            let (a, b): (Vec<f64>, Vec<f64>) = values.iter().copied().unzip();
            let p = paired(&a, &b, test).p.unwrap();
            prop_assert!(p > 0.0 && p <= 1.0);
            prop_assert_eq!(paired(&b, &a, test).p.unwrap(), p);
            let (a, b): (Vec<f64>, Vec<f64>) = values.iter().rev().copied().unzip();
            prop_assert!(near(paired(&a, &b, test).p.unwrap(), p));
            let [low, high] = paired(&a, &b, test).interval.unwrap();
            prop_assert!(low <= high);
        }

        #[test]
        fn holm_only_raises_and_keeps_the_order(mut ps in prop::collection::vec(0.0..1.0_f64, 1..9)) {
            ps.sort_by(f64::total_cmp);
            let adjusted = holm(&ps);
            prop_assert!(ps.iter().zip(&adjusted).all(|(p, q)| q >= p && *q <= 1.0));
            prop_assert!(adjusted.windows(2).all(|pair| pair[0] <= pair[1]));
        }
    }
}
