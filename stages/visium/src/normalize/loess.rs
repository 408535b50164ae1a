//! Local regression of one variable, as the netlib `dloess` that R, scikit-misc and scanpy call computes it: degree 2,
//! tricube weights, interpolated between the vertices of a k-d tree by cubic Hermite polynomials.
//!
//! Cleveland & Grosse (1991), "Computational methods for local regression". The interpolation is no detail: computing the
//! curve directly at each gene moves it by some 1e-4, and genes at the cut with it. The tree's rules below are those of
//! the Fortran, found again by experiment: fitted values agree with scikit-misc 0.5.3 to 1e-12 on real sections.

use nalgebra::{DMatrix, DVector};

/// Cells of the tree hold at most this share of a vertex' neighbours.
const CELL: f64 = 0.2;
/// How far the outermost vertices lie beyond the data, in ranges of it.
const MARGIN: f64 = 0.005;

/// Fitted values at `x` of the regression of `y` on it over the nearest `span` of the points; `None` where there are too
/// few points or they do not vary.
pub(super) fn fit(x: &[f64], y: &[f64], span: f64) -> Option<Vec<f64>> {
    let n = x.len();
    let neighbours = ((n as f64 * span + 1e-5).floor() as usize).min(n);
    let mut sorted = x.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (*sorted.first()?, *sorted.last()?);
    if neighbours < 4 || low == high {
        return None;
    }
    let margin = MARGIN * (high - low).max(low.abs().max(high.abs()) * 1e-10 + 1e-30);
    let mut vertices = vec![low - margin, high + margin];
    let most = (n as f64 * span * CELL).floor() as usize;
    split(&sorted, 0, n - 1, most.max(1), (vertices[0], vertices[1]), &mut vertices);
    vertices.sort_by(f64::total_cmp);
    let fits: Vec<(f64, f64)> =
        vertices.iter().map(|&vertex| at_vertex(x, y, vertex, neighbours)).collect::<Option<_>>()?;
    Some(x.iter().map(|&x| interpolate(&vertices, &fits, x)).collect())
}

/// Cuts the points from `first` to `last` in halves while there are more than `most`; equal points stay together, so a
/// cut moves to the nearest place between two that differ.
fn split(
    sorted: &[f64],
    first: usize,
    last: usize,
    most: usize,
    bounds: (f64, f64),
    vertices: &mut Vec<f64>,
) {
    if last + 1 - first <= most {
        return;
    }
    let middle = (first + last + 2) / 2 - 1;
    let inside = |place: i64| place >= first as i64 && place < last as i64;
    // The middle, then one above, one below, two above, …: as long as that is inside.
    let places = (0_i64..).flat_map(|away| if away == 0 { vec![0] } else { vec![away, -away] });
    let found = places
        .map(|away| middle as i64 + away)
        .take_while(|&place| inside(place))
        .find(|&place| sorted[place as usize] != sorted[place as usize + 1]);
    let cut = found.map_or(middle, |place| place as usize);
    let vertex = sorted[cut];
    if vertex == bounds.0 || vertex == bounds.1 {
        return;
    }
    vertices.push(vertex);
    split(sorted, first, cut, most, (bounds.0, vertex), vertices);
    split(sorted, cut + 1, last, most, (vertex, bounds.1), vertices);
}

/// Value and slope at a vertex of the weighted quadratic through its neighbours.
fn at_vertex(x: &[f64], y: &[f64], vertex: f64, neighbours: usize) -> Option<(f64, f64)> {
    let mut distances: Vec<f64> = x.iter().map(|x| (x - vertex).abs()).collect();
    let (_, &mut reach, _) = distances.select_nth_unstable_by(neighbours - 1, f64::total_cmp);
    let weight = |away: f64| match away {
        away if away >= reach * 0.999 => 0.0,
        away if away <= reach * 0.001 => 1.0,
        away => (1.0 - (away / reach).powi(3)).powi(3),
    };
    let points: Vec<(f64, f64, f64)> = x
        .iter()
        .zip(y)
        .map(|(x, y)| (x - vertex, *y, weight((x - vertex).abs()).sqrt()))
        .filter(|&(_, _, root)| root > 0.0)
        .collect();
    // Distances in units of the reach: the three columns are of like size.
    let power = |row: usize, column: usize| (points[row].0 / reach).powi(column as i32) * points[row].2;
    let design = DMatrix::from_fn(points.len(), 3, power);
    let wanted = DVector::from_iterator(points.len(), points.iter().map(|(_, y, root)| y * root));
    if points.len() < 3 {
        return None;
    }
    let decomposed = design.qr();
    let projected = decomposed.q().transpose() * wanted;
    // Where the neighbours stand in fewer than three places, the shortest of the solutions.
    let solution = decomposed.r().svd(true, true).solve(&projected, 1e-12).ok()?;
    Some((solution[0], solution[1] / reach))
}

fn interpolate(vertices: &[f64], fits: &[(f64, f64)], x: f64) -> f64 {
    let cell = (vertices.partition_point(|&vertex| vertex <= x)).clamp(1, vertices.len() - 1) - 1;
    let width = vertices[cell + 1] - vertices[cell];
    let t = (x - vertices[cell]) / width;
    let (left, right) = (fits[cell], fits[cell + 1]);
    let values = (1.0 - t).powi(2) * (1.0 + 2.0 * t) * left.0 + t * t * (3.0 - 2.0 * t) * right.0;
    values + width * (t * (1.0 - t).powi(2) * left.1 - t * t * (1.0 - t) * right.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parabola_is_its_own_fit() {
        let x: Vec<f64> = (0..200).map(|i| f64::from(i) / 50.0).collect();
        let y: Vec<f64> = x.iter().map(|x| 1.0 - 2.0 * x + 0.5 * x * x).collect();
        for (found, wanted) in fit(&x, &y, 0.3).unwrap().iter().zip(&y) {
            assert!((found - wanted).abs() < 1e-9);
        }
    }

    /// skmisc.loess 0.5.3: `loess(x, y, span=.3, degree=2)` of x = (i * i % 97) / 9 rounded, y = sin(x) + x / 3.
    #[test]
    fn tied_points_are_fitted_as_scikit_misc_fits_them() {
        let x: Vec<f64> =
            (0..300_i32).map(|i| f64::from(i * i % 97) / 9.0).map(|x| (x * 4.0).round() / 4.0).collect();
        let y: Vec<f64> = x.iter().map(|x| x.sin() + x / 3.0).collect();
        let fitted = fit(&x, &y, 0.3).unwrap();
        for (place, wanted) in SCIKIT_MISC {
            assert!((fitted[place] - wanted).abs() < 1e-9, "{place}: {} is not {wanted}", fitted[place]);
        }
    }

    const SCIKIT_MISC: [(usize, f64); 10] = [
        (0, -0.0192990789809474),
        (1, -0.0192990789809474),
        (2, 0.669086963841567),
        (5, 1.29218923073378),
        (10, 0.347506639905512),
        (33, 1.4189414804386),
        (77, 1.35655156443535),
        (120, 0.722780519509576),
        (201, 1.13118070082046),
        (299, 2.99254118193319),
    ];

    #[test]
    fn what_cannot_be_fitted_is_none() {
        assert_eq!(fit(&[], &[], 0.3), None);
        assert_eq!(fit(&[1.0; 50], &[2.0; 50], 0.3), None);
        assert_eq!(fit(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0], 0.3), None);
    }
}
