//! restage-ssl
