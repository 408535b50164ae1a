//! Stage type `visium/patches`: one image crop per spot.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use image::{RgbImage, imageops};
use rayon::prelude::*;
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Image, ImageFile, Patches, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::graph::{Cells, nearest_distances};

/// The stage type.
pub(crate) struct MakePatches;

/// Params of `visium/patches`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Side of a crop in pixels of the image. Default 32.
    pub(crate) size: usize,
    /// Side of a crop in µm, instead of `size`; needs `resize`, as sections then differ in pixels. What a µm is, the
    /// distance between the spots says, not the file's spot diameter. Default null.
    pub(crate) size_um: Option<f64>,
    /// For `size_um`: µm between neighbouring spots: 100 of Visium (default), 200 of legacy Spatial Transcriptomics.
    pub(crate) pitch_um: f64,
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
        Self { size: 32, size_um: None, pitch_um: 100.0, resize: None, edge: Edge::Reflect }
    }
}

/// Side in pixels that nobody's crop exceeds.
const LARGEST: usize = 4096;
/// The share of its area that a patch may have in common with a neighbour before everybody is told.
const MUCH: f64 = 0.1;

impl Stage for MakePatches {
    const NAME: &'static str = "patches";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Cuts one square crop per spot from its section's image: `size` pixels wide, with the pixel that the \
             spot's centre lies in at row and column size / 2. Spots of sections without an image are left out. The \
             log and the metrics say how many spots lie outside, and how much of its area a crop shares with its \
             nearest neighbour's.",
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
        if params.size_um.is_some_and(|size| !(size.is_finite() && size > 0.0))
            || params.pitch_um.is_nan()
            || params.pitch_um <= 0.0
        {
            return Err(Error::invalid("size_um and pitch_um should be above 0"));
        }
        if params.size_um.is_some() && params.resize.is_none() {
            return Err(Error::invalid("size_um needs `resize`: a µm has other pixels in each section"));
        }
        Ok(())
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let table: Table = ctx.read("table")?;
        ctx.named_only("table");
        let files =
            ctx.inputs("images").iter().map(|path| ImageFile::open(path)).collect::<Result<Vec<_>>>()?;
        let images = by_section(files.iter().map(|file| file.about.clone()).collect())?;
        let centres = centres(&table, &images, &params)?;
        let without = table.n_spots() - centres.len();
        if without > 0 {
            tracing::warn!("{without} of {} spots have no image and are left out", table.n_spots());
        }
        let outside = centres.iter().filter(|centre| !has_pixel(centre)).count();
        if outside > 0 {
            tracing::warn!(
                "{outside} of {} spots lie outside their image: is it another section's, or are the scale factors?",
                table.n_spots()
            );
        }
        ctx.check_cancelled()?;
        let overlap = mean_overlap(&centres);
        let shared = format!(
            "a patch shares {:.0} % of its area with its nearest neighbour's: spots that touch must not be split between \
             training and test",
            100.0 * overlap
        );
        match overlap {
            MUCH.. => tracing::warn!("{shared}"),
            0.0 => {}
            _ => tracing::info!("{shared}"),
        }
        let rows =
            |section: &str, rows: Range<usize>| match files.iter().find(|file| file.about.section == section)
            {
                Some(file) => {
                    ctx.check_cancelled()?;
                    file.rows(rows)
                }
                None => Ok(Vec::new()),
            };
        let patches = cut(&table, &centres, &params, &rows)?;
        let values = [
            ("spots", table.n_spots()),
            ("spots_without_image", without),
            ("spots_outside_image", outside),
            ("crops_leaving_image", centres.iter().filter(|centre| !lies_inside(centre)).count()),
            ("patches", patches.spots.len()),
        ];
        values.into_iter().for_each(|(name, value)| ctx.metric(name, 0, value as f64));
        ctx.metric("mean_overlap", 0, overlap);
        ctx.write("patches", &patches)?;
        let side: HashMap<&str, f32> = centres
            .iter()
            .map(|centre| {
                (table.obs.index[centre.spot].as_str(), (centre.size as f64 / centre.image.scale) as f32)
            })
            .collect();
        let sides: Vec<f32> = patches.spots.iter().map(|spot| side[spot.as_str()]).collect();
        Patches::write_sides(ctx.output("patches")?, &sides)
    }
}

/// Where a spot's crop comes from.
struct Centre<'a> {
    /// The spot's position in the table.
    spot: usize,
    /// The image; its pixels need not be in memory.
    image: &'a Image,
    /// Column of the pixel that the spot's centre lies in; may lie outside the image.
    x: i64,
    /// Its row.
    y: i64,
    /// Side of the crop in pixels of the image.
    size: usize,
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

/// The crops of images that are in memory.
pub(crate) fn of_images(table: &Table, images: Vec<Image>, params: &Params) -> Result<Patches> {
    let images = by_section(images)?;
    let rows = |section: &str, rows: Range<usize>| {
        let bytes =
            |image: &Image| image.pixels[rows.start * image.width * 3..rows.end * image.width * 3].to_vec();
        Ok(images.get(section).map(bytes).unwrap_or_default())
    };
    cut(table, &centres(table, &images, params)?, params, &rows)
}

/// The centres of all spots whose section has an image, in the table's order.
fn centres<'a>(
    table: &Table,
    images: &'a BTreeMap<String, Image>,
    params: &Params,
) -> Result<Vec<Centre<'a>>> {
    let sections = table.obs.categorical("section")?;
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for (section, image) in images.iter().filter(|(_, image)| image.height * image.width > 0) {
        let spots = (0..table.n_spots()).filter(|&spot| sections.get(spot) == Some(section.as_str()));
        sizes.insert(
            section,
            side(&spots.map(|spot| table.spatial[spot]).collect::<Vec<_>>(), image, params)?,
        );
    }
    let mut centres = Vec::with_capacity(table.n_spots());
    for (spot, section) in sections.iter().enumerate() {
        let Some((section, &size)) = section.and_then(|section| sizes.get_key_value(section)) else {
            continue;
        };
        let image = &images[*section];
        let [x, y] = table.spatial[spot].map(|coordinate| (coordinate * image.scale).floor());
        if !(x.is_finite() && y.is_finite()) {
            return Err(Error::invalid(format!(
                "spot {} has no coordinates; leave it out before",
                table.obs.index[spot]
            )));
        }
        centres.push(Centre { spot, image, x: x as i64, y: y as i64, size });
    }
    Ok(centres)
}

/// Side of a section's crops in pixels of its image.
fn side(spatial: &[[f64; 2]], image: &Image, params: &Params) -> Result<usize> {
    let Some(size_um) = params.size_um else { return Ok(params.size) };
    let section = &image.section;
    let mut distances = nearest_distances(spatial);
    let pitch = crate::quantile::median(&mut distances);
    if !(pitch.is_finite() && pitch > 0.0) {
        return Err(Error::invalid(format!(
            "section {section} has too few spots to tell what a µm is; give `size` in pixels"
        )));
    }
    let side = (size_um / params.pitch_um * pitch * image.scale).round();
    if (1.0..=LARGEST as f64).contains(&side) {
        tracing::info!("{section}: {size_um} µm are {side} pixels");
        return Ok(side as usize);
    }
    Err(Error::invalid(format!(
        "size_um: {size_um} are {side} pixels of section {section}; they should be from 1 to {LARGEST}"
    )))
}

/// The pixels of some rows of a section's image.
type ReadRows<'a> = dyn Fn(&str, Range<usize>) -> Result<Vec<u8>> + Sync + 'a;

/// How many bytes of an image are in memory at a time, unless one crop's rows have more.
const WINDOW_BYTES: usize = 1 << 26;

/// Some rows of an image.
struct Window {
    first: usize,
    pixels: Vec<u8>,
}

/// The crops, in the order of their centres. Images are read from the top, a window of rows at a time.
fn cut(table: &Table, centres: &[Centre], params: &Params, read: &ReadRows) -> Result<Patches> {
    let inside: Vec<&Centre> =
        centres.iter().filter(|centre| params.edge != Edge::Drop || lies_inside(centre)).collect();
    if inside.len() < centres.len() {
        tracing::warn!("{} crops leave their image: their spots are left out", centres.len() - inside.len());
    }
    let size = params.resize.unwrap_or(params.size);
    let bytes = size * size * 3;
    let mut pixels = vec![0; inside.len() * bytes];
    let mut jobs: Vec<(&Centre, Range<usize>, &mut [u8])> = inside
        .iter()
        .zip(pixels.chunks_exact_mut(bytes))
        .map(|(centre, patch)| (*centre, rows_of(centre, params), patch))
        .collect();
    jobs.sort_by(|(a, a_rows, _), (b, b_rows, _)| {
        (&a.image.section, a_rows.start).cmp(&(&b.image.section, b_rows.start))
    });
    let mut rest = jobs.as_mut_slice();
    while let Some((first, rows, _)) = rest.first() {
        let (image, mut rows) = (first.image, rows.clone());
        let most = (WINDOW_BYTES / (image.width * 3)).max(rows.len());
        let mut count = 0;
        for (centre, needed, _) in rest.iter() {
            let joined = rows.start..rows.end.max(needed.end);
            if centre.image.section != image.section || joined.len() > most.max(needed.len()) {
                break;
            }
            rows = joined;
            count += 1;
        }
        let window = Window { first: rows.start, pixels: read(&image.section, rows)? };
        let (now, later) = rest.split_at_mut(count);
        now.par_iter_mut().for_each(|(centre, _, patch)| {
            patch.copy_from_slice(&resized(crop(centre, &window, params), size));
        });
        rest = later;
    }
    Ok(Patches {
        spots: inside.iter().map(|centre| table.obs.index[centre.spot].clone()).collect(),
        size,
        pixels,
    })
}

/// The rows of the image that a crop has pixels of.
fn rows_of(centre: &Centre, params: &Params) -> Range<usize> {
    let top = start(centre.y, centre.size);
    let rows = (top..top + centre.size as i64).filter_map(|row| place(row, centre.image.height, params.edge));
    let first = rows.clone().min().unwrap_or(0);
    first..rows.max().map_or(first, |last| last + 1)
}

/// Where a row or column of a crop lies in an image of `length`; nowhere where it is white.
fn place(position: i64, length: usize, edge: Edge) -> Option<usize> {
    match edge {
        Edge::White => usize::try_from(position).ok().filter(|&position| position < length),
        Edge::Reflect | Edge::Drop => Some(reflect(position, length)),
    }
}

/// First row or column of a crop.
fn start(centre: i64, size: usize) -> i64 {
    centre - (size / 2) as i64
}

fn lies_inside(centre: &Centre) -> bool {
    let size = centre.size;
    let fits =
        |centre, length| start(centre, size) >= 0 && start(centre, size) + size as i64 <= length as i64;
    fits(centre.x, centre.image.width) && fits(centre.y, centre.image.height)
}

/// Whether the spot's centre lies in the image.
fn has_pixel(centre: &Centre) -> bool {
    let inside = |place: i64, length: usize| (0..length as i64).contains(&place);
    inside(centre.x, centre.image.width) && inside(centre.y, centre.image.height)
}

fn crop(centre: &Centre, window: &Window, params: &Params) -> RgbImage {
    let (image, size) = (centre.image, centre.size);
    let (left, top) = (start(centre.x, size), start(centre.y, size));
    if lies_inside(centre) {
        let (left, top) = (left as usize, top as usize - window.first);
        let row = |row: usize| &window.pixels[((top + row) * image.width + left) * 3..][..size * 3];
        let pixels = (0..size).map(row).collect::<Vec<_>>().concat();
        return RgbImage::from_raw(size as u32, size as u32, pixels).unwrap_or_default();
    }
    let columns: Vec<Option<usize>> =
        (left..left + size as i64).map(|column| place(column, image.width, params.edge)).collect();
    RgbImage::from_fn(size as u32, size as u32, |column, row| {
        let row = place(top + i64::from(row), image.height, params.edge);
        image::Rgb(match (row, columns[column as usize]) {
            (Some(row), Some(column)) => {
                let first = ((row - window.first) * image.width + column) * 3;
                [window.pixels[first], window.pixels[first + 1], window.pixels[first + 2]]
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

fn resized(crop: RgbImage, side: usize) -> Vec<u8> {
    if crop.width() as usize == side {
        return crop.into_raw();
    }
    imageops::resize(&crop, side as u32, side as u32, imageops::FilterType::Triangle).into_raw()
}

/// How much of its area a crop shares with its nearest neighbour's of the same image, on average; 0 of none.
fn mean_overlap(centres: &[Centre]) -> f64 {
    let mut total = 0.0;
    let mut start = 0;
    let mut ordered: Vec<&Centre> = centres.iter().collect();
    ordered.sort_by_key(|centre| &centre.image.section);
    while let Some(first) = ordered.get(start) {
        let count =
            ordered[start..].iter().take_while(|centre| centre.image.section == first.image.section).count();
        let section = &ordered[start..start + count];
        let size = first.size as f64;
        let points: Vec<[f64; 2]> = section.iter().map(|centre| [centre.x as f64, centre.y as f64]).collect();
        let cells = Cells::of(&points, size);
        let shared = |a: f64, b: f64| (size - (a - b).abs()).max(0.0) / size;
        let overlaps: Vec<f64> = (0..count)
            .into_par_iter()
            .map(|own| {
                let [x, y] = points[own];
                let others = cells
                    .around(own, 1)
                    .map(|other| shared(x, points[other][0]) * shared(y, points[other][1]));
                others.fold(0.0, f64::max)
            })
            .collect();
        total += overlaps.iter().sum::<f64>();
        start += count;
    }
    total / centres.len().max(1) as f64
}

#[cfg(test)]
pub(crate) use tests::of_one;

#[cfg(test)]
mod tests;
