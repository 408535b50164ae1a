//! Circles as SpatialData has them: GeoParquet, whose geometry is a point in WKB, with a column `radius`.

use std::{fs::File, path::Path, sync::Arc};

use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, DoubleType},
    errors::ParquetError,
    file::{metadata::KeyValue, properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use restage_stage::{Error, Result, artifact::zarr::Attributes};
use serde_json::{Value, json};

/// Name of the file in the element's folder.
pub(crate) const FILE: &str = "shapes.parquet";

const SCHEMA: &str = "message schema { REQUIRED BYTE_ARRAY geometry; REQUIRED DOUBLE radius; }";

/// What an element of shapes says of itself, whose coordinates are those of the coordinate system.
pub(crate) fn attributes(coordinate_system: &str) -> Attributes {
    let axes = ["x", "y"].map(|name| json!({"name": name, "type": "space", "unit": "unit"}));
    let identity = json!({
        "type": "identity",
        "input": {"name": "xy", "axes": axes},
        "output": {"name": coordinate_system, "axes": axes},
    });
    [
        ("encoding-type", json!("ngff:shapes")),
        ("axes", json!(["x", "y"])),
        ("coordinateTransformations", Value::Array(vec![identity])),
        ("spatialdata_attrs", json!({"version": "0.3"})),
    ]
    .into_iter()
    .map(|(name, value)| (name.into(), value))
    .collect()
}

/// Writes circles of one radius; rows are numbered from 0.
pub(crate) fn write(path: &Path, centres: &[[f64; 2]], radius: f64) -> Result<()> {
    write_parquet(path, centres, radius).map_err(Error::other(format!("cannot write {}", path.display())))
}

fn write_parquet(path: &Path, centres: &[[f64; 2]], radius: f64) -> Result<(), ParquetError> {
    let geo = json!({
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"], "crs": null}},
    });
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        // Its default names a version.
        .set_created_by("restage".into())
        .set_key_value_metadata(Some(vec![KeyValue::new("geo".into(), geo.to_string())]));
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let mut writer = SerializedFileWriter::new(File::create(path)?, schema, Arc::new(properties.build()))?;
    let mut rows = writer.next_row_group()?;
    if let Some(mut column) = rows.next_column()? {
        let points: Vec<ByteArray> = centres.iter().map(|&centre| ByteArray::from(wkb(centre))).collect();
        column.typed::<ByteArrayType>().write_batch(&points, None, None)?;
        column.close()?;
    }
    if let Some(mut column) = rows.next_column()? {
        column.typed::<DoubleType>().write_batch(&vec![radius; centres.len()], None, None)?;
        column.close()?;
    }
    rows.close()?;
    writer.close().map(drop)
}

/// A point, its bytes in little-endian order.
fn wkb([x, y]: [f64; 2]) -> Vec<u8> {
    let mut bytes = vec![1, 1, 0, 0, 0];
    bytes.extend(x.to_le_bytes());
    bytes.extend(y.to_le_bytes());
    bytes
}
