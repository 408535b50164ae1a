//! `classify/evaluate-clusters`: clusters against the expert's regions, and how they lie in space, section by section. What is compared
//! over groups are patients: sections of one are no independent observations.

use std::collections::{BTreeMap, HashMap};

use restage_stage::{
    Context, Error, Ports, Result, Stage,
    artifact::{Embedding, Labels, Metrics, Predictions, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{partition, scores::Confusion, spatial};

/// Scores clusters.
pub enum EvaluateClusters {}

/// `classify/evaluate-clusters` has no params.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {}

/// Neighbourhoods of PAS: the first ring of a hexagonal grid, and what most papers take.
const NEIGHBOURS: [usize; 2] = [6, 10];

impl Stage for EvaluateClusters {
    const NAME: &'static str = "evaluate-clusters";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Scores clusters on the expert's regions, whatever the clusters are called, and by how they lie in space; each section for \
             itself, their mean, and that of each patient's. Nothing may have been chosen by these labels: for that there are splits.",
        )
        .many::<Predictions>("predictions", "the cluster of each spot")
        .many::<Labels>("labels", "the expert's regions; spots without one are left out and counted")
        .optional_many::<Table>("table", "places of spots: for CHAOS, PAS and `silhouette_spatial`")
        .optional_many::<Embedding>("features", "what was clustered: for `silhouette`")
        .output::<Metrics>("metrics", "rand_index, ari, nmi, ami, homogeneity, completeness, fmi, chaos, pas_6, pas_10, …")
    }

    fn run(_: Params, ctx: &Context) -> Result<()> {
        let predictions: Vec<Predictions> = ctx.read_all("predictions")?;
        let labels: Vec<Labels> = ctx.read_all("labels")?;
        let tables: Vec<Table> = ctx.read_all("table")?;
        let features: Vec<Embedding> = ctx.read_all("features")?;
        let clusters = clusters(&predictions)?;
        let mut groups = against_labels(&clusters, &labels)?;
        for (section, scores) in in_space(&clusters, &tables)? {
            groups.entry(section).or_default().extend(scores);
        }
        ctx.check_cancelled()?;
        for (section, score) in in_features(&clusters, &labels, &tables, &features)? {
            groups.entry(section).or_default().insert("silhouette".into(), score);
        }
        ctx.write("metrics", &metrics(groups, &patients(&labels, &tables), clusters.len()))
    }
}

/// The cluster of each spot, by a number that no two artifacts share: what they call `1` is not the same.
fn clusters(predictions: &[Predictions]) -> Result<HashMap<&str, usize>> {
    let mut clusters = HashMap::new();
    let mut first = 0;
    for of in predictions {
        for (position, spot) in of.spots.iter().enumerate() {
            if clusters.insert(spot.as_str(), first + of.predicted_class(position)).is_some() {
                return Err(Error::invalid(format!(
                    "spot `{spot}` has two clusters: score one clustering at a time"
                )));
            }
        }
        first += of.classes.len();
    }
    if clusters.is_empty() {
        return Err(Error::invalid("`predictions` has no spot"));
    }
    Ok(clusters)
}

type Groups = BTreeMap<String, BTreeMap<String, f64>>;

/// Per section: how clusters and regions agree, over how many spots.
fn against_labels(clusters: &HashMap<&str, usize>, labels: &[Labels]) -> Result<Groups> {
    let mut sections: BTreeMap<&str, Vec<(&str, String)>> = BTreeMap::new();
    let mut unlabelled: BTreeMap<&str, usize> = BTreeMap::new();
    for labels in labels {
        for (position, spot) in labels.spots.iter().enumerate() {
            let Some(cluster) = clusters.get(spot.as_str()) else { continue };
            let section = labels.sections[position].as_str();
            match &labels.regions[position] {
                Some(region) => sections.entry(section).or_default().push((region, cluster.to_string())),
                None => *unlabelled.entry(section).or_default() += 1,
            }
        }
    }
    if sections.is_empty() {
        return Err(Error::invalid(
            "no labelled spot has a cluster: are `labels` and `predictions` of the same sections?",
        ));
    }
    let scores = |(section, pairs): (&str, Vec<(&str, String)>)| {
        let confusion = Confusion::count(pairs.iter().map(|(region, cluster)| (*region, cluster.as_str())));
        let mut scores = partition::scores(&confusion);
        scores.insert("n".into(), pairs.len() as f64);
        scores.insert("undetermined".into(), unlabelled.get(section).copied().unwrap_or(0) as f64);
        (section.to_owned(), scores)
    };
    Ok(sections.into_iter().map(scores).collect())
}

/// Per section: the places of the spots that have a cluster, labelled or not, and how clusters lie there.
fn in_space(clusters: &HashMap<&str, usize>, tables: &[Table]) -> Result<Groups> {
    let mut sections: BTreeMap<&str, (Vec<[f64; 2]>, Vec<usize>)> = BTreeMap::new();
    for table in tables {
        for (row, spot) in table.obs.index.iter().enumerate() {
            let Some(&cluster) = clusters.get(spot.as_str()) else { continue };
            let section = table.section(row).ok_or_else(|| {
                Error::invalid(format!("spot `{spot}` has no section: set it where the section is loaded"))
            })?;
            let (places, of) = sections.entry(section).or_default();
            places.push(table.spatial[row]);
            of.push(cluster);
        }
    }
    let scores = |(section, (places, clusters)): (&str, (Vec<[f64; 2]>, Vec<usize>))| {
        let mut scores = BTreeMap::new();
        let mut add = |name: String, value: Option<f64>| {
            value.map(|value| scores.insert(name, value));
        };
        add("chaos".into(), spatial::chaos(&places, &clusters));
        for k in NEIGHBOURS {
            add(format!("pas_{k}"), spatial::pas(&places, &clusters, k));
        }
        add("silhouette_spatial".into(), spatial::silhouette(places.as_flattened(), 2, &clusters));
        (section.to_owned(), scores)
    };
    Ok(sections.into_iter().map(scores).collect())
}

/// Per section: the silhouette of clusters in what was clustered.
fn in_features(
    clusters: &HashMap<&str, usize>,
    labels: &[Labels],
    tables: &[Table],
    features: &[Embedding],
) -> Result<BTreeMap<String, f64>> {
    let mut section_of: HashMap<&str, &str> = HashMap::new();
    for labels in labels {
        section_of
            .extend(labels.spots.iter().map(String::as_str).zip(labels.sections.iter().map(String::as_str)));
    }
    for table in tables {
        let sections =
            (0..table.n_spots()).filter_map(|row| Some((table.obs.index[row].as_str(), table.section(row)?)));
        section_of.extend(sections);
    }
    let mut sections: BTreeMap<&str, (usize, Vec<f32>, Vec<usize>)> = BTreeMap::new();
    for features in features {
        for (position, spot) in features.spots.iter().enumerate() {
            let (Some(&cluster), Some(&section)) =
                (clusters.get(spot.as_str()), section_of.get(spot.as_str()))
            else {
                continue;
            };
            let (dims, values, of) = sections.entry(section).or_insert((features.dims, vec![], vec![]));
            if *dims != features.dims {
                return Err(Error::invalid(format!(
                    "`features` of section {section} have {dims} dimensions and {}: connect one kind of features",
                    features.dims
                )));
            }
            values.extend_from_slice(features.row(position));
            of.push(cluster);
        }
    }
    let score = |(section, (dims, values, of)): (&str, (usize, Vec<f32>, Vec<usize>))| {
        Some((section.to_owned(), spatial::silhouette(&values, dims, &of)?))
    };
    Ok(sections.into_iter().filter_map(score).collect())
}

/// The patient of each section.
fn patients<'a>(labels: &'a [Labels], tables: &'a [Table]) -> BTreeMap<&'a str, &'a str> {
    let rows = tables.iter().flat_map(|table| (0..table.n_spots()).map(move |row| (table, row)));
    let of_tables = rows.filter_map(|(table, row)| Some((table.section(row)?, table.patient(row)?)));
    let labelled = labels.iter().flat_map(|labels| labels.sections.iter().zip(&labels.patients));
    of_tables.chain(labelled.map(|(section, patient)| (section.as_str(), patient.as_str()))).collect()
}

/// Means of scores, of which counts are sums.
fn means<'a>(all: impl Iterator<Item = &'a BTreeMap<String, f64>>) -> BTreeMap<String, f64> {
    let mut lists: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for scores in all {
        scores.iter().for_each(|(name, value)| lists.entry(name).or_default().push(*value));
    }
    let mean = |(name, list): (&str, Vec<f64>)| {
        let sum: f64 = list.iter().sum();
        let is_count = ["n", "undetermined"].contains(&name);
        (name.to_owned(), if is_count { sum } else { sum / list.len() as f64 })
    };
    lists.into_iter().map(mean).collect()
}

/// The sections' scores as means: of all sections, and of each patient's where one has several.
fn metrics(sections: Groups, patients: &BTreeMap<&str, &str>, spots: usize) -> Metrics {
    let mut values = means(sections.values());
    let labelled = values.get("n").copied().unwrap_or_default();
    values.insert("unlabelled".into(), spots as f64 - labelled);
    let mut of: BTreeMap<&str, Vec<&BTreeMap<String, f64>>> = BTreeMap::new();
    for (section, scores) in &sections {
        of.entry(patients.get(section.as_str()).unwrap_or(&section.as_str())).or_default().push(scores);
    }
    let by_patient = of.len() < sections.len();
    let grouped = of.into_iter().map(|(patient, scores)| (patient.to_owned(), means(scores.into_iter())));
    let (groups, about) = match by_patient {
        true => (
            grouped.collect(),
            "per patient: means over the patient's sections, which are no independent observations; n and undetermined are sums; \
             `sections` has each",
        ),
        false => (sections.clone(), "per section, each of another patient"),
    };
    let details = json!({ "sections": sections, "conventions": {
        "values": "unweighted mean over the sections that have the score; n, undetermined and unlabelled are sums",
        "groups": about,
        "n": "spots with a cluster and a region, on which clusters are compared with regions; all others are left out there",
        "undetermined": "spots with a cluster that the expert saw and left without a region",
        "unlabelled": "spots with a cluster and without a region, the undetermined ones too",
        "rand_index": "over pairs of spots; 1 where there is no pair",
        "ari": "Hubert and Arabie's; 1 where clusters and regions agree on every pair",
        "nmi": "mutual information over the arithmetic mean of both entropies",
        "ami": "the same corrected for chance, Vinh, Epps and Bailey's, over the arithmetic mean",
        "homogeneity": "1 where no cluster has spots of two regions",
        "completeness": "1 where no region has spots of two clusters",
        "fmi": "geometric mean of precision and recall over pairs",
        "chaos": "mean distance to the nearest spot of the same cluster over all spots, in standard deviations (n) of x and y; \
                  clusters of one or two spots add 0",
        "pas_6": "share of spots with more than 3 of the 6 nearest in other clusters; equally near ones share the last places",
        "pas_10": "the same of the 10 nearest",
        "silhouette_spatial": "mean silhouette of clusters in x and y, over all spots with a cluster",
        "silhouette": "the same in `features`",
    }});
    Metrics { values, groups, curves: BTreeMap::new(), details }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, embedding, table};

    /// The golden labels and clusters, as spots of section A1.
    fn golden() -> Option<(serde_json::Value, Labels, Predictions)> {
        let golden = crate::testing::golden_metrics()?;
        let codes = |name: &str| -> Vec<usize> { serde_json::from_value(golden[name].clone()).unwrap() };
        let truth = codes("y_true");
        let labels = Labels {
            spots: (0..truth.len()).map(|spot| format!("A1_{spot}")).collect(),
            sections: vec!["A1".into(); truth.len()],
            patients: vec!["A".into(); truth.len()],
            regions: truth.iter().map(|code| Some(["fat", "stroma", "tumour"][*code].to_owned())).collect(),
        };
        let predictions = certain(&labels.spots, &codes("y_pred"), 3);
        Some((golden, labels, predictions))
    }

    fn certain(spots: &[String], clusters: &[usize], count: usize) -> Predictions {
        let one_hot = |cluster: &usize| {
            (0..count).map(move |class| f32::from(u8::from(class == *cluster))).collect::<Vec<_>>()
        };
        Predictions {
            spots: spots.to_vec(),
            classes: (0..count).map(|cluster| cluster.to_string()).collect(),
            probabilities: clusters.iter().flat_map(one_hot).collect(),
        }
    }

    #[test]
    fn scores_are_the_golden_ones_and_unlabelled_spots_are_counted() {
        let Some((golden, mut labels, mut predictions)) = golden() else { return };
        labels.spots.push("A1_seen".into());
        labels.sections.push("A1".into());
        labels.patients.push("A".into());
        labels.regions.push(None);
        for spot in ["A1_seen", "A1_unseen"] {
            predictions.spots.push(spot.into());
            predictions.probabilities.extend([1.0, 0.0, 0.0]);
        }
        let bench = Bench::new().input("predictions", &predictions).input("labels", &labels);
        let metrics: Metrics = bench.run::<EvaluateClusters>(json!({})).unwrap().output("metrics");
        for (ours, theirs) in
            [("ari", "ari"), ("nmi", "nmi_arith"), ("ami", "ami"), ("fmi", "fmi"), ("rand_index", "ri")]
        {
            let expected = golden[theirs].as_f64().unwrap();
            assert!((metrics.values[ours] - expected).abs() < 1e-12, "{ours}");
            assert_eq!(metrics.groups["A1"][ours], metrics.values[ours]);
        }
        let count = |name: &str| metrics.values[name];
        assert_eq!((count("n"), count("undetermined"), count("unlabelled")), (10.0, 1.0, 2.0));
        assert!(!metrics.values.contains_key("chaos"));
    }

    #[test]
    fn sections_count_alike_and_their_clusters_have_nothing_to_do_with_each_other() {
        let Some((golden, labels, predictions)) = golden() else { return };
        // A second section whose clusters are the regions.
        let mut other = labels.clone();
        other.spots = (0..10).map(|spot| format!("B1_{spot}")).collect();
        other.sections.fill("B1".into());
        other.patients.fill("B".into());
        let perfect = certain(&other.spots, &[0, 0, 0, 1, 1, 1, 2, 2, 2, 2], 3);
        let table = table(&[[("A1", "A"); 10], [("B1", "B"); 10]].concat());
        let names: Vec<String> = labels.spots.iter().chain(&other.spots).cloned().collect();
        let mut table =
            Table { spatial: (0..20).map(|spot| [(spot % 5) as f64, (spot / 5) as f64]).collect(), ..table };
        table.obs.index = names.clone();
        let features =
            embedding(names.into_iter().zip(0..).map(|(spot, i)| (spot, vec![(i % 10) as f32, 1.0])));
        let bench = Bench::new()
            .input("predictions", &predictions)
            .input("predictions", &perfect)
            .input("labels", &labels)
            .input("labels", &other)
            .input("table", &table)
            .input("features", &features);
        let metrics: Metrics = bench.run::<EvaluateClusters>(json!({})).unwrap().output("metrics");
        assert_eq!(metrics.groups["B1"]["ari"], 1.0);
        let expected = f64::midpoint(golden["ari"].as_f64().unwrap(), 1.0);
        assert!((metrics.values["ari"] - expected).abs() < 1e-12);
        for name in ["chaos", "pas_6", "silhouette_spatial", "silhouette"] {
            let [a, b] = ["A1", "B1"].map(|section| metrics.groups[section][name]);
            assert!((metrics.values[name] - f64::midpoint(a, b)).abs() < 1e-12, "{name}");
        }
        assert!(!metrics.values.contains_key("pas_10"), "10 spots have no 10 others");
    }

    #[test]
    fn sections_of_one_patient_are_one_group() {
        let spots = |section: &str| (0..4).map(|spot| format!("{section}_{spot}")).collect::<Vec<_>>();
        let labels = |section: &str, patient: &str| Labels {
            spots: spots(section),
            sections: vec![section.into(); 4],
            patients: vec![patient.into(); 4],
            regions: ["fat", "fat", "glands", "glands"].map(|region| Some(region.to_owned())).into(),
        };
        // Two sections of A: one is found as it is, the other not at all; and one of B.
        let found = [("A1", [0, 0, 1, 1]), ("A2", [0, 1, 0, 1]), ("B1", [0, 0, 1, 1])];
        let of_patients = |patients: [&str; 3]| -> Metrics {
            let bench =
                found.iter().zip(patients).fold(Bench::new(), |bench, ((section, clusters), patient)| {
                    let predictions = certain(&spots(section), clusters, 2);
                    bench.input("predictions", &predictions).input("labels", &labels(section, patient))
                });
            bench.run::<EvaluateClusters>(json!({})).unwrap().output("metrics")
        };
        let metrics = of_patients(["A", "A", "B"]);
        assert_eq!(metrics.groups.keys().collect::<Vec<_>>(), ["A", "B"]);
        // ARI of the second: no pair is together in both, 2 in each: (0 - 4 / 6) / (2 - 4 / 6) = -0.5.
        assert!((metrics.groups["A"]["ari"] - 0.25).abs() < 1e-12 && metrics.groups["B"]["ari"] == 1.0);
        assert_eq!((metrics.groups["A"]["n"], metrics.values["n"]), (8.0, 12.0));
        assert!((metrics.values["ari"] - 0.5).abs() < 1e-12, "the mean over sections");
        assert_eq!(metrics.details["sections"]["A2"]["ari"], json!(-0.5));
        assert!(metrics.details["conventions"]["groups"].as_str().unwrap().starts_with("per patient"));
        assert_eq!(of_patients(["A", "B", "C"]).groups.keys().collect::<Vec<_>>(), ["A1", "A2", "B1"]);
    }

    #[test]
    fn a_spot_has_one_cluster() {
        let one = certain(&["A1_0".into()], &[0], 1);
        let labels = Labels {
            spots: vec!["B1_0".into()],
            sections: vec!["B1".into()],
            patients: vec!["B".into()],
            regions: vec![Some("fat".into())],
        };
        let problem = |bench: Bench| bench.run::<EvaluateClusters>(json!({})).err().unwrap().to_string();
        let bench = Bench::new().input("predictions", &one).input("labels", &labels);
        assert!(problem(bench).contains("are `labels` and `predictions` of the same sections?"));
        let bench =
            Bench::new().input("predictions", &one).input("predictions", &one).input("labels", &labels);
        assert!(problem(bench).contains("spot `A1_0` has two clusters"));
    }
}
