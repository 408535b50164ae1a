//! Stage type `visium/patches`: one image crop per spot.

use std::collections::BTreeMap;

use image::{RgbImage, imageops};
use rayon::prelude::*;
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Image, Patches, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The stage type.
pub(crate) struct MakePatches;

/// Params of `visium/patches`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Side of a crop in pixels of the image. Default 32.
    pub(crate) size: usize,
    /// Side in pixels that crops are scaled to (bilinear); null = they stay as they are. Default null.
    pub(crate) resize: Option<usize>,
    /// What to do with a crop that leaves the image. Default `reflect`.
    pub(crate) edge: Edge,
}

/// What happens to a crop that leaves the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Edge {
    /// What is missing is mirrored at the image's edge.
    Reflect,
    /// What is missing is white, like an empty slide.
    White,
    /// The spot is left out.
    Drop,
}

impl Default for Params {
    fn default() -> Self {
        Self { size: 32, resize: None, edge: Edge::Reflect }
    }
}

/// Side in pixels that nobody's crop exceeds.
const LARGEST: usize = 4096;

impl Stage for MakePatches {
    const NAME: &'static str = "patches";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Cuts one square crop per spot from its section's image: `size` pixels wide, with the pixel that the \
             spot's centre lies in at row and column size / 2. Spots of sections without an image are left out.",
        )
        .many::<Image>("images", "The image of each section.")
        .input::<Table>("table", "The spots, with coordinates and `section`.")
        .output::<Patches>("patches", "One crop per spot.")
    }

    fn validate(params: &Params) -> Result<()> {
        let sides = [Some(params.size), params.resize];
        if sides.into_iter().flatten().any(|side| !(1..=LARGEST).contains(&side)) {
            return Err(Error::invalid(format!("size and resize should be from 1 to {LARGEST} pixels")));
        }
        Ok(())
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let table: Table = ctx.read("table")?;
        let images = by_section(ctx.read_all("images")?)?;
        let centres = centres(&table, &images)?;
        let without = table.n_spots() - centres.len();
        if without > 0 {
            tracing::warn!("{without} of {} spots have no image and are left out", table.n_spots());
        }
        ctx.check_cancelled()?;
        let overlap = mean_overlap(&centres, params.size);
        if overlap > 0.0 {
            tracing::info!(
                "a patch shares {:.0} % of its area with its nearest neighbour's: spots that touch must not be split \
                 between training and test",
                100.0 * overlap
            );
        }
        ctx.write("patches", &cut(&table, &centres, &params))
    }
}

/// Where a spot's crop comes from.
struct Centre<'a> {
    /// The spot's position in the table.
    spot: usize,
    image: &'a Image,
    /// Column of the pixel that the spot's centre lies in; may lie outside the image.
    x: i64,
    /// Its row.
    y: i64,
}

fn by_section(images: Vec<Image>) -> Result<BTreeMap<String, Image>> {
    let mut sections = BTreeMap::new();
    for image in images {
        if let Some(twin) = sections.insert(image.section.clone(), image) {
            return Err(Error::invalid(format!(
                "section {} has two images; connect one of them",
                twin.section
            )));
        }
    }
    Ok(sections)
}

/// The centres of all spots whose section has an image, in the table's order.
fn centres<'a>(table: &Table, images: &'a BTreeMap<String, Image>) -> Result<Vec<Centre<'a>>> {
    let sections = table.obs.categorical("section")?;
    let mut centres = Vec::with_capacity(table.n_spots());
    for (spot, section) in sections.iter().enumerate() {
        let image = section.and_then(|section| images.get(section)).filter(|image| !image.is_empty());
        let Some(image) = image else { continue };
        let [x, y] = table.spatial[spot].map(|coordinate| (coordinate * image.scale).floor());
        if !(x.is_finite() && y.is_finite()) {
            return Err(Error::invalid(format!(
                "spot {} has no coordinates; leave it out before",
                table.obs.index[spot]
            )));
        }
        centres.push(Centre { spot, image, x: x as i64, y: y as i64 });
    }
    Ok(centres)
}

/// The crops, in the order of their centres.
fn cut(table: &Table, centres: &[Centre], params: &Params) -> Patches {
    let inside: Vec<&Centre> = centres
        .iter()
        .filter(|centre| params.edge != Edge::Drop || lies_inside(centre, params.size))
        .collect();
    if inside.len() < centres.len() {
        tracing::warn!("{} crops leave their image: their spots are left out", centres.len() - inside.len());
    }
    let size = params.resize.unwrap_or(params.size);
    let bytes = size * size * 3;
    let mut pixels = vec![0; inside.len() * bytes];
    pixels
        .par_chunks_exact_mut(bytes)
        .zip(&inside)
        .for_each(|(patch, centre)| patch.copy_from_slice(&resized(crop(centre, params), params)));
    Patches {
        spots: inside.iter().map(|centre| table.obs.index[centre.spot].clone()).collect(),
        size,
        pixels,
    }
}

/// First row or column of a crop.
fn start(centre: i64, size: usize) -> i64 {
    centre - (size / 2) as i64
}

fn lies_inside(centre: &Centre, size: usize) -> bool {
    let fits =
        |centre, length| start(centre, size) >= 0 && start(centre, size) + size as i64 <= length as i64;
    fits(centre.x, centre.image.width) && fits(centre.y, centre.image.height)
}

fn crop(centre: &Centre, params: &Params) -> RgbImage {
    let image = centre.image;
    let (left, top) = (start(centre.x, params.size), start(centre.y, params.size));
    let place = |position, length| match params.edge {
        Edge::White => usize::try_from(position).ok().filter(|&position| position < length),
        Edge::Reflect | Edge::Drop => Some(reflect(position, length)),
    };
    RgbImage::from_fn(params.size as u32, params.size as u32, |column, row| {
        let row = place(top + i64::from(row), image.height);
        let column = place(left + i64::from(column), image.width);
        image::Rgb(match (row, column) {
            (Some(row), Some(column)) => {
                let first = (row * image.width + column) * 3;
                [image.pixels[first], image.pixels[first + 1], image.pixels[first + 2]]
            }
            _ => [255; 3],
        })
    })
}

/// The place inside `0..length` that `position` mirrors to; the pixel at the edge is not repeated.
fn reflect(position: i64, length: usize) -> usize {
    let last = length as i64 - 1;
    if last <= 0 {
        return 0;
    }
    let place = position.rem_euclid(2 * last);
    place.min(2 * last - place) as usize
}

fn resized(crop: RgbImage, params: &Params) -> Vec<u8> {
    match params.resize.filter(|&side| side != params.size) {
        None => crop.into_raw(),
        Some(side) => {
            imageops::resize(&crop, side as u32, side as u32, imageops::FilterType::Triangle).into_raw()
        }
    }
}

/// How much of its area a crop shares with its nearest neighbour's of the same image, on average; 0 of none.
fn mean_overlap(centres: &[Centre], size: usize) -> f64 {
    let shared = |a: i64, b: i64| (size as i64 - (a - b).abs()).max(0) as f64 / size as f64;
    let overlaps: Vec<f64> = centres
        .par_iter()
        .map(|centre| {
            centres
                .iter()
                .filter(|other| other.spot != centre.spot && other.image.section == centre.image.section)
                .map(|other| shared(centre.x, other.x) * shared(centre.y, other.y))
                .fold(0.0, f64::max)
        })
        .collect();
    overlaps.iter().sum::<f64>() / overlaps.len().max(1) as f64
}

#[cfg(test)]
pub(crate) use tests::of_one;

#[cfg(test)]
mod tests;
