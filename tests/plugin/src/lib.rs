//! A plugin for the end-to-end tests: `test/write`, `test/join`, `test/draw` and `test/steps` work, `test/misbehave`
//! does not, `test/clock` and `test/noise` give something else each time, and the others have ports and params to get wrong.

mod device;
mod misbehave;
mod restless;
mod text;
mod typed;
mod work;

restage_stage::export!(
    "test"; work::Write, work::Join, work::Draw, work::Steps, device::Device, misbehave::Misbehave, misbehave::FailFirst, restless::Clock, restless::Noise,
    typed::Section, typed::Thin, typed::Embed, typed::Train, typed::Evaluate, typed::Smooth
);
