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
    use std::{path::Path, sync::LazyLock, time::Instant};

    use proptest::prelude::*;

    static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        let mut files: Vec<_> =
            std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
    });

    fn in_no_time(text: &[u8]) {
        let start = Instant::now();
        super::fuzz_workflow(text);
        let told: String = String::from_utf8_lossy(text).chars().take(200).collect();
        assert!(start.elapsed().as_secs_f64() < 1.0, "takes long: {told}");
    }

    #[test]
    fn the_fuzzers_files_are_told_right_or_wrong_in_no_time() {
        assert!(CORPUS.len() > 20);
        CORPUS.iter().for_each(|text| in_no_time(text));
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let part = |(text, from, to): (prop::sample::Index, prop::sample::Index, prop::sample::Index)| {
            let text = text.get(&CORPUS);
            let ends = [from.index(text.len() + 1), to.index(text.len() + 1)];
            text[ends[0].min(ends[1])..ends[0].max(ends[1])].to_vec()
        };
        any::<(prop::sample::Index, prop::sample::Index, prop::sample::Index)>().prop_map(part)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        /// What a fuzzer begins with, for CI: the fuzzer itself needs a build of its own, of seven minutes.
        #[test]
        fn pieces_of_the_fuzzers_files_are_told_right_or_wrong_in_no_time(pieces in prop::collection::vec(piece(), 1..4)) {
            in_no_time(&pieces.concat());
        }
    }
}
