//! Stage type `visium/tissue-mask`: where on an image there is tissue, and how much of each spot lies on it.

use std::ops::Range;

use rayon::prelude::*;
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Column, Image, ImageFile, ImageRows, Metrics, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stain::lightness;

/// The stage type.
pub(crate) struct TissueMask;

/// Params of `visium/tissue-mask`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// How tissue is told from the empty slide. Default `luminosity`. Black pixels are neither: somebody cut them away.
    pub(crate) method: Method,
    /// For `luminosity`: tissue is darker than this share of the slide's lightness. Default 0.8.
    pub(crate) threshold: f64,
    /// Spots of whose disc a smaller share is tissue are left out of `table`. Default 0: none are.
    pub(crate) min_tissue: f64,
}

/// How tissue is told from the empty slide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Method {
    /// By CIELab's lightness, of which the 95th percentile counts as white, as StainTools does it.
    #[default]
    Luminosity,
    /// By the saturation of colours: stained tissue has some, glass has none. The limit is where the variance between both
    /// sides is largest (Otsu 1979); where tissue itself is of two kinds, it may part these.
    Otsu,
}

impl Default for Params {
    fn default() -> Self {
        Self { method: Method::Luminosity, threshold: 0.8, min_tissue: 0.0 }
    }
}

impl Stage for TissueMask {
    const NAME: &'static str = "tissue-mask";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Finds the tissue on a section's image. Of the image, some rows are in memory at a time, so a slide may be \
             larger than memory.",
        )
        .input::<Image>("image", "The section's image.")
        .input::<Table>("table", "The section's spots.")
        .output::<Image>("mask", "White where there is tissue, else black; of the image's size and scale.")
        .output::<Table>("table", "The spots, with the column `tissue_share`: how much of a spot's disc is tissue.")
        .output::<Metrics>("summary", "The limit, the share of the image that is tissue, and how many spots stay.")
    }

    fn validate(params: &Params) -> Result<()> {
        let shares = [params.threshold, params.min_tissue];
        if shares.into_iter().all(|share| (0.0..=1.0).contains(&share)) {
            return Ok(());
        }
        Err(Error::invalid("threshold and min_tissue should be from 0 to 1"))
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let path =
            ctx.inputs("image").first().ok_or_else(|| Error::invalid("input `image` is not connected"))?;
        let file = ImageFile::open(path)?;
        let table: Table = ctx.read("table")?;
        check(&file.about, &table)?;
        let bands = bands(&file.about);
        let tell = |done: usize| {
            ctx.progress(done as u64, 2 * bands.len() as u64, "bands of the image");
            ctx.check_cancelled()
        };
        let mut histogram = [0_u64; LEVELS];
        for (done, rows) in bands.iter().enumerate() {
            tell(done)?;
            add(&mut histogram, &file.rows(rows.clone())?, params.method);
        }
        let limit = limit(&histogram, &params);

        let mut mask = ImageRows::create(ctx.output("mask")?, &file.about)?;
        let mut discs = Discs::of(&table, &file.about);
        let mut tissue = 0;
        for (done, rows) in bands.iter().enumerate() {
            tell(bands.len() + done)?;
            let band = is_tissue(&file.rows(rows.clone())?, params.method, limit);
            tissue += band.iter().filter(|tissue| **tissue).count();
            discs.add(rows.clone(), &band);
            mask.push(
                &band.iter().flat_map(|&tissue| [if tissue { 255 } else { 0 }; 3]).collect::<Vec<u8>>(),
            )?;
        }
        mask.finish()?;

        let (spots, shares) = (table.n_spots(), discs.shares());
        let table = marked(table, shares, params.min_tissue)?;
        let values = [
            ("limit", limit as f64 / (LEVELS - 1) as f64),
            ("tissue_share", tissue as f64 / (file.about.height * file.about.width) as f64),
            ("spots_before", spots as f64),
            ("spots_after", table.n_spots() as f64),
        ];
        let values = values.into_iter().map(|(name, value)| (name.into(), value)).collect();
        ctx.write("summary", &Metrics { values, ..Metrics::default() })?;
        ctx.write("table", &table)
    }
}

/// Refuses an image and a table that are not of the same one section.
fn check(image: &Image, table: &Table) -> Result<()> {
    if image.height * image.width == 0 {
        return Err(Error::invalid(format!("section {} has no image: leave this stage out", image.section)));
    }
    match (0..table.n_spots()).map(|spot| table.section(spot)).find(|name| *name != Some(&image.section)) {
        None => Ok(()),
        Some(other) => Err(Error::invalid(format!(
            "the image is of section {}, and the table has spots of {}; connect the table of one section, and put \
             sections together afterwards",
            image.section,
            other.unwrap_or("none")
        ))),
    }
}

/// Values that lightness and saturation are told apart by.
const LEVELS: usize = 256;
/// Bytes of the image that are in memory at a time.
const BAND_BYTES: usize = 1 << 25;

fn bands(image: &Image) -> Vec<Range<usize>> {
    let rows = (BAND_BYTES / (image.width * 3)).max(1);
    (0..image.height).step_by(rows).map(|first| first..(first + rows).min(image.height)).collect()
}

/// What lies outside of what a program cut out.
pub(crate) const BLACK: [u8; 3] = [0; 3];

/// Lightness or saturation of a pixel, from 0 to 255.
fn level(pixel: [u8; 3], method: Method) -> u8 {
    match method {
        Method::Luminosity => (lightness(pixel) * 2.55).round().clamp(0.0, 255.0) as u8,
        Method::Otsu => {
            let [r, g, b] = pixel.map(u32::from);
            let (high, low) = (r.max(g).max(b), r.min(g).min(b));
            // HSV's, rounded.
            (((high - low) * 255 + high / 2).checked_div(high)).unwrap_or(0) as u8
        }
    }
}

fn add(histogram: &mut [u64; LEVELS], pixels: &[u8], method: Method) {
    let (pixels, _) = pixels.as_chunks::<3>();
    let part = |pixels: &[[u8; 3]]| {
        let mut counts = [0_u64; LEVELS];
        let seen = pixels.iter().filter(|pixel| **pixel != BLACK);
        seen.for_each(|&pixel| counts[usize::from(level(pixel, method))] += 1);
        counts
    };
    let counts = pixels.par_chunks(1 << 16).map(part).reduce(
        || [0; LEVELS],
        |mut all, counts| {
            all.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
            all
        },
    );
    histogram.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
}

/// The level that parts tissue from slide.
fn limit(histogram: &[u64; LEVELS], params: &Params) -> u8 {
    match params.method {
        Method::Otsu => otsu(histogram),
        Method::Luminosity => (f64::from(percentile(histogram, 0.95)) * params.threshold).round() as u8,
    }
}

/// The level at which the variance between what is above it and what is not is largest; the first of equal ones.
fn otsu(histogram: &[u64; LEVELS]) -> u8 {
    let count: u64 = histogram.iter().sum();
    let sum: f64 = histogram.iter().zip(0_u32..).map(|(&count, level)| count as f64 * f64::from(level)).sum();
    let (mut below, mut sum_below) = (0_u64, 0.0);
    let (mut best, mut largest) = (0, f64::NEG_INFINITY);
    for (level, &here) in (0_u8..=255).zip(histogram) {
        below += here;
        sum_below += here as f64 * f64::from(level);
        let above = count - below;
        if below == 0 || above == 0 {
            continue;
        }
        let apart = sum_below / below as f64 - (sum - sum_below) / above as f64;
        let between = below as f64 * above as f64 * apart * apart;
        if between > largest {
            (best, largest) = (level, between);
        }
    }
    best
}

/// The lowest level that this share of the pixels does not exceed.
fn percentile(histogram: &[u64; LEVELS], share: f64) -> u8 {
    let wanted = share * histogram.iter().sum::<u64>() as f64;
    let mut below = 0;
    let reached = |&(_, &count): &(u8, &u64)| {
        below += count;
        below as f64 >= wanted
    };
    (0_u8..=255).zip(histogram).find(reached).map_or(255, |(level, _)| level)
}

fn is_tissue(pixels: &[u8], method: Method, limit: u8) -> Vec<bool> {
    let (pixels, _) = pixels.as_chunks::<3>();
    let of = |&pixel: &[u8; 3]| {
        pixel != BLACK
            && match method {
                Method::Otsu => level(pixel, method) > limit,
                Method::Luminosity => level(pixel, method) < limit,
            }
    };
    pixels.par_iter().with_min_len(1 << 14).map(of).collect()
}

/// The discs of all spots, and how much of each is tissue as far as the image was looked at.
struct Discs {
    width: usize,
    radius: f64,
    discs: Vec<Disc>,
}

struct Disc {
    x: f64,
    y: f64,
    pixels: u64,
    tissue: u64,
}

impl Discs {
    fn of(table: &Table, image: &Image) -> Self {
        let disc = |&[x, y]: &[f64; 2]| Disc { x: x * image.scale, y: y * image.scale, pixels: 0, tissue: 0 };
        Self {
            width: image.width,
            // Of a spot that is smaller than a pixel, the pixel that its centre lies in.
            radius: (image.spot_diameter_fullres * image.scale / 2.0).max(0.5),
            discs: table.spatial.iter().map(disc).collect(),
        }
    }

    /// Looks at some rows of the mask.
    fn add(&mut self, rows: Range<usize>, mask: &[bool]) {
        let (width, radius) = (self.width, self.radius);
        self.discs.par_iter_mut().with_min_len(256).for_each(|disc| {
            // A pixel is in the disc where its centre is.
            let first = (disc.y - radius - 0.5).ceil().max(rows.start as f64);
            let last = (disc.y + radius - 0.5).floor().min(rows.end as f64 - 1.0);
            let mut row = first;
            while row <= last {
                let half = (radius * radius - (row + 0.5 - disc.y).powi(2)).max(0.0).sqrt();
                let left = (disc.x - half - 0.5).ceil().clamp(0.0, width as f64) as usize;
                let right = ((disc.x + half - 0.5).floor() + 1.0).clamp(left as f64, width as f64) as usize;
                let pixels = &mask[(row as usize - rows.start) * width..][left..right];
                disc.pixels += pixels.len() as u64;
                disc.tissue += pixels.iter().filter(|tissue| **tissue).count() as u64;
                row += 1.0;
            }
        });
    }

    /// Of a spot outside the image: 0.
    fn shares(&self) -> Vec<f64> {
        self.discs.iter().map(|disc| disc.tissue as f64 / disc.pixels.max(1) as f64).collect()
    }
}

/// The table with its new column, without the spots below `least`.
fn marked(mut table: Table, shares: Vec<f64>, least: f64) -> Result<Table> {
    let kept: Vec<usize> = (0..shares.len()).filter(|&spot| shares[spot] >= least).collect();
    if kept.is_empty() {
        return Err(Error::invalid(format!(
            "no spot has min_tissue: {least} of its disc on tissue; lower it"
        )));
    }
    let genes: Vec<usize> = (0..table.n_genes()).collect();
    table.obs.push("tissue_share", Column::Float(shares));
    if kept.len() < table.n_spots() {
        tracing::info!("{} spots have too little tissue and are left out", table.n_spots() - kept.len());
    }
    Ok(table.into_selected(&kept, &genes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use restage_stage::artifact::{Artifact, Categorical, Csr, Frame};
    use serde_json::json;

    use super::*;
    use crate::stages_test::run;

    /// A slide of 60 x 40 with tissue left of column 20, a black margin at its right, and three spots of 10 pixels: on tissue,
    /// half on it, beside it.
    fn section() -> (Image, Table) {
        let colour = |column: usize| match column {
            ..20 => [180, 90, 160],
            20..50 => [242, 240, 243],
            _ => BLACK,
        };
        let pixels = (0..40 * 60).flat_map(|pixel| colour(pixel % 60)).collect();
        let about =
            Image { section: "s".into(), height: 40, width: 60, pixels, scale: 0.5, ..Image::default() };
        let index: Vec<String> = ["s_a", "s_b", "s_c"].map(str::to_owned).into();
        let mut obs = Frame { index, ..Frame::default() };
        obs.push("section", Column::Categorical(Categorical::encode([Some("s"); 3])));
        let table = Table {
            x: Csr::from_rows(1, [vec![(0, 1.0)], vec![], vec![(0, 2.0)]]),
            obs,
            var: Frame { index: vec!["g".into()], ..Frame::default() },
            spatial: vec![[20.0, 40.0], [40.0, 40.0], [90.0, 40.0]],
            ..Table::default()
        };
        (Image { spot_diameter_fullres: 20.0, ..about }, table)
    }

    #[test]
    fn spots_have_the_share_of_their_disc_that_is_tissue() {
        for method in ["otsu", "luminosity"] {
            let folder = tempfile::tempdir().unwrap();
            let (image, table) = section();
            image.write(&folder.path().join("image")).unwrap();
            table.write(&folder.path().join("spots")).unwrap();
            let at = |name: &str| vec![folder.path().join(name)];
            run::<TissueMask>(
                folder.path(),
                json!({ "method": method, "min_tissue": 0.1 }),
                &[("image", &at("image")), ("table", &at("spots"))],
                &["mask", "table", "summary"],
            );
            let home = folder.path().join("tissue-mask");
            let marked = Table::read(&home.join("table")).unwrap();
            assert_eq!(marked.obs.index, ["s_a", "s_b"], "{method}");
            assert_eq!(marked.obs.column("tissue_share"), Some(&Column::Float(vec![1.0, 0.5])), "{method}");
            let mask = Image::read(&home.join("mask")).unwrap();
            let wanted: Vec<u8> =
                (0..40 * 60).flat_map(|pixel| [if pixel % 60 < 20 { 255 } else { 0 }; 3]).collect();
            assert!(mask.pixels == wanted && mask.scale == 0.5, "{method}");
            let summary = Metrics::read(&home.join("summary")).unwrap().values;
            assert!((summary["tissue_share"] - 1.0 / 3.0).abs() < 1e-12);
        }
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let (image, mut table) = section();
        let none = Image { height: 0, width: 0, pixels: Vec::new(), ..image.clone() };
        assert!(check(&none, &table).unwrap_err().to_string().contains("has no image"));
        table
            .obs
            .push("section", Column::Categorical(Categorical::encode([Some("s"), Some("t"), Some("s")])));
        assert!(check(&image, &table).unwrap_err().to_string().contains("has spots of t"));
        let lost = marked(table, vec![0.0; 3], 0.5).unwrap_err().to_string();
        assert!(lost.contains("min_tissue: 0.5"), "{lost}");
    }

    /// Otsu's definition, in one go for each level.
    fn between(histogram: &[u64; LEVELS], level: usize) -> f64 {
        let side = |levels: Range<usize>| {
            let count: u64 = histogram[levels.clone()].iter().sum();
            let sum: f64 = levels.map(|level| histogram[level] as f64 * level as f64).sum();
            (count as f64, sum / count as f64)
        };
        let ((n, a), (m, b)) = (side(0..level + 1), side(level + 1..LEVELS));
        if n == 0.0 || m == 0.0 { 0.0 } else { n * m * (a - b) * (a - b) }
    }

    proptest! {
        #[test]
        fn otsu_s_level_is_as_good_as_any(counts in proptest::collection::vec(0_u64..50, LEVELS)) {
            let histogram: [u64; LEVELS] = counts.try_into().unwrap();
            let found = between(&histogram, otsu(&histogram).into());
            let best = (0..LEVELS).map(|level| between(&histogram, level)).fold(0.0, f64::max);
            prop_assert!(found >= best * (1.0 - 1e-12), "{found} {best}");
        }

        #[test]
        fn saturation_is_hsv_s(r: u8, g: u8, b: u8) {
            let (high, low) = (f64::from(r.max(g).max(b)), f64::from(r.min(g).min(b)));
            let wanted = if high == 0.0 { 0.0 } else { 255.0 * (high - low) / high };
            prop_assert!((f64::from(level([r, g, b], Method::Otsu)) - wanted).abs() <= 0.5 + 1e-9);
        }
    }
}
