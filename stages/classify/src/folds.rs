//! Parts of the training spots that are held back in turn: what is chosen is chosen on these, never on test spots.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::training::Training;

/// What stays together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum By {
    /// All spots of a patient.
    Patient,
    /// All spots of a section: there is only one patient.
    Section,
    /// Nothing, as there is only one section. Each fold has its share of each region.
    Spot,
}

/// A fold for each training spot.
#[derive(Debug, PartialEq)]
pub(crate) struct Folds {
    pub(crate) by: By,
    /// How many.
    pub(crate) count: usize,
    /// Which, per training spot.
    of: Vec<usize>,
}

impl Folds {
    /// Up to `at_most` folds; none if there are no two spots of a region.
    pub(crate) fn of(training: &Training, at_most: usize) -> Option<Self> {
        for (by, names) in [(By::Patient, &training.patients), (By::Section, &training.sections)] {
            let groups = grouped(names, at_most);
            if groups.count > 1 {
                return Some(Self { by, ..groups });
            }
        }
        stratified(&training.targets, training.classes.len(), at_most)
    }

    /// The places, among the training spots, of those outside a fold and of those in it.
    pub(crate) fn sides(&self, fold: usize) -> (Vec<usize>, Vec<usize>) {
        (0..self.of.len()).partition(|&spot| self.of[spot] != fold)
    }
}

/// Whole groups, the largest first, each into the fold that has the fewest spots: scikit-learn's `GroupKFold`.
fn grouped(names: &[String], at_most: usize) -> Folds {
    let mut sizes = BTreeMap::<&str, usize>::new();
    names.iter().for_each(|name| *sizes.entry(name).or_default() += 1);
    let count = sizes.len().min(at_most);
    let mut order: Vec<(&str, usize)> = sizes.into_iter().collect();
    order.sort_by_key(|&(_, size)| std::cmp::Reverse(size));
    let mut loads = vec![0; count];
    let mut folds = BTreeMap::new();
    for (name, size) in order {
        let lightest = (1..count).fold(0, |best, fold| if loads[fold] < loads[best] { fold } else { best });
        loads[lightest] += size;
        folds.insert(name, lightest);
    }
    Folds { by: By::Patient, count, of: names.iter().map(|name| folds[name.as_str()]).collect() }
}

/// A share of each class in each fold, in the spots' order: scikit-learn's `StratifiedKFold`.
fn stratified(targets: &[usize], classes: usize, at_most: usize) -> Option<Folds> {
    let mut counts = vec![0; classes];
    targets.iter().for_each(|&class| counts[class] += 1);
    let count = counts.iter().copied().max().unwrap_or(0).min(at_most);
    if count < 2 {
        return None;
    }
    // Classes by first appearance; spots sorted by class, dealt out in turn, say how many of a class a fold gets.
    let mut rank = vec![usize::MAX; classes];
    let mut appeared = 0;
    for &class in targets {
        if rank[class] == usize::MAX {
            rank[class] = appeared;
            appeared += 1;
        }
    }
    let mut sorted: Vec<usize> = targets.to_vec();
    sorted.sort_by_key(|&class| rank[class]);
    let mut shares = vec![vec![0; count]; classes];
    sorted.iter().enumerate().for_each(|(place, &class)| shares[class][place % count] += 1);
    let mut fold = vec![0; classes];
    let of = targets.iter().map(|&class| {
        while shares[class][fold[class]] == 0 {
            fold[class] += 1;
        }
        shares[class][fold[class]] -= 1;
        fold[class]
    });
    Some(Folds { by: By::Spot, count, of: of.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training(spots: &[(&str, &str, usize)]) -> Training {
        Training {
            classes: vec!["a".into(), "b".into(), "c".into()],
            spots: (0..spots.len()).collect(),
            targets: spots.iter().map(|spot| spot.2).collect(),
            patients: spots.iter().map(|spot| spot.0.into()).collect(),
            sections: spots.iter().map(|spot| spot.1.into()).collect(),
        }
    }

    /// scikit-learn 1.9.1: `GroupKFold(3).split(X, groups=list("aaabbccccd"))`.
    #[test]
    fn patients_stay_together_as_by_scikit_learn() {
        let spots: Vec<_> = "aaabbccccd".chars().map(|c| (c.to_string(), c.to_string())).collect();
        let spots: Vec<_> = spots.iter().map(|(p, s)| (p.as_str(), s.as_str(), 0)).collect();
        let folds = Folds::of(&training(&spots), 3).unwrap();
        assert_eq!((folds.by, folds.count), (By::Patient, 3));
        assert_eq!(folds.of, [1, 1, 1, 2, 2, 0, 0, 0, 0, 2]);
        assert_eq!(folds.sides(1), (vec![3, 4, 5, 6, 7, 8, 9], vec![0, 1, 2]));
    }

    #[test]
    fn one_patient_is_parted_by_section_and_one_section_by_region() {
        let sections = training(&[("p", "s", 0), ("p", "t", 1), ("p", "t", 0)]);
        assert_eq!(Folds::of(&sections, 5).unwrap(), Folds { by: By::Section, count: 2, of: vec![1, 0, 0] });
        // scikit-learn 1.9.1: `StratifiedKFold(3).split(X, [2,2,0,1,0,0,1,2,2,0,0])`.
        let regions: Vec<_> =
            [2, 2, 0, 1, 0, 0, 1, 2, 2, 0, 0].iter().map(|&class| ("p", "s", class)).collect();
        let folds = Folds::of(&training(&regions), 3).unwrap();
        assert_eq!((folds.by, folds.of), (By::Spot, vec![0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]));
    }

    #[test]
    fn single_spots_cannot_be_held_back() {
        assert!(Folds::of(&training(&[("p", "s", 0), ("p", "s", 1)]), 5).is_none());
    }
}
