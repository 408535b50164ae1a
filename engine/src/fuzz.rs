//! What the fuzzer in `fuzz/` calls: any bytes as a workflow file.

use std::path::Path;

use miette::GraphicalReportHandler;

use crate::workflow::{self, Diagnostics, LoadError};

/// Loads a workflow file and renders every problem, as `restage check` does before it looks at plugins.
///
/// # Panics
/// If a problem has no place in the file; and wherever the loader has a bug.
#[doc(hidden)]
pub fn fuzz_workflow(text: &[u8]) {
    let problems = match workflow::read(Path::new("fuzzed.yaml"), text.to_vec()) {
        Ok(workflow) => workflow.problems,
        Err(LoadError::Invalid(problems)) => problems,
        Err(_) => Diagnostics::default(),
    };
    let handler = GraphicalReportHandler::new();
    for problem in &problems.0 {
        let mut rendered = String::new();
        let written = handler.render_report(&mut rendered, &workflow::draw(problem)).is_ok();
        // So says `miette`, instead of an excerpt, of a place that the text does not have.
        let placed = !rendered.contains("[Failed to read contents for label");
        assert!(written && placed, "`{problem}` has no place: {:?}", problem.labels);
        assert!(problem.to_json().is_object());
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Instant};

    #[test]
    fn the_fuzzers_files_are_told_right_or_wrong_in_no_time() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        let files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() > 20);
        for path in files {
            let start = Instant::now();
            super::fuzz_workflow(&std::fs::read(&path).unwrap());
            assert!(start.elapsed().as_secs_f64() < 1.0, "{} takes long", path.display());
        }
    }
}
