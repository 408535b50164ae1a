//! `classify/budget`: what a classifier makes of fewer labels.

use restage_stage::{Context, Error, Ports, Result, Stage, artifact::TrainLabels};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::draw;

/// Draws some of the training labels.
pub enum Budget {}

/// What `classify/budget` is asked for. Neither of the two: all labels.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// The share of each region's labels to keep, above 0 to 1; one at least of each region. Default null.
    pub fraction: Option<f64>,
    /// How many labels of each region to keep; all where it has fewer. Default null.
    pub per_region: Option<usize>,
    /// Whether to shuffle the labels that are kept: what is trained on them should do no better than chance, or something
    /// leaks. Default false.
    pub permute_labels: bool,
}

impl Stage for Budget {
    const NAME: &'static str = "budget";
    const SEEDED: bool = true;
    const STREAMS: &'static [&'static str] = &["labels"];
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Keeps some of the training labels, of each region a share or a number. With one seed, a larger budget holds all \
             labels of a smaller one.",
        )
        .input::<TrainLabels>("train", "regions of the training spots")
        .output::<TrainLabels>("train", "those that are kept")
    }

    fn validate(params: &Params) -> Result<()> {
        match (params.fraction, params.per_region) {
            (Some(_), Some(_)) => Err(Error::invalid("give `fraction` or `per_region`, not both")),
            (Some(fraction), _) if !(fraction > 0.0 && fraction <= 1.0) => Err(Error::invalid(format!(
                "fraction: {fraction} should be above 0 and at most 1, e.g. 0.05"
            ))),
            (_, Some(0)) => Err(Error::invalid("per_region should be at least 1")),
            _ => Ok(()),
        }
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let TrainLabels(labels) = ctx.read("train")?;
        let mut rng = ctx.rng("labels");
        let mut kept = Vec::new();
        for (region, spots) in draw::by_region(&labels, &mut rng) {
            let count = match (params.fraction, params.per_region) {
                (Some(fraction), _) => draw::share(spots.len(), fraction),
                (None, Some(wanted)) => {
                    if wanted > spots.len() {
                        tracing::warn!("region {region} has {} labels, fewer than {wanted}", spots.len());
                    }
                    wanted.min(spots.len())
                }
                (None, None) => spots.len(),
            };
            kept.extend_from_slice(&spots[..count]);
        }
        if kept.is_empty() {
            return Err(Error::invalid("`train` has no spot with a region: check how labels were split"));
        }
        let mut kept = draw::select(&labels, kept);
        tracing::info!("{} of {} labels are kept", kept.spots.len(), labels.spots.len());
        if params.permute_labels {
            ctx.permuted("classify/budget: training labels are shuffled");
            draw::permute(&mut kept, &mut rng);
        }
        ctx.write("train", &TrainLabels(kept))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use restage_stage::artifact::Labels;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Bench, train_labels};

    /// 100 spots of tumour, 30 of stroma, 3 of fat.
    fn labels() -> TrainLabels {
        let regions = [("tumour", 100), ("stroma", 30), ("fat", 3)];
        let spots =
            regions.into_iter().flat_map(|(region, count)| (0..count).map(move |spot| (region, spot)));
        train_labels(spots.map(|(region, spot)| (format!("A1_{region}{spot}"), "A", region)))
    }

    fn kept(params: Value, seed: u64) -> Labels {
        let bench = Bench::new().seed(seed).input("train", &labels());
        bench.run::<Budget>(params).unwrap().output::<TrainLabels>("train").0
    }

    fn counts(labels: &Labels) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        labels.regions.iter().flatten().for_each(|region| *counts.entry(region.as_str()).or_default() += 1);
        counts
    }

    #[test]
    fn each_region_keeps_its_share_and_one_at_least() {
        let found = kept(json!({ "fraction": 0.05 }), 0);
        assert_eq!(counts(&found), BTreeMap::from([("fat", 1), ("stroma", 2), ("tumour", 5)]));
        let found = kept(json!({ "per_region": 5 }), 0);
        assert_eq!(counts(&found), BTreeMap::from([("fat", 3), ("stroma", 5), ("tumour", 5)]));
        assert_eq!(kept(json!({}), 0), labels().0);
    }

    #[test]
    fn budgets_of_one_seed_are_nested_and_seeds_draw_others() {
        for seed in 0..5 {
            let sets =
                [0.01, 0.05, 0.1, 0.5, 1.0].map(|fraction| kept(json!({ "fraction": fraction }), seed));
            for pair in sets.windows(2) {
                let [small, large] =
                    [&pair[0], &pair[1]].map(|labels| labels.spots.iter().collect::<BTreeSet<_>>());
                assert!(small.is_subset(&large) && small.len() < large.len());
            }
        }
        assert_ne!(kept(json!({ "fraction": 0.05 }), 0).spots, kept(json!({ "fraction": 0.05 }), 1).spots);
    }

    #[test]
    fn shuffled_labels_are_the_same_ones_elsewhere() {
        let (plain, shuffled) = (kept(json!({}), 3), kept(json!({ "permute_labels": true }), 3));
        assert_eq!((counts(&plain), &plain.spots), (counts(&shuffled), &shuffled.spots));
        let moved = plain.regions.iter().zip(&shuffled.regions).filter(|(a, b)| a != b).count();
        // By chance a spot's label changes with probability 1 - (100² + 30² + 3²) / 133² = 0.38.
        assert!((30..80).contains(&moved), "{moved} of 133");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for params in [
            json!({ "fraction": 0.1, "per_region": 1 }),
            json!({ "fraction": 5 }),
            json!({ "fraction": 0 }),
            json!({ "per_region": 0 }),
        ] {
            let bench = Bench::new().input("train", &labels());
            assert!(bench.run::<Budget>(params.clone()).is_err(), "{params}");
        }
    }
}
