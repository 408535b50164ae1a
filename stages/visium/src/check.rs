//! Stage type `visium/check`: refuses a section whose files are not of the same section.
//!
//! Barcodes of Visium come from one list: those of another section join nearly as well as the right ones (of 151673's
//! labelled spots, 151507's annotation has 96 %). What gives the mix-up away is what does *not* join.

use std::collections::{BTreeMap, HashSet};

use restage_stage::{
    Context, Error, InputPath, Ports, Result, Stage,
    artifact::{Image, Library, Metrics},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::{annotation, counts::Source, images, positions};

/// The stage type.
pub(crate) struct Check;

/// Params of `visium/check`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The section's `outs` folder, as for `visium/load`.
    path: InputPath,
    /// The section's name: where the annotation says which section it is of, it must say this.
    section: String,
    /// The annotation, as for `visium/load`. Default: none.
    #[serde(default)]
    annotation: Option<InputPath>,
    /// Column of `annotation` with the regions. Default: the second of two.
    #[serde(default)]
    annotation_column: Option<String>,
    /// Share of barcodes that may fail to join, and of spots that may lie outside the image. Default 0.01.
    #[serde(default = "tolerance")]
    tolerance: f64,
    /// Share of the spots under tissue that the annotation names, if it is this section's: a small annotation may lie whole in
    /// a large section. Default 0.5.
    #[serde(default = "min_coverage")]
    min_coverage: f64,
    /// Fail on a mix-up (true, default), or only report and warn.
    #[serde(default = "strict")]
    strict: bool,
}

fn tolerance() -> f64 {
    0.01
}

fn min_coverage() -> f64 {
    0.5
}

fn strict() -> bool {
    true
}

impl Stage for Check {
    const NAME: &'static str = "check";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Compares the files of a section with each other: the section that the annotation names, the barcodes of \
             counts, positions and annotation, and where spots lie on the image. Fails on what only files of two \
             sections explain.",
        )
        .output::<Metrics>("report", "What was counted, and `problems`: 0 where the files belong together.")
    }

    fn validate(params: &Params) -> Result<()> {
        let shares = [("tolerance", params.tolerance), ("min_coverage", params.min_coverage)];
        match shares.into_iter().find(|(_, share)| !(0.0..1.0).contains(share)) {
            Some((name, share)) => {
                Err(Error::invalid(format!("{name}: {share} should be from 0 to below 1")))
            }
            None => Ok(()),
        }
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let (values, problems) = check(&params)?;
        problems.iter().for_each(|problem| tracing::warn!("{problem}"));
        if params.strict && !problems.is_empty() {
            return Err(Error::invalid(format!(
                "the files of section {} do not belong together:\n  {}\nIf they do, set `strict: false`, or raise \
                 `tolerance`",
                params.section,
                problems.join("\n  ")
            )));
        }
        ctx.write("report", &Metrics { values, ..Metrics::default() })
    }
}

/// What was counted, and what is wrong.
fn check(params: &Params) -> Result<(BTreeMap<String, f64>, Vec<String>)> {
    let (mut values, mut problems) = (BTreeMap::new(), Vec::new());
    let outs = params.path.as_path();
    let source = Source::find(outs)?;
    let counts = source.read(None)?;
    let positions = positions::read(&outs.join("spatial"))?;
    let barcodes: HashSet<&str> = counts.barcodes.iter().map(String::as_str).collect();
    let exceeds = |part: usize, whole: usize| part as f64 > params.tolerance * whole as f64;
    values.insert("spots".into(), counts.barcodes.len() as f64);

    let unplaced = counts.barcodes.iter().filter(|barcode| positions.get(barcode).is_none()).count();
    values.insert("spots_without_position".into(), unplaced as f64);
    if unplaced > 0 {
        problems.push(format!("{unplaced} of {} barcodes with counts have no position", barcodes.len()));
    }
    // Filtered counts are those of the spots under tissue: which spots these are differs between sections.
    if source.is_filtered() {
        let under_tissue: Vec<&str> = positions.under_tissue().collect();
        let uncounted = under_tissue.iter().filter(|barcode| !barcodes.contains(*barcode)).count();
        let beside = counts
            .barcodes
            .iter()
            .filter(|barcode| positions.get(barcode).is_some_and(|spot| spot.in_tissue == 0))
            .count();
        values.insert("spots_under_tissue_without_counts".into(), uncounted as f64);
        values.insert("spots_with_counts_beside_tissue".into(), beside as f64);
        if exceeds(beside, barcodes.len()) {
            problems.push(format!(
                "{beside} of {} barcodes with counts lie beside the tissue: the positions are of another section",
                barcodes.len()
            ));
        }
    }
    if let Some(path) = &params.annotation {
        let path = path.as_path();
        let annotation = annotation::read(path, params.annotation_column.as_deref(), &[])?;
        let others: Vec<&str> =
            annotation.sections.iter().map(String::as_str).filter(|name| *name != params.section).collect();
        if !others.is_empty() {
            problems.push(format!("{} says that it is of section {}", path.display(), others.join(", ")));
        }
        let stray = annotation.regions.keys().filter(|barcode| !barcodes.contains(barcode.as_str())).count();
        let known = annotation.regions.len() - stray;
        values.insert("annotated".into(), annotation.regions.len() as f64);
        values.insert("annotated_without_counts".into(), stray as f64);
        let coverage = known as f64 / barcodes.len() as f64;
        values.insert("annotated_share_of_spots".into(), coverage);
        if coverage < params.min_coverage {
            problems.push(format!(
                "{} names {known} of {} spots: it is of another section, or set `min_coverage` below {coverage:.2}",
                path.display(),
                barcodes.len()
            ));
        }
        if exceeds(stray, annotation.regions.len()) {
            problems.push(format!(
                "{stray} of {} barcodes of {} have no counts: it is of another section",
                annotation.regions.len(),
                path.display()
            ));
        }
    }
    let library = library(params)?;
    problems.extend(images::contradiction(&library));
    for (image, count) in outside(&library, &counts.barcodes, &positions) {
        values.insert(format!("spots_outside_{image}"), count as f64);
        if exceeds(count, barcodes.len()) {
            problems.push(format!(
                "{count} of {} spots lie outside the {image} image: it is of another section, or its scale is wrong",
                barcodes.len()
            ));
        }
    }
    values.insert("problems".into(), problems.len() as f64);
    Ok((values, problems))
}

fn library(params: &Params) -> Result<Library> {
    let spatial = params.path.as_path().join("spatial");
    let library = Library { scale_factors: images::read_scale_factors(&spatial)?, images: BTreeMap::new() };
    images::add_images(library, &spatial, &params.section)
}

/// Per image how many spots lie outside it.
fn outside(library: &Library, barcodes: &[String], positions: &positions::Positions) -> Vec<(String, usize)> {
    let count = |image: &Image| {
        let inside = |pixel: f64, side: usize| (0.0..side as f64).contains(&(pixel * image.scale));
        let spots = barcodes.iter().filter_map(|barcode| positions.get(barcode));
        spots.filter(|spot| !inside(spot.pxl_row, image.height) || !inside(spot.pxl_col, image.width)).count()
    };
    library.images.iter().map(|(name, image)| (name.clone(), count(image))).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::golden;

    fn params(path: &Path, section: &str, annotation: Option<&Path>) -> Params {
        serde_json::from_value(json!({"path": path, "section": section, "annotation": annotation})).unwrap()
    }

    #[test]
    fn sections_as_published_belong_together() {
        for (folder, section, annotated) in [
            ("dlpfc/151673", "151673", true),
            ("her2st/A1", "A1", true),
            ("her2st/G2", "G2", true),
            ("mouse_embryo_cytassist/outs", "embryo", false),
            ("msti_breast/outs", "breast", false),
            ("fixtures/seurat_visium", "brain", false),
        ] {
            let Some(outs) = golden::shared(&format!("data/{folder}")) else { return };
            let annotation = outs.join("annotation.csv");
            let params = params(&outs, section, annotated.then_some(annotation.as_path()));
            let (values, problems) = check(&params).unwrap();
            assert_eq!((values["problems"], problems), (0.0, Vec::<String>::new()), "{folder}");
        }
    }

    /// GraphST's folder `151673` holds 151507's metadata beside 151673's counts: most of its barcodes join.
    #[test]
    fn the_annotation_of_another_section_is_refused() {
        let Some(outs) = golden::shared("data/dlpfc/151673") else { return };
        let other = outs.join("../151507/annotation.csv");
        let (values, problems) = check(&params(&outs, "151673", Some(&other))).unwrap();
        assert_eq!((values["annotated"], values["annotated_without_counts"]), (4221.0, 740.0));
        assert!(problems[0].starts_with("740 of 4221 barcodes"), "{problems:?}");
    }

    #[test]
    fn an_annotation_that_names_another_section_is_refused() {
        let Some(outs) = golden::shared("data/dlpfc/151673") else { return };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metadata.csv");
        let right = std::fs::read_to_string(outs.join("annotation.csv")).unwrap();
        let lines = right.lines().skip(1).map(|line| format!("{line},151507\n"));
        std::fs::write(&path, format!("barcode,layer,sample_name\n{}", lines.collect::<String>())).unwrap();
        let mut params = params(&outs, "151673", Some(&path));
        params.annotation_column = Some("layer".into());
        let (_, problems) = check(&params).unwrap();
        assert!(
            problems.len() == 1 && problems[0].ends_with("says that it is of section 151507"),
            "{problems:?}"
        );
    }

    /// Copies 151673 with one file of 151507.
    fn mixed(file: &str) -> Option<Vec<String>> {
        let right = golden::shared("data/dlpfc/151673")?;
        let other = golden::shared("data/dlpfc/151507")?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("spatial")).unwrap();
        for name in [
            "filtered_feature_bc_matrix.h5",
            "spatial/tissue_positions_list.csv",
            "spatial/scalefactors_json.json",
            "spatial/tissue_lowres_image.png",
        ] {
            let from = if name == file { &other } else { &right };
            std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
        }
        Some(check(&params(folder.path(), "151673", None)).unwrap().1)
    }

    #[test]
    fn the_positions_of_another_section_are_refused() {
        let Some(problems) = mixed("spatial/tissue_positions_list.csv") else { return };
        assert!(
            problems[0].contains("lie beside the tissue: the positions are of another section"),
            "{problems:?}"
        );
        assert_eq!(mixed("none").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn the_image_of_another_section_is_refused() {
        let Some(data) = golden::shared("data/her2st") else { return };
        let with = |image: &Path, name: &str| {
            let folder = tempfile::tempdir().unwrap();
            for file in ["filtered_feature_bc_matrix.h5", "spatial"] {
                let (from, to) = (data.join("A1").join(file), folder.path().join(file));
                if from.is_file() {
                    std::fs::copy(from, to).unwrap();
                    continue;
                }
                std::fs::create_dir(&to).unwrap();
                for entry in std::fs::read_dir(from).unwrap().flatten() {
                    std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
                }
            }
            std::fs::copy(image, folder.path().join("spatial").join(name)).unwrap();
            check(&params(folder.path(), "A1", None)).unwrap().1
        };
        let hires = "tissue_hires_image.png";
        assert_eq!(with(&data.join("A1/spatial").join(hires), hires), Vec::<String>::new());
        let problems = with(&data.join("C2/spatial").join(hires), hires);
        assert!(
            problems.len() == 1
                && problems[0]
                    .starts_with("by the hires image and its scale, full resolution is 6505 x 6954")
                && problems[0].ends_with("of another section"),
            "{problems:?}"
        );
        let problems = with(&data.join("A1/spatial/tissue_lowres_image.png"), hires);
        assert!(problems[1].starts_with("346 of 346 spots lie outside the hires image"), "{problems:?}");
    }

    /// Judges the annotation of every section beside the counts of every one: those that were accepted.
    fn accepted(data: &str, sections: &[&str], outs_of: impl Fn(&Path, &str)) -> Option<Vec<[String; 2]>> {
        let data = golden::shared(data)?;
        let mut accepted = Vec::new();
        for section in sections {
            let folder = tempfile::tempdir().unwrap();
            outs_of(&data.join(section), folder.path().to_str().unwrap());
            for annotated in sections {
                let annotation = data.join(annotated).join("annotation.csv");
                let (_, problems) = check(&params(folder.path(), section, Some(&annotation))).unwrap();
                if problems.is_empty() {
                    accepted.push([section.to_string(), annotated.to_string()]);
                }
            }
        }
        Some(accepted)
    }

    fn copy_spatial(from: &Path, to: &Path) {
        std::fs::create_dir(to.join("spatial")).unwrap();
        for entry in std::fs::read_dir(from.join("spatial")).unwrap().flatten() {
            if !entry.file_name().to_string_lossy().ends_with(".png") {
                std::fs::copy(entry.path(), to.join("spatial").join(entry.file_name())).unwrap();
            }
        }
    }

    /// Ten of the twelve came without counts: one gene per spot under tissue stands for them.
    #[test]
    fn each_section_of_the_cortex_takes_its_own_annotation_and_hardly_another() {
        let sections = [
            "151507", "151508", "151509", "151510", "151669", "151670", "151671", "151672", "151673",
            "151674", "151675", "151676",
        ];
        let outs = |from: &Path, to: &str| {
            let to = Path::new(to);
            copy_spatial(from, to);
            let positions = positions::read(&to.join("spatial")).unwrap();
            let barcodes: Vec<&str> = positions.under_tissue().collect();
            let n = barcodes.len();
            let counts: String = (1..=n).map(|spot| format!("1 {spot} 1\n")).collect();
            let folder = to.join("filtered_feature_bc_matrix");
            std::fs::create_dir(&folder).unwrap();
            let banner = "%%MatrixMarket matrix coordinate integer general";
            std::fs::write(folder.join("matrix.mtx"), format!("{banner}\n1 {n} {n}\n{counts}")).unwrap();
            std::fs::write(folder.join("features.tsv"), "g\tg\tGene Expression\n").unwrap();
            std::fs::write(folder.join("barcodes.tsv"), barcodes.join("\n")).unwrap();
        };
        let Some(accepted) = accepted("data/dlpfc", &sections, outs) else { return };
        let (own, others): (Vec<_>, Vec<_>) =
            accepted.into_iter().partition(|[section, other]| section == other);
        assert_eq!(own, sections.map(|section| [section.to_owned(), section.to_owned()]));
        // These cover nearly the whole array, and hold all that smaller ones name: barcodes cannot tell nine pairs of 132.
        let hold_others = ["151508", "151509", "151510"];
        assert!(
            others.len() == 9 && others.iter().all(|[section, _]| hold_others.contains(&section.as_str())),
            "{others:?}"
        );
    }

    #[test]
    fn each_section_of_her2st_takes_its_own_annotation_alone() {
        let sections = ["A1", "B1", "C1", "D1", "E1", "F1", "G2", "H1"];
        let outs = |from: &Path, to: &str| {
            let to = Path::new(to);
            copy_spatial(from, to);
            let counts = "filtered_feature_bc_matrix.h5";
            std::fs::copy(from.join(counts), to.join(counts)).unwrap();
        };
        let Some(accepted) = accepted("data/her2st", &sections, outs) else { return };
        assert_eq!(accepted, sections.map(|section| [section.to_owned(), section.to_owned()]));
    }
}
