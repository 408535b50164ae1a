//! Sections that are made up and written in every layout come back as they were; whatever then happens to their files is an
//! error that names one of them, never a panic and never other counts.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use proptest::{collection::vec, prelude::*};
use restage_stage::{Result, artifact::Table};
use serde_json::json;

use super::load_table;

/// A section before it is written.
#[derive(Clone, Debug)]
struct Section {
    /// Counts of spots x genes.
    counts: Vec<Vec<u16>>,
    /// Names of genes; may come twice.
    genes: Vec<String>,
    gzipped: bool,
    positions: Positions,
    /// The order in which positions stand in their file.
    order: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Positions {
    Headerless,
    Header,
    /// With a byte order mark and Windows' ends of lines.
    Windows,
}

fn section() -> impl Strategy<Value = Section> {
    (1_usize..9, 1_usize..7)
        .prop_flat_map(|(spots, genes)| {
            (
                vec(vec(prop_oneof![Just(0_u16), 0_u16..3000], genes), spots),
                vec(
                    prop_oneof!["[A-Z]{1,3}[0-9]?", Just("TWICE".to_owned()), Just("α-SMA".to_owned())],
                    genes,
                ),
                any::<bool>(),
                prop_oneof![Just(Positions::Headerless), Just(Positions::Header), Just(Positions::Windows)],
                Just((0..spots).collect::<Vec<_>>()).prop_shuffle(),
            )
        })
        .prop_map(|(counts, genes, gzipped, positions, order)| Section {
            counts,
            genes,
            gzipped,
            positions,
            order,
        })
}

fn barcode(spot: usize) -> String {
    format!("ACGT{spot:04}-1")
}

impl Section {
    /// Writes it, and returns its files.
    fn write(&self, outs: &Path) -> Vec<PathBuf> {
        let folder = outs.join("filtered_feature_bc_matrix");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(outs.join("spatial")).unwrap();
        let entries: Vec<String> = (0..self.counts.len())
            .flat_map(|spot| (0..self.genes.len()).map(move |gene| (spot, gene)))
            .filter(|&(spot, gene)| self.counts[spot][gene] > 0)
            .map(|(spot, gene)| format!("{} {} {}\n", gene + 1, spot + 1, self.counts[spot][gene]))
            .collect();
        let sizes = format!("{} {} {}\n", self.genes.len(), self.counts.len(), entries.len());
        let banner = "%%MatrixMarket matrix coordinate integer general\n%\n".to_owned();
        let features = |(gene, name): (usize, &String)| format!("id{gene}\t{name}\tGene Expression\n");
        let mut files = vec![
            self.text(&folder, "matrix.mtx", &(banner + &sizes + &entries.concat())),
            self.text(
                &folder,
                "features.tsv",
                &self.genes.iter().enumerate().map(features).collect::<String>(),
            ),
            self.text(
                &folder,
                "barcodes.tsv",
                &(0..self.counts.len()).map(|spot| barcode(spot) + "\n").collect::<String>(),
            ),
        ];
        let header = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres";
        let line =
            |&spot: &usize| format!("{},1,{spot},{},{}.5,{}", barcode(spot), 2 * spot, 10 * spot, 7 * spot);
        let lines: Vec<String> = self.order.iter().map(line).collect();
        let (name, text) = match self.positions {
            Positions::Headerless => ("tissue_positions_list.csv", lines.join("\n") + "\n"),
            Positions::Header => ("tissue_positions.csv", format!("{header}\n{}\n", lines.join("\n"))),
            Positions::Windows => {
                ("tissue_positions.csv", format!("\u{feff}{header}\r\n{}\r\n", lines.join("\r\n")))
            }
        };
        for (name, text) in
            [(name, text.as_str()), ("scalefactors_json.json", r#"{"spot_diameter_fullres": 4.0}"#)]
        {
            let path = outs.join("spatial").join(name);
            std::fs::write(&path, text).unwrap();
            files.push(path);
        }
        files
    }

    fn text(&self, folder: &Path, name: &str, text: &str) -> PathBuf {
        if !self.gzipped {
            std::fs::write(folder.join(name), text).unwrap();
            return folder.join(name);
        }
        let path = folder.join(format!("{name}.gz"));
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        writer.write_all(text.as_bytes()).unwrap();
        writer.finish().unwrap();
        path
    }

    fn is(&self, table: &Table) -> bool {
        let row = |spot: usize| {
            let mut row = vec![0.0; table.n_genes()];
            table.x.dense_row(spot, &mut row);
            row
        };
        (table.n_spots(), table.n_genes()) == (self.counts.len(), self.genes.len())
            && (0..self.counts.len()).all(|spot| {
                row(spot) == self.counts[spot].iter().map(|&count| f32::from(count)).collect::<Vec<_>>()
                    && table.obs.index[spot] == format!("s_{}", barcode(spot))
                    && table.spatial[spot] == [7.0 * spot as f64, 10.0 * spot as f64 + 0.5]
            })
            // A name that comes again has a number behind it.
            && table.var.index.iter().zip(&self.genes).all(|(found, name)| found.starts_with(name.as_str()))
            && table.var.index.iter().collect::<std::collections::HashSet<_>>().len() == self.genes.len()
    }
}

fn load(outs: &Path) -> Result<Table> {
    load_table(&serde_json::from_value(json!({ "path": outs, "section": "s" })).unwrap())
}

/// The error names a file of the section, or the folder in which one is missing.
fn names_a_file(outs: &Path, error: restage_stage::Error) -> bool {
    let told = error.chain().join(": ");
    let within = outs.display().to_string();
    told.contains(&within) || told.contains("barcode")
}

/// Whether a cut leaves all but the end of the last line: then a number may have lost digits, which nobody can see.
fn is_in_last_line(bytes: &[u8], kept: usize) -> bool {
    !bytes[kept..bytes.len().saturating_sub(1).max(kept)].contains(&b'\n')
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn a_section_comes_back_in_every_layout(section in section()) {
        let outs = tempfile::tempdir().unwrap();
        section.write(outs.path());
        let table = load(outs.path()).unwrap();
        prop_assert!(section.is(&table), "{section:?} {table:?}");
    }

    #[test]
    fn a_file_that_is_cut_off_is_an_error_or_still_whole(section in section(), which in 0_usize..5, at in 0.0..1.0_f64) {
        let outs = tempfile::tempdir().unwrap();
        let file = &section.write(outs.path())[which];
        let bytes = std::fs::read(file).unwrap();
        let kept = (at * bytes.len() as f64) as usize;
        std::fs::write(file, &bytes[..kept]).unwrap();
        // Positions and scale factors are plain text in every section.
        let is_packed = file.extension().is_some_and(|name| name == "gz");
        match load(outs.path()) {
            Ok(table) => prop_assert!(section.is(&table) || (!is_packed && is_in_last_line(&bytes, kept))),
            Err(error) => prop_assert!(names_a_file(outs.path(), error)),
        }
    }

    #[test]
    fn a_file_that_is_gone_is_named(section in section(), which in 0_usize..5) {
        let outs = tempfile::tempdir().unwrap();
        std::fs::remove_file(&section.write(outs.path())[which]).unwrap();
        prop_assert!(names_a_file(outs.path(), load(outs.path()).unwrap_err()));
    }

    /// A digit may become another: what comes back is sound, or an error says where.
    #[test]
    fn a_byte_that_is_another_is_no_panic(section in section(), which in 0_usize..5, at in 0.0..1.0_f64, byte: u8) {
        let outs = tempfile::tempdir().unwrap();
        let file = &section.write(outs.path())[which];
        let mut bytes = std::fs::read(file).unwrap();
        let place = (at * bytes.len() as f64) as usize;
        bytes[place] = byte;
        std::fs::write(file, &bytes).unwrap();
        match load(outs.path()) {
            Ok(table) => prop_assert!(table.x.data.iter().all(|count| count.is_finite() && *count >= 0.0)),
            Err(error) => prop_assert!(names_a_file(outs.path(), error)),
        }
    }

    #[test]
    fn files_of_two_sections_do_not_join(one in section(), other in section()) {
        let outs = tempfile::tempdir().unwrap();
        one.write(outs.path());
        let elsewhere = tempfile::tempdir().unwrap();
        let gz = if other.gzipped { ".gz" } else { "" };
        other.write(elsewhere.path());
        // Barcodes of another number of spots cannot be those of the matrix.
        let name = format!("filtered_feature_bc_matrix/barcodes.tsv{gz}");
        for suffix in ["", ".gz"] {
            let _ = std::fs::remove_file(outs.path().join(format!("filtered_feature_bc_matrix/barcodes.tsv{suffix}")));
        }
        std::fs::copy(elsewhere.path().join(&name), outs.path().join(&name)).unwrap();
        match load(outs.path()) {
            Ok(table) => prop_assert!(one.counts.len() == other.counts.len() && one.is(&table)),
            Err(error) => {
                prop_assert!(one.counts.len() != other.counts.len());
                prop_assert!(names_a_file(outs.path(), error));
            }
        }
    }
}

/// Real files of both layouts of HDF5, cut and changed in many places.
#[test]
fn hdf5_that_is_damaged_is_an_error_and_never_a_panic() {
    for name in ["3.0.0/filtered_feature_bc_matrix.h5", "1.2.0/filtered_gene_bc_matrices_h5.h5"] {
        let Some(path) = crate::golden::shared(&format!("data/fixtures/scanpy_10x_data/{name}")) else {
            return;
        };
        let whole = std::fs::read(path).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("damaged.h5");
        let read = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            super::counts::Source::named(&file).unwrap().read(None)
        };
        let sound = read(&whole).unwrap();
        for part in 0..60 {
            let error = read(&whole[..whole.len() * part / 60]).unwrap_err().chain().join(": ");
            assert!(error.contains("damaged.h5"), "{error}");
        }
        let (mut told, mut state) = (0, 7_u64);
        for _ in 0..150 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut bytes = whole.clone();
            let place = (state >> 20) as usize % bytes.len();
            bytes[place] ^= 1 << (state >> 60 & 7);
            match read(&bytes) {
                // A name or a count that is another, or a byte that nothing reads.
                Ok(counts) => assert_eq!(counts.x.n_rows(), sound.x.n_rows()),
                Err(error) => {
                    let error = error.chain().join(": ");
                    assert!(error.contains("damaged.h5"), "{error}");
                    told += 1;
                }
            }
        }
        println!("{name}: {told} of 150 changed bits are told");
        assert!(told > 0);
    }
}
