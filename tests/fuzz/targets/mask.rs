//! Any bytes as accounts whose secrets are masked: see `dataplane::fuzzing::mask` for what must
//! hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    dataplane::fuzzing::mask(bytes);
});
