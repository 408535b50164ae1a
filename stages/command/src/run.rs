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

use crate::child;

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
        child::run(command, ctx)?;

        let lacking = |(_, path): &(&String, &PathBuf)| !path.is_dir();
        match ctx.outputs_by_port().iter().find(lacking) {
            None => Ok(()),
            Some((port, path)) if path.exists() => Err(Error::invalid(format!(
                "it wrote its output `{port}` as a file; an artifact is a folder"
            ))),
            Some((port, _)) => Err(Error::invalid(format!(
                "it ended well without writing its output `{port}`: the folder that RESTAGE_OUTPUT_{} names",
                variable(port)
            ))),
        }
    }
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
