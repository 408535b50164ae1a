//! Sets of genes, such as pathways, that are hidden as wholes.

use std::{collections::HashMap, path::Path};

use rand::{Rng, seq::SliceRandom};
use restage_stage::{Error, Result};

/// The sets of a GMT file, among the genes of a table.
pub(crate) struct GeneSets {
    /// Places of each set's genes; of the sets that have any.
    sets: Vec<Vec<usize>>,
    /// Number of genes that are in a set.
    covered: usize,
    /// Of the file's content.
    pub(crate) digest: String,
}

impl GeneSets {
    /// Reads a file of MSigDB's format: a set a line, of its name, a description and its genes, with tabs between them.
    ///
    /// # Errors
    /// If it cannot be read, is of another format, or its sets have none of these genes.
    pub(crate) fn read(path: &Path, genes: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let places: HashMap<&str, usize> = genes.iter().map(String::as_str).zip(0..).collect();
        let mut sets = Vec::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let mut fields = line.split('\t');
            let (Some(_name), Some(_description), Some(first)) =
                (fields.next(), fields.next(), fields.next())
            else {
                return Err(Error::invalid(format!(
                    "{}, line {number}: a gene set is a name, a description and genes, with tabs between them (GMT)",
                    path.display()
                )));
            };
            let found = std::iter::once(first).chain(fields).filter_map(|gene| places.get(gene.trim()));
            let mut set: Vec<usize> = found.copied().collect();
            set.sort_unstable();
            set.dedup();
            sets.push(set);
        }
        let all = sets.len();
        sets.retain(|set| !set.is_empty());
        let mut covered = sets.concat();
        covered.sort_unstable();
        covered.dedup();
        let covered = covered.len();
        if covered == 0 {
            let all = if all == 1 { "1 gene set".to_owned() } else { format!("{all} gene sets") };
            return Err(Error::invalid(format!(
                "{} has {all}, and none of the table's {} genes is in one: do both name genes by symbol, of one species?",
                path.display(),
                genes.len()
            )));
        }
        tracing::info!(
            "{} of {all} gene sets have genes of the table; {covered} of its {} genes are in one",
            sets.len(),
            genes.len()
        );
        Ok(Self { sets, covered, digest: blake3::hash(text.as_bytes()).to_hex().to_string() })
    }

    /// Marks the genes of whole sets, drawn one after the other, until this share of the genes that are in any is reached.
    pub(crate) fn hide(&self, rate: f64, rng: &mut impl Rng, hidden: &mut [bool]) {
        let wanted = rate * self.covered as f64;
        let mut order: Vec<&Vec<usize>> = self.sets.iter().collect();
        order.shuffle(rng);
        let mut count = 0;
        for set in order {
            if f64::from(count) >= wanted {
                break;
            }
            for gene in set {
                count += u32::from(!std::mem::replace(&mut hidden[*gene], true));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use restage_stage::context::rng;

    use super::*;

    fn read(text: &str) -> Result<GeneSets> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sets.gmt");
        std::fs::write(&path, text).unwrap();
        let genes: Vec<String> = ["A", "B", "C", "D", "E", "F", "G", "H"].map(String::from).to_vec();
        GeneSets::read(&path, &genes)
    }

    #[test]
    fn whole_sets_are_hidden_until_the_share_is_reached() {
        let sets =
            read("one\t\tA\tB\nnone\tother genes\tX\tY\n\ntwo\thttps://x\tC\tD\tB\nthree\t\tE\tF\n").unwrap();
        assert_eq!((sets.sets.len(), sets.covered), (3, 6));
        let mut seen = [0; 8];
        for draw in 0..200 {
            let mut hidden = [false; 8];
            sets.hide(0.5, &mut rng(1, &format!("{draw}")), &mut hidden);
            let is_hidden = |genes: &[usize]| genes.iter().all(|gene| hidden[*gene]);
            let of_sets: Vec<_> = sets.sets.iter().filter(|set| is_hidden(set)).flatten().collect();
            assert!((0..8).all(|gene| hidden[gene] == of_sets.contains(&&gene)), "{hidden:?}");
            // Half of six: two sets of two, or that of three alone or after another.
            assert!((3..=5).contains(&hidden.iter().filter(|hidden| **hidden).count()), "{hidden:?}");
            (0..8).for_each(|gene| seen[gene] += usize::from(hidden[gene]));
        }
        // G and H are in no set.
        assert!(seen[..6].iter().all(|count| *count > 50) && seen[6..] == [0, 0], "{seen:?}");
    }

    #[test]
    fn files_of_other_formats_and_genes_are_named() {
        let error = |text: &str| read(text).err().unwrap().to_string();
        assert!(error("one\t\tA\nA,B,C\n").contains("sets.gmt, line 2: a gene set is a name, a description"));
        assert!(error("one\t\ta\tb\n").contains("1 gene set, and none of the table's 8 genes is in one"));
    }
}
