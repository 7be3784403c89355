//! Any bytes as a request whose target is looked at: see `dataplane::fuzzing::target` for what must
//! hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    dataplane::fuzzing::target(bytes);
});
