//! restage-cache
