//! Loads any bytes as a workflow file and tells what is wrong with them.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| restage::fuzz_workflow(text));
