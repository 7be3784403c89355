//! Any bytes as a `Location` that is followed: see `dataplane::fuzzing::redirect` for what must
//! hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    dataplane::fuzzing::redirect(bytes);
});
