//! Stage type `visium/scale`: genes to mean 0 and standard deviation 1, as scanpy's `pp.scale`.

use rayon::prelude::*;
use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Csr, Split, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    fit::{self, FitOn},
    normalize::moments,
};

/// The stage type.
pub(crate) struct Scale;

/// Params of `visium/scale`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Whether genes are shifted to mean 0. Then every value is stored, 8 bytes each: choose genes before. Default true.
    pub(crate) zero_center: bool,
    /// Values beyond it are cut off: above it, and below its negative where genes are shifted; null = none are. Default
    /// 10.
    pub(crate) max_value: Option<f64>,
    /// Which spots means and deviations are those of. Default `train`.
    pub(crate) fit_on: FitOn,
}

impl Default for Params {
    fn default() -> Self {
        Self { zero_center: true, max_value: Some(10.0), fit_on: FitOn::Train }
    }
}

impl Stage for Scale {
    const NAME: &'static str = "scale";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Divides each gene by its standard deviation (n - 1) and, by default, shifts it to mean 0 before, as \
             scanpy's scale. A gene that does not vary is not divided.",
        )
        .input::<Table>("table", "Normalised expression.")
        .optional::<Split>("split", "Which spots train: means and deviations are theirs.")
        .output::<Table>("table", "Scaled expression.")
    }

    fn validate(params: &Params) -> Result<()> {
        match params.max_value {
            Some(most) if !(most.is_finite() && most > 0.0) => {
                Err(Error::invalid(format!("max_value: {most} should be above 0, or null")))
            }
            _ => Ok(()),
        }
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let mut table: Table = ctx.read("table")?;
        let split: Option<Split> = ctx.read_optional("split")?;
        let rows = fit::rows(&table.obs.index, split.as_ref(), params.fit_on)?;
        fit::tell(
            ctx,
            "visium/scale: means and deviations are fitted",
            &table.obs.index,
            split.as_ref(),
            params.fit_on,
        );
        ctx.check_cancelled()?;
        table.x = scale(table.x, &rows, &params);
        ctx.write("table", &table)
    }
}

fn scale(mut x: Csr, rows: &[usize], params: &Params) -> Csr {
    let moments = moments(&x, rows, |_, value| value);
    let means: Vec<f64> =
        moments.iter().map(|(mean, _)| if params.zero_center { *mean } else { 0.0 }).collect();
    let factors: Vec<f64> = moments
        .iter()
        .map(|(_, variance)| if *variance > 0.0 { variance.sqrt().recip() } else { 1.0 })
        .collect();
    let most = params.max_value.unwrap_or(f64::INFINITY);
    let least = if params.zero_center { -most } else { f64::NEG_INFINITY };
    let scaled = |gene: usize, value: f32| {
        ((f64::from(value) - means[gene]) * factors[gene]).clamp(least, most) as f32
    };
    if !params.zero_center {
        let columns = std::mem::take(&mut x.indices);
        x.data.par_iter_mut().zip(&columns).for_each(|(value, &gene)| *value = scaled(gene as usize, *value));
        x.indices = columns;
        return x;
    }
    let (spots, genes) = (x.n_rows(), x.n_cols);
    let mut data = vec![0.0_f32; spots * genes];
    data.par_chunks_exact_mut(genes.max(1)).enumerate().for_each(|(spot, values)| {
        x.dense_row(spot, values);
        values.iter_mut().enumerate().for_each(|(gene, value)| *value = scaled(gene, *value));
    });
    Csr {
        n_cols: genes,
        indptr: (0..=spots).map(|spot| (spot * genes) as i64).collect(),
        indices: (0..spots).flat_map(|_| 0..genes as i32).collect(),
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{golden, normalize::closed_form_logs};

    fn all(x: &Csr) -> Vec<usize> {
        (0..x.n_rows()).collect()
    }

    #[test]
    fn without_a_shift_values_are_scanpy_s_and_stay_sparse() {
        let Some(golden) = golden::json("scanpy.json") else { return };
        let x = closed_form_logs();
        let params = Params { zero_center: false, ..Params::default() };
        let scaled = scale(x.clone(), &all(&x), &params);
        assert_eq!((&scaled.indptr, &scaled.indices), (&x.indptr, &x.indices));
        let mut row = vec![0.0; x.n_cols];
        scaled.dense_row(0, &mut row);
        for (found, wanted) in row.iter().zip(golden["scale_nozero_max10[0,:5]"].as_array().unwrap()) {
            assert!((f64::from(*found) - wanted.as_f64().unwrap()).abs() < 1e-5, "{found} is not {wanted}");
        }
    }

    #[test]
    fn genes_come_out_with_mean_0_and_deviation_1() {
        let x = closed_form_logs();
        let params = Params { max_value: None, ..Params::default() };
        let scaled = scale(x.clone(), &all(&x), &params);
        assert_eq!(scaled.data.len(), 120 * 300);
        for (gene, (mean, variance)) in moments(&scaled, &all(&x), |_, value| value).into_iter().enumerate() {
            let varies = moments(&x, &all(&x), |_, value| value)[gene].1 > 0.0;
            assert!(
                mean.abs() < 1e-6 && (!varies || (variance - 1.0).abs() < 1e-5),
                "{gene}: {mean}, {variance}"
            );
        }
    }

    #[test]
    fn values_are_cut_off_on_both_sides_only_where_they_are_shifted() {
        let x = Csr::from_rows(1, [vec![(0, -9.0)], vec![(0, 9.0)], vec![(0, 1.0)]]);
        let with = |zero_center| Params { zero_center, max_value: Some(0.5), ..Params::default() };
        assert_eq!(scale(x.clone(), &all(&x), &with(true)).data[..2], [-0.5, 0.5]);
        let one_sided = scale(x.clone(), &all(&x), &with(false)).data;
        assert!(one_sided[0] < -0.9 && one_sided[1] == 0.5);
    }

    #[test]
    fn what_is_fitted_on_some_is_applied_to_all() {
        let x = Csr::from_rows(1, [vec![(0, 2.0)], vec![(0, 4.0)], vec![(0, 9.0)]]);
        let scaled = scale(x, &[0, 1], &Params::default());
        assert!((scaled.data[2] - 6.0 / 2.0_f32.sqrt()).abs() < 1e-6);
    }
}
