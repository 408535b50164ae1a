//! `classify/refine`: a spot among others of another region is taken for theirs.

use std::collections::HashMap;

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Graph, Metrics, Predictions, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    check,
    coordinates::{check_places, sections},
    graph::between,
    neighbours::nearest,
    training::{predictions, told},
};

/// Votes of neighbours on predicted regions.
pub enum Refine {}

/// What `classify/refine` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// Whose rule. Default `spagcn`.
    pub rule: Rule,
    /// With `table`: how many nearest spots vote. Default null: as many as the rule has it.
    #[schemars(range(min = 1))]
    pub neighbours: Option<usize>,
}

/// When a spot changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Always, to the most frequent region of its 50 nearest spots, of equally frequent ones the nearest. Its own region has no
    /// vote.
    Graphst,
    /// Only if less than half of the votes are for its own region, its own among them, and more than half for another:
    /// of its 24 nearest spots, in sections of up to 1000 spots of 4.
    Congi,
    /// The same with its 6 nearest spots.
    Spagcn,
}

impl Rule {
    /// How many vote in a section of so many spots.
    fn neighbours(self, spots: usize) -> usize {
        match self {
            Self::Graphst => 50,
            Self::Congi if spots > 1000 => 24,
            Self::Congi => 4,
            Self::Spagcn => 6,
        }
    }
}

impl Default for Params {
    fn default() -> Self {
        Self { rule: Rule::Spagcn, neighbours: None }
    }
}

impl Stage for Refine {
    const NAME: &'static str = "refine";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Lets neighbours vote on each spot's predicted region, by the rule of GraphST, ConGI or SpaGCN. It evens out what is \
             small, whether wrong or right; compare with and without. Neighbours are the nearest spots of the section by \
             `table`, or those of `graph`.",
        )
        .input::<Predictions>("predictions", "clusters or regions")
        .optional::<Table>("table", "coordinates and `section` of the spots")
        .optional::<Graph>("graph", "who is a neighbour; `table` is not needed then")
        .either(&["table", "graph"])
        .output::<Predictions>("predictions", "the same spots; what was voted for is certain")
        .output::<Metrics>("summary", "spots, how many changed")
    }

    fn validate(params: &Params) -> Result<()> {
        check::one_or_more(&[("neighbours", params.neighbours.unwrap_or(1))])
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let before: Predictions = ctx.read("predictions")?;
        ctx.named_only("table");
        let near = match (ctx.read_optional::<Graph>("graph")?, ctx.read_optional::<Table>("table")?) {
            (Some(graph), None) if params.neighbours.is_none() => on_graph(&before, &graph)?,
            (Some(_), None) => {
                return Err(Error::invalid("`neighbours` is for `table`: on `graph` all neighbours vote"));
            }
            (None, Some(table)) => nearby(&before, &table, &params)?,
            _ => {
                return Err(Error::invalid(
                    "connect either `table` or `graph`: one of them says who is a neighbour",
                ));
            }
        };
        let own: Vec<usize> = (0..before.spots.len()).map(|spot| before.predicted_class(spot)).collect();
        let classes = before.classes.len();
        let voted: Vec<usize> = near
            .iter()
            .enumerate()
            .map(|(spot, near)| vote(params.rule, own[spot], near.iter().map(|&other| own[other]), classes))
            .collect();
        let changed = voted.iter().zip(&own).filter(|(voted, own)| voted != own).count();
        tracing::info!("{changed} of {} spots changed", own.len());
        let after = predictions(before.spots.iter().map(String::as_str), &before.classes, |spot, to| {
            to[voted[spot]] = 1.0;
        });
        let values = [("spots", own.len()), ("changed", changed)];
        ctx.write("predictions", &after)?;
        ctx.write(
            "summary",
            &told(values.map(|(name, value)| (name, value as f64)), json!({ "rule": params.rule })),
        )
    }
}

/// The neighbours of each spot on the graph.
fn on_graph(predictions: &Predictions, graph: &Graph) -> Result<Vec<Vec<usize>>> {
    let edges = between(graph, predictions.spots.iter().map(String::as_str), "predictions")?;
    Ok((0..edges.n_rows()).map(|row| edges.entries(row).map(|(other, _)| other).collect()).collect())
}

/// The nearest spots of the section, the nearest first.
fn nearby(predictions: &Predictions, table: &Table, params: &Params) -> Result<Vec<Vec<usize>>> {
    check_places(table)?;
    let rows: HashMap<&str, usize> = table.obs.index.iter().map(String::as_str).zip(0..).collect();
    if let Some(spot) = predictions.spots.iter().find(|spot| !rows.contains_key(spot.as_str())) {
        return Err(Error::invalid(format!(
            "spot `{spot}` of `predictions` is not in `table`: make both of the same sections"
        )));
    }
    let places = predictions.positions();
    let mut near = vec![Vec::new(); predictions.spots.len()];
    for spots in sections(table)?.into_values() {
        let (spots, points): (Vec<usize>, Vec<[f64; 2]>) = spots
            .into_iter()
            .filter_map(|row| Some((*places.get(table.obs.index[row].as_str())?, table.spatial[row])))
            .unzip();
        let points = points.as_flattened();
        let count = params.neighbours.unwrap_or_else(|| params.rule.neighbours(spots.len()));
        for (&spot, found) in spots.iter().zip(nearest(2, points, points, count, true)) {
            near[spot] = found.into_iter().map(|(other, _)| spots[other]).collect();
        }
    }
    Ok(near)
}

/// The region of a spot, by its own and its neighbours', the nearest first.
fn vote(rule: Rule, own: usize, near: impl ExactSizeIterator<Item = usize> + Clone, classes: usize) -> usize {
    let half = near.len() as f64 / 2.0;
    let mut votes = vec![0_usize; classes];
    near.clone().for_each(|class| votes[class] += 1);
    match rule {
        Rule::Graphst => {
            near.fold(
                (own, 0),
                |best, class| {
                    if votes[class] > best.1 { (class, votes[class]) } else { best }
                },
            )
            .0
        }
        Rule::Congi | Rule::Spagcn => {
            votes[own] += 1;
            let most = (1..classes).fold(0, |best, next| if votes[next] > votes[best] { next } else { best });
            if (votes[own] as f64) < half && votes[most] as f64 > half { most } else { own }
        }
    }
}

#[cfg(test)]
mod tests {
    use restage_stage::artifact::Csr;
    use serde_json::Value;

    use super::*;
    use crate::testing::{Bench, table};

    fn voted(rule: Rule, own: usize, near: &[usize]) -> usize {
        vote(rule, own, near.iter().copied(), 3)
    }

    #[test]
    fn graphst_takes_the_most_frequent_of_equal_ones_the_nearest() {
        assert_eq!(voted(Rule::Graphst, 0, &[1, 2, 2, 1, 0]), 1);
        assert_eq!(voted(Rule::Graphst, 0, &[2, 1, 1, 2, 0]), 2);
        assert_eq!(voted(Rule::Graphst, 0, &[2]), 2, "its own region has no vote");
        assert_eq!(voted(Rule::Graphst, 1, &[]), 1);
    }

    /// SpaGCN's rule by hand: six neighbours and the spot itself, `own < 3 and most > 3`.
    #[test]
    fn spagcn_changes_what_is_outvoted_clearly() {
        assert_eq!(voted(Rule::Spagcn, 0, &[1, 1, 1, 1, 0, 2]), 1, "4 votes against 2");
        assert_eq!(voted(Rule::Spagcn, 0, &[1, 1, 1, 1, 0, 0]), 0, "3 votes are not less than half of 6");
        assert_eq!(voted(Rule::Spagcn, 0, &[1, 1, 1, 2, 2, 2]), 0, "3 are not more than half");
        assert_eq!((Rule::Congi.neighbours(1000), Rule::Congi.neighbours(1001)), (4, 24));
    }

    /// Seven spots in a row of section A, of which the fourth is off, and two of B at the same places.
    fn bench() -> Bench {
        let mut table = table(&[("A", "P"); 7].into_iter().chain([("B", "P"); 2]).collect::<Vec<_>>());
        table.spatial = (0..7).chain([3, 4]).map(|x| [f64::from(x), 0.0]).collect();
        let class = |spot: usize| f32::from(u8::from(spot == 3 || spot > 6));
        let spots: Vec<usize> = (0..9).rev().collect();
        let predictions = Predictions {
            spots: spots.iter().map(|&spot| table.obs.index[spot].clone()).collect(),
            classes: vec!["1".into(), "2".into()],
            probabilities: spots.iter().flat_map(|&spot| [1.0 - class(spot), class(spot)]).collect(),
        };
        Bench::new().input("predictions", &predictions).input("table", &table)
    }

    #[test]
    fn neighbours_are_of_the_same_section() {
        let done = bench().run::<Refine>(json!({})).unwrap();
        let found: Predictions = done.output("predictions");
        let regions: Vec<&str> = (0..9).map(|spot| found.predicted(spot)).collect();
        assert_eq!(regions, ["2", "2", "1", "1", "1", "1", "1", "1", "1"]);
        assert_eq!(done.output::<Metrics>("summary").values["changed"], 1.0);
    }

    #[test]
    fn who_is_a_neighbour_is_said_once() {
        let graph = Graph {
            spots: (0..7).map(|i| format!("A_{i}")).chain(["B_7".into(), "B_8".into()]).collect(),
            edges: Csr::from_rows(
                9,
                (0..9).map(|i| if i == 3 { vec![(2, 1.0), (4, 1.0), (5, 1.0)] } else { vec![] }),
            ),
        };
        let refused = |bench: Bench, params: Value| bench.run::<Refine>(params).err().unwrap().to_string();
        let both = bench().input("graph", &graph);
        assert!(refused(both, json!({})).starts_with("connect either `table` or `graph`"));
        assert!(refused(bench(), json!({ "neighbours": 0 })).contains("must be 1 or more"));
        let done = bench().without("table").input("graph", &graph).run::<Refine>(json!({})).unwrap();
        assert_eq!(done.output::<Predictions>("predictions").predicted(5), "1");
        let other = table(&[("C", "P")]);
        let error = refused(bench().replace("table", &other), json!({}));
        assert_eq!(error, "spot `B_8` of `predictions` is not in `table`: make both of the same sections");
    }
}
