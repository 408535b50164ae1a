//! Params that are set though the objective does not read them: a slip of the pen that would pass for a result.

use restage_stage::Context;
use serde_json::json;

use crate::{encoder::Encodes, params::PretrainParams};

/// Params that some objectives read, and which: those of two views by the name of what keeps the views apart.
const READERS: [(&str, &[&str]); 34] = [
    ("gene_encoder", &["cross_modal", "fused_contrast"]),
    ("mask_rate", &["gene_mask", "graph_mask"]),
    ("gene_sets", &["gene_mask"]),
    ("error_of", &["gene_mask"]),
    ("readout", &["dgi"]),
    ("gamma", &["graph_mask"]),
    ("targets", &["cross_modal"]),
    ("intra", &["cross_modal"]),
    ("fusion", &["fused_contrast"]),
    ("contrast", &["gene_contrast", "fused_contrast"]),
    ("view_mask", &["gene_contrast", "cross_modal", "fused_contrast"]),
    ("view_noise", &["gene_contrast", "cross_modal", "fused_contrast"]),
    ("view_swap", &["gene_contrast", "cross_modal", "fused_contrast"]),
    ("segment", &["inpaint"]),
    ("sees", &["colorize"]),
    ("mask_ratio", &["mae"]),
    ("norm_pixels", &["mae"]),
    ("decoder", &["mae"]),
    ("predictor", &["byol", "simsiam"]),
    ("temperature", &["simclr", "moco", "swav", "dino", "cross_modal"]),
    ("queue", &["moco", "swav"]),
    ("momentum", &["moco", "byol", "dino"]),
    ("prototypes", &["swav", "dino"]),
    ("off_weight", &["barlow"]),
    ("invariance", &["vicreg"]),
    ("variance", &["vicreg"]),
    ("covariance", &["vicreg"]),
    ("local_crops", &["swav", "dino"]),
    ("local_share", &["swav", "dino"]),
    ("local_pixels", &["swav", "dino"]),
    ("projector", TWO_VIEWS),
    ("min_crop", OF_PATCHES),
    ("stain_jitter", OF_PATCHES),
    ("colour_jitter", OF_PATCHES),
];

/// Those that see views of patches.
const OF_PATCHES: &[&str] = &[
    "inpaint",
    "colorize",
    "mae",
    "cross_modal",
    "fused_contrast",
    "vicreg",
    "barlow",
    "simclr",
    "moco",
    "byol",
    "simsiam",
    "swav",
    "dino",
];

/// Those with a projector: `cross_modal`, and what keeps two views apart.
const TWO_VIEWS: &[&str] =
    &["cross_modal", "vicreg", "barlow", "simclr", "moco", "byol", "simsiam", "swav", "dino"];

/// Tells of each param that is not its default and is not read.
pub(crate) fn warn(params: &PretrainParams) {
    for (param, readers) in unread(params) {
        tracing::warn!(
            "`{param}` is set, but objective `{}` does not read it: it is for `{}`",
            params.objective.name(),
            readers.join("`, `")
        );
    }
}

/// Tells of each input that is connected and not read.
pub(crate) fn warn_of_inputs(params: &PretrainParams, ctx: &Context) {
    let read = inputs(params);
    for port in ["table", "graph", "patches"].iter().filter(|port| !read.contains(port)) {
        if !ctx.inputs(port).is_empty() {
            tracing::warn!(
                "input `{port}` is connected, but objective `{}` with this encoder does not read it",
                params.objective.name()
            );
        }
    }
}

fn inputs(params: &PretrainParams) -> Vec<&'static str> {
    let encoders = [&params.encoder, &params.gene_encoder];
    let on_graph = encoders.into_iter().flatten().any(|encoder| encoder.encodes() == Encodes::Graph);
    let mut read = params.objective.inputs().to_vec();
    read.extend((on_graph && !read.contains(&"graph")).then_some("graph"));
    read
}

fn unread(params: &PretrainParams) -> Vec<(&'static str, &'static [&'static str])> {
    let by_default = json!({ "objective": params.objective });
    let by_default = serde_json::from_value::<PretrainParams>(by_default).ok();
    let (Ok(set), Ok(by_default)) = (serde_json::to_value(params), serde_json::to_value(by_default)) else {
        return Vec::new();
    };
    let contrast = serde_json::to_value(params.two_views()).unwrap_or_default();
    // What tells genes apart by the loss of an objective on patches reads none.
    let sees = |readers: &[&str]| readers != OF_PATCHES || params.objective.inputs().contains(&"patches");
    let is_read = |readers: &[&str]| {
        let names = |reader: &&str| *reader == params.objective.name() || contrast == **reader;
        readers.iter().any(names) && sees(readers)
    };
    READERS
        .into_iter()
        .filter(|(param, readers)| set[param] != by_default[param] && !is_read(readers))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn names(params: Value) -> Vec<&'static str> {
        let params = serde_json::from_value(params).unwrap();
        unread(&params).into_iter().map(|(param, _)| param).collect()
    }

    #[test]
    fn a_graph_is_read_by_encoders_that_see_neighbours_only() {
        let read = |params: Value| inputs(&serde_json::from_value(params).unwrap());
        assert_eq!(read(json!({ "objective": "gene_mask" })), ["table"]);
        let gcn = json!({ "kind": "gcn" });
        assert_eq!(read(json!({ "objective": "gene_mask", "encoder": gcn })), ["table", "graph"]);
        assert_eq!(read(json!({ "objective": "dgi" })), ["table", "graph"]);
        let both = json!({ "objective": "cross_modal", "gene_encoder": gcn });
        assert_eq!(read(both), ["patches", "table", "graph"]);
        assert_eq!(read(json!({ "objective": "vicreg" })), ["patches"]);
    }

    /// What is refused before anything runs is what would fail then.
    #[test]
    fn an_input_is_needed_by_whatever_reads_it() {
        let ports = <crate::Pretrain as restage_stage::Stage>::ports();
        let schema = schemars::schema_for!(crate::params::Objective).to_value();
        let names: Vec<&str> =
            schema["oneOf"].as_array().unwrap().iter().map(|one| one["const"].as_str().unwrap()).collect();
        assert_eq!(names.len(), 18);
        for objective in names {
            for kind in ["gcn", "gat", "transformer", "mlp"] {
                for which in ["encoder", "gene_encoder"] {
                    let params = json!({ "objective": objective, which: { "kind": kind } });
                    let params: PretrainParams = serde_json::from_value(params).unwrap();
                    let canonical = serde_json::to_value(&params).unwrap();
                    let read = inputs(&params);
                    for port in ports.inputs() {
                        let is_read = read.contains(&port.name.as_str());
                        assert_eq!(port.is_needed(&canonical), is_read, "{}: {canonical}", port.name);
                    }
                }
            }
        }
    }

    #[test]
    fn what_the_objective_does_not_read_is_told_unless_it_is_the_default() {
        assert_eq!(
            names(json!({ "objective": "gene_mask", "mask_ratio": 0.25, "mask_rate": 0.25 })),
            ["mask_ratio"]
        );
        assert_eq!(names(json!({ "objective": "gene_mask", "mask_ratio": 0.75, "epochs": 3 })), [""; 0]);
        assert_eq!(names(json!({ "objective": "simclr", "temperature": 0.5, "queue": 64 })), ["queue"]);
        let contrast =
            json!({ "objective": "gene_contrast", "contrast": "vicreg", "covariance": 2.0, "queue": 9 });
        assert_eq!(names(contrast), ["queue"]);
    }

    /// The same is said where students read what params are for.
    #[test]
    fn readers_are_those_that_a_params_description_names() {
        let schema = schemars::schema_for!(PretrainParams).to_value();
        for (param, readers) in READERS {
            let description = schema["properties"][param]["description"].as_str().unwrap();
            // Of all on patches, and all of two views, in these words.
            let told: Vec<String> = match readers {
                OF_PATCHES => vec!["patch".into()],
                TWO_VIEWS => vec!["two views".into()],
                _ => readers.iter().map(|reader| format!("`{reader}`")).collect(),
            };
            for reader in told {
                assert!(description.contains(&reader), "{param}: {description}");
            }
        }
    }
}
