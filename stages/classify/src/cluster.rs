//! `classify/cluster`: regions without labels.

mod kmeans;
mod leiden;
mod mixture;

use std::collections::{BTreeMap, HashMap};

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Csr, Embedding, Graph, Metrics, Predictions, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    check,
    coordinates::sections,
    features::{Features, Scaling},
    graph::{between, means, near, product},
    knn::Metric,
};

/// Clusters of spots.
pub enum Cluster {}

/// What `classify/cluster` is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// How. Default `kmeans`.
    pub method: Method,
    /// How many clusters. Of `leiden` it may be left out for `resolution`.
    #[schemars(range(min = 1))]
    pub n_clusters: Option<usize>,
    /// `all` (default): all spots together. `section`: each section for itself, with clusters named `SECTION/1`, …; needs `table`.
    pub per: Per,
    /// How many of each block's dimensions are used, the first ones: of principal components the largest. Default null: all.
    #[schemars(range(min = 1))]
    pub dims: Option<usize>,
    /// Whether each dimension is brought to variance 1. Default false: features are centred only, and several blocks brought
    /// to equal mean squared norm.
    pub standardize: bool,
    /// How often each spot's features are averaged with its neighbours' on `graph` before. Default 0.
    pub smooth: usize,
    /// Of `kmeans` and `gmm`: beginnings, of which the best counts. Default 10.
    #[schemars(range(min = 1))]
    pub n_init: usize,
    /// Of `kmeans` and `gmm`: iterations at most. Default 300.
    #[schemars(range(min = 1))]
    pub max_iter: usize,
    /// Of `leiden`: the larger, the more clusters. Default null: searched towards `n_clusters`, and towards nothing else.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub resolution: Option<f64>,
    /// Of `leiden` without `graph`: how many nearest spots a spot is connected with. Default 15.
    #[schemars(range(min = 1))]
    pub k: usize,
    /// Of `leiden` without `graph`: what is near. Default `euclidean`.
    pub metric: Metric,
}

/// How clusters are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// k-means from k-means++.
    Kmeans,
    /// A mixture of Gaussians of one covariance (mclust's EEE), from k-means.
    Gmm,
    /// Communities of the graph, of nearest spots by features or of `graph`.
    Leiden,
}

/// What is clustered together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Everything.
    All,
    /// Each section.
    Section,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            method: Method::Kmeans,
            n_clusters: None,
            per: Per::All,
            dims: None,
            standardize: false,
            smooth: 0,
            n_init: 10,
            max_iter: 300,
            resolution: None,
            k: 15,
            metric: Metric::Euclidean,
        }
    }
}

impl Stage for Cluster {
    const NAME: &'static str = "cluster";
    const SEEDED: bool = true;
    const STREAMS: &'static [&'static str] = &["init"];
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Parts spots into clusters by their features, without labels: `1` is the largest. A resolution is searched towards a \
             number of clusters only. With `smooth` and `graph`, k-means is the baseline that many deep models do not beat.",
        )
        .many::<Embedding>("features", "one or several blocks of features")
        .optional::<Graph>("graph", "who is a neighbour: for `smooth`, or for `leiden` in place of nearest spots")
        .needed_if("smooth", &[])
        .optional::<Table>("table", "for `per: section`: `obs` names the section of each spot")
        .needed_if("per", &["section"])
        .output::<Predictions>("predictions", "cluster of every spot; of `gmm` with probabilities")
        .output::<Metrics>("summary", "clusters; inertia, log_likelihood or modularity and resolution")
    }

    fn validate(params: &Params) -> Result<()> {
        let refuse = |problem: String| Err(Error::invalid(problem));
        check::one_or_more(&[
            ("n_clusters", params.n_clusters.unwrap_or(1)),
            ("dims", params.dims.unwrap_or(1)),
            ("n_init", params.n_init),
            ("max_iter", params.max_iter),
            ("k", params.k),
        ])?;
        match (params.method, params.n_clusters, params.resolution) {
            (Method::Leiden, None, None) => {
                refuse("`method: leiden` needs `n_clusters`, or a `resolution`".into())
            }
            (Method::Leiden, Some(_), Some(_)) => {
                refuse("`n_clusters` and `resolution` contradict each other: give one of them".into())
            }
            (Method::Leiden, _, Some(resolution)) => check::above_zero("resolution", resolution),
            (Method::Kmeans | Method::Gmm, None, _) => refuse("`n_clusters` is missing: say how many".into()),
            (Method::Kmeans | Method::Gmm, _, Some(_)) => {
                refuse("`resolution` is of `method: leiden` only".into())
            }
            _ => Ok(()),
        }
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let features = Features::join(first(ctx.read_all("features")?, params.dims)?)?;
        let graph: Option<Graph> = ctx.read_optional("graph")?;
        if params.smooth > 0 && graph.is_none() {
            return Err(Error::invalid("`smooth` needs neighbours: connect `graph`"));
        }
        let edges = graph.map(|graph| between(&graph, features.spots(), "features")).transpose()?;
        let features = match &edges {
            Some(edges) if params.smooth > 0 => {
                let weights = means(edges);
                features.map(|dims, values| {
                    (0..params.smooth).fold(values, |values, _| product(&weights, dims, &values))
                })
            }
            _ => features,
        };
        let parts = match params.per {
            Per::All => vec![(String::new(), features.every())],
            Per::Section => {
                let table: Option<Table> = ctx.read_optional("table")?;
                ctx.named_only("table");
                let table = table.ok_or_else(|| {
                    Error::invalid("`per: section` needs to know sections: connect `table`")
                })?;
                by_section(&features, &table)?
            }
        };

        let mut found = Vec::with_capacity(parts.len());
        for (done, (section, spots)) in parts.iter().enumerate() {
            ctx.progress(done as u64, parts.len() as u64, "parts");
            let of_part =
                cluster(&features, spots, edges.as_ref(), &params, ctx).map_err(|error| match error {
                    Error::Invalid(problem) if !section.is_empty() => {
                        Error::invalid(format!("section {section}: {problem}"))
                    }
                    error => error,
                })?;
            found.push(of_part);
        }
        let (predictions, summary) = tell(&features, &parts, found, &params);
        ctx.transductive("classify/cluster: clusters are of all spots", features.spots());
        ctx.write("predictions", &predictions)?;
        ctx.write("summary", &summary)
    }
}

/// The first dimensions of each block.
fn first(blocks: Vec<Embedding>, dims: Option<usize>) -> Result<Vec<Embedding>> {
    let Some(dims) = dims else { return Ok(blocks) };
    let cut = |block: Embedding| {
        if block.dims < dims {
            return Err(Error::invalid(format!(
                "`dims` is {dims}, but a block of `features` has {}: lower it to at most that",
                block.dims
            )));
        }
        let values = block.values.chunks_exact(block.dims).flat_map(|row| &row[..dims]).copied().collect();
        Ok(Embedding { spots: block.spots, dims, values })
    };
    blocks.into_iter().map(cut).collect()
}

/// Places of the spots of each section that has some.
fn by_section(features: &Features, table: &Table) -> Result<Vec<(String, Vec<usize>)>> {
    let mut section_of = HashMap::new();
    for (section, spots) in sections(table)? {
        section_of.extend(spots.into_iter().map(|spot| (table.obs.index[spot].as_str(), section)));
    }
    let mut parts = BTreeMap::<&str, Vec<usize>>::new();
    for (place, spot) in features.spots().enumerate() {
        let section = section_of.get(spot).ok_or_else(|| {
            Error::invalid(format!(
                "spot `{spot}` of `features` is not in `table`: make both of the same sections"
            ))
        })?;
        parts.entry(section).or_default().push(place);
    }
    Ok(parts.into_iter().map(|(section, spots)| (section.to_owned(), spots)).collect())
}

/// The clusters of some spots.
struct Found {
    /// Spots x clusters, the largest cluster first.
    shares: Vec<f64>,
    clusters: usize,
    /// What there is to tell, by name.
    values: Vec<(&'static str, f64)>,
}

fn cluster(
    features: &Features,
    spots: &[usize],
    edges: Option<&Csr>,
    params: &Params,
    ctx: &Context,
) -> Result<Found> {
    let wanted = params.n_clusters;
    if let Some(wanted) = wanted.filter(|&wanted| wanted > spots.len()) {
        return Err(Error::invalid(format!(
            "`n_clusters` is {wanted}, but there are only {} spots",
            spots.len()
        )));
    }
    let scaling = match params.standardize {
        true => Scaling::standard(features, spots),
        false => Scaling::centred(features, spots),
    };
    let dims = features.dims();
    let rows = features.matrix(spots, &scaling);
    let check = || ctx.check_cancelled();
    let rng = |beginning: usize| ctx.rng(&format!("init/{beginning}"));
    let found = match (params.method, wanted) {
        (Method::Kmeans, Some(k)) => {
            let found = kmeans::kmeans(dims, &rows, k, params.max_iter, params.n_init, rng, check)?;
            let values = vec![("inertia", found.inertia), ("iterations", found.iterations as f64)];
            Found { shares: certain(&found.of, k), clusters: k, values }
        }
        (Method::Gmm, Some(k)) => {
            let mut best: Option<mixture::Mixture> = None;
            for beginning in 0..params.n_init {
                let start = kmeans::kmeans(dims, &rows, k, params.max_iter, 1, |_| rng(beginning), check)?;
                let next = mixture::mixture(dims, &rows, &start, params.max_iter, check)?;
                if best.as_ref().is_none_or(|best| next.log_likelihood > best.log_likelihood) {
                    best = Some(next);
                }
            }
            let best = best.ok_or_else(|| Error::invalid("`n_init` is 0: it must be 1 or more"))?;
            if !best.converged {
                tracing::warn!("not converged after {} iterations: raise `max_iter`", best.iterations);
            }
            let values = vec![
                ("log_likelihood", best.log_likelihood),
                ("iterations", best.iterations as f64),
                ("converged", f64::from(u8::from(best.converged))),
            ];
            Found { shares: best.shares, clusters: k, values }
        }
        _ => {
            let edges = match edges {
                Some(edges) => among(edges, spots),
                None => near(dims, rows, params.k, params.metric)?,
            };
            let (resolution, found) = match (params.resolution, wanted) {
                (None, Some(wanted)) => leiden::search(&edges, wanted, || rng(0), check)?,
                (resolution, _) => {
                    let resolution = resolution.unwrap_or(1.0);
                    (resolution, leiden::leiden(&edges, resolution, &mut rng(0), check)?)
                }
            };
            if let Some(wanted) = wanted.filter(|&wanted| wanted != found.count) {
                tracing::warn!(
                    "no resolution gives {wanted} clusters: {} at {resolution:.4} are the nearest to it",
                    found.count
                );
            }
            let values = vec![("modularity", found.modularity), ("resolution", resolution)];
            Found { shares: certain(&found.of, found.count), clusters: found.count, values }
        }
    };
    Ok(largest_first(found))
}

/// The edges between some spots, by their places among these.
fn among(edges: &Csr, spots: &[usize]) -> Csr {
    let mut ordered = spots.to_vec();
    ordered.sort_unstable();
    // Columns must stay sorted; spots are, as they come from their order.
    edges.select_rows(&ordered).select_cols(&ordered)
}

/// 1 at each spot's cluster.
fn certain(of: &[usize], clusters: usize) -> Vec<f64> {
    let mut shares = vec![0.0; of.len() * clusters];
    of.iter().enumerate().for_each(|(spot, &cluster)| shares[spot * clusters + cluster] = 1.0);
    shares
}

/// The cluster of a spot.
fn likeliest(row: &[f64]) -> usize {
    (1..row.len()).fold(0, |best, next| if row[next] > row[best] { next } else { best })
}

/// Orders clusters by size; of equally large ones the one with the first spot comes first. Those without a spot go.
fn largest_first(found: Found) -> Found {
    let old = found.clusters;
    let mut sizes = vec![(0_usize, usize::MAX); old];
    for (spot, row) in found.shares.chunks_exact(old).enumerate() {
        let (size, first) = &mut sizes[likeliest(row)];
        *size += 1;
        *first = (*first).min(spot);
    }
    let mut order: Vec<usize> = (0..old).filter(|&cluster| sizes[cluster].0 > 0).collect();
    if order.len() < old {
        tracing::warn!("{} of {old} clusters have no spot", old - order.len());
    }
    order.sort_by_key(|&cluster| (std::cmp::Reverse(sizes[cluster].0), sizes[cluster].1));
    let mut shares = Vec::with_capacity(found.shares.len());
    for row in found.shares.chunks_exact(old) {
        let kept: f64 = order.iter().map(|&cluster| row[cluster]).sum();
        shares.extend(order.iter().map(|&cluster| row[cluster] / kept));
    }
    Found { shares, clusters: order.len(), values: found.values }
}

/// One set of predictions, and what there is to tell.
fn tell(
    features: &Features,
    parts: &[(String, Vec<usize>)],
    found: Vec<Found>,
    params: &Params,
) -> (Predictions, Metrics) {
    let mut classes = Vec::new();
    for ((section, _), found) in parts.iter().zip(&found) {
        // As text they should be in the order of their numbers.
        let width = found.clusters.to_string().len();
        let prefix = if section.is_empty() { String::new() } else { format!("{section}/") };
        classes.extend((1..=found.clusters).map(|cluster| format!("{prefix}{cluster:0width$}")));
    }
    let mut probabilities = vec![0.0; features.len() * classes.len()];
    let mut start = 0;
    for ((_, spots), found) in parts.iter().zip(&found) {
        for (&spot, row) in spots.iter().zip(found.shares.chunks_exact(found.clusters)) {
            let to = &mut probabilities[spot * classes.len() + start..][..found.clusters];
            to.iter_mut().zip(row).for_each(|(to, share)| *to = *share as f32);
        }
        start += found.clusters;
    }
    let of_part = |found: &Found, spots: usize| -> BTreeMap<String, f64> {
        let counts = [("clusters", found.clusters as f64), ("spots", spots as f64)];
        let values = found.values.iter().copied().chain(counts);
        values.map(|(name, value)| (name.to_owned(), value)).collect()
    };
    let groups: BTreeMap<String, BTreeMap<String, f64>> = parts
        .iter()
        .zip(&found)
        .filter(|((section, _), _)| !section.is_empty())
        .map(|((section, spots), found)| (section.clone(), of_part(found, spots.len())))
        .collect();
    let mut values = match (groups.is_empty(), found.first()) {
        (true, Some(found)) => of_part(found, features.len()),
        _ => BTreeMap::from([
            ("clusters".to_owned(), classes.len() as f64),
            ("spots".to_owned(), features.len() as f64),
        ]),
    };
    values.insert("dims".into(), features.dims() as f64);
    let summary = Metrics {
        values,
        groups,
        curves: BTreeMap::new(),
        details: json!({
            "method": params.method,
            "order": "the largest cluster first",
            "log_likelihood": "mean over spots",
            "modularity": "with the resolution that is named",
        }),
    };
    let spots = features.spots().map(str::to_owned).collect();
    (Predictions { spots, classes, probabilities }, summary)
}

#[cfg(test)]
mod anchor_test;
#[cfg(test)]
mod tests;
