//! Edges between the spots at hand, and what is done along them.

use std::collections::HashMap;

use rayon::prelude::*;
use restage_stage::{
    Context, Error, Result,
    artifact::{Csr, Graph, Role},
};

use crate::{
    features::{Features, Scaling},
    knn::Metric,
    neighbours::{nearest, normalise},
    training::Training,
};

/// The edges between spots, by their places. A spot's edge to itself is left out.
///
/// # Errors
/// If a spot is not in the graph, or an edge weighs less than 0 or is not a number.
pub(crate) fn between<'a>(graph: &Graph, spots: impl Iterator<Item = &'a str>, input: &str) -> Result<Csr> {
    let spots: Vec<&str> = spots.collect();
    let (edges, unknown) = between_known(graph, spots.iter().copied())?;
    match unknown.first() {
        None => Ok(edges),
        Some(&place) => Err(Error::invalid(format!(
            "spot `{}` of `{input}` is not in `graph`: make the graph of the same sections, or of more spots",
            spots[place]
        ))),
    }
}

/// The same, of which spots that are not in the graph have none; and the places of these.
///
/// # Errors
/// If an edge weighs less than 0 or is not a number.
pub(crate) fn between_known<'a>(
    graph: &Graph,
    spots: impl Iterator<Item = &'a str>,
) -> Result<(Csr, Vec<usize>)> {
    if graph.edges.data.iter().any(|weight| !(weight.is_finite() && *weight >= 0.0)) {
        return Err(Error::invalid("an edge of `graph` weighs less than 0, or is not a finite number"));
    }
    let rows: HashMap<&str, usize> = graph.spots.iter().map(String::as_str).zip(0..).collect();
    // Places in the graph of spots at hand, and the other way round.
    let of_spots: Vec<Option<usize>> = spots.map(|spot| rows.get(spot).copied()).collect();
    let mut places: Vec<Option<usize>> = vec![None; graph.spots.len()];
    for (place, row) in of_spots.iter().enumerate() {
        row.iter().for_each(|&row| places[row] = Some(place));
    }
    let row = |(place, row): (usize, &Option<usize>)| {
        row.iter()
            .flat_map(|&row| graph.edges.entries(row))
            .filter_map(|(other, weight)| Some((places[other]?, weight)))
            .filter(|&(other, weight)| other != place && weight > 0.0)
            .map(|(other, weight)| (other as i32, weight))
            .collect::<Vec<_>>()
    };
    let edges = Csr::from_rows(of_spots.len(), of_spots.iter().enumerate().map(row));
    let unknown = (0..of_spots.len()).filter(|&place| of_spots[place].is_none()).collect();
    Ok((edges, unknown))
}

/// The edges between spots of one role, and how many others there were: no way leads from spots that train to those that test,
/// not through spots without a role either.
pub(crate) fn within_roles(edges: &Csr, roles: &[Option<Role>]) -> (Csr, usize) {
    let row = |row: usize| {
        let kept = edges.entries(row).filter(|&(other, _)| roles[other] == roles[row]);
        kept.map(|(other, weight)| (other as i32, weight)).collect::<Vec<_>>()
    };
    let kept = Csr::from_rows(edges.n_cols, (0..edges.n_rows()).map(row));
    let crossing = edges.data.len() - kept.data.len();
    (kept, crossing)
}

/// Each point with its `k` nearest, and with those whose nearest it is; each edge weighs 1.
pub(crate) fn of_nearest(dims: usize, points: &[f64], k: usize) -> Csr {
    let found = nearest(dims, points, points, k, true);
    let mut rows: Vec<Vec<i32>> = vec![Vec::new(); found.len()];
    for (point, others) in found.iter().enumerate() {
        for &(other, _) in others {
            rows[point].push(other as i32);
            rows[other].push(point as i32);
        }
    }
    let row = |mut row: Vec<i32>| {
        row.sort_unstable();
        row.dedup();
        row.into_iter().map(|other| (other, 1.0)).collect::<Vec<_>>()
    };
    Csr::from_rows(found.len(), rows.into_iter().map(row))
}

/// Spots with those nearest by their vectors, one after the other.
///
/// # Errors
/// If there are too few for so many neighbours.
pub(crate) fn near(dims: usize, mut rows: Vec<f64>, k: usize, metric: Metric) -> Result<Csr> {
    let spots = rows.len() / dims;
    if k >= spots {
        return Err(Error::invalid(format!(
            "`k` is {k}, but there are only {spots} spots: lower it below that"
        )));
    }
    if metric == Metric::Cosine {
        normalise(dims, &mut rows);
    }
    Ok(of_nearest(dims, &rows, k))
}

/// Each spot with those nearest by its features, which are centred on the training spots.
///
/// # Errors
/// As of [`near`].
pub(crate) fn of_features(features: &Features, training: &Training, k: usize, metric: Metric) -> Result<Csr> {
    let scaling = Scaling::centred(features, &training.spots);
    near(features.dims(), features.all(&scaling), k, metric)
}

/// A sparse matrix in double precision, by row.
pub(crate) type Weights = Vec<Vec<(usize, f64)>>;

/// D^-1/2 (A + own I) D^-1/2, with the row sums D of A + own I. A spot without edges and `own` has none here.
pub(crate) fn symmetric(edges: &Csr, own: f64) -> Weights {
    let degree = |row: usize| edges.row(row).1.iter().map(|&weight| f64::from(weight)).sum::<f64>() + own;
    let degrees: Vec<f64> = (0..edges.n_rows()).map(degree).collect();
    let scale = |row: usize, other: usize, weight: f64| {
        let product = degrees[row] * degrees[other];
        if product > 0.0 { weight / product.sqrt() } else { 0.0 }
    };
    let row = |row: usize| {
        let others = edges.entries(row).map(|(other, weight)| (other, f64::from(weight)));
        let itself = (own > 0.0).then_some((row, own));
        others.chain(itself).map(|(other, weight)| (other, scale(row, other, weight))).collect()
    };
    (0..edges.n_rows()).map(row).collect()
}

/// A + I of which rows sum to 1: a spot's mean with its neighbours.
pub(crate) fn means(edges: &Csr) -> Weights {
    let row = |row: usize| {
        let sum = edges.row(row).1.iter().map(|&weight| f64::from(weight)).sum::<f64>() + 1.0;
        let others = edges.entries(row).map(|(other, weight)| (other, f64::from(weight) / sum));
        others.chain([(row, 1.0 / sum)]).collect()
    };
    (0..edges.n_rows()).map(row).collect()
}

/// Sparse times dense: sums are added in the order of a row's entries, on any number of threads.
pub(crate) fn product(weights: &Weights, dims: usize, values: &[f64]) -> Vec<f64> {
    let mut product = vec![0.0; weights.len() * dims];
    product.par_chunks_mut(dims.max(1)).zip(weights).for_each(|(sums, row)| {
        for &(other, weight) in row {
            let values = &values[other * dims..(other + 1) * dims];
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
        }
    });
    product
}

/// How something spreads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    /// How much of what a spot has comes from its neighbours.
    pub(crate) alpha: f64,
    /// Rounds at most.
    pub(crate) max_iter: u32,
    /// Converged when a round moves less than this in all.
    pub(crate) tolerance: f64,
}

/// F = alpha S F + (1 - alpha) Y until it stays (Zhou et al. 2004), and how many rounds that took; `moved` is the metric that tells of
/// each.
///
/// # Errors
/// If it is cancelled.
pub(crate) fn spread(
    weights: &Weights,
    dims: usize,
    from: &[f64],
    plan: Spread,
    moved: &str,
    ctx: &Context,
) -> Result<(Vec<f64>, u32)> {
    settle(from.to_vec(), plan, moved, ctx, |values| {
        let mut next = product(weights, dims, values);
        next.iter_mut()
            .zip(from)
            .for_each(|(next, own)| *next = plan.alpha * *next + (1.0 - plan.alpha) * own);
        next
    })
}

/// Does something to values until it moves them no more.
///
/// # Errors
/// If it is cancelled.
pub(crate) fn settle(
    mut values: Vec<f64>,
    plan: Spread,
    moved: &str,
    ctx: &Context,
    step: impl Fn(&[f64]) -> Vec<f64>,
) -> Result<(Vec<f64>, u32)> {
    for round in 1..=plan.max_iter {
        ctx.check_cancelled()?;
        let next = step(&values);
        let change: f64 = next.iter().zip(&values).map(|(next, last)| (next - last).abs()).sum();
        values = next;
        ctx.metric(moved, round.into(), change);
        if change < plan.tolerance {
            return Ok((values, round));
        }
    }
    tracing::warn!(
        "still moving after {} rounds: raise `max_iter`, or lower how much comes from neighbours",
        plan.max_iter
    );
    Ok((values, plan.max_iter))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        let edges =
            [vec![(1, 2.0), (2, 1.0)], vec![(0, 2.0), (1, 5.0)], vec![(0, 1.0), (3, 1.0)], vec![(2, 1.0)]];
        Graph { spots: ["a", "b", "c", "d"].map(str::to_owned).into(), edges: Csr::from_rows(4, edges) }
    }

    #[test]
    fn edges_follow_spots_by_id() {
        let edges = between(&graph(), ["c", "b", "a"].into_iter(), "features").unwrap();
        let rows: Vec<Vec<_>> = (0..3).map(|row| edges.entries(row).collect()).collect();
        assert_eq!(rows, [vec![(2, 1.0)], vec![(2, 2.0)], vec![(0, 1.0), (1, 2.0)]]);
        let error = between(&graph(), ["a", "x"].into_iter(), "features").unwrap_err().to_string();
        assert!(error.starts_with("spot `x` of `features` is not in `graph`"), "{error}");
        let (edges, unknown) = between_known(&graph(), ["x", "b", "a"].into_iter()).unwrap();
        let rows: Vec<Vec<_>> = (0..3).map(|row| edges.entries(row).collect()).collect();
        assert_eq!((rows, unknown), (vec![vec![], vec![(2, 2.0)], vec![(1, 2.0)]], vec![0]));
        let mut wrong = graph();
        wrong.edges.data[0] = -1.0;
        assert!(between(&wrong, ["a"].into_iter(), "features").is_err());
    }

    #[test]
    fn no_way_leads_across_a_split() {
        let edges = between(&graph(), ["a", "b", "c", "d"].into_iter(), "features").unwrap();
        let roles = [Some(Role::Train), Some(Role::Train), None, Some(Role::Test)];
        let (kept, crossing) = within_roles(&edges, &roles);
        assert_eq!((kept.data.len(), crossing), (2, 4), "a - c - d was a way through the gap");
    }

    #[test]
    fn weights_are_normalised_by_degrees() {
        let edges = between(&graph(), ["a", "b", "c", "d"].into_iter(), "features").unwrap();
        let weights = symmetric(&edges, 1.0);
        // Degrees with itself: 4, 3, 3, 2.
        assert_eq!(weights[0], [(1, 2.0 / 12_f64.sqrt()), (2, 1.0 / 12_f64.sqrt()), (0, 0.25)]);
        assert_eq!(symmetric(&Csr::from_rows(1, [vec![]]), 0.0), [vec![]]);
        assert_eq!(product(&means(&edges), 1, &[4.0, 0.0, 8.0, 0.0]), [3.0, 8.0 / 3.0, 4.0, 4.0]);
    }

    #[test]
    fn nearest_spots_are_neighbours_both_ways() {
        let edges = of_nearest(1, &[0.0, 1.0, 5.0], 1);
        let rows: Vec<Vec<_>> = (0..3).map(|row| edges.entries(row).collect()).collect();
        assert_eq!(rows, [vec![(1, 1.0)], vec![(0, 1.0), (2, 1.0)], vec![(1, 1.0)]]);
    }
}
