//! Confusion matrices of each variant, from what its evaluations say.

use std::collections::BTreeSet;

use restage_cache::Store;
use restage_stage::catalogue::PortType;

use super::{
    super::outcome::{Outcome, Scores},
    figures::{self, Confusion},
    plot::Figure,
    text::{natural, slug},
    workflow::compared,
};

/// A variant's matrix.
pub(super) struct OfVariant {
    pub(super) variant: String,
    pub(super) figure: Figure,
}

/// Of the stage that judges; summed over what it is mapped over, mean over seeds.
pub(super) fn confusions(outcome: &Outcome, store: &Store, stage: &str) -> Vec<OfVariant> {
    let matrix = |variant: &String| {
        let mut seeds: BTreeSet<Option<u64>> = BTreeSet::new();
        let mut sum = Confusion { classes: Vec::new(), counts: Vec::new() };
        for instance in outcome.of_variant(variant).filter(|instance| instance.stage == stage) {
            for (_, digest) in outcome.actions.get(instance.action)?.outputs(PortType::Metrics) {
                if let Some(one) = Scores::read(&digest, store).as_ref().and_then(read) {
                    add(&mut sum, &one);
                    seeds.insert(instance.seed);
                }
            }
        }
        if sum.classes.is_empty() {
            return None;
        }
        sum.counts.iter_mut().flatten().for_each(|count| *count /= seeds.len() as f64);
        let sum = ordered(sum);
        let over =
            if seeds.len() > 1 { format!(", mean counts over {} seeds", seeds.len()) } else { String::new() };
        let title = format!("Confusion of {variant}: shares of each true region{over}");
        let figure = figures::confusion(&format!("confusion-{}", slug(variant)), &title, &sum);
        Some(OfVariant { variant: variant.clone(), figure })
    };
    compared(outcome).filter_map(matrix).collect()
}

fn read(scores: &Scores) -> Option<Confusion> {
    let classes: Vec<String> = serde_json::from_value(scores.details.get("classes")?.clone()).ok()?;
    let counts: Vec<Vec<f64>> = serde_json::from_value(scores.details.get("confusion")?.clone()).ok()?;
    let square = counts.len() == classes.len() && counts.iter().all(|row| row.len() == classes.len());
    square.then_some(Confusion { classes, counts })
}

/// Adds class by class; classes stay sorted.
fn add(sum: &mut Confusion, one: &Confusion) {
    let classes: BTreeSet<String> = sum.classes.iter().chain(&one.classes).cloned().collect();
    let classes: Vec<String> = classes.into_iter().collect();
    let mut counts = vec![vec![0.0; classes.len()]; classes.len()];
    for matrix in [&*sum, one] {
        let place = |class: &String| classes.binary_search(class).unwrap_or(0);
        for (truth, row) in matrix.classes.iter().zip(&matrix.counts) {
            for (taken, count) in matrix.classes.iter().zip(row) {
                counts[place(truth)][place(taken)] += count;
            }
        }
    }
    *sum = Confusion { classes, counts };
}

/// With classes in the order in which people count.
fn ordered(matrix: Confusion) -> Confusion {
    let Confusion { classes, counts } = matrix;
    let mut order: Vec<usize> = (0..classes.len()).collect();
    order.sort_by(|a, b| natural(&classes[*a], &classes[*b]));
    Confusion {
        classes: order.iter().map(|class| classes[*class].clone()).collect(),
        counts: order.iter().map(|row| order.iter().map(|column| counts[*row][*column]).collect()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_that_are_numbers_are_counted() {
        let matrix = Confusion {
            classes: ["1", "10", "2"].map(str::to_owned).into(),
            counts: vec![vec![11.0, 110.0, 12.0], vec![101.0, 1010.0, 102.0], vec![21.0, 210.0, 22.0]],
        };
        let found = ordered(matrix);
        assert_eq!(found.classes, ["1", "2", "10"]);
        assert_eq!(found.counts, [[11.0, 12.0, 110.0], [21.0, 22.0, 210.0], [101.0, 102.0, 1010.0]]);
    }

    #[test]
    fn folds_that_know_other_regions_add_up() {
        let matrix = |classes: [&str; 2], counts: [[f64; 2]; 2]| Confusion {
            classes: classes.map(str::to_owned).into(),
            counts: counts.map(Vec::from).into(),
        };
        let mut sum = Confusion { classes: Vec::new(), counts: Vec::new() };
        add(&mut sum, &matrix(["fat", "tumour"], [[1.0, 2.0], [3.0, 4.0]]));
        add(&mut sum, &matrix(["breast", "tumour"], [[5.0, 6.0], [7.0, 8.0]]));
        assert_eq!(sum.classes, ["breast", "fat", "tumour"]);
        assert_eq!(sum.counts, [[5.0, 0.0, 6.0], [0.0, 1.0, 2.0], [7.0, 3.0, 12.0]]);
    }
}
