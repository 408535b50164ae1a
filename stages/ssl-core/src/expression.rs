//! Expression as an encoder sees it: genes standardised on the training spots.

use std::collections::HashMap;

use rayon::prelude::*;
use restage_stage::{
    Error, Result,
    artifact::{Csr, Table},
};
use serde::{Deserialize, Serialize};

/// Values further from the mean are cut off, as scanpy's `pp.scale(max_value=10)` does: a rarely seen gene's one
/// count would weigh more than all others.
const LIMIT: f32 = 10.0;

/// Genes with the mean and sd that standardise them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scaler {
    /// Names, in the order of the encoder's inputs.
    pub(crate) genes: Vec<String>,
    /// Mean per gene on the training spots.
    pub(crate) mean: Vec<f32>,
    /// Standard deviation per gene on the training spots; 1 for a gene that does not vary.
    pub(crate) sd: Vec<f32>,
}

impl Scaler {
    /// Fits it to spots (rows of `x`).
    pub(crate) fn fit(genes: &[String], x: &Csr) -> Self {
        let spots = x.n_rows() as f64;
        let mut mean = vec![0.0; x.n_cols];
        for (gene, value) in (0..x.n_rows()).flat_map(|spot| x.entries(spot)) {
            mean[gene] += f64::from(value) / spots;
        }
        // Every spot counts mean², and one with a stored value (value - mean)² instead.
        let mut squares: Vec<f64> = mean.iter().map(|mean| spots * mean * mean).collect();
        for (gene, value) in (0..x.n_rows()).flat_map(|spot| x.entries(spot)) {
            squares[gene] += (f64::from(value) - mean[gene]).powi(2) - mean[gene].powi(2);
        }
        let sd = |square: f64| {
            let sd = (square / (spots - 1.0).max(1.0)).max(0.0).sqrt() as f32;
            if sd > 1e-6 { sd } else { 1.0 }
        };
        Self {
            genes: genes.to_vec(),
            mean: mean.iter().map(|mean| *mean as f32).collect(),
            sd: squares.into_iter().map(sd).collect(),
        }
    }

    /// Refuses a table that holds NaN or infinity, by spot and gene.
    pub(crate) fn check_table(table: &Table) -> Result<()> {
        let spots = (0..table.n_spots()).into_par_iter();
        let broken = |spot: usize| table.x.entries(spot).find(|(_, value)| !value.is_finite());
        match spots.find_map_first(|spot| Some((spot, broken(spot)?))) {
            None => Ok(()),
            Some((spot, (gene, value))) => Err(Error::invalid(format!(
                "spot {} has {value} for gene {}: leave it out before, or repair it",
                table.obs.index[spot], table.var.index[gene]
            ))),
        }
    }

    /// Refuses one whose lists differ in length: a file can hold anything.
    pub(crate) fn check(&self) -> Result<()> {
        match self.genes.len() == self.mean.len() && self.genes.len() == self.sd.len() {
            true => Ok(()),
            false => Err(Error::invalid("the model's genes, means and sds differ in number")),
        }
    }

    /// Standardised values of one spot; `genes` gives each column of `x` its place, if it has one.
    fn spot(&self, x: &Csr, spot: usize, genes: &Genes, into: &mut [f32]) {
        into.copy_from_slice(&genes.unseen);
        for (gene, value) in x.entries(spot).filter_map(|(column, value)| Some((genes.place[column]?, value)))
        {
            into[gene] = self.scale(gene, value);
        }
    }

    fn scale(&self, gene: usize, value: f32) -> f32 {
        ((value - self.mean[gene]) / self.sd[gene]).clamp(-LIMIT, LIMIT)
    }

    /// Finds this scaler's genes among a table's by name. Genes that the table lacks stay at 0, their mean.
    ///
    /// # Errors
    /// If the table has none of them.
    pub(crate) fn find(&self, names: &[String]) -> Result<Genes> {
        let places: HashMap<&str, usize> =
            self.genes.iter().enumerate().map(|(place, gene)| (gene.as_str(), place)).collect();
        let place: Vec<Option<usize>> = names.iter().map(|name| places.get(name.as_str()).copied()).collect();
        let mut unseen = vec![0.0; self.genes.len()];
        for &gene in place.iter().flatten() {
            unseen[gene] = self.scale(gene, 0.0);
        }
        let found = place.iter().flatten().count();
        if found == 0 {
            return Err(Error::invalid(
                "the table has none of the model's genes: give it a table with the same gene names, normalised in \
                 the same way",
            ));
        }
        let missing = self.genes.len() - found;
        if missing > 0 {
            tracing::warn!(
                "the table lacks {missing} of the model's {} genes; they count as average",
                self.genes.len()
            );
        }
        Ok(Genes { place, unseen })
    }

    /// Standardised spots x genes of these rows of `x`.
    pub(crate) fn rows(&self, x: &Csr, genes: &Genes, spots: &[usize]) -> Vec<f32> {
        let mut rows = vec![0.0; spots.len() * self.genes.len()];
        rows.par_chunks_mut(self.genes.len().max(1))
            .zip(spots)
            .for_each(|(row, spot)| self.spot(x, *spot, genes, row));
        rows
    }
}

/// Expression of the spots that are trained on.
pub(crate) struct Expression<'a> {
    table: &'a Table,
    /// Rows of the table.
    rows: &'a [usize],
    scaler: Scaler,
    places: Genes,
}

impl<'a> Expression<'a> {
    /// Of these rows of a table that has genes of the scaler.
    ///
    /// # Errors
    /// If it has none of them.
    pub(crate) fn new(table: &'a Table, rows: &'a [usize], scaler: Scaler) -> Result<Self> {
        let places = scaler.find(&table.var.index)?;
        Ok(Self { table, rows, scaler, places })
    }

    /// Number of spots.
    pub(crate) fn spots(&self) -> usize {
        self.rows.len()
    }

    /// Number of genes.
    pub(crate) fn genes(&self) -> usize {
        self.scaler.genes.len()
    }

    /// Standardised spots x genes of a batch.
    pub(crate) fn values(&self, batch: &[usize]) -> Vec<f32> {
        let rows: Vec<usize> = batch.iter().map(|item| self.rows[*item]).collect();
        self.scaler.rows(&self.table.x, &self.places, &rows)
    }

    /// Id of a spot.
    pub(crate) fn id(&self, item: usize) -> &str {
        &self.table.obs.index[self.rows[item]]
    }
}

/// Where a table's genes lie among a scaler's.
pub(crate) struct Genes {
    /// Per column of the table.
    place: Vec<Option<usize>>,
    /// A spot's standardised values where nothing is stored.
    unseen: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn table() -> Csr {
        Csr::from_rows(3, [vec![(0, 1.0), (2, 5.0)], vec![(0, 3.0), (2, 5.0)], vec![(1, 6.0), (2, 5.0)]])
    }

    #[test]
    fn training_spots_come_out_with_mean_0_and_variance_1() {
        let names = names(&["a", "b", "c"]);
        let scaler = Scaler::fit(&names, &table());
        let rows = scaler.rows(&table(), &scaler.find(&names).unwrap(), &[0, 1, 2]);
        for gene in 0..2 {
            let values: Vec<f32> = (0..3).map(|spot| rows[spot * 3 + gene]).collect();
            let square: f32 = values.iter().map(|value| value * value).sum();
            assert!(
                values.iter().sum::<f32>().abs() < 1e-5 && (square / 2.0 - 1.0).abs() < 1e-5,
                "{values:?}"
            );
        }
        // A gene that does not vary says nothing.
        assert_eq!([rows[2], rows[5], rows[8]], [0.0; 3]);
    }

    #[test]
    fn genes_are_joined_by_name_and_missing_ones_are_average() {
        let scaler = Scaler::fit(&names(&["a", "b", "c"]), &table());
        let swapped = Csr::from_rows(2, [vec![(0, 6.0), (1, 1.0)]]);
        let genes = scaler.find(&names(&["b", "x"])).unwrap();
        let row = scaler.rows(&swapped, &genes, &[0]);
        assert_eq!(row, [0.0, (6.0 - scaler.mean[1]) / scaler.sd[1], 0.0]);
        assert!(scaler.find(&names(&["x"])).is_err());
    }
}
