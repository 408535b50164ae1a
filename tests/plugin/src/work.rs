//! Stages that work.

use std::time::Duration;

use restage_stage::{Context, Error, InputPath, Ports, Result, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::Text;

/// Writes a text.
pub(crate) struct Write;

/// Params of `test/write`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WriteParams {
    /// The text. Default empty.
    text: String,
    /// A file to take the first character of as well. Default none.
    file: Option<InputPath>,
    /// How long to take, in milliseconds. Default 0.
    sleep: u64,
}

impl Stage for Write {
    const NAME: &'static str = "write";
    type Params = WriteParams;

    fn ports() -> Ports {
        Ports::new("Writes a text, and the first character of a file.").output::<Text>("text", "The text.")
    }

    fn run(params: WriteParams, ctx: &Context) -> Result<()> {
        let file = params
            .file
            .map(|file| std::fs::read_to_string(file.as_path()).map_err(Error::io(file.as_path())));
        let first: String = file.transpose()?.unwrap_or_default().chars().take(1).collect();
        std::thread::sleep(Duration::from_millis(params.sleep));
        tracing::info!(length = params.text.len(), "written");
        ctx.write("text", &Text(params.text + &first))
    }
}

/// Joins texts.
pub(crate) struct Join;

/// Params of `test/join`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct JoinParams {
    /// What stands between two texts. Default `+`.
    between: String,
    /// A number that changes nothing but the key. Default 1.
    weight: f64,
}

impl Default for JoinParams {
    fn default() -> Self {
        Self { between: "+".into(), weight: 1.0 }
    }
}

impl Stage for Join {
    const NAME: &'static str = "join";
    type Params = JoinParams;

    fn ports() -> Ports {
        Ports::new("Joins texts in order.")
            .many::<Text>("texts", "The texts.")
            .output::<Text>("text", "Them joined.")
    }

    fn run(params: JoinParams, ctx: &Context) -> Result<()> {
        let texts: Vec<String> = ctx.read_all::<Text>("texts")?.into_iter().map(|text| text.0).collect();
        ctx.write("text", &Text(texts.join(&params.between)))
    }
}

/// Draws a number.
pub(crate) struct Draw;

/// Params of `test/draw`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DrawParams {
    /// What comes after the seed. Default empty.
    after: String,
}

impl Stage for Draw {
    const NAME: &'static str = "draw";
    const SEEDED: bool = true;
    const STREAMS: &'static [&'static str] = &["init", "batches"];
    type Params = DrawParams;

    fn ports() -> Ports {
        Ports::new("Appends the seed to a text.")
            .optional::<Text>("text", "The text.")
            .output::<Text>("text", "The text with the seed, and the streams that have another.")
    }

    fn run(params: DrawParams, ctx: &Context) -> Result<()> {
        let text = ctx.read_optional::<Text>("text")?.map(|text| text.0).unwrap_or_default();
        let own = Self::STREAMS.iter().map(|&stream| (stream, ctx.seed_of(stream)));
        let own: String = own
            .filter(|(_, seed)| *seed != ctx.seed())
            .map(|(stream, seed)| format!("/{stream}{seed}"))
            .collect();
        ctx.write("text", &Text(format!("{text}#{}{own}{}", ctx.seed(), params.after)))
    }
}

/// Counts in steps, with a checkpoint after each.
pub(crate) struct Steps;

/// Params of `test/steps`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StepsParams {
    /// How many steps. Default 20.
    steps: u64,
    /// How long each takes, in milliseconds. Default 20.
    sleep: u64,
}

impl Default for StepsParams {
    fn default() -> Self {
        Self { steps: 20, sleep: 20 }
    }
}

impl Stage for Steps {
    const NAME: &'static str = "steps";
    type Params = StepsParams;

    fn ports() -> Ports {
        Ports::new("Counts in steps, with a checkpoint after each.")
            .optional::<Text>("after", "What has to be there before. Not read.")
            .output::<Text>("text", "One line a step.")
    }

    fn run(params: StepsParams, ctx: &Context) -> Result<()> {
        let checkpoint = ctx.scratch().join("steps");
        let temporary = ctx.scratch().join("steps.tmp");
        let mut done: u64 =
            std::fs::read_to_string(&checkpoint).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        tracing::info!(done, "begins");
        while done < params.steps {
            ctx.check_cancelled()?;
            std::thread::sleep(Duration::from_millis(params.sleep));
            done += 1;
            std::fs::write(&temporary, done.to_string()).map_err(Error::io(&temporary))?;
            std::fs::rename(&temporary, &checkpoint).map_err(Error::io(&checkpoint))?;
            ctx.progress(done, params.steps, "steps");
            ctx.metric("done", done, done as f64);
        }
        ctx.write("text", &Text((0..done).map(|step| format!("{step}\n")).collect()))
    }
}
