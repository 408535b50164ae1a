//! `classify/fuse-late`: several classifiers' predictions as one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Labels, Metrics, Predictions, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::training::predictions;

/// A mix of predictions.
pub enum FuseLate {}

/// What `classify/fuse-late` is asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// What each classifier weighs. Default `mean`.
    pub kind: Kind,
    /// Of `mean`: a weight per classifier, in the order of `predictions`; only their ratio counts. Default null: all the same.
    pub weights: Option<Vec<f64>>,
}

/// What each classifier weighs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The same, or what `weights` say.
    #[default]
    Mean,
    /// What makes the labels of `train` most likely. A classifier is too sure of labels that it was trained on: use labels
    /// that trained none of them, as of a split within the training spots.
    Learnt,
}

impl Stage for FuseLate {
    const NAME: &'static str = "fuse-late";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Mixes the probabilities of several classifiers, over the spots that all of them predict. A region that one does not \
             know has probability 0 with it.",
        )
        .many::<Predictions>("predictions", "two or more, such as one for each modality")
        .optional::<TrainLabels>("train", "for `kind: learnt`: labels that trained none of the classifiers")
        .needed_if("kind", &["learnt"])
        .output::<Predictions>("predictions", "their mix")
        .output::<Metrics>("summary", "each one's weight, spots, and how likely the labels are to each and to the mix")
    }

    fn validate(params: &Params) -> Result<()> {
        let Some(weights) = &params.weights else { return Ok(()) };
        if params.kind == Kind::Learnt {
            return Err(Error::invalid("`weights` are of `kind: mean`: leave them out to have them learnt"));
        }
        let sound = weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0);
        if !sound || weights.iter().sum::<f64>() <= 0.0 {
            return Err(Error::invalid("`weights` must be numbers of at least 0, not all of them 0"));
        }
        Ok(())
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let branches = Branches::join(ctx.read_all("predictions")?)?;
        let count = branches.all.len();
        let labels = ctx.read_optional::<TrainLabels>("train")?.map(|TrainLabels(labels)| labels);
        let likely = labels.as_ref().map(|labels| branches.likelihoods(labels)).transpose()?;
        let weights = match (params.kind, &likely, params.weights) {
            (Kind::Learnt, Some(likely), _) => learn(likely, count),
            (Kind::Learnt, None, _) => {
                return Err(Error::invalid("`kind: learnt` learns from labels: connect `train`"));
            }
            (Kind::Mean, _, Some(weights)) if weights.len() != count => {
                return Err(Error::invalid(format!(
                    "`weights` lists {} numbers for {count} sets of predictions",
                    weights.len()
                )));
            }
            (Kind::Mean, _, Some(weights)) => {
                let sum: f64 = weights.iter().sum();
                weights.into_iter().map(|weight| weight / sum).collect()
            }
            (Kind::Mean, _, None) => vec![1.0 / count as f64; count],
        };
        tracing::info!("weights are {weights:.3?}");
        let mut values = BTreeMap::from([("spots".to_owned(), branches.spots.len() as f64)]);
        for (branch, weight) in (1..).zip(&weights) {
            values.insert(format!("weight_{branch}"), *weight);
        }
        if let Some(likely) = likely {
            let mean = |weights: &[f64]| log_likelihood(&likely, weights);
            values.insert("log_likelihood".into(), mean(&weights));
            for branch in 0..count {
                let alone: Vec<f64> = (0..count).map(|b| f64::from(u8::from(b == branch))).collect();
                values.insert(format!("log_likelihood_{}", branch + 1), mean(&alone));
            }
            values.insert("train_spots".into(), (likely.len() / count) as f64);
        }
        let mixed = branches.mix(&weights);
        ctx.write("predictions", &mixed)?;
        ctx.write(
            "summary",
            &Metrics {
                values,
                groups: BTreeMap::new(),
                curves: BTreeMap::new(),
                details: json!({
                    "classes": mixed.classes,
                    "log_likelihood": "mean over the labels of `train`; probabilities below 1e-6 count as that",
                }),
            },
        )
    }
}

/// Predictions of the same spots.
struct Branches {
    all: Vec<Predictions>,
    /// Known to all, in the order of the first.
    spots: Vec<String>,
    /// Per spot its place in each.
    rows: Vec<Vec<usize>>,
    /// Of all, sorted.
    classes: Vec<String>,
}

impl Branches {
    fn join(all: Vec<Predictions>) -> Result<Self> {
        if all.len() < 2 {
            return Err(Error::invalid("`predictions` is one set: connect two or more to be mixed"));
        }
        let positions: Vec<HashMap<&str, usize>> = all.iter().map(Predictions::positions).collect();
        let (spots, rows): (Vec<String>, Vec<Vec<usize>>) = all[0]
            .spots
            .iter()
            .filter_map(|spot| {
                let rows = positions.iter().map(|places| places.get(spot.as_str()).copied());
                Some((spot.clone(), rows.collect::<Option<_>>()?))
            })
            .unzip();
        if spots.is_empty() {
            return Err(Error::invalid(
                "`predictions` share no spot: each must be of the same sections as the others",
            ));
        }
        let most = all.iter().map(|branch| branch.spots.len()).max().unwrap_or(0);
        if spots.len() < most {
            tracing::warn!("all predict {} spots, one predicts {most}; the others are left out", spots.len());
        }
        let classes: BTreeSet<&String> = all.iter().flat_map(|branch| &branch.classes).collect();
        let classes = classes.into_iter().cloned().collect();
        Ok(Self { spots, rows, classes, all })
    }

    fn mix(&self, weights: &[f64]) -> Predictions {
        let codes: HashMap<&str, usize> = self.classes.iter().map(String::as_str).zip(0..).collect();
        let class = |branch: &Predictions| branch.classes.iter().map(|name| codes[name.as_str()]).collect();
        let columns: Vec<Vec<usize>> = self.all.iter().map(class).collect();
        predictions(self.spots.iter().map(String::as_str), &self.classes, |spot, to| {
            for (branch, weight) in weights.iter().enumerate() {
                let row = self.all[branch].row(self.rows[spot][branch]);
                columns[branch].iter().zip(row).for_each(|(&class, p)| to[class] += weight * f64::from(*p));
            }
        })
    }

    /// Labelled spots x branches: how likely the label is to each.
    fn likelihoods(&self, labels: &Labels) -> Result<Vec<f64>> {
        let places: HashMap<&str, usize> = self.spots.iter().map(String::as_str).zip(0..).collect();
        let mut likely = Vec::new();
        for (spot, region) in labels.spots.iter().zip(&labels.regions) {
            let (Some(&place), Some(region)) = (places.get(spot.as_str()), region) else { continue };
            for (branch, &row) in self.all.iter().zip(&self.rows[place]) {
                let class = branch.classes.iter().position(|class| class == region);
                likely.push(class.map_or(0.0, |class| f64::from(branch.row(row)[class])).max(1e-6));
            }
        }
        if likely.is_empty() {
            return Err(Error::invalid(
                "no spot of `train` is predicted by all: are `predictions` and `train` of the same sections?",
            ));
        }
        Ok(likely)
    }
}

/// The mean over labels of the logarithm of a mix.
fn log_likelihood(likely: &[f64], weights: &[f64]) -> f64 {
    let rows = likely.chunks_exact(weights.len());
    let count = rows.len() as f64;
    rows.map(|row| row.iter().zip(weights).map(|(p, w)| p * w).sum::<f64>().ln()).sum::<f64>() / count
}

/// The weights of the mix to which the labels are most likely: expectation-maximisation, which has one maximum here.
fn learn(likely: &[f64], branches: usize) -> Vec<f64> {
    let mut weights = vec![1.0 / branches as f64; branches];
    let rows = likely.chunks_exact(branches);
    let count = rows.len() as f64;
    for _ in 0..10_000 {
        let mut next = vec![0.0; branches];
        for row in rows.clone() {
            let mixed: f64 = row.iter().zip(&weights).map(|(p, w)| p * w).sum();
            next.iter_mut()
                .zip(row.iter().zip(&weights))
                .for_each(|(sum, (p, w))| *sum += p * w / mixed / count);
        }
        let moved = next.iter().zip(&weights).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        weights = next;
        if moved < 1e-10 {
            break;
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::testing::{Bench, close, train_labels};

    fn branch(classes: &[&str], rows: &[(&str, &[f32])]) -> Predictions {
        Predictions {
            spots: rows.iter().map(|row| row.0.to_owned()).collect(),
            classes: classes.iter().map(|&class| class.to_owned()).collect(),
            probabilities: rows.iter().flat_map(|row| row.1).copied().collect(),
        }
    }

    /// Of the second, spots come in another order, one is missing, and it knows another region.
    fn bench() -> Bench {
        Bench::new()
            .input(
                "predictions",
                &branch(&["fat", "tumour"], &[("a", &[0.8, 0.2]), ("x", &[0.5, 0.5]), ("b", &[0.4, 0.6])]),
            )
            .input("predictions", &branch(&["immune", "tumour"], &[("b", &[0.0, 1.0]), ("a", &[0.6, 0.4])]))
    }

    fn run(bench: Bench, params: Value) -> (Predictions, Metrics) {
        let done = bench.run::<FuseLate>(params).unwrap();
        (done.output("predictions"), done.output("summary"))
    }

    #[test]
    fn probabilities_are_mixed_by_spot_and_region() {
        let (found, summary) = run(bench(), json!({}));
        assert_eq!(
            (found.spots, found.classes),
            (vec!["a".into(), "b".into()], vec!["fat".into(), "immune".into(), "tumour".into()])
        );
        close(&found.probabilities, &[0.4, 0.3, 0.3, 0.2, 0.0, 0.8], 1e-6);
        assert_eq!((summary.values["weight_1"], summary.values["spots"]), (0.5, 2.0));
        let (found, _) = run(bench(), json!({ "weights": [3, 1] }));
        close(&found.probabilities, &[0.6, 0.15, 0.25, 0.3, 0.0, 0.7], 1e-6);
    }

    /// Where each label is certain to one branch only, the weights are the shares of labels that each is right about.
    #[test]
    fn weights_are_learnt_that_make_labels_likely() {
        let likely = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0];
        let weights = learn(&likely, 2);
        assert!((weights[0] - 0.75).abs() < 1e-8, "{weights:?}");
        // d/dw of ln(.2 + .6 w) + ln(.9 - .8 w) is 0 at w = .38 / .96.
        let weights = learn(&[0.8, 0.2, 0.1, 0.9], 2);
        assert!((weights[0] - 0.38 / 0.96).abs() < 1e-6, "{weights:?}");
        let train = train_labels([("b", "P", "tumour"), ("a", "P", "fat")]);
        let (_, summary) = run(bench().input("train", &train), json!({ "kind": "learnt" }));
        let values = &summary.values;
        // The first is right about both: 1/w - 0.4/(1 - 0.4 w) has no zero below 1, which is come near to and never met.
        assert!((values["weight_1"] - 1.0).abs() < 1e-8, "{}", values["weight_1"]);
        assert!((values["log_likelihood"] - values["log_likelihood_1"]).abs() < 1e-8);
        assert!(values["log_likelihood"] > values["log_likelihood_2"]);
        assert!((values["weight_1"] + values["weight_2"] - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_cannot_be_mixed_is_said() {
        let refused = |bench: Bench, params: Value| bench.run::<FuseLate>(params).err().unwrap().to_string();
        assert!(refused(bench(), json!({ "kind": "learnt" })).ends_with("connect `train`"));
        assert!(refused(bench(), json!({ "weights": [1] })).starts_with("`weights` lists 1 numbers for 2"));
        assert!(refused(bench(), json!({ "weights": [1, -1] })).contains("at least 0"));
        let one = branch(&["fat"], &[("q", &[1.0])]);
        let single = Bench::new().input("predictions", &one);
        assert!(refused(single, json!({})).starts_with("`predictions` is one set"));
        assert!(refused(bench().input("predictions", &one), json!({})).contains("share no spot"));
        let train = train_labels([("q", "P", "fat")]);
        let error = refused(bench().input("train", &train), json!({ "kind": "learnt" }));
        assert!(error.starts_with("no spot of `train` is predicted by all"), "{error}");
    }
}
