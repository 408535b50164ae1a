//! A plugin for the end-to-end tests: `test/write`, `test/join` and `test/draw` work, `test/misbehave` does not.

mod misbehave;
mod text;
mod work;

restage_stage::export!("test"; work::Write, work::Join, work::Draw, work::Steps, misbehave::Misbehave, misbehave::FailFirst);
