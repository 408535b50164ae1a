//! Scores of a classification, from its confusion matrix alone: pure functions, exact integer arithmetic as far as it goes.
//!
//! Conventions are scikit-learn's with `zero_division=0`, except that macro averages run over the classes present in
//! the truth (scikit-learn: `labels=np.unique(y_true)`), so that a patient without a region is not scored on it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// How often each pair of true and predicted region occurs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Confusion<'a> {
    /// Names of truth and prediction, sorted.
    pub(crate) classes: Vec<&'a str>,
    /// Row: the truth, column: the prediction.
    pub(crate) counts: Vec<Vec<u64>>,
}

/// How well one class is found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct ClassScores {
    /// Share of the spots predicted to be of the class that are.
    pub(crate) precision: f64,
    /// Share of the spots of the class that are found.
    pub(crate) recall: f64,
    /// Harmonic mean of the two.
    pub(crate) f1: f64,
    /// Spots of the class in the truth.
    pub(crate) support: u64,
}

impl<'a> Confusion<'a> {
    /// Counts pairs of (truth, prediction).
    pub(crate) fn count(pairs: impl IntoIterator<Item = (&'a str, &'a str)> + Clone) -> Self {
        let classes: BTreeSet<&str> = pairs.clone().into_iter().flat_map(|(t, p)| [t, p]).collect();
        let codes: BTreeMap<&str, usize> =
            classes.iter().enumerate().map(|(code, &name)| (name, code)).collect();
        let mut counts = vec![vec![0; classes.len()]; classes.len()];
        for (truth, predicted) in pairs {
            counts[codes[truth]][codes[predicted]] += 1;
        }
        Self { classes: classes.into_iter().collect(), counts }
    }

    /// Spots in all.
    fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// Spots that are predicted right.
    fn right(&self) -> u64 {
        self.counts.iter().enumerate().map(|(class, row)| row[class]).sum()
    }

    /// Spots per class in the truth.
    pub(crate) fn truth(&self) -> Vec<u64> {
        self.counts.iter().map(|row| row.iter().sum()).collect()
    }

    /// Spots per class in the prediction.
    pub(crate) fn predicted(&self) -> Vec<u64> {
        (0..self.classes.len()).map(|class| self.counts.iter().map(|row| row[class]).sum()).collect()
    }

    /// Scores of each class, in the order of `classes`.
    pub(crate) fn per_class(&self) -> Vec<ClassScores> {
        let (truth, predicted) = (self.truth(), self.predicted());
        (0..self.classes.len())
            .map(|class| {
                let (right, support, predicted) = (self.counts[class][class], truth[class], predicted[class]);
                ClassScores {
                    precision: ratio(right, predicted),
                    recall: ratio(right, support),
                    f1: ratio(2 * right, support + predicted),
                    support,
                }
            })
            .collect()
    }

    /// All scores by name.
    pub(crate) fn scores(&self) -> BTreeMap<String, f64> {
        let per_class = self.per_class();
        let present: Vec<&ClassScores> = per_class.iter().filter(|class| class.support > 0).collect();
        let mean = |of: fn(&ClassScores) -> f64| {
            present.iter().map(|class| of(class)).sum::<f64>() / present.len().max(1) as f64
        };
        let total = self.total();
        let weighted_f1 = present.iter().map(|class| class.f1 * class.support as f64).sum::<f64>();
        let majority = present.iter().map(|class| class.support).max().unwrap_or(0);
        let pairs = Pairs::count(self);
        [
            ("accuracy", ratio(self.right(), total)),
            ("balanced_accuracy", mean(|class| class.recall)),
            ("macro_f1", mean(|class| class.f1)),
            ("weighted_f1", weighted_f1 / total.max(1) as f64),
            ("kappa", self.kappa()),
            ("mcc", self.mcc()),
            ("rand_index", pairs.rand_index()),
            ("ari", pairs.adjusted_rand_index()),
            ("majority_share", ratio(majority, total)),
            ("n", total as f64),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// Macro F1 over some classes only, of those present in the truth (scikit-learn: `labels=`). `None` if there is none.
    pub(crate) fn macro_f1_of(&self, classes: &BTreeSet<&str>) -> Option<f64> {
        let scores = self.classes.iter().zip(self.per_class());
        let of_them: Vec<f64> = scores
            .filter(|(class, scores)| classes.contains(*class) && scores.support > 0)
            .map(|(_, scores)| scores.f1)
            .collect();
        (!of_them.is_empty()).then(|| of_them.iter().sum::<f64>() / of_them.len() as f64)
    }

    /// Cohen's kappa, unweighted; 0 where chance alone is always right (one class in truth and prediction).
    fn kappa(&self) -> f64 {
        let total = i128::from(self.total());
        let chance = product(&self.truth(), &self.predicted());
        quotient(total * i128::from(self.right()) - chance, total * total - chance)
    }

    /// Matthews' correlation for several classes (Gorodkin 2004); 0 where truth or prediction is of one class.
    fn mcc(&self) -> f64 {
        let (truth, predicted) = (self.truth(), self.predicted());
        let total = i128::from(self.total());
        let shared = total * i128::from(self.right()) - product(&truth, &predicted);
        let of_truth = total * total - product(&truth, &truth);
        let of_predicted = total * total - product(&predicted, &predicted);
        if of_truth == 0 || of_predicted == 0 {
            return 0.0;
        }
        shared as f64 / ((of_truth as f64).sqrt() * (of_predicted as f64).sqrt())
    }
}

/// Ordered pairs of two different spots, by whether truth and prediction put them together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pairs {
    together: i128,
    only_in_truth: i128,
    only_in_prediction: i128,
    apart: i128,
}

impl Pairs {
    pub(crate) fn count(confusion: &Confusion) -> Self {
        let squares = |counts: &[u64]| product(counts, counts);
        let total = i128::from(confusion.total());
        let cells: i128 = confusion.counts.iter().map(|row| squares(row)).sum();
        let truth = squares(&confusion.truth());
        let predicted = squares(&confusion.predicted());
        Self {
            together: cells - total,
            only_in_truth: truth - cells,
            only_in_prediction: predicted - cells,
            apart: total * total - truth - predicted + cells,
        }
    }

    /// Share of pairs on which truth and prediction agree (Rand 1971); 1 where there are no pairs.
    pub(crate) fn rand_index(self) -> f64 {
        let agree = self.together + self.apart;
        let all = agree + self.only_in_truth + self.only_in_prediction;
        if all == 0 { 1.0 } else { agree as f64 / all as f64 }
    }

    /// The same, corrected for chance (Hubert & Arabie 1985); 1 where they agree on all pairs.
    pub(crate) fn adjusted_rand_index(self) -> f64 {
        let Self { together, only_in_truth, only_in_prediction, apart } = self;
        if self.are_all_agreed() {
            return 1.0;
        }
        // Products of pair counts grow with the fourth power of the spots: 128 bits hold those of 10^9 spots.
        let truth = (together + only_in_truth) * (only_in_truth + apart);
        let predicted = (together + only_in_prediction) * (only_in_prediction + apart);
        quotient(2 * (together * apart - only_in_truth * only_in_prediction), truth + predicted)
    }

    /// The geometric mean of precision and recall over pairs (Fowlkes & Mallows 1983); 0 where no pair is together in both.
    pub(crate) fn fowlkes_mallows(self) -> f64 {
        let Self { together, only_in_truth, only_in_prediction, .. } = self;
        let of = |other: i128| quotient(together, together + other).sqrt();
        of(only_in_truth) * of(only_in_prediction)
    }

    /// Whether truth and prediction agree on every pair: the two are one partition.
    pub(crate) fn are_all_agreed(self) -> bool {
        self.only_in_truth == 0 && self.only_in_prediction == 0
    }
}

fn product(a: &[u64], b: &[u64]) -> i128 {
    a.iter().zip(b).map(|(&a, &b)| i128::from(a) * i128::from(b)).sum()
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn quotient(part: i128, whole: i128) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: [&str; 5] = ["adipose", "glands", "immune", "stroma", "tumour"];

    fn scores(truth: &[usize], predicted: &[usize]) -> BTreeMap<String, f64> {
        let names = |codes: &[usize]| codes.iter().map(|&code| NAMES[code]).collect::<Vec<_>>();
        let (truth, predicted) = (names(truth), names(predicted));
        Confusion::count(truth.iter().copied().zip(predicted.iter().copied())).scores()
    }

    #[test]
    fn agrees_with_scikit_learn() {
        let Some(golden) = crate::testing::golden_metrics() else { return };
        let codes = |name: &str| -> Vec<usize> { serde_json::from_value(golden[name].clone()).unwrap() };
        let found = scores(&codes("y_true"), &codes("y_pred"));
        for (ours, theirs) in [
            ("accuracy", "acc"),
            ("balanced_accuracy", "bacc"),
            ("macro_f1", "macro_f1"),
            ("weighted_f1", "weighted_f1"),
            ("kappa", "kappa"),
            ("mcc", "mcc"),
            ("rand_index", "ri"),
            ("ari", "ari"),
        ] {
            let expected = golden[theirs].as_f64().unwrap();
            assert!((found[ours] - expected).abs() < 1e-12, "{ours}: {} is not {expected}", found[ours]);
        }
        assert_eq!((found["n"], found["majority_share"]), (10.0, 0.4));
    }

    /// scikit-learn 1.9.1, with `t, p = [0,0,0,1,1,2], [0,3,3,1,4,2]`: classes 3 and 4 are predicted only.
    /// `f1_score(t, p, labels=[0,1,2], average="macro")`, `balanced_accuracy_score`, `cohen_kappa_score`,
    /// `matthews_corrcoef`, `rand_score`, `adjusted_rand_score`.
    #[test]
    fn classes_absent_from_the_truth_are_no_part_of_macro_averages() {
        let found = scores(&[0, 0, 0, 1, 1, 2], &[0, 3, 3, 1, 4, 2]);
        let expected = [
            ("macro_f1", 0.722_222_222_222_222_2),
            ("balanced_accuracy", 0.611_111_111_111_111),
            ("kappa", 0.4),
            ("mcc", 0.483_493_778_415_228_17),
            ("rand_index", 0.8),
            ("ari", 0.328_358_208_955_223_9),
        ];
        for (name, expected) in expected {
            assert!((found[name] - expected).abs() < 1e-12, "{name}: {} is not {expected}", found[name]);
        }
    }

    #[test]
    fn degenerate_cases_are_scikit_learns() {
        let same = scores(&[1, 1, 1], &[1, 1, 1]);
        assert_eq!((same["ari"], same["rand_index"], same["mcc"], same["kappa"]), (1.0, 1.0, 0.0, 0.0));
        let merged = scores(&[0, 1, 2], &[0, 0, 0]);
        assert_eq!((merged["ari"], merged["rand_index"]), (0.0, 0.0));
        let single = scores(&[0], &[1]);
        assert_eq!((single["ari"], single["rand_index"], single["accuracy"]), (1.0, 1.0, 0.0));
    }

    #[test]
    fn millions_of_spots_do_not_overflow() {
        let many = 1_000_000_000;
        let confusion = Confusion { classes: vec!["a", "b"], counts: vec![vec![many, 1], vec![1, many]] };
        let found = confusion.scores();
        assert!(found["ari"] > 0.999_999 && found["ari"] <= 1.0, "{}", found["ari"]);
        assert!(found["kappa"] > 0.999_999 && found["kappa"] <= 1.0, "{}", found["kappa"]);
    }

    fn codes() -> impl Strategy<Value = Vec<(usize, usize)>> {
        prop::collection::vec((0..5_usize, 0..5_usize), 1..60)
    }

    proptest! {
        #[test]
        fn scores_stay_in_their_range(pairs in codes()) {
            let (truth, predicted): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let found = scores(&truth, &predicted);
            for name in ["accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "rand_index", "majority_share"] {
                prop_assert!((0.0..=1.0).contains(&found[name]), "{} {}", name, found[name]);
            }
            for name in ["kappa", "mcc", "ari"] {
                prop_assert!((-1.0..=1.0 + 1e-12).contains(&found[name]), "{} {}", name, found[name]);
            }
        }

        #[test]
        fn identical_partitions_agree_fully(truth in prop::collection::vec(0..5_usize, 1..60)) {
            let found = scores(&truth, &truth);
            for name in ["accuracy", "balanced_accuracy", "macro_f1", "rand_index", "ari"] {
                prop_assert_eq!(found[name], 1.0, "{}", name);
            }
        }

        #[test]
        fn names_do_not_matter_to_rand_indices(
            pairs in codes(),
            renamed in Just([0, 1, 2, 3, 4]).prop_shuffle(),
        ) {
            let (truth, predicted): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let other: Vec<usize> = predicted.iter().map(|&code| renamed[code]).collect();
            let (one, two) = (scores(&truth, &predicted), scores(&truth, &other));
            prop_assert_eq!(one["ari"], two["ari"]);
            prop_assert_eq!(one["rand_index"], two["rand_index"]);
        }

        /// Against the definition: every pair of spots, looked at one by one.
        #[test]
        fn rand_index_is_the_share_of_pairs_agreed_on(pairs in codes()) {
            let (mut agree, mut all) = (0_u32, 0_u32);
            for (i, a) in pairs.iter().enumerate() {
                for b in &pairs[..i] {
                    all += 1;
                    agree += u32::from((a.0 == b.0) == (a.1 == b.1));
                }
            }
            let (truth, predicted): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let expected = if all == 0 { 1.0 } else { f64::from(agree) / f64::from(all) };
            prop_assert!((scores(&truth, &predicted)["rand_index"] - expected).abs() < 1e-12);
        }
    }
}
