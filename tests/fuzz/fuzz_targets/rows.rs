//! See [`fuzz_targets::rows`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    fuzz_targets::rows(input);
});
