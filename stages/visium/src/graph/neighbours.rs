//! The neighbours of each spot of one section.

use std::collections::HashMap;

use rayon::prelude::*;
use restage_stage::{
    Error, Result,
    artifact::{Column, Table},
};

use super::{Kind, Params};

/// Positions, among `spots`, of each spot's neighbours; never the spot itself.
pub(super) fn of_section(
    table: &Table,
    section: &str,
    spots: &[usize],
    params: &Params,
) -> Result<Vec<Vec<usize>>> {
    match params.kind {
        Kind::Hex | Kind::Grid => on_array(table, section, spots, params),
        Kind::Radius => {
            let radius = params.radius.unwrap_or_default();
            Ok(Cells::of(&coordinates(table, spots)?, radius).within(radius))
        }
        Kind::Knn => {
            if params.k >= spots.len() {
                return Err(Error::invalid(format!(
                    "k: {} neighbours are more than section {section} has beside each of its {} spots",
                    params.k,
                    spots.len()
                )));
            }
            let mut nearest = nearest(&coordinates(table, spots)?, params.k);
            if params.symmetrise {
                symmetrise(&mut nearest);
            }
            Ok(nearest)
        }
        Kind::Delaunay => delaunay(&coordinates(table, spots)?, section),
    }
}

fn coordinates(table: &Table, spots: &[usize]) -> Result<Vec<[f64; 2]>> {
    let place = |&spot: &usize| {
        let place = table.spatial[spot];
        let known = place.iter().all(|value| value.is_finite());
        known.then_some(place).ok_or_else(|| {
            Error::invalid(format!("spot {} has no coordinates; leave it out before", table.obs.index[spot]))
        })
    };
    spots.iter().map(place).collect()
}

/// Spots that are up to `rings` steps away on the array; every place on the way must hold a spot or not, it is no path.
fn on_array(table: &Table, section: &str, spots: &[usize], params: &Params) -> Result<Vec<Vec<usize>>> {
    let steps: &[(i64, i64)] = match params.kind {
        Kind::Hex => &[(0, 2), (0, -2), (1, 1), (1, -1), (-1, 1), (-1, -1)],
        _ => &[(0, 1), (0, -1), (1, 0), (-1, 0)],
    };
    let column = |name: &str| match table.obs.column(name) {
        Some(Column::Int(values)) => Ok(values),
        _ => Err(Error::invalid(format!(
            "the table has no whole numbers `{name}`: kind: radius, knn and delaunay go by coordinates instead"
        ))),
    };
    let (rows, cols) = (column("array_row")?, column("array_col")?);
    let mut places = HashMap::new();
    for (place, &spot) in spots.iter().enumerate() {
        if places.insert((rows[spot], cols[spot]), place).is_some() {
            return Err(Error::invalid(format!(
                "two spots of section {section} stand at row {} and column {} of the array",
                rows[spot], cols[spot]
            )));
        }
    }
    check_array(section, params.kind, places.keys())?;
    let mut offsets = std::collections::BTreeSet::from([(0, 0)]);
    for _ in 0..params.rings {
        let further: Vec<(i64, i64)> =
            offsets.iter().flat_map(|(r, c)| steps.iter().map(move |(dr, dc)| (r + dr, c + dc))).collect();
        offsets.extend(further);
    }
    offsets.remove(&(0, 0));
    let near = |&spot: &usize| {
        offsets.iter().filter_map(|(r, c)| places.get(&(rows[spot] + r, cols[spot] + c)).copied()).collect()
    };
    Ok(spots.iter().map(near).collect())
}

/// Refuses the neighbours of one array on the other, which would be wrong ones, or none: on a hexagonal array, row and column
/// of a spot are both even or both odd.
fn check_array<'a>(
    section: &str,
    kind: Kind,
    mut places: impl Iterator<Item = &'a (i64, i64)>,
) -> Result<()> {
    let Some((row, col)) = places.next() else { return Ok(()) };
    let mut count = 1;
    let other = places.find(|(r, c)| {
        count += 1;
        (r + c + row + col) % 2 != 0
    });
    match (kind, other) {
        (Kind::Hex, Some((r, c))) => Err(Error::invalid(format!(
            "section {section} has spots at row {row}, column {col} and at row {r}, column {c}: no hexagonal array has \
             both; for a square one take `kind: grid`"
        ))),
        (Kind::Grid, None) if count > 2 => Err(Error::invalid(format!(
            "no spot of section {section} has a neighbour on a square array: in all of them row and column are both even \
             or both odd, as on Visium's hexagonal one; take `kind: hex`"
        ))),
        _ => Ok(()),
    }
}

/// Points in square cells, so that near ones are found without looking at all.
pub(crate) struct Cells<'a> {
    points: &'a [[f64; 2]],
    side: f64,
    cells: HashMap<(i64, i64), Vec<usize>>,
}

impl<'a> Cells<'a> {
    pub(crate) fn of(points: &'a [[f64; 2]], side: f64) -> Self {
        let mut cells: HashMap<(i64, i64), Vec<usize>> = HashMap::new();
        for (point, [x, y]) in points.iter().enumerate() {
            cells.entry(((x / side).floor() as i64, (y / side).floor() as i64)).or_default().push(point);
        }
        Self { points, side, cells }
    }

    /// Points in the cells up to `reach` away from a point's own.
    pub(crate) fn around(&self, point: usize, reach: i64) -> impl Iterator<Item = usize> {
        let [x, y] = self.points[point].map(|value| (value / self.side).floor() as i64);
        let cells = (x - reach..=x + reach).flat_map(move |x| (y - reach..=y + reach).map(move |y| (x, y)));
        cells.filter_map(|cell| self.cells.get(&cell)).flatten().copied().filter(move |&other| other != point)
    }

    fn distance(&self, a: usize, b: usize) -> f64 {
        let ([x, y], [u, v]) = (self.points[a], self.points[b]);
        (x - u).hypot(y - v)
    }

    fn within(&self, radius: f64) -> Vec<Vec<usize>> {
        let near =
            |point| self.around(point, 1).filter(|&other| self.distance(point, other) <= radius).collect();
        (0..self.points.len()).into_par_iter().map(near).collect()
    }
}

/// The `k` nearest of each point, of which there are more.
fn nearest(points: &[[f64; 2]], k: usize) -> Vec<Vec<usize>> {
    let extent = |axis: usize| {
        let values = points.iter().map(|point| point[axis]);
        values.clone().fold(f64::NEG_INFINITY, f64::max) - values.fold(f64::INFINITY, f64::min)
    };
    // About two points a cell, were they spread evenly.
    let area = extent(0).max(1e-9) * extent(1).max(1e-9);
    let longest = extent(0).max(extent(1)).max(1e-9);
    let side = (area / points.len() as f64 * 2.0).sqrt().max(longest / points.len() as f64);
    let cells = Cells::of(points, side);
    let most = (longest / side).ceil() as i64 + 1;
    (0..points.len())
        .into_par_iter()
        .map(|point| {
            let mut reach = 1;
            loop {
                // Whatever is nearer than this is in the cells that were looked at.
                let sure = reach as f64 * side;
                let mut near: Vec<(f64, usize)> =
                    cells.around(point, reach).map(|other| (cells.distance(point, other), other)).collect();
                near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                if near.get(k - 1).is_some_and(|(distance, _)| *distance < sure) || reach > most {
                    near.truncate(k);
                    break near.into_iter().map(|(_, other)| other).collect();
                }
                reach *= 2;
            }
        })
        .collect()
}

/// The distance of each point to its nearest other one; none of a single point.
pub(crate) fn nearest_distances(points: &[[f64; 2]]) -> Vec<f64> {
    if points.len() < 2 || points.iter().flatten().any(|value| !value.is_finite()) {
        return Vec::new();
    }
    let distance = |(point, near): (usize, Vec<usize>)| {
        let ([x, y], [u, v]) = (points[point], points[near[0]]);
        (x - u).hypot(y - v)
    };
    nearest(points, 1).into_iter().enumerate().map(distance).collect()
}

fn symmetrise(lists: &mut [Vec<usize>]) {
    let edges: Vec<(usize, usize)> = lists
        .iter()
        .enumerate()
        .flat_map(|(spot, near)| near.iter().map(move |&other| (other, spot)))
        .collect();
    edges.into_iter().for_each(|(spot, other)| lists[spot].push(other));
    for near in lists {
        near.sort_unstable();
        near.dedup();
    }
}

fn delaunay(points: &[[f64; 2]], section: &str) -> Result<Vec<Vec<usize>>> {
    let triangulation =
        delaunator::triangulate(&points.iter().map(|&[x, y]| delaunator::Point { x, y }).collect::<Vec<_>>());
    if triangulation.triangles.is_empty() && points.len() > 1 {
        return Err(Error::invalid(format!(
            "kind: delaunay finds no triangle among the {} spots of section {section}: they lie on one line",
            points.len()
        )));
    }
    let mut lists = vec![Vec::new(); points.len()];
    for triangle in triangulation.triangles.chunks_exact(3) {
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            lists[triangle[from]].push(triangle[to]);
            lists[triangle[to]].push(triangle[from]);
        }
    }
    for near in &mut lists {
        near.sort_unstable();
        near.dedup();
    }
    Ok(lists)
}
