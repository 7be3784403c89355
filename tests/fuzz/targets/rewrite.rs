//! Any bytes as a request, a NUL byte and an answer: see `dataplane::fuzzing::rewrite` for what
//! must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    dataplane::fuzzing::rewrite(bytes);
});
