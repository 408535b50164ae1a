//! What a stage can fail with.

use std::path::PathBuf;

/// Why a stage did not finish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The run was asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The data or the params cannot be worked with; the text says what was expected and what to do.
    #[error("{0}")]
    Invalid(String),
    /// A file could not be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A Zarr node could not be read or written.
    #[error("cannot read or write the Zarr node {} of {}", node, path.display())]
    Zarr {
        /// Root folder.
        path: PathBuf,
        /// Path inside it.
        node: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Anything else, with its chain of causes.
    #[error("{context}")]
    Other {
        /// What was attempted.
        context: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Result of a stage and of the helpers it calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The data or the params cannot be worked with.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    /// A file could not be read or written.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// Something else went wrong while doing `context`.
    pub fn other<E>(context: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let context = context.into();
        move |source| Self::Other { context, source: source.into() }
    }

    /// The error and its causes, outermost first; a cause that the one before told already, as some libraries' do, is not
    /// told again.
    pub fn chain(&self) -> Vec<String> {
        let mut told: Vec<String> = Vec::new();
        for cause in std::iter::successors(Some(self as &dyn std::error::Error), |error| error.source()) {
            let cause = cause.to_string();
            if !told.last().is_some_and(|last| last.ends_with(&cause)) {
                told.push(cause);
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let twice = std::io::Error::other(Error::other("b")(std::io::Error::other("c")));
        assert_eq!(twice.to_string(), "b");
        assert_eq!(Error::other("a")(twice).chain(), ["a", "b", "c"]);
    }
}
