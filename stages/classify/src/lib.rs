//! restage-classify
