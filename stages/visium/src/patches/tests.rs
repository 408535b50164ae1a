//! Crops against the golden values' convention and hashes, and their edges.

use restage_stage::artifact::{Categorical, Column, Frame};
use sha2::{Digest, Sha256};

use super::*;
use crate::golden;

/// An image whose pixel in row r, column c is (r, c, 7).
fn gradient(height: usize, width: usize) -> Image {
    let pixels = (0..height).flat_map(|row| (0..width).flat_map(move |column| [row as u8, column as u8, 7]));
    Image {
        section: "s".into(),
        height,
        width,
        pixels: pixels.collect(),
        scale: 0.5,
        spot_diameter_fullres: 4.0,
    }
}

/// Spots of section `s` at (x, y).
fn spots(spatial: &[[f64; 2]]) -> Table {
    let n = spatial.len();
    let mut obs = Frame { index: (0..n).map(|spot| format!("s_{spot}")).collect(), ..Frame::default() };
    obs.push("section", Column::Categorical(Categorical::encode(vec![Some("s"); n])));
    Table { obs, spatial: spatial.to_vec(), ..Table::default() }
}

/// The crops of the default size of a table with one section.
pub(crate) fn of_one(table: &Table, image: Image) -> Patches {
    cut_all(table, image, &Params::default())
}

fn cut_all(table: &Table, image: Image, params: &Params) -> Patches {
    let images = by_section(vec![image]).unwrap();
    let read = |section: &str, rows: Range<usize>| {
        let image = &images[section];
        Ok(image.pixels[rows.start * image.width * 3..rows.end * image.width * 3].to_vec())
    };
    cut(table, &centres(table, &images, params).unwrap(), params, &read).unwrap()
}

#[test]
fn the_centre_s_pixel_is_at_half_the_size() {
    let params = Params { size: 4, ..Params::default() };
    let patches = cut_all(&spots(&[[20.9, 12.0]]), gradient(16, 32), &params);
    let pixel = |row: usize, column: usize| &patches.patch(0)[(row * 4 + column) * 3..][..3];
    assert_eq!(pixel(2, 2), [6, 10, 7]);
    assert_eq!(pixel(0, 0), [4, 8, 7]);
    assert_eq!(pixel(3, 3), [7, 11, 7]);
}

#[test]
fn outside_the_image_a_crop_is_mirrored_white_or_dropped() {
    let table = spots(&[[0.0, 0.0], [16.0, 16.0]]);
    let cut = |edge| cut_all(&table, gradient(16, 16), &Params { size: 4, edge, ..Params::default() });
    assert_eq!(cut(Edge::Reflect).patch(0)[..6], [2, 2, 7, 2, 1, 7]);
    assert_eq!(cut(Edge::White).patch(0)[..3], [255; 3]);
    assert_eq!(cut(Edge::Drop).spots, ["s_1"]);
}

#[test]
fn reflection_repeats_no_edge_pixel_however_far_outside() {
    let row: Vec<usize> = (-5..8).map(|position| reflect(position, 3)).collect();
    assert_eq!(row, [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]);
    assert_eq!(reflect(9, 1), 0);
}

#[test]
fn resized_crops_have_the_side_asked_for() {
    let params = Params { size: 8, resize: Some(5), ..Params::default() };
    let patches = cut_all(&spots(&[[16.0, 16.0]]), gradient(16, 16), &params);
    assert_eq!((patches.size, patches.pixels.len()), (5, 5 * 5 * 3));
    let blue: Vec<u8> = patches.pixels.iter().skip(2).step_by(3).copied().collect();
    assert_eq!(blue, [7; 25]);
}

#[test]
fn spots_without_an_image_are_left_out() {
    let table = spots(&[[4.0, 4.0]]);
    assert!(
        cut_all(&table, Image { section: "other".into(), ..gradient(8, 8) }, &Params::default())
            .spots
            .is_empty()
    );
    assert!(
        cut_all(&table, Image { section: "s".into(), ..Image::default() }, &Params::default())
            .spots
            .is_empty()
    );
}

#[test]
fn two_images_of_a_section_are_an_error() {
    let error = by_section(vec![gradient(2, 2), gradient(2, 2)]).unwrap_err().to_string();
    assert!(error.contains("two images"), "{error}");
}

#[test]
fn overlap_is_that_with_the_nearest_neighbour() {
    let images = by_section(vec![gradient(64, 64)]).unwrap();
    // In pixels: 4 apart in a row, the third far away.
    let table = spots(&[[20.0, 20.0], [28.0, 20.0], [100.0, 100.0]]);
    let overlap = mean_overlap(&centres(&table, &images, &Params { size: 8, ..Params::default() }).unwrap());
    assert!((overlap - (0.5 + 0.5 + 0.0) / 3.0).abs() < 1e-12, "{overlap}");
}

#[test]
fn patches_of_a_real_section_have_the_golden_hash() {
    let Some(golden) = golden::json("parity/patches_A1.json") else { return };
    let Some(folder) = golden::shared("data/her2st/A1/spatial") else { return };
    let pixels = image::open(folder.join("tissue_hires_image.png")).unwrap().to_rgb8();
    let image = Image {
        section: "s".into(),
        height: pixels.height() as usize,
        width: pixels.width() as usize,
        pixels: pixels.into_raw(),
        scale: golden["scale"].as_f64().unwrap(),
        spot_diameter_fullres: 1.0,
    };
    let positions = std::fs::read_to_string(folder.join("tissue_positions.csv")).unwrap();
    let rows = positions.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
    let on_tissue = rows.filter(|row| row[1] == "1");
    let spatial: Vec<[f64; 2]> =
        on_tissue.map(|row| [row[5].parse().unwrap(), row[4].parse().unwrap()]).collect();
    assert_eq!(spatial.len(), golden["spots"]);

    for (size, hash) in [(golden["spot_px"].as_u64().unwrap(), "sha256_spot_patches"), (224, "sha256_224")] {
        let params = Params { size: size as usize, edge: Edge::White, ..Params::default() };
        let patches = cut_all(&spots(&spatial), image.clone(), &params);
        let found: String =
            Sha256::digest(&patches.pixels).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, golden["parity"][hash], "{size} pixels");
    }
}

#[test]
fn a_side_in_micrometres_goes_by_the_distance_of_spots() {
    // 10 full-resolution pixels apart are 5 of the image: 40 µm are 2 of them.
    let table = spots(&[[10.0, 10.0], [20.0, 10.0], [30.0, 10.0]]);
    let params = Params { size_um: Some(40.0), resize: Some(8), ..Params::default() };
    MakePatches::validate(&params).unwrap();
    let images = by_section(vec![gradient(16, 32)]).unwrap();
    assert!(centres(&table, &images, &params).unwrap().iter().all(|centre| centre.size == 2));
    assert_eq!(cut_all(&table, gradient(16, 32), &params).size, 8);
    let alone = spots(&[[10.0, 10.0]]);
    let problem = centres(&alone, &images, &params).err().unwrap().to_string();
    assert!(problem.contains("too few spots to tell what a µm is"), "{problem}");
    let without = Params { resize: None, ..params };
    assert!(MakePatches::validate(&without).unwrap_err().to_string().contains("size_um needs `resize`"));
}

/// Windows are smaller than this image: the crops are those of the whole.
#[test]
fn crops_of_a_large_image_are_cut_window_by_window() {
    let (height, width) = (9000, 4000);
    let pixels: Vec<u8> = (0..height * width * 3).map(|byte| (byte * 31 % 253) as u8).collect();
    let image = Image { section: "s".into(), height, width, pixels, scale: 1.0, spot_diameter_fullres: 4.0 };
    let places: Vec<[f64; 2]> =
        (0..60).map(|spot| [f64::from(spot * 67 % 4000), f64::from(spot * 1999 % 9000)]).collect();
    let patches = cut_all(&spots(&places), image.clone(), &Params::default());
    for (spot, [x, y]) in places.iter().enumerate() {
        let at = |place: f64, offset: i64, length: usize| reflect(place as i64 + offset, length);
        for (row, column) in [(0, 0), (16, 16), (31, 5)] {
            let (image_row, image_column) = (at(*y, row - 16, height), at(*x, column - 16, width));
            let wanted = image.pixels[(image_row * width + image_column) * 3];
            assert_eq!(
                patches.patch(spot)[(row * 32 + column) as usize * 3],
                wanted,
                "{spot}: {row}, {column}"
            );
        }
    }
}
