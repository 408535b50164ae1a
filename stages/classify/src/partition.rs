//! How far two partitions of the same spots agree, whatever their parts are called: scores of information, in nats inside, and
//! pair counts. Conventions are scikit-learn's.

use std::collections::BTreeMap;

use crate::scores::{Confusion, Pairs};

/// All scores by name, of a table of truth x clusters.
pub(crate) fn scores(confusion: &Confusion) -> BTreeMap<String, f64> {
    let pairs = Pairs::count(confusion);
    let (truth, clusters) = (filled(confusion.truth()), filled(confusion.predicted()));
    let information = mutual_information(confusion);
    let [of_truth, of_clusters] = [&truth, &clusters].map(|sizes| entropy(sizes));
    let mean = f64::midpoint(of_truth, of_clusters);
    let is_one = truth.len() <= 1 && clusters.len() <= 1;
    let nmi = match () {
        () if is_one => 1.0,
        () if information <= f64::EPSILON => 0.0,
        () => information / mean,
    };
    let ami = if is_one || pairs.are_all_agreed() {
        1.0
    } else {
        let expected = expected_information(&truth, &clusters);
        // Where every partition is as this one, both are zero but for rounding.
        let room = mean - expected;
        let room = if room < 0.0 { room.min(-f64::EPSILON) } else { room.max(f64::EPSILON) };
        (information - expected) / room
    };
    let share = |entropy: f64| if entropy == 0.0 { 1.0 } else { information / entropy };
    [
        ("rand_index", pairs.rand_index()),
        ("ari", pairs.adjusted_rand_index()),
        ("nmi", nmi),
        ("ami", ami),
        ("homogeneity", share(of_truth)),
        ("completeness", share(of_clusters)),
        ("fmi", pairs.fowlkes_mallows()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn filled(sizes: Vec<u64>) -> Vec<u64> {
    sizes.into_iter().filter(|size| *size > 0).collect()
}

fn entropy(sizes: &[u64]) -> f64 {
    let total = sizes.iter().sum::<u64>() as f64;
    if sizes.len() <= 1 {
        return 0.0;
    }
    -sizes.iter().map(|&size| size as f64 / total * (size as f64 / total).ln()).sum::<f64>()
}

fn mutual_information(confusion: &Confusion) -> f64 {
    let (truth, clusters) = (confusion.truth(), confusion.predicted());
    let total = truth.iter().sum::<u64>() as f64;
    let mut information = 0.0;
    for (row, &of_truth) in confusion.counts.iter().zip(&truth) {
        for (&both, &of_cluster) in row.iter().zip(&clusters).filter(|(both, _)| **both > 0) {
            let both = both as f64;
            information += both / total * (both * total / (of_truth as f64 * of_cluster as f64)).ln();
        }
    }
    information.max(0.0)
}

/// The mean information of random partitions with parts of these sizes (Vinh, Epps and Bailey 2010).
fn expected_information(truth: &[u64], clusters: &[u64]) -> f64 {
    let total = truth.iter().sum::<u64>();
    let mut ln_factorial = vec![0.0; total as usize + 1];
    for n in 1..=total as usize {
        ln_factorial[n] = ln_factorial[n - 1] + (n as f64).ln();
    }
    let ln = |n: u64| ln_factorial[n as usize];
    let mut expected = 0.0;
    for &a in truth {
        for &b in clusters {
            let fixed = ln(a) + ln(b) + ln(total - a) + ln(total - b) - ln(total);
            for both in (a + b).saturating_sub(total).max(1)..=a.min(b) {
                let free = ln(both) + ln(a - both) + ln(b - both) + ln(total + both - a - b);
                let share = both as f64 / total as f64;
                let term = (total as f64 * both as f64 / (a as f64 * b as f64)).ln();
                expected += share * term * (fixed - free).exp();
            }
        }
    }
    expected
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(truth: &[usize], clusters: &[usize]) -> BTreeMap<String, f64> {
        let name = |code: &usize| ["a", "b", "c", "d", "e"][*code];
        scores(&Confusion::count(truth.iter().map(name).zip(clusters.iter().map(name))))
    }

    #[test]
    fn agrees_with_scikit_learn() {
        let Some(golden) = crate::testing::golden_metrics() else { return };
        let codes = |name: &str| -> Vec<usize> { serde_json::from_value(golden[name].clone()).unwrap() };
        let found = of(&codes("y_true"), &codes("y_pred"));
        for (ours, theirs) in [
            ("rand_index", "ri"),
            ("ari", "ari"),
            ("nmi", "nmi_arith"),
            ("ami", "ami"),
            ("homogeneity", "hom"),
            ("completeness", "com"),
            ("fmi", "fmi"),
        ] {
            let expected = golden[theirs].as_f64().unwrap();
            assert!((found[ours] - expected).abs() < 1e-12, "{ours}: {} is not {expected}", found[ours]);
        }
    }

    /// scikit-learn 1.9.1: `normalized_mutual_info_score`, `adjusted_mutual_info_score`, `homogeneity_score`,
    /// `completeness_score`, `fowlkes_mallows_score`.
    #[test]
    fn uneven_partitions_are_scikit_learns() {
        let truth = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3];
        let clusters = [0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 0, 0];
        let expected = [
            ("nmi", 0.365_470_260_575_779_97),
            ("ami", 0.109_980_445_545_454_66),
            ("homogeneity", 0.339_456_504_251_462_6),
            ("completeness", 0.395_801_969_844_143_4),
            ("fmi", 0.350_438_322_025_231_2),
        ];
        let found = of(&truth, &clusters);
        for (name, expected) in expected {
            assert!((found[name] - expected).abs() < 1e-12, "{name}: {} is not {expected}", found[name]);
        }
    }

    #[test]
    fn degenerate_cases_are_scikit_learns() {
        let all = |truth: &[usize], clusters: &[usize]| {
            let found = of(truth, clusters);
            ["nmi", "ami", "homogeneity", "completeness", "fmi"].map(|name| found[name])
        };
        assert_eq!(all(&[1, 1, 1], &[2, 2, 2]), [1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(all(&[0, 1, 2], &[0, 0, 0]), [0.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(all(&[0, 1, 2], &[2, 0, 1]), [1.0, 1.0, 1.0, 1.0, 0.0]);
        assert_eq!(all(&[0], &[1]), [1.0, 1.0, 1.0, 1.0, 0.0]);
    }

    proptest! {
        #[test]
        fn names_of_clusters_do_not_matter(
            pairs in prop::collection::vec((0..5_usize, 0..5_usize), 1..60),
            renamed in Just([0, 1, 2, 3, 4]).prop_shuffle(),
        ) {
            let (truth, clusters): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let other: Vec<usize> = clusters.iter().map(|&code| renamed[code]).collect();
            let (one, two) = (of(&truth, &clusters), of(&truth, &other));
            for (name, value) in &one {
                prop_assert!((value - two[name]).abs() < 1e-9, "{name}");
                prop_assert!((-1.0..=1.0 + 1e-9).contains(value), "{name} {value}");
            }
            prop_assert!((of(&truth, &truth)["nmi"] - 1.0).abs() < 1e-12);
        }
    }
}
