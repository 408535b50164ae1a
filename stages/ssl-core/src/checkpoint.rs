//! The state of a training on disk, so that a killed run goes on and ends with the same bytes.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use restage_nn::{Device, ParamId, Params};
use restage_stage::{Error, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    optimizer::Stepper,
    train::{Curves, Dimensions, Memory},
};

const FILE: &str = "checkpoint";

/// All that an epoch hands to the next. Random numbers are not in it: they are drawn by epoch and spot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// What is trained, on what, how: another training's checkpoint is none of ours.
    pub(crate) identity: String,
    /// Epochs done.
    pub(crate) epochs: usize,
    pub(crate) params: Params,
    pub(crate) optimizer: Stepper,
    pub(crate) curves: Curves,
    /// Of the last epoch's embeddings, the sd of each dimension.
    pub(crate) stds: Dimensions,
    pub(crate) memory: Memory,
}

impl State {
    /// Gives a device these parameters, and what belongs to them.
    pub(crate) fn place(&mut self, device: &dyn Device, parameters: &[ParamId]) -> Result<()> {
        for params in std::iter::once(&mut self.params).chain(&mut self.memory.teacher) {
            params.place(device, parameters).map_err(Error::invalid)?;
        }
        self.optimizer.place(&self.params);
        Ok(())
    }

    /// Fetches what a device has of it.
    ///
    /// # Errors
    /// If the device has failed: what it gave is not to be kept.
    pub(crate) fn fetch(&mut self) -> Result<()> {
        self.optimizer.fetch(&self.params);
        for params in std::iter::once(&mut self.params).chain(&mut self.memory.teacher) {
            params.fetch();
        }
        self.check_device()
    }

    /// Whether the device that has some of it, if there is one, still works.
    pub(crate) fn check_device(&self) -> Result<()> {
        let all = std::iter::once(&self.params).chain(&self.memory.teacher);
        match all.filter_map(|params| params.failure()).next() {
            Some(failure) => {
                Err(Error::invalid(format!("the device failed in epoch {}: {failure}", self.epochs)))
            }
            None => Ok(()),
        }
    }
}

/// Saves a state in a folder, in place of the one before: at every moment one of the two is there, whole.
pub(crate) fn save(folder: &Path, state: &impl Serialize) -> Result<()> {
    let mut body = Vec::new();
    ciborium::into_writer(state, &mut body).map_err(Error::other("cannot write the checkpoint"))?;
    let (partial, path) = (folder.join("checkpoint.partial"), folder.join(FILE));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&partial)?;
        file.write_all(blake3::hash(&body).as_bytes())?;
        file.write_all(&body)?;
        file.sync_all()?;
        fs::rename(&partial, &path)
    };
    write().map_err(Error::io(&path))
}

/// The state in a folder, if there is one, whole.
pub(crate) fn load<S: DeserializeOwned>(folder: &Path) -> Option<S> {
    let bytes = fs::read(folder.join(FILE)).ok()?;
    let (digest, body) = bytes.split_at_checked(blake3::OUT_LEN)?;
    if blake3::hash(body).as_bytes() != digest {
        tracing::warn!("the checkpoint is damaged; training starts from the beginning");
        return None;
    }
    ciborium::from_reader(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_checkpoint_comes_back_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let load = |folder: &Path| load::<State>(folder);
        assert!(load(folder.path()).is_none());

        let mut params = Params::default();
        restage_nn::Linear::new(&mut params, "l", 1, 1, &mut restage_stage::context::rng(1, "l"));
        let extreme = [vec![f32::MIN_POSITIVE], vec![-3.0e30]];
        let shapes = [vec![1, 1], vec![1]];
        let at = |name: &str| usize::from(name == "l.bias");
        params.load(|name| Some((&shapes[at(name)][..], &extreme[at(name)][..]))).unwrap();
        let optimizer = Stepper::new(&crate::Optimizer::Adamw, &params, 0.1);
        let curves = [("loss".to_owned(), vec![0.1, 1.0 / 3.0])].into();
        let memory = Memory { teacher: Some(params.clone()), centre: None, queue: vec![0.1] };
        let stds = [("embedding_std", vec![0.2, 0.3])].map(|(name, stds)| (name.to_owned(), stds)).into();
        let state = State { identity: "a".into(), epochs: 2, params, optimizer, curves, stds, memory };
        save(folder.path(), &state).unwrap();
        let state = load(folder.path()).unwrap();
        assert_eq!(state.identity, "a");
        assert_eq!((state.epochs, &state.memory.queue[..]), (2, &[0.1][..]));
        for params in [Some(&state.params), state.memory.teacher.as_ref()] {
            let values: Vec<Vec<f32>> = params.unwrap().iter().map(|param| param.values()).collect();
            assert_eq!(values, extreme);
        }
        assert_eq!(state.curves["loss"], [0.1, 1.0 / 3.0]);
        assert_eq!(state.stds["embedding_std"], [0.2, 0.3]);
        let path = folder.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for torn in [&whole[..whole.len() - 1], &whole[..40], &whole[..3], &[]] {
            fs::write(&path, torn).unwrap();
            assert!(load(folder.path()).is_none());
        }
    }
}
