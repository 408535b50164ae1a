//! Stage type `visium/smooth`: each spot's expression averaged with its neighbours'.

use std::collections::HashMap;

use rayon::prelude::*;
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Csr, Embedding, Graph, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The stage type.
pub(crate) struct Smooth;

/// Params of `visium/smooth`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// How often: each round reaches one ring further. Default 1.
    pub(crate) rounds: usize,
    /// What neighbours weigh. Default `uniform`.
    pub(crate) weights: Weights,
    /// The share of a spot's own value in what it becomes; the rest is its neighbours' mean. Default null: the spot
    /// counts as one more neighbour.
    pub(crate) own_share: Option<f64>,
}

/// What neighbours weigh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Weights {
    /// What the graph says: 1 each, unless it is normalised.
    #[default]
    Uniform,
    /// The graph's, times the cosine of the two spots' morphology, at least 0 (SME normalisation of stLearn).
    Morphology,
}

impl Default for Params {
    fn default() -> Self {
        Self { rounds: 1, weights: Weights::Uniform, own_share: None }
    }
}

impl Stage for Smooth {
    const NAME: &'static str = "smooth";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Averages each spot's expression with that of its neighbours on the graph. What crosses a split is up to \
             the graph: one that is made with the split has no such edge.",
        )
        .input::<Table>("table", "Expression.")
        .input::<Graph>("graph", "Who is a neighbour.")
        .optional::<Embedding>("morphology", "What the tissue looks like at each spot, for `weights: morphology`.")
        .output::<Table>("table", "Smoothed expression.")
    }

    fn validate(params: &Params) -> Result<()> {
        if params.own_share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            return Err(Error::invalid("own_share should be from 0 to 1, or null"));
        }
        Ok(())
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let mut table: Table = ctx.read("table")?;
        let graph: Graph = ctx.read("graph")?;
        let morphology: Option<Embedding> = ctx.read_optional("morphology")?;
        let weights = weights(&table, &graph, morphology.as_ref(), &params)?;
        for round in 0..params.rounds {
            ctx.progress(round as u64, params.rounds as u64, "rounds");
            ctx.check_cancelled()?;
            table.x = product(&weights, &table.x);
        }
        ctx.write("table", &table)
    }
}

/// Spots x spots, rows summing to 1: what of which spot makes the new value of each, in the table's order.
fn weights(table: &Table, graph: &Graph, morphology: Option<&Embedding>, params: &Params) -> Result<Csr> {
    let places: HashMap<&str, usize> = graph.spots.iter().map(String::as_str).zip(0..).collect();
    let own: HashMap<&str, usize> = table.obs.index.iter().map(String::as_str).zip(0..).collect();
    let looks = match (params.weights, morphology) {
        (Weights::Uniform, _) => None,
        (Weights::Morphology, Some(morphology)) => Some(Looks::of(table, morphology)?),
        (Weights::Morphology, None) => {
            return Err(Error::invalid("weights: morphology needs an embedding at the port `morphology`"));
        }
    };
    let row = |(spot, name): (usize, &String)| {
        let place = places.get(name.as_str()).ok_or_else(|| {
            Error::invalid(format!(
                "spot {name} is not in the graph: make it from this table, or one with more spots"
            ))
        })?;
        let mut near: Vec<(usize, f64)> = graph
            .edges
            .entries(*place)
            .filter_map(|(other, weight)| Some((*own.get(graph.spots[other].as_str())?, f64::from(weight))))
            .filter(|&(other, _)| other != spot)
            .collect();
        if let Some(looks) = &looks {
            near.iter_mut().for_each(|(other, weight)| *weight *= looks.cosine(spot, *other).max(0.0));
        }
        let sum: f64 = near.iter().map(|(_, weight)| weight).sum();
        let (itself, rest) = match params.own_share {
            _ if sum <= 0.0 => (1.0, 0.0),
            Some(share) => (share, (1.0 - share) / sum),
            None => (1.0 / (1.0 + sum), 1.0 / (1.0 + sum)),
        };
        let mut row: Vec<(i32, f32)> =
            near.into_iter().map(|(other, weight)| (other as i32, (weight * rest) as f32)).collect();
        row.retain(|&(_, weight)| weight > 0.0);
        row.push((spot as i32, itself as f32));
        Ok(row)
    };
    let rows = table.obs.index.iter().enumerate().map(row).collect::<Result<Vec<_>>>()?;
    Ok(Csr::from_rows(table.n_spots(), rows))
}

/// The vectors of the table's spots, of length 1.
struct Looks {
    dims: usize,
    values: Vec<f64>,
}

impl Looks {
    fn of(table: &Table, morphology: &Embedding) -> Result<Self> {
        let places: HashMap<&str, usize> = morphology.spots.iter().map(String::as_str).zip(0..).collect();
        let mut values = Vec::with_capacity(table.n_spots() * morphology.dims);
        for spot in &table.obs.index {
            let place = places.get(spot.as_str()).ok_or_else(|| {
                Error::invalid(format!(
                    "spot {spot} is not in `morphology`: leave it out before, or embed it"
                ))
            })?;
            let vector = morphology.row(*place).iter().map(|&value| f64::from(value));
            let length = vector.clone().map(|value| value * value).sum::<f64>().sqrt();
            values.extend(vector.map(|value| if length > 0.0 { value / length } else { 0.0 }));
        }
        Ok(Self { dims: morphology.dims, values })
    }

    fn cosine(&self, a: usize, b: usize) -> f64 {
        let of = |spot: usize| &self.values[spot * self.dims..][..self.dims];
        of(a).iter().zip(of(b)).map(|(a, b)| a * b).sum()
    }
}

/// Sparse times sparse, by row (Gustavson 1978): the order of sums is that of the rows' entries, on any number of threads.
fn product(weights: &Csr, x: &Csr) -> Csr {
    let row = |(sums, touched): &mut (Vec<f64>, Vec<i32>), spot: usize| -> Vec<(i32, f32)> {
        for (other, weight) in weights.entries(spot) {
            for (gene, value) in x.entries(other) {
                if sums[gene] == 0.0 {
                    touched.push(gene as i32);
                }
                sums[gene] += f64::from(weight) * f64::from(value);
            }
        }
        touched.sort_unstable();
        touched.dedup();
        let row = touched.iter().map(|&gene| (gene, sums[gene as usize] as f32)).collect();
        touched.drain(..).for_each(|gene| sums[gene as usize] = 0.0);
        row
    };
    let rows: Vec<Vec<(i32, f32)>> =
        (0..weights.n_rows()).into_par_iter().map_init(|| (vec![0.0; x.n_cols], Vec::new()), row).collect();
    Csr::from_rows(x.n_cols, rows)
}

#[cfg(test)]
mod tests {
    use restage_stage::artifact::Frame;

    use super::*;

    /// Three spots in a row: 0 - 1 - 2.
    fn line() -> (Table, Graph) {
        let spots: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
        let x = Csr::from_rows(2, [vec![(0, 3.0)], vec![(1, 6.0)], vec![(0, 9.0), (1, 3.0)]]);
        let obs = Frame { index: spots.clone(), ..Frame::default() };
        let edges = Csr::from_rows(3, [vec![(1, 1.0)], vec![(0, 1.0), (2, 1.0)], vec![(1, 1.0)]]);
        (Table { x, obs, ..Table::default() }, Graph { spots, edges })
    }

    fn smooth(params: &Params, morphology: Option<&Embedding>) -> Vec<Vec<(usize, f32)>> {
        let (table, graph) = line();
        let weights = weights(&table, &graph, morphology, params).unwrap();
        let smoothed = (0..params.rounds).fold(table.x, |x, _| product(&weights, &x));
        (0..3).map(|spot| smoothed.entries(spot).collect()).collect()
    }

    #[test]
    fn a_spot_becomes_the_mean_of_itself_and_its_neighbours() {
        let found = smooth(&Params::default(), None);
        assert_eq!(found[0], [(0, 1.5), (1, 3.0)]);
        assert_eq!(found[1], [(0, 4.0), (1, 3.0)]);
        assert_eq!(smooth(&Params { rounds: 0, ..Params::default() }, None)[0], [(0, 3.0)]);
    }

    #[test]
    fn a_share_of_its_own_can_be_kept() {
        let found = smooth(&Params { own_share: Some(0.75), ..Params::default() }, None);
        assert_eq!(found[0], [(0, 2.25), (1, 1.5)]);
    }

    #[test]
    fn neighbours_that_look_otherwise_weigh_less_and_never_below_0() {
        let spots: Vec<String> = ["c", "b", "a"].map(str::to_owned).into();
        let morphology = Embedding { spots, dims: 2, values: vec![-1.0, 0.0, 2.0, 0.0, 0.5, 0.5_f32] };
        let found = smooth(&Params { weights: Weights::Morphology, ..Params::default() }, Some(&morphology));
        assert_eq!(found[2], [(0, 9.0), (1, 3.0)]);
        let cosine = 0.5_f32.sqrt();
        assert!((found[0][1].1 - 6.0 * cosine / (1.0 + cosine)).abs() < 1e-5);
    }

    #[test]
    fn what_is_missing_is_named() {
        let (table, mut graph) = line();
        let params = Params { weights: Weights::Morphology, ..Params::default() };
        let problem = weights(&table, &graph, None, &params).unwrap_err().to_string();
        assert!(problem.contains("needs an embedding at the port `morphology`"));
        graph.spots[1] = "x".into();
        let problem = weights(&table, &graph, None, &Params::default()).unwrap_err().to_string();
        assert!(problem.contains("spot b is not in the graph"));
    }

    #[test]
    fn the_threads_change_nothing() {
        let x = crate::normalize::closed_form_logs();
        let rows = (0..120)
            .map(|spot| (0..120).filter(|other| (spot * other) % 7 == 1).map(|other| (other, 0.1)).collect());
        let weights = Csr::from_rows(120, rows.collect::<Vec<Vec<(i32, f32)>>>());
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| product(&weights, &x))
        };
        assert!(with(1) == with(3));
    }
}
