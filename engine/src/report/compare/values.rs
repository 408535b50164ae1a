//! The values of two Zarr arrays of one shape and type, a chunk at a time.

use std::{path::Path, sync::Arc};

use half::{bf16, f16};
use restage_stage::catalogue::Tolerance;
use zarrs::{
    array::{Array, ArrayBytes, ArraySubset, ElementOwned},
    filesystem::FilesystemStore,
};

use super::spread::{Pair, Spread};

type Stored = Array<FilesystemStore>;
type Error = Box<dyn std::error::Error>;

/// A value that arrays hold.
trait Item: ElementOwned {
    /// Whether a tolerance is for values like it.
    const MAY_BE_NEAR: bool = false;

    fn pair(&self, now: &Self) -> Pair;
}

macro_rules! items {
    ($($type:ty),+: $near:literal, $pair:expr) => {$(
        impl Item for $type {
            const MAY_BE_NEAR: bool = $near;

            fn pair(&self, now: &Self) -> Pair {
                $pair((*self).into(), (*now).into())
            }
        }
    )+};
}

items!(i8, i16, i32, i64, u8, u16, u32, u64: false, Pair::of_integers);
items!(f16, bf16, f32, f64: true, Pair::of_floats);

impl Item for bool {
    fn pair(&self, now: &Self) -> Pair {
        Pair::of_others(self == now)
    }
}

impl Item for String {
    fn pair(&self, now: &Self) -> Pair {
        Pair::of_others(self == now)
    }
}

/// How far the values of an array are apart in two folders.
pub(super) fn compare(
    (then, now): (&Path, &Path),
    name: &str,
    data_type: &str,
    tolerance: Tolerance,
) -> Result<Spread, String> {
    let open = |root: &Path| -> Result<Stored, Error> {
        Ok(Array::open(Arc::new(FilesystemStore::new(root)?), name)?)
    };
    let arrays = || Ok((open(then)?, open(now)?));
    let compared = arrays().and_then(|arrays| match data_type {
        "bool" => items::<bool>(&arrays, tolerance),
        "int8" => items::<i8>(&arrays, tolerance),
        "int16" => items::<i16>(&arrays, tolerance),
        "int32" => items::<i32>(&arrays, tolerance),
        "int64" => items::<i64>(&arrays, tolerance),
        "uint8" => items::<u8>(&arrays, tolerance),
        "uint16" => items::<u16>(&arrays, tolerance),
        "uint32" => items::<u32>(&arrays, tolerance),
        "uint64" => items::<u64>(&arrays, tolerance),
        "float16" => items::<f16>(&arrays, tolerance),
        "bfloat16" => items::<bf16>(&arrays, tolerance),
        "float32" => items::<f32>(&arrays, tolerance),
        "float64" => items::<f64>(&arrays, tolerance),
        "string" => items::<String>(&arrays, tolerance),
        _ => bytes(&arrays),
    });
    compared.map_err(|error| error.to_string())
}

/// The chunks of the first array: neither needs to fit in memory.
fn chunks(array: &Stored) -> impl Iterator<Item = Result<ArraySubset, Error>> {
    let grid = ArraySubset::new_with_shape(array.chunk_grid_shape().to_vec());
    let indices: Vec<_> = grid.indices().into_iter().collect();
    indices.into_iter().map(|indices| Ok(array.chunk_subset_bounded(&indices)?))
}

fn items<T: Item>((then, now): &(Stored, Stored), tolerance: Tolerance) -> Result<Spread, Error> {
    let tolerance = if T::MAY_BE_NEAR { tolerance } else { Tolerance::default() };
    let mut spread = Spread::default();
    for chunk in chunks(then) {
        let chunk = chunk?;
        let was: Vec<T> = then.retrieve_array_subset(&chunk)?;
        let is: Vec<T> = now.retrieve_array_subset(&chunk)?;
        for (was, is) in was.iter().zip(&is) {
            spread.add(was.pair(is), tolerance);
        }
    }
    Ok(spread)
}

/// Values of types without numbers that are known here, of a fixed size.
fn bytes((then, now): &(Stored, Stored)) -> Result<Spread, Error> {
    let mut spread = Spread::default();
    for chunk in chunks(then) {
        let chunk = chunk?;
        let was = then.retrieve_array_subset::<ArrayBytes<'static>>(&chunk)?.into_fixed()?;
        let is = now.retrieve_array_subset::<ArrayBytes<'static>>(&chunk)?.into_fixed()?;
        let size = was.len().checked_div(chunk.num_elements_usize()).unwrap_or_default().max(1);
        for (was, is) in was.chunks(size).zip(is.chunks(size)) {
            spread.add(Pair::of_others(was == is), Tolerance::default());
        }
    }
    Ok(spread)
}
