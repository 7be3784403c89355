//! Any bytes as a body, whole and in pieces: see `dataplane::fuzzing::body` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dataplane::fuzzing::body(bytes));
