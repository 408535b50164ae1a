//! `classify/spatial-knn`: the baseline that looks at nothing but where labelled spots lie.

use std::collections::HashMap;

use restage_stage::{
    Context, Ports, Result, Stage,
    artifact::{Metrics, Predictions, Table, TrainLabels},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    check,
    coordinates::{check_places, sections},
    majority::shares,
    neighbours::nearest,
    training::{predictions, told},
};

/// Regions of the nearest labelled spots of the section.
pub enum SpatialKnn {}

/// What `classify/spatial-knn` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// How many labelled spots vote; of a section that has fewer, all. Default 6.
    #[schemars(range(min = 1))]
    pub k: usize,
}

impl Default for Params {
    fn default() -> Self {
        Self { k: 6 }
    }
}

impl Stage for SpatialKnn {
    const NAME: &'static str = "spatial-knn";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Votes of the nearest labelled spots by where they lie on the slide. It cannot cross sections: spots of one \
             without training labels get the most frequent training region, as from `classify/majority`, and are counted.",
        )
        .input::<TrainLabels>("train", "regions of the training spots")
        .input::<Table>("table", "the spots to predict, with their coordinates and `section`")
        .output::<Predictions>("predictions", "region and shares of votes of every spot of the table")
        .output::<Metrics>("training", "how many spots had labelled ones in their section, and how many had not")
    }

    fn validate(params: &Params) -> Result<()> {
        check::one_or_more(&[("k", params.k)])
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let TrainLabels(train) = ctx.read("train")?;
        let table: Table = ctx.read("table")?;
        ctx.named_only("table");
        check_places(&table)?;
        let shares = shares(&train)?;
        let classes: Vec<String> = shares.keys().map(|&region| region.to_owned()).collect();
        let codes: HashMap<&str, usize> = shares.keys().copied().zip(0..).collect();
        let regions: HashMap<&str, usize> = train
            .spots
            .iter()
            .zip(&train.regions)
            .filter_map(|(spot, region)| Some((spot.as_str(), codes[region.as_deref()?])))
            .collect();

        let mut votes: Vec<Vec<usize>> = vec![Vec::new(); table.n_spots()];
        let (mut by_majority, mut blind) = (0, Vec::new());
        for (section, spots) in sections(&table)? {
            ctx.check_cancelled()?;
            let place = |&spot: &usize| table.spatial[spot];
            let (labelled, targets): (Vec<usize>, Vec<usize>) = spots
                .iter()
                .filter_map(|&spot| Some((spot, *regions.get(table.obs.index[spot].as_str())?)))
                .unzip();
            if labelled.is_empty() {
                by_majority += spots.len();
                blind.push(section);
                continue;
            }
            let points: Vec<f64> = labelled.iter().flat_map(place).collect();
            let queries: Vec<f64> = spots.iter().flat_map(place).collect();
            let found = nearest(2, &points, &queries, params.k.min(labelled.len()), false);
            for (&spot, found) in spots.iter().zip(found) {
                votes[spot] = found.into_iter().map(|(point, _)| targets[point]).collect();
            }
        }
        if by_majority == table.n_spots() {
            tracing::warn!("no section has a labelled spot: this is what classify/majority predicts");
        } else if by_majority > 0 {
            tracing::warn!(
                "{by_majority} of {} spots are in sections without a labelled one ({}) and get the most frequent region",
                table.n_spots(),
                blind.join(", ")
            );
        }
        let majority: Vec<f32> = shares.values().copied().collect();
        let predictions = predictions(table.obs.index.iter().map(String::as_str), &classes, |spot, to| {
            if votes[spot].is_empty() {
                to.iter_mut().zip(&majority).for_each(|(to, share)| *to = f64::from(*share));
            }
            let vote = 1.0 / votes[spot].len() as f64;
            votes[spot].iter().for_each(|&class| to[class] += vote);
        });
        let values = [
            ("k", params.k),
            ("train_spots", regions.len()),
            ("spots_by_neighbours", table.n_spots() - by_majority),
            ("spots_by_majority", by_majority),
        ];
        ctx.write("predictions", &predictions)?;
        ctx.write(
            "training",
            &told(values.map(|(name, value)| (name, value as f64)), json!({ "sections_by_majority": blind })),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, table, train_labels};

    #[test]
    fn the_nearest_labelled_spots_vote_within_their_section() {
        let mut table = table(&[("A", "P"), ("A", "P"), ("A", "P"), ("A", "P"), ("B", "Q"), ("B", "Q")]);
        table.spatial = [0.0, 1.0, 5.0, 6.0, 0.0, 1.0].map(|x| [x, 0.0]).to_vec();
        // Labels come in another order than spots.
        let train = train_labels([("A_3", "P", "tumour"), ("A_2", "P", "tumour"), ("A_0", "P", "fat")]);
        let bench = Bench::new().input("table", &table).input("train", &train);
        let done = bench.run::<SpatialKnn>(json!({ "k": 1 })).unwrap();
        let found: Predictions = done.output("predictions");
        let regions: Vec<&str> = (0..6).map(|spot| found.predicted(spot)).collect();
        assert_eq!(regions, ["fat", "fat", "tumour", "tumour", "tumour", "tumour"]);
        assert!((found.row(4)[0] - 1.0 / 3.0).abs() < 1e-6, "the share of `fat` in training");
        let training: Metrics = done.output("training");
        assert_eq!(
            (training.values["spots_by_neighbours"], training.values["spots_by_majority"]),
            (4.0, 2.0)
        );
        assert_eq!(training.details["sections_by_majority"], json!(["B"]));
    }

    #[test]
    fn fewer_labels_than_votes_all_vote() {
        let mut table = table(&[("A", "P"), ("A", "P"), ("A", "P")]);
        table.spatial = [0.0, 1.0, 5.0].map(|x| [x, 0.0]).to_vec();
        let train = train_labels([("A_0", "P", "fat"), ("A_1", "P", "fat"), ("A_2", "P", "tumour")]);
        let bench = Bench::new().input("table", &table).input("train", &train);
        let found: Predictions = bench.run::<SpatialKnn>(json!({})).unwrap().output("predictions");
        assert!((found.row(2)[0] - 2.0 / 3.0).abs() < 1e-6);
        assert_eq!(found.predicted(2), "fat");
    }
}
