//! The counts of a section: which of its files holds them, and what they must be, whatever the format.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use restage_stage::{
    Error, Result,
    artifact::{Categorical, Column, Csr, Frame},
};

use super::{h5, mtx};
use crate::values;

/// What spaceranger calls counts of tissue, then of every barcode: the first that exists is read.
const NAMES: [&str; 4] = [
    "filtered_feature_bc_matrix",
    "filtered_gene_bc_matrices",
    "raw_feature_bc_matrix",
    "raw_gene_bc_matrices",
];
/// The kind of feature that is read: antibodies, guides and the like are left out.
const GENES: &str = "Gene Expression";
/// Spots that a task looks at.
const SPOTS: usize = 256;

/// Counts of spots x genes.
#[derive(Debug)]
pub(crate) struct Counts {
    /// Barcode of each row.
    pub barcodes: Vec<String>,
    /// Counts.
    pub x: Csr,
    /// Per gene: unique name; `gene_ids`, `feature_types`; of several genomes, `genome`.
    pub genes: Frame,
}

/// What a file says of its features.
#[derive(Debug, Default)]
pub(crate) struct Features {
    pub ids: Vec<String>,
    pub names: Vec<String>,
    /// Empty where the format does not know kinds: all are genes.
    pub kinds: Vec<String>,
    /// Empty where the file does not say.
    pub genomes: Vec<String>,
}

/// Where the counts of a section lie.
#[derive(Debug, PartialEq)]
pub(crate) enum Source {
    /// Cell Ranger's HDF5.
    H5(PathBuf),
    /// The folder of a triple `matrix.mtx`, `features.tsv`, `barcodes.tsv`, gzipped or not.
    Mtx(PathBuf),
}

impl Source {
    /// The file or folder a user named.
    pub(crate) fn named(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::folder(path).ok_or_else(|| {
                Error::invalid(format!("{} holds no matrix.mtx or matrix.mtx.gz", path.display()))
            });
        }
        if path.is_file() { Ok(Self::H5(path.into())) } else { Err(Error::io(path)(not_found())) }
    }

    /// The counts in an `outs` folder.
    pub(crate) fn find(outs: &Path) -> Result<Self> {
        for name in NAMES {
            let (file, folder) = (outs.join(format!("{name}.h5")), outs.join(name));
            let source = if file.is_file() { Some(Self::H5(file)) } else { Self::folder(&folder) };
            if let Some(source) = source {
                if name.starts_with("raw") {
                    tracing::warn!(
                        "{}: reading {name}, which has every barcode; `visium/qc` leaves out those beside the tissue",
                        outs.display()
                    );
                }
                return Ok(source);
            }
        }
        let bins = bins(outs);
        let problem = if bins.is_empty() {
            format!("neither {0}.h5 nor {0}/: `path` should be the `outs` folder of spaceranger", NAMES[0])
        } else {
            format!("no counts, but those of Visium HD's bins: point `path` at one of {}", bins.join(", "))
        };
        Err(Error::invalid(format!("{} holds {problem}", outs.display())))
    }

    /// Whether the counts are of the spots under tissue only, by its name.
    pub(crate) fn is_filtered(&self) -> bool {
        let (Self::H5(path) | Self::Mtx(path)) = self;
        path.iter().any(|part| part.to_string_lossy().starts_with("filtered"))
    }

    /// A folder with a triple, or with one folder per genome of which there is one.
    fn folder(folder: &Path) -> Option<Self> {
        if mtx::is_triple(folder) {
            return Some(Self::Mtx(folder.into()));
        }
        let inner = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
        let mut triples = inner.filter(|inner| mtx::is_triple(inner));
        let first = triples.next()?;
        triples.next().is_none().then_some(Self::Mtx(first))
    }

    /// Reads the counts; of `genome` only, where that is given.
    pub(crate) fn read(&self, genome: Option<&str>) -> Result<Counts> {
        let (path, barcodes, features, x) = match self {
            Self::H5(path) => {
                let (barcodes, features, x) = h5::read(path, genome)?;
                (path, barcodes, features, x)
            }
            Self::Mtx(folder) => {
                let (barcodes, features, x) = mtx::read(folder)?;
                (folder, barcodes, features, x)
            }
        };
        counts(barcodes, features, x, genome)
            .map_err(|problem| Error::invalid(format!("{} {problem}", path.display())))
    }
}

fn not_found() -> std::io::Error {
    std::io::ErrorKind::NotFound.into()
}

/// The bin folders of a Visium HD run.
fn bins(outs: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(outs.join("binned_outputs")).into_iter().flatten().flatten();
    let mut bins: Vec<String> = entries.map(|entry| entry.path().display().to_string()).collect();
    bins.sort_unstable();
    bins
}

/// What every format's counts must be; genes only, with unique names.
fn counts(barcodes: Vec<String>, features: Features, x: Csr, genome: Option<&str>) -> Result<Counts, String> {
    let Features { ids, names, kinds, genomes } = features;
    let fits = |list: &Vec<String>| list.is_empty() || list.len() == names.len();
    if ids.len() != names.len() || !fits(&kinds) || !fits(&genomes) {
        return Err("has feature names, ids and types of different lengths".into());
    }
    if (x.n_rows(), x.n_cols) != (barcodes.len(), names.len()) {
        let (rows, cols, spots, genes) = (x.n_rows(), x.n_cols, barcodes.len(), names.len());
        return Err(format!("has counts of {rows} x {cols} for {spots} barcodes and {genes} features"));
    }
    if barcodes.is_empty() || names.is_empty() {
        let (spots, genes) = (barcodes.len(), names.len());
        return Err(format!("is empty: it has {spots} barcodes and {genes} features"));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = barcodes.iter().find(|barcode| !seen.insert(barcode.as_str())) {
        return Err(format!("has the barcode `{twice}` twice"));
    }
    let rows = (0..barcodes.len()).into_par_iter().with_min_len(SPOTS);
    if let Some(spot) = rows.find_first(|&spot| values::first(x.row(spot).1, values::is_no_amount).is_some())
    {
        let wrong = x.entries(spot).find(|&(_, value)| values::is_no_amount(value));
        let (gene, value) = wrong.unwrap_or_default();
        let (gene, barcode) = (&names[gene], &barcodes[spot]);
        return Err(format!("has a count of {value} for gene `{gene}` of barcode `{barcode}`"));
    }
    let of_genome =
        |gene: usize| genome.is_none_or(|genome| genomes.get(gene).is_none_or(|found| found == genome));
    let is_gene = |gene: usize| kinds.get(gene).is_none_or(|kind| kind == GENES);
    let kept: Vec<usize> = (0..names.len()).filter(|&gene| is_gene(gene) && of_genome(gene)).collect();
    if kept.is_empty() {
        let genome = genome.map(|genome| format!(" of genome `{genome}`")).unwrap_or_default();
        return Err(format!("has no feature of type `{GENES}`{genome}"));
    }
    let several: HashSet<&str> = kept.iter().filter_map(|&gene| Some(genomes.get(gene)?.as_str())).collect();
    let genome = (several.len() > 1).then(|| {
        Column::Categorical(Categorical::encode(genomes.iter().map(|genome| Some(genome.as_str()))))
    });
    let kinds = if kinds.is_empty() { vec![GENES.to_owned(); names.len()] } else { kinds };
    let columns = [("gene_ids", ids), ("feature_types", kinds)];
    let features = names.len();
    let mut frame = Frame {
        index: names,
        columns: columns.map(|(name, column)| (name.into(), Column::Text(column))).into(),
    };
    if let Some(genome) = genome {
        frame.push("genome", genome);
    }
    let (x, mut genes) = if kept.len() == frame.len() {
        (x, frame)
    } else {
        (x.into_selected(&(0..barcodes.len()).collect::<Vec<_>>(), &kept), frame.into_selected(&kept))
    };
    if kept.len() < features {
        let others = features - kept.len();
        tracing::info!(
            "{others} of {features} features are left out: they are no genes, or not of this genome"
        );
    }
    genes.index = unique(genes.index);
    Ok(Counts { barcodes, x, genes })
}

/// Names that come again get `-1`, `-2`, … in order of appearance, as anndata's `var_names_make_unique` does.
pub(crate) fn unique(mut names: Vec<String>) -> Vec<String> {
    // Of every name the last number that it got.
    let mut numbers: HashMap<&str, usize> = HashMap::with_capacity(names.len());
    let again = |place: &usize| numbers.insert(&names[*place], 0).is_some();
    let again: Vec<usize> = (0..names.len()).filter(again).collect();
    let mut taken: HashSet<String> = HashSet::new();
    let mut renamed = Vec::with_capacity(again.len());
    for place in again {
        let name = &names[place];
        let mut last = numbers[name.as_str()];
        let candidate = loop {
            last += 1;
            let candidate = format!("{name}-{last}");
            if !numbers.contains_key(candidate.as_str()) && taken.insert(candidate.clone()) {
                break candidate;
            }
        };
        numbers.insert(name, last);
        renamed.push((place, candidate));
    }
    if let Some((place, name)) = renamed.first() {
        let count = renamed.len();
        tracing::info!(
            "names of genes that come again get a number: {count}, the first `{}`, now `{name}`",
            names[*place]
        );
    }
    for (place, name) in renamed {
        names[place] = name;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_that_come_again_are_numbered() {
        let names = texts(&["A", "B", "A", "A-1", "A", "B"]);
        // anndata 0.13.4: make_index_unique(pd.Index(["A", "B", "A", "A-1", "A", "B"]))
        assert_eq!(unique(names), ["A", "B", "A-2", "A-1", "A-3", "B-1"]);
    }

    fn two_genes(value: f32, barcodes: &[&str]) -> Result<Counts, String> {
        let features = Features { ids: texts(&["1", "2"]), names: texts(&["a", "b"]), ..Features::default() };
        let x = Csr::from_rows(2, barcodes.iter().map(|_| vec![(1, value)]));
        counts(texts(barcodes), features, x, None)
    }

    #[test]
    fn what_is_no_count_is_named_with_gene_and_barcode() {
        assert!(two_genes(2.0, &["x"]).is_ok());
        for (value, name) in [(f32::NAN, "NaN"), (-1.0, "-1"), (f32::INFINITY, "inf")] {
            let problem = two_genes(value, &["x"]).unwrap_err();
            assert_eq!(problem, format!("has a count of {name} for gene `b` of barcode `x`"));
        }
    }

    #[test]
    fn empty_sections_and_repeated_barcodes_are_refused() {
        assert_eq!(two_genes(1.0, &[]).unwrap_err(), "is empty: it has 0 barcodes and 2 features");
        assert_eq!(two_genes(1.0, &["x", "y", "x"]).unwrap_err(), "has the barcode `x` twice");
    }

    #[test]
    fn only_genes_of_the_genome_stay() {
        let features = || Features {
            ids: texts(&["1", "2", "3"]),
            names: texts(&["a", "b", "c"]),
            kinds: texts(&[GENES, "Antibody Capture", GENES]),
            genomes: texts(&["hg", "hg", "mm"]),
        };
        let x = Csr::from_rows(3, [vec![(0, 1.0), (1, 2.0), (2, 3.0)]]);
        let read = |genome| counts(texts(&["x"]), features(), x.clone(), genome);
        let both = read(None).unwrap().genes;
        assert_eq!(both.index, ["a", "c"]);
        let Some(Column::Categorical(genomes)) = both.column("genome") else { panic!("{both:?}") };
        assert_eq!(genomes.iter().collect::<Vec<_>>(), [Some("hg"), Some("mm")]);
        assert_eq!(read(Some("mm")).unwrap().genes.column("genome"), None);
        assert_eq!(read(Some("mm")).unwrap().x.data, [3.0]);
        assert!(read(Some("zz")).unwrap_err().contains("of genome `zz`"));
    }
}
