//! Stripes of a section: where there is one labelled section only, some of its stripes are tested on, others trained on, with a
//! gap between them, so that no test spot has a neighbour that trained.

use std::collections::{BTreeSet, HashMap, HashSet};

use restage_stage::{
    Error, Result,
    artifact::{self, Labels, Role, Table},
};

use super::Params;

/// The role of every spot. Sections without a label train as a whole; the others are cut into stripes from left to right, of as
/// many spots each; training spots too near to a stripe that is tested on have no role.
pub(super) fn assign(table: &Table, labels: &[Labels], params: &Params) -> Result<artifact::Split> {
    let all: BTreeSet<String> = (1..=params.stripes).map(|stripe| stripe.to_string()).collect();
    if let Some(unknown) = params.test.0.iter().find(|name| !all.contains(*name)) {
        return Err(Error::invalid(format!(
            "`test` names stripe `{unknown}`; with `stripes: {0}` they are 1 to {0}",
            params.stripes
        )));
    }
    if params.test.0.len() == all.len() {
        return Err(Error::invalid("`test` holds out every stripe: leave at least one to train on"));
    }
    let labelled: HashSet<&str> = labels
        .iter()
        .flat_map(|labels| labels.spots.iter().zip(&labels.regions))
        .filter_map(|(spot, region)| region.as_ref().map(|_| spot.as_str()))
        .collect();
    let mut sections: HashMap<&str, Vec<usize>> = HashMap::new();
    for spot in 0..table.n_spots() {
        let section = table.section(spot).ok_or_else(|| {
            Error::invalid(format!(
                "spot `{}` has no section: set it where the section is loaded",
                table.obs.index[spot]
            ))
        })?;
        sections.entry(section).or_default().push(spot);
    }
    let mut roles = vec![Some(Role::Train); table.n_spots()];
    for (section, spots) in sections {
        if spots.iter().any(|&spot| labelled.contains(table.obs.index[spot].as_str())) {
            let places: Vec<[f64; 2]> = spots.iter().map(|&spot| table.spatial[spot]).collect();
            let of_section = cut(&places, params).ok_or_else(|| {
                Error::invalid(format!(
                    "section {section} has too few places of spots to cut it into {} stripes",
                    params.stripes
                ))
            })?;
            spots.iter().zip(of_section).for_each(|(&spot, role)| roles[spot] = role);
        }
    }
    let kept = roles.iter().zip(&table.obs.index).filter_map(|(role, spot)| Some((spot.clone(), (*role)?)));
    let (spots, roles) = kept.unzip();
    Ok(artifact::Split { spots, roles })
}

/// The roles of a section's spots; nothing where they do not make so many stripes.
fn cut(places: &[[f64; 2]], params: &Params) -> Option<Vec<Option<Role>>> {
    let mut sorted: Vec<f64> = places.iter().map(|place| place[0]).collect();
    sorted.sort_by(f64::total_cmp);
    // By place, not by rank: spots of one column are of one stripe.
    let ends: Vec<f64> =
        (1..params.stripes).map(|stripe| sorted[stripe * sorted.len() / params.stripes]).collect();
    let stripe = |x: f64| ends.partition_point(|end| *end <= x);
    let is_test = |x: f64| params.test.0.contains(&(stripe(x) + 1).to_string());
    let used: HashSet<usize> = sorted.iter().map(|x| stripe(*x)).collect();
    if used.len() < params.stripes {
        return None;
    }
    let gap = params.buffer * pitch(places)?;
    let tested: Vec<f64> = sorted.into_iter().filter(|x| is_test(*x)).collect();
    let is_near = |x: f64| {
        let at = tested.partition_point(|tested| *tested < x);
        let around = [at.checked_sub(1), Some(at)].into_iter().flatten();
        around.filter_map(|at| tested.get(at)).any(|tested| (tested - x).abs() < gap)
    };
    let role = |place: &[f64; 2]| match place[0] {
        x if is_test(x) => Some(Role::Test),
        x if is_near(x) => None,
        _ => Some(Role::Train),
    };
    Some(places.iter().map(role).collect())
}

/// The median distance from a spot to the nearest; nothing of fewer than two.
fn pitch(places: &[[f64; 2]]) -> Option<f64> {
    let mut sorted = places.to_vec();
    sorted.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let distance = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).hypot(a[1] - b[1]);
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
