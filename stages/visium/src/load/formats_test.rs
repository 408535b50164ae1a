//! Every layout of counts and positions that spaceranger and its kin write, against scanpy 1.11.5 on the same files;
//! and what is broken, which must never panic.

use std::path::Path;

use proptest::prelude::*;

use super::{
    counts::{Counts, Source},
    positions,
};
use crate::golden;

fn sums(counts: &Counts) -> (f64, f64) {
    let mut plain = 0.0;
    let mut weighted = 0.0;
    for spot in 0..counts.x.n_rows() {
        for (gene, value) in counts.x.entries(spot) {
            plain += f64::from(value);
            weighted += f64::from(value) * (spot + 1) as f64 * (gene + 1) as f64;
        }
    }
    (plain, weighted)
}

/// Spots, genes, stored counts, their sum, their sum weighted by (spot + 1) (gene + 1), first barcode, first gene.
type Wanted = (usize, usize, usize, f64, f64, &'static str, &'static str);

fn check(path: &str, genome: Option<&str>, wanted: Wanted) {
    let Some(path) = golden::shared(&format!("data/{path}")) else { return };
    let counts = Source::named(&path).unwrap().read(genome).unwrap();
    let (plain, weighted) = sums(&counts);
    let found = (
        counts.barcodes.len(),
        counts.genes.len(),
        counts.x.data.len(),
        plain,
        weighted,
        counts.barcodes[0].as_str(),
        counts.genes.index[0].as_str(),
    );
    assert_eq!(found, wanted, "{}", path.display());
}

#[test]
fn hdf5_of_every_version_is_read_as_scanpy_reads_it() {
    let fixtures = "fixtures/scanpy_10x_data";
    let legacy = (12, 343, 12, 12.0, 15384.0, "AACACGTGTACGCTGC-1", "DSCAM");
    check(&format!("{fixtures}/1.2.0/filtered_gene_bc_matrices_h5.h5"), None, legacy);
    let other = (12, 343, 12, 13.0, 16233.0, "AACACGTGTACGCTGC-1", "gene_0");
    check(&format!("{fixtures}/1.2.0/multiple_genomes.h5"), Some("another_genome"), other);
    let v3 = (1107, 507, 23866, 41549.0, 7_376_015_539.0, "AAACCCAAGGAGAGTA-1", "CH507-9B2.2");
    check(&format!("{fixtures}/3.0.0/filtered_feature_bc_matrix.h5"), None, v3);
    let visium = (100, 100, 656, 932.0, 2_593_014.0, "AAACAAGTATCTCCCA-1", "ENSG00000243485");
    check("fixtures/scanpy_visium/1.0.0/filtered_feature_bc_matrix.h5", None, visium);
    let probes = (4987, 1000, 858, 3372.0, 4_792_325_800.0, "AACACCTACTATCGAA-1", "Itgb2l|2ef1e7b");
    check("fixtures/scanpy_visium/2.1.0/raw_probe_bc_matrix.h5", None, probes);
    let unsigned = (50, 49, 344, 607.0, 378_265.0, "AAACAACGAATAGTTC-1", "Xkr4");
    check("fixtures/visiumio/10xVisium/section1/outs/raw_feature_bc_matrix.h5", None, unsigned);
    let seurat = (2695, 100, 50355, 132_231.0, 8_077_558_452.0, "AAACAAGTATCTCCCA-1", "Xkr4");
    check("fixtures/seurat_visium/filtered_feature_bc_matrix.h5", None, seurat);
    for bin in ["square_008um", "square_016um"] {
        let file = format!("fixtures/seurat_visium_hd/binned_outputs/{bin}/filtered_feature_bc_matrix.h5");
        check(&file, None, seurat);
    }
    let empty = (10, 10, 0, 0.0, 0.0, "s_002um_02448_01644-1", "Xkr4");
    check("fixtures/visiumio/binned_outputs/square_002um/filtered_feature_bc_matrix.h5", None, empty);
}

#[test]
fn triples_of_every_version_are_read_as_scanpy_reads_them() {
    let fixtures = "fixtures/scanpy_10x_data";
    let legacy = (12, 343, 12, 12.0, 15384.0, "AACACGTGTACGCTGC-1", "DSCAM");
    check(&format!("{fixtures}/1.2.0/filtered_gene_bc_matrices"), None, legacy);
    let v3 = (1107, 507, 23866, 41549.0, 7_376_015_539.0, "AAACCCAAGGAGAGTA-1", "CH507-9B2.2");
    check(&format!("{fixtures}/3.0.0/filtered_feature_bc_matrix"), None, v3);
    let embryo = (2898, 19465, 1_069_459, 3_085_005.0, 43_299_992_191_840.0, "AACAGGAAGAGCATAG-1", "Xkr4");
    check("mouse_embryo_cytassist/outs/filtered_feature_bc_matrix", None, embryo);
    let breast =
        (2172, 36601, 1_104_184, 1_720_934.0, 44_471_416_534_921.0, "AGATCGCAAGATCGCA", "MIR1302-2HG");
    check("msti_breast/outs/filtered_feature_bc_matrix", None, breast);
    let cortex = (3639, 500, 118_617, 186_564.0, 93_279_163_495.0, "AAACAAGTATCTCCCA-1", "ENSG00000282097");
    check("dlpfc/151673/filtered_feature_bc_matrix", None, cortex);
}

/// Every count file of the folder: spots, genes, stored counts and their sum by scanpy 1.11.5 and scipy.
#[test]
fn every_file_holds_the_counts_that_python_finds() {
    for (path, spots, genes, stored, total) in [
        ("dlpfc/151510/filtered_feature_bc_matrix.h5", 4634, 500, 1_112_107, 4_652_972.0),
        ("dlpfc/151510/filtered_feature_bc_matrix", 4634, 500, 1_112_107, 4_652_972.0),
        ("dlpfc/151673/filtered_feature_bc_matrix.h5", 3639, 500, 118_617, 186_564.0),
        ("fixtures/scanpy_10x_data/int-ids", 5, 6, 3, 8.0),
        ("fixtures/sfe_sample01/outs/filtered_feature_bc_matrix", 12, 5, 60, 2951.0),
        ("fixtures/sfe_sample02/outs/filtered_feature_bc_matrix", 13, 5, 62, 2762.0),
        ("fixtures/visiumio/10xVisium/section1/outs/raw_feature_bc_matrix", 50, 50, 338, 682.0),
        ("fixtures/visiumio/10xVisium/section2/outs/raw_feature_bc_matrix", 50, 50, 338, 682.0),
        ("fixtures/visiumio/10xVisium/section2/outs/raw_feature_bc_matrix.h5", 50, 49, 282, 419.0),
        ("fixtures/visiumio/binned_outputs/square_002um/filtered_feature_bc_matrix", 10, 10, 0, 0.0),
    ] {
        let Some(file) = golden::shared(&format!("data/{path}")) else { return };
        let counts = Source::named(&file).unwrap().read(None).unwrap();
        let found = (counts.barcodes.len(), counts.genes.len(), counts.x.data.len(), sums(&counts).0);
        assert_eq!(found, (spots, genes, stored, total), "{path}");
    }
}

/// A section of spaceranger's and its number of spots x genes, of which so many lie under tissue.
fn check_section(path: &str, wanted: (usize, usize, usize)) {
    let Some(outs) = golden::shared(&format!("data/{path}")) else { return };
    let counts = Source::find(&outs).unwrap().read(None).unwrap();
    let spots = positions::read(&outs.join("spatial")).unwrap().in_order_of(&counts.barcodes).unwrap();
    let under_tissue = spots.iter().filter(|spot| spot.in_tissue == 1).count();
    assert_eq!((spots.len(), counts.genes.len(), under_tissue), wanted, "{path}");
}

#[test]
fn whole_sections_join_counts_and_positions() {
    check_section("mouse_embryo_cytassist/outs", (2898, 19465, 2898));
    check_section("msti_breast/outs", (2172, 36601, 2172));
    check_section("fixtures/seurat_visium", (2695, 100, 2695));
    check_section("fixtures/visiumio/10xVisium/section1/outs", (50, 49, 22));
    check_section("fixtures/visiumio/binned_outputs/square_002um", (10, 10, 10));
    check_section("fixtures/sfe_sample01/outs", (12, 5, 12));
}

#[test]
fn positions_of_visium_hd_are_read() {
    let Some(folder) = golden::shared("data/fixtures/seurat_visium_hd/binned_outputs") else { return };
    let first = |bin: &str, barcode: &str| {
        let spatial = folder.join(bin).join("spatial");
        positions::read(&spatial).unwrap().in_order_of(&[barcode.to_owned()]).unwrap()[0]
    };
    // pandas 2.3.3: pd.read_parquet(…).iloc[0]
    let spot = first("square_008um", "ACGCCTGACACGCGCT-1");
    assert_eq!((spot.in_tissue, spot.array_row, spot.array_col), (1, 276, 202));
    assert_eq!((spot.pxl_row, spot.pxl_col), (8313.22069107075, 11020.505195256683));
    assert_eq!(first("square_016um", "TCCTTCAATCCCTACG-1").pxl_col, 13648.299468258207);
}

#[test]
fn files_that_leave_a_choice_say_so() {
    let Some(path) = golden::shared("data/fixtures/scanpy_10x_data/1.2.0/multiple_genomes.h5") else {
        return;
    };
    let problem = Source::named(&path).unwrap().read(None).unwrap_err().to_string();
    assert!(
        problem.ends_with("has several genomes; set `genome` to one of another_genome, hg19_chr21"),
        "{problem}"
    );
    let problem = Source::named(&path).unwrap().read(Some("mm10")).unwrap_err().to_string();
    assert!(problem.contains("has no genome `mm10`"), "{problem}");
    let Some(outs) = golden::shared("data/fixtures/seurat_visium_hd") else { return };
    let problem = Source::find(&outs).unwrap_err().to_string();
    assert!(problem.contains("Visium HD's bins: point `path` at one of"), "{problem}");
}

/// Every way to cut a file off ends in an error that names it, be it only padding that was lost: h5py opens none of these.
fn check_cut(original: &Path, name: &str, share: f64) {
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(original).unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, &bytes[..(bytes.len() as f64 * share) as usize]).unwrap();
    let error = Source::named(&path).unwrap().read(None).unwrap_err().to_string();
    assert!(error.contains(name), "{share}: {error}");
    assert!(share < 0.1 || error.contains("is cut off: it has "), "{share}: {error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_file_that_is_cut_off_is_an_error(share in 0.0..0.99) {
        let fixture = "data/fixtures/scanpy_10x_data/3.0.0/filtered_feature_bc_matrix.h5";
        if let Some(original) = golden::shared(fixture) {
            check_cut(&original, "cut.h5", share);
        }
    }

    #[test]
    fn a_file_with_a_changed_byte_never_panics(place in 0.0..1.0, byte: u8) {
        let fixture = "data/fixtures/visiumio/10xVisium/section1/outs/raw_feature_bc_matrix.h5";
        if let Some(original) = golden::shared(fixture) {
            let mut bytes = std::fs::read(original).unwrap();
            let place = (bytes.len() as f64 * place) as usize;
            bytes[place] = byte;
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("changed.h5");
            std::fs::write(&path, bytes).unwrap();
            let _ = Source::named(&path).unwrap().read(None);
        }
    }
}
