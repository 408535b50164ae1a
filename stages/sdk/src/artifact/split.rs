//! Which spots train and which test; no labels, so that any stage may see it.

/// What a spot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Fit on it.
    Train,
    /// Judge on it.
    Test,
}

/// The role of each spot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Spot ids.
    pub spots: Vec<String>,
    /// Role per spot.
    pub roles: Vec<Role>,
}
// Methods wanted: train() -> HashSet<&str>; role(&spot)
