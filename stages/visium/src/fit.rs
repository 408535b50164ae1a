//! Which spots a fitted step may learn from: the training spots of a split, or all.

use restage_stage::{Context, Error, Result, artifact::Split};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a step is fitted on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FitOn {
    /// The training spots of the split that is connected; without one, there are no test spots, and it is all.
    #[default]
    Train,
    /// All spots, those of the test too: what follows is transductive.
    All,
}

/// Positions in `spots` of those to fit on, ascending.
///
/// # Errors
/// If the split trains on none of them.
pub(crate) fn rows(spots: &[String], split: Option<&Split>, fit_on: FitOn) -> Result<Vec<usize>> {
    let every = Ok((0..spots.len()).collect());
    let Some(split) = split else { return every };
    if fit_on == FitOn::All {
        tracing::warn!("fit_on: all fits on test spots too: results that use this are transductive");
        return every;
    }
    let train = split.train();
    let rows: Vec<usize> = (0..spots.len()).filter(|&row| train.contains(spots[row].as_str())).collect();
    if rows.is_empty() {
        return Err(Error::invalid(
            "no training spot of the split is in this table; make both from the same sections",
        ));
    }
    Ok(rows)
}

/// Marks what is written where a step is fitted on all spots: results are then transductive, and say so. `what` is fitted,
/// the stage type first.
pub(crate) fn tell(ctx: &Context, what: &str, spots: &[String], split: Option<&Split>, fit_on: FitOn) {
    if split.is_none() || fit_on == FitOn::All {
        ctx.transductive(&format!("{what} on all spots"), spots.iter().map(String::as_str));
    }
}

#[cfg(test)]
mod tests {
    use restage_stage::artifact::Role;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_a_split_every_spot_is_fitted_on() {
        assert_eq!(rows(&names(&["a", "b"]), None, FitOn::Train).unwrap(), [0, 1]);
    }

    #[test]
    fn with_a_split_only_its_training_spots_in_the_table_s_order() {
        let split =
            Split { spots: names(&["c", "b", "a"]), roles: vec![Role::Train, Role::Test, Role::Train] };
        assert_eq!(rows(&names(&["a", "b", "c", "d"]), Some(&split), FitOn::Train).unwrap(), [0, 2]);
    }

    #[test]
    fn all_means_all() {
        let split = Split { spots: names(&["a", "b"]), roles: vec![Role::Train, Role::Test] };
        assert_eq!(rows(&names(&["a", "b"]), Some(&split), FitOn::All).unwrap(), [0, 1]);
    }

    #[test]
    fn a_split_of_other_spots_is_an_error() {
        let split = Split { spots: names(&["x"]), roles: vec![Role::Train] };
        assert!(
            rows(&names(&["a"]), Some(&split), FitOn::Train)
                .unwrap_err()
                .to_string()
                .contains("same sections")
        );
    }
}
