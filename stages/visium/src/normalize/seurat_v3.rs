//! Highly variable genes by standardised variance (Stuart et al. 2019), step by step as scanpy's flavour `seurat_v3`: on
//! counts, the variance of each gene after clipping, in units of what genes of its mean have.

use restage_stage::{Error, Result, artifact::Csr};

use super::{loess, variable_genes::moments};

/// Per gene: mean, variance (n - 1) and standardised variance of its counts.
#[derive(Debug)]
pub(super) struct Standardised {
    pub(super) means: Vec<f64>,
    pub(super) variances: Vec<f64>,
    /// 0 of a gene that does not vary.
    pub(super) normalized: Vec<f64>,
}

impl Standardised {
    /// Of the spots at `rows`; `span` is the share of genes that each point of the fitted curve is drawn from.
    ///
    /// # Errors
    /// If too few genes vary to fit the curve.
    pub(super) fn of(counts: &Csr, rows: &[usize], span: f64) -> Result<Self> {
        let (means, variances): (Vec<f64>, Vec<f64>) =
            moments(counts, rows, |_, value| value).into_iter().unzip();
        let varying: Vec<usize> = (0..means.len()).filter(|&gene| variances[gene] > 0.0).collect();
        let logs = |values: &[f64]| varying.iter().map(|&gene| values[gene].log10()).collect::<Vec<_>>();
        let curve = loess::fit(&logs(&means), &logs(&variances), span).ok_or_else(|| {
            Error::invalid(format!(
                "flavor: seurat_v3 cannot draw its curve through {} genes that vary, with span: {span}; raise the span, \
                 or use `seurat`",
                varying.len()
            ))
        })?;
        // A gene that does not vary has an expected deviation of 1: it ends up at 0.
        let mut expected = vec![1.0_f64; means.len()];
        for (&gene, fitted) in varying.iter().zip(curve) {
            expected[gene] = 10.0_f64.powf(fitted).sqrt();
        }
        let n = rows.len() as f64;
        let (mut sums, mut squares) = (vec![0.0; means.len()], vec![0.0; means.len()]);
        for &row in rows {
            for (gene, value) in counts.entries(row) {
                let clipped = f64::from(value).min(expected[gene] * n.sqrt() + means[gene]);
                sums[gene] += clipped;
                squares[gene] += clipped * clipped;
            }
        }
        let normalized = (0..means.len())
            .map(|gene| {
                let mean = means[gene];
                let spread = n * mean * mean + squares[gene] - 2.0 * sums[gene] * mean;
                spread / ((n - 1.0) * expected[gene].powi(2))
            })
            .collect();
        Ok(Self { means, variances, normalized })
    }

    /// Whether each gene is among the `wanted` most variable: exactly so many; of equals, those that come first.
    pub(super) fn top(&self, wanted: usize) -> Vec<bool> {
        let mut ranked: Vec<usize> = (0..self.normalized.len()).collect();
        ranked.sort_by(|&a, &b| self.normalized[b].total_cmp(&self.normalized[a]));
        let mut chosen = vec![false; ranked.len()];
        ranked.into_iter().take(wanted).for_each(|gene| chosen[gene] = true);
        chosen
    }
}
