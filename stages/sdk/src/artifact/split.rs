//! Which spots train and which test; no labels, so that any stage may see it.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::Artifact;
use crate::{catalogue::PortType, error::Result};

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

impl Split {
    /// Ids of the spots to fit on.
    pub fn train(&self) -> HashSet<&str> {
        self.of_role(Role::Train).collect()
    }

    /// Ids of the spots to judge on.
    pub fn test(&self) -> HashSet<&str> {
        self.of_role(Role::Test).collect()
    }

    /// Spot id to role; a spot that is not here has none.
    pub fn roles(&self) -> HashMap<&str, Role> {
        self.spots.iter().map(String::as_str).zip(self.roles.iter().copied()).collect()
    }

    fn of_role(&self, wanted: Role) -> impl Iterator<Item = &str> {
        self.spots.iter().zip(&self.roles).filter(move |(_, role)| **role == wanted).map(|(spot, _)| spot.as_str())
    }
}

impl Artifact for Split {
    const PORT: PortType = PortType::Split;

    fn read(_path: &Path) -> Result<Self> {
        todo!()
    }

    fn write(&self, _path: &Path) -> Result<()> {
        todo!()
    }
}
