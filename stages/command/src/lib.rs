//! The plugin `command`: any program as a stage, e.g. a PyTorch script. What it is given and may tell: `README.md`.

mod child;
mod run;
mod told;
mod written;

restage_stage::export!("command"; run::Run);
