//! restage-nn
