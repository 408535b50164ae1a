//! Zarr v3 groups and arrays on disk: the only place that speaks to `zarrs`.
//!
//! The same content gives the same bytes on any number of threads: chunks of a shard lie in row-major order, and no
//! version of a library is written. An array is one file next to its `zarr.json`, unless it is huge.

mod folder;
mod planes;

use std::{
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value};
use zarrs::{
    array::{
        Array, ArrayBuilder, ArrayMetadataOptions, ArraySubset, BytesToBytesCodecTraits, CodecOptions,
        DataType, Element, ElementOwned, FillValue,
        codec::{
            BloscCodec, BloscCompressionLevel, BloscCompressor, BloscShuffleMode, ShardingCodecBuilder,
            ZstdCodec, array_to_bytes::sharding::SubchunkWriteOrder,
        },
        data_type,
    },
    group::{Group, GroupBuilder},
    plugin::PluginCreateError,
};

use crate::error::{Error, Result};

use folder::Folder;
pub use planes::file_rows;

/// What a node says of itself besides its type.
pub type Attributes = Map<String, Value>;

/// Bytes of a chunk before compression: what is read to see any part of it.
const CHUNK_BYTES: usize = 1 << 20;
/// Up to this many bytes an array is a single chunk.
const PLAIN_BYTES: usize = 4 << 20;
/// Bytes of a file before compression; an array beyond it takes several.
const SHARD_BYTES: usize = 1 << 29;
/// The same for an array that is written as its rows come: a file is in memory until it is full.
const ROWS_BYTES: usize = 1 << 26;
/// Level of zstd, for bytes and texts: 1 packs nearly as small as 9, many times faster.
const ZSTD_LEVEL: i32 = 1;
/// Level of LZ4, for numbers of several bytes, shuffled so that the bytes of like weight lie together: counts become a half
/// larger than with zstd and their columns a little smaller, together a seventh larger, at two to four times the speed.
const LZ4_LEVEL: u8 = 5;

/// A number that a Zarr array holds.
pub trait Number: Element + ElementOwned + Copy + Default {
    /// Its Zarr data type.
    fn data_type() -> DataType;
    /// What chunks that were never written read as: zero.
    fn zero() -> FillValue;
}

macro_rules! number {
    ($($type:ty => $data_type:ident),+ $(,)?) => {$(
        impl Number for $type {
            fn data_type() -> DataType {
                data_type::$data_type()
            }
            fn zero() -> FillValue {
                FillValue::from(<$type>::default())
            }
        }
    )+};
}

number! {
    bool => bool, u8 => uint8, u16 => uint16, u32 => uint32, u64 => uint64,
    i8 => int8, i16 => int16, i32 => int32, i64 => int64, f32 => float32, f64 => float64,
}

/// A node's place: the root folder and the path inside it (`""` for the root, else `/a/b`).
#[derive(Clone)]
struct Place {
    root: PathBuf,
    store: Arc<Folder>,
    node: String,
}

impl Place {
    fn root(root: &Path) -> Result<Self> {
        let store = Folder::new(root).map_err(Error::other(format!("cannot open {}", root.display())))?;
        Ok(Self { root: root.into(), store: Arc::new(store), node: String::new() })
    }

    fn child(&self, name: &str) -> Self {
        Self { node: format!("{}/{name}", self.node), ..self.clone() }
    }

    fn path(&self) -> &str {
        if self.node.is_empty() { "/" } else { &self.node }
    }

    fn error<E: Into<Box<dyn std::error::Error + Send + Sync>>>(&self) -> impl FnOnce(E) -> Error {
        move |source| Error::Zarr { path: self.root.clone(), node: self.path().into(), source: source.into() }
    }

    fn wrong(&self, problem: impl std::fmt::Display) -> Error {
        Error::invalid(format!("node `{}` of {} {problem}", self.path(), self.root.display()))
    }
}

/// A group that is being written.
pub struct Writer(Place);

impl Writer {
    /// Makes the root group of a folder.
    ///
    /// # Errors
    /// If the folder holds one already, of which parts would stay, or the disk refuses.
    pub fn create(root: &Path, attributes: Attributes) -> Result<Self> {
        if root.join("zarr.json").exists() {
            return Err(Error::invalid(format!("{} exists already: write to a new folder", root.display())));
        }
        Self::at(Place::root(root)?, attributes)
    }

    /// The root group that a folder has already, to add to it.
    ///
    /// # Errors
    /// If the folder cannot be opened.
    pub fn open(root: &Path) -> Result<Self> {
        Place::root(root).map(Self)
    }

    /// Makes a group in this one.
    ///
    /// # Errors
    /// If the name cannot be a node's, or the disk refuses.
    pub fn group(&self, name: &str, attributes: Attributes) -> Result<Self> {
        Self::at(self.named(name)?, attributes)
    }

    fn at(place: Place, attributes: Attributes) -> Result<Self> {
        let group = GroupBuilder::new().attributes(attributes).build(place.store.clone(), place.path());
        group.map_err(place.error())?.store_metadata().map_err(place.error())?;
        Ok(Self(place))
    }

    /// Writes an array of numbers, row-major.
    ///
    /// # Errors
    /// If the name cannot be a node's, the values do not fill the shape, or the disk refuses.
    pub fn array<T: Number>(
        &self,
        name: &str,
        shape: &[usize],
        values: &[T],
        attributes: Attributes,
    ) -> Result<()> {
        let layout = Layout::of(shape, size_of::<T>());
        self.store(name, shape, values, T::data_type(), T::zero(), &layout, attributes)
    }

    /// Writes an array of texts.
    ///
    /// # Errors
    /// As [`Writer::array`].
    pub fn texts(
        &self,
        name: &str,
        shape: &[usize],
        values: &[String],
        attributes: Attributes,
    ) -> Result<()> {
        let layout = Layout::whole(shape);
        self.store(name, shape, values, data_type::string(), FillValue::from(""), &layout, attributes)
    }

    #[expect(clippy::too_many_arguments, reason = "the one place where all that makes an array meets")]
    fn store<T: Element>(
        &self,
        name: &str,
        shape: &[usize],
        values: &[T],
        data_type: DataType,
        fill: FillValue,
        layout: &Layout,
        attributes: Attributes,
    ) -> Result<()> {
        let place = self.named(name)?;
        if shape.iter().product::<usize>() != values.len() {
            return Err(
                place.wrong(format!("has {} values, which do not fill the shape {shape:?}", values.len()))
            );
        }
        let array = create(&place, shape, data_type, fill, layout, attributes)?;
        if values.is_empty() {
            return Ok(());
        }
        array.store_array_subset_opt(&array.subset_all(), values, &codec_options()).map_err(place.error())
    }

    /// Begins an array whose rows come a few at a time; what is kept of them stays below 64 MiB and one row.
    ///
    /// # Errors
    /// If the name cannot be a node's, or the disk refuses.
    pub fn rows<T: Number>(&self, name: &str, shape: &[usize], attributes: Attributes) -> Result<Rows<T>> {
        let place = self.named(name)?;
        let layout = Layout::in_files_of(shape, size_of::<T>(), ROWS_BYTES);
        let array = create(&place, shape, T::data_type(), T::zero(), &layout, attributes)?;
        let file_rows = layout.file.first().map_or(1, |&rows| rows as usize);
        let row = shape.iter().skip(1).product();
        let rows = shape.first().copied().unwrap_or_default();
        Ok(Rows { place, array, kept: Vec::new(), first: 0, rows, row, file_rows, order: Order::AsTheyCome })
    }

    fn named(&self, name: &str) -> Result<Place> {
        let bad = name.is_empty()
            || name.contains(['/', '\\', '\0'])
            || name.starts_with("__")
            || name == "zarr.json";
        if bad || name.bytes().all(|byte| byte == b'.') {
            return Err(self.0.wrong(format!("cannot have a child `{name}`: rename it, without slashes")));
        }
        Ok(self.0.child(name))
    }
}

/// Makes an array that has no values yet.
fn create(
    place: &Place,
    shape: &[usize],
    data_type: DataType,
    fill: FillValue,
    layout: &Layout,
    attributes: Attributes,
) -> Result<Array<Folder>> {
    let packing = packing(&data_type).map_err(place.error())?;
    let mut builder = ArrayBuilder::new(sizes(shape), layout.file.clone(), data_type.clone(), fill);
    match &layout.chunk {
        None => builder.bytes_to_bytes_codecs(vec![packing]),
        Some(chunk) => {
            let mut sharding = ShardingCodecBuilder::new(chunk.clone(), &data_type);
            sharding.bytes_to_bytes_codecs(vec![packing]);
            // Without a fixed order, the chunks would lie as the threads happened to finish.
            let sharding = sharding.build().with_subchunk_write_order(SubchunkWriteOrder::C);
            builder.array_to_bytes_codec(Arc::new(sharding))
        }
    };
    builder.dimension_names(layout.axes).attributes(attributes);
    let array = builder.build(place.store.clone(), place.path()).map_err(place.error())?;
    // By default zarrs leaves its own version in the attributes: other bytes after every update of it.
    let plain = ArrayMetadataOptions::default().with_include_zarrs_metadata(false);
    array.store_metadata_opt(&plain).map_err(place.error())?;
    Ok(array)
}

/// How the chunks of a type are packed.
fn packing(data_type: &DataType) -> Result<Arc<dyn BytesToBytesCodecTraits>, PluginCreateError> {
    Ok(match data_type.fixed_size() {
        Some(size @ 2..) => {
            let level = BloscCompressionLevel::try_from(LZ4_LEVEL)
                .map_err(|level| PluginCreateError::Other(format!("there is no level {level}")))?;
            let shuffle = BloscShuffleMode::Shuffle;
            Arc::new(BloscCodec::new(BloscCompressor::LZ4, level, None, shuffle, Some(size))?)
        }
        _ => Arc::new(ZstdCodec::new(ZSTD_LEVEL, false)),
    })
}

/// An array that is being written from its first row on; file by file, so that no file is read again.
pub struct Rows<T> {
    place: Place,
    array: Array<Folder>,
    /// Values of the file that is not full yet.
    kept: Vec<T>,
    /// Row of the array that `kept` begins at.
    first: usize,
    rows: usize,
    /// Values of a row.
    row: usize,
    file_rows: usize,
    order: Order,
}

/// How the values of rows lie in the array.
enum Order {
    AsTheyCome,
    /// Interleaved colours, of which each has a plane: the array's first axis is colour, its second row.
    Planes,
}

impl<T: Number> Rows<T> {
    /// Appends the values of any number of rows.
    ///
    /// # Errors
    /// If there are more than the shape has, or the disk refuses.
    pub fn push(&mut self, mut values: &[T]) -> Result<()> {
        while !values.is_empty() {
            let (room, whole) = (self.file_rows * self.row - self.kept.len(), self.rows - self.first);
            let taken = room.min(values.len()).min(whole * self.row - self.kept.len());
            if taken == 0 {
                return Err(self.place.wrong("is given more rows than its shape has"));
            }
            self.kept.extend_from_slice(&values[..taken]);
            values = &values[taken..];
            let is_last = self.first * self.row + self.kept.len() == self.rows * self.row;
            if self.kept.len() == self.file_rows * self.row || is_last {
                self.store()?;
            }
        }
        Ok(())
    }

    fn store(&mut self) -> Result<()> {
        let count = self.kept.len() / self.row;
        let split;
        let (axis, values) = match self.order {
            Order::AsTheyCome => (0, &self.kept),
            Order::Planes => {
                split = planes::split(&self.kept);
                (1, &split)
            }
        };
        let mut ranges: Vec<_> = self.array.shape().iter().map(|&size| 0..size).collect();
        ranges[axis] = self.first as u64..(self.first + count) as u64;
        let subset = ArraySubset::new_with_ranges(&ranges);
        let stored = self.array.store_array_subset_opt(&subset, values.as_slice(), &codec_options());
        stored.map_err(self.place.error())?;
        self.first += count;
        self.kept.clear();
        Ok(())
    }

    /// Checks that all rows came.
    ///
    /// # Errors
    /// If some did not.
    pub fn finish(self) -> Result<()> {
        if self.first < self.rows && self.row > 0 {
            let rows = self.rows;
            return Err(self.place.wrong(format!("got {} of its {rows} rows", self.first)));
        }
        Ok(())
    }
}

/// How an array is cut into files and chunks. All but images are cut along the first axis only: rows, pixels' colours and
/// patches stay together.
struct Layout {
    file: Vec<u64>,
    chunk: Option<Vec<NonZeroU64>>,
    /// What its axes are called, where readers ask.
    axes: Option<[&'static str; 3]>,
}

impl Layout {
    /// One file, one chunk.
    fn whole(shape: &[usize]) -> Self {
        Self { file: shape.iter().map(|&size| size.max(1) as u64).collect(), chunk: None, axes: None }
    }

    fn of(shape: &[usize], item_bytes: usize) -> Self {
        Self::in_files_of(shape, item_bytes, SHARD_BYTES)
    }

    fn in_files_of(shape: &[usize], item_bytes: usize, file_bytes: usize) -> Self {
        let whole = Self::whole(shape);
        let bytes = shape.iter().product::<usize>() * item_bytes;
        let Some((&rows, rest)) = shape.split_first() else { return whole };
        if bytes <= PLAIN_BYTES || rows == 1 {
            return whole;
        }
        let row_bytes = bytes / rows;
        let chunks = rows.div_ceil((CHUNK_BYTES / row_bytes).max(1));
        let chunk_rows = rows.div_ceil(chunks);
        let chunks_per_file = rows.div_ceil(chunk_rows).min((file_bytes / (row_bytes * chunk_rows)).max(1));
        let of_rows = |rows: usize| std::iter::once(rows).chain(rest.iter().copied());
        Self {
            file: of_rows(chunk_rows * chunks_per_file).map(|size| size as u64).collect(),
            chunk: of_rows(chunk_rows).map(|size| NonZeroU64::new(size as u64)).collect(),
            axes: None,
        }
    }
}

fn sizes(shape: &[usize]) -> Vec<u64> {
    shape.iter().map(|&size| size as u64).collect()
}

fn codec_options() -> CodecOptions {
    CodecOptions::default().with_concurrent_target(rayon::current_num_threads())
}

/// A group that is being read.
pub struct Reader {
    place: Place,
    attributes: Attributes,
}

impl Reader {
    /// Opens the root group of a folder.
    ///
    /// # Errors
    /// If the folder does not hold one.
    pub fn open(root: &Path) -> Result<Self> {
        Self::at(Place::root(root)?)
    }

    /// Opens a group in this one.
    ///
    /// # Errors
    /// If there is none.
    pub fn group(&self, name: &str) -> Result<Self> {
        Self::at(self.place.child(name))
    }

    fn at(place: Place) -> Result<Self> {
        let group = Group::open(place.store.clone(), place.path()).map_err(place.error())?;
        Ok(Self { attributes: group.attributes().clone(), place })
    }

    /// What the group says of itself.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// An attribute as a type of one's own.
    ///
    /// # Errors
    /// If it is missing or of another type.
    pub fn attribute<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        let value =
            self.attributes.get(name).ok_or_else(|| self.wrong(format!("lacks the attribute `{name}`")))?;
        serde_json::from_value(value.clone())
            .map_err(|error| self.wrong(format!("has a wrong attribute `{name}`: {error}")))
    }

    /// An error that names the file and this group.
    pub fn wrong(&self, problem: impl std::fmt::Display) -> Error {
        self.place.wrong(problem)
    }

    /// Whether the group has a child of that name.
    pub fn has(&self, name: &str) -> bool {
        let inside = self.place.child(name).node;
        let folder = self.place.root.join(inside.trim_start_matches('/'));
        // The last two are version 2's, which Python still writes.
        ["zarr.json", ".zgroup", ".zarray"].iter().any(|file| folder.join(file).is_file())
    }

    /// Names of its children, sorted.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn children(&self) -> Result<Vec<String>> {
        let group = Group::open(self.place.store.clone(), self.place.path()).map_err(self.place.error())?;
        let paths = group.child_paths().map_err(self.place.error())?;
        let mut names: Vec<String> =
            paths.iter().filter_map(|path| path.as_str().rsplit('/').next()).map(str::to_owned).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Reads an array of numbers of exactly this type; `expected` gives the sizes that are known.
    ///
    /// # Errors
    /// If it is missing or of another type or shape.
    pub fn array<T: Number>(&self, name: &str, expected: &[Option<usize>]) -> Result<(Vec<usize>, Vec<T>)> {
        let array = self.open_array(name, expected)?;
        if *array.data_type() != T::data_type() {
            let (found, wanted) = (type_name(array.data_type()), type_name(&T::data_type()));
            return Err(self.place.child(name).wrong(format!("is of type {found}; expected {wanted}")));
        }
        self.values(name, &array)
    }

    /// The shape of an array.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let place = self.place.child(name);
        let array = Array::open(place.store.clone(), place.path()).map_err(place.error())?;
        Ok(array.shape().iter().map(|&size| size as usize).collect())
    }

    /// Some rows of an array, as [`Reader::array`] reads them all.
    ///
    /// # Errors
    /// If the array is missing or of another type, or lacks these rows.
    pub fn rows_of<T: Number>(&self, name: &str, rows: std::ops::Range<usize>) -> Result<Vec<T>> {
        let place = self.place.child(name);
        let array = Array::open(place.store.clone(), place.path()).map_err(place.error())?;
        if *array.data_type() != T::data_type() {
            let (found, wanted) = (type_name(array.data_type()), type_name(&T::data_type()));
            return Err(place.wrong(format!("is of type {found}; expected {wanted}")));
        }
        let mut ranges: Vec<_> = array.shape().iter().map(|&size| 0..size).collect();
        match ranges.first_mut() {
            Some(first) if rows.end as u64 <= first.end => *first = rows.start as u64..rows.end as u64,
            _ => return Err(place.wrong(format!("has no rows {rows:?}"))),
        }
        let values =
            array.retrieve_array_subset_opt(&ArraySubset::new_with_ranges(&ranges), &codec_options());
        values.map_err(place.error())
    }

    /// As [`Reader::array`], whatever the shape.
    ///
    /// # Errors
    /// If it is missing or of another type.
    pub fn array_of_any_shape<T: Number>(&self, name: &str) -> Result<(Vec<usize>, Vec<T>)> {
        let place = self.place.child(name);
        let array = Array::open(place.store.clone(), place.path()).map_err(place.error())?;
        self.array(name, &vec![None; array.shape().len()])
    }

    /// Reads an array of numbers of any type.
    ///
    /// # Errors
    /// If it is missing or does not hold numbers.
    pub fn numbers(&self, name: &str, expected: &[Option<usize>]) -> Result<Numbers> {
        let array = self.open_array(name, expected)?;
        let found = type_name(array.data_type());
        macro_rules! read {
            ($type:ty => $kind:ident) => {{
                let (_, values) = self.values::<$type>(name, &array)?;
                Ok(Numbers::$kind(values.into_iter().map(Into::into).collect()))
            }};
        }
        match found.as_str() {
            "bool" => read!(bool => Bool),
            "int8" => read!(i8 => Int),
            "int16" => read!(i16 => Int),
            "int32" => read!(i32 => Int),
            "int64" => read!(i64 => Int),
            "uint8" => read!(u8 => Int),
            "uint16" => read!(u16 => Int),
            "uint32" => read!(u32 => Int),
            "uint64" => {
                let (_, values) = self.values::<u64>(name, &array)?;
                let signed = values.into_iter().map(i64::try_from).collect::<Result<_, _>>();
                signed
                    .map(Numbers::Int)
                    .map_err(|_| self.place.child(name).wrong("holds integers beyond 63 bits"))
            }
            "float16" => read!(half::f16 => Float),
            "float32" => read!(f32 => Float),
            "float64" => read!(f64 => Float),
            _ => Err(self.place.child(name).wrong(format!("is of type {found}; expected numbers"))),
        }
    }

    /// Reads numbers of any type, narrowed to single precision.
    ///
    /// # Errors
    /// If it is missing or does not hold numbers.
    pub fn floats(&self, name: &str, expected: &[Option<usize>]) -> Result<Vec<f32>> {
        let array = self.open_array(name, expected)?;
        if *array.data_type() == data_type::float32() {
            return Ok(self.values(name, &array)?.1);
        }
        Ok(match self.numbers(name, expected)? {
            Numbers::Float(values) => values.into_iter().map(|value| value as f32).collect(),
            Numbers::Int(values) => values.into_iter().map(|value| value as f32).collect(),
            Numbers::Bool(values) => values.into_iter().map(f32::from).collect(),
        })
    }

    /// Reads numbers of any type, in double precision.
    ///
    /// # Errors
    /// If it is missing or does not hold numbers.
    pub fn doubles(&self, name: &str, expected: &[Option<usize>]) -> Result<Vec<f64>> {
        Ok(self.numbers(name, expected)?.into_reals())
    }

    /// Reads integers of any type that fit into 32 bits.
    ///
    /// # Errors
    /// If it is missing, does not hold integers, or holds larger ones.
    pub fn indices(&self, name: &str, expected: &[Option<usize>]) -> Result<Vec<i32>> {
        let array = self.open_array(name, expected)?;
        if *array.data_type() == data_type::int32() {
            return Ok(self.values(name, &array)?.1);
        }
        let place = self.place.child(name);
        let Numbers::Int(values) = self.numbers(name, expected)? else {
            return Err(place.wrong("holds no integers"));
        };
        let narrow = values.into_iter().map(i32::try_from).collect::<Result<_, _>>();
        narrow.map_err(|_| place.wrong("holds integers beyond 32 bits"))
    }

    /// Reads a list of texts; `expected` is its length where that is known.
    ///
    /// # Errors
    /// If it is missing, does not hold text or is of another length.
    pub fn texts(&self, name: &str, expected: Option<usize>) -> Result<Vec<String>> {
        let array = self.open_array(name, &[expected])?;
        if *array.data_type() != data_type::string() {
            let found = type_name(array.data_type());
            return Err(self.place.child(name).wrong(format!("is of type {found}; expected text")));
        }
        Ok(self.values(name, &array)?.1)
    }

    /// Whether the child array holds text.
    ///
    /// # Errors
    /// If there is no such array.
    pub fn is_text(&self, name: &str) -> Result<bool> {
        let place = self.place.child(name);
        let array = Array::open(place.store.clone(), place.path()).map_err(place.error())?;
        Ok(*array.data_type() == data_type::string())
    }

    fn open_array(&self, name: &str, expected: &[Option<usize>]) -> Result<Array<Folder>> {
        let place = self.place.child(name);
        let array = Array::open(place.store.clone(), place.path()).map_err(place.error())?;
        let shape = array.shape();
        let fits =
            |(&size, wanted): (&u64, &Option<usize>)| wanted.is_none_or(|wanted| wanted as u64 == size);
        if shape.len() != expected.len() || !shape.iter().zip(expected).all(fits) {
            let expected: Vec<_> =
                expected.iter().map(|size| size.map_or("any".into(), |n| n.to_string())).collect();
            return Err(place.wrong(format!("has the shape {shape:?}; expected [{}]", expected.join(", "))));
        }
        Ok(array)
    }

    fn values<T: ElementOwned>(&self, name: &str, array: &Array<Folder>) -> Result<(Vec<usize>, Vec<T>)> {
        let shape = array.shape().iter().map(|&size| size as usize).collect();
        let values = array.retrieve_array_subset_opt(&array.subset_all(), &codec_options());
        Ok((shape, values.map_err(self.place.child(name).error())?))
    }
}

/// Numbers, with as many bits as they may need.
#[derive(Debug, PartialEq)]
pub enum Numbers {
    /// Truth.
    Bool(Vec<bool>),
    /// Integers.
    Int(Vec<i64>),
    /// Floating point.
    Float(Vec<f64>),
}

impl Numbers {
    /// The same as reals; truth is 1.
    #[must_use]
    pub fn into_reals(self) -> Vec<f64> {
        match self {
            Self::Float(values) => values,
            Self::Int(values) => values.into_iter().map(|value| value as f64).collect(),
            Self::Bool(values) => values.into_iter().map(f64::from).collect(),
        }
    }
}

fn type_name(data_type: &DataType) -> String {
    zarrs::plugin::ExtensionName::name_v3(data_type)
        .map_or_else(|| "unknown".into(), std::borrow::Cow::into_owned)
}
