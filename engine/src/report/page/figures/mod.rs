//! Figures: data in, SVG out. Each knows nothing of where its data is from.

mod bars;
mod confusion;
mod curves;
mod interval;
mod strip;
mod tissue;

pub(super) use bars::{Bar, bars};
pub(super) use confusion::{Confusion, confusion};
pub(super) use curves::{Band, Line, curves};
pub(super) use interval::{interval, scale as cell_scale, spread};
pub(super) use strip::{Strip, strip};
pub(super) use tissue::{Disc, Key, Tissue, tissue};
