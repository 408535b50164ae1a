//! The testkit's artifact: a folder with one text file.

use std::path::Path;

use restage_stage::{Artifact, Error, Result, catalogue::PortType};

pub(crate) struct Text(pub(crate) String);

impl Artifact for Text {
    const PORT: PortType = PortType::Any;

    fn read(path: &Path) -> Result<Self> {
        let file = path.join("text");
        std::fs::read_to_string(&file).map(Self).map_err(Error::io(file))
    }

    fn write(&self, path: &Path) -> Result<()> {
        std::fs::create_dir(path).map_err(Error::io(path))?;
        let file = path.join("text");
        std::fs::write(&file, &self.0).map_err(Error::io(file))
    }
}
