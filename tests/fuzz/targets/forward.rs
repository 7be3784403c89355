//! Any bytes as a `Proxy-Authorization`, a NUL byte and an authority: see
//! `dataplane::fuzzing::forward` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    dataplane::fuzzing::forward(bytes);
});
