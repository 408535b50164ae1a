//! What a classifier says of held-out spots: folds join, and of seeds the probabilities' mean is taken.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use restage_cache::{Digest, Store};

use super::{
    super::artifact::{Labels, Predictions},
    BySeed, Position, Said, Section, folder,
};

/// Sums over folds and seeds.
pub(super) struct Sums {
    pub(super) classes: Vec<String>,
    sections: Vec<OfSection>,
}

#[derive(Clone)]
struct OfSection {
    /// Per spot and class.
    sums: Vec<Vec<f32>>,
    /// Per spot, the class that each seed says.
    said: Vec<Vec<usize>>,
}

pub(super) fn sum(
    seeds: &BySeed,
    labels: &BTreeMap<Digest, Labels>,
    positions: &HashMap<String, Position>,
    sections: &[Section],
    store: &Store,
) -> (Sums, BTreeSet<String>) {
    let empty = |section: &Section| OfSection {
        sums: vec![Vec::new(); section.spots.len()],
        said: vec![Vec::new(); section.spots.len()],
    };
    let mut sums = Sums { classes: Vec::new(), sections: sections.iter().map(empty).collect() };
    let mut problems = BTreeSet::new();
    for (digest, truth) in seeds.values().flatten() {
        let Some(truth) = truth.as_ref().and_then(|truth| labels.get(truth)) else { continue };
        match folder(digest, store).and_then(|root| Predictions::read(&root)) {
            Ok(predictions) => sums.add(&predictions, truth, positions),
            Err(problem) => drop(problems.insert(problem)),
        }
    }
    (sums, problems)
}

impl Sums {
    fn add(&mut self, predictions: &Predictions, truth: &Labels, positions: &HashMap<String, Position>) {
        let count = predictions.classes.len();
        let columns: Vec<usize> = predictions
            .classes
            .iter()
            .map(|class| {
                self.classes.iter().position(|known| known == class).unwrap_or_else(|| {
                    self.classes.push(class.clone());
                    self.classes.len() - 1
                })
            })
            .collect();
        let rows: HashMap<&str, usize> = predictions.spots.iter().map(String::as_str).zip(0..).collect();
        for spot in &truth.spots {
            let (Some(&row), Some(&(section, at))) = (rows.get(spot.as_str()), positions.get(spot)) else {
                continue;
            };
            let values = &predictions.probabilities[row * count..][..count];
            let of = &mut self.sections[section];
            let sums = &mut of.sums[at];
            sums.resize(self.classes.len().max(sums.len()), 0.0);
            values.iter().zip(&columns).for_each(|(value, column)| sums[*column] += value.max(0.0));
            let best =
                (0..count).fold(0, |best, class| if values[class] > values[best] { class } else { best });
            of.said[at].extend(columns.get(best));
        }
    }

    /// Means over what was summed, in another order of classes.
    pub(super) fn means(&self, order: &[usize], regions: usize) -> Vec<Said> {
        let of_section = |section: &OfSection| {
            let mut said = Said {
                probabilities: vec![0.0; section.sums.len() * regions],
                predicted: vec![None; section.sums.len()],
                agreement: vec![0.0; section.sums.len()],
                clusters: Vec::new(),
            };
            for (spot, (sums, votes)) in section.sums.iter().zip(&section.said).enumerate() {
                if votes.is_empty() {
                    continue;
                }
                let row = &mut said.probabilities[spot * regions..][..regions];
                for (class, value) in sums.iter().enumerate() {
                    row[order[class]] = value / votes.len() as f32;
                }
                let best =
                    (0..regions).fold(0, |best, region| if row[region] > row[best] { region } else { best });
                said.predicted[spot] = Some(best);
                let agreeing = votes.iter().filter(|class| order[**class] == best).count();
                said.agreement[spot] = agreeing as f32 / votes.len() as f32;
            }
            said
        };
        self.sections.iter().map(of_section).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(spots: &[&str]) -> Labels {
        Labels { spots: spots.iter().map(ToString::to_string).collect(), regions: vec![None; spots.len()] }
    }

    fn predictions(classes: &[&str], rows: &[(&str, &[f32])]) -> Predictions {
        Predictions {
            spots: rows.iter().map(|row| row.0.to_owned()).collect(),
            classes: classes.iter().map(ToString::to_string).collect(),
            probabilities: rows.iter().flat_map(|row| row.1.iter().copied()).collect(),
        }
    }

    #[test]
    fn seeds_are_averaged_and_folds_join() {
        let spots = ["a", "b", "c"].map(str::to_owned);
        let positions: HashMap<String, Position> =
            spots.iter().cloned().zip([(0, 0), (0, 1), (0, 2)]).collect();
        let empty = OfSection { sums: vec![Vec::new(); 3], said: vec![Vec::new(); 3] };
        let mut sums = Sums { classes: Vec::new(), sections: vec![empty] };
        // A fold with `a`, in two seeds; another one with `b`, which never saw fat but saw skin.
        sums.add(
            &predictions(&["fat", "tumour"], &[("a", &[0.9, 0.1]), ("b", &[1.0, 0.0])]),
            &labels(&["a"]),
            &positions,
        );
        sums.add(&predictions(&["fat", "tumour"], &[("a", &[0.2, 0.8])]), &labels(&["a"]), &positions);
        sums.add(
            &predictions(&["skin", "tumour"], &[("b", &[0.75, 0.25])]),
            &labels(&["b", "nowhere"]),
            &positions,
        );
        assert_eq!(sums.classes, ["fat", "tumour", "skin"]);
        // fat, skin, tumour
        let said = &sums.means(&[0, 2, 1], 3)[0];
        assert_eq!(said.predicted, [Some(0), Some(1), None]);
        let near = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(near(said.probabilities[0], 0.55) && near(said.probabilities[2], 0.45));
        assert_eq!(said.agreement, [0.5, 1.0, 0.0]);
        // -(3/4 ln 3/4 + 1/4 ln 1/4) / ln 3
        assert!((said.entropy(1, 3) - 0.511_860).abs() < 1e-5, "{}", said.entropy(1, 3));
    }
}
