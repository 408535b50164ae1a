//! restage-visium
