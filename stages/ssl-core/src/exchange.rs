//! `ssl/export` and `ssl/import`: encoders for PyTorch's users, and back.

use restage_stage::{
    Context, Error, InputPath, Ports, Result, Stage,
    artifact::Model,
    marks::{self, Mark},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    architecture::Architecture,
    safetensors::{self, Exported},
};

/// How weights of an encoder are called; PyTorch's users know them without.
const PREFIX: &str = "encoder.";

/// The stage type `ssl/export`.
pub struct Export;

/// `ssl/export` takes no params.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExportParams {}

impl Stage for Export {
    const NAME: &'static str = "export";
    type Params = ExportParams;

    fn ports() -> Ports {
        Ports::new(
            "Writes an encoder as `model.safetensors`: weights as a PyTorch `Sequential` names and lays them out, and its \
             architecture, with the scaling of its inputs, as JSON in the metadata `restage`.",
        )
        .input::<Model>("model", "An encoder of ssl/pretrain")
        .output::<Exported>("files", "A folder with model.safetensors")
    }

    fn run(_: ExportParams, ctx: &Context) -> Result<()> {
        let mut model: Model = ctx.read("model")?;
        // A file is passed on without its folder.
        let marks: Vec<Mark> = ctx.marks()?.iter().collect();
        if let (false, Some(architecture)) = (marks.is_empty(), model.architecture.as_object_mut()) {
            let marks =
                serde_json::to_value(marks).map_err(Error::other("cannot write what the model saw"))?;
            architecture.insert(marks::ATTRIBUTE.into(), marks);
        }
        ctx.write("files", &Exported(model))
    }
}

/// The stage type `ssl/import`.
pub struct Import;

/// What `with:` of `ssl/import` holds.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportParams {
    /// A `.safetensors` file, with weights named as `ssl/export` names them, or without `encoder.` before each; `module.` and `_orig_mod.`,
    /// which PyTorch puts before all names of a wrapped model, are left out.
    pub path: InputPath,
}

impl Stage for Import {
    const NAME: &'static str = "import";
    type Params = ImportParams;

    fn ports() -> Ports {
        Ports::new(
            "Reads an encoder's weights from a `safetensors` file: one that ssl/export wrote, or one that was trained in PyTorch \
             since.",
        )
        .optional::<Model>("model", "An encoder whose architecture the weights are of, where the file does not say it")
        .output::<Model>("model", "The encoder with the file's weights")
    }

    fn run(params: ImportParams, ctx: &Context) -> Result<()> {
        let path = params.path.as_path();
        let (mut weights, mut in_file) = safetensors::read(path)?;
        let marks = in_file.as_mut().and_then(|file| file.as_object_mut()?.shift_remove(marks::ATTRIBUTE));
        if let Some(marks) = marks {
            let wrong = || format!("{}: `{}` in its metadata is not ours", path.display(), marks::ATTRIBUTE);
            let marks: Vec<Mark> = serde_json::from_value(marks).map_err(Error::other(wrong()))?;
            ctx.marked(marks.into_iter().collect());
        }
        let given = ctx.read_optional::<Model>("model")?.map(|model| model.architecture);
        if given.is_some() && in_file.is_some() {
            tracing::warn!(
                "{} says its architecture, and what it was trained on: input `model` is not read",
                path.display()
            );
        }
        let Some(architecture) = in_file.or(given) else {
            return Err(Error::invalid(format!(
                "{} does not say its architecture: connect a model of the same one to input `model`",
                path.display()
            )));
        };
        weights = weights.into_iter().map(|(name, weight)| (bare(&name).to_owned(), weight)).collect();
        if !weights.keys().any(|name| name.starts_with(PREFIX)) {
            weights = weights.into_iter().map(|(name, weight)| (format!("{PREFIX}{name}"), weight)).collect();
        }
        // What else was trained beside the encoder, such as a head, is left.
        weights.retain(|name, _| name.starts_with(PREFIX));
        let broken = weights.iter().find(|(_, weight)| weight.values.iter().any(|value| !value.is_finite()));
        if let Some((name, _)) = broken {
            return Err(Error::invalid(format!("{}: `{name}` holds NaN or infinity", path.display())));
        }
        let model = Model { architecture, weights };
        let (_, kept) = Architecture::restore(&model)
            .map_err(Error::other(format!("{} cannot be this encoder", path.display())))?;
        if let Some(name) = model.weights.keys().find(|name| !kept.iter().any(|param| param.name == **name)) {
            return Err(Error::invalid(format!(
                "{} has `{name}`, which this encoder has not: is it of another architecture?",
                path.display()
            )));
        }
        ctx.write("model", &model)
    }
}

/// A weight's name without what PyTorch puts before all names of a model that was compiled, or trained on several devices.
fn bare(name: &str) -> &str {
    match name.strip_prefix("module.").or_else(|| name.strip_prefix("_orig_mod.")) {
        Some(inner) => bare(inner),
        None => name,
    }
}
