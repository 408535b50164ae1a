//! Stage type `visium/simulate`: a made-up section whose regions no single modality can tell apart.
//!
//! Four regions are two yes-or-no distinctions. Whether the tissue is *epithelial* shows in the image alone (dense,
//! large, round nuclei against sparse, thin ones between fibres); whether it is *active* shows in the expression
//! alone (a gene programme). Both follow smooth random maps drawn anew for each section, so that positions say
//! nothing about another patient; stains vary by section, expression by patient.

mod expression;
mod field;
mod tissue;

use std::collections::BTreeMap;

use rand_distr::{Distribution, StandardNormal};
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Categorical, Column, Frame, Image, Labels, Library, ScaleFactors, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::section;
use field::Field;

/// The stage type.
pub(crate) struct Simulate;

/// Params of `visium/simulate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// Name of the section: sections of different names are drawn independently.
    pub(crate) section: String,
    /// Name of the patient: sections of one patient share their batch effect. Default: the section's name.
    #[serde(default)]
    pub(crate) patient: Option<String>,
    /// Seed of everything that is drawn. A plain param: the data stay the same over the seeds of a sweep. Default 0.
    #[serde(default)]
    pub(crate) seed: u64,
    /// Rows of spots. Default 16.
    #[serde(default = "default::side")]
    pub(crate) rows: usize,
    /// Spots in a row; every other row is shifted by half a pitch, as on a Visium slide. Default 16.
    #[serde(default = "default::side")]
    pub(crate) cols: usize,
    /// Distance between neighbouring spots in pixels of the image. Default 36.
    #[serde(default = "default::pitch")]
    pub(crate) pitch: usize,
    /// How many genes. Default 300.
    #[serde(default = "default::genes")]
    pub(crate) genes: usize,
    /// Mean number of counts per spot. Default 2000.
    #[serde(default = "default::counts")]
    pub(crate) counts: f64,
    /// How much the image shows of its distinction: 0 = nothing, 1 = plain but not perfect. Default 1.
    #[serde(default = "default::one")]
    pub(crate) image_effect: f64,
    /// How much the expression shows of its distinction: 0 = nothing, 1 = plain but not perfect. Default 1.
    #[serde(default = "default::one")]
    pub(crate) expression_effect: f64,
    /// Standard deviation of each gene's log fold change between patients. Default 0.3.
    #[serde(default = "default::batch_effect")]
    pub(crate) batch_effect: f64,
    /// Share of the spots, those nearest to a border, that the pathologist left unassigned. Default 0.05.
    #[serde(default = "default::undetermined")]
    pub(crate) undetermined: f64,
}

mod default {
    pub(super) fn side() -> usize {
        16
    }
    pub(super) fn pitch() -> usize {
        36
    }
    pub(super) fn genes() -> usize {
        300
    }
    pub(super) fn counts() -> f64 {
        2000.0
    }
    pub(super) fn one() -> f64 {
        1.0
    }
    pub(super) fn batch_effect() -> f64 {
        0.3
    }
    pub(super) fn undetermined() -> f64 {
        0.05
    }
}

/// Full-resolution pixel x this = pixel of the image.
const SCALE: f64 = 0.25;
/// Diameter of a spot against the pitch, as 10x's files have it.
const SPOT_DIAMETER: f64 = 0.65;
/// Each region has at least this share of the spots, unless chance refuses.
const SMALLEST_SHARE: f64 = 0.15;
/// How often the maps are drawn to get there.
const DRAWS: usize = 64;

impl Stage for Simulate {
    const NAME: &'static str = "simulate";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Makes up one section of one patient: spots on a hexagonal grid, a drawn H&E image, counts, and four \
             regions that need image and expression together to be told apart. For trying things out and for tests.",
        )
        .output::<Table>("table", "Raw counts with coordinates.")
        .output::<Image>("image", "The drawn tissue.")
        .output::<Labels>("labels", "The region of each spot.")
        .output::<section::Section>("section", "The same as a SpatialData: table, image, and the spots as circles.")
    }

    fn validate(params: &Params) -> Result<()> {
        let within = |name: &str, value: f64, low: f64, high: f64| {
            (low..=high)
                .contains(&value)
                .then_some(())
                .ok_or_else(|| Error::invalid(format!("{name} should be from {low} to {high}, not {value}")))
        };
        let names = [Some(&params.section), params.patient.as_ref()];
        let bad = |name: &str| name.is_empty() || name.contains(['/', '\\']) || name.starts_with(['.', '_']);
        if names.into_iter().flatten().any(|name| bad(name)) {
            return Err(Error::invalid("section and patient should be names like `A1`, without slashes"));
        }
        within("rows", params.rows as f64, 4.0, 256.0)?;
        within("cols", params.cols as f64, 4.0, 256.0)?;
        within("pitch", params.pitch as f64, 8.0, 256.0)?;
        within("genes", params.genes as f64, 20.0, 50_000.0)?;
        within("counts", params.counts, 1.0, 1e6)?;
        within("image_effect", params.image_effect, 0.0, 2.0)?;
        within("expression_effect", params.expression_effect, 0.0, 10.0)?;
        within("batch_effect", params.batch_effect, 0.0, 3.0)?;
        within("undetermined", params.undetermined, 0.0, 0.9)
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let section = simulate(&params);
        ctx.check_cancelled()?;
        ctx.write("image", &section.image)?;
        ctx.write("labels", &section.labels)?;
        ctx.write("table", &section.table)?;
        section::of_outputs(ctx, &section.table)
    }
}

/// A simulated section.
#[derive(Debug, PartialEq)]
pub(crate) struct Section {
    pub(crate) table: Table,
    pub(crate) image: Image,
    pub(crate) labels: Labels,
}

/// Where the spots lie, in pixels of the image, row by row.
struct Grid {
    /// (array row, array column): columns count in half pitches, as on a Visium slide.
    array: Vec<(i64, i64)>,
    spots: Vec<[f64; 2]>,
    height: usize,
    width: usize,
}

impl Grid {
    fn new(params: &Params) -> Self {
        let pitch = params.pitch as f64;
        let row_step = pitch * 0.75_f64.sqrt();
        let array: Vec<(i64, i64)> = (0..params.rows as i64)
            .flat_map(|row| (0..params.cols as i64).map(move |column| (row, 2 * column + row % 2)))
            .collect();
        Self {
            spots: array
                .iter()
                .map(|&(row, column)| [pitch + column as f64 * pitch / 2.0, pitch + row as f64 * row_step])
                .collect(),
            array,
            height: (2.0 * pitch + (params.rows - 1) as f64 * row_step).ceil() as usize,
            width: (2.0 * pitch + (params.cols as f64 - 0.5) * pitch).ceil() as usize,
        }
    }
}

/// The maps of the two distinctions; a region is the pair of their signs.
struct Maps {
    epithelial: Field,
    active: Field,
}

impl Maps {
    /// Draws maps until every region has its share; the fairest draw if none has.
    fn new(params: &Params, grid: &Grid) -> Self {
        let mut random = stream(params, "maps");
        let mut draw = || {
            let mut map = || Field::blobs(&mut random, grid.width, grid.height).halving(&grid.spots);
            Self { epithelial: map(), active: map() }
        };
        let mut best = draw();
        for _ in 1..DRAWS {
            if best.smallest_share(&grid.spots) >= SMALLEST_SHARE {
                break;
            }
            let next = draw();
            if next.smallest_share(&grid.spots) > best.smallest_share(&grid.spots) {
                best = next;
            }
        }
        best
    }

    fn smallest_share(&self, spots: &[[f64; 2]]) -> f64 {
        let mut counts = [0_usize; 4];
        for &spot in spots {
            let (epithelial, active) = self.at(spot);
            counts[2 * usize::from(epithelial) + usize::from(active)] += 1;
        }
        counts.into_iter().min().unwrap_or(0) as f64 / spots.len() as f64
    }

    /// (epithelial, active) at a point.
    fn at(&self, point: [f64; 2]) -> (bool, bool) {
        (self.epithelial.at(point) > 0.0, self.active.at(point) > 0.0)
    }

    /// How far a point is from a border, in units of the maps.
    fn clearness(&self, point: [f64; 2]) -> f64 {
        self.epithelial.at(point).abs().min(self.active.at(point).abs())
    }
}

/// A region's name, from (epithelial, active).
fn region(signs: (bool, bool)) -> &'static str {
    match signs {
        (true, true) => "invasive cancer",
        (true, false) => "cancer in situ",
        (false, true) => "immune infiltrate",
        (false, false) => "connective tissue",
    }
}

/// Random numbers of one purpose in one section.
fn stream(params: &Params, purpose: &str) -> impl rand::Rng + use<> {
    restage_stage::context::rng(params.seed, &format!("simulate/{purpose}/{}", params.section))
}

fn normal(random: &mut impl rand::Rng) -> f64 {
    StandardNormal.sample(random)
}

/// The section that valid params describe.
pub(crate) fn simulate(params: &Params) -> Section {
    let grid = Grid::new(params);
    let maps = Maps::new(params, &grid);
    let patient = params.patient.clone().unwrap_or_else(|| params.section.clone());
    let image = Image {
        section: params.section.clone(),
        height: grid.height,
        width: grid.width,
        pixels: tissue::draw(params, &grid, &maps.epithelial),
        scale: SCALE,
        spot_diameter_fullres: SPOT_DIAMETER * params.pitch as f64 / SCALE,
    };
    let spots = obs(params, &grid, &patient);
    let n = spots.len();
    let labels = Labels {
        spots: spots.index.clone(),
        sections: vec![params.section.clone(); n],
        patients: vec![patient.clone(); n],
        regions: regions(params, &grid, &maps),
    };
    let library = Library {
        images: BTreeMap::from([("hires".to_owned(), image.clone())]),
        scale_factors: ScaleFactors {
            tissue_hires_scalef: Some(SCALE),
            spot_diameter_fullres: image.spot_diameter_fullres,
            ..ScaleFactors::default()
        },
    };
    let table = Table {
        x: expression::counts(params, &patient, &grid, &maps.active),
        obs: spots,
        var: var(params.genes),
        spatial: grid.spots.iter().map(|spot| spot.map(|pixel| pixel / SCALE)).collect(),
        libraries: BTreeMap::from([(params.section.clone(), library)]),
    };
    Section { table, image, labels }
}

fn regions(params: &Params, grid: &Grid, maps: &Maps) -> Vec<Option<String>> {
    let clearness: Vec<f64> = grid.spots.iter().map(|&spot| maps.clearness(spot)).collect();
    let mut by_clearness: Vec<usize> = (0..clearness.len()).collect();
    by_clearness.sort_by(|&a, &b| clearness[a].total_cmp(&clearness[b]));
    let mut regions: Vec<Option<String>> =
        grid.spots.iter().map(|&spot| Some(region(maps.at(spot)).to_owned())).collect();
    let unassigned = (params.undetermined * regions.len() as f64).floor() as usize;
    for &spot in &by_clearness[..unassigned] {
        regions[spot] = None;
    }
    regions
}

fn obs(params: &Params, grid: &Grid, patient: &str) -> Frame {
    let n = grid.array.len();
    let barcodes: Vec<String> = (0..n as u64).map(barcode).collect();
    let same = |value: &str| Column::Categorical(Categorical::encode(vec![Some(value); n]));
    Frame {
        index: barcodes.iter().map(|barcode| format!("{}_{barcode}", params.section)).collect(),
        columns: vec![
            ("section".into(), same(&params.section)),
            ("patient".into(), same(patient)),
            ("in_tissue".into(), Column::Int(vec![1; n])),
            ("array_row".into(), Column::Int(grid.array.iter().map(|&(row, _)| row).collect())),
            ("array_col".into(), Column::Int(grid.array.iter().map(|&(_, column)| column).collect())),
            ("barcode".into(), Column::Text(barcodes)),
        ],
    }
}

fn var(genes: usize) -> Frame {
    Frame {
        index: (1..=genes).map(|gene| format!("SIM{gene:05}")).collect(),
        columns: vec![(
            "gene_ids".into(),
            Column::Text((1..=genes).map(|gene| format!("SIMG{gene:011}")).collect()),
        )],
    }
}

/// Sixteen bases that belong to a place on the slide: the same on every slide, as in 10x's list.
fn barcode(place: u64) -> String {
    // An odd factor modulo 4^16 is a bijection, so no two places share a barcode.
    let code = place.wrapping_add(1).wrapping_mul(0x9e37_79b9) % (1 << 32);
    let bases = (0..16).map(|base| ['A', 'C', 'G', 'T'][(code >> (2 * base) & 3) as usize]);
    bases.chain("-1".chars()).collect()
}

#[cfg(test)]
mod tests;
