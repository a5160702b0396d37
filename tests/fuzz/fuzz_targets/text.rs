//! See [`fuzz_targets::text`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    fuzz_targets::text(input);
});
