//! restage-tests
