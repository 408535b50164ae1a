//! Where spots lie, and the picture under them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use image::{DynamicImage, codecs::jpeg::JpegEncoder, imageops::FilterType};
use rayon::prelude::*;
use restage_cache::{Digest, Store};
use restage_stage::catalogue::PortType;

use super::{
    super::{
        super::outcome::Outcome,
        artifact::{self, Picture, Places},
        packed::address,
    },
    Section,
};

/// The longer side of a section's picture, in pixels.
const LONGEST: u32 = 720;
/// Of its JPEG.
const QUALITY: u8 = 74;
/// Room around the spots, as a share of what they span.
const MARGIN: f64 = 0.06;

/// Sections that have one of these spots, with all of their spots that some table places.
pub(super) fn sections(
    outcome: &Outcome,
    store: &Store,
    wanted: &BTreeSet<&str>,
    problems: &mut BTreeSet<String>,
) -> Vec<Section> {
    if wanted.is_empty() {
        return Vec::new();
    }
    // A table of all sections makes others needless.
    let outputs = |kind| -> Vec<PathBuf> {
        let digests: BTreeSet<Digest> = outcome
            .actions
            .iter()
            .flat_map(|action| action.outputs(kind))
            .map(|(_, digest)| digest)
            .collect();
        digests.iter().filter_map(|digest| store.artifact(digest).ok()?).collect()
    };
    let mut tables: Vec<(usize, PathBuf)> =
        outputs(PortType::Table).into_iter().map(|root| (Places::count(&root), root)).collect();
    tables.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let mut left = wanted.clone();
    let mut found: BTreeMap<String, (Vec<String>, Vec<[f64; 2]>)> = BTreeMap::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut used: Vec<&PathBuf> = Vec::new();
    for (_, root) in &tables {
        if left.is_empty() {
            break;
        }
        let places = match Places::read(root) {
            Ok(places) => places,
            Err(problem) => {
                problems.insert(problem);
                continue;
            }
        };
        let before = left.len();
        let sections: BTreeSet<&str> = (places.spots.iter().zip(&places.sections))
            .filter(|(spot, _)| left.contains(spot.as_str()))
            .filter_map(|(_, section)| section.as_deref())
            .collect();
        for ((spot, section), at) in places.spots.iter().zip(&places.sections).zip(&places.at) {
            let Some(section) = section.as_deref().filter(|section| sections.contains(section)) else {
                continue;
            };
            left.remove(spot.as_str());
            if seen.insert(spot.clone()) {
                let (spots, all) = found.entry(section.to_owned()).or_default();
                spots.push(spot.clone());
                all.push(*at);
            }
        }
        if left.len() < before {
            used.push(root);
        }
    }
    if !left.is_empty() {
        problems
            .insert(format!("{} judged spots lie in no table of this run: they are not drawn", left.len()));
    }
    let images: Vec<PathBuf> = outputs(PortType::Image);
    let mut pictures: BTreeMap<String, Picture> = BTreeMap::new();
    for name in found.keys() {
        let own = used.iter().copied().chain(tables.iter().map(|(_, root)| root));
        if let Some(picture) =
            own.take(used.len() + 24).find_map(|root| artifact::picture_of_table(root, name))
        {
            pictures.insert(name.clone(), picture);
        }
    }
    if pictures.len() < found.len() {
        for (name, picture) in
            images.iter().filter_map(|root| artifact::picture_of_image(root, LONGEST as usize / 2))
        {
            if found.contains_key(&name) {
                pictures.entry(name).or_insert(picture);
            }
        }
    }
    let found: Vec<_> =
        found.into_iter().map(|(name, places)| (pictures.remove(&name), name, places)).collect();
    found.into_par_iter().map(|(picture, name, (spots, at))| section(name, spots, &at, picture)).collect()
}

/// Spots on the part of the picture that they are on.
fn section(name: String, spots: Vec<String>, at: &[[f64; 2]], picture: Option<Picture>) -> Section {
    let span = |axis: usize| {
        at.iter().fold((f64::MAX, f64::MIN), |(low, high), at| (at[axis].min(low), at[axis].max(high)))
    };
    let ((left, right), (top, bottom)) = (span(0), span(1));
    let room = ((right - left).max(bottom - top) * MARGIN).max(1.0);
    let [mut left, mut top, mut right, mut bottom] = [left - room, top - room, right + room, bottom + room];
    let mut image = None;
    if let Some(Picture { pixels, scale }) = picture.filter(|picture| picture.scale > 0.0) {
        let (columns, rows) = (f64::from(pixels.width()), f64::from(pixels.height()));
        let edge = |value: f64, most: f64| (value * scale).round().clamp(0.0, most);
        let [x0, x1] = [left, right].map(|x| edge(x, columns));
        let [y0, y1] = [top, bottom].map(|y| edge(y, rows));
        if x1 - x0 >= 8.0 && y1 - y0 >= 8.0 {
            [left, right] = [x0 / scale, x1 / scale];
            [top, bottom] = [y0 / scale, y1 / scale];
            let part = DynamicImage::ImageRgb8(pixels).crop_imm(
                x0 as u32,
                y0 as u32,
                (x1 - x0) as u32,
                (y1 - y0) as u32,
            );
            let small = if part.width().max(part.height()) > LONGEST {
                part.resize(LONGEST, LONGEST, FilterType::Triangle)
            } else {
                part
            };
            let mut bytes = Vec::new();
            let encoded = JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode_image(&small.into_rgb8());
            image = encoded.is_ok().then(|| address("image/jpeg", &bytes));
        }
    }
    // As wide as its picture is at most.
    let unit = f64::from(LONGEST) / (right - left).max(bottom - top);
    let at: Vec<[f64; 2]> = at.iter().map(|[x, y]| [(x - left) * unit, (y - top) * unit]).collect();
    Section {
        name,
        truth: vec![None; spots.len()],
        spots,
        width: (right - left) * unit,
        height: (bottom - top) * unit,
        radius: nearest(&at) * 0.44,
        at,
        image,
    }
}

/// The distance between neighbouring spots: the median of some spots' to their nearest.
fn nearest(at: &[[f64; 2]]) -> f64 {
    let some = at.iter().enumerate().step_by((at.len() / 100).max(1));
    let distance = |a: &[f64; 2], b: &[f64; 2]| (a[0] - b[0]).hypot(a[1] - b[1]);
    let mut distances: Vec<f64> = some
        .map(|(own, a)| {
            let others = at.iter().enumerate().filter(|(other, _)| *other != own);
            others.map(|(_, b)| distance(a, b)).fold(f64::MAX, f64::min)
        })
        .filter(|distance| *distance < f64::MAX)
        .collect();
    distances.sort_by(f64::total_cmp);
    distances.get(distances.len() / 2).copied().unwrap_or(20.0).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spots_lie_on_the_part_of_the_picture_that_is_shown() {
        let spots = ["a", "b", "c"].map(str::to_owned).to_vec();
        let at = [[1000.0, 1000.0], [1100.0, 1000.0], [2000.0, 1500.0]];
        let mut pixels = image::RgbImage::from_pixel(300, 200, image::Rgb([255, 255, 255]));
        pixels.put_pixel(100, 100, image::Rgb([0, 0, 0]));
        let section = section("A".into(), spots, &at, Some(Picture { pixels, scale: 0.1 }));
        assert_eq!(section.width, f64::from(LONGEST));
        // 1000 to 2000 and 6 % around it, at a tenth: pixels 94 to 206, and 94 to 156.
        assert!((section.height / section.width - 62.0 / 112.0).abs() < 1e-9);
        let unit = section.width / 112.0;
        assert!(
            (section.at[0][0] - 6.0 * unit).abs() < 1e-6 && (section.at[2][0] - 106.0 * unit).abs() < 1e-6
        );
        assert!((section.radius - 10.0 * unit * 0.44).abs() < 1e-6, "the nearest lie 10 pixels apart");
        assert!(section.image.unwrap().starts_with("data:image/jpeg;base64,"));
    }

    #[test]
    fn a_section_of_one_spot_without_picture_is_drawn() {
        let section = section("A".into(), vec!["a".into()], &[[5.0, 5.0]], None);
        assert!(
            section.at[0]
                .iter()
                .chain([&section.radius, &section.width])
                .all(|value| value.is_finite() && *value > 0.0)
        );
        assert!(section.image.is_none());
    }
}
