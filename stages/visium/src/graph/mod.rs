//! Stage type `visium/graph`: which spots are neighbours.

mod neighbours;
mod weights;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Csr, Graph, Metrics, Split, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use neighbours::{Cells, nearest_distances};
use weights::Normalise;

/// The stage type.
pub(crate) struct MakeGraph;

/// Params of `visium/graph`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Who is a neighbour. Default `hex`.
    pub(crate) kind: Kind,
    /// For `hex` and `grid`: how many rings around a spot. Default 1.
    pub(crate) rings: usize,
    /// For `radius`: distance in pixels of the full-resolution image up to which (inclusive) spots are neighbours.
    pub(crate) radius: Option<f64>,
    /// For `knn`: how many neighbours a spot chooses; of equally near ones, those that come first. Default 6.
    pub(crate) k: usize,
    /// For `knn`: make a neighbour's choice mutual, A = max(A, A'). Default true.
    pub(crate) symmetrise: bool,
    /// Whether each spot is its own neighbour. Default false.
    pub(crate) self_loops: bool,
    /// What the weights are made of. Default `none`: each edge weighs 1.
    pub(crate) normalise: Normalise,
    /// Leave out edges between training and test spots of the split that is connected. Default true.
    pub(crate) within_split: bool,
}

/// Who is a neighbour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The six places around a spot of Visium, by `array_row` and `array_col`.
    #[default]
    Hex,
    /// The four places around a spot of a square array (legacy Spatial Transcriptomics, bins of Visium HD).
    Grid,
    /// All within `radius`.
    Radius,
    /// The `k` nearest.
    Knn,
    /// Those that share an edge of the Delaunay triangulation.
    Delaunay,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            kind: Kind::Hex,
            rings: 1,
            radius: None,
            k: 6,
            symmetrise: true,
            self_loops: false,
            normalise: Normalise::None,
            within_split: true,
        }
    }
}

impl Stage for MakeGraph {
    const NAME: &'static str = "graph";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Connects the spots of each section with their neighbours. No edge leaves a section, nor, where a split is \
             connected, leads from a training to a test spot.",
        )
        .input::<Table>("table", "The spots, with coordinates and `section`.")
        .optional::<Split>("split", "Which spots train: no edge crosses to those that test.")
        .output::<Graph>("graph", "The edges with their weights.")
        .output::<Metrics>("summary", "Spots, directed edges, their mean number a spot, spots without any.")
    }

    fn validate(params: &Params) -> Result<()> {
        let problem = match params.kind {
            Kind::Radius => match params.radius {
                Some(radius) if radius.is_finite() && radius > 0.0 => None,
                Some(radius) => Some(format!("radius: {radius} should be above 0")),
                None => Some("kind: radius needs `radius`, in pixels of the full-resolution image".into()),
            },
            Kind::Knn if params.k == 0 => Some("k: 0 should be at least 1".into()),
            Kind::Hex | Kind::Grid if params.rings == 0 => Some("rings: 0 should be at least 1".into()),
            _ => None,
        };
        problem.map_or(Ok(()), |problem| Err(Error::invalid(problem)))
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let table: Table = ctx.read("table")?;
        let split: Option<Split> = ctx.read_optional("split")?;
        ctx.named_only("table");
        ctx.check_cancelled()?;
        let (edges, crossing) = edges(&table, split.as_ref(), &params)?;
        let summary = summary(&edges, crossing);
        if let Some(problem) = without_edges(&table, &edges, &params) {
            tracing::warn!("{problem}");
        }
        tracing::info!("{} spots, {} directed edges", edges.n_rows(), summary.values["edges"]);
        ctx.write("summary", &summary)?;
        ctx.write("graph", &Graph { spots: table.obs.index, edges })
    }
}

/// The weighted edges, and how many were left out for crossing the split.
pub(crate) fn edges(table: &Table, split: Option<&Split>, params: &Params) -> Result<(Csr, usize)> {
    let mut lists = vec![Vec::new(); table.n_spots()];
    for (section, spots) in sections(table) {
        let found = neighbours::of_section(table, &section, &spots, params)?;
        for (&spot, near) in spots.iter().zip(found) {
            lists[spot] = near.into_iter().map(|place| spots[place]).collect();
        }
    }
    let crossing = split.filter(|_| params.within_split).map_or(0, |split| cut(table, split, &mut lists));
    if crossing > 0 {
        tracing::info!("{crossing} edges between training and test spots are left out");
    }
    if params.self_loops {
        (0..lists.len()).for_each(|spot| lists[spot].push(spot));
    }
    let n = lists.len();
    let rows = lists.into_iter().map(|mut near| {
        near.sort_unstable();
        near.dedup();
        near.into_iter().map(|spot| (spot as i32, 1.0)).collect()
    });
    Ok((weights::weighted(Csr::from_rows(n, rows), table, params.normalise)?, crossing))
}

/// A radius below the distance of spots is a graph that changes nothing, and nobody means that.
fn without_edges(table: &Table, edges: &Csr, params: &Params) -> Option<String> {
    let radius = params.radius.filter(|_| params.kind == Kind::Radius && edges.data.is_empty())?;
    let nearest = sections(table).into_values().flat_map(|spots| {
        nearest_distances(&spots.iter().map(|&spot| table.spatial[spot]).collect::<Vec<_>>())
    });
    let nearest = nearest.reduce(f64::min)?;
    Some(format!(
        "no spot has a neighbour within radius: {radius}; the nearest two are {nearest:.1} pixels of the \
         full-resolution image apart"
    ))
}

/// The spots of each section, in the table's order.
fn sections(table: &Table) -> BTreeMap<String, Vec<usize>> {
    let mut sections: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for spot in 0..table.n_spots() {
        sections.entry(table.section(spot).unwrap_or_default().to_owned()).or_default().push(spot);
    }
    sections
}

/// Takes out the edges between spots of different roles; a spot without a role is of a third.
fn cut(table: &Table, split: &Split, lists: &mut [Vec<usize>]) -> usize {
    let roles: HashMap<_, _> = split.roles();
    let of = |spot: usize| roles.get(table.obs.index[spot].as_str());
    let mut crossing = 0;
    for (spot, near) in lists.iter_mut().enumerate() {
        let before = near.len();
        near.retain(|&other| of(spot) == of(other));
        crossing += before - near.len();
    }
    crossing
}

fn summary(edges: &Csr, crossing: usize) -> Metrics {
    let (spots, count) = (edges.n_rows(), edges.data.len());
    let alone = edges.indptr.windows(2).filter(|ends| ends[0] == ends[1]).count();
    let values = [
        ("spots", spots as f64),
        ("edges", count as f64),
        ("mean_degree", count as f64 / spots.max(1) as f64),
        ("spots_without_neighbours", alone as f64),
        ("edges_across_split_left_out", crossing as f64),
    ];
    Metrics {
        values: values.into_iter().map(|(name, value)| (name.into(), value)).collect(),
        ..Metrics::default()
    }
}
