//! Weights of edges: the normalisations that the field's methods use, each by a name of its own.

use restage_stage::{
    Error, Result,
    artifact::{Csr, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the weights are made of, for an adjacency A with degrees D.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Normalise {
    /// 1 for each edge.
    #[default]
    None,
    /// A of which rows sum to 1: the mean over the neighbours.
    Row,
    /// sym(A + I): D~^-1/2 (A + I) D~^-1/2 with the degrees of A + I (GCN of Kipf & Welling 2017; SEDR).
    SymOfSelfLoops,
    /// sym(A) + I: D^-1/2 A D^-1/2, and each spot itself with 1 (GraphST's other variant).
    SymPlusSelf,
    /// exp(-d² / (2 l²)) with l the median distance of neighbours.
    Gaussian,
}

/// The edges with their weights.
pub(super) fn weighted(edges: Csr, table: &Table, normalise: Normalise) -> Result<Csr> {
    match normalise {
        Normalise::None => Ok(edges),
        Normalise::Row => Ok(scaled(edges, |degree, _| if degree > 0.0 { 1.0 / degree } else { 0.0 })),
        Normalise::SymOfSelfLoops => Ok(symmetric(with_self(&edges, 1.0))),
        Normalise::SymPlusSelf => Ok(with_self(&symmetric(edges), 1.0)),
        Normalise::Gaussian => gaussian(edges, table),
    }
}

/// Each weight times what `factor` makes of its row's degree and its column's.
fn scaled(mut edges: Csr, factor: impl Fn(f64, f64) -> f64) -> Csr {
    let degrees: Vec<f64> = (0..edges.n_rows())
        .map(|row| edges.row(row).1.iter().map(|&weight| f64::from(weight)).sum())
        .collect();
    let columns = edges.indices.clone();
    let mut entry = 0;
    for (row, weights) in edges.rows_mut().into_iter().enumerate() {
        for weight in weights {
            let (own, other) = (degrees[row], degrees[columns[entry] as usize]);
            *weight = (f64::from(*weight) * factor(own, other)) as f32;
            entry += 1;
        }
    }
    edges
}

fn symmetric(edges: Csr) -> Csr {
    scaled(edges, |own, other| if own > 0.0 && other > 0.0 { (own * other).sqrt().recip() } else { 0.0 })
}

/// Sets the weight of each spot to itself.
fn with_self(edges: &Csr, weight: f32) -> Csr {
    let rows = (0..edges.n_rows()).map(|row| {
        let others = edges.entries(row).filter(|&(column, _)| column != row);
        others.map(|(column, weight)| (column as i32, weight)).chain([(row as i32, weight)]).collect()
    });
    Csr::from_rows(edges.n_cols, rows)
}

fn gaussian(mut edges: Csr, table: &Table) -> Result<Csr> {
    let distance = |row: usize, column: usize| {
        let ([x, y], [u, v]) = (table.spatial[row], table.spatial[column]);
        (x - u).hypot(y - v)
    };
    let distances: Vec<f64> = (0..edges.n_rows())
        .flat_map(|row| edges.entries(row).map(move |(column, _)| (row, column)))
        .map(|(row, column)| distance(row, column))
        .collect();
    let mut apart: Vec<f64> = distances.iter().copied().filter(|&distance| distance > 0.0).collect();
    if apart.iter().any(|distance| !distance.is_finite()) {
        return Err(Error::invalid("normalise: gaussian needs the coordinates of all spots"));
    }
    let length = crate::quantile::median(&mut apart);
    for (weight, distance) in edges.data.iter_mut().zip(distances) {
        *weight = if distance > 0.0 { (-(distance / length).powi(2) / 2.0).exp() as f32 } else { 1.0 };
    }
    Ok(edges)
}
