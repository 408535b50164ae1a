//! What a program wrote is what the workflow says it writes: told when it ends, not by whoever reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use restage_stage::{
    Artifact, Context, Error, Result,
    artifact::{
        Embedding, Graph, ImageFile, Labels, Metrics, Model, Patches, Predictions, Role, Split, Table,
        zarr::Reader,
    },
    catalogue::PortType,
    marks,
};

/// Reads each output as its type, and tells what a split that it made lets results claim.
///
/// # Errors
/// If one is of another type.
pub(crate) fn check(name: &str, outputs: &BTreeMap<String, PortType>, ctx: &Context) -> Result<()> {
    let (mut train, mut test) = (BTreeSet::new(), BTreeSet::new());
    for (port, path) in ctx.outputs_by_port() {
        let Some(&kind) = outputs.get(port) else { continue };
        let wrong = || {
            Error::other(format!(
                "`{name}` wrote its output `{port}`, which is no {kind} (what one is: workflows/artifacts.md); if only \
                 scripts read it, say `outputs: {{ {port}: any }}`"
            ))
        };
        read(kind, path, &mut train, &mut test).map_err(wrong())?;
    }
    if train.intersection(&test).next().is_some() {
        ctx.optimistic(&format!(
            "command/run: `{name}` trains and tests on spots of one section; whether those are neighbours is not known"
        ));
    }
    Ok(())
}

/// Reads an output, and adds the sections that it has training spots and test spots of.
fn read(
    kind: PortType,
    path: &Path,
    train: &mut BTreeSet<String>,
    test: &mut BTreeSet<String>,
) -> Result<()> {
    let sections = |spots: &[String]| -> Vec<String> {
        spots.iter().map(|spot| marks::section(spot).to_owned()).collect()
    };
    match kind {
        PortType::Table => Table::read(path).map(drop),
        PortType::Image => ImageFile::open(path).map(drop),
        PortType::Section => Reader::open(path).map(drop),
        PortType::Patches => Patches::read(path).map(drop),
        PortType::Embedding => Embedding::read(path).map(drop),
        PortType::Graph => Graph::read(path).map(drop),
        PortType::Labels => Labels::read(path).map(drop),
        PortType::Model => Model::read(path).map(drop),
        PortType::Predictions => Predictions::read(path).map(drop),
        PortType::Metrics => Metrics::read(path).map(drop),
        PortType::TrainLabels => Labels::read(path).map(|labels| train.extend(sections(&labels.spots))),
        PortType::TestLabels => Labels::read(path).map(|labels| test.extend(sections(&labels.spots))),
        PortType::Split => {
            let split = Split::read(path)?;
            for (section, role) in sections(&split.spots).into_iter().zip(split.roles) {
                if role == Role::Train { &mut *train } else { &mut *test }.insert(section);
            }
            Ok(())
        }
        PortType::Any => Ok(()),
    }
}
