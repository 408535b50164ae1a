//! `classify/majority`: the baseline that looks at nothing.

use std::collections::BTreeMap;

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Labels, Predictions, Table, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Predicts the most frequent training region everywhere.
pub enum Majority {}

/// `classify/majority` has no params.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {}

impl Stage for Majority {
    const NAME: &'static str = "majority";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "The most frequent training region for every spot, with the regions' shares as probabilities: the \
             baseline that every classifier must beat.",
        )
        .input::<TrainLabels>("train", "regions of the training spots")
        .input::<Table>("table", "the spots to predict")
        .output::<Predictions>("predictions", "the same for every spot of the table")
    }

    fn run(_: Params, ctx: &Context) -> Result<()> {
        let TrainLabels(train) = ctx.read("train")?;
        let table: Table = ctx.read("table")?;
        ctx.named_only("table");
        let shares = shares(&train)?;
        let (classes, shares): (Vec<String>, Vec<f32>) =
            shares.into_iter().map(|(region, share)| (region.to_owned(), share)).unzip();
        let predictions =
            Predictions { classes, probabilities: shares.repeat(table.n_spots()), spots: table.obs.index };
        ctx.write("predictions", &predictions)
    }
}

/// The share of each region among the training spots.
pub(crate) fn shares(train: &Labels) -> Result<BTreeMap<&str, f32>> {
    let mut counts = BTreeMap::<&str, u32>::new();
    for region in train.regions.iter().flatten() {
        *counts.entry(region).or_default() += 1;
    }
    let total: u32 = counts.values().sum();
    if total == 0 {
        return Err(Error::invalid("`train` has no spot with a region: check how labels were split"));
    }
    Ok(counts
        .into_iter()
        .map(|(region, count)| (region, (f64::from(count) / f64::from(total)) as f32))
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Bench, table, train_labels};

    #[test]
    fn every_spot_gets_the_most_frequent_region() {
        let table = table(&[("A1", "A"), ("B1", "B"), ("B1", "B")]);
        let train = train_labels(
            ["stroma", "tumour", "tumour", "tumour"]
                .into_iter()
                .zip(0..)
                .map(|(region, i)| (format!("C1_{i}"), "C", region)),
        );
        let done =
            Bench::new().input("table", &table).input("train", &train).run::<Majority>(json!({})).unwrap();
        let predictions: Predictions = done.output("predictions");
        assert_eq!(predictions.spots, table.obs.index);
        assert_eq!(predictions.classes, ["stroma", "tumour"]);
        for spot in 0..3 {
            assert_eq!(predictions.predicted(spot), "tumour");
            assert_eq!(predictions.row(spot), [0.25, 0.75]);
        }
    }

    #[test]
    fn without_a_region_there_is_no_majority() {
        let train = Labels { spots: vec!["A1_0".into()], regions: vec![None], ..Labels::default() };
        assert!(shares(&train).is_err());
    }
}
