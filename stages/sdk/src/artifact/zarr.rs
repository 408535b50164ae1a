//! Zarr v3 groups and arrays with AnnData's encodings: the only place that speaks to `zarrs`.
