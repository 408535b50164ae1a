//! Weights in the file format of PyTorch's users, with the architecture in the file's metadata.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use restage_stage::{
    Error, Result,
    artifact::{Artifact, Model, Weight},
    catalogue::PortType,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// The file's name in the artifact.
pub(crate) const FILE: &str = "model.safetensors";
/// Under what the architecture stands in the metadata. The only entry: of several, the order in the file would be chance.
const ARCHITECTURE: &str = "restage";

/// A folder with a model as one `safetensors` file.
pub(crate) struct Exported(pub(crate) Model);

impl Artifact for Exported {
    const PORT: PortType = PortType::Any;

    fn read(path: &Path) -> Result<Self> {
        let path = path.join(FILE);
        let (weights, architecture) = read(&path)?;
        let architecture = architecture
            .ok_or_else(|| Error::invalid(format!("{} does not say its architecture", path.display())))?;
        Ok(Self(Model { architecture, weights }))
    }

    fn write(&self, path: &Path) -> Result<()> {
        std::fs::create_dir_all(path).map_err(Error::io(path))?;
        write(&path.join(FILE), &self.0)
    }
}

fn write(path: &Path, model: &Model) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let bytes: BTreeMap<&String, Vec<u8>> = model
        .weights
        .iter()
        .map(|(name, weight)| (name, weight.values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        .collect();
    let views = model.weights.iter().map(|(name, weight)| {
        let view = TensorView::new(Dtype::F32, weight.shape.clone(), &bytes[name]);
        Ok((name, view.map_err(Error::other(cannot()))?))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([(ARCHITECTURE.to_owned(), model.architecture.to_string())]);
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(Error::other(cannot()))
}

/// Weights of a file, of any width of floating point, and the architecture if it says one.
pub(crate) fn read(path: &Path) -> Result<(BTreeMap<String, Weight>, Option<serde_json::Value>)> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    // As a zip file, and as a pickle, which it was before.
    if [&b"PK\x03\x04"[..], b"\x80\x02"].iter().any(|begin| bytes.starts_with(begin)) {
        return Err(Error::invalid(format!(
            "{} is a file of torch.save; write the weights with safetensors.torch.save_file(model.state_dict(), PATH)",
            path.display()
        )));
    }
    let cannot = || format!("cannot read {} as safetensors: is it cut off?", path.display());
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(Error::other(cannot()))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(Error::other(cannot()))?;
    let weights = tensors.iter().map(|(name, tensor)| {
        let values = values(&tensor).ok_or_else(|| {
            Error::invalid(format!(
                "{}: `{name}` is of type {:?}; expected floating point",
                path.display(),
                tensor.dtype()
            ))
        })?;
        Ok((name.to_owned(), Weight { shape: tensor.shape().to_vec(), values }))
    });
    let weights = weights.collect::<Result<_>>()?;
    let architecture = metadata.metadata().as_ref().and_then(|metadata| metadata.get(ARCHITECTURE));
    let architecture = architecture.map(|text| {
        serde_json::from_str(text)
            .map_err(Error::other(format!("{}: its architecture is not JSON", path.display())))
    });
    Ok((weights, architecture.transpose()?))
}

/// In single precision; nothing of what is no floating point.
fn values(tensor: &TensorView) -> Option<Vec<f32>> {
    let data = tensor.data();
    Some(match tensor.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::F64 => data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
        Dtype::F16 => {
            data.as_chunks().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes).into()).collect()
        }
        Dtype::BF16 => {
            data.as_chunks().0.iter().map(|bytes| half::bf16::from_le_bytes(*bytes).into()).collect()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_model_comes_back_and_its_bytes_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let weights = [("encoder.0.weight", vec![2, 3]), ("encoder.0.bias", vec![2])].map(|(name, shape)| {
            let values = (0..shape.iter().product()).map(|at: usize| at as f32 - 0.1).collect();
            (name.to_owned(), Weight { shape, values })
        });
        let model = Model { architecture: json!({ "kind": "mlp", "x": 0.1 }), weights: weights.into() };
        let exported = Exported(model.clone());
        let bytes = ["a", "b"].map(|name| {
            exported.write(&folder.path().join(name)).unwrap();
            std::fs::read(folder.path().join(name).join(FILE)).unwrap()
        });
        assert!(bytes[0] == bytes[1]);
        assert!(Exported::read(&folder.path().join("a")).unwrap().0 == model);
        let cut = folder.path().join("cut.safetensors");
        for length in [0, 7, 40, bytes[0].len() - 1] {
            std::fs::write(&cut, &bytes[0][..length]).unwrap();
            let problem = read(&cut).unwrap_err().to_string();
            assert!(problem.contains("is it cut off?"), "{problem}");
        }
    }

    #[test]
    fn other_widths_are_read_and_integers_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let tensors: [(Dtype, Vec<u8>); 3] = [
            (Dtype::F64, 1.5_f64.to_le_bytes().to_vec()),
            (Dtype::F16, half::f16::from_f32(1.5).to_le_bytes().to_vec()),
            (Dtype::BF16, half::bf16::from_f32(1.5).to_le_bytes().to_vec()),
        ];
        for (dtype, bytes) in tensors {
            let view = TensorView::new(dtype, vec![1], &bytes).unwrap();
            safetensors::serialize_to_file([("w", view)], None, &path).unwrap();
            let (weights, architecture) = read(&path).unwrap();
            assert!(weights["w"].values == [1.5] && architecture.is_none());
        }
        let view = TensorView::new(Dtype::I8, vec![1], &[1]).unwrap();
        safetensors::serialize_to_file([("w", view)], None, &path).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("expected floating point"));
    }
}
