//! Where networks run: what a workflow says of it.

use std::fmt;

use restage_nn::{Device, Params};
use restage_stage::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where networks run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^(auto|cpu|cuda:[0-9]+)$"))]
pub enum Choice {
    /// On a GPU, if there is one and the plugin is for GPUs; else on the CPU.
    #[default]
    Auto,
    /// On the CPU.
    Cpu,
    /// On the GPU of this number, among those that the stage may see.
    Cuda(usize),
}

impl TryFrom<String> for Choice {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            other => other
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("a device is `auto`, `cpu` or `cuda:0`, not `{text}`")),
        }
    }
}

impl From<Choice> for String {
    fn from(choice: Choice) -> Self {
        choice.to_string()
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl Choice {
    /// What a plugin for the CPU makes of it.
    ///
    /// # Errors
    /// If a GPU is asked for.
    pub(crate) fn on_cpu(self) -> Result<Option<&'static dyn Device>> {
        match self {
            Self::Auto | Self::Cpu => Ok(None),
            Self::Cuda(_) => Err(Error::invalid(format!(
                "`device: {self}`: plugin `ssl` computes on the CPU; take the stage type of plugin `ssl-cuda`"
            ))),
        }
    }
}

/// Whether the device that has some of these parameters, if one has, still works.
///
/// # Errors
/// What failed: what it gave since is no number.
pub(crate) fn check(params: &Params) -> Result<()> {
    match params.failure() {
        Some(failure) => Err(Error::invalid(format!("the device failed: {failure}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_written() {
        for (text, choice) in [("auto", Choice::Auto), ("cpu", Choice::Cpu), ("cuda:12", Choice::Cuda(12))] {
            let read: Choice = serde_json::from_value(text.into()).unwrap();
            assert_eq!(read, choice);
            assert_eq!(serde_json::to_value(read).unwrap(), text);
        }
        let error = serde_json::from_value::<Choice>("gpu".into()).unwrap_err().to_string();
        assert_eq!(error, "a device is `auto`, `cpu` or `cuda:0`, not `gpu`");
        assert!(Choice::Cuda(0).on_cpu().is_err());
    }
}
