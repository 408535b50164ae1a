//! `command/run`: runs a program that reads the stage's inputs and writes its outputs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use restage_stage::{
    CodePath, Context, Device, Error, InputPath, Ports, Result, Stage, ToolPath, catalogue::PortType,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{child, written};

/// Runs a program.
pub(crate) struct Run;

/// Params of `command/run`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// What it writes: the type of each output, e.g. `{ table: table, scores: metrics }`.
    outputs: BTreeMap<String, PortType>,
    /// The script. Its code is part of the key, with that of the local Python modules that it imports; comments are not.
    #[serde(default)]
    script: Option<CodePath>,
    /// The program that runs the script. Default `python3` for a `.py`; other scripts are run themselves.
    #[serde(default)]
    program: Option<ToolPath>,
    /// Further words of the command line. Default none.
    #[serde(default)]
    args: Vec<String>,
    /// What the script is to know; it reads them as JSON. Default none.
    #[serde(default)]
    params: Map<String, Value>,
    /// Files and folders that it reads. Default none; it is kept from others.
    #[serde(default)]
    files: Vec<InputPath>,
    /// What tells the environment that it runs in: `uv.lock`, `requirements.txt`, `environment.yml`. Default none.
    #[serde(default)]
    lock: Option<InputPath>,
    /// Whether it takes the sweep's seed. Default false.
    #[serde(default)]
    seed: bool,
    /// On which spots the script fits anything: a scaler, components, a network. Default unknown: then what is made of its
    /// outputs counts as fitted on all spots, and evaluations say `transductive`.
    #[serde(default)]
    fits: Option<Fits>,
}

/// On which spots a script fits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fits {
    /// On none: what it makes of a spot is the same whatever other spots there are, or depends on its neighbours only.
    Nothing,
    /// On training spots only, e.g. those of a `split` that it reads.
    Train,
    /// On spots that may be tested on too.
    All,
}

impl Stage for Run {
    const NAME: &'static str = "run";
    const OPEN: bool = true;
    type Params = Params;

    fn ports() -> Ports {
        Ports::new(
            "Runs a program, e.g. a Python script. It reads inputs of any name and type, and writes those outputs that its \
             param `outputs` names.",
        )
    }

    fn validate(params: &Params) -> Result<()> {
        let is_name = |name: &String| {
            !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
        };
        if params.outputs.is_empty() {
            return Err(Error::invalid("`outputs`: expected what it writes, e.g. `{ table: table }`"));
        }
        if let Some(name) = params.outputs.keys().find(|name| !is_name(name)) {
            return Err(Error::invalid(format!(
                "`outputs`: expected names of letters, digits, `_` and `-`, not `{name}`"
            )));
        }
        if params.script.is_none() && params.program.is_none() {
            return Err(Error::invalid("`script`: expected a script, or a `program` with `args`"));
        }
        Ok(())
    }

    fn run(params: Params, ctx: &Context) -> Result<()> {
        let name = name(&params);
        tell_fits(params.fits, &name, ctx);
        let mut command = command(&params)?;
        // What an earlier try left in its own folders is gone; what it kept is in another.
        let work = fresh(&ctx.scratch().join("work"))?;
        let kept = ctx.scratch().join("kept");
        std::fs::create_dir_all(&kept).map_err(Error::io(&kept))?;
        let temporary = fresh(&work.join("tmp"))?;
        let task = work.join("task.json");
        let seed = params.seed.then(|| ctx.seed());
        let device = match ctx.device() {
            Device::Cpu => "cpu",
            Device::Cuda { .. } => "cuda",
        };
        let all = json!({
            "inputs": ctx.inputs_by_port(), "outputs": ctx.outputs_by_port(), "params": params.params, "seed": seed,
            "device": device, "threads": ctx.threads(), "scratch": kept,
        });
        std::fs::write(&task, format!("{all:#}\n")).map_err(Error::io(&task))?;

        command.current_dir(&work).env("RESTAGE_TASK", &task).env("RESTAGE_SCRATCH", &kept);
        command.env("RESTAGE_PARAMS", Value::Object(params.params).to_string());
        command.env("RESTAGE_SEED", seed.unwrap_or(0).to_string()).env("RESTAGE_DEVICE", device);
        for (port, paths) in ctx.inputs_by_port() {
            if let Some(first) = paths.first() {
                command.env(format!("RESTAGE_INPUT_{}", variable(port)), first);
            }
        }
        for (port, path) in ctx.outputs_by_port() {
            command.env(format!("RESTAGE_OUTPUT_{}", variable(port)), path);
        }
        let libraries =
            ["OMP", "MKL", "OPENBLAS", "NUMBA", "NUMEXPR", "RAYON"].map(|name| format!("{name}_NUM_THREADS"));
        for name in libraries.iter().map(String::as_str).chain(["RESTAGE_THREADS"]) {
            command.env(name, ctx.threads().to_string());
        }
        // Folders that it may write, for libraries that keep something there.
        for name in ["TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR"] {
            command.env(name, &temporary);
        }
        // Nothing is left beside the sources, sets come in the same order each time, and lines as they are printed.
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONHASHSEED", "0").env("PYTHONUNBUFFERED", "1");
        child::run(command, &name, ctx)?;

        let lacking = |(_, path): &(&String, &PathBuf)| !path.is_dir();
        match ctx.outputs_by_port().iter().find(lacking) {
            None => written::check(&name, &params.outputs, ctx),
            Some((port, path)) if path.exists() => Err(Error::invalid(format!(
                "`{name}` wrote its output `{port}` as a file; an artifact is a folder"
            ))),
            Some((port, _)) => Err(Error::invalid(format!(
                "`{name}` ended well without writing its output `{port}`: the folder that RESTAGE_OUTPUT_{} names",
                variable(port)
            ))),
        }
    }
}

/// Tells what results may claim that are made of what the script writes. Nothing that it says not to have done is known not
/// to be done, so what is not said is told as if it had been.
fn tell_fits(fits: Option<Fits>, name: &str, ctx: &Context) {
    match fits {
        Some(Fits::Nothing | Fits::Train) => {}
        Some(Fits::All) => ctx.transductive(&format!("command/run: `{name}` fits on all spots"), []),
        None => ctx.transductive(
            &format!(
                "command/run: `{name}` saw all spots that it read; whether it fitted on them is not known (say \
                 `fits: nothing`, `train` or `all`)"
            ),
            [],
        ),
    }
}

/// What a message calls it: the file's name, which is the same on every machine.
fn name(params: &Params) -> String {
    let path =
        params.script.as_ref().map(CodePath::as_path).or(params.program.as_ref().map(ToolPath::as_path));
    let name = path.and_then(Path::file_name).unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The command line.
fn command(params: &Params) -> Result<Command> {
    let script = params.script.as_ref().map(CodePath::as_path);
    let is_python = |path: &Path| path.extension().is_some_and(|extension| extension == "py");
    let mut command = match (params.program.as_ref(), script) {
        (Some(program), _) => Command::new(program.as_path()),
        (None, Some(script)) if is_python(script) => Command::new("python3"),
        (None, Some(script)) => {
            let mut command = Command::new(script);
            command.args(&params.args);
            return Ok(command);
        }
        (None, None) => return Err(Error::invalid("there is neither a script nor a program")),
    };
    command.args(script).args(&params.args);
    Ok(command)
}

/// An empty folder.
fn fresh(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        std::fs::remove_dir_all(path).map_err(Error::io(path))?;
    }
    std::fs::create_dir_all(path).map_err(Error::io(path))?;
    Ok(path.to_owned())
}

/// A port's name as a part of a variable's.
fn variable(port: &str) -> String {
    port.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use restage_stage::{
        Artifact,
        artifact::{Role, Split},
        context::Silence,
        marks::{MarkKind, Marks},
        task::Task,
    };

    use super::*;

    /// What a script of the shell says of `out`, which it writes as `kind`, or why it fails.
    fn run(
        script: &str,
        kind: &str,
        more: Value,
        inputs: &[PathBuf],
    ) -> Result<(Vec<(MarkKind, String)>, PathBuf)> {
        let folder = tempfile::tempdir().unwrap().keep();
        let file = folder.join("scale.sh");
        std::fs::write(&file, format!("set -e\n{script}\n")).unwrap();
        let mut params = json!({"program": "sh", "script": file, "outputs": {"out": kind}});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (out, scratch) = (folder.join("out"), folder.join("scratch"));
        std::fs::create_dir(&scratch).unwrap();
        let task = Task {
            stage: "run".into(),
            params: Value::Null,
            inputs: BTreeMap::from([("in".to_owned(), inputs.to_vec())]),
            outputs: BTreeMap::from([("out".to_owned(), out.clone())]),
            seed: 0,
            streams: BTreeMap::new(),
            threads: 1,
            gpus: 0,
            scratch,
        };
        restage_stage::stage::run::<Run>(params, &Context::new(task, Box::new(Silence)))?;
        Ok((Marks::read(&out)?.iter().map(|mark| (mark.kind, mark.what)).collect(), out))
    }

    const GROUP: &str = r#"mkdir "$RESTAGE_OUTPUT_OUT"; echo '{"zarr_format": 3, "node_type": "group"}' > "$RESTAGE_OUTPUT_OUT/zarr.json""#;
    const TEXT: &str = r#"mkdir "$RESTAGE_OUTPUT_OUT"; echo text > "$RESTAGE_OUTPUT_OUT/text""#;

    #[test]
    fn a_script_that_does_not_say_what_it_fits_may_have_fitted_on_all() {
        for script in [GROUP, TEXT] {
            let marks = |more: Value, inputs: &[PathBuf]| run(script, "any", more, inputs).unwrap();
            let (unknown, out) = marks(json!({}), &[]);
            assert_eq!(unknown.len(), 1);
            assert_eq!(unknown[0].0, MarkKind::Transductive);
            assert!(
                unknown[0]
                    .1
                    .starts_with("command/run: `scale.sh` saw all spots that it read; whether it fitted")
            );
            let (all, _) = marks(json!({"fits": "all"}), &[]);
            assert_eq!(
                all,
                [(MarkKind::Transductive, "command/run: `scale.sh` fits on all spots".to_owned())]
            );
            for fits in ["nothing", "train"] {
                assert!(marks(json!({"fits": fits}), &[]).0.is_empty());
                let inherited = marks(json!({"fits": fits}), std::slice::from_ref(&out)).0;
                assert_eq!(
                    inherited, unknown,
                    "what its inputs tell goes through it, whatever it says of itself"
                );
            }
        }
    }

    #[test]
    fn a_split_of_a_script_within_a_section_flatters() {
        let folder = tempfile::tempdir().unwrap();
        let of = |spots: [&str; 2]| {
            let path = folder.path().join(spots[1]);
            let split =
                Split { spots: spots.map(str::to_owned).to_vec(), roles: vec![Role::Train, Role::Test] };
            split.write(&path).unwrap();
            let copy = format!(r#"cp -r {} "$RESTAGE_OUTPUT_OUT""#, path.display());
            run(&copy, "split", json!({"fits": "nothing"}), &[]).unwrap().0
        };
        assert!(of(["A1_1", "B1_1"]).is_empty());
        let within = of(["A1_1", "A1_2"]);
        assert_eq!(within[0].0, MarkKind::Optimistic);
        assert!(within[0].1.contains("`scale.sh` trains and tests on spots of one section"), "{within:?}");
    }

    #[test]
    fn what_is_not_what_the_workflow_says_is_told_of_who_wrote_it() {
        for kind in
            ["table", "embedding", "predictions", "metrics", "split", "model", "patches", "graph", "image"]
        {
            let chain = run(GROUP, kind, json!({}), &[]).unwrap_err().chain();
            assert!(
                chain[0].starts_with(&format!("`scale.sh` wrote its output `out`, which is no {kind} (")),
                "{chain:?}"
            );
            assert!(chain[0].contains("`outputs: { out: any }`") && chain.len() > 1, "{chain:?}");
        }
        let group = GROUP.replace(r#""group""#, r#""group", "attributes": {"metrics": {"f1": 0.5}}"#);
        run(&group, "metrics", json!({}), &[]).unwrap();
    }
}
