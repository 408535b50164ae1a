//! Parts of a section: where there is one labelled section only, or what is asked for is a new region of a known section, some
//! of its stripes, blocks or cells are tested on, others trained on, with a gap between them, so that no test spot has a neighbour
//! that trained.

use std::collections::HashSet;

use restage_stage::{
    Error, Result,
    artifact::{Labels, Table},
};

use super::{Params, Side, Unit};
use crate::coordinates::{check_places, sections};

/// The side of every spot. Sections without a label train as a whole; the others are cut into parts; training spots too near
/// to a part that is tested on are on no side, those too near to one that is validated on lose their label.
pub(super) fn assign(table: &Table, labels: &[Labels], params: &Params) -> Result<Vec<Side>> {
    let side_of = params.sides_of_numbers()?;
    check_places(table)?;
    let labelled: HashSet<&str> = labels
        .iter()
        .flat_map(|labels| labels.spots.iter().zip(&labels.regions))
        .filter_map(|(spot, region)| region.as_ref().map(|_| spot.as_str()))
        .collect();
    let is_labelled = |spot: usize| labelled.contains(table.obs.index[spot].as_str());
    let mut sides = vec![Side::Train; table.n_spots()];
    let mut labels_of = vec![0; side_of.len()];
    for (section, spots) in sections(table)? {
        if spots.iter().any(|&spot| is_labelled(spot)) {
            let places: Vec<[f64; 2]> = spots.iter().map(|&spot| table.spatial[spot]).collect();
            let Some((parts, of_section)) = cut(&places, params, &side_of) else {
                return Err(Error::invalid(format!(
                    "section {section} has too few places of spots to cut it into {} {}s",
                    side_of.len(),
                    params.by.name()
                )));
            };
            for ((&spot, part), side) in spots.iter().zip(parts).zip(of_section) {
                sides[spot] = side;
                labels_of[part] += usize::from(is_labelled(spot));
            }
        }
    }
    if params.by == Unit::Grid {
        refuse_nearly_empty(&labels_of, &side_of, params)?;
    }
    Ok(sides)
}

/// Refuses a test, or a validation, on cells without labels, or of so few spots that it says nothing: where tissue is ragged that is
/// easily asked for.
fn refuse_nearly_empty(labels_of: &[usize], side_of: &[Side], params: &Params) -> Result<()> {
    let held_out = |side: Side| (0..side_of.len()).filter(move |&cell| side_of[cell] == side);
    for (param, side) in [("test", Side::Test), ("validation", Side::Validation)] {
        let empty = held_out(side).find(|&cell| labels_of[cell] == 0);
        let spots: usize = held_out(side).map(|cell| labels_of[cell]).sum();
        let problem = match empty {
            Some(cell) => format!("`{param}` names cell {}, in which no spot has a region", cell + 1),
            None if held_out(side).next().is_some() && spots < params.min_spots => {
                format!(
                    "the cells of `{param}` have {spots} spots with a region: `min_spots` asks for {}",
                    params.min_spots
                )
            }
            None => continue,
        };
        let enough = (0..labels_of.len()).filter(|&cell| labels_of[cell] >= params.min_spots.max(1));
        let enough: Vec<String> =
            enough.map(|cell| format!("{} ({} spots)", cell + 1, labels_of[cell])).collect();
        return Err(Error::invalid(format!(
            "{problem}. Of `grid: {:?}` these have enough: {}. Name one of them, list a small cell together with those beside it, or \
             choose a coarser grid",
            params.grid,
            if enough.is_empty() { "none".to_owned() } else { enough.join(", ") }
        )));
    }
    Ok(())
}

/// The part and the side of each of a section's spots; nothing where they do not make so many parts.
fn cut(places: &[[f64; 2]], params: &Params, side_of: &[Side]) -> Option<(Vec<usize>, Vec<Side>)> {
    let is_stripes = params.by == Unit::Stripes;
    let parts = match params.by {
        Unit::Stripes => stripes(places, side_of.len())?,
        Unit::Grid => cells(places, params.grid)?,
        _ => blocks(places, side_of.len())?,
    };
    let gap = params.buffer * pitch(places)?;
    // The gap beside a stripe is measured across it.
    let places: Vec<[f64; 2]> =
        places.iter().map(|&[x, y]| if is_stripes { [x, 0.0] } else { [x, y] }).collect();
    let sides: Vec<Side> = parts.iter().map(|&part| side_of[part]).collect();
    let near = |held_out: Side| {
        let of_it = sides.iter().zip(&places).filter(|(side, _)| **side == held_out);
        Near::new(of_it.map(|(_, place)| *place).collect())
    };
    let (test, validation) = (near(Side::Test), near(Side::Validation));
    let side = |(side, place): (&Side, &[f64; 2])| match side {
        Side::Test => Side::Test,
        _ if test.is_within(*place, gap) => Side::Out,
        Side::Train if validation.is_within(*place, gap) => Side::Beside,
        other => *other,
    };
    let sides = sides.iter().zip(&places).map(side).collect();
    Some((parts, sides))
}

/// From left to right, of as many spots each; spots of one column are of one stripe.
fn stripes(places: &[[f64; 2]], count: usize) -> Option<Vec<usize>> {
    let mut sorted: Vec<f64> = places.iter().map(|place| place[0]).collect();
    sorted.sort_by(f64::total_cmp);
    let ends: Vec<f64> = (1..count).map(|stripe| sorted[stripe * sorted.len() / count]).collect();
    let parts: Vec<usize> = places.iter().map(|place| ends.partition_point(|end| *end <= place[0])).collect();
    are_all_used(&parts, count).then_some(parts)
}

/// Cells of one size over the extent of the places, numbered row by row from the top left; nothing where that has no width or no
/// height to be cut.
fn cells(places: &[[f64; 2]], [rows, columns]: [usize; 2]) -> Option<Vec<usize>> {
    let along = |axis: usize, count: usize| {
        let (least, most) = extent(places.iter().map(|place| place[axis]));
        // The last cell has its far edge as well.
        let cell = |place: &[f64; 2]| ((place[axis] - least) / (most - least) * count as f64) as usize;
        (count == 1 || most > least)
            .then(|| places.iter().map(|place| cell(place).min(count - 1)).collect::<Vec<_>>())
    };
    let (row, column) = (along(1, rows)?, along(0, columns)?);
    Some(row.into_iter().zip(column).map(|(row, column)| row * columns + column).collect())
}

/// The least and the largest of some values.
fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)))
}

/// Blocks by k-means on the places, from a start that cuts them into parts of as many spots each; numbered by their centres
/// from left to right.
fn blocks(places: &[[f64; 2]], count: usize) -> Option<Vec<usize>> {
    if places.len() < count {
        return None;
    }
    let mut parts = vec![0; places.len()];
    bisect(places, &mut (0..places.len()).collect::<Vec<_>>(), 0, count, &mut parts);
    // As good as settled long before; a bound all the same.
    for _ in 0..300 {
        let centres = centres(places, &parts, count)?;
        let nearest = |place: &[f64; 2]| {
            (1..count).fold(0, |best, part| {
                if distance(*place, centres[part]) < distance(*place, centres[best]) { part } else { best }
            })
        };
        let next: Vec<usize> = places.iter().map(nearest).collect();
        if next == parts {
            break;
        }
        parts = next;
    }
    let centres = centres(places, &parts, count)?;
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&a, &b| {
        centres[a][0].total_cmp(&centres[b][0]).then(centres[a][1].total_cmp(&centres[b][1]))
    });
    let mut number = vec![0; count];
    order.into_iter().enumerate().for_each(|(at, part)| number[part] = at);
    Some(parts.into_iter().map(|part| number[part]).collect())
}

/// Cuts spots into parts of as many each, always across the longer side.
fn bisect(places: &[[f64; 2]], spots: &mut [usize], first: usize, count: usize, parts: &mut [usize]) {
    if count == 1 {
        spots.iter().for_each(|&spot| parts[spot] = first);
        return;
    }
    let length = |axis: usize| {
        let (least, most) = extent(spots.iter().map(|&spot| places[spot][axis]));
        most - least
    };
    let axis = usize::from(length(1) > length(0));
    spots.sort_by(|&a, &b| {
        let by = |axis: usize| places[a][axis].total_cmp(&places[b][axis]);
        by(axis).then(by(1 - axis)).then(a.cmp(&b))
    });
    let left = count / 2;
    let (low, high) = spots.split_at_mut(spots.len() * left / count);
    bisect(places, low, first, left, parts);
    bisect(places, high, first + left, count - left, parts);
}

/// The mean place of each part; nothing where one has no spot.
fn centres(places: &[[f64; 2]], parts: &[usize], count: usize) -> Option<Vec<[f64; 2]>> {
    let mut sums = vec![([0.0; 2], 0_usize); count];
    for (place, &part) in places.iter().zip(parts) {
        let (sum, spots) = &mut sums[part];
        *sum = [sum[0] + place[0], sum[1] + place[1]];
        *spots += 1;
    }
    let mean = |(sum, spots): ([f64; 2], usize)| (spots > 0).then(|| sum.map(|sum| sum / spots as f64));
    sums.into_iter().map(mean).collect()
}

fn are_all_used(parts: &[usize], count: usize) -> bool {
    parts.iter().collect::<HashSet<_>>().len() == count
}

fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// Places, to ask which others are near to one of them.
struct Near(Vec<[f64; 2]>);

impl Near {
    fn new(mut places: Vec<[f64; 2]>) -> Self {
        places.sort_by(|a, b| a[0].total_cmp(&b[0]));
        Self(places)
    }

    /// Whether one of them is nearer than `gap`.
    fn is_within(&self, place: [f64; 2], gap: f64) -> bool {
        let first = self.0.partition_point(|other| other[0] <= place[0] - gap);
        let beside = self.0[first..].iter().take_while(|other| other[0] < place[0] + gap);
        beside.into_iter().any(|other| distance(*other, place) < gap)
    }
}

/// The median distance from a spot to the nearest; nothing of fewer than two.
pub(crate) fn pitch(places: &[[f64; 2]]) -> Option<f64> {
    let mut sorted = places.to_vec();
    sorted.sort_by(|a, b| a[0].total_cmp(&b[0]));
    // Away from a spot on one side, until they are farther in x alone.
    let side = |least: f64, at: usize, others: &mut dyn Iterator<Item = &[f64; 2]>| {
        let mut least = least;
        for other in others {
            if (other[0] - sorted[at][0]).abs() >= least {
                break;
            }
            least = least.min(distance(*other, sorted[at]));
        }
        least
    };
    let nearest = |at: usize| {
        let left = side(f64::INFINITY, at, &mut sorted[..at].iter().rev());
        side(left, at, &mut sorted[at + 1..].iter())
    };
    let mut distances: Vec<f64> =
        (0..sorted.len()).map(nearest).filter(|distance| distance.is_finite()).collect();
    let middle = distances.len() / 2;
    (distances.len() > 1).then(|| *distances.select_nth_unstable_by(middle, f64::total_cmp).1)
}
