//! Which spots train and which test; no labels, so that any stage may see it.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{
    Artifact, Categorical, Column, Frame, anndata,
    zarr::{Reader, Writer},
};
use crate::{
    catalogue::PortType,
    error::{Error, Result},
};

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
        self.spots
            .iter()
            .zip(&self.roles)
            .filter(move |(_, role)| **role == wanted)
            .map(|(spot, _)| spot.as_str())
    }
}

impl Artifact for Split {
    const PORT: PortType = PortType::Split;

    fn read(path: &Path) -> Result<Self> {
        let group = Reader::open(path)?;
        let frame = anndata::read_frame(&group)?;
        let role = |name: Option<&str>| match name {
            Some("train") => Ok(Role::Train),
            Some("test") => Ok(Role::Test),
            other => Err(group.wrong(format!("has the role {other:?}; expected `train` or `test`"))),
        };
        let roles = frame.categorical("role")?.iter().map(role).collect::<Result<_>>()?;
        Ok(Self { spots: frame.index, roles })
    }

    fn write(&self, path: &Path) -> Result<()> {
        if self.roles.len() != self.spots.len() {
            return Err(Error::invalid(format!("{} roles for {} spots", self.roles.len(), self.spots.len())));
        }
        let name = |role: &Role| match role {
            Role::Train => Some("train"),
            Role::Test => Some("test"),
        };
        let roles = Column::Categorical(Categorical::encode(self.roles.iter().map(name)));
        let frame = Frame { index: self.spots.clone(), columns: vec![("role".into(), roles)] };
        anndata::frame(&frame, |attributes| Writer::create(path, attributes))
    }
}
