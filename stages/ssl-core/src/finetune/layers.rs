//! Layers of an encoder, by the names of its parameters.

use std::collections::HashSet;

use restage_nn::{Param, Params};
use restage_stage::{Error, Result};

use super::{Freeze, Whole};
use crate::architecture::FUSION;

/// Names of the parameters of a model that stay as they are. `learning` are the prefixes of the encoders that learn; what else a
/// model has, such as the other encoder of a pair, stays.
///
/// # Errors
/// If an encoder has not that many layers.
pub(super) fn still(params: &Params, freeze: Freeze, learning: &[&str]) -> Result<HashSet<String>> {
    let mut still: HashSet<String> = params
        .iter()
        .map(|param| param.name.clone())
        .filter(|name| {
            freeze == Freeze::Whole(Whole::All) || !learning.iter().any(|prefix| is_of(name, prefix))
        })
        .collect();
    let Freeze::First(count) = freeze else { return Ok(still) };
    // What makes the embeddings of a pair one is behind all layers of both.
    for prefix in learning.iter().filter(|prefix| **prefix != FUSION) {
        let layers = layers(params.iter().filter(|param| is_of(&param.name, prefix)), prefix);
        if count > layers.len() {
            return Err(Error::invalid(format!(
                "`freeze`: {count} layers are to stay as they are, and `{prefix}` has {} ({}): choose fewer, or `all`",
                layers.len(),
                layers.iter().map(|(layer, _)| layer.as_str()).collect::<Vec<_>>().join(", ")
            )));
        }
        still.extend(layers.into_iter().take(count).flat_map(|(_, names)| names));
    }
    Ok(still)
}

fn is_of(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
}

/// Layers with the names of their parameters, in their order: blocks as wholes, and a norm with what is before it.
fn layers<'a>(params: impl Iterator<Item = &'a Param>, prefix: &str) -> Vec<(String, Vec<String>)> {
    let mut layers: Vec<(String, bool, Vec<String>)> = Vec::new();
    for param in params {
        let mut parts = param.name[prefix.len() + 1..].split('.');
        let first = parts.next().unwrap_or_default();
        let layer = match parts.next() {
            Some(number) if first == "blocks" || first.starts_with("layer") => format!("{first}.{number}"),
            _ => first.to_owned(),
        };
        match layers.last_mut().filter(|(last, ..)| *last == layer) {
            Some((_, has_weight, names)) => {
                *has_weight |= param.decays;
                names.push(param.name.clone());
            }
            None => layers.push((layer, param.decays, vec![param.name.clone()])),
        }
    }
    let mut joined: Vec<(String, Vec<String>)> = Vec::new();
    for (layer, has_weight, names) in layers {
        match joined.last_mut().filter(|_| !has_weight) {
            Some((_, before)) => before.extend(names),
            None => joined.push((layer, names)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use restage_stage::context::rng;
    use serde_json::json;

    use super::*;
    use crate::encoder::{GraphNet, Net};

    fn of(kind: serde_json::Value) -> Vec<String> {
        let kind = serde_json::from_value(kind).unwrap();
        let (mut params, mut rng) = (Params::default(), rng(1, "init"));
        let is_of_genes = Net::of_genes(&mut params, "encoder", &kind, (6, 4), &mut rng).is_ok();
        let is_on_graph = GraphNet::new(&mut params, "encoder", &kind, (6, 4), &mut rng).is_ok();
        if !is_of_genes && !is_on_graph {
            Net::of_patches(&mut params, "encoder", &kind, 4, &mut rng).unwrap();
        }
        let found = layers(params.iter(), "encoder");
        let names: usize = found.iter().map(|(_, names)| names.len()).sum();
        assert_eq!(names, params.iter().count());
        found.into_iter().map(|(layer, _)| layer).collect()
    }

    #[test]
    fn layers_are_what_has_weights_and_blocks_are_wholes() {
        assert_eq!(of(json!({ "kind": "mlp", "hidden": [8, 8] })), ["0", "3", "6"]);
        assert_eq!(of(json!({ "kind": "gat", "hidden": [8], "heads": 2 })), ["0", "3"]);
        assert_eq!(of(json!({ "kind": "cnn", "channels": [8, 8] })), ["0", "3", "8"]);
        assert_eq!(
            of(json!({ "kind": "resnet", "width": 4 })),
            ["conv1", "layer1.0", "layer2.0", "layer3.0", "layer4.0", "fc"]
        );
        let vit = json!({ "kind": "vit", "patch": 4, "width": 8, "depth": 2, "heads": 2 });
        assert_eq!(of(vit), ["patch_embed", "blocks.0", "blocks.1", "head"]);
        let transformer = json!({ "kind": "transformer", "width": 8, "depth": 2, "heads": 2 });
        assert_eq!(of(transformer), ["embed", "blocks.0", "blocks.1", "head"]);
    }

    #[test]
    fn what_does_not_learn_stays() {
        let (mut params, mut rng) = (Params::default(), rng(1, "init"));
        let mlp = crate::Encoder::Mlp { hidden: vec![5] };
        Net::of_genes(&mut params, "encoder.genes", &mlp, (6, 4), &mut rng).unwrap();
        let cnn = crate::Encoder::Cnn { channels: vec![4] };
        Net::of_patches(&mut params, "encoder.patches", &cnn, 4, &mut rng).unwrap();
        let still = |freeze, learning: &[&str]| {
            let mut names: Vec<_> = still(&params, freeze, learning).unwrap().into_iter().collect();
            names.sort();
            names
        };
        assert_eq!(still(Freeze::Whole(Whole::All), &["encoder.genes"]).len(), 11);
        let of_patches: Vec<_> =
            params.iter().map(|param| param.name.clone()).filter(|name| name.contains("patches")).collect();
        assert_eq!(still(Freeze::First(0), &["encoder.genes"]).len(), of_patches.len());
        let first = still(Freeze::First(1), &["encoder.genes", "encoder.patches"]);
        let wanted = ["genes.0.bias", "genes.0.weight", "genes.1.bias", "genes.1.weight", "patches.0.weight"];
        let wanted = [&wanted[..], &["patches.1.bias", "patches.1.weight"]].concat();
        assert_eq!(first, wanted.iter().map(|name| format!("encoder.{name}")).collect::<Vec<_>>());
        let told = super::still(&params, Freeze::First(3), &["encoder.genes"]).unwrap_err().to_string();
        assert_eq!(
            told,
            "`freeze`: 3 layers are to stay as they are, and `encoder.genes` has 2 (0, 3): choose fewer, or `all`"
        );
    }
}
