//! Any bytes as a head: see `dataplane::fuzzing::parse` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dataplane::fuzzing::parse(bytes));
